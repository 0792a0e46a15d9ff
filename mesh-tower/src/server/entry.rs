//! Whether a caller that was let in may stay.

use std::sync::Arc;

use mesh_core::model::ServerTls;
use tokio::sync::watch;

use super::life::{Cut, Leave};
use super::peer::Peer;
use super::state::ServerState;
use crate::identity::Identity;
use crate::observe::TARGET;

/// What was changed since a caller was let in.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    /// Of whom the server lets in.
    entry: watch::Receiver<u64>,
    /// Of whom this process trusts.
    identities: watch::Receiver<Option<Arc<Identity>>>,
}

impl Changes {
    /// From now on.
    pub(super) fn new(state: &ServerState) -> Self {
        Self { entry: state.entry.subscribe(), identities: state.shared.identities.subscribe() }
    }

    /// Resolves once `peer` would not be let in any more. Whoever is not trusted leaves at once (MT-10); whoever is
    /// nobody, where callers have to prove who they are from now on, may finish what is under way.
    pub(super) async fn end(&mut self, state: &ServerState, peer: &Peer) -> Leave {
        loop {
            let changed = tokio::select! {
                changed = self.entry.changed() => changed,
                changed = self.identities.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
            let (server, remote) = (&*state.name, peer.remote_address());
            let settings = state.settings();
            if !peer.is_mutual() {
                if settings.tls() == ServerTls::Strict {
                    tracing::info!(target: TARGET, server, peer = ?remote, "a caller in plaintext is no longer let in");
                    return Leave::Gracefully;
                }
                continue;
            }
            let identity = Option::clone(&self.identities.borrow_and_update());
            let Some(identity) = identity else { continue };
            if let Err(refused) = peer.check(&identity, &settings.server.identities) {
                tracing::info!(target: TARGET, server, peer = ?remote, %refused, "a caller is no longer let in");
                return Leave::Now(Cut::Distrusted);
            }
        }
    }
}
