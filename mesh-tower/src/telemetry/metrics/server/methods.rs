//! The gRPC methods of a server, as far as they are known.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use mesh_core::grpc::Code;

use super::super::buckets::Recorder;
use super::super::index::{Hash, Index};
use super::super::lock;
use super::super::table::OTHER;

/// The most gRPC methods of a server that are told apart (TL-05).
const MAX_METHODS: usize = 1_000;

/// The calls of one method.
#[derive(Debug)]
pub(crate) struct MethodSeries {
    /// `package.Service/Method`.
    pub(super) name: Arc<str>,
    pub(super) started: AtomicU64,
    pub(super) durations: [OnceLock<Box<Recorder>>; Code::ALL.len()],
}

impl MethodSeries {
    fn new(name: &str) -> Arc<Self> {
        let durations = std::array::from_fn(|_| OnceLock::new());
        Arc::new(Self { name: name.into(), started: AtomicU64::new(0), durations })
    }
}

/// The methods that answered so far: there is no other way to know them, and whoever calls can invent paths.
#[derive(Debug)]
pub(super) struct Methods {
    known: ArcSwap<Index<Arc<MethodSeries>>>,
    writer: Mutex<()>,
    pub(super) other: Arc<MethodSeries>,
}

impl Default for Methods {
    fn default() -> Self {
        Self { known: ArcSwap::default(), writer: Mutex::default(), other: MethodSeries::new(OTHER) }
    }
}

impl Methods {
    pub(super) fn find(&self, path: &str) -> Option<Arc<MethodSeries>> {
        let name = path.strip_prefix('/').unwrap_or(path);
        self.known.load().find(hash(name), |method| *method.name == *name).cloned()
    }

    pub(super) fn learn(&self, path: &str) -> Option<Arc<MethodSeries>> {
        if let Some(known) = self.find(path) {
            return Some(known);
        }
        let _writer = lock(&self.writer);
        if let Some(known) = self.find(path) {
            return Some(known);
        }
        let known = self.known.load();
        if known.len() >= MAX_METHODS {
            return None;
        }
        let method = MethodSeries::new(path.strip_prefix('/').unwrap_or(path));
        self.known.store(Arc::new(known.with(hash(&method.name), Arc::clone(&method))));
        Some(method)
    }

    pub(super) fn all(&self) -> Vec<Arc<MethodSeries>> {
        let known = self.known.load();
        known.iter().map(|(_, method)| method).chain([&self.other]).cloned().collect()
    }
}

pub(super) fn hash(text: &str) -> u64 {
    Hash::new().text(text).finish()
}
