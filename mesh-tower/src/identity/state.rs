//! The identity of a mesh: which one is in force, who brings the next, and what became of it.
//!
//! ```text
//!             start(other)                     first good update of `next`
//!  active ───────────────────> active, next ─────────────────────────────> active (the old one is ended)
//!   │  ^  update: verified, swapped    │ failed, or nothing: `active` goes on
//!   └──┘
//! ```
//!
//! There is one writer at a time, under a mutex; whoever makes a handshake reads without one. What a source brings is
//! verified before anything changes, so that nobody ever sees half of it, and a refused update changes nothing.

mod expiry;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use mesh_core::identity::TrustDomain;
use mesh_core::model::{self, IdentityFrom};
use mesh_core::observe::IdentityChange;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub(crate) use self::status::Facts;
pub use self::status::{IdentityFailure, IdentityStatus, NoIdentity};
use super::error::IdentityError;
use super::files::Beside;
use super::material::{Bundles, Material};
use super::own::Identity;
use super::refused::unix_time;
use super::source::{IdentitySource, IdentityUpdates};
use super::{files, workload_api};
use crate::contain::contained_future;
use crate::net::Tasks;
use crate::observe::{Observers, TARGET};

/// Tells the time by which certificates are valid.
pub(super) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The identity of one mesh, and its sources. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Identities(Arc<Inner>);

struct Inner {
    current: ArcSwapOption<Identity>,
    /// The same, for those who wait for the next.
    changes: watch::Sender<Option<Arc<Identity>>>,
    status: watch::Sender<IdentityStatus>,
    state: Mutex<State>,
    tasks: Tasks,
    provider: Arc<CryptoProvider>,
    observers: Observers,
    clock: Clock,
}

#[derive(Default)]
struct State {
    /// How many sources were started.
    runs: u64,
    /// Who brought the identity in force.
    active: Option<Run>,
    /// Who was started since, and has brought nothing good so far.
    next: Option<Run>,
    made_of: Option<MadeOf>,
    watches_expiry: bool,
}

/// A source at work.
struct Run {
    number: u64,
    settings: Arc<model::Identity>,
    name: Arc<str>,
    /// What it said last, if that was a failure.
    failure: Option<Arc<str>>,
    task: AbortHandle,
    beside: Files,
    /// What it brought last, where files are added to that.
    brought: Option<Material>,
}

/// Files beside a source that is no file.
enum Files {
    Unused,
    /// They were not read so far, and there is no identity without them.
    Awaited,
    Read(Beside),
}

/// What decides whether an identity is another one. The key is not among it: it belongs to the certificate.
#[derive(PartialEq)]
struct MadeOf {
    certificates: Vec<CertificateDer<'static>>,
    trust: Bundles,
    revocation_lists: Vec<CertificateRevocationListDer<'static>>,
    aliases: Vec<TrustDomain>,
    allow_undetermined_revocation: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Identities {
    /// No identity, and nobody who brings one.
    pub(crate) fn new(tasks: Tasks, provider: Arc<CryptoProvider>, observers: Observers) -> Self {
        Self::with_clock(tasks, provider, observers, Arc::new(SystemTime::now))
    }

    pub(super) fn with_clock(tasks: Tasks, provider: Arc<CryptoProvider>, observers: Observers, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            current: ArcSwapOption::empty(),
            changes: watch::Sender::new(None),
            status: watch::Sender::new(IdentityStatus::default()),
            state: Mutex::default(),
            tasks,
            provider,
            observers,
            clock,
        }))
    }

    /// Begins with the source that `settings` name, beside the one at work if there is one: that goes on until the new
    /// one has brought something good. Settings that are the newest already change nothing.
    ///
    /// # Errors
    /// If the source is the application's, and it gave none. Nothing has changed then.
    pub(crate) fn start(
        &self,
        settings: &Arc<model::Identity>,
        custom: Option<&Arc<dyn IdentitySource>>,
    ) -> Result<(), NoIdentity> {
        // Ends, when it is dropped, outside the lock.
        let replaced;
        let mut state = self.lock();
        let newest = state.next.as_ref().or(state.active.as_ref());
        if newest.is_some_and(|run| run.settings == *settings) {
            return Ok(());
        }
        if state.active.as_ref().is_some_and(|run| run.settings == *settings) {
            replaced = state.next.take();
        } else {
            let number = state.runs + 1;
            let run = Run {
                number,
                settings: Arc::clone(settings),
                name: status::name(&settings.source),
                failure: None,
                task: self.launch(number, settings, custom)?,
                beside: if Beside::is_wanted(settings) { Files::Awaited } else { Files::Unused },
                brought: None,
            };
            state.runs = number;
            replaced = state.next.replace(run);
        }
        if let Some(run) = state.next.as_ref().or(state.active.as_ref()) {
            self.0.status.send_modify(|status| {
                status.source = Arc::clone(&run.name);
                status.failure = None;
                status.ended = false;
            });
        }
        if !std::mem::replace(&mut state.watches_expiry, true) {
            self.0.tasks.spawn_until_stop(expiry::watch(self.clone()));
        }
        drop(state);
        drop(replaced);
        Ok(())
    }

    /// Ends every source and forgets the identity: the configuration has none any more.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let ended = (state.active.take(), state.next.take());
        state.made_of = None;
        self.0.current.store(None);
        self.0.changes.send_replace(None);
        self.0.status.send_modify(|status| {
            let generation = status.generation;
            *status = IdentityStatus { generation, ..IdentityStatus::default() };
        });
        drop(state);
        drop(ended);
    }

    /// The identity in force. Takes no lock.
    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.0.current.load_full()
    }

    /// The identity in force, and each one that follows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.0.changes.subscribe()
    }

    /// What became of the last attempts to renew it. A failure that comes again and again is told once.
    pub(crate) fn status(&self) -> watch::Receiver<IdentityStatus> {
        self.0.status.subscribe()
    }

    /// What metrics show.
    pub(crate) fn facts(&self) -> Facts {
        Facts::of(self.current().as_deref(), &self.0.status.borrow())
    }

    /// The identity as soon as there is one. To be called once a source was started.
    ///
    /// # Errors
    /// If there is none after `timeout`, or the source ended without one.
    pub(crate) async fn wait(&self, timeout: Duration) -> Result<Arc<Identity>, NoIdentity> {
        let mut status = self.status();
        let settled = async {
            loop {
                // Before the identity: whoever sees the end of the source also sees what it brought.
                let ended = status.borrow_and_update().ended;
                if let Some(identity) = self.current() {
                    return Some(identity);
                }
                if ended || status.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(timeout, settled).await {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(self.lacking(None)),
            Err(_) => Err(self.lacking(Some(timeout))),
        }
    }

    fn lacking(&self, timeout: Option<Duration>) -> NoIdentity {
        let state = self.lock();
        let source = state.next.as_ref().or(state.active.as_ref()).map(|run| &run.settings.source);
        NoIdentity::of(&self.0.status.borrow(), source, timeout)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done by a panic: what can panic comes before the first change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> SystemTime {
        (self.0.clock)()
    }

    fn launch(
        &self,
        number: u64,
        settings: &Arc<model::Identity>,
        custom: Option<&Arc<dyn IdentitySource>>,
    ) -> Result<AbortHandle, NoIdentity> {
        let updates = IdentityUpdates::new(self.clone(), number);
        let this = self.clone();
        let settings = Arc::clone(settings);
        let files = files::run(Arc::clone(&settings), updates.clone());
        Ok(match &settings.source {
            IdentityFrom::Files(_) => self.0.tasks.spawn_until_stop(files),
            IdentityFrom::WorkloadApi { .. } => self.0.tasks.spawn_until_stop(async move {
                let source = async {
                    workload_api::run(settings, updates).await;
                    this.ended(number);
                };
                tokio::join!(source, files);
            }),
            IdentityFrom::Custom => {
                let custom = Arc::clone(custom.ok_or(NoIdentity::NotGiven)?);
                self.0.tasks.spawn_until_stop(async move {
                    let source = async {
                        let run = || custom.run(updates.clone());
                        if let Err(panicked) = contained_future("the identity source", run).await {
                            updates.failed(panicked);
                        }
                        this.ended(number);
                    };
                    tokio::join!(source, files);
                })
            }
            other => return Err(NoIdentity::Unknown { source_name: format!("{other:?}").into() }),
        })
    }

    /// The source `number` brings `material`.
    pub(super) fn update(&self, number: u64, material: Material) -> Result<(), IdentityError> {
        let mut state = self.lock();
        let Some(run) = state.run(number) else { return Ok(()) };
        let mut whole = material.clone();
        match &run.beside {
            Files::Unused => return self.install(state, number, material, |_| {}),
            Files::Read(beside) => beside.add_to(&mut whole),
            Files::Awaited => {
                Identity::new(whole, &run.settings, &self.0.provider, 0, unix_time(self.now()))?;
                run.brought = Some(material);
                return Ok(());
            }
        }
        self.install(state, number, whole, |run| run.brought = Some(material))
    }

    /// The files beside the source `number` say `beside`.
    pub(super) fn beside(&self, number: u64, beside: Beside) -> Result<(), IdentityError> {
        let mut state = self.lock();
        let Some(run) = state.run(number) else { return Ok(()) };
        let Some(mut whole) = run.brought.clone() else {
            run.beside = Files::Read(beside);
            return Ok(());
        };
        beside.add_to(&mut whole);
        self.install(state, number, whole, |run| run.beside = Files::Read(beside))
    }

    /// Puts `material` into force, unless it is equal to what is. `keep` is called if it is good.
    fn install(
        &self,
        mut state: MutexGuard<'_, State>,
        number: u64,
        material: Material,
        keep: impl FnOnce(&mut Run),
    ) -> Result<(), IdentityError> {
        let now = self.now();
        let Some(run) = state.run(number) else { return Ok(()) };
        let settings = Arc::clone(&run.settings);
        let made_of = MadeOf::new(&material, &settings);
        let generation = self.0.status.borrow().generation + 1;
        // Also what is equal to the last one: its key may be another, and its time may be over.
        let identity = Identity::new(material, &settings, &self.0.provider, generation, unix_time(now))?;
        let current = self.current();
        let old = current.as_ref().and_then(|current| current.id());
        if let (Some(was), None) = (old, identity.id())
            && state.active.as_ref().is_some_and(|active| active.settings.source == settings.source)
        {
            return Err(IdentityError::LostSpiffeId { was: was.clone() });
        }
        let doubts = identity.doubts(old);
        let warnings = doubts.iter().map(|doubt| doubt.to_string().into()).collect();
        let replaced = state.promote(number);
        let newest = state.next.is_none();
        let Some(run) = state.run(number) else { return Ok(()) };
        keep(run);
        run.failure = None;
        let name = Arc::clone(&run.name);
        let is_new = state.made_of.as_ref() != Some(&made_of);
        let identity = Arc::new(identity);
        if is_new {
            state.made_of = Some(made_of);
            self.0.current.store(Some(Arc::clone(&identity)));
            self.0.changes.send_replace(Some(Arc::clone(&identity)));
        }
        self.0.status.send_if_modified(|status| {
            status.loaded_at = Some(now);
            let healed = newest && status.failure.take().is_some();
            if is_new {
                status.generation = generation;
                status.warnings = warnings;
            }
            is_new || healed
        });
        drop(state);
        drop(replaced);
        if is_new {
            let (id, not_after) = (identity.id(), identity.not_after());
            self.0.observers.identity(&name, IdentityChange::Changed { generation, id, not_after }, now);
            for doubt in &doubts {
                tracing::warn!(target: TARGET, source = &*name, generation, %doubt, "peers may refuse the new identity");
            }
        }
        Ok(())
    }

    /// The source `number` could not bring anything, or nothing good.
    pub(super) fn failed(&self, number: u64, error: &str) {
        let now = self.now();
        let mut state = self.lock();
        let newest = state.next.as_ref().or(state.active.as_ref()).is_some_and(|run| run.number == number);
        let Some(run) = state.run(number) else { return };
        let is_new = run.failure.as_deref() != Some(error);
        let text: Arc<str> = error.into();
        run.failure = Some(Arc::clone(&text));
        let name = Arc::clone(&run.name);
        self.0.status.send_if_modified(|status| {
            status.failures += 1;
            if newest {
                status.failure = Some(IdentityFailure { at: now, error: text });
            }
            is_new
        });
        drop(state);
        if is_new {
            self.0.observers.identity(&name, IdentityChange::Failed { error }, now);
        }
    }

    /// The source `number` brings nothing any more.
    fn ended(&self, number: u64) {
        let mut state = self.lock();
        let newest = state.next.as_ref().or(state.active.as_ref()).is_some_and(|run| run.number == number);
        let Some(run) = state.run(number) else { return };
        let name = Arc::clone(&run.name);
        if newest {
            self.0.status.send_modify(|status| status.ended = true);
        }
        drop(state);
        tracing::warn!(target: TARGET, source = &*name, "the source of the identity ended; the last good one stays");
    }

    /// Who brought the identity in force.
    fn active(&self) -> Option<Arc<str>> {
        self.lock().active.as_ref().map(|run| Arc::clone(&run.name))
    }
}

impl State {
    /// The source `number`, unless it was replaced.
    fn run(&mut self, number: u64) -> Option<&mut Run> {
        self.active.iter_mut().chain(&mut self.next).find(|run| run.number == number)
    }

    /// Puts the source `number` in charge and returns the one that was.
    fn promote(&mut self, number: u64) -> Option<Run> {
        let next = self.next.take_if(|run| run.number == number)?;
        self.active.replace(next)
    }
}

impl MadeOf {
    fn new(material: &Material, settings: &model::Identity) -> Self {
        Self {
            certificates: material.certificates.clone(),
            trust: material.trust.clone(),
            revocation_lists: material.revocation_lists.clone(),
            aliases: settings.trust_domain_aliases.clone(),
            allow_undetermined_revocation: settings.allow_undetermined_revocation,
        }
    }
}

#[cfg(test)]
mod tests;
