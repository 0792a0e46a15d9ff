use std::sync::Arc;

use http::uri::Authority;

/// Where a client sends its requests.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// To the authority of each request's URI.
    Uri,
    /// To this one, whatever the URI says.
    Named(Named),
}

/// One service, by the name a caller knows it by.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// What the peer is told.
    pub(crate) authority: Authority,
    /// What selects the service, where that is not the authority.
    pub(crate) key: Option<Arc<str>>,
    /// Whether the caller asked for TLS.
    pub(crate) secure: bool,
    /// Whether generated code stands for the path of the call at hand.
    pub(crate) generated: bool,
}
