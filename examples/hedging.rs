//! One of two endpoints is slow. Whoever hedges does not wait for it: after a pause the request goes to the other one as
//! well, and the first answer counts.
//!
//! ```sh
//! cargo run --example hedging
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::{Duration, Instant};

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::observe::Next;
use mesh_tonic::testing::{Events, Seen};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (fast, slow) = (Backend::start("fast", Duration::ZERO)?, Backend::start("slow", Duration::from_secs(3))?);
    let config = format!(
        "services:
           shop:
             routes:
               - name: hedged
                 matches: [{{ path: {{ prefix: /hedged }} }}]
                 backends: [{{ name: v1 }}]
                 timeout: 20s
                 hedging: {{ delay: 50ms }}
               - backends: [{{ name: v1 }}]
                 timeout: 20s
             backends:
               v1: {{ endpoints: ['{}', '{}'] }}",
        fast.address(),
        slow.address()
    );
    let events = Events::new();
    let mesh = Mesh::builder().text(config).observer(events.clone()).build().await?;
    // Both are connected once each has answered.
    let mut longest = Duration::ZERO;
    while longest < Duration::from_secs(3) {
        let began = Instant::now();
        mesh.http_client().get("http://shop/plain").await?.into_body().bytes().await?;
        longest = longest.max(began.elapsed());
    }
    println!("without hedging the longest of some requests took {longest:.1?}");

    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        let name = mesh.http_client().get("http://shop/hedged").await?.into_body().string().await?;
        longest = longest.max(began.elapsed());
        if name.trim_end() != "fast" {
            return Err("the slow one was waited for".into());
        }
    }
    let hedges = events.count(|seen| matches!(seen, Seen::Attempt { next: Next::Hedge, .. }));
    println!("with it the longest of 20 took {longest:.1?}; {hedges} attempts at the slow one were cut short");
    mesh.shutdown().await;
    if hedges > 0 { Ok(()) } else { Err("nothing was hedged".into()) }
}
