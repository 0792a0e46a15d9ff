//! Which virtual host and which route a request belongs to, and what its hash is.
//!
//! Pure functions over [`http`] types and the [model](crate::model). [`HostTable`] and [`RouteTable`] are compiled once
//! per configuration; a look-up allocates nothing unless a header comes in several values or a query is encoded.

mod cookie;
mod hash;
mod header;
mod host;
mod query;
mod session;
mod table;
mod text;
mod trie;

use http::{HeaderMap, Method, Uri};

pub use cookie::cookie;
pub(crate) use hash::stated_hash;
pub use hash::{Origin, RequestHash, hash_of, request_hash};
pub use header::header_matches;
pub use host::{HostConflict, HostTable};
pub use query::query_matches;
pub use session::Session;
pub use table::RouteTable;
pub use text::string_matches;

/// What matching may look at: the head of a request, as it is going to be sent.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The name the caller asked for, perhaps with a port.
    pub authority: &'a str,
    /// The path as it stands in the request, neither decoded nor normalised. Empty counts as `/`.
    pub path: &'a str,
    /// What follows the `?`, without it.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The head of a request for `uri` whose authority was settled as `authority`: an origin-form URI has none, and a
    /// caller may override the one in an absolute URI.
    pub fn new(method: &'a Method, uri: &'a Uri, authority: &'a str, headers: &'a HeaderMap) -> Self {
        Self { method, authority, path: uri.path(), query: uri.query(), headers }
    }
}
