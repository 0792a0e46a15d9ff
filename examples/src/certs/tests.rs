use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore};

use super::*;

const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn roots(bundle: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// As a server's TLS sees the certificate of its client.
fn as_client(issued: &Issued, bundle: &str, list: Option<&str>) -> Result<(), rustls::Error> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots(bundle), provider());
    let lists = list.map(|list| CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap());
    let verifier = builder.with_crls(lists).build().unwrap();
    let chain = chain(issued);
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map(|_| ())
}

/// As a client's TLS sees the certificate of `host`.
fn as_server(issued: &Issued, bundle: &str, host: &str) -> Result<(), rustls::Error> {
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots(bundle), provider());
    let chain = chain(issued);
    let host = ServerName::try_from(host).unwrap();
    verifier.build().unwrap().verify_server_cert(&chain[0], &chain[1..], &host, &[], UnixTime::now()).map(|_| ())
}

fn problem(result: Result<(), rustls::Error>) -> String {
    match result.unwrap_err() {
        rustls::Error::InvalidCertificate(error) => format!("{error:?}").split([' ', '(']).next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn has(issued: &Issued, bytes: &[u8]) -> bool {
    chain(issued)[0].windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn a_svid_is_as_the_standards_want_it() {
    let authority = Authority::new("cluster.local").unwrap();
    let issued = authority.issue(&Leaf::new(SHOP)).unwrap();
    as_client(&issued, authority.bundle_pem(), None).unwrap();
    // Key and certificate belong together.
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    rustls::sign::CertifiedKey::from_der(chain(&issued), key, &provider()).unwrap().keys_match().unwrap();

    // SubjectAltName: critical, and the URI its only name.
    let mut names = vec![0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff, 0x04];
    let length = SHOP.len() as u8;
    names.extend([length + 4, 0x30, length + 2, 0x86, length]);
    names.extend(SHOP.bytes());
    assert!(has(&issued, &names));
    // BasicConstraints: critical, and empty, which is no authority.
    assert!(has(&issued, &[0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x02, 0x30, 0x00]));
    // KeyUsage: critical, digitalSignature and keyEncipherment.
    assert!(has(&issued, &[0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x05, 0xa0]));
    // P-256.
    assert!(has(&issued, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]));
    assert!(!format!("{issued:?}").contains("PRIVATE"), "a key is not for logs");
}

#[test]
fn names_of_hosts_come_on_top() {
    let authority = Authority::new("cluster.local").unwrap();
    let issued = authority.issue(&Leaf::new(SHOP).dns("shop.example").ip([127, 0, 0, 1].into())).unwrap();
    as_server(&issued, authority.bundle_pem(), "shop.example").unwrap();
    as_server(&issued, authority.bundle_pem(), "127.0.0.1").unwrap();
    let error = as_server(&issued, authority.bundle_pem(), "other.example");
    assert_eq!(problem(error), "NotValidForNameContext");
}

#[test]
fn bad_ones_are_bad_in_the_way_that_was_asked_for() {
    let authority = Authority::new("cluster.local").unwrap();
    let bundle = authority.bundle_pem();
    let client = |leaf: Leaf| as_client(&authority.issue(&leaf).unwrap(), bundle, None);
    assert_eq!(problem(client(Leaf::new(SHOP).expired())), "ExpiredContext");
    assert_eq!(problem(client(Leaf::new(SHOP).not_yet_valid())), "NotValidYetContext");
    assert_eq!(problem(client(Leaf::new(SHOP).usage(Usage::Server))), "InvalidPurposeContext");
    client(Leaf::new(SHOP).usage(Usage::Client)).unwrap();
    client(Leaf::new(SHOP).usage(Usage::Unsaid)).unwrap();

    let server = |leaf: Leaf| as_server(&authority.issue(&leaf.dns("shop.example")).unwrap(), bundle, "shop.example");
    assert_eq!(problem(server(Leaf::new(SHOP).usage(Usage::Client))), "InvalidPurposeContext");
    server(Leaf::new(SHOP).usage(Usage::Server)).unwrap();

    // The same name, another key.
    let stranger = Authority::new("cluster.local").unwrap().issue(&Leaf::new(SHOP)).unwrap();
    assert_eq!(problem(as_client(&stranger, bundle, None)), "BadSignature");
    let elsewhere = Authority::new("elsewhere").unwrap().issue(&Leaf::new(SHOP)).unwrap();
    assert_eq!(problem(as_client(&elsewhere, bundle, None)), "UnknownIssuer");

    let two = authority.issue(&Leaf::new(SHOP).uri("spiffe://cluster.local/ns/default/sa/other")).unwrap();
    assert!(has(&two, SHOP.as_bytes()) && has(&two, b"/sa/other"));
    let none = authority.issue(&Leaf::unnamed()).unwrap();
    assert!(!has(&none, &[0x06, 0x03, 0x55, 0x1d, 0x11]));
    assert!(authority.issue(&Leaf::new("spiffe://cluster.local/\u{fc}")).is_err());
}

#[test]
fn validity_is_what_was_asked_for() {
    let authority = Authority::new("cluster.local").unwrap();
    let now = SystemTime::now();
    let second = Duration::from_secs(1);
    // Over just now, or over in three seconds, which is longer than a second is rounded.
    let over = authority.issue(&Leaf::new(SHOP).valid(now - 60 * second..now - second)).unwrap();
    assert_eq!(problem(as_client(&over, authority.bundle_pem(), None)), "ExpiredContext");
    let soon = Leaf::new(SHOP).ttl(3600 * second);
    assert!(soon.valid.start <= now - BACKDATED + second && soon.valid.end >= now + 3600 * second);
    as_client(&authority.issue(&soon).unwrap(), authority.bundle_pem(), None).unwrap();
    let forever = authority.issue(&Leaf::new(SHOP).ttl(Duration::MAX)).unwrap();
    as_client(&forever, authority.bundle_pem(), None).unwrap();
    assert!(has(&forever, b"99991231235959Z"));
}

#[test]
fn what_is_revoked_is_refused_and_nothing_else() {
    let authority = Authority::new("cluster.local").unwrap();
    let [stolen, lost, good] = [(); 3].map(|()| authority.issue(&Leaf::new(SHOP)).unwrap());
    let list = authority.crl_pem(&[&stolen, &lost]).unwrap();
    for revoked in [&stolen, &lost] {
        let error = as_client(revoked, authority.bundle_pem(), Some(&list)).unwrap_err();
        assert_eq!(error, rustls::Error::InvalidCertificate(CertificateError::Revoked));
    }
    as_client(&good, authority.bundle_pem(), Some(&list)).unwrap();
    let empty = authority.crl_pem(&[]).unwrap();
    as_client(&stolen, authority.bundle_pem(), Some(&empty)).unwrap();
}

#[test]
fn an_intermediate_issues_whole_chains() {
    let root = Authority::new("cluster.local").unwrap();
    let below = root.intermediate().unwrap().intermediate().unwrap();
    let issued = below.issue(&Leaf::new(SHOP)).unwrap();
    assert_eq!(chain(&issued).len(), 3);
    as_client(&issued, root.bundle_pem(), None).unwrap();
    assert_eq!(issued.bundle_pem, root.bundle_pem());
}

#[test]
fn only_good_trust_domains_have_an_authority() {
    for good in ["cluster.local", "a", "x-1_2.example"] {
        Authority::new(good).unwrap();
    }
    for bad in ["", "Cluster.local", "a/b", "spiffe://a", "a b", &"a".repeat(256)] {
        let error = Authority::new(bad).unwrap_err();
        assert!(error.to_string().contains("is no trust domain: it takes 1 to 255"), "{error}");
    }
}

#[test]
fn an_identity_is_written_in_full_or_as_a_path() {
    let authority = Authority::new("cluster.local").unwrap();
    for text in [SHOP, "ns/default/sa/shop"] {
        assert_eq!(authority.identity(text).unwrap(), SHOP);
    }
    for (text, reason) in [
        ("spiffe://elsewhere/ns/default/sa/shop", "another trust domain"),
        ("spiffe://cluster.local", "names no workload"),
        ("spiffe://cluster.local/", "empty"),
        ("https://cluster.local/shop", "scheme"),
        ("/ns/shop", "empty"),
        ("ns//shop", "empty"),
        ("ns/../shop", "dots"),
        ("", "empty"),
        ("ns/sh%6fp", "other characters"),
        (&"a".repeat(2048), "longer than 2048"),
    ] {
        let error = authority.identity(text).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("write spiffe://cluster.local/ns"), "{text}: {error}");
    }
}

#[test]
fn an_authority_is_kept_in_its_directory() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new");
    let made = Authority::open(&directory, "cluster.local").unwrap();
    let kept = Authority::open(&directory, "cluster.local").unwrap();
    assert_eq!(kept.bundle_pem(), made.bundle_pem());
    as_client(&kept.issue(&Leaf::new(SHOP)).unwrap(), made.bundle_pem(), None).unwrap();

    for (domain, reason) in [("cluster.loca", "not an authority of the trust domain"), ("Bad", "is no trust domain")] {
        let error = Authority::open(&directory, domain).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("another directory"), "{error}");
    }
    let long = "a".repeat(200);
    let other = parent.path().join("other");
    Authority::open(&other, &long).unwrap();
    Authority::open(&other, &long).unwrap();

    std::fs::copy(other.join("ca.key"), directory.join("ca.key")).unwrap();
    let error = Authority::open(&directory, "cluster.local").unwrap_err().to_string();
    assert!(error.contains("ca.key is not the key of ca.crt"), "{error}");
    std::fs::remove_file(directory.join("ca.key")).unwrap();
    let error = Authority::open(&directory, "cluster.local").unwrap_err().to_string();
    assert!(error.contains("a ca.crt and no ca.key"), "{error}");
}

fn read(directory: &std::path::Path) -> [String; 3] {
    ["tls.crt", "tls.key", "ca.crt"].map(|name| std::fs::read_to_string(directory.join(name)).unwrap())
}

fn content(issued: &Issued) -> [String; 3] {
    [issued.certificate_pem.clone(), issued.key_pem.clone(), issued.bundle_pem.clone()]
}

#[cfg(unix)]
#[test]
fn files_are_swapped_either_way_and_nothing_stays_behind() {
    use std::os::unix::fs::PermissionsExt as _;

    let authority = Authority::new("cluster.local").unwrap();
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let entries = || {
        let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut entries: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        entries.sort();
        entries
    };
    // From nothing, over itself, and from each to the other.
    for swap in [Swap::Files, Swap::Files, Swap::Symlink, Swap::Symlink, Swap::Files] {
        let issued = authority.issue(&Leaf::new(SHOP)).unwrap();
        issued.write_to(&directory, swap).unwrap();
        assert_eq!(read(&directory), content(&issued), "{swap:?}");
        let mode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("tls.key"), 0o600);
        let entries = entries();
        match swap {
            Swap::Files => assert_eq!(entries, ["ca.crt", "tls.crt", "tls.key"]),
            Swap::Symlink => {
                assert_eq!(entries.len(), 5, "{entries:?}");
                assert_eq!(entries[1..], ["..data", "ca.crt", "tls.crt", "tls.key"]);
                assert_eq!(std::fs::read_link(directory.join("..data")).unwrap().to_str(), Some(&*entries[0]));
            }
        }
    }
}

/// Who resolves `..data` once reads a pair, however often it is swapped meanwhile, or finds that it is gone.
#[cfg(unix)]
#[test]
fn a_reader_of_the_symlink_never_sees_two_halves() {
    let authority = Authority::new("cluster.local").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let issued = [(); 4].map(|()| authority.issue(&Leaf::new(SHOP)).unwrap());
    issued[0].write_to(directory.path(), Swap::Symlink).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..200 {
                issued[round % issued.len()].write_to(directory.path(), Swap::Symlink).unwrap();
            }
        });
        let mut seen = 0;
        while !writer.is_finished() || seen == 0 {
            let data = directory.path().join(std::fs::read_link(directory.path().join("..data")).unwrap());
            let pair = ["tls.crt", "tls.key"].map(|name| std::fs::read_to_string(data.join(name)));
            if let [Ok(certificate), Ok(key)] = pair {
                assert!(issued.iter().any(|issued| issued.certificate_pem == certificate && issued.key_pem == key));
                seen += 1;
            }
        }
    });
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let issued = Authority::new("cluster.local").unwrap().issue(&Leaf::new(SHOP)).unwrap();
    let error = issued.write_to(&file.join("below"), Swap::Files).unwrap_err().to_string();
    assert!(error.contains("file/below: "), "{error}");
}
