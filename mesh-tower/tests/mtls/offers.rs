//! What is offered by ALPN, and what is made of the answer: control planes 3.4, 3.5.

use http::Version;
use mesh_tower::testing::Authority;
use tower::ServiceExt;

use crate::http_support::{grpc, text};
use crate::support::{CATALOG, Server, cart, strict};

#[tokio::test]
async fn what_is_offered_is_what_istio_s_sidecars_offer() {
    let authority = Authority::new("cluster.local");
    let (h1, h2) = ("istio-http/1.1 istio http/1.1", "istio-h2 istio h2");
    let both = "istio-h2 istio-http/1.1 istio h2 http/1.1";
    for (protocol, is_grpc, offered) in
        [("http1", false, h1), ("http2", false, h2), ("http2", true, h2), ("auto", false, both), ("auto", true, h2)]
    {
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, &["h2", "http/1.1"])).await;
        let mesh = cart(&authority, &[server.address], &format!("protocol: {protocol}")).await;
        let uri = "http://catalog/a.B/C";
        let answer = if is_grpc {
            mesh.http_client().oneshot(grpc(uri).body(String::new()).unwrap()).await
        } else {
            mesh.http_client().get(uri).await
        };
        answer.unwrap();
        let hello = server.only();
        assert_eq!((hello.alpn.as_str(), hello.sni), (offered, None), "{protocol}, gRPC: {is_grpc}");
        mesh.end().await;
    }
}

/// `istio-h2` and `istio-http/1.1` mean what stands behind them; `istio` and nothing mean what the caller needs.
#[tokio::test]
async fn what_is_agreed_on_is_spoken() {
    let authority = Authority::new("cluster.local");
    for (agrees, protocol, is_grpc, spoken) in [
        (&["h2", "http/1.1"][..], "auto", false, "a h2"),
        (&["http/1.1", "h2"], "auto", false, "a h1"),
        (&["istio-h2"], "auto", false, "a h2"),
        (&["istio-http/1.1"], "auto", false, "a h1"),
        (&["istio"], "auto", false, "a h1"),
        (&["istio"], "auto", true, "a h2"),
        (&["istio"], "http1", false, "a h1"),
        (&["istio"], "http2", false, "a h2"),
        (&[], "auto", false, "a h1"),
        (&[], "auto", true, "a h2"),
        (&[], "http1", false, "a h1"),
        (&[], "http2", false, "a h2"),
    ] {
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, agrees)).await;
        let mesh = cart(&authority, &[server.address], &format!("protocol: {protocol}")).await;
        let answer = if is_grpc {
            mesh.http_client().oneshot(grpc("http://catalog/a.B/C").body(String::new()).unwrap()).await.unwrap()
        } else {
            mesh.http_client().get("http://catalog/").await.unwrap()
        };
        let expected = if spoken == "a h2" { Version::HTTP_2 } else { Version::HTTP_11 };
        assert_eq!(answer.version(), expected, "{agrees:?} {protocol}");
        assert_eq!(text(answer).await, spoken, "{agrees:?} {protocol}");
        mesh.end().await;
    }
}

/// A name is sent if one is configured, and compared with nothing.
#[tokio::test]
async fn sni_is_the_configured_name_or_none() {
    let authority = Authority::new("cluster.local");
    for (server_name, sni) in
        [("", None), (", server_name: outbound_.80_._.catalog.shop", Some("outbound_.80_._.catalog.shop"))]
    {
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, &["h2"])).await;
        let mesh = cart(&authority, &[server.address], &format!("tls: {{ mode: mutual{server_name} }}")).await;
        mesh.http_client().get("http://catalog/").await.unwrap();
        assert_eq!(server.only().sni.as_deref(), sni);
        mesh.end().await;
    }
}
