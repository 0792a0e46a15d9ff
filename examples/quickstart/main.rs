//! A mesh at work: real tonic and HTTP traffic, split by weight, shifted by editing a file, saved from a dying endpoint and
//! from one that answers with errors. No sidecar, nothing to set up.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! Ends by itself, in about 25 s; the exit code is 0 if no request failed, every split was as configured, and the endpoint
//! with the errors was taken out and came back.
#![allow(clippy::print_stderr, reason = "this is a program")]

mod config;
mod screen;
mod split;
mod tally;
mod trace;
mod traffic;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use config::{ConfigFile, WEIGHTS};
use screen::{Row, Screen, Stage, print};
use split::Split;
use tally::{Ejections, Tally};
use trace::Traces;
use traffic::{IN_FLIGHT, Results, Traffic};

/// Longer than this it must not take.
const LONGEST: Duration = Duration::from_secs(60);
/// How soon a saved configuration must be in force.
const RELOAD: Duration = Duration::from_secs(5);
/// How soon the endpoint with the errors must be out, and how soon it must be back and answer.
const EJECTION: Duration = Duration::from_secs(15);
/// How many requests it must have answered since.
const ANSWERS: u64 = 200;
/// How long the slow endpoint takes for an answer.
const SLOW: Duration = Duration::from_millis(30);
/// How long the endpoint that is killed lets requests pile up before, so that there are some to be saved.
const HANG: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = timeout(LONGEST, run()) => Some(ended),
        () = interrupted() => None,
    };
    match ended {
        Some(Ok(Ok(true))) => ExitCode::SUCCESS,
        Some(Ok(Ok(false))) => ExitCode::FAILURE,
        Some(Ok(Err(error))) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
        Some(Err(_)) => {
            eprintln!("quickstart: not done after {LONGEST:?}");
            ExitCode::FAILURE
        }
        None => ExitCode::from(130),
    }
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Runs the whole demonstration. Returns whether everything was as it should be.
async fn run() -> Result<bool, Box<dyn Error>> {
    let servers = Servers::start()?;
    let directory = tempfile::Builder::new().prefix("mesh-quickstart-").tempdir()?;
    let file = ConfigFile::create(directory.path(), servers.0.each_ref().map(Backend::address))?;
    let tally = Arc::new(Tally::default());

    let traces = Traces::new();
    let mesh = Mesh::builder()
        .file(file.path())
        .observer(Arc::clone(&tally))
        .tracer_provider(traces.provider())
        .build()
        .await?;
    let traffic = Traffic::start(&mesh)?;

    print(&format!(
        "Five servers on 127.0.0.1, a mesh inside this process, and 320 requests a second, half gRPC and half HTTP.\n\
         The configuration is {}, a copy of examples/quickstart/mesh.yaml.\n\n",
        file.path().display(),
    ));
    let mut screen = Screen::new(servers.rows(), Arc::clone(&tally), Arc::clone(traffic.results()));
    let (stage, stages) = watch::channel(Stage::default());
    let mut story = Story { servers, file, tally, stage, mesh, applied: Vec::new() };
    let killed = tokio::select! {
        told = story.tell() => told?,
        never = screen.follow(stages) => match never {},
    };

    let results = traffic.stop().await;
    screen.draw(&story.stage.borrow());
    drop(screen);
    // Before the call below is counted, which is none of the callers'.
    let good = story.summary(&results, &killed);
    let trace = traces.of_one_call(&story.mesh).await?;
    story.mesh.shutdown().await;
    print(&format!("\n  One more call, as an OpenTelemetry trace:\n\n{trace}"));
    print(if good { "\nAll as it should be.\n" } else { "\nThis is not as it should be.\n" });
    Ok(good)
}

/// Three endpoints of v1 and two of v2.
struct Servers([Backend; 5]);

impl Servers {
    const SLOW: usize = 1;
    const DYING: usize = 2;
    const FAULTY: usize = 4;

    fn start() -> io::Result<Self> {
        let start = |name, delay| Backend::start(name, delay);
        Ok(Self([
            start("v1-a", Duration::ZERO)?,
            start("v1-b", SLOW)?,
            start("v1-c", Duration::ZERO)?,
            start("v2-a", Duration::ZERO)?,
            start("v2-b", Duration::ZERO)?,
        ]))
    }

    fn rows(&self) -> Vec<Row> {
        let note = |index| match index {
            Self::SLOW => "a slow one",
            Self::DYING => "this one will be killed and started again",
            Self::FAULTY => "this one will answer with errors for a while",
            _ => "",
        };
        let row = |(index, server): (usize, &Backend)| Row {
            name: server.name().to_owned(),
            address: server.address(),
            note: note(index),
        };
        self.0.iter().enumerate().map(row).collect()
    }

    fn dying(&mut self) -> &mut Backend {
        &mut self.0[Self::DYING]
    }

    fn faulty(&self) -> &Backend {
        &self.0[Self::FAULTY]
    }
}

/// The endpoint that was killed.
struct Killed {
    address: SocketAddr,
    /// How many requests it had answered when it was started again.
    answers: u64,
    /// How many attempts were followed by another until then, by the retry policy and because nobody had processed them.
    retries: (u64, u64),
}

/// What happens, one thing after the other.
struct Story {
    servers: Servers,
    file: ConfigFile,
    tally: Arc<Tally>,
    stage: watch::Sender<Stage>,
    mesh: Mesh,
    /// Each configuration that was in force, with its weights.
    applied: Vec<(u64, [u32; 2])>,
}

impl Story {
    async fn tell(&mut self) -> Result<Killed, Box<dyn Error>> {
        self.in_force(self.tally.version(), WEIGHTS);
        self.say("A canary: v1 gets 90 % of the requests, v2 gets 10 %.");
        sleep(Duration::from_secs(4)).await;

        self.shift([50, 50]).await?;
        self.say("mesh.yaml was edited: v1 and v2 get 50 % each.");
        sleep(Duration::from_millis(2500)).await;

        self.say("v1-c hangs ..");
        self.servers.dying().set_delay(HANG * 4);
        sleep(HANG).await;
        self.servers.dying().kill().await;
        self.say(".. and is killed. What it was busy with is tried again elsewhere: no caller sees a failure.");
        sleep(Duration::from_millis(3500)).await;

        let address = self.servers.dying().address();
        let killed = Killed { address, answers: self.tally.answers(address), retries: self.tally.retries() };
        self.servers.dying().set_delay(Duration::ZERO);
        self.servers.dying().restart()?;
        self.say("v1-c was started again. The mesh finds it by itself.");
        sleep(Duration::from_millis(2500)).await;

        self.shift([0, 100]).await?;
        self.say("mesh.yaml was edited: v2 gets everything. The rollout is done.");
        sleep(Duration::from_millis(3500)).await;

        self.eject().await?;
        Ok(killed)
    }

    /// Has an endpoint answer with errors until outlier detection takes it out, and waits for its return.
    async fn eject(&self) -> Result<(), Box<dyn Error>> {
        let address = self.servers.faulty().address();
        self.say("v2-b answers every request with an error ..");
        self.servers.faulty().set_broken(true);
        self.wait("was not ejected", |tally| tally.ejections(address).out).await?;
        let lasts = self.tally.ejections(address).lasts;
        self.say(&format!(
            ".. three times in a row, so it is ejected for {lasts:?} and gets none. Its errors were tried again: no caller \
             sees a failure."
        ));
        sleep(Duration::from_millis(1500)).await;

        let before = self.tally.answers(address);
        self.servers.faulty().set_broken(false);
        self.say("v2-b is well again. It returns when its time is up ..");
        self.wait("did not return", |tally| !tally.ejections(address).out).await?;
        self.say(".. and is back.");
        self.wait("did not answer again", |tally| tally.answers(address) >= before + ANSWERS).await
    }

    /// Waits until what was counted of v2-b is as `wanted`; otherwise `failure` says what it did not do.
    async fn wait(&self, failure: &str, wanted: impl Fn(&Tally) -> bool) -> Result<(), Box<dyn Error>> {
        let waited = timeout(EJECTION, self.tally.until(wanted)).await;
        waited.map_err(|_| format!("v2-b {failure} within {EJECTION:?}").into())
    }

    fn say(&self, text: &str) {
        self.stage.send_modify(|stage| stage.text = text.to_owned());
    }

    fn in_force(&mut self, version: u64, weights: [u32; 2]) {
        self.applied.push((version, weights));
        self.stage.send_if_modified(|stage| {
            (stage.version, stage.weights) = (version, weights);
            false
        });
    }

    /// Saves the file with other weights, and waits until the mesh has followed.
    async fn shift(&mut self, weights: [u32; 2]) -> Result<(), Box<dyn Error>> {
        let mut status = self.mesh.config_status();
        let before = self.tally.version();
        self.file.save(weights)?;
        let followed = status.wait_for(|status| status.version > before || status.error.is_some());
        let followed = timeout(RELOAD, followed)
            .await
            .map_err(|_| format!("mesh.yaml was saved, and the mesh did not follow within {RELOAD:?}"))??
            .clone();
        if let Some(error) = followed.error {
            return Err(format!("mesh.yaml was refused: {error}").into());
        }
        self.in_force(followed.version, weights);
        Ok(())
    }

    /// Says what was to be seen. Returns whether everything was as it should be.
    fn summary(&self, results: &Results, killed: &Killed) -> bool {
        let applied = self.applied.iter();
        let splits: Vec<_> = applied.map(|(version, weights)| Split::of(&self.tally, *version, *weights)).collect();
        let ((tonic, http), failures) = (results.requests(), results.failures());
        let (retries, resends) = killed.retries;
        let answered_after = self.tally.answers(killed.address) - killed.answers;

        let mut text = format!(
            "\nWhat you saw\n\
             \n  {} requests from one process to 5 servers, no proxy in between: {tonic} by an unchanged tonic client,\
             \n  {http} by HTTP/1.1. {failures} of them failed.\n\
             \n  mesh.yaml was saved twice while they ran. Each request was split by the weights that routed it:\n",
            tonic + http,
        );
        for split in &splits {
            text.push_str(&format!("    {split}\n"));
        }
        text.push_str(&format!(
            "\n  v1-c was killed under load. What it was busy with was tried again, {retries} times by the retry policy and\
             \n  {resends} times because the connection had just closed. Started again, v1-c answered {answered_after} more requests.\n",
        ));
        let ejections = self.tally.ejections(self.servers.faulty().address());
        let Ejections { lasts, meanwhile, others, .. } = ejections;
        text.push_str(&format!(
            "\n  v2-b answered with errors, {} of which were tried again, until it was ejected for {lasts:?}. Meanwhile {others}\
             \n  requests were sent to others and {meanwhile} to v2-b. Then it was back.\n",
            self.tally.retries().0 - retries,
        ));
        for failure in results.first_failures() {
            text.push_str(&format!("\n  failed: {failure}"));
        }
        // Those that were on their way to it when it was ejected are told a moment later.
        let ejected = ejections.count > 0 && others > 0 && meanwhile <= ejections.count * IN_FLIGHT;
        let good = failures == 0 && ejected && splits.iter().all(Split::holds);
        print(&text);
        good
    }
}
