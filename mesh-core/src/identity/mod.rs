//! Who a peer is: SPIFFE ids, the names in a certificate, and what is expected of them.
//!
//! Nothing here looks at a certificate itself: whoever has verified one hands on the names it holds.

mod bundle_map;
mod san;
mod spiffe_id;
#[cfg(test)]
mod tests;
mod workload_api;
pub mod xfcc;

pub use bundle_map::{BundleMapError, parse_bundle_map};
pub use san::{SanKind, SanMatch, SanPattern, SubjectAltName, matches_any};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use workload_api::{X509Svid, X509SvidResponse, split_certificates};
