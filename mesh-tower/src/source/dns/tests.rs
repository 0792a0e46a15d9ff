use std::collections::VecDeque;
use std::sync::Mutex;

use mesh_core::observe::{Event, Observer};
use tokio::task::JoinHandle;

use super::*;
use crate::source::endpoints::{Report, channel};
use crate::testing::ScriptedResolver;

const SECOND: Duration = Duration::from_secs(1);

fn settings(min: u64, max: u64) -> DnsSettings {
    let mut settings = DnsSettings::default();
    settings.min_ttl = SECOND * u32::try_from(min).unwrap();
    settings.max_ttl = SECOND * u32::try_from(max).unwrap();
    settings
}

fn host(name: &str) -> DnsName {
    DnsName::Host { host: name.into(), port: 80 }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 80))
}

fn endpoints(last: &[u8]) -> Vec<Endpoint> {
    last.iter().map(|last| Endpoint::new(address(*last))).collect()
}

/// Ends the watching when dropped.
struct Watching {
    heard: watch::Receiver<Report>,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watching {
    fn start(source: &Arc<DnsSource>, name: &str) -> Self {
        let (found, heard) = channel();
        Self { heard, task: tokio::spawn(Arc::clone(source).watch(host(name), found)) }
    }

    async fn next(&mut self) -> Result<Vec<Endpoint>, Arc<str>> {
        self.heard.changed().await.unwrap();
        self.heard.borrow_and_update().clone().unwrap()
    }
}

fn source(resolver: &ScriptedResolver, settings: DnsSettings, observers: Observers) -> Arc<DnsSource> {
    let source = DnsSource::new(Some(Arc::new(resolver.clone())), observers);
    source.configure(settings);
    Arc::new(source)
}

/// The pauses between the next `count` look-ups of `name`.
async fn pauses(resolver: &ScriptedResolver, name: &str, count: usize) -> Vec<Duration> {
    let mut asked = resolver.lookups(name);
    let mut pauses = Vec::new();
    for _ in 0..count {
        let before = Instant::now();
        asked += 1;
        resolver.asked(name, asked).await;
        pauses.push(before.elapsed());
    }
    pauses
}

#[test]
fn a_pause_is_bounded_grows_with_failures_and_is_never_longer_than_due() {
    let found = |ttl| Last::Found { ttl: Duration::from_secs(ttl) };
    let failed = |times| Last::Failed { times };
    let cases = [
        (found(0), 5, 300, 5.0),
        (found(4), 5, 300, 5.0),
        (found(60), 5, 300, 60.0),
        (found(4_000), 5, 300, 300.0),
        (found(60), 0, 300, 60.0),
        (found(60), 600, 300, 600.0),
        (failed(1), 5, 300, 5.0),
        (failed(2), 5, 300, 10.0),
        (failed(6), 5, 300, 160.0),
        (failed(7), 5, 300, 300.0),
        (failed(u32::MAX), 5, 300, 300.0),
        (found(0), 0, 0, 0.01),
        (failed(1), 0, 300, 0.01),
    ];
    for (last, min, max, due) in cases {
        let settings = settings(min, max);
        assert_eq!(last.pause(&settings, 0.0).as_secs_f64(), due, "{last:?} {settings:?}");
        let soonest = (due * 0.9).max(settings.min_ttl.max(FLOOR).as_secs_f64());
        let earliest = last.pause(&settings, 1.0).as_secs_f64();
        assert!((earliest - soonest).abs() < 1e-6, "{last:?} {settings:?}: {earliest}");
    }
    let mut endless = settings(5, 5);
    endless.max_ttl = Duration::MAX;
    assert!(Last::Found { ttl: Duration::MAX }.pause(&endless, 0.5) > Duration::from_secs(1 << 40));
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_at_once_and_again_after_its_ttl() {
    let resolver = ScriptedResolver::new();
    resolver.set("greeter", &[address(1)], SECOND * 60);
    let source = source(&resolver, settings(5, 300), Observers::default());
    let began = Instant::now();
    let mut watching = Watching::start(&source, "greeter");
    assert_eq!(watching.next().await.unwrap(), endpoints(&[1]));
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The TTL, up to 10 % less; tokio's timer adds up to a millisecond. The draws differ from each other.
    let pauses = pauses(&resolver, "greeter", 50).await;
    let within = |pause: &&Duration| (54.0..=60.002).contains(&pause.as_secs_f64());
    assert_eq!(pauses.iter().filter(within).count(), 50, "{pauses:?}");
    let (min, max) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*max - *min > SECOND, "{pauses:?}");
    // The floor and the ceiling.
    for (ttl, range) in [(0, 5.0..=5.002), (3_600, 270.0..=300.002)] {
        resolver.set("greeter", &[address(1)], SECOND * ttl);
        resolver.asked("greeter", resolver.lookups("greeter") + 1).await;
        let pauses = self::pauses(&resolver, "greeter", 5).await;
        assert!(pauses.iter().all(|pause| range.contains(&pause.as_secs_f64())), "{ttl}: {pauses:?}");
    }
    assert!(!watching.heard.has_changed().unwrap(), "the same answer is no news");
}

#[tokio::test(start_paused = true)]
async fn what_was_found_last_stays_through_failures_and_empty_answers() {
    let resolver = ScriptedResolver::new();
    resolver.set("greeter", &[address(1)], SECOND);
    let source = source(&resolver, settings(5, 60), Observers::default());
    let mut watching = Watching::start(&source, "greeter");
    assert_eq!(watching.next().await.unwrap(), endpoints(&[1]));
    let scripts: [&dyn Fn(); 4] = [
        &|| resolver.fail("greeter", "SERVFAIL"),
        &|| resolver.remove("greeter"),
        &|| resolver.set("greeter", &[], SECOND),
        &|| resolver.stall("greeter"),
    ];
    for script in scripts {
        script();
        resolver.asked("greeter", resolver.lookups("greeter") + 4).await;
        assert!(!watching.heard.has_changed().unwrap());
        // It recovers by itself.
        resolver.set("greeter", &[address(1), address(2)], SECOND);
        assert_eq!(watching.next().await.unwrap(), endpoints(&[1, 2]));
        resolver.set("greeter", &[address(1)], SECOND);
        assert_eq!(watching.next().await.unwrap(), endpoints(&[1]));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_while_nothing_was_found_and_asked_again_with_growing_pauses() {
    let resolver = ScriptedResolver::new();
    let source = source(&resolver, settings(5, 60), Observers::default());
    let mut watching = Watching::start(&source, "greeter");
    assert_eq!(&*watching.next().await.unwrap_err(), "greeter:80 does not exist in DNS");
    let pauses = pauses(&resolver, "greeter", 7).await;
    for (pause, due) in pauses.iter().zip([5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]) {
        let soonest = f64::max(due * 0.9, 5.0);
        assert!((soonest..=due + 0.002).contains(&pause.as_secs_f64()), "{pauses:?}");
    }
    resolver.set("greeter", &[], SECOND);
    resolver.asked("greeter", resolver.lookups("greeter") + 1).await;
    assert_eq!(&*watching.next().await.unwrap_err(), "greeter:80 has no address in DNS");
    // After a success the pauses are short again.
    resolver.set("greeter", &[address(1)], SECOND);
    assert_eq!(watching.next().await.unwrap(), endpoints(&[1]));
    resolver.fail("greeter", "SERVFAIL");
    resolver.asked("greeter", resolver.lookups("greeter") + 1).await;
    assert!(self::pauses(&resolver, "greeter", 1).await[0] <= SECOND * 5 + SECOND / 100);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_does_not_end_is_given_up_after_the_timeout() {
    let resolver = ScriptedResolver::new();
    resolver.stall("greeter");
    let mut settings = settings(5, 60);
    settings.timeout = SECOND * 2;
    let source = source(&resolver, settings, Observers::default());
    let began = Instant::now();
    let mut watching = Watching::start(&source, "greeter");
    let error = watching.next().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(&*error, "greeter:80: no answer of DNS within 2s; raise `dns.timeout` if it is only slow");
}

/// A name server that turns its answers round changes nothing; those that stay keep their place.
#[tokio::test(start_paused = true)]
async fn another_order_is_no_change_and_no_address_counts_twice() {
    let cases: [(&[u8], &[u8], &[u8]); 5] = [
        (&[], &[3, 1, 2], &[3, 1, 2]),
        (&[], &[1, 2, 1], &[1, 2]),
        (&[1, 2, 3], &[3, 1, 2], &[1, 2, 3]),
        (&[1, 2, 3], &[4, 3, 1], &[1, 3, 4]),
        (&[1, 2], &[5, 4], &[5, 4]),
    ];
    for (known, found, wanted) in cases {
        let found = found.iter().map(|last| address(*last)).collect();
        assert_eq!(merge(&endpoints(known), found), endpoints(wanted));
    }
    let resolver = ScriptedResolver::new();
    resolver.set("greeter", &[address(1), address(2)], SECOND);
    let source = source(&resolver, settings(5, 60), Observers::default());
    let mut watching = Watching::start(&source, "greeter");
    assert_eq!(watching.next().await.unwrap(), endpoints(&[1, 2]));
    resolver.set("greeter", &[address(2), address(1)], SECOND);
    resolver.asked("greeter", 3).await;
    assert!(!watching.heard.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_look_ups_have_a_place_at_once() {
    let resolver = ScriptedResolver::new();
    let names: Vec<_> = (0..MAX_LOOKUPS + 20).map(|number| format!("name-{number}")).collect();
    names.iter().for_each(|name| resolver.stall(name));
    let source = source(&resolver, settings(5, 60), Observers::default());
    let mut watching: VecDeque<_> = names.iter().map(|name| Watching::start(&source, name)).collect();
    let asked = || names.iter().filter(|name| resolver.lookups(name) > 0).count();
    tokio::time::sleep(TURN / 10).await;
    assert_eq!(asked(), MAX_LOOKUPS);
    // One that gets its answer, and one that is not needed any more, make room for the next.
    resolver.set("name-0", &[address(1)], SECOND * 10_000);
    assert_eq!(watching[0].next().await.unwrap(), endpoints(&[1]));
    tokio::time::sleep(TURN / 10).await;
    assert_eq!(asked(), MAX_LOOKUPS + 1);
    drop(watching.remove(1));
    tokio::time::sleep(TURN / 10).await;
    assert_eq!(asked(), MAX_LOOKUPS + 2);
}

#[tokio::test(start_paused = true)]
async fn names_that_hang_do_not_starve_one_that_is_answered() {
    let resolver = ScriptedResolver::new();
    resolver.set("greeter", &[address(1)], SECOND * 5);
    let mut settings = settings(5, 60);
    settings.timeout = SECOND * 1_000;
    let source = source(&resolver, settings, Observers::default());
    let names: Vec<_> = (0..MAX_LOOKUPS).map(|number| format!("name-{number}")).collect();
    names.iter().for_each(|name| resolver.stall(name));
    let mut hanging: Vec<_> = names.iter().map(|name| Watching::start(&source, name)).collect();
    resolver.asked(names.last().unwrap(), 1).await;
    let began = Instant::now();
    let mut watching = Watching::start(&source, "greeter");
    assert_eq!(watching.next().await.unwrap(), endpoints(&[1]));
    assert!(began.elapsed() <= TURN + SECOND / 100, "{:?}", began.elapsed());
    // Nor later, and those that hang are still waited for.
    let pauses = pauses(&resolver, "greeter", 3).await;
    assert!(pauses.iter().all(|pause| *pause <= SECOND * 5 + SECOND / 100), "{pauses:?}");
    resolver.set("name-0", &[address(2)], SECOND);
    assert_eq!(hanging[0].next().await.unwrap(), endpoints(&[2]));
    assert_eq!(resolver.lookups("name-1"), 1);
}

/// Settings count at once, also for the pause under way.
#[tokio::test(start_paused = true)]
async fn changed_settings_shorten_the_pause() {
    let resolver = ScriptedResolver::new();
    resolver.set("greeter", &[address(1)], SECOND * 10_000);
    let source = source(&resolver, settings(5, 300), Observers::default());
    let began = Instant::now();
    let mut watching = Watching::start(&source, "greeter");
    watching.next().await.unwrap();
    tokio::time::sleep(SECOND * 10).await;
    source.configure(settings(5, 20));
    resolver.asked("greeter", 2).await;
    assert!((18.0..=20.002).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    tokio::time::sleep(SECOND * 10).await;
    source.configure(settings(1, 2));
    resolver.asked("greeter", 3).await;
    assert!(began.elapsed() <= SECOND * 31, "one that is overdue is looked up at once: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_address_is_not_looked_up() {
    let resolver = ScriptedResolver::new();
    let source = source(&resolver, settings(5, 300), Observers::default());
    for (host, socket) in [("192.0.2.9", "192.0.2.9:80"), ("2001:db8::1", "[2001:db8::1]:80")] {
        let mut watching = Watching::start(&source, host);
        assert_eq!(watching.next().await.unwrap(), [Endpoint::new(socket.parse::<SocketAddr>().unwrap())]);
        assert_eq!(resolver.lookups(host), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn each_look_up_is_an_event() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<(String, usize, Option<String>)>>);
    impl Observer for Seen {
        fn event(&self, event: &Event<'_>) {
            if let Event::Lookup(lookup) = event {
                let error = lookup.error.map(str::to_owned);
                self.0.lock().unwrap().push((lookup.finder.to_string(), lookup.endpoints, error));
            }
        }
    }
    let seen = Arc::new(Seen::default());
    let resolver = ScriptedResolver::new();
    resolver.set("greeter", &[address(1), address(2)], SECOND);
    let source = source(&resolver, settings(5, 60), Observers::new(Some(Arc::new(Arc::clone(&seen)))));
    let mut watching = Watching::start(&source, "greeter");
    watching.next().await.unwrap();
    resolver.fail("greeter", "SERVFAIL");
    resolver.asked("greeter", 3).await;
    let seen = seen.0.lock().unwrap();
    assert_eq!(seen[0], ("dns:greeter:80".to_owned(), 2, None));
    assert_eq!(seen[1], ("dns:greeter:80".to_owned(), 0, Some("greeter:80: SERVFAIL".to_owned())));
}

#[cfg(not(feature = "dns"))]
#[tokio::test]
async fn without_the_feature_a_name_is_an_error_that_says_so() {
    let source = Arc::new(DnsSource::new(None, Observers::default()));
    let error = Watching::start(&source, "greeter").next().await.unwrap_err();
    assert!(error.contains("built without the feature `dns`"), "{error}");
}
