//! How many connections there are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::model::ServerLimits;

/// The connections of a server, in all and by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    all: u32,
    /// Of those who came while there was a limit for one address.
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
        // One address may be written in two ways where a socket takes both versions of IP.
        let limited = limits.max_connections_per_address.zip(remote.map(|remote| remote.ip().to_canonical()));
        if let Some((most, address)) = limited {
            let have = counted.by_address.entry(address).or_default();
            if *have >= most {
                return Err(Full::Address);
            }
            *have += 1;
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
