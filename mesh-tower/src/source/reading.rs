//! What was read from a file, a text, the environment and the builder, beside the configuration itself.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::config::{Effective, Parsed, Warning};
use mesh_core::model::{Config, Settings};

use crate::observe::TARGET;

/// How many readings may wait to be in force; older ones were replaced before they got there.
const MAX_WAITING: usize = 8;

/// A configuration that was read.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) config: Arc<Config>,
    effective: Arc<Effective>,
    warnings: Vec<Warning>,
}

impl Reading {
    pub(crate) fn of(parsed: Parsed) -> Self {
        let Parsed { config, effective, warnings, .. } = parsed;
        Self { config: Arc::new(config), effective: Arc::new(effective), warnings }
    }
}

/// The readings of which one may be in force.
///
/// Between reading and publishing a configuration is compiled, together with others, and may be refused. Its settings
/// go through all of it as one `Arc`, by which the reading behind a snapshot is found again.
#[derive(Debug, Default)]
pub(crate) struct Readings(Mutex<Vec<(Arc<Settings>, Arc<Effective>)>>);

impl Readings {
    /// Keeps `reading`, and tells the warnings about it.
    pub(crate) fn add(&self, reading: Reading) -> Arc<Config> {
        let Reading { config, effective, warnings } = reading;
        for warning in &warnings {
            tracing::warn!(target: TARGET, code = warning.code, "{warning}");
        }
        let mut readings = self.lock();
        // The first is in force.
        if readings.len() > MAX_WAITING {
            readings.remove(1);
        }
        readings.push((Arc::clone(&config.settings), effective));
        config
    }

    /// The reading of which `settings` came.
    pub(crate) fn of(&self, settings: &Arc<Settings>) -> Option<Arc<Effective>> {
        let readings = self.lock();
        readings.iter().find(|(known, _)| Arc::ptr_eq(known, settings)).map(|(_, effective)| Arc::clone(effective))
    }

    /// Forgets what was read before what is in force by `settings`.
    pub(crate) fn published(&self, settings: &Arc<Settings>) {
        let mut readings = self.lock();
        if let Some(index) = readings.iter().position(|(known, _)| Arc::ptr_eq(known, settings)) {
            readings.drain(..index);
        }
    }

    /// Its critical sections do not panic.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<Settings>, Arc<Effective>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
