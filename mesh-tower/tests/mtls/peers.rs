//! Who is let in, and who is spoken to.

use mesh_tower::testing::{Authority, NewCertificate, ServiceConfig};

use crate::http_support::text;
use crate::support::{BOTH, CART, CATALOG, Server, ask, cart, strict, strict_of};

/// Both sides prove who they are, over HTTP/1.1 and HTTP/2; the scheme says that it is encrypted.
#[tokio::test]
async fn both_prove_who_they_are() {
    let authority = Authority::new("cluster.local");
    for (protocol, answer) in [("http1", "a h1"), ("http2", "a h2"), ("auto", "a h2")] {
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
        let backend = format!("protocol: {protocol}, tls: {{ mode: mutual, identities: ['{CATALOG}'] }}");
        let mesh = cart(&authority, &[server.address], &backend).await;
        for scheme in ["http", "https"] {
            let response = mesh.http_client().get(format!("{scheme}://catalog/")).await.unwrap();
            assert_eq!(text(response).await, answer, "{protocol}");
        }
        let hello = server.only();
        let client = hello.client.expect("it asks for a certificate");
        assert!(client.windows(CART.len()).any(|window| window == CART.as_bytes()), "{protocol}");
        mesh.end().await;
    }
}

/// Without a word on TLS a mesh that is somebody speaks mutual TLS.
#[tokio::test]
async fn mutual_is_the_default_of_a_mesh_with_an_identity() {
    let authority = Authority::new("cluster.local");
    let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let mesh = cart(&authority, &[server.address], "").await;
    assert_eq!(ask(&mesh).await.unwrap(), "a h2");
    assert!(server.only().client.is_some());
    mesh.end().await;
}

/// MT-05: the server must be one of those who are listed, and is anybody who is trusted where nobody is.
#[tokio::test]
async fn mt_05_who_the_server_must_be() {
    let authority = Authority::new("cluster.local");
    let spiffe = NewCertificate::new().uri(CATALOG);
    for (certificate, identities, good) in [
        (spiffe.clone(), format!("['{CATALOG}']"), true),
        (spiffe.clone(), "[]".to_owned(), true),
        (spiffe.clone(), format!("['{CART}']"), false),
        (spiffe.clone(), format!("['{CART}', '{CATALOG}']"), true),
        (spiffe.clone().dns("catalog"), "[{ dns: catalog }]".to_owned(), true),
        (spiffe.clone().dns("catalog"), "[{ dns: carts }]".to_owned(), false),
        // A SPIFFE id must be the only URI.
        (spiffe.uri(CART), format!("['{CATALOG}']"), false),
        // Without one it is who it is expected to be by another name, or nobody.
        (NewCertificate::new().dns("catalog"), "[{ dns: catalog }]".to_owned(), true),
        (NewCertificate::new().dns("catalog"), "[]".to_owned(), false),
    ] {
        let issued = authority.issue_as(certificate);
        let server = Server::start("a", strict(&issued, &authority, BOTH)).await;
        let backend = format!("tls: {{ mode: mutual, identities: {identities} }}");
        let mesh = cart(&authority, &[server.address], &backend).await;
        assert_eq!(ask(&mesh).await.is_ok(), good, "{identities}");
        assert_eq!(server.backend.request_count(), usize::from(good), "{identities}");
        mesh.end().await;
    }
}

/// MT-12: TLS 1.2 is spoken to peers that have no better, and 1.3 to all others.
#[tokio::test]
async fn mt_12_tls_1_3_and_1_2_to_peers_that_have_no_better() {
    let authority = Authority::new("cluster.local");
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    for (versions, spoken) in [(&[old, new][..], new.version), (&[new], new.version), (&[old], old.version)] {
        for (protocol, answer) in [("http1", "a h1"), ("http2", "a h2")] {
            let config = strict_of(&authority.issue(CATALOG), &authority, BOTH, versions);
            let server = Server::start("a", config).await;
            let backend = format!("protocol: {protocol}, tls: {{ mode: mutual, identities: ['{CATALOG}'] }}");
            let mesh = cart(&authority, &[server.address], &backend).await;
            assert_eq!(ask(&mesh).await.unwrap(), answer);
            assert_eq!(server.only().version, Some(spoken));
            mesh.end().await;
        }
    }
}

/// A backend's own authorities take the place of the identity's.
#[tokio::test]
async fn authorities_of_a_backend_take_the_place_of_the_identity_s() {
    let (ours, theirs) = (Authority::new("cluster.local"), Authority::new("partner.example"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), theirs.root_pem()).unwrap();
    let own = format!("tls: {{ mode: mutual, ca_certificates: '{}' }}", file.path().display());
    for (issuer, backend, good) in
        [(&theirs, own.as_str(), true), (&theirs, "tls: { mode: mutual }", false), (&ours, own.as_str(), false)]
    {
        let issued =
            issuer.issue(&format!("spiffe://{}/catalog", if good { "partner.example" } else { "cluster.local" }));
        let server = Server::start("a", strict(&issued, &ours, BOTH)).await;
        let mesh = cart(&ours, &[server.address], backend).await;
        assert_eq!(ask(&mesh).await.is_ok(), good, "{backend}");
        mesh.end().await;
    }
}

/// Names that are listed take the place of the host's, which nobody compares then.
#[tokio::test]
async fn simple_tls_verifies_the_host_or_the_names_that_are_listed() {
    let authority = Authority::new("public.example");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.root_pem()).unwrap();
    for (dns, identities, good) in [
        ("catalog", "", true),
        ("other.example", "", false),
        ("other.example", ", identities: [{ dns: other.example }]", true),
        ("catalog", ", identities: [{ dns: other.example }]", false),
    ] {
        let issued = authority.issue_as(NewCertificate::new().dns(dns));
        let mut config = issued.careless_server(rustls::ALL_VERSIONS);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let server = Server::start("a", config).await;
        let tls = format!("tls: {{ mode: simple, ca_certificates: '{}'{identities} }}", file.path().display());
        let mesh = ServiceConfig::new("catalog", [server.address]).backend(&tls).mesh().await;
        assert_eq!(ask(&mesh).await.is_ok(), good, "{dns}{identities}");
        mesh.end().await;
    }
}
