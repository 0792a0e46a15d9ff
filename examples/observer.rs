//! An observer of the application: it counts what each endpoint answered, and tells what was tried again and why.
//!
//! ```sh
//! cargo run --example observer
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::observe::{Event, Next, Observer, Outcome};

/// Called on the path of each request: what takes time belongs into a task of its own.
#[derive(Default)]
struct Watcher(Mutex<BTreeMap<String, Counts>>);

#[derive(Default)]
struct Counts {
    answered: u32,
    failed: u32,
}

impl Observer for Watcher {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Attempt(attempt) => {
                let endpoint = attempt.endpoint.map_or("none".to_owned(), ToString::to_string);
                let mut endpoints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let counts = endpoints.entry(endpoint).or_default();
                match attempt.outcome {
                    Outcome::Response { .. } => counts.answered += 1,
                    _ => counts.failed += 1,
                }
                if attempt.next != Next::Return {
                    println!("{:?}, so {:?}", attempt.outcome, attempt.next);
                }
            }
            Event::Endpoint(changed) => println!("{} is {}", changed.endpoint, changed.state.as_str()),
            Event::Config(config) => println!("configuration {} of {}", config.version, config.source),
            _ => {} // there are more events, and will be
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (a, mut b) = (Backend::start("a", Duration::ZERO)?, Backend::start("b", Duration::ZERO)?);
    let config = format!(
        "services:
           catalog:
             routes: [{{ backends: [{{ name: v1 }}], retry: {{ num_retries: 2, on: [reset, connect-failure] }} }}]
             backends:
               v1: {{ endpoints: [{}, {}] }}",
        a.address(),
        b.address()
    );
    let watcher = Arc::new(Watcher::default());
    let mesh = Mesh::builder().text(config).observer(Arc::clone(&watcher)).build().await?;

    for number in 0..100 {
        if number == 50 {
            b.kill().await;
        }
        mesh.http_client().get("http://catalog/").await?.into_body().bytes().await?;
    }
    mesh.shutdown().await;

    let endpoints = watcher.0.lock().unwrap_or_else(PoisonError::into_inner);
    for (endpoint, Counts { answered, failed }) in &*endpoints {
        println!("{endpoint}: {answered} answers, {failed} failures");
    }
    assert_eq!(endpoints.values().map(|counts| counts.answered).sum::<u32>(), 100);
    Ok(())
}
