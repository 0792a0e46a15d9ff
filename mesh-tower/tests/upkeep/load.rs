//! Weights by load reports: out of band, and with responses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use mesh_tower::core::balance::State;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{Backend, LoadBalancer, WeightedRoundRobin};
use mesh_tower::testing::{Feed, MemoryNetwork, Payload, Pieces, Reply, RequestBody, TestBackend, grpc};
use tower::ServiceExt;

use crate::support::{Ward, backend, pass};

const STREAM: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// A serialized report that makes `weight`: 100 requests a second, and the utilization that goes with it.
fn report(weight: f64) -> Vec<u8> {
    [&[0x31][..], &100_f64.to_le_bytes(), &[0x49], &(100.0 / weight).to_le_bytes()].concat()
}

/// What a server does about streams of reports.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reports {
    Stream,
    Refuse(Code),
    /// With each response.
    InTrailers(f64),
}

/// A server that tells how much it bears.
struct Porter {
    server: TestBackend,
    reports: Arc<Mutex<Reports>>,
    /// The streams under way, and those that ended.
    streams: Arc<Mutex<Vec<Feed>>>,
}

impl Porter {
    fn start(network: &MemoryNetwork, name: &'static str, reports: Reports) -> Self {
        let (reports, streams) = (Arc::new(Mutex::new(reports)), Arc::<Mutex<Vec<_>>>::default());
        let shared = (Arc::clone(&reports), Arc::clone(&streams));
        let handler = move |request: Request<RequestBody>| {
            let (reports, streams) = (*shared.0.lock().unwrap(), Arc::clone(&shared.1));
            async move {
                let (head, body) = request.into_parts();
                let _ = body.collect().await;
                match (head.uri.path(), reports) {
                    (STREAM, Reports::Refuse(code)) => grpc::trailers_only(code, "").into(),
                    (STREAM, _) => {
                        let (feed, body) = Feed::new();
                        streams.lock().unwrap().push(feed);
                        Reply::from(grpc_response(body))
                    }
                    (_, Reports::InTrailers(weight)) => {
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        let encoded = base64(&report(weight));
                        trailers.insert("endpoint-load-metrics-bin", encoded.parse().unwrap());
                        let body = Pieces::new([grpc::framed(name.as_bytes())]).with_trailers(trailers);
                        grpc_response(body.boxed_unsync()).into()
                    }
                    _ => name.into(),
                }
            }
        };
        let server = TestBackend::handling(handler).start_in(network);
        Self { server, reports, streams }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn asked(&self) -> usize {
        self.server.requests().iter().filter(|request| request.head.uri.path() == STREAM).count()
    }

    fn report(&self, weight: f64) {
        self.streams.lock().unwrap().last().unwrap().data(grpc::framed(&report(weight)));
    }

    /// Resolves when the client has given up the stream.
    async fn abandoned(&self) {
        let feed = self.streams.lock().unwrap().pop().unwrap();
        feed.abandoned().await;
    }

    fn set(&self, reports: Reports) {
        *self.reports.lock().unwrap() = reports;
    }
}

fn grpc_response(body: Payload) -> Response<Payload> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// RFC 4648, 4, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = (0..=group.len()).map(move |place| DIGITS[(bits >> (18 - 6 * place) & 0x3f) as usize] as char);
        digits.collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn weighted(porters: &[Porter], out_of_band: bool) -> (Backend, WeightedRoundRobin) {
    let mut backend = backend(porters.iter().map(Porter::address));
    let mut policy = WeightedRoundRobin::default();
    policy.out_of_band = out_of_band;
    backend.load_balancer = LoadBalancer::WeightedRoundRobin(policy.clone());
    (backend, policy)
}

fn porters(network: &MemoryNetwork, reports: [Reports; 3]) -> [Porter; 3] {
    let mut names = ["one", "two", "four"].into_iter();
    reports.map(|reports| Porter::start(network, names.next().unwrap(), reports))
}

async fn ready(ward: &Ward, porters: &[Porter]) {
    ward.get().await.unwrap();
    for porter in porters {
        ward.events.wait_for_state(porter.address(), State::Ready).await;
    }
}

/// In turn by weights, what an endpoint gets of 700 is exact, but for the turn under way at both ends.
fn assert_shares(shares: &BTreeMap<String, usize>, wanted: [usize; 3]) {
    for (name, wanted) in ["one", "two", "four"].into_iter().zip(wanted) {
        let share = shares.get(name).copied().unwrap_or(0);
        assert!(share.abs_diff(wanted) <= 5, "{name}: {shares:?}, wanted {wanted}");
    }
}

/// LB-05: weights that come over streams of their own make the shares, once the blackout is over and until they expire.
#[tokio::test(start_paused = true)]
async fn lb_05_reports_out_of_band_make_the_shares() {
    let network = MemoryNetwork::new();
    let porters = porters(&network, [Reports::Stream; 3]);
    let (backend, _) = weighted(&porters, true);
    let ward = Ward::open(&network, &backend).await;
    ready(&ward, &porters).await;
    pass(1).await;
    for (porter, weight) in porters.iter().zip([1.0, 2.0, 4.0]) {
        assert_eq!(porter.asked(), 1);
        porter.report(weight);
    }
    pass(5).await;
    assert_shares(&ward.shares(699).await, [233; 3]);
    // The blackout of 10 s is over, and weights are put to use each second.
    pass(7).await;
    assert_shares(&ward.shares(700).await, [100, 200, 400]);
    // Another load is another share.
    for (porter, weight) in porters.iter().zip([5.0, 1.0, 1.0]) {
        porter.report(weight);
    }
    pass(2).await;
    assert_shares(&ward.shares(700).await, [500, 100, 100]);
    // Reports that ceased are of no use.
    pass(180).await;
    assert_shares(&ward.shares(699).await, [233; 3]);
    assert!(porters.iter().all(|porter| porter.asked() == 1));
    ward.mesh.end().await;
}

/// LB-05: weights that come with the trailers of gRPC calls; nobody is asked out of band.
#[tokio::test(start_paused = true)]
async fn lb_05_reports_in_trailers_make_the_shares() {
    let network = MemoryNetwork::new();
    let porters = porters(&network, [1.0, 2.0, 4.0].map(Reports::InTrailers));
    let (backend, _) = weighted(&porters, false);
    let ward = Ward::open(&network, &backend).await;
    ready(&ward, &porters).await;
    let calls = async |count: usize| {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            let call = grpc::call("http://catalog/shop.Catalog/Items", "");
            let response = ward.mesh.http_client().oneshot(call).await.unwrap();
            let body = response.into_body().bytes().await.unwrap();
            *shares.entry(String::from_utf8(body[5..].to_vec()).unwrap()).or_default() += 1;
        }
        shares
    };
    assert_shares(&calls(699).await, [233; 3]);
    pass(9).await;
    assert_shares(&calls(699).await, [233; 3]);
    pass(2).await;
    assert_shares(&calls(700).await, [100, 200, 400]);
    // Without a report for 180 s the weights expire, and the blackout begins with the next ones.
    pass(181).await;
    assert_shares(&calls(699).await, [233; 3]);
    pass(11).await;
    assert_shares(&calls(700).await, [100, 200, 400]);
    assert!(porters.iter().all(|porter| porter.asked() == 0));
    ward.mesh.end().await;
}

/// Out of band means that reports with responses do not count (gRFC A58); and who knows no stream is not asked again
/// before it is connected anew.
#[tokio::test(start_paused = true)]
async fn lb_05_without_streams_it_is_round_robin() {
    let network = MemoryNetwork::new();
    let porters = porters(&network, [Reports::Refuse(Code::Unimplemented); 3]);
    let (backend, _) = weighted(&porters, true);
    let ward = Ward::open(&network, &backend).await;
    ready(&ward, &porters).await;
    pass(60).await;
    assert_shares(&ward.shares(699).await, [233; 3]);
    assert!(porters.iter().all(|porter| porter.asked() == 1));
    // A newer server, at the same place.
    porters[0].set(Reports::Stream);
    porters[0].server.disconnect();
    porters[0].server.connected(2).await;
    pass(5).await;
    assert_eq!(porters.each_ref().map(Porter::asked), [2, 1, 1]);
    ward.mesh.end().await;
}

/// A stream that fails is asked for again, after pauses that grow until a report comes.
#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_is_asked_for_again() {
    let network = MemoryNetwork::new();
    let porters = [Porter::start(&network, "one", Reports::Refuse(Code::Unavailable))];
    let (backend, _) = weighted(&porters, true);
    let ward = Ward::open(&network, &backend).await;
    ready(&ward, &porters).await;
    let [porter] = &porters;
    pass(60).await;
    // After 1 s, 1.6 s, 2.56 s and so on, each by a fifth shorter or longer.
    let asked = porter.asked();
    assert!((7..=9).contains(&asked), "{asked}");
    porter.set(Reports::Stream);
    pass(60).await;
    assert_eq!(porter.asked(), asked + 1);
    porter.report(1.0);
    pass(1).await;
    // The server ends the stream: as after no failure.
    porter.streams.lock().unwrap().clear();
    pass(2).await;
    assert_eq!(porter.asked(), asked + 2);
    ward.mesh.end().await;
}

/// RL-11: a stream ends with its endpoint and its policy, and another period is another stream.
#[tokio::test(start_paused = true)]
async fn rl_11_streams_follow_the_configuration() {
    let network = MemoryNetwork::new();
    let [one, two, _] = porters(&network, [Reports::Stream; 3]);
    let mut porters = vec![one, two];
    let (both, mut policy) = weighted(&porters, true);
    let ward = Ward::open(&network, &both).await;
    ready(&ward, &porters).await;
    pass(1).await;
    let (tasks, two) = (ward.mesh.live_tasks(), porters.pop().unwrap());
    let (mut alone, _) = weighted(&porters, true);
    ward.change(&alone).await;
    two.abandoned().await;
    two.server.deserted().await;
    pass(1).await;
    assert_eq!(ward.mesh.live_tasks(), tasks - 2, "its connection, and its stream");
    let [one] = &porters[..] else { panic!("there is one") };
    assert_eq!(one.asked(), 1);

    policy.out_of_band_period = Duration::from_secs(30);
    alone.load_balancer = LoadBalancer::WeightedRoundRobin(policy);
    ward.change(&alone).await;
    one.abandoned().await;
    pass(1).await;
    let asked: Vec<_> = one.server.requests().into_iter().filter(|request| request.head.uri.path() == STREAM).collect();
    let asked: Vec<_> = asked.iter().map(|request| &request.body[..]).collect();
    assert_eq!(asked, [b"\0\0\0\0\x04\x0a\x02\x08\x0a", b"\0\0\0\0\x04\x0a\x02\x08\x1e"]);

    alone.load_balancer = LoadBalancer::RoundRobin;
    ward.change(&alone).await;
    one.abandoned().await;
    pass(1).await;
    assert_eq!(ward.mesh.live_tasks(), tasks - 4, "and the last stream, and who asked");
    ward.mesh.end().await;
}

/// A stream is no use of its connection, and does not hold one that is to be closed.
#[tokio::test(start_paused = true)]
async fn a_stream_keeps_no_connection() {
    let network = MemoryNetwork::new();
    let porters = [Porter::start(&network, "one", Reports::Stream)];
    let (mut backend, _) = weighted(&porters, true);
    backend.connections.idle_timeout = Some(Duration::from_secs(60));
    let ward = Ward::open(&network, &backend).await;
    ready(&ward, &porters).await;
    let [porter] = &porters;
    porter.server.deserted().await;
    pass(60).await;
    assert_eq!((porter.asked(), porter.server.connections()), (1, 1));
    ward.get().await.unwrap();
    pass(1).await;
    assert_eq!((porter.asked(), porter.server.connections()), (2, 2));
    ward.mesh.end().await;
}
