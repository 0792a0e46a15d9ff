use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::{fs, io};

use mesh_core::model::IdentityFrom;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::state::Clock;
use crate::identity::{Identities, Identity, IdentitySource, Terms};
use crate::net::Tasks;
use crate::observe::Observers;
use crate::testing::{Authority, Events, Issued, NewCertificate, Seen, watched};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn identities(events: &Events, clock: Clock) -> Identities {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Identities::with_clock(Tasks::new(), provider, Observers::new(Some(Arc::new(events.clone()))), clock)
}

/// Leaves the telling to the test.
struct Silent;

impl IdentitySource for Silent {
    fn run(&self, _: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// A directory with the files of an identity, and who follows them, look by look.
struct Kit {
    directory: TempDir,
    settings: model::Identity,
    authority: Authority,
    events: Events,
    identities: Identities,
    updates: IdentityUpdates,
    follower: Follower,
}

impl Kit {
    /// Certificate, key and authority are there; `change` adds to the settings.
    fn new(change: impl FnOnce(&mut model::Identity, &Path)) -> Self {
        Self::at(Arc::new(std::time::SystemTime::now), change)
    }

    /// By another clock.
    fn at(clock: Clock, change: impl FnOnce(&mut model::Identity, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = settings(directory.path());
        change(&mut settings, directory.path());
        let authority = Authority::new("cluster.local");
        write(directory.path(), "ca.pem", authority.root_pem());
        put(directory.path(), &authority.issue(CART));
        let events = Events::new();
        let identities = identities(&events, clock);
        let custom: Arc<dyn IdentitySource> = Arc::new(Silent);
        identities.start(&Arc::new(model::Identity::new(IdentityFrom::Custom)), Some(&custom)).unwrap();
        let updates = IdentityUpdates::new(identities.clone(), 1);
        let follower = Follower::new(Plan::new(&settings));
        Self { directory, settings, authority, events, identities, updates, follower }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        write(self.path(), name, text);
    }

    async fn look(&mut self) {
        self.follower.look(&self.updates).await;
    }

    /// Looks, and expects that the identity of `issued` is in force and nothing wrong.
    #[track_caller]
    fn expect(&mut self, issued: &Issued) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            self.look().await;
            assert_eq!((self.failure(), self.serial()), (None, Some(issued.serial)), "{caller}");
        }
    }

    /// Looks, and expects that `problem` is told with the path of `file`; the identity stays.
    #[track_caller]
    fn expect_problem(&mut self, file: &str, problem: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            self.look().await;
            let wanted = format!("{}: {problem}", self.path().join(file).display());
            assert_eq!(self.failure().as_deref(), Some(&*wanted), "{caller}");
        }
    }

    fn current(&self) -> Arc<Identity> {
        self.identities.current().unwrap()
    }

    fn generation(&self) -> u64 {
        self.current().generation()
    }

    fn serial(&self) -> Option<u64> {
        self.identities.current().map(|identity| u64::from_str_radix(identity.serial(), 16).unwrap())
    }

    fn failure(&self) -> Option<String> {
        self.identities.status().borrow().failure.as_ref().map(|failure| failure.error.to_string())
    }

    fn failures_told(&self) -> usize {
        self.events.count(|seen| matches!(seen, Seen::Identity { what: "failed", .. }))
    }

    /// Issues a certificate and puts it there.
    fn rotate(&self) -> Issued {
        let issued = self.authority.issue(CART);
        put(self.path(), &issued);
        issued
    }
}

fn settings(directory: &Path) -> model::Identity {
    let trust = TrustFile::Pem(directory.join("ca.pem"));
    let mut files = IdentityFiles::new(directory.join("tls.crt"), directory.join("tls.key"), trust);
    files.refresh_interval = Duration::from_millis(10);
    model::Identity::new(IdentityFrom::Files(files))
}

fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) {
    fs::write(directory.join(name), text).unwrap();
}

fn put(directory: &Path, issued: &Issued) {
    write(directory, "tls.crt", issued.certificate_pem());
    write(directory, "tls.key", issued.key_pem());
}

/// Whether `server` and `client` shake hands, each with its own eyes.
async fn shake(server: &Identity, client: &Identity) -> io::Result<()> {
    let terms = Terms { alpn: Vec::new(), expected: Arc::default(), roots: None };
    let connector = TlsConnector::from(Arc::new(client.client_config(&terms).unwrap()));
    let acceptor = TlsAcceptor::from(Arc::new(server.server_config(&Arc::default(), true).unwrap()));
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from("peer").unwrap();
    let (accepted, connected) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
    connected?;
    accepted.map(drop)
}

/// MT-02: files are replaced one by one by renames, and all together by a symlink, while handshakes go on: each has a
/// certificate with its own key, and the last one comes into use.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mt_02_no_handshake_sees_half_a_rotation() {
    use std::os::unix::fs::symlink;

    let authority = Authority::new("cluster.local");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let replace = |name: &str, text: &str| {
        write(&path, ".new", text);
        fs::rename(path.join(".new"), path.join(name)).unwrap();
    };
    write(&path, "ca.pem", authority.root_pem());
    put(&path, &authority.issue(CART));
    let identities = identities(&Events::new(), Arc::new(std::time::SystemTime::now));
    identities.start(&Arc::new(settings(&path)), None).unwrap();
    identities.wait(Duration::from_secs(60)).await.unwrap();

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (identities, stopped) = (identities.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut generations = std::collections::BTreeSet::new();
                while !*stopped.borrow() {
                    let current = identities.current().unwrap();
                    shake(&current, &current).await.unwrap();
                    generations.insert(current.generation());
                }
                generations.len()
            })
        })
        .collect();
    let in_use = async |issued: &Issued| {
        let wanted = |current: &Option<Arc<Identity>>| current.as_ref().is_some_and(|it| it.chain() == issued.chain);
        watched(identities.subscribe().wait_for(wanted)).await.unwrap();
    };
    for round in 0..12 {
        let issued = authority.issue(CART);
        // Whichever comes first, the files do not match for a while.
        let mut files = [("tls.crt", issued.certificate_pem().to_owned()), ("tls.key", issued.key_pem())];
        files.rotate_left(round % 2);
        for (name, text) in files {
            replace(name, &text);
            if round % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        in_use(&issued).await;
    }
    // As Kubernetes mounts a secret.
    for round in 0..12 {
        let issued = authority.issue(CART);
        let version = format!("..{round}");
        fs::create_dir(path.join(&version)).unwrap();
        put(&path.join(&version), &issued);
        symlink(&version, path.join("..next")).unwrap();
        fs::rename(path.join("..next"), path.join("..data")).unwrap();
        if round == 0 {
            for name in ["tls.crt", "tls.key"] {
                fs::remove_file(path.join(name)).unwrap();
                symlink(Path::new("..data").join(name), path.join(name)).unwrap();
            }
        }
        in_use(&issued).await;
    }
    stop.send_replace(true);
    for reader in readers {
        assert!(reader.await.unwrap() > 1, "handshakes went on all the time");
    }
}

/// MT-03: what is half written or does not belong together is not used; the last good pair stays until the next.
#[tokio::test]
async fn mt_03_a_broken_pair_keeps_the_last_good_one() {
    let mut kit = Kit::new(|_, _| {});
    let good = kit.rotate();
    kit.expect(&good).await;
    let next = kit.authority.issue(CART);
    let (certificate, key) = (next.certificate_pem().to_owned(), next.key_pem());
    let cut = |text: &str| text[..text.len() / 2].to_owned();
    let both = format!("tls.crt, {}", kit.path().join("tls.key").display());
    let half = "PEM without an END line; it may be half written";
    let no_key = "no private key in PKCS#8, SEC1 or PKCS#1, without a password, in PEM in it";
    let cases: [(&str, String, &str, &str); 11] = [
        ("tls.crt", cut(&certificate), "tls.crt", half),
        ("tls.crt", String::new(), "tls.crt", "no certificate in PEM in it"),
        ("tls.crt", certificate.replace("\nMII", "\nM*I"), "tls.crt", "PEM with damaged base64"),
        ("tls.crt", certificate.replace("ATE-----\n", "ATE--\n"), "tls.crt", "PEM with a damaged BEGIN line"),
        ("tls.crt", key.clone(), "tls.crt", "no certificate in PEM in it"),
        (
            "tls.crt",
            certificate.clone(),
            &both,
            "the private key does not belong to the certificate: both must be replaced together",
        ),
        ("tls.key", cut(&key), "tls.key", half),
        ("tls.key", String::new(), "tls.key", no_key),
        ("tls.key", certificate.clone(), "tls.key", no_key),
        ("tls.key", format!("{key}{key}"), "tls.key", "2 private keys, where one is expected"),
        ("tls.key", key.replace("KEY-----\n", "KEY-----"), "tls.key", "PEM with a damaged BEGIN line"),
    ];
    for (index, (file, text, named, problem)) in cases.into_iter().enumerate() {
        kit.write(file, text);
        kit.expect_problem(named, problem).await;
        kit.expect_problem(named, problem).await;
        assert_eq!((kit.serial(), kit.generation()), (Some(good.serial), 1));
        assert_eq!(kit.failures_told(), index + 1, "once for each failure");
        put(kit.path(), &good);
        kit.expect(&good).await;
    }
    fs::remove_file(kit.path().join("tls.key")).unwrap();
    kit.expect_problem("tls.key", "No such file or directory (os error 2)").await;
    let next = kit.rotate();
    kit.expect(&next).await;
    assert_eq!(kit.generation(), 2);
}

/// Whoever mistyped a directory is told of all that is missing in it, at once.
#[tokio::test]
async fn every_missing_file_is_named() {
    let mut kit = Kit::new(|_, _| {});
    let names = ["tls.crt", "tls.key", "ca.pem"];
    let missing = names.map(|name| {
        let path = kit.path().join(name);
        fs::remove_file(&path).unwrap();
        format!("{}: No such file or directory (os error 2)", path.display())
    });
    kit.look().await;
    assert_eq!(kit.failure(), Some(missing.join("; ")));
}

/// MT-03, MT-04: whom to trust is news also while the pair is broken, half written or not matching.
#[tokio::test]
async fn mt_03_new_authorities_count_with_the_last_good_pair() {
    let mut kit = Kit::new(|_, _| {});
    let good = kit.rotate();
    kit.expect(&good).await;
    for (generation, text) in [(2, String::new()), (3, kit.authority.issue(CART).certificate_pem().to_owned())] {
        let next = Authority::new("cluster.local");
        kit.write("ca.pem", format!("{}{}", kit.authority.root_pem(), next.root_pem()));
        kit.write("tls.crt", text);
        kit.look().await;
        assert!(kit.failure().unwrap().contains("tls.crt"), "{:?}", kit.failure());
        assert_eq!((kit.serial(), kit.generation()), (Some(good.serial), generation));
        let material = next.issue(CART).material(kit.authority.bundles());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let now = rustls_pki_types::UnixTime::now();
        let peer = Identity::new(material, &kit.settings, &provider, 1, now).unwrap();
        shake(&kit.current(), &peer).await.unwrap();
    }
}

/// A certificate is found to be good in the course of time, although its file does not change.
#[tokio::test]
async fn what_time_alone_heals_is_read_again() {
    let now = std::time::SystemTime::now();
    let ahead = Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let clock = Arc::clone(&ahead);
    let mut kit = Kit::at(Arc::new(move || now + *clock.lock().unwrap()), |_, _| {});
    let minutes = |minutes: u32| Duration::from_secs(60) * minutes;
    let later = NewCertificate::new().uri(CART).valid(now + minutes(1), now + minutes(9));
    let later = kit.authority.issue_as(later);
    put(kit.path(), &later);
    for _ in 0..3 {
        kit.look().await;
        assert!(kit.failure().unwrap().contains("valid from"), "{:?}", kit.failure());
    }
    *ahead.lock().unwrap() = minutes(2);
    kit.expect(&later).await;
}

/// Looks cost nothing but `stat` once the files are settled; a file that is written anew with the same content makes no
/// new identity.
#[tokio::test]
async fn equal_content_makes_no_new_identity() {
    let mut kit = Kit::new(|_, _| {});
    let issued = kit.rotate();
    for _ in 0..3 {
        kit.expect(&issued).await;
    }
    let same = |kit: &Kit| matches!(reading::round(&kit.follower.plan, kit.follower.settled.as_ref()), Round::Same);
    assert!(same(&kit));
    put(kit.path(), &issued);
    kit.write("ca.pem", kit.authority.root_pem());
    assert!(!same(&kit));
    kit.expect(&issued).await;
    kit.expect(&issued).await;
    assert!(same(&kit));
    assert_eq!((kit.generation(), kit.failures_told()), (1, 0));
    let status = kit.identities.status().borrow().clone();
    assert_eq!((status.generation, status.failures), (1, 0));
}

/// MT-04: while both authorities are trusted, one side after the other changes, and everybody understands everybody.
#[tokio::test]
async fn mt_04_an_overlap_of_bundles_carries_over() {
    let (old, new) = (Authority::new("cluster.local"), Authority::new("cluster.local"));
    let (mut server, mut client) = (Kit::new(|_, _| {}), Kit::new(|_, _| {}));
    for kit in [&mut server, &mut client] {
        let issued = old.issue(CART);
        put(kit.path(), &issued);
        kit.write("ca.pem", old.root_pem());
        kit.expect(&issued).await;
    }
    let (first_server, first_client) = (server.current(), client.current());
    let mut steps = vec![(first_server.clone(), first_client.clone())];
    let overlap = format!("{}{}", old.root_pem(), new.root_pem());
    for kit in [&mut server, &mut client] {
        kit.write("ca.pem", &overlap);
        kit.look().await;
        assert_eq!((kit.failure(), kit.generation()), (None, 2));
    }
    // Whoever was connected at any time has seen one of these.
    steps.push((server.current(), first_client));
    steps.push((first_server.clone(), client.current()));
    let old_client = client.current();
    for (index, bundle) in [&*overlap, new.root_pem()].into_iter().enumerate() {
        for side in 0..2 {
            let kit = if side == 0 { &mut server } else { &mut client };
            if index == 0 {
                put(kit.path(), &new.issue(CART));
            }
            kit.write("ca.pem", bundle);
            kit.look().await;
            assert_eq!(kit.failure(), None);
            steps.push((server.current(), client.current()));
        }
    }
    for (server, client) in steps {
        shake(&server, &client).await.unwrap();
    }
    let error = shake(&server.current(), &old_client).await.unwrap_err();
    assert!(error.to_string().contains("Unknown") || error.to_string().contains("certificate"), "{error}");
}

fn with_lists(settings: &mut model::Identity, directory: &Path) {
    settings.revocation_list = Some(directory.join("revoked"));
}

/// MT-10: a list that is malformed keeps the previous one, and does not keep a new certificate out.
#[tokio::test]
async fn mt_10_a_malformed_list_keeps_the_previous_one() {
    let mut kit = Kit::new(with_lists);
    kit.look().await;
    assert_eq!(kit.identities.current().map(drop), None, "without its list nothing begins");
    kit.expect_problem("revoked", "No such file or directory (os error 2)").await;

    let (good, revoked) = (kit.rotate(), kit.authority.issue(CART));
    let list = kit.authority.revocation_list(&[&revoked]);
    kit.write("revoked", &list.pem);
    kit.expect(&good).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let of = |issued: &Issued| {
        let material = issued.material(kit.authority.bundles());
        Identity::new(material, &kit.settings, &provider, 1, rustls_pki_types::UnixTime::now()).unwrap()
    };
    let (peer, enemy) = (of(&kit.authority.issue(CART)), of(&revoked));
    shake(&kit.current(), &peer).await.unwrap();
    shake(&kit.current(), &enemy).await.unwrap_err();

    let broken = list.der[..list.der.len() - 1].to_vec();
    let damaged = "revocation list 1 cannot be used";
    for text in ["".to_owned(), list.pem[..100].to_owned(), list.pem.replace("\nMI", "\nMA"), hex_pem(&broken)] {
        kit.write("revoked", &text);
        let issued = kit.rotate();
        kit.look().await;
        let failure = kit.failure().unwrap();
        assert!(failure.starts_with(&*kit.path().join("revoked").display().to_string()), "{failure}");
        assert!(failure.contains("PEM") || failure.contains(damaged), "{failure}");
        assert_eq!(kit.serial(), Some(issued.serial), "the new certificate is used");
        shake(&kit.current(), &enemy).await.unwrap_err();
        shake(&kit.current(), &peer).await.unwrap();
    }
    kit.write("revoked", &kit.authority.revocation_list(&[]).pem);
    let issued = kit.rotate();
    kit.expect(&issued).await;
    shake(&kit.current(), &enemy).await.unwrap();
}

fn hex_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "-----BEGIN X509 CRL-----\n".to_owned();
    for three in der.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = if place > three.len() { b'=' } else { ALPHABET[(bits >> (18 - 6 * place) & 63) as usize] };
            text.push(char::from(digit));
        }
    }
    text + "\n-----END X509 CRL-----\n"
}

/// MT-10: a directory of lists is taken whole, through a symlink too; one broken file keeps all that was there.
#[cfg(unix)]
#[tokio::test]
async fn mt_10_a_directory_of_lists_is_swapped() {
    use std::os::unix::fs::symlink;

    let mut kit = Kit::new(with_lists);
    let good = kit.rotate();
    let other = Authority::new("other");
    let path = kit.path().to_owned();
    let lay = |version: &str, files: &[(&str, &str)]| {
        let directory = path.join(version);
        fs::create_dir(&directory).unwrap();
        files.iter().for_each(|(name, text)| write(&directory, name, text));
        symlink(version, path.join("next")).unwrap();
        fs::rename(path.join("next"), path.join("revoked")).unwrap();
    };
    let (own, theirs) = (kit.authority.revocation_list(&[]).pem, other.revocation_list(&[]).pem);
    lay("v0", &[]);
    kit.look().await;
    assert!(
        kit.failure().unwrap().ends_with("revoked: no files in it"),
        "an empty directory revokes nobody by mistake"
    );
    lay("v1", &[("own.pem", &own), ("theirs.pem", &theirs), (".hidden", "nothing")]);
    fs::create_dir(kit.path().join("v1/directory")).unwrap();
    kit.expect(&good).await;
    assert_eq!(kit.follower.revocation_lists.as_ref().map(Vec::len), Some(2));
    lay("v2", &[("own.pem", &own), ("theirs.pem", "half")]);
    kit.expect_problem("revoked/theirs.pem", "no certificate revocation list in PEM in it").await;
    assert_eq!(kit.follower.revocation_lists.as_ref().map(Vec::len), Some(2));
    kit.write("v2/theirs.pem", &theirs);
    kit.write("v2/third.pem", &theirs);
    kit.expect(&good).await;
    assert_eq!(kit.follower.revocation_lists.as_ref().map(Vec::len), Some(3));
    for index in 0..100 {
        kit.write(&format!("v2/{index}.pem"), &own);
    }
    kit.expect_problem("revoked", "more than 100 files in it").await;
}

fn bundle_map(domains: &[(&str, &Authority)]) -> String {
    let of = |(name, authority): &(&str, &Authority)| {
        let base64: String = authority.root_pem().lines().filter(|line| !line.starts_with('-')).collect();
        format!(r#""{name}":{{"spiffe_sequence":1,"keys":[{{"kty":"EC","use":"x509-svid","x5c":["{base64}"]}}]}}"#)
    };
    format!(r#"{{"trust_domains":{{{}}}}}"#, domains.iter().map(of).collect::<Vec<_>>().join(","))
}

/// MT-20: each trust domain is verified by its own bundle; a broken map keeps the old one, an empty one trusts nobody.
#[tokio::test]
async fn mt_20_a_broken_map_keeps_the_old_one() {
    let mut kit = Kit::new(|settings, directory| {
        let IdentityFrom::Files(files) = &mut settings.source else { unreachable!() };
        files.trust = TrustFile::SpiffeBundleMap(directory.join("map.json"));
    });
    let other = Authority::new("other.example");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let of = |authority: &Authority, id: &str| {
        let bundles = Bundles::default().with(domain("cluster.local"), vec![kit.authority.root().clone()]);
        let material = authority.issue(id).material(bundles);
        Identity::new(material, &kit.settings, &provider, 1, rustls_pki_types::UnixTime::now()).unwrap()
    };
    let sibling = of(&kit.authority, CART);
    let foreign = of(&other, "spiffe://other.example/api");
    let stranger = of(&Authority::new("third.example"), "spiffe://third.example/api");
    let good = kit.rotate();
    let trusted = async |kit: &Kit| {
        let current = kit.current();
        let mut trusted = Vec::new();
        for peer in [&sibling, &foreign, &stranger] {
            trusted.push(shake(&current, peer).await.is_ok());
        }
        trusted
    };
    kit.write("map.json", bundle_map(&[("cluster.local", &kit.authority), ("other.example", &other)]));
    kit.expect(&good).await;
    assert_eq!(trusted(&kit).await, [true, true, false]);

    let whole = bundle_map(&[("cluster.local", &kit.authority), ("third.example", &other)]);
    kit.write("map.json", whole.replacen("EC", "oct", 1));
    kit.expect_problem("map.json", "trust_domains.\"cluster.local\".keys[0].kty: `RSA` or `EC` is expected").await;
    kit.write("map.json", &whole[..whole.len() - 9]);
    kit.look().await;
    assert!(kit.failure().unwrap().contains("map.json: not JSON: at byte"), "{:?}", kit.failure());
    kit.write("map.json", whole.replacen("MII", "MIA", 1));
    kit.look().await;
    assert!(
        kit.failure().unwrap().contains("map.json: trust domain cluster.local: authority 1: "),
        "{:?}",
        kit.failure()
    );
    assert_eq!((trusted(&kit).await, kit.generation()), (vec![true, true, false], 1));

    kit.write("map.json", bundle_map(&[]));
    kit.expect(&good).await;
    assert_eq!((trusted(&kit).await, kit.generation()), (vec![false; 3], 2));
}

/// Each bundle of another trust domain is a file of its own, and keeps its own last good state.
#[tokio::test]
async fn a_broken_bundle_keeps_its_last_good_authorities() {
    let mut kit = Kit::new(|settings, directory| {
        for name in ["a", "b"] {
            settings.federated.insert(domain(name), directory.join(name));
        }
    });
    let good = kit.rotate();
    kit.write("a", Authority::new("a").root_pem());
    kit.expect_problem("b", "No such file or directory (os error 2)").await;
    assert_eq!(kit.serial(), None);
    kit.write("b", Authority::new("b").root_pem());
    kit.expect(&good).await;
    let (newer, others) = (Authority::new("a"), kit.follower.federated.clone());
    kit.write("a", newer.root_pem());
    kit.write("b", "");
    kit.expect_problem("b", "no certificate in PEM in it").await;
    assert_eq!((kit.generation(), &kit.follower.federated[&domain("a")][..]), (2, &[newer.root().clone()][..]));
    assert_eq!(kit.follower.federated[&domain("b")], others[&domain("b")]);
    kit.expect_problem("b", "no certificate in PEM in it").await;
    assert_eq!((kit.generation(), kit.failures_told()), (2, 2), "nothing is told or made again");
}

/// Bundles and lists in files count beside a source that brings none, from the first identity on.
#[tokio::test]
async fn files_stand_beside_another_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut settings = model::Identity::new(IdentityFrom::Custom);
    settings.federated.insert(domain("other.example"), path.join("other.pem"));
    settings.revocation_list = Some(path.join("revoked"));
    let (own, other) = (Authority::new("cluster.local"), Authority::new("other.example"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Its own task would follow the files, too: here each look is the test's.
    let tasks = Tasks::new();
    tasks.stop();
    let identities = Identities::new(tasks, Arc::clone(&provider), Observers::default());
    let silent: Arc<dyn IdentitySource> = Arc::new(Silent);
    identities.start(&Arc::new(settings.clone()), Some(&silent)).unwrap();
    let updates = IdentityUpdates::new(identities.clone(), 1);
    let mut follower = Follower::new(Plan::new(&settings));
    let serial = || identities.current().map(|identity| u64::from_str_radix(identity.serial(), 16).unwrap());
    let failure = || identities.status().borrow().failure.as_ref().map(|failure| failure.error.to_string());

    let first = own.issue(CART);
    let mixed = Material::new(first.chain.clone(), own.issue(CART).key(), own.bundles());
    assert!(matches!(updates.update(mixed.clone()), Err(IdentityError::KeyMismatch)));
    updates.update(first.material(own.bundles())).unwrap();
    follower.look(&updates).await;
    assert_eq!(serial(), None, "its lists are not there");
    assert!(failure().unwrap().contains("revoked: No such file"), "{:?}", failure());

    let foreign = other.issue("spiffe://other.example/api");
    let peer = own.issue(CART);
    let list = |revoked: &[&Issued]| format!("{}{}", own.revocation_list(revoked).pem, other.revocation_list(&[]).pem);
    write(path, "other.pem", other.root_pem());
    write(path, "revoked", list(&[]));
    follower.look(&updates).await;
    assert_eq!((serial(), failure()), (Some(first.serial), None));
    let of = |issued: &Issued, trust: Bundles| {
        let plain = model::Identity::new(IdentityFrom::Custom);
        Identity::new(issued.material(trust), &plain, &provider, 1, rustls_pki_types::UnixTime::now()).unwrap()
    };
    let everybody = Bundles::default()
        .with(domain("cluster.local"), vec![own.root().clone()])
        .with(domain("other.example"), vec![other.root().clone()]);
    let (foreign, peer_identity) = (of(&foreign, everybody.clone()), of(&peer, everybody));
    let accepted = async || {
        let current = identities.current().unwrap();
        [shake(&current, &foreign).await.is_ok(), shake(&current, &peer_identity).await.is_ok()]
    };
    assert_eq!(accepted().await, [true, true]);

    // What is broken keeps the last good; what the source brings meanwhile is used with it.
    write(path, "revoked", "half");
    let second = own.issue(CART);
    follower.look(&updates).await;
    assert!(failure().unwrap().contains("no certificate revocation list"), "{:?}", failure());
    updates.update(second.material(own.bundles())).unwrap();
    assert_eq!(serial(), Some(second.serial));
    updates.update(mixed).unwrap_err();
    write(path, "revoked", list(&[&peer]));
    follower.look(&updates).await;
    assert_eq!((serial(), failure()), (Some(second.serial), None));
    assert_eq!(accepted().await, [true, false]);
    let generation = identities.current().unwrap().generation();
    for _ in 0..2 {
        follower.look(&updates).await;
    }
    assert_eq!(identities.current().unwrap().generation(), generation);
}

/// No file is read without a bound, and none that is no file.
#[tokio::test]
async fn what_cannot_be_the_file_of_an_identity_is_not_read() {
    let mut kit = Kit::new(|_, _| {});
    let good = kit.rotate();
    kit.expect(&good).await;
    let file = fs::File::create(kit.path().join("ca.pem")).unwrap();
    file.set_len(1024 * 1024 + 1).unwrap();
    kit.expect_problem("ca.pem", "1048577 bytes are too many: a file of authorities has at most 1048576").await;
    fs::remove_file(kit.path().join("ca.pem")).unwrap();
    fs::create_dir(kit.path().join("ca.pem")).unwrap();
    kit.expect_problem("ca.pem", "this is a directory; a file of authorities must be a regular file").await;
    assert_eq!(kit.generation(), 1);
}

/// No text that anybody sees has a byte of a key in it.
#[tokio::test]
async fn errors_are_silent_about_keys() {
    let mut kit = Kit::new(|_, _| {});
    let key = kit.authority.issue(CART).key_pem();
    let secret: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let broken = [
        key.replace('\n', ""),
        key.replace("KEY-----\n", "KEY-----"),
        key.replace("-----END", "x"),
        format!("{key}{key}"),
        key.clone(),
    ];
    for text in broken {
        kit.write("tls.key", text);
        kit.look().await;
        let failure =
            format!("{} {:?} {:?}", kit.failure().unwrap(), kit.events.all(), kit.identities.status().borrow());
        for line in &secret {
            assert!(!failure.contains(&line[..12]), "{failure}");
        }
    }
}

#[test]
fn a_plan_names_every_file() {
    let mut settings = settings(Path::new("/d"));
    settings.federated.insert(domain("a"), "/a".into());
    settings.revocation_list = Some("/r".into());
    let paths: Vec<PathBuf> = Plan::new(&settings).paths().map(Path::to_owned).collect();
    assert_eq!(paths, ["/d/tls.crt", "/d/tls.key", "/d/ca.pem", "/a", "/r"].map(PathBuf::from));
}
