use std::future::Future;
use std::pin::Pin;

use mesh_core::model::IdentityFiles;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::identity::MemoryIdentity;
use crate::testing::{Authority, Events, NewCertificate, Seen};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const SECOND: Duration = Duration::from_secs(1);

/// Hands out its updates, and stays until it is told to end.
struct Handing(mpsc::Sender<(IdentityUpdates, mpsc::Receiver<()>)>, std::sync::Mutex<Vec<mpsc::Sender<()>>>);

impl IdentitySource for Handing {
    fn run(&self, updates: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (alive, gone) = mpsc::channel(1);
        let (keep, mut end) = mpsc::channel(1);
        self.1.lock().unwrap().push(keep);
        self.0.try_send((updates, gone)).unwrap();
        Box::pin(async move {
            let _alive = alive;
            end.recv().await;
        })
    }
}

struct Kit {
    identities: Identities,
    events: Events,
    source: Arc<Handing>,
    custom: Arc<dyn IdentitySource>,
    started: mpsc::Receiver<(IdentityUpdates, mpsc::Receiver<()>)>,
    authority: Authority,
}

impl Kit {
    fn new() -> Self {
        let events = Events::new();
        let observers = Observers::new(Some(Arc::new(events.clone())));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (begin, since) = (SystemTime::now(), Instant::now());
        let clock = Arc::new(move || begin + since.elapsed());
        let (hand, started) = mpsc::channel(8);
        let source = Arc::new(Handing(hand, std::sync::Mutex::default()));
        Self {
            identities: Identities::with_clock(Tasks::new(), provider, observers, clock),
            events,
            custom: Arc::clone(&source) as _,
            source,
            started,
            authority: Authority::new("cluster.local"),
        }
    }

    fn start(&self, settings: &model::Identity) {
        self.identities.start(&Arc::new(settings.clone()), Some(&self.custom)).unwrap();
    }

    async fn started(&mut self) -> (IdentityUpdates, mpsc::Receiver<()>) {
        self.started.recv().await.unwrap()
    }

    fn material(&self) -> Material {
        self.authority.issue(CART).material(self.authority.bundles())
    }

    /// Good from now for `life`.
    fn living(&self, life: Duration) -> Material {
        let now = self.identities.now();
        let issued = self.authority.issue_as(NewCertificate::new().uri(CART).valid(now, now + life));
        issued.material(self.authority.bundles())
    }

    fn generation(&self) -> Option<u64> {
        let current = self.identities.current().map(|identity| identity.generation());
        assert_eq!(self.identities.subscribe().borrow().as_ref().map(|identity| identity.generation()), current);
        current
    }

    fn seen(&self, wanted: &str) -> usize {
        self.events.count(|seen| matches!(seen, Seen::Identity { what, .. } if *what == wanted))
    }

    fn status(&self) -> IdentityStatus {
        self.identities.status().borrow().clone()
    }
}

fn custom() -> model::Identity {
    model::Identity::new(IdentityFrom::Custom)
}

fn aliased(name: &str) -> model::Identity {
    let mut settings = custom();
    settings.trust_domain_aliases = vec![TrustDomain::new(name).unwrap()];
    settings
}

fn failure(status: &IdentityStatus) -> Option<&str> {
    status.failure.as_ref().map(|failure| &*failure.error)
}

/// MT-03: what is refused changes nothing, and is told once; the next good one heals.
#[tokio::test(start_paused = true)]
async fn mt_03_a_refused_update_changes_nothing() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let (updates, _gone) = kit.started().await;
    assert_eq!((kit.generation(), kit.status().source.as_ref()), (None, "the application's source"));
    let first = kit.material();
    updates.update(first.clone()).unwrap();
    assert_eq!((kit.generation(), kit.seen("changed")), (Some(1), 1));
    assert!(kit.identities.facts().last_successful);

    let (one, other) = (kit.authority.issue(CART), kit.authority.issue(CART));
    let mixed = Material::new(one.chain.clone(), other.key(), kit.authority.bundles());
    for _ in 0..3 {
        assert!(matches!(updates.update(mixed.clone()), Err(IdentityError::KeyMismatch)));
    }
    let status = kit.status();
    assert_eq!((kit.generation(), kit.seen("failed"), status.failures), (Some(1), 1, 3));
    let text = IdentityError::KeyMismatch.to_string();
    assert_eq!(failure(&status), Some(&*text));
    let facts = kit.identities.facts();
    assert_eq!((facts.last_successful, facts.failures, facts.generation), (false, 3, 1));
    assert_eq!(facts.not_after, kit.identities.current().map(|identity| identity.not_after()));

    updates.failed("the vault is sealed");
    updates.failed("the vault is sealed");
    assert_eq!((kit.seen("failed"), failure(&kit.status())), (2, Some("the vault is sealed")));

    tokio::time::advance(SECOND).await;
    updates.update(first).unwrap();
    let status = kit.status();
    assert_eq!((kit.generation(), failure(&status), status.failures), (Some(1), None, 5), "equal, and sound again");
    assert_eq!(status.loaded_at, Some(kit.identities.now()));
    updates.update(kit.material()).unwrap();
    assert_eq!((kit.generation(), kit.seen("changed")), (Some(2), 2));
    updates.failed("the vault is sealed");
    assert_eq!(kit.seen("failed"), 3, "what was healed in between is told again");
}

/// An own certificate that no peer takes is refused, at the start and in place of a good one; one that some will not take
/// is told of, once, and used.
#[tokio::test(start_paused = true)]
async fn own_certificates_that_peers_refuse_are_refused_or_told_of() {
    type Told = [&'static [&'static str]; 2];
    const NOTHING: &[&str] = &[];
    let new = || NewCertificate::new().uri(CART);
    let authority = Authority::new("cluster.local");
    let trusted = |certificate| authority.issue_as(certificate).material(authority.bundles());
    let below = authority.intermediate("below").issue(CART);
    let headless = || Material::new(below.chain[..1].to_vec(), below.key(), authority.bundles());
    let stranger = || Authority::new("cluster.local").issue(CART).material(authority.bundles());
    let other_id = || trusted(NewCertificate::new().uri("spiffe://cluster.local/other"));
    let plain = || trusted(NewCertificate::new().dns("cart"));
    let chain: &[&str] = &["`certificate`", "`trust_bundle` vouches", "(its issuer is not among them)", "will refuse"];
    // What is brought; why it is refused, at the start and later; of what is used, what is told of it.
    let cases: [(Material, [&str; 2], Told); 9] = [
        (trusted(new()), ["", ""], [NOTHING, NOTHING]),
        (below.material(authority.bundles()), ["", ""], [NOTHING, NOTHING]),
        (trusted(new().authority()), ["basicConstraints CA:true"; 2], [NOTHING, NOTHING]),
        (trusted(new().for_neither()), ["extendedKeyUsage of the certificate has neither"; 2], [NOTHING, NOTHING]),
        (
            plain(),
            ["", "no SPIFFE id (subjectAltName), and the one in force is spiffe://cluster.local/ns/shop/sa/cart"],
            [NOTHING, NOTHING],
        ),
        (trusted(new().for_clients()), ["", ""], [&["extendedKeyUsage", "no serverAuth", "as a server"]; 2]),
        (trusted(new().for_servers()), ["", ""], [&["extendedKeyUsage", "no clientAuth", "as a client"]; 2]),
        (headless(), ["", ""], [chain; 2]),
        (stranger(), ["", ""], [chain; 2]),
    ];
    let later =
        (other_id(), ["", ""], [NOTHING, &["is spiffe://cluster.local/other, and was", CART, "`identities`"][..]]);
    for (index, (material, refused, told)) in cases.into_iter().chain([later]).enumerate() {
        for (rotated, (refused, told)) in refused.into_iter().zip(told).enumerate() {
            let case = format!("case {index}, {}", if rotated == 1 { "later" } else { "at the start" });
            let mut kit = Kit::new();
            kit.start(&custom());
            let (updates, _gone) = kit.started().await;
            let before = (rotated == 1).then_some(1);
            if rotated == 1 {
                updates.update(trusted(new())).unwrap();
            }
            let warnings = crate::testing::log::Warnings::begin();
            let brought = updates.update(material.clone());
            let lines = warnings.take();
            if !refused.is_empty() {
                let error = brought.unwrap_err();
                assert!(error.to_string().contains(refused), "{case}: {error}");
                assert_eq!(error.part(), crate::identity::Part::Certificate);
                assert_eq!((kit.generation(), kit.seen("failed"), lines.len()), (before, 1, 1), "{case}: {lines:?}");
                assert!(!kit.identities.facts().last_successful && lines[0].contains(refused), "{case}: {lines:?}");
                continue;
            }
            brought.unwrap();
            assert_eq!(kit.generation(), Some(before.unwrap_or(0) + 1), "{case}");
            let status = kit.status();
            let expected = usize::from(!told.is_empty());
            assert_eq!((lines.len(), status.warnings.len()), (expected, expected), "{case}: {lines:?}");
            for word in told {
                assert!(lines[0].contains(word) && status.warnings[0].contains(word), "{case}, {word}: {lines:?}");
            }
            updates.update(material.clone()).unwrap();
            assert_eq!(warnings.take(), [""; 0], "{case}: told once");
        }
    }
}

/// Whoever gives up SPIFFE by the configuration names another source; what the same one brings is a mistake.
#[tokio::test(start_paused = true)]
async fn another_source_may_bring_an_identity_without_a_spiffe_id() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let (updates, _gone) = kit.started().await;
    updates.update(kit.material()).unwrap();
    let plain = || kit.authority.issue_as(NewCertificate::new().dns("cart")).material(kit.authority.bundles());
    kit.start(&aliased("old.example"));
    let next = kit.started.recv().await.unwrap();
    assert!(
        matches!(next.0.update(plain()), Err(IdentityError::LostSpiffeId { .. })),
        "the settings changed, and not it"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let issued = kit.authority.issue_as(NewCertificate::new().dns("cart"));
    std::fs::write(path("crt"), issued.certificate_pem()).unwrap();
    std::fs::write(path("key"), issued.key_pem()).unwrap();
    std::fs::write(path("ca"), kit.authority.root_pem()).unwrap();
    let files = IdentityFiles::new(path("crt"), path("key"), model::TrustFile::Pem(path("ca")));
    let mut changes = kit.identities.subscribe();
    kit.identities.start(&Arc::new(model::Identity::new(IdentityFrom::Files(files))), None).unwrap();
    changes.changed().await.unwrap();
    assert!(kit.identities.current().unwrap().id().is_none());
}

/// A new key for an equal certificate is refused if it is not its own.
#[tokio::test(start_paused = true)]
async fn an_equal_certificate_with_another_key_is_not_equal() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let (updates, _gone) = kit.started().await;
    let (one, other) = (kit.authority.issue(CART), kit.authority.issue(CART));
    updates.update(one.material(kit.authority.bundles())).unwrap();
    let mixed = Material::new(one.chain.clone(), other.key(), kit.authority.bundles());
    assert!(matches!(updates.update(mixed), Err(IdentityError::KeyMismatch)));
}

#[tokio::test(start_paused = true)]
async fn another_source_takes_over_with_its_first_good_identity() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let (old, mut old_gone) = kit.started().await;
    old.update(kit.material()).unwrap();

    kit.start(&aliased("one"));
    let (first, mut first_gone) = kit.started().await;
    first.failed("not yet");
    assert_eq!((kit.generation(), failure(&kit.status())), (Some(1), Some("not yet")));
    // The old one goes on meanwhile, and does not speak for the new one.
    old.update(kit.material()).unwrap();
    old.failed("old and tired");
    assert_eq!((kit.generation(), failure(&kit.status())), (Some(2), Some("not yet")));

    // Another change before anything came.
    kit.start(&aliased("two"));
    let (second, _second_gone) = kit.started().await;
    assert_eq!(first_gone.recv().await, None);
    first.update(kit.material()).unwrap();
    assert_eq!(kit.generation(), Some(2), "it was replaced");
    assert_eq!(failure(&kit.status()), None);

    let material = kit.material();
    second.update(material.clone()).unwrap();
    assert_eq!(kit.generation(), Some(3));
    assert_eq!(old_gone.recv().await, None);
    let domains: Vec<_> = kit.identities.current().unwrap().trust_domains().map(TrustDomain::to_string).collect();
    assert_eq!(domains, ["cluster.local", "two"]);
    old.update(kit.material()).unwrap();
    assert_eq!(kit.generation(), Some(3));

    // Other settings make another identity of equal material.
    kit.start(&aliased("three"));
    let (third, _third_gone) = kit.started().await;
    third.update(material).unwrap();
    assert_eq!(kit.generation(), Some(4));
}

#[tokio::test(start_paused = true)]
async fn settings_that_come_back_end_what_was_begun() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let (old, _old_gone) = kit.started().await;
    old.update(kit.material()).unwrap();
    kit.start(&custom());
    assert!(kit.started.try_recv().is_err(), "nothing has changed");
    kit.start(&aliased("one"));
    let (_next, mut next_gone) = kit.started().await;
    kit.start(&custom());
    assert_eq!(next_gone.recv().await, None);
    assert!(kit.started.try_recv().is_err());
    old.update(kit.material()).unwrap();
    assert_eq!(kit.generation(), Some(2));

    kit.identities.clear();
    assert_eq!((kit.generation(), &*kit.status().source), (None, ""));
    kit.start(&custom());
    let (again, _gone) = kit.started().await;
    again.update(kit.material()).unwrap();
    assert_eq!(kit.generation(), Some(3), "generations never repeat");
}

#[tokio::test(start_paused = true)]
async fn a_mesh_waits_for_its_first_identity() {
    let mut kit = Kit::new();
    assert_eq!(kit.identities.start(&Arc::new(custom()), None), Err(NoIdentity::NotGiven));
    kit.start(&custom());
    let (updates, _gone) = kit.started().await;
    let began = Instant::now();
    let error = kit.identities.wait(10 * SECOND).await.unwrap_err().to_string();
    assert_eq!(began.elapsed(), 10 * SECOND);
    let way_out =
        "a source must bring an identity as soon as it runs; raise `identity.startup_timeout` if it takes longer";
    let said =
        |failure| format!("identity: the application's source brought nothing usable within 10s: {failure}; {way_out}");
    assert_eq!(error, said("it said nothing"));
    updates.failed("the vault is sealed");
    assert_eq!(kit.identities.wait(10 * SECOND).await.unwrap_err().to_string(), said("the vault is sealed"));

    let material = kit.material();
    let (waited, ()) = tokio::join!(kit.identities.wait(10 * SECOND), async {
        tokio::time::sleep(SECOND).await;
        updates.update(material).unwrap();
    });
    assert_eq!(waited.unwrap().id().unwrap().as_str(), CART);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_source_is_told_at_once() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let _ = kit.started().await;
    kit.source.1.lock().unwrap().clear();
    let began = Instant::now();
    let error = kit.identities.wait(10 * SECOND).await.unwrap_err();
    assert!(matches!(error, NoIdentity::Ended { .. }), "{error}");
    assert_eq!(began.elapsed(), Duration::ZERO);

    let kit = Kit::new();
    struct Panics;
    impl IdentitySource for Panics {
        fn run(&self, _: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            panic!("no {}", "luck")
        }
    }
    let panics: Arc<dyn IdentitySource> = Arc::new(Panics);
    kit.identities.start(&Arc::new(custom()), Some(&panics)).unwrap();
    let error = kit.identities.wait(10 * SECOND).await.unwrap_err().to_string();
    assert!(error.contains("the identity source panicked: no luck"), "{error}");
}

/// What is over and what comes to its end is told once for each identity, in time.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_comes_to_its_end_is_told_of_once() {
    let mut kit = Kit::new();
    kit.start(&custom());
    let (updates, _gone) = kit.started().await;
    updates.update(kit.living(1000 * SECOND)).unwrap();
    tokio::time::sleep(795 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (0, 0));
    updates.update(kit.living(1000 * SECOND)).unwrap();
    tokio::time::sleep(795 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (0, 0), "it was replaced in time");
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (1, 0));
    tokio::time::sleep(190 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (1, 0));
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (1, 1));
    tokio::time::sleep(24 * 3600 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (1, 1));
    assert_eq!(kit.generation(), Some(2), "the last one stays, whatever it is worth");
    // One of which little is left when it comes, and one that lives longer than any sleep.
    let now = kit.identities.now();
    let old = NewCertificate::new().uri(CART).valid(now - 900 * SECOND, now + 100 * SECOND);
    updates.update(kit.authority.issue_as(old).material(kit.authority.bundles())).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (2, 1));
    updates.update(kit.living(365 * 24 * 3600 * SECOND)).unwrap();
    tokio::time::sleep(200 * 24 * 3600 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (2, 1));
    tokio::time::sleep(93 * 24 * 3600 * SECOND).await;
    assert_eq!((kit.seen("expiring"), kit.seen("expired")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_application_sets_the_identity() {
    let kit = Kit::new();
    let memory = MemoryIdentity::new(kit.material());
    let source: Arc<dyn IdentitySource> = Arc::new(memory.clone());
    kit.identities.start(&Arc::new(custom()), Some(&source)).unwrap();
    assert_eq!(kit.identities.wait(SECOND).await.unwrap().generation(), 1);
    drop(source);
    let mut changes = kit.identities.subscribe();
    memory.set(kit.material());
    changes.changed().await.unwrap();
    assert_eq!(kit.generation(), Some(2));
    let shown = format!("{memory:?}");
    assert!(shown.contains("<private key>"), "{shown}");
    memory.set(Material::new(Vec::new(), kit.authority.issue(CART).key(), Bundles::default()));
    drop(memory);
    let text = IdentityError::NoCertificate.to_string();
    kit.identities.status().wait_for(|status| failure(status) == Some(&*text)).await.unwrap();
    assert_eq!((kit.generation(), kit.status().ended), (Some(2), false));
}

#[test]
fn sources_have_names() {
    let files = IdentityFiles::new("/a.crt", "/a.key", model::TrustFile::Pem("/ca".into()));
    let agent =
        |endpoint: Option<&str>| IdentityFrom::WorkloadApi { endpoint: endpoint.map(Into::into), spiffe_id: None };
    for (source, wanted) in [
        (IdentityFrom::Files(files), "files /a.crt, /a.key"),
        (agent(Some("unix:/a")), "Workload API at unix:/a"),
        (agent(None), "Workload API at $SPIFFE_ENDPOINT_SOCKET"),
    ] {
        assert_eq!(&*status::name(&source), wanted);
    }
}
