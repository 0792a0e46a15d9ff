//! Sessions: a cookie brings a caller back to the server of their first request, while servers come and go.
//!
//! ```sh
//! cargo run --example session_affinity
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use examples::backend::Backend;
use http::header::{COOKIE, SET_COOKIE};
use mesh_tonic::Mesh;
use mesh_tonic::core::config;
use mesh_tonic::core::model::Config;
use tokio::sync::watch;
use tower::ServiceExt;

/// The carts of a shop, which their servers keep in memory.
fn carts(endpoints: &[String]) -> Result<Arc<Config>, Box<dyn Error>> {
    let text = format!(
        "services:
           carts:
             routes:
               - backends: [{{ name: v1 }}]
                 session_affinity: {{ cookie: {{ name: cart-server, ttl: 1h }} }}
             backends:
               v1: {{ endpoints: [{}], load_balancer: random }}",
        endpoints.join(", ")
    );
    Ok(Arc::new(config::parse(text.as_bytes(), "carts", Path::new(""))?))
}

/// Somebody who keeps a cookie, as a browser does.
#[derive(Default)]
struct Caller(Option<String>);

impl Caller {
    /// Says which server answered.
    async fn visit(&mut self, mesh: &Mesh) -> Result<String, Box<dyn Error>> {
        let mut request = http::Request::get("http://carts/");
        if let Some(cookie) = &self.0 {
            request = request.header(COOKIE, cookie);
        }
        let response = mesh.http_client().oneshot(request.body(String::new())?).await?;
        if let Some(cookie) = response.headers().get(SET_COOKIE) {
            self.0 = cookie.to_str()?.split(';').next().map(str::to_owned);
        }
        Ok(response.into_body().string().await?.trim_end().to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let start = |name| Backend::start(name, Duration::ZERO);
    let servers = [start("a")?, start("b")?, start("c")?, start("d")?];
    let all: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let (configs, receiver) = watch::channel(carts(&all[..2])?);
    let mesh = Mesh::builder().configs(receiver).build().await?;
    let mut status = mesh.config_status();

    let mut caller = Caller::default();
    let home = caller.visit(&mesh).await?;
    println!("the caller is with {home}, and has the cookie {}", caller.0.as_deref().unwrap_or_default());
    let place = servers.iter().position(|server| server.name() == home).ok_or("an unknown server")?;
    let draining = format!("{{ address: \"{}\", health: draining }}", all[place]);
    let others: Vec<_> = all.iter().filter(|address| **address != all[place]).cloned().collect();
    let steps = [
        ("two servers more", all.clone()),
        ("two servers less", vec![all[place].clone(), all[2].clone()]),
        ("it drains", [&[draining], &others[..]].concat()),
    ];
    for (what, endpoints) in steps {
        configs.send(carts(&endpoints)?)?;
        tokio::time::timeout(Duration::from_secs(10), status.changed()).await??;
        for _ in 0..20 {
            assert_eq!(caller.visit(&mesh).await?, home, "{what}");
        }
        println!("{what}: the caller is still with {home}");
    }
    for _ in 0..20 {
        assert_ne!(Caller(None).visit(&mesh).await?, home, "a server that drains gets nobody new");
    }

    configs.send(carts(&others)?)?;
    tokio::time::timeout(Duration::from_secs(10), status.changed()).await??;
    let next = caller.visit(&mesh).await?;
    assert_eq!(caller.visit(&mesh).await?, next);
    println!("{home} is gone: the caller is with {next}, and stays there");
    mesh.shutdown().await;
    Ok(())
}
