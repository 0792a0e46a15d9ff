//! A resolver that answers as it is told.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::model::DnsName;
use tokio::sync::watch;

use super::watchdog::watched_for;
use crate::{Answer, Resolve, ResolveError, Resolving};

/// A [`Resolve`] that answers as it is told, and counts what it is asked. Cheap to clone; clones share everything.
///
/// A name is a host without its port, or that of a service record. One that it was told nothing about does not exist. Names are
/// compared without case, as in DNS.
///
/// ```
/// use std::time::Duration;
/// use mesh_tower::testing::ScriptedResolver;
///
/// let resolver = ScriptedResolver::new();
/// resolver.set("greeter", &["127.0.0.1:50051".parse().unwrap()], Duration::from_secs(30));
/// resolver.fail("greeter", "the name server is down"); // from now on
/// ```
#[derive(Clone, Default)]
pub struct ScriptedResolver(Arc<Shared>);

#[derive(Default)]
struct Shared {
    names: Mutex<HashMap<String, Entry>>,
    /// Changed with each look-up and each new reply.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Entry {
    reply: Reply,
    asked: usize,
}

#[derive(Clone, Default)]
enum Reply {
    #[default]
    NoSuchName,
    Answer(Vec<SocketAddr>, Duration),
    Failure(String),
    Stall,
}

impl ScriptedResolver {
    /// A resolver that knows no name.
    pub fn new() -> Self {
        Self::default()
    }

    /// `name` has these endpoints from now on, for `ttl` each time they are asked for. Their ports count, whatever port
    /// is asked for; port 0 stands for that one.
    pub fn set(&self, name: &str, endpoints: &[SocketAddr], ttl: Duration) {
        self.reply(name, Reply::Answer(endpoints.to_vec(), ttl));
    }

    /// `name` does not exist from now on.
    pub fn remove(&self, name: &str) {
        self.reply(name, Reply::NoSuchName);
    }

    /// Look-ups of `name` fail with `reason` from now on.
    pub fn fail(&self, name: &str, reason: &str) {
        self.reply(name, Reply::Failure(reason.to_owned()));
    }

    /// Look-ups of `name` get no answer until there is another reply; that one they get.
    pub fn stall(&self, name: &str) {
        self.reply(name, Reply::Stall);
    }

    /// How often `name` was asked for so far.
    pub fn lookups(&self, name: &str) -> usize {
        self.lock().get(&name.to_ascii_lowercase()).map_or(0, |entry| entry.asked)
    }

    /// Resolves when `name` was asked for `count` times.
    ///
    /// # Panics
    /// If that does not come: after about a minute by the wall clock or a day by a paused one.
    pub async fn asked(&self, name: &str, count: usize) {
        let asked = self.until(|| (self.lookups(name) >= count).then_some(()));
        let text = || format!("{name} was asked for {} times, never {count} times", self.lookups(name));
        watched_for(asked, text).await;
    }

    fn reply(&self, name: &str, reply: Reply) {
        self.lock().entry(name.to_ascii_lowercase()).or_default().reply = reply;
        self.0.changes.send_replace(());
    }

    async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(value) = ready() {
                return value;
            }
            // The sender is ours: it is not gone.
            let _ = changes.changed().await;
        }
    }

    fn answer(&self, name: DnsName) -> impl Future<Output = Result<Answer, ResolveError>> + Send + 'static {
        let (key, port) = match &name {
            DnsName::Host { host, port } => (host.to_string(), *port),
            DnsName::Service(service) => (service.to_string(), 0),
            other => (other.to_string(), 0),
        };
        let key = key.to_ascii_lowercase();
        self.lock().entry(key.clone()).or_default().asked += 1;
        self.0.changes.send_replace(());
        let this = self.clone();
        async move {
            let reply = this.until(|| match &this.lock().get(&key)?.reply {
                Reply::Stall => None,
                reply => Some(reply.clone()),
            });
            match reply.await {
                Reply::Answer(mut endpoints, ttl) => {
                    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.port() == 0) {
                        endpoint.set_port(port);
                    }
                    Ok(Answer::new(endpoints, ttl))
                }
                Reply::Failure(reason) => Err(ResolveError::Failed { name, error: reason.into() }),
                Reply::NoSuchName | Reply::Stall => Err(ResolveError::NoSuchName { name }),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for ScriptedResolver {
    fn resolve(&self, name: &DnsName, _timeout: Duration) -> Resolving {
        Box::pin(self.answer(name.clone()))
    }
}

impl fmt::Debug for ScriptedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedResolver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_are_compared_without_case() {
        let resolver = ScriptedResolver::new();
        resolver.set("Greeter.Example", &["192.0.2.1:80".parse().unwrap()], Duration::from_secs(1));
        let name = DnsName::Host { host: "greeter.EXAMPLE".into(), port: 80 };
        let answer = resolver.resolve(&name, Duration::from_secs(1)).await.unwrap();
        assert_eq!(answer.endpoints.len(), 1);
        resolver.asked("GREETER.example", 1).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic = "greeter was asked for 0 times, never 1 times"]
    async fn a_look_up_that_never_comes_is_not_awaited_for_ever() {
        ScriptedResolver::new().asked("greeter", 1).await;
    }
}
