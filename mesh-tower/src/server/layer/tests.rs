//! Who gets in, and what is left of what they say of themselves.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use mesh_core::identity::SanMatch;
use mesh_core::identity::xfcc::{self, XFCC};
use mesh_core::model::{self, Config, ForwardedIdentity, IdentityFrom, Server, ServerTls};
use rustls::crypto::ring::default_provider;
use rustls_pki_types::UnixTime;
use tower::{Layer, ServiceExt, service_fn};

use super::RequestBody;
use crate::Mesh;
use crate::identity::{Identity, MemoryIdentity, Usage};
use crate::server::Peer;
use crate::testing::{Authority, NewCertificate};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const INGRESS: &str = "spiffe://cluster.local/ns/edge/sa/ingress";
const SELF: &str = "spiffe://cluster.local/ns/shop/sa/catalog";

struct World {
    authority: Authority,
    mesh: Mesh,
}

/// What the handler saw, or the status that the caller did.
type Told = Result<HeaderMap, u16>;

impl World {
    async fn new(tls: ServerTls, change: impl FnOnce(&mut Server)) -> Self {
        let authority = Authority::new("cluster.local");
        let mut server = Server::new("public");
        server.tls = Some(tls);
        change(&mut server);
        let mut settings = model::Settings::default();
        settings.identity = Some(Arc::new(model::Identity::new(IdentityFrom::Custom)));
        let source = MemoryIdentity::new(authority.issue(SELF).material(authority.bundles()));
        let config = Config::new().with_server(server).with_settings(settings);
        let mesh = Mesh::builder().config(config).identity_source(source).build().await.unwrap();
        Self { authority, mesh }
    }

    /// A caller with a certificate.
    fn peer(&self, certificate: NewCertificate) -> Peer {
        let own = self.authority.issue(SELF).material(self.authority.bundles());
        let settings = model::Identity::new(IdentityFrom::Custom);
        let own = Identity::new(own, &settings, &Arc::new(default_provider()), 1, UnixTime::now()).unwrap();
        let issued = self.authority.issue_as(certificate);
        let certified = own.trust().verify(&issued.chain, Usage::Client, &[], UnixTime::now()).unwrap();
        Peer { certified: Some(certified), ..Peer::default() }
    }

    fn named(&self, id: &str) -> Option<Arc<Peer>> {
        Some(Arc::new(self.peer(NewCertificate::new().uri(id))))
    }

    async fn ask(&self, peer: Option<Arc<Peer>>, headers: &[(&'static str, &str)]) -> Told {
        let service = service_fn(async |request: Request<RequestBody<_>>| {
            let (parts, body): (_, RequestBody<Full<Bytes>>) = request.into_parts();
            assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
            let mut response = Response::new(Full::default());
            *response.headers_mut() = parts.headers;
            Ok::<Response<Full<Bytes>>, Infallible>(response)
        });
        let mut request = Request::post("/").header("host", "catalog").body(Full::from("hello")).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let layer = self.mesh.server_layer("public").unwrap();
        let response = layer.layer(service).oneshot(request).await.unwrap();
        if response.status() == 200 { Ok(response.headers().clone()) } else { Err(response.status().as_u16()) }
    }
}

fn plaintext() -> Option<Arc<Peer>> {
    Some(Arc::new(Peer::plaintext(None)))
}

/// A server that is told nothing of who calls takes nobody in where that matters.
#[tokio::test]
async fn a_strict_server_fails_closed() {
    for (tls, stranger, unproved) in [
        (ServerTls::Strict, Err(403), Err(403)),
        (ServerTls::Permissive, Ok(()), Ok(())),
        (ServerTls::Disabled, Ok(()), Ok(())),
    ] {
        let world = World::new(tls, |_| {}).await;
        assert_eq!(world.ask(None, &[]).await.map(drop), stranger, "{tls:?}");
        assert_eq!(world.ask(plaintext(), &[]).await.map(drop), unproved, "{tls:?}");
        assert_eq!(world.ask(world.named(CART), &[]).await.map(drop), Ok(()), "{tls:?}");
    }
}

#[tokio::test]
async fn whoever_is_not_expected_is_refused_on_each_request() {
    for tls in [ServerTls::Strict, ServerTls::Permissive] {
        let world = World::new(tls, |server| server.identities = vec![SanMatch::uri(CART)]).await;
        assert_eq!(world.ask(world.named(CART), &[]).await.map(drop), Ok(()));
        assert_eq!(world.ask(world.named(INGRESS), &[]).await.map(drop), Err(403));
    }
}

const CLAIMS: [(&str, &str); 5] = [
    ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/admin/sa/root"),
    ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/admin/sa/two"),
    ("x-envoy-internal", "true"),
    ("l5d-client-id", "admin"),
    ("client-cert", ":AAAA:"),
];

/// AZ-05, AZ-19: from outside, from a caller of the mesh, and from one that nobody has to believe.
#[tokio::test]
async fn az_05_az_19_claims_of_who_calls_are_removed() {
    let forwarded = |proxies: Vec<SanMatch>| {
        let mut forwarded = ForwardedIdentity::default();
        forwarded.trusted_proxies = proxies;
        forwarded
    };
    for proxies in [vec![], vec![SanMatch::uri(INGRESS)]] {
        let world = World::new(ServerTls::Permissive, |server| server.forwarded_identity = forwarded(proxies)).await;
        for peer in [None, plaintext(), world.named(CART)] {
            let seen = world.ask(peer, &CLAIMS).await.unwrap();
            assert_eq!(seen.keys().collect::<Vec<_>>(), ["host"]);
        }
    }
    let world = World::new(ServerTls::Permissive, |server| {
        server.forwarded_identity = forwarded(vec![SanMatch::uri(INGRESS)]);
    })
    .await;
    let seen = world.ask(world.named(INGRESS), &CLAIMS).await.unwrap();
    for (name, value) in CLAIMS {
        assert!(seen.get_all(name).iter().any(|seen| *seen == *value), "a trusted proxy's {name}");
    }
}

fn naming_more(server: &mut Server) {
    server.forwarded_identity.headers = [http::HeaderName::from_static("x-remote-user")].into();
}

/// AZ-05: what a proxy of the application's own is trusted with, too.
#[tokio::test]
async fn az_05_headers_of_ones_own_proxies_are_removed() {
    let claims = [("x-remote-user", "admin"), ("X_Remote_User", "admin"), ("SSL_CLIENT_S_DN", "CN=admin")];
    let world = World::new(ServerTls::Permissive, |server| {
        naming_more(server);
        server.forwarded_identity.trusted_proxies = vec![SanMatch::uri(INGRESS)];
    })
    .await;
    for peer in [None, plaintext(), world.named(CART)] {
        assert_eq!(world.ask(peer, &claims).await.unwrap().keys().collect::<Vec<_>>(), ["host"]);
    }
    let seen = world.ask(world.named(INGRESS), &claims).await.unwrap();
    assert!(claims.iter().all(|(name, _)| seen.contains_key(*name)), "a trusted proxy's");
}

/// AZ-05: and from the trailers, which some frameworks make headers of.
#[tokio::test]
async fn az_05_trailers_do_not_say_who_calls() {
    let world = World::new(ServerTls::Disabled, naming_more).await;
    let mut trailers = HeaderMap::new();
    trailers.insert(XFCC, "URI=admin".parse().unwrap());
    trailers.insert("x_remote_user", "admin".parse().unwrap());
    trailers.insert("checksum", "1".parse().unwrap());
    let body = Full::new(Bytes::from("a")).with_trailers(std::future::ready(Some(Ok(trailers))));
    let service = service_fn(async |request: Request<RequestBody<_>>| {
        let (_, body): (_, RequestBody<_>) = request.into_parts();
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["checksum"]);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let request = Request::post("/").header("host", "catalog").body(body).unwrap();
    let layer = world.mesh.server_layer("public").unwrap();
    assert_eq!(layer.layer(service).oneshot(request).await.unwrap().status(), 200);
}

fn writing(server: &mut Server) {
    server.forwarded_identity.write = true;
    server.forwarded_identity.trusted_proxies = vec![SanMatch::uri(INGRESS)];
}

/// AZ-05: in Envoy's form, from the verified certificate alone.
#[tokio::test]
async fn az_05_ours_is_written_from_the_certificate() {
    let world = World::new(ServerTls::Permissive, writing).await;
    let certificate = NewCertificate::new().uri(CART).dns("cart.shop").dns("cart");
    let peer = Arc::new(world.peer(certificate.common_name("a \"b\", c\\;URI=x")));
    let seen = world.ask(Some(Arc::clone(&peer)), &CLAIMS).await.unwrap();
    let values: Vec<_> = seen.get_all(XFCC).iter().collect();
    let told = xfcc::of(&seen).unwrap();
    let [told] = &told[..] else { panic!("{values:?}") };
    assert_eq!((&told.by[..], &told.uri[..]), (&[SELF.to_owned()][..], &[CART.to_owned()][..]));
    assert_eq!(told.dns, ["cart.shop", "cart"]);
    let hash = ring_sha256(peer.chain()[0].as_ref());
    assert_eq!(told.hash.as_ref(), Some(&hash));
    assert_eq!(told.subject.as_deref(), Some("CN=a \\22b\\22\\2C c\\5C\\3BURI=x,O=test"));
    // What does not concern it stays removed.
    assert!(!seen.contains_key("x-envoy-internal"));
    // Made once for a connection.
    assert!(peer.forwarded.get().is_some());
    assert_eq!(world.ask(Some(peer), &[]).await.unwrap()[XFCC], values[0]);

    for peer in [None, plaintext()] {
        assert!(!world.ask(peer, &CLAIMS).await.unwrap().contains_key(XFCC), "nobody has proved anything");
    }
}

#[tokio::test]
async fn az_05_ours_stands_behind_that_of_a_trusted_proxy() {
    let world = World::new(ServerTls::Strict, writing).await;
    let seen = world.ask(world.named(INGRESS), &CLAIMS).await.unwrap();
    assert_eq!(seen.get_all(XFCC).iter().count(), 1);
    let uris: Vec<_> = xfcc::of(&seen).unwrap().into_iter().flat_map(|element| element.uri).collect();
    assert_eq!(uris, ["spiffe://cluster.local/ns/admin/sa/root", "spiffe://cluster.local/ns/admin/sa/two", INGRESS]);
}

fn ring_sha256(data: &[u8]) -> String {
    let digest = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let digest = digest.common.hash_provider.hash(data);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
