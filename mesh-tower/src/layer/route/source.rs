//! Where the routes come from: one configuration, or a channel of them.
//!
//! The [`Source`] owns the newest snapshot and is the only one to compile. It knows the tables of the services that
//! were made from its layer and hands each the new snapshot, so that what an update removed is dropped at once, also
//! where no request comes any more.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use mesh_core::model::Config;
use mesh_core::snapshot::{CompileError, Compiler};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::table::{Snapshot, Table};

/// The configuration of a layer, shared by its clones and services.
pub(super) struct Source {
    state: Mutex<State>,
    updates: OnceLock<Updates>,
}

struct State {
    snapshot: Arc<Snapshot>,
    tables: Vec<Weak<dyn Follow>>,
}

/// Somebody who routes by the snapshot.
pub(super) trait Follow: Send + Sync {
    /// Routes by `snapshot` from here on.
    fn follow(&self, snapshot: &Arc<Snapshot>);
}

/// The task that applies updates; ends with this.
struct Updates(AbortHandle);

impl Drop for Updates {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Source {
    pub(super) fn new(config: &Config) -> Result<Arc<Self>, CompileError<Infallible>> {
        let update =
            Compiler::new(()).compile(&Snapshot::empty(), config, &mut rand::rng(), std::time::Instant::now())?;
        let state = State { snapshot: update.snapshot, tables: Vec::new() };
        Ok(Arc::new(Self { state: Mutex::new(state), updates: OnceLock::new() }))
    }

    pub(super) fn watch(mut configs: watch::Receiver<Arc<Config>>) -> Result<Arc<Self>, CompileError<Infallible>> {
        let first = Arc::clone(&configs.borrow_and_update());
        let source = Self::new(&first)?;
        let task = tokio::spawn(apply(configs, Arc::downgrade(&source)));
        source.updates.get_or_init(|| Updates(task.abort_handle()));
        Ok(source)
    }

    pub(super) fn version(&self) -> u64 {
        self.state().snapshot.version()
    }

    /// A table that follows the updates.
    pub(super) fn table<S: Send + Sync + 'static>(&self) -> Arc<Table<S>> {
        let mut state = self.state();
        let table = Arc::new(Table::new(&state.snapshot));
        let follower: Arc<dyn Follow> = Arc::<Table<S>>::clone(&table);
        state.tables.retain(|table| table.strong_count() > 0);
        state.tables.push(Arc::downgrade(&follower));
        table
    }

    fn update(&self, config: &Config) {
        let mut state = self.state();
        match Compiler::new(()).compile(&state.snapshot, config, &mut rand::rng(), std::time::Instant::now()) {
            Ok(update) => state.snapshot = update.snapshot,
            Err(error) => {
                let version = state.snapshot.version();
                tracing::warn!(
                    target: "mesh",
                    version,
                    source = "layer",
                    %error,
                    "configuration refused; the last good one stays in force"
                );
                return;
            }
        }
        for table in state.tables.iter().filter_map(Weak::upgrade) {
            table.follow(&state.snapshot);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn apply(mut configs: watch::Receiver<Arc<Config>>, source: Weak<Source>) {
    while configs.changed().await.is_ok() {
        let config = Arc::clone(&configs.borrow_and_update());
        let Some(source) = source.upgrade() else { return };
        source.update(&config);
    }
}
