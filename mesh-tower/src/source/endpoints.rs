//! Sources of endpoints: whoever knows where a backend lives, if the configuration does not say.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use mesh_core::model::Endpoint;
use tokio::sync::watch;

/// A source of endpoints (a registry, a database, DNS): finds those of a name and says each time they change.
///
/// ```
/// use std::future::Future;
/// use std::pin::Pin;
///
/// use mesh_tower::core::model::Endpoint;
/// use mesh_tower::{EndpointSource, Found};
/// use tokio::sync::watch;
///
/// /// Whatever the application puts into a channel.
/// struct Registry(watch::Receiver<Vec<std::net::SocketAddr>>);
///
/// impl EndpointSource for Registry {
///     fn watch(&self, _name: String, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         let mut addresses = self.0.clone();
///         Box::pin(async move {
///             loop {
///                 found.endpoints(addresses.borrow_and_update().iter().copied().map(Endpoint::new).collect());
///                 if addresses.changed().await.is_err() {
///                     return;
///                 }
///             }
///         })
///     }
/// }
/// ```
pub trait EndpointSource: Send + Sync + 'static {
    /// Watches `name` for as long as the returned future is polled; it is dropped when nobody needs the name any more.
    /// If it returns, it is called again after a pause, which grows.
    fn watch(&self, name: String, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What a source said last; `None` before its first word.
pub(crate) type Report = Option<Result<Vec<Endpoint>, Arc<str>>>;

/// Where a source reports. Cheap to clone.
///
/// Only the newest report counts: one that was not heard when the next comes is lost.
#[derive(Clone)]
pub struct Found(watch::Sender<Report>);

/// A place for reports, and where they are heard.
pub(crate) fn channel() -> (Found, watch::Receiver<Report>) {
    let (sender, receiver) = watch::channel(None);
    (Found(sender), receiver)
}

impl Found {
    /// These are the endpoints now, all of them; a list that is equal to the last one changes nothing.
    ///
    /// An endpoint named twice counts once. One that was there before keeps its connections and all that is known of
    /// it. Without any endpoint requests fail at once.
    pub fn endpoints(&self, mut endpoints: Vec<Endpoint>) {
        let mut seen = HashSet::with_capacity(endpoints.len());
        endpoints.retain(|endpoint| seen.insert(endpoint.address.clone()));
        self.0.send_if_modified(|report| {
            let changed = !matches!(report, Some(Ok(known)) if *known == endpoints);
            if changed {
                *report = Some(Ok(endpoints));
            }
            changed
        });
    }

    /// They cannot be found at the moment. Those that were found last stay in use; if none ever were, requests fail with
    /// `error`.
    pub fn failed(&self, error: impl fmt::Display) {
        self.0.send_if_modified(|report| {
            // What was found may not have been heard yet: a failure must not take its place.
            let changed = !matches!(report, Some(Ok(_)));
            if changed {
                *report = Some(Err(error.to_string().into()));
            }
            changed
        });
    }

    /// Resolves when nobody needs the endpoints any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Found")
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoints(ports: &[u16]) -> Vec<Endpoint> {
        ports.iter().map(|port| Endpoint::new(SocketAddr::from(([127, 0, 0, 1], *port)))).collect()
    }

    #[test]
    fn only_what_is_new_is_told_and_no_failure_hides_what_was_found() {
        let (found, mut heard) = channel();
        let mut news = || heard.has_changed().unwrap().then(|| heard.borrow_and_update().clone().unwrap());
        assert_eq!(news(), None);
        found.failed("no such name");
        assert_eq!(news(), Some(Err("no such name".into())));
        found.endpoints(endpoints(&[1, 2, 1]));
        found.failed("it is gone");
        assert_eq!(news(), Some(Ok(endpoints(&[1, 2]))));
        found.endpoints(endpoints(&[1, 2]));
        assert_eq!(news(), None);
        found.endpoints(endpoints(&[2, 1]));
        assert_eq!(news(), Some(Ok(endpoints(&[2, 1]))), "the order of a source's endpoints is its own");
        found.endpoints(Vec::new());
        assert_eq!(news(), Some(Ok(Vec::new())));
    }

    #[tokio::test]
    async fn a_source_hears_that_nobody_listens() {
        let (found, heard) = channel();
        drop(heard);
        found.closed().await;
        found.endpoints(endpoints(&[1]));
    }
}
