//! Against a server that is written from the published interface, over memory where time matters and over a Unix socket
//! once.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use mesh_core::grpc::messages::framed;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::identity::{Identities, IdentitySource};
use crate::net::Tasks;
use crate::observe::Observers;
use crate::testing::{Authority, Issued, watched};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";
const SECOND: Duration = Duration::from_secs(1);

/// A Protobuf field of bytes.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(value);
    field
}

/// An `X509SVID` as field 1 of the response.
fn svid(authority: &Authority, issued: &Issued, id: &str) -> Vec<u8> {
    let chain = issued.chain.iter().map(|certificate| &**certificate).collect::<Vec<_>>().concat();
    let (key, hint) = (issued.key(), b"internal");
    let fields = [(1, id.as_bytes()), (2, &chain), (3, key.secret_der()), (4, authority.root()), (5, hint)];
    field(1, &fields.map(|(number, value)| field(number, value)).concat())
}

fn federated(name: &str, authority: &Authority) -> Vec<u8> {
    field(3, &[field(1, name.as_bytes()), field(2, authority.root())].concat())
}

fn serial(identities: &Identities) -> Option<u64> {
    identities.current().map(|identity| u64::from_str_radix(identity.serial(), 16).unwrap())
}

/// The agent's side of a call.
struct Call<T> {
    request: http::request::Parts,
    message: Vec<u8>,
    stream: h2::SendStream<Bytes>,
    connection: h2::server::Connection<T, Bytes>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Call<T> {
    /// Waits for the request and answers with a good head.
    async fn accept(io: T) -> Self {
        Self::accept_with(io, "application/grpc", StatusCode::OK).await
    }

    async fn accept_with(io: T, content_type: &'static str, status: StatusCode) -> Self {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let (request, mut body) = request.into_parts();
        let mut message = Vec::new();
        while !body.is_end_stream() {
            let piece = tokio::select! {
                piece = body.data() => piece,
                _ = connection.accept() => panic!("one call is expected"),
            };
            let Some(piece) = piece else { break };
            message.extend_from_slice(&piece.unwrap());
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
        let stream = respond.send_response(response, false).unwrap();
        Self { request, message, stream, connection }
    }

    /// Sends bytes as they are.
    async fn send_raw(&mut self, bytes: impl Into<Bytes>) {
        self.stream.send_data(bytes.into(), false).unwrap();
        self.drive().await;
    }

    async fn send(&mut self, message: &[u8]) {
        self.send_raw(framed(message).unwrap()).await;
    }

    /// Ends the call and the connection.
    async fn end(mut self, code: &str, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        trailers.insert("grpc-message", message.parse().unwrap());
        self.stream.send_trailers(trailers).unwrap();
        self.connection.graceful_shutdown();
        self.run().await;
    }

    /// Gives the connection a moment.
    async fn drive(&mut self) {
        let _ = tokio::time::timeout(Duration::from_millis(20), self.connection.accept()).await;
    }

    async fn run(mut self) {
        while let Some(Ok(_)) = self.connection.accept().await {}
    }
}

/// Somebody who follows an agent in memory, which the test plays.
struct Kit {
    identities: Identities,
    authority: Authority,
    agent: mpsc::Receiver<DuplexStream>,
}

/// The Workload API behind the seam for an application's source.
struct InMemory(mpsc::Sender<DuplexStream>, Option<SpiffeId>);

impl IdentitySource for InMemory {
    fn run(&self, updates: IdentityUpdates) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let (endpoint, wanted) = (Endpoint::Memory(self.0.clone()), self.1.clone());
        Box::pin(async move { follow(&endpoint, wanted.as_ref(), &updates).await })
    }
}

impl Kit {
    fn new(wanted: Option<&str>) -> Self {
        let (dial, agent) = mpsc::channel(1);
        let identities = identities();
        let source: Arc<dyn IdentitySource> = Arc::new(InMemory(dial, wanted.map(|id| SpiffeId::new(id).unwrap())));
        identities.start(&Arc::new(model::Identity::new(IdentityFrom::Custom)), Some(&source)).unwrap();
        Self { identities, authority: Authority::new("cluster.local"), agent }
    }

    async fn dialled(&mut self) -> DuplexStream {
        self.agent.recv().await.unwrap()
    }

    async fn accept(&mut self) -> Call<DuplexStream> {
        Call::accept(self.dialled().await).await
    }

    /// A response with one identity.
    fn response(&self, issued: &Issued) -> Vec<u8> {
        svid(&self.authority, issued, CART)
    }

    async fn in_use(&self, issued: &Issued) {
        let mut changes = self.identities.subscribe();
        while serial(&self.identities) != Some(issued.serial) {
            changes.changed().await.unwrap();
        }
    }

    /// Waits for a failure that holds `text`.
    async fn failure(&self, text: &str) -> String {
        let mut status = self.identities.status();
        let wanted = |status: &crate::identity::IdentityStatus| {
            status.failure.as_ref().is_some_and(|failure| failure.error.contains(text))
        };
        let failed = tokio::time::timeout(100 * SECOND, status.wait_for(wanted)).await;
        let Ok(failed) = failed else { panic!("{text} is not in {:?}", self.identities.status().borrow()) };
        failed.unwrap().failure.as_ref().unwrap().error.to_string()
    }
}

fn identities() -> Identities {
    Identities::new(Tasks::new(), Arc::new(rustls::crypto::ring::default_provider()), Observers::default())
}

/// The whole of it over a Unix socket, and a rotation on the same stream.
#[cfg(unix)]
#[tokio::test]
async fn an_agent_on_a_socket_brings_and_rotates_the_identity() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let endpoint = Some(format!("unix://{}", path.display()).into());
    let settings = model::Identity::new(IdentityFrom::WorkloadApi { endpoint, spiffe_id: None });
    let identities = identities();
    identities.start(&Arc::new(settings), None).unwrap();

    let (authority, other) = (Authority::new("cluster.local"), Authority::new("other.example"));
    let first = authority.intermediate("below").issue(CART);
    let (stream, _) = watched(listener.accept()).await.unwrap();
    let mut call = watched(Call::accept(stream)).await;
    assert_eq!(call.request.uri.path(), "/SpiffeWorkloadAPI/FetchX509SVID");
    assert_eq!(call.request.method, http::Method::POST);
    assert_eq!(call.request.uri.scheme_str(), Some("http"));
    assert_eq!(call.message, [0, 0, 0, 0, 0], "an empty message");
    for (name, value) in [("workload.spiffe.io", "true"), ("content-type", "application/grpc"), ("te", "trailers")] {
        assert_eq!(call.request.headers[name], value);
    }
    call.send(&[svid(&authority, &first, CART), federated("spiffe://other.example", &other)].concat()).await;
    let driver = tokio::spawn(async move {
        let second = authority.issue(CART);
        call.send(&svid(&authority, &second, CART)).await;
        call.run().await;
    });
    let identity = watched(identities.wait(60 * SECOND)).await.unwrap();
    let mut changes = identities.subscribe();
    if identity.generation() == 1 {
        assert_eq!(identity.chain(), first.chain);
        assert_eq!(identity.id().unwrap().as_str(), CART);
        let domains: Vec<_> = identity.trust_domains().map(TrustDomain::as_str).collect();
        assert_eq!(domains, ["cluster.local", "other.example"]);
    }
    watched(changes.wait_for(|current| current.as_ref().is_some_and(|it| it.generation() == 2))).await.unwrap();
    driver.abort();
}

#[tokio::test(start_paused = true)]
async fn one_of_several_is_taken_by_its_id() {
    let mut kits = [(None, CART), (Some(API), API)].map(|(wanted, taken)| (Kit::new(wanted), taken));
    for (kit, taken) in &mut kits {
        let (cart, api) = (kit.authority.issue(CART), kit.authority.issue(API));
        let both = [kit.response(&cart), svid(&kit.authority, &api, API)].concat();
        let mut call = kit.accept().await;
        call.send(&both).await;
        kit.in_use(if *taken == CART { &cart } else { &api }).await;
        assert_eq!(kit.identities.current().unwrap().id().unwrap().as_str(), *taken);
    }
    let mut kit = Kit::new(Some(API));
    let mut call = kit.accept().await;
    call.send(&kit.response(&kit.authority.issue(CART))).await;
    kit.failure(&format!("{API} is not issued to this process; 1 are, such as [\"{CART}\"]")).await;
    assert_eq!(serial(&kit.identities), None);
    // The stream goes on.
    let api = kit.authority.issue(API);
    call.send(&svid(&kit.authority, &api, API)).await;
    kit.in_use(&api).await;
}

/// What cannot be used is told, and the next message of the same stream is read.
#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_used_keeps_the_last_good_identity() {
    let mut kit = Kit::new(None);
    let good = kit.authority.issue(CART);
    let mut call = kit.accept().await;
    call.send(&kit.response(&good)).await;
    kit.in_use(&good).await;
    let (one, other) = (kit.authority.issue(CART), kit.authority.issue(CART));
    let chain = one.chain[0].to_vec();
    let of = |certificates: &[u8], key: &[u8], bundle: &[u8]| {
        let fields = [(1, CART.as_bytes()), (2, certificates), (3, key), (4, bundle)];
        field(1, &fields.map(|(number, value)| field(number, value)).concat())
    };
    let (key, wrong, root) = (one.key(), other.key(), kit.authority.root().to_vec());
    let cases = [
        (Vec::new(), "no identity is issued to this process"),
        (of(&chain, wrong.secret_der(), &root), "the private key does not belong to the certificate"),
        (of(&chain, &[], &root), "the private key cannot be used"),
        (of(&chain[..chain.len() - 1], key.secret_der(), &root), "the certificates are malformed"),
        (of(&[], key.secret_der(), &root), "is not of it"),
        (of(&chain, key.secret_der(), &root[1..]), "the authorities are malformed"),
        (of(&chain, key.secret_der(), &[0x30, 0]), "authority 1 of the own bundle cannot be used"),
        (svid(&kit.authority, &kit.authority.issue(API), CART), "is not of it"),
        ([kit.response(&one), federated("spiffe://a/b", &kit.authority)].concat(), "which is no trust domain"),
        (
            [kit.response(&one), field(3, &[field(1, b"a"), field(2, b"x")].concat())].concat(),
            "the bundle of a is malformed",
        ),
        ([kit.response(&one), field(2, b"x")].concat(), "revocation list 1 cannot be used"),
    ];
    for (message, text) in cases {
        call.send(&message).await;
        kit.failure(text).await;
        assert_eq!(serial(&kit.identities), Some(good.serial), "{text}");
    }
    call.send(&kit.response(&one)).await;
    kit.in_use(&one).await;
    assert_eq!(kit.identities.status().borrow().failure, None);
}

/// Whatever an agent does, it is bounded in time and memory, told, and begun anew; then a good one is used.
#[tokio::test(start_paused = true)]
async fn a_hostile_agent_is_left_and_asked_again() {
    let mut kit = Kit::new(None);
    let long = [&[0][..], &(4 * 1024 * 1024 + 1_u32).to_be_bytes()].concat();
    let raw: [(Vec<u8>, &str); 4] = [
        (long, "a message of 4194305 bytes, where 4194304 are the most"),
        ([&[1, 0, 0, 0, 1][..], b"x"].concat(), "a compressed message"),
        (framed(b"\x0a\x05half").unwrap().to_vec(), "a message that is no answer of the Workload API"),
        (framed(&[0xff; 64]).unwrap().to_vec(), "a message that is no answer of the Workload API"),
    ];
    for (bytes, text) in raw {
        let mut call = kit.accept().await;
        call.send_raw(bytes).await;
        kit.failure(text).await;
    }
    let mut call = kit.accept().await;
    call.send_raw(&[0, 0, 0, 0, 9, 1][..]).await;
    call.end("0", "").await;
    kit.failure("the body ended within a message").await;

    // It says what it likes in place of HTTP/2, or nothing at all.
    kit.dialled().await.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    kit.failure("the connection broke").await;
    drop(kit.dialled().await);
    kit.failure("the connection broke").await;
    let mut silent = kit.dialled().await;
    let began = Instant::now();
    kit.failure("no answer came within 30 s").await;
    assert_eq!(began.elapsed(), 30 * SECOND);
    let mut sent = Vec::new();
    silent.read_to_end(&mut sent).await.unwrap();
    assert!(sent.len() < 1024, "the connection was let go");
    for (kind, status, text) in [
        ("text/html", StatusCode::OK, "no gRPC is spoken there"),
        ("text/html", StatusCode::SERVICE_UNAVAILABLE, "the call ended: UNAVAILABLE"),
    ] {
        let call = Call::accept_with(kit.dialled().await, kind, status).await;
        let running = tokio::spawn(call.run());
        kit.failure(text).await;
        running.abort();
    }
    // A head without a message.
    let call = kit.accept().await;
    let running = tokio::spawn(call.run());
    let began = Instant::now();
    kit.failure("no answer came within 30 s").await;
    assert!(began.elapsed() <= 30 * SECOND);
    running.abort();

    let good = kit.authority.issue(CART);
    let mut call = kit.accept().await;
    call.send(&kit.response(&good)).await;
    kit.in_use(&good).await;
}

/// Each message in pieces, however small the window.
#[tokio::test(start_paused = true)]
async fn a_large_message_comes_through() {
    let mut kit = Kit::new(None);
    let good = kit.authority.issue(CART);
    let mut message = kit.response(&good);
    // Fields that nobody knows.
    for _ in 0..30 {
        message.extend(field(9, &[7; 100_000]));
    }
    let mut call = kit.accept().await;
    call.stream.send_data(framed(&message).unwrap(), false).unwrap();
    let running = tokio::spawn(call.run());
    kit.in_use(&good).await;
    running.abort();
}

/// Without an identity for this process it is asked again, with pauses that grow to 30 s; a message makes them short.
#[tokio::test(start_paused = true)]
async fn pauses_grow_until_there_is_a_message() {
    let mut kit = Kit::new(None);
    let mut ended = Instant::now();
    let within = |paused: Duration, nominal: f64| {
        let share = paused.as_secs_f64() / nominal;
        assert!((0.79..1.22).contains(&share), "{paused:?} where {nominal} s are nominal");
    };
    for step in 0..10 {
        let call = kit.accept().await;
        if step > 0 {
            within(ended.elapsed(), 1.6_f64.powi(step - 1).min(30.0));
        }
        call.end("7", "no identity issued%0a").await;
        let text = "no identity is issued to this process so far (PERMISSION_DENIED: no identity issued); register the workload";
        assert_eq!(kit.failure("so far").await, text);
        ended = Instant::now();
    }
    let good = kit.authority.issue(CART);
    let mut call = kit.accept().await;
    call.send(&kit.response(&good)).await;
    kit.in_use(&good).await;
    assert_eq!(kit.identities.status().borrow().failure, None);
    call.end("14", "going").await;
    kit.failure("the call ended: UNAVAILABLE: going").await;
    let ended = Instant::now();
    let call = kit.accept().await;
    within(ended.elapsed(), 1.0);

    // A request that is not understood is not sent again soon.
    call.end("3", "security header missing").await;
    kit.failure("the request was refused as malformed: INVALID_ARGUMENT: security header missing").await;
    let ended = Instant::now();
    let _call = kit.dialled().await;
    assert!(ended.elapsed() >= 30 * SECOND - Duration::from_millis(100));
    assert_eq!(serial(&kit.identities), Some(good.serial));
}

/// An agent that is frozen is found out, and asked anew.
#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_found_out() {
    let mut kit = Kit::new(None);
    let good = kit.authority.issue(CART);
    let mut call = kit.accept().await;
    call.send(&kit.response(&good)).await;
    kit.in_use(&good).await;
    let since = Instant::now();
    // It answers for an hour,
    assert!(tokio::time::timeout(3600 * SECOND, call.connection.accept()).await.is_err());
    assert_eq!(kit.identities.status().borrow().failure, None);
    // and then never again.
    let mut again = kit.accept().await;
    let silent = since.elapsed() - 3600 * SECOND;
    assert!(silent < 640 * SECOND, "{silent:?}");
    again.send(&kit.response(&kit.authority.issue(CART))).await;
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_one_is_told_at_once() {
    let identities = identities();
    let endpoint = Some("agent.sock".into());
    let settings = model::Identity::new(IdentityFrom::WorkloadApi { endpoint, spiffe_id: None });
    identities.start(&Arc::new(settings), None).unwrap();
    let error = identities.wait(60 * SECOND).await.unwrap_err().to_string();
    assert!(error.contains("\"agent.sock\" is no endpoint of the Workload API"), "{error}");
    assert!(error.contains("the agent must run"), "{error}");
}
