//! The verified peers of connections, for as long as those live.
//!
//! What a handshake has verified holds until it is replaced: a connection leaves its pool before a certificate that it
//! was made with expires ([`Session::replace_at`]), and ends at once when the peer is not trusted any more, because an
//! authority is gone or a list revokes it. [`review`] asks that of every connection whenever the identity changes.
//!
//! A session enters the list before it is compared with the identity in force, and the identity is in force before the
//! list is gone through: a change that comes while a connection is made is missed by neither side.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use mesh_core::model::Address;
use rand::{Rng, RngExt};
use rustls_pki_types::UnixTime;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::identity::{Certified, Identities, Identity, PeerRefused, Terms, Usage};
use crate::net::after;

/// The least time between a handshake and the replacement of its connection.
const MIN_AGE: Duration = Duration::from_secs(1);
/// After how many peers others have their turn: to verify one takes about a tenth of a millisecond.
const AT_A_TIME: usize = 32;
/// How long the list may be before it is tidied up.
const FEW: usize = 64;

/// A peer of mutual TLS, verified, and what it was verified by.
pub(crate) struct Session {
    peer: Arc<Certified>,
    address: Address,
    terms: Arc<Terms>,
    /// When the handshake was.
    began: UnixTime,
    replace_at: Instant,
    /// The identity by whose trust it was verified last.
    generation: AtomicU64,
    end: Mutex<Option<oneshot::Sender<PeerRefused>>>,
}

/// Held by a connection: its session, and the word that it must end.
pub(crate) struct Held {
    pub(in crate::net) session: Arc<Session>,
    refused: Option<oneshot::Receiver<PeerRefused>>,
}

/// The sessions of a mesh.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<List>);

#[derive(Default)]
struct List {
    all: Vec<Weak<Session>>,
    tidy_at: usize,
}

impl Session {
    /// When its connection is to be replaced.
    pub(in crate::net) fn replace_at(&self) -> Instant {
        self.replace_at
    }

    /// Verifies the peer anew by `identity`, as of the time of its handshake: a certificate that has expired since
    /// does no harm to what goes on over the connection, and others are on their way to take its place.
    fn review(&self, identity: &Identity) {
        let seen = self.generation.fetch_max(identity.generation(), Ordering::AcqRel);
        if seen >= identity.generation() {
            return;
        }
        let trust = identity.trust_on(&self.terms);
        let verified = trust.verify(self.peer.chain(), Usage::Server, &self.terms.expected, self.began);
        if let Err(refused) = verified
            && let Some(end) = self.lock().take()
        {
            tracing::info!(
                target: crate::observe::TARGET, endpoint = %self.address, reason = refused.as_str(),
                "a connection ends because its peer is not trusted any more: {refused}"
            );
            // Its connection may have ended by itself.
            let _ = end.send(refused);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<PeerRefused>>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("address", &self.address).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Held {
    /// Why the connection must end, once it must. Told once.
    pub(crate) fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<PeerRefused> {
        let Some(refused) = &mut self.refused else { return Poll::Pending };
        let told = Pin::new(refused).poll(cx);
        if told.is_ready() {
            self.refused = None;
        }
        match told {
            Poll::Ready(Ok(refused)) => Poll::Ready(refused),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Sessions {
    /// Keeps the session of a handshake that ended just now, by which `identity` verified `peer` on `terms`.
    ///
    /// # Errors
    /// If the peer is not trusted by the identity that is in force meanwhile.
    pub(super) fn begin(
        &self,
        peer: Arc<Certified>,
        address: &Address,
        terms: &Arc<Terms>,
        identity: &Identity,
        identities: &Identities,
    ) -> Result<Held, PeerRefused> {
        let expires = peer.valid_until().min(identity.not_after());
        let (end, mut refused) = oneshot::channel();
        let session = Arc::new(Session {
            peer,
            address: address.clone(),
            terms: Arc::clone(terms),
            began: UnixTime::now(),
            replace_at: after(Instant::now(), lifetime(expires, SystemTime::now(), &mut rand::rng())),
            generation: AtomicU64::new(identity.generation()),
            end: Mutex::new(Some(end)),
        });
        self.lock().add(&session);
        if let Some(identity) = identities.current() {
            session.review(&identity);
        }
        match refused.try_recv() {
            Ok(refused) => Err(refused),
            Err(_) => Ok(Held { session, refused: Some(refused) }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn add(&mut self, session: &Arc<Session>) {
        if self.all.len() >= self.tidy_at.max(FEW) {
            self.all.retain(|session| session.strong_count() > 0);
            self.tidy_at = self.all.len() * 2;
        }
        self.all.push(Arc::downgrade(session));
    }
}

/// Ends the connections whose peers `identity` does not trust.
pub(crate) async fn review(sessions: &Sessions, identity: &Identity) {
    let all = sessions.lock().all.clone();
    for some in all.chunks(AT_A_TIME) {
        some.iter().filter_map(Weak::upgrade).for_each(|session| session.review(identity));
        tokio::task::yield_now().await;
    }
}

/// How long a connection lives whose certificates are good until `expires`: a tenth to a fifth less, so that those that
/// were made at once are not replaced at once.
fn lifetime(expires: SystemTime, now: SystemTime, rng: &mut impl Rng) -> Duration {
    let rest = expires.duration_since(now).unwrap_or_default();
    rest.mul_f64(rng.random_range(0.8..=0.9)).max(MIN_AGE)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_connection_is_replaced_before_its_certificates_expire() {
        let (now, mut rng) = (SystemTime::now(), StdRng::seed_from_u64(1));
        let of = |rest: u64, rng: &mut StdRng| lifetime(now + Duration::from_secs(rest), now, rng);
        let lives: Vec<_> = (0..1000).map(|_| of(1000, &mut rng).as_secs()).collect();
        assert!(lives.iter().all(|life| (800..=900).contains(life)), "{lives:?}");
        // Five sigma of 1000 draws at one half.
        let early = lives.iter().filter(|life| **life < 850).count();
        assert!((421..=579).contains(&early), "{early}");
        // Without an end of connections that serve nothing, whatever the clock says.
        assert_eq!(of(1, &mut rng), MIN_AGE);
        assert_eq!(lifetime(now - Duration::from_secs(5), now, &mut rng), MIN_AGE);
    }
}
