//! The system's DNS, over hickory-resolver: its name servers, search domains and `ndots` (`/etc/resolv.conf`), and
//! `/etc/hosts`.
//!
//! The configuration is read when the first name is looked up. A change of one of the files counts from the next look-up
//! on; where it is not in files it is read again after a failure. hickory's cache is off: [`DnsSource`](super::DnsSource)
//! decides when a name is looked up again, and a TTL out of a cache would not be the true one.

mod files;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use mesh_core::model::DnsName;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use self::files::Files;
use super::{Answer, Resolve, ResolveError, Resolving};

/// How many targets of a service record are looked up at once.
const MAX_TARGETS_AT_ONCE: usize = 16;

/// See the [module](self).
pub(super) struct SystemResolver(Arc<Inner>);

struct Inner {
    files: Files,
    loaded: Mutex<Option<Arc<Loaded>>>,
}

impl SystemResolver {
    pub(super) fn new() -> Self {
        Self::of(Files::system())
    }

    fn of(files: Files) -> Self {
        Self(Arc::new(Inner { files, loaded: Mutex::new(None) }))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &DnsName, timeout: Duration) -> Resolving {
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        Box::pin(async move {
            let loaded = inner.load(timeout).await?;
            let result = loaded.resolve(&name).await;
            if matches!(result, Err(ResolveError::NoConfiguration(_) | ResolveError::Failed { .. })) {
                inner.forget(&loaded).await;
            }
            result
        })
    }
}

impl Inner {
    /// The resolver of the configuration as it is now.
    async fn load(&self, timeout: Duration) -> Result<Arc<Loaded>, ResolveError> {
        let mut loaded = self.loaded.lock().await;
        let files = self.files.clone();
        let known = loaded.clone().filter(|loaded| loaded.timeout == timeout);
        // Files are read and parsed where that may block.
        let read = tokio::task::spawn_blocking(move || {
            let content = files.read();
            match known {
                Some(known) if known.content == content => known,
                _ => Arc::new(Loaded::new(content, timeout)),
            }
        });
        let new = read.await.map_err(|error| ResolveError::NoConfiguration(error.into()))?;
        *loaded = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Reads the configuration again next time, whatever the files say.
    async fn forget(&self, failed: &Arc<Loaded>) {
        let mut loaded = self.loaded.lock().await;
        if loaded.as_ref().is_some_and(|loaded| Arc::ptr_eq(loaded, failed)) {
            *loaded = None;
        }
    }
}

/// A resolver and what it was made of.
struct Loaded {
    content: files::Content,
    timeout: Duration,
    hosts: Hosts,
    resolver: Result<TokioResolver, NetError>,
}

impl Loaded {
    fn new(content: files::Content, timeout: Duration) -> Self {
        let resolver = content.configuration().and_then(|(config, options)| resolver(config, options, timeout));
        Self { hosts: content.hosts(), content, timeout, resolver }
    }

    async fn resolve(self: &Arc<Self>, name: &DnsName) -> Result<Answer, ResolveError> {
        match name {
            DnsName::Service(service) => self.service(name, parse(service, name)?).await,
            DnsName::Host { host, port } => self.host(name, parse(host, name)?, *port).await,
            other => Err(ResolveError::InvalidName { name: other.clone(), reason: "not supported".to_owned() }),
        }
    }

    fn resolver(&self) -> Result<&TokioResolver, ResolveError> {
        self.resolver.as_ref().map_err(|error| ResolveError::NoConfiguration(error.clone().into()))
    }

    /// The addresses of a host: those of the hosts file or, if it has none, those of DNS, IPv6 first (RFC 6724).
    async fn host(&self, asked: &DnsName, host: Name, port: u16) -> Result<Answer, ResolveError> {
        let at = |ip| SocketAddr::new(ip, port);
        let known = self.in_hosts_file(&host);
        if !known.is_empty() {
            // The file is asked again as soon as it may be.
            return Ok(Answer::new(known.into_iter().map(at).collect(), Duration::ZERO));
        }
        let lookup = self.resolver()?.lookup_ip(host).await.map_err(|error| failure(asked, error))?;
        Ok(Answer::new(lookup.iter().map(at).collect(), ttl(lookup.as_lookup().answers())))
    }

    /// A host that the file knows for one family is not asked for in DNS for the other one.
    fn in_hosts_file(&self, host: &Name) -> Vec<IpAddr> {
        let of = |family| self.hosts.lookup_static_host(&Query::query(host.clone(), family));
        let lookups = [of(RecordType::AAAA), of(RecordType::A)];
        lookups.iter().flatten().flat_map(|lookup| ips(lookup.answers())).collect()
    }

    /// The addresses of the hosts that a service record names (RFC 2782): those of the lowest priority only.
    async fn service(self: &Arc<Self>, asked: &DnsName, service: Name) -> Result<Answer, ResolveError> {
        let lookup = self.resolver()?.srv_lookup(service).await.map_err(|error| failure(asked, error))?;
        let records: Vec<&SRV> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                // A target of "." says that there is no such service.
                RData::SRV(srv) if !srv.target.is_root() => Some(srv),
                _ => None,
            })
            .collect();
        let Some(priority) = records.iter().map(|srv| srv.priority).min() else {
            return Err(ResolveError::NoAddress { name: asked.clone() });
        };
        let mut ttl = ttl(lookup.answers());
        let gate = Arc::new(Semaphore::new(MAX_TARGETS_AT_ONCE));
        let mut tasks = JoinSet::new();
        let mut targets: Vec<Vec<SocketAddr>> = Vec::new();
        for srv in records.into_iter().filter(|srv| srv.priority == priority) {
            let with = |record: &&Record| record.name == srv.target && record.data.ip_addr().is_some();
            let enclosed: Vec<_> = lookup.additionals().iter().filter(with).cloned().collect();
            targets.push(ips(&enclosed).map(|ip| SocketAddr::new(ip, srv.port)).collect());
            if enclosed.is_empty() {
                let (this, gate, place) = (Arc::clone(self), Arc::clone(&gate), targets.len() - 1);
                let (asked, target, port) = (asked.clone(), srv.target.clone(), srv.port);
                tasks.spawn(async move {
                    let _turn = gate.acquire().await;
                    (place, this.host(&asked, target, port).await)
                });
            } else {
                ttl = ttl.min(self::ttl(&enclosed));
            }
        }
        let mut error = None;
        while let Some(ended) = tasks.join_next().await {
            match ended.map_err(|error| ResolveError::Failed { name: asked.clone(), error: error.into() })? {
                (place, Ok(answer)) => {
                    ttl = ttl.min(answer.ttl);
                    targets[place] = answer.endpoints;
                }
                // A target that does not exist is none; one that could not be looked up is asked for again soon.
                (_, Err(failed)) => {
                    if !matches!(failed, ResolveError::NoSuchName { .. } | ResolveError::NoAddress { .. }) {
                        ttl = Duration::ZERO;
                    }
                    error = Some(failed);
                }
            }
        }
        let endpoints: Vec<_> = targets.into_iter().flatten().collect();
        match error {
            Some(error) if endpoints.is_empty() => Err(error),
            _ => Ok(Answer::new(endpoints, ttl)),
        }
    }
}

fn resolver(config: ResolverConfig, mut options: ResolverOpts, timeout: Duration) -> Result<TokioResolver, NetError> {
    options.cache_size = 0;
    // It is read here: hickory would go on to ask DNS for the family that the file does not have.
    options.use_hosts_file = ResolveHosts::Never;
    // Whoever waits for one server until the time is up never asks the next.
    options.timeout = options.timeout.min(timeout / 2);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn parse(text: &str, asked: &DnsName) -> Result<Name, ResolveError> {
    Name::from_str_relaxed(text)
        .map_err(|error| ResolveError::InvalidName { name: asked.clone(), reason: error.to_string() })
}

fn ips(records: &[Record]) -> impl Iterator<Item = IpAddr> + '_ {
    records.iter().filter_map(|record| record.data.ip_addr())
}

/// The shortest one, also along a chain of aliases.
fn ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| record.ttl).min().unwrap_or(0).into())
}

fn failure(asked: &DnsName, error: NetError) -> ResolveError {
    let name = asked.clone();
    if error.is_nx_domain() {
        ResolveError::NoSuchName { name }
    } else if error.is_no_records_found() {
        ResolveError::NoAddress { name }
    } else {
        ResolveError::Failed { name, error: error.into() }
    }
}

#[cfg(test)]
mod tests;
