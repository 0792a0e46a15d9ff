//! A balancing policy of the application: requests of one user go to one server, and when a server dies only its users
//! move (rendezvous hashing).
//!
//! ```sh
//! cargo run --example balancer
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::core::balance::{Balance, Candidates, PickRequest};
use mesh_tonic::core::model;
use mesh_tonic::mesh_tower::RequestOptions;
use tower::ServiceExt;

struct Rendezvous;

impl Balance for Rendezvous {
    fn pick(&self, endpoints: &dyn Candidates, request: &PickRequest, _: &mut dyn rand::Rng) -> Option<usize> {
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
    let mut servers = Vec::new();
    for name in ["a", "b", "c"] {
        servers.push(Backend::start(name, Duration::ZERO)?);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let config = format!(
        "services:
           carts:
             routes: [{{ backends: [{{ name: v1 }}], retry: {{ on: [reset, connect-failure] }} }}]
             backends:
               v1: {{ endpoints: [{}], load_balancer: {{ policy: custom, name: rendezvous }} }}",
        addresses.join(", ")
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
    assert!(before.values().collect::<BTreeSet<_>>().len() == 3, "every server has users");

    servers[0].kill().await;
    let after = homes(&mesh).await?;
    let moved: Vec<_> = before.iter().filter(|(user, home)| after[*user] != **home).collect();
    println!("{} of {} users moved when a died", moved.len(), before.len());
    assert!(moved.iter().all(|(_, home)| *home == "a") && !moved.is_empty());
    mesh.shutdown().await;
    Ok(())
}

/// Who serves each of forty users.
async fn homes(mesh: &Mesh) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut homes = BTreeMap::new();
    for user in (0..40).map(|number| format!("user-{number}")) {
        let home = answer(mesh, RequestOptions::new().hash_key(&user)).await?;
        homes.insert(user, home);
    }
    Ok(homes)
}

async fn answer(mesh: &Mesh, options: RequestOptions) -> Result<String, Box<dyn Error>> {
    let mut request = http::Request::get("http://carts/").body(String::new())?;
    request.extensions_mut().insert(options);
    let text = mesh.http_client().oneshot(request).await?.into_body().string().await?;
    Ok(text.trim_end().to_owned())
}
