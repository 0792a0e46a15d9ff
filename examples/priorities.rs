//! Two zones: requests stay in the first as far as it can carry them, go to the second as it fails, and come back.
//!
//! ```sh
//! cargo run --example priorities
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::core::balance::State;
use mesh_tonic::testing::{Events, Seen};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut here = [Backend::start("a1", Duration::ZERO)?, Backend::start("a2", Duration::ZERO)?];
    let there = Backend::start("b1", Duration::ZERO)?;
    let config = format!(
        "services:
           shop:
             routes:
               - backends: [{{ name: v1 }}]
                 timeout: 10s
                 retry: {{ num_retries: 3, on: [connect-failure, reset] }}
             backends:
               v1:
                 protocol: http2 # a lost connection is noticed at once
                 connect_backoff: {{ base: 100ms, max: 200ms }}
                 localities:
                   - {{ region: eu, zone: a, priority: 0, endpoints: ['{}', '{}'] }}
                   - {{ region: eu, zone: b, priority: 1, endpoints: ['{}'] }}",
        here[0].address(),
        here[1].address(),
        there.address()
    );
    let events = Events::new();
    let mesh = Mesh::builder().text(config).observer(events.clone()).build().await?;

    let ask = async |title: &str| -> Result<[u32; 3], Box<dyn Error>> {
        let mut answers = [0; 3];
        for _ in 0..200 {
            let name = mesh.http_client().get("http://shop/").await?.into_body().string().await?;
            let index = ["a1", "a2", "b1"].iter().position(|known| *known == name.trim_end());
            answers[index.ok_or("a stranger answered")?] += 1;
        }
        let [a1, a2, b1] = answers;
        println!("{title:<28} zone a: {a1:3} and {a2:3}, zone b: {b1:3}");
        Ok(answers)
    };

    mesh.http_client().get("http://shop/").await?;
    for backend in &here {
        events.wait_for_state(backend.address(), State::Ready).await;
    }
    let whole = ask("zone a is well:").await?;

    // Half of it times 140 % is 70 %: the rest goes on.
    here[0].kill().await;
    events.wait_for_state(here[0].address(), State::Failing).await;
    // Nobody needed zone b before: the first requests have it connected.
    mesh.http_client().get("http://shop/").await?;
    events.wait_for_state(there.address(), State::Ready).await;
    let half = ask("a1 is gone:").await?;

    here[1].kill().await;
    events.wait_for_state(here[1].address(), State::Failing).await;
    let none = ask("zone a is gone:").await?;

    let returning = events.from_now();
    for backend in &mut here {
        backend.restart()?;
    }
    for backend in &here {
        returning.wait_for_state(backend.address(), State::Ready).await;
    }
    let back = ask("zone a is back:").await?;

    for seen in events.all() {
        if let Seen::Priority { backend, priority: Some(priority), .. } = seen {
            println!("event: requests of {backend} go to priority {priority} first");
        }
    }
    mesh.shutdown().await;
    let all_here = |answers: [u32; 3]| answers[0] > 0 && answers[1] > 0 && answers[2] == 0;
    let good = all_here(whole) && half[0] == 0 && half[1] > 0 && half[2] > 0 && none == [0, 0, 200] && all_here(back);
    if good { Ok(()) } else { Err("requests did not go where they should".into()) }
}
