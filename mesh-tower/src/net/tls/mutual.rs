//! Mutual TLS by the identity in force.
//!
//! A configuration of rustls is made for an identity when a handshake first needs it, and kept until the identity changes.
//! It holds the sessions that can be resumed: none outlives the certificate, the trust and the lists by which its peer was
//! verified (CVE-2022-21654).

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use mesh_core::identity::SanMatch;
use rustls::{ClientConfig, RootCertStore};

use super::alpn::Offer;
use crate::identity::{Identity, Terms, Trust};

/// What a backend wants of its peers, and how they are spoken to just now.
pub(super) struct Mutual {
    /// In the order of [`Offer::ALL`].
    terms: [Arc<Terms>; 3],
    /// Whether a name is configured to be sent as SNI.
    says_name: bool,
    made: ArcSwapOption<Made>,
}

/// What is made of one identity.
pub(super) struct Made {
    identity: Arc<Identity>,
    pub(super) trust: Arc<Trust>,
    configs: [OnceLock<Arc<ClientConfig>>; 3],
}

impl Mutual {
    pub(super) fn new(roots: Option<Arc<RootCertStore>>, expected: Arc<[SanMatch]>, says_name: bool) -> Self {
        let terms = |offer: Offer| {
            Arc::new(Terms { alpn: offer.names(true), expected: Arc::clone(&expected), roots: roots.clone() })
        };
        Self { terms: Offer::ALL.map(terms), says_name, made: ArcSwapOption::empty() }
    }

    pub(super) fn terms(&self, offer: Offer) -> &Arc<Terms> {
        &self.terms[offer as usize]
    }

    /// What is made of `identity`.
    pub(super) fn made(&self, identity: &Arc<Identity>) -> Arc<Made> {
        if let Some(made) = &*self.made.load()
            && Arc::ptr_eq(&made.identity, identity)
        {
            return Arc::clone(made);
        }
        let made = Arc::new(Made {
            identity: Arc::clone(identity),
            // The terms differ by what is offered alone.
            trust: identity.trust_on(self.terms(Offer::Both)),
            configs: Default::default(),
        });
        self.made.store(Some(Arc::clone(&made)));
        made
    }
}

impl Made {
    /// The configuration for a handshake that offers `offer`.
    pub(super) fn config(&self, offer: Offer, mutual: &Mutual) -> Result<Arc<ClientConfig>, rustls::Error> {
        let place = &self.configs[offer as usize];
        if let Some(config) = place.get() {
            return Ok(Arc::clone(config));
        }
        let mut config = self.identity.client_config(mutual.terms(offer))?;
        config.enable_sni = mutual.says_name;
        Ok(Arc::clone(place.get_or_init(|| Arc::new(config))))
    }
}
