//! Who finds endpoints, and the task that asks them for those of one name.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::{Config, Finder, IdentityFrom};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::admin;
use crate::contain::contained_future;
use crate::identity::NoIdentity;
use crate::net::Tasks;
use crate::source::BuildError;
use crate::source::dns::DnsSource;
use crate::source::endpoints::{self, EndpointSource, Found, Report};

/// Pause before a source that gave up is asked again; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Who finds endpoints.
pub(crate) struct Sources {
    /// Whether the application brings identities.
    pub(crate) identity: bool,
    pub(crate) dns: Arc<DnsSource>,
    pub(crate) custom: HashMap<Arc<str>, Arc<dyn EndpointSource>>,
}

impl Sources {
    /// Whether there is all that the configuration asks for.
    ///
    /// # Errors
    /// At the first source which the application has not registered, and for an admin listener that there cannot be.
    pub(crate) fn check(&self, config: &Config) -> Result<(), BuildError> {
        admin::check(&config.settings)?;
        if let Some(identity) = &config.settings.identity
            && identity.source == IdentityFrom::Custom
            && !self.identity
        {
            return Err(NoIdentity::NotGiven.into());
        }
        for backend in config.backends.values() {
            if let Some(Finder::Custom { source, .. }) = backend.discovery.as_ref().map(|discovery| &discovery.of)
                && !self.custom.contains_key(source)
            {
                let mut known: Vec<_> = self.custom.keys().cloned().collect();
                known.sort_unstable();
                return Err(BuildError::EndpointSource {
                    backend: backend.id.clone(),
                    source_name: Arc::clone(source),
                    known,
                });
            }
        }
        Ok(())
    }
}

/// Asks for `finder`'s endpoints until the task is aborted.
pub(super) fn find(
    tasks: &Tasks,
    sources: &Sources,
    finder: Finder,
    reports: mpsc::Sender<(Finder, Report)>,
) -> AbortHandle {
    let (found, mut heard) = endpoints::channel();
    let asking = ask(sources, &finder, found);
    tasks.spawn_until_stop(async move {
        let forward = async {
            while heard.changed().await.is_ok() {
                let report = heard.borrow_and_update().clone();
                if reports.send((finder.clone(), report)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = asking => {}
            () = forward => {}
        }
    })
}

/// Asks whoever knows, and asks again if that gives up.
fn ask(sources: &Sources, finder: &Finder, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match finder {
        Finder::Dns(name) => Box::pin(Arc::clone(&sources.dns).watch(name.clone(), found)),
        Finder::Custom { source, name } if sources.custom.contains_key(source) => {
            let (source, name) = (Arc::clone(&sources.custom[source]), name.to_string());
            Box::pin(async move {
                let mut pause = MIN_PAUSE;
                loop {
                    let began = tokio::time::Instant::now();
                    let watched = contained_future("the endpoint source", || source.watch(name.clone(), found.clone()));
                    if let Err(panicked) = watched.await {
                        found.failed(panicked);
                    }
                    if began.elapsed() > MAX_PAUSE {
                        pause = MIN_PAUSE;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            })
        }
        other => {
            found.failed(format!("nobody here knows how to find {other}"));
            Box::pin(std::future::pending())
        }
    }
}
