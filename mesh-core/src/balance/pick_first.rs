//! The order in which pick first tries endpoints.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;

use super::{Endpoint, State};
use crate::model::Address;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V6,
    V4,
    Unix,
}

impl Family {
    fn of(address: &Address) -> Self {
        match address {
            Address::Socket(address) if address.is_ipv6() => Self::V6,
            Address::Socket(_) => Self::V4,
            Address::Unix(_) => Self::Unix,
        }
    }
}

/// `endpoints` in the order in which pick first tries them: shuffled if asked (gRFC A62), by priority, then the address
/// families by turns, beginning with that of the first one (gRFC A61, RFC 8305 section 4).
///
/// An endpoint that is ready comes before all others: a new list does not move requests away from the connection they
/// use.
pub(crate) fn order<C, T>(
    mut endpoints: Vec<(C, Arc<Endpoint<T>>)>,
    shuffle: bool,
    priority: impl Fn(&C) -> u32,
    rng: &mut impl Rng,
) -> Vec<(C, Arc<Endpoint<T>>)> {
    if shuffle {
        endpoints.shuffle(rng);
    }
    let mut priorities = BTreeMap::<_, Vec<_>>::new();
    for endpoint in endpoints {
        priorities.entry(priority(&endpoint.0)).or_default().push(endpoint);
    }
    let mut ordered: Vec<_> = priorities.into_values().flat_map(interleave).collect();
    ordered.sort_by_key(|(_, endpoint)| endpoint.state() != State::Ready);
    ordered
}

fn interleave<C, T>(endpoints: Vec<(C, Arc<Endpoint<T>>)>) -> Vec<(C, Arc<Endpoint<T>>)> {
    let count = endpoints.len();
    let mut families: Vec<(Family, VecDeque<_>)> = Vec::new();
    for endpoint in endpoints {
        let family = Family::of(endpoint.1.address());
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, members)) => members.push_back(endpoint),
            None => families.push((family, VecDeque::from([endpoint]))),
        }
    }
    let mut ordered = Vec::with_capacity(count);
    while ordered.len() < count {
        ordered.extend(families.iter_mut().filter_map(|(_, members)| members.pop_front()));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::balance::Fleet;

    fn endpoints(addresses: &[&str]) -> Vec<((), Arc<Endpoint<()>>)> {
        let fleet = Arc::new(Fleet::new(Instant::now()));
        let address = |text: &&str| match text.strip_prefix("unix:") {
            Some(path) => Address::Unix(std::path::Path::new(path).into()),
            None => Address::Socket(text.parse().unwrap()),
        };
        addresses.iter().map(|text| ((), Arc::new(Endpoint::new(address(text), &fleet, ())))).collect()
    }

    fn addresses(endpoints: &[((), Arc<Endpoint<()>>)]) -> Vec<String> {
        endpoints.iter().map(|(_, endpoint)| endpoint.address().to_string()).collect()
    }

    /// LB-07: the families take turns, the first one's first, each in its own order.
    #[test]
    fn lb_07_address_families_take_turns() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&[], &[]),
            (&["1.0.0.1:1", "1.0.0.2:1"], &["1.0.0.1:1", "1.0.0.2:1"]),
            (&["[1::1]:1", "[1::2]:1", "[1::3]:1", "1.0.0.1:1"], &["[1::1]:1", "1.0.0.1:1", "[1::2]:1", "[1::3]:1"]),
            (&["1.0.0.1:1", "1.0.0.2:1", "[1::1]:1"], &["1.0.0.1:1", "[1::1]:1", "1.0.0.2:1"]),
            (
                &["1.0.0.1:1", "unix:/a", "unix:/b", "[1::1]:1", "[1::2]:1"],
                &["1.0.0.1:1", "unix:/a", "[1::1]:1", "unix:/b", "[1::2]:1"],
            ),
        ];
        for (given, wanted) in cases {
            let ordered = order(endpoints(given), false, |()| 0, &mut StdRng::seed_from_u64(0));
            assert_eq!(addresses(&ordered), wanted, "{given:?}");
        }
    }

    #[test]
    fn lb_07_a_connected_endpoint_stays_in_front() {
        let all = endpoints(&["1.0.0.1:1", "[1::1]:1", "1.0.0.2:1", "[1::2]:1"]);
        all[3].1.set_state(State::Ready, Instant::now());
        for shuffle in [false, true] {
            let ordered = order(all.clone(), shuffle, |()| 0, &mut StdRng::seed_from_u64(5));
            assert!(Arc::ptr_eq(&ordered[0].1, &all[3].1), "{:?}", addresses(&ordered));
            assert_eq!(ordered.len(), 4);
        }
        let ordered = order(all.clone(), false, |()| 0, &mut StdRng::seed_from_u64(5));
        assert_eq!(addresses(&ordered)[1..], ["1.0.0.1:1", "[1::1]:1", "1.0.0.2:1"]);
    }

    /// A lower priority is tried after a higher one, whatever the list says; a connected endpoint stays in front.
    #[test]
    fn priorities_come_one_after_the_other() {
        let all = endpoints(&["1.0.0.1:1", "[1::1]:1", "1.0.0.2:1", "[1::2]:1"]);
        let all: Vec<_> =
            all.into_iter().zip([1, 1, 0, 0]).map(|((_, endpoint), priority)| (priority, endpoint)).collect();
        let tried = |all: &Vec<(u32, Arc<Endpoint<()>>)>| {
            let ordered = order(all.clone(), false, |priority| *priority, &mut StdRng::seed_from_u64(0));
            ordered.iter().map(|(_, endpoint)| endpoint.address().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(tried(&all), ["1.0.0.2:1", "[1::2]:1", "1.0.0.1:1", "[1::1]:1"]);
        all[1].1.set_state(State::Ready, Instant::now());
        assert_eq!(tried(&all), ["[1::1]:1", "1.0.0.2:1", "[1::2]:1", "1.0.0.1:1"]);
    }

    /// Each of the six orders of three endpoints is drawn as often as the others: 6000 draws, within five sigma.
    #[test]
    fn lb_07_a_shuffle_draws_every_order() {
        let mut rng = StdRng::seed_from_u64(62);
        let mut seen = std::collections::BTreeMap::<_, u32>::new();
        for _ in 0..6_000 {
            let ordered = order(endpoints(&["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1"]), true, |()| 0, &mut rng);
            *seen.entry(addresses(&ordered)).or_default() += 1;
        }
        assert_eq!(seen.len(), 6);
        let sigma = (6_000.0_f64 * (1.0 / 6.0) * (5.0 / 6.0)).sqrt();
        for (order, count) in seen {
            assert!((f64::from(count) - 1_000.0).abs() < 5.0 * sigma, "{order:?}: {count}");
        }
    }
}
