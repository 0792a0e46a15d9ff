use std::sync::Arc;

use mesh_core::model;

use super::source::IdentityUpdates;

pub(super) async fn run(_settings: Arc<model::Identity>, _updates: IdentityUpdates) {}
