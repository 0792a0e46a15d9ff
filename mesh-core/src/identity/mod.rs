//! Who a peer is: SPIFFE ids, the names in a certificate, and what is expected of them.
//!
//! Nothing here looks at a certificate itself: whoever has verified one hands on the names it holds.

mod san;
mod spiffe_id;
#[cfg(test)]
mod tests;

pub use san::{SanKind, SanMatch, SanPattern, SubjectAltName, matches_any};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
