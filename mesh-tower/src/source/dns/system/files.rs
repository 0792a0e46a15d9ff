//! The files that configure the system's DNS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;

/// Where they are. Where the system keeps its configuration elsewhere than in files they are not read.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
}

/// What they held when they were read. As small as they are, comparing them costs less than it takes to tell by their
/// times whether they changed.
#[derive(PartialEq)]
pub(super) struct Content {
    resolv_conf: Result<Vec<u8>, Unreadable>,
    hosts: Vec<u8>,
}

struct Unreadable(Arc<io::Error>);

impl PartialEq for Unreadable {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind() == other.0.kind()
    }
}

impl Files {
    pub(super) fn system() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }

    /// Reads them. A hosts file that cannot be read counts as empty.
    pub(super) fn read(&self) -> Content {
        if !cfg!(unix) {
            return Content { resolv_conf: Ok(Vec::new()), hosts: Vec::new() };
        }
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.resolv_conf.display()));
        Content {
            resolv_conf: std::fs::read(&self.resolv_conf).map_err(|error| Unreadable(Arc::new(named(error)))),
            hosts: std::fs::read(&self.hosts).unwrap_or_default(),
        }
    }
}

impl Content {
    #[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
    pub(super) fn configuration(&self) -> Result<(ResolverConfig, ResolverOpts), NetError> {
        let text = self.resolv_conf.as_ref().map_err(|error| NetError::Io(Arc::clone(&error.0)))?;
        hickory_resolver::system_conf::parse_resolv_conf(text)
    }

    /// Of a system that keeps its configuration elsewhere.
    #[cfg(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))))]
    pub(super) fn configuration(&self) -> Result<(ResolverConfig, ResolverOpts), NetError> {
        hickory_resolver::system_conf::read_system_conf()
    }

    pub(super) fn hosts(&self) -> Hosts {
        if !cfg!(unix) {
            return Hosts::from_system().unwrap_or_default();
        }
        let mut hosts = Hosts::default();
        // What comes before a line that is no text counts.
        let _ = hosts.read_hosts_conf(self.hosts.as_slice());
        hosts
    }
}
