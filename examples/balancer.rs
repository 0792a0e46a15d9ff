//! A balancing policy of the application: requests of one user go to one server, and when a server dies only its users
//! move (rendezvous hashing).
//!
//! ```sh
//! cargo run --example balancer
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::collections::BTreeSet;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::core::balance::{Balance, Candidates, PickRequest};
use mesh_tonic::core::model;
use mesh_tonic::core::rand::Rng;
use mesh_tonic::mesh_tower::RequestOptions;
use tower::ServiceExt;

struct Rendezvous;

impl Balance for Rendezvous {
    fn pick(&self, endpoints: &dyn Candidates, request: &PickRequest, _: &mut dyn Rng) -> Option<usize> {
        let key = request.hash?; // no key, no wish: the choice is left to chance
        let score = |index: usize| {
            let mut hasher = DefaultHasher::new();
            (key, endpoints.address(index)).hash(&mut hasher);
            hasher.finish()
        };
        (0..endpoints.len()).filter(|index| endpoints.is_usable(*index)).max_by_key(|index| score(*index))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let start = |name| Backend::start(name, Duration::ZERO);
    let (mut a, b, c) = (start("a")?, start("b")?, start("c")?);
    let endpoints = format!("{}, {}, {}", a.address(), b.address(), c.address());
    let config = format!(
        "services:
           carts:
             routes: [{{ backends: [{{ name: v1 }}], retry: {{ on: [reset, connect-failure] }} }}]
             backends:
               v1: {{ endpoints: [{endpoints}], load_balancer: {{ policy: custom, name: rendezvous }} }}"
    );
    // One policy for each backend that names it; it could keep state of its own.
    let make = |_: &model::Backend| Arc::new(Rendezvous) as Arc<dyn Balance>;
    let mesh = Mesh::builder().text(config).load_balancer("rendezvous", make).build().await?;

    // Only endpoints that are connected take part.
    let mut connected = BTreeSet::new();
    while connected.len() < 3 {
        connected.insert(answer(&mesh, RequestOptions::new()).await?);
    }
    let before = homes(&mesh).await?;
    assert_eq!(homes(&mesh).await?, before, "everybody stays where they were");

    a.kill().await;
    let after = homes(&mesh).await?;
    let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    println!("{} of {} users moved when a died", moved.len(), before.len());
    assert!(!moved.is_empty() && moved.iter().all(|(home, _)| *home == "a"));
    mesh.shutdown().await;
    Ok(())
}

/// Who serves each of forty users.
async fn homes(mesh: &Mesh) -> Result<Vec<String>, Box<dyn Error>> {
    let mut homes = Vec::new();
    for user in 0..40 {
        homes.push(answer(mesh, RequestOptions::new().hash_key(format!("user-{user}"))).await?);
    }
    Ok(homes)
}

async fn answer(mesh: &Mesh, options: RequestOptions) -> Result<String, Box<dyn Error>> {
    let mut request = http::Request::get("http://carts/").body(String::new())?;
    request.extensions_mut().insert(options);
    let text = mesh.http_client().oneshot(request).await?.into_body().string().await?;
    Ok(text.trim_end().to_owned())
}
