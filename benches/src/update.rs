//! How long a change of the configuration takes.

use std::sync::Arc;

use mesh_tonic::core::model::Config;
use mesh_tonic::prelude::*;
use tokio::sync::watch;

use crate::Result;
use crate::measure::one_thread;
use crate::micro::{SAMPLES, Timing, time_with_setup};
use crate::model;

/// The way of a model with one endpoint changed: it is sent to a mesh that has `config`, until the status of that tells
/// the version.
pub fn until_published(config: Config) -> Result<Timing> {
    let runtime = one_thread()?;
    let config = Arc::new(config);
    let mut turns = [Arc::new(model::with_one_endpoint_changed(&config)), Arc::clone(&config)].into_iter().cycle();
    let (sender, configs) = watch::channel(config);
    let mesh = runtime.block_on(Mesh::builder().configs(configs).build())?;
    let mut status = mesh.config_status();
    status.mark_unchanged();
    let timing = time_with_setup(
        || turns.next(),
        |changed| {
            runtime.block_on(async {
                changed.map(|changed| sender.send_replace(changed));
                status.changed().await
            })
        },
    );
    // The first configuration, the change that does not count, and the samples.
    assert_eq!(mesh.config_status().borrow().version, 2 + SAMPLES as u64);
    Ok(timing)
}
