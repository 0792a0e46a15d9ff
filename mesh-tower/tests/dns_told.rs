//! What is told about names that cannot be found. In a binary of its own, because it sets the process's subscriber.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

use std::fmt::{Debug, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_tower::Mesh;
use mesh_tower::core::model::{Backend, BackendId, Config, Discovery, DnsName, Finder};
use mesh_tower::testing::ScriptedResolver;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the level and the fields of what is told above `DEBUG`.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "mesh" && *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_once_and_so_is_its_end() {
    let told = Told::default();
    tracing::subscriber::set_global_default(told.clone()).unwrap();
    let (name, second) = ("greeter.example", Duration::from_secs(1));
    let endpoint = SocketAddr::from(([192, 0, 2, 1], 80));
    let mut backend = Backend::new(BackendId::new("greeter", "v1"), Vec::new());
    backend.discovery = Some(Discovery::new(Finder::Dns(DnsName::Host { host: name.into(), port: 80 })));
    let resolver = ScriptedResolver::new();
    // Not there at first.
    resolver.fail(name, "SERVFAIL");
    let config = Config::new().with_backend(backend);
    let mesh = Mesh::builder().config(config).resolver(resolver.clone()).build().await.unwrap();
    resolver.asked(name, 3).await;
    resolver.set(name, &[endpoint], second);
    resolver.asked(name, resolver.lookups(name) + 3).await;
    let about_the_name =
        || -> Vec<String> { told.0.lock().unwrap().iter().filter(|line| line.contains(name)).cloned().collect() };
    for _ in 0..2 {
        resolver.fail(name, "SERVFAIL");
        resolver.asked(name, resolver.lookups(name) + 5).await;
        resolver.set(name, &[endpoint], second);
        resolver.asked(name, resolver.lookups(name) + 3).await;
    }
    let warning = "WARN message=not found; what was found last stays in use name=dns:greeter.example:80 \
                   error=greeter.example:80: SERVFAIL endpoints=1";
    let recovery = "INFO message=found again name=dns:greeter.example:80";
    let never = "WARN message=not found; requests to it fail until it is found name=dns:greeter.example:80 \
                 error=greeter.example:80: SERVFAIL endpoints=0";
    assert_eq!(about_the_name(), [never, recovery, warning, recovery, warning, recovery]);
    mesh.shutdown().await;
}
