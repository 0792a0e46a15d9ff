//! How many connections there are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::model::ServerLimits;

/// The connections of a server, in all and by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    all: u32,
    /// Of those who came while there was a limit for one address, and are still there.
    by_address: HashMap<IpAddr, u32>,
}

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    All,
    Address,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    count: Count,
    address: Option<IpAddr>,
}

impl Count {
    /// A place for a connection from `remote`.
    pub(crate) fn enter(&self, limits: &ServerLimits, remote: Option<SocketAddr>) -> Result<Place, Full> {
        let mut counted = self.lock();
        if limits.max_connections.is_some_and(|most| counted.all >= most) {
            return Err(Full::All);
        }
        let limited = limits.max_connections_per_address.zip(remote.map(|remote| caller(remote.ip())));
        if let Some((most, address)) = limited {
            let have = counted.by_address.get(&address).copied().unwrap_or_default();
            if have >= most {
                return Err(Full::Address);
            }
            counted.by_address.insert(address, have + 1);
        }
        counted.all += 1;
        Ok(Place { count: self.clone(), address: limited.map(|(_, address)| address) })
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address. Of IPv6 that is a network of 64 bits: whoever is in one has as many addresses of it as they
/// like (RFC 7421, RFC 8981). One of IPv4 may be written in two ways where a socket takes both versions.
fn caller(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counted = self.count.lock();
        counted.all -= 1;
        if let Some(address) = self.address
            && let Some(have) = counted.by_address.get_mut(&address)
        {
            *have -= 1;
            if *have == 0 {
                counted.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: Option<u32>, address: Option<u32>) -> ServerLimits {
        let mut limits = ServerLimits::default();
        limits.max_connections = all;
        limits.max_connections_per_address = address;
        limits
    }

    #[test]
    fn rl_10_connections_are_counted_in_all_and_by_address() {
        let count = Count::default();
        let from = |text: &str| Some(text.parse().unwrap());
        let (a, again, b) = (from("192.0.2.1:1"), from("[::ffff:192.0.2.1]:2"), from("192.0.2.2:1"));
        let limits = limits(Some(3), Some(1));
        let first = count.enter(&limits, a).unwrap();
        assert_eq!(count.enter(&limits, again).unwrap_err(), Full::Address);
        let _second = count.enter(&limits, b).unwrap();
        let _unix = count.enter(&limits, None).unwrap();
        assert_eq!(count.enter(&limits, None).unwrap_err(), Full::All);
        drop(first);
        assert_eq!(count.len(), 2);
        drop(count.enter(&limits, again).unwrap());
        assert_eq!(count.lock().by_address.len(), 1);
    }

    /// RL-10: nobody has more places by taking another address of the same network.
    #[test]
    fn rl_10_a_network_of_ipv6_is_one_address() {
        let count = Count::default();
        let from = |text: &str| Some(text.parse().unwrap());
        let limits = limits(None, Some(2));
        let places = ["[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff:ffff:ffff:ffff]:1"];
        let mut places: Vec<_> = places.map(|text| count.enter(&limits, from(text)).unwrap()).into();
        assert_eq!(count.enter(&limits, from("[2001:db8:1:2:aaaa::7]:9")).unwrap_err(), Full::Address);
        places.push(count.enter(&limits, from("[2001:db8:1:3::1]:1")).unwrap());
        places.push(count.enter(&limits, from("[::ffff:192.0.2.1]:1")).unwrap());
        places.push(count.enter(&limits, from("[::ffff:192.0.2.2]:1")).unwrap());
        assert_eq!(count.lock().by_address.len(), 4);
        drop(places);
        assert!(count.lock().by_address.is_empty(), "nothing is kept of those who are gone");
    }

    /// RL-10: whoever is refused leaves nothing behind.
    #[test]
    fn rl_10_who_is_refused_is_not_remembered() {
        let count = Count::default();
        for i in 0..100_u8 {
            let remote = SocketAddr::from(([192, 0, 2, i], 1));
            assert_eq!(count.enter(&limits(Some(0), Some(1)), Some(remote)).unwrap_err(), Full::All);
            assert_eq!(count.enter(&limits(None, Some(0)), Some(remote)).unwrap_err(), Full::Address);
        }
        assert!(count.lock().by_address.is_empty());
    }

    #[test]
    fn a_limit_may_come_and_go() {
        let count = Count::default();
        let address = Some("192.0.2.1:1".parse().unwrap());
        let before = count.enter(&limits(None, None), address).unwrap();
        let during = count.enter(&limits(None, Some(1)), address).unwrap();
        drop(before);
        assert_eq!(count.enter(&limits(None, Some(1)), address).unwrap_err(), Full::Address);
        drop(during);
        assert!(count.enter(&limits(None, Some(1)), address).is_ok());
    }
}
