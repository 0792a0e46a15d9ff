//! Picks from many threads while endpoints change.

use std::sync::atomic::AtomicBool;

use super::*;

/// Nothing panics, nobody is picked who is not of the picker, and once all is quiet the next pick knows it.
#[test]
fn picks_and_changes_at_the_same_time() {
    const COUNT: usize = 40;
    for (seed, policy) in policies().into_iter().enumerate() {
        let mut kit = Kit::new(policy.clone(), &[State::Ready; COUNT])
            .zoned(|index| (["a", "b"][index % 2], (index / 20) as u32, 1 + (index % 2) as u32))
            .with(|index, endpoint| endpoint.weight = 1 + (index % 3) as u32);
        kit.config.localities.panic_threshold = 30;
        let (picker, over) = (&kit.picker(), &AtomicBool::new(false));
        let (endpoints, fleet, now) = (&kit.endpoints, &kit.fleet, kit.now);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed as u64 * 10 + thread);
                    let mut time = now;
                    while !over.load(Ordering::Relaxed) {
                        time += Duration::from_millis(rng.random_range(0..3));
                        let hash = rng.random::<bool>().then(|| rng.next_u64());
                        let tried = &endpoints[..rng.random_range(0..3)];
                        match picker.pick(&PickRequest::new(hash, time), tried, &mut rng) {
                            Pick::Ready(chosen) => {
                                assert!(is_in(endpoints, chosen.endpoint));
                                let _counted = chosen.endpoint.enter(None).unwrap();
                                if chosen.probes {
                                    chosen.endpoint.release_probe();
                                }
                            }
                            Pick::Await(endpoint) => assert!(is_in(endpoints, endpoint)),
                            Pick::Wait => drop(picker.to_connect(time, &mut rng)),
                            Pick::Failing | Pick::Empty => {}
                        }
                        let _ = (picker.take_news(), picker.outlook(time), picker.census());
                    }
                });
            }
            let mut rng = StdRng::seed_from_u64(seed as u64);
            for step in 0..3_000_u64 {
                let endpoint = &endpoints[rng.random_range(0..COUNT)];
                let at = now + Duration::from_millis(step);
                match rng.random_range(0..8) {
                    0 => drop(endpoint.set_healthy(rng.random())),
                    1 => {
                        let outcome = Outcome::ServerError { gateway: false };
                        endpoint.judge(&outliers(), outcome, COUNT, false, at, &mut rng);
                    }
                    2 => {
                        let at = at + Duration::from_secs(1_000 + step);
                        let records = endpoints.iter().filter_map(|endpoint| endpoint.known_record());
                        fleet.detector().sweep(&outliers(), COUNT, records, at, &mut rng, |_, _| fleet.bump());
                    }
                    3 => endpoint.report_weight(rng.random_range(1.0..9.0), at),
                    state => {
                        let states = [State::Idle, State::Connecting, State::Ready, State::Failing];
                        endpoint.set_state(states[state - 4], at);
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(kit.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
        kit.pass(Duration::from_secs(3_600));
        kit.set(&[State::Failing; COUNT]);
        assert_ne!(kit.answer(picker), "ready", "{policy:?}");
        kit.set_one(11, State::Ready);
        kit.endpoints[11].set_healthy(true);
        let records = kit.endpoints.iter().filter_map(|endpoint| endpoint.known_record());
        kit.fleet.detector().reset(records, |_, _| kit.fleet.bump());
        assert_eq!(kit.next(picker), 11, "{policy:?}");
    }
}
