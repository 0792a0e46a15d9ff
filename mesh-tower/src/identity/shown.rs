//! Who a refused peer said to be, for whoever runs the handshake: the error of rustls has no place for it.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::certificate::Leaf;
use super::refused::list_names;

tokio::task_local! {
    static SHOWN: Cell<Option<Arc<str>>>;
}

/// Runs `handshake`, and says which names the peer has shown, if it was refused for its certificate.
pub(crate) async fn showing<T>(handshake: impl Future<Output = T>) -> (T, Option<Arc<str>>) {
    let both = async { (handshake.await, SHOWN.with(Cell::take)) };
    SHOWN.scope(Cell::new(None), both).await
}

/// The peer that sent `chain` is refused.
pub(super) fn note(chain: &[CertificateDer<'_>]) {
    // Where nobody wants to know, nothing is read.
    let _ = SHOWN.try_with(|shown| {
        let leaf = chain.first().and_then(|der| Leaf::read(der).ok());
        shown.set(leaf.map(|leaf| list_names(&leaf.names)));
    });
}
