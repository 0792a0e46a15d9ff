use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_tonic::core::balance::State;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::split::Split;
use crate::tally::{Condition, Recent, Tally};
use crate::traffic::Results;

/// What is going on, for the screen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage {
    /// In a sentence.
    pub(crate) text: String,
    /// The configuration in force.
    pub(crate) version: u64,
    /// Its weights of v1 and v2.
    pub(crate) weights: [u32; 2],
}

/// An endpoint on the screen.
#[derive(Debug)]
pub(crate) struct Row {
    /// `v1-a`: the `a` of `v1`.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) note: &'static str,
}

/// Shows what happens: a table that is drawn over on a terminal, plain lines elsewhere.
pub(crate) struct Screen {
    rows: Vec<Row>,
    tally: Arc<Tally>,
    results: Arc<Results>,
    began: Instant,
    terminal: bool,
    colours: bool,
    /// How many lines of the table stand above the cursor.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(rows: Vec<Row>, tally: Arc<Tally>, results: Arc<Results>) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let terminal = std::io::stdout().is_terminal() && !dumb;
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if terminal {
            // No cursor, and no line longer than the terminal is wide.
            print("\x1b[?25l\x1b[?7l");
        }
        Self { rows, tally, results, began: Instant::now(), terminal, colours, drawn: 0 }
    }

    /// Shows each stage at once and the numbers again and again.
    pub(crate) async fn follow(&mut self, mut stages: watch::Receiver<Stage>) -> Infallible {
        let period = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(1) };
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is due at once, and there are no numbers yet.
        ticks.tick().await;
        stages.mark_changed();
        loop {
            let is_new = tokio::select! {
                changed = stages.changed() => changed.is_ok(),
                _ = ticks.tick() => false,
            };
            let stage = stages.borrow_and_update().clone();
            if is_new && !self.terminal {
                print(&format!("\n{}\n", stage.text));
            } else {
                self.draw(&stage);
            }
        }
    }

    /// Shows the numbers as they are.
    pub(crate) fn draw(&mut self, stage: &Stage) {
        let recent = self.tally.recent();
        if !self.terminal {
            print(&self.line(stage, &recent));
            return;
        }
        let table = self.table(stage, &recent);
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}F", self.drawn);
        }
        for line in table.lines() {
            let _ = writeln!(text, "{line}\x1b[K");
        }
        self.drawn = table.lines().count();
        print(&text);
    }

    /// Each backend with its weight and with the percentage of requests that it got under the present configuration.
    fn shares(&self, stage: &Stage) -> [(&'static str, u32, f64); 2] {
        let split = Split::of(&self.tally, stage.version, stage.weights);
        let ([w1, w2], [p1, p2]) = (stage.weights, split.percent());
        [("v1", w1, p1), ("v2", w2, p2)]
    }

    fn line(&self, stage: &Stage, recent: &Recent) -> String {
        let mut text = format!("{:>4} s  {:>4}/s ", self.began.elapsed().as_secs(), recent.requests);
        for (backend, weight, percent) in self.shares(stage) {
            let _ = write!(text, " {backend} {percent:>4.1} % of {weight} % (");
            for (index, row) in self.rows_of(backend).enumerate() {
                let space = if index > 0 { ", " } else { "" };
                let (name, now) = (&row.name[backend.len() + 1..], recent.answers.get(&row.address));
                let _ = match self.tally.condition(row.address) {
                    Condition::In(State::Ready) => write!(text, "{space}{name} {}", now.copied().unwrap_or_default()),
                    other => write!(text, "{space}{name} {}", other.as_str()),
                };
            }
            text.push_str(") ");
        }
        let (p50, p99) = (millis(recent.p50), millis(recent.p99));
        let (retries, failures) = (self.retries(), self.results.failures());
        let _ = writeln!(text, " p50 {p50} ms, p99 {p99} ms  retries {retries}, failures {failures}");
        text
    }

    fn table(&self, stage: &Stage, recent: &Recent) -> String {
        let (p50, p99) = (millis(recent.p50), millis(recent.p99));
        let failures = self.results.failures();
        let failures = self.paint(if failures > 0 { RED } else { GREEN }, &failures.to_string());
        let mut text = format!(
            "{}  {} s\n{}\n\n  {} requests/s   p50 {p50} ms   p99 {p99} ms   {} retries   {failures} failures\n",
            self.paint(BOLD, "mesh quickstart"),
            self.began.elapsed().as_secs(),
            stage.text,
            recent.requests,
            self.retries(),
        );
        for (backend, weight, percent) in self.shares(stage) {
            let name = self.paint(BOLD, backend);
            let _ = writeln!(text, "\n  {name}   weight {weight:>3} %   {percent:>5.1} % of the requests since then");
            for Row { name, address, note } in self.rows_of(backend) {
                let condition = self.tally.condition(*address);
                let colour = match condition {
                    Condition::In(State::Ready) => GREEN,
                    Condition::In(State::Failing) | Condition::Ejected => RED,
                    Condition::In(State::Idle | State::Connecting) => YELLOW,
                };
                let state = self.paint(colour, &format!("{:<10}", condition.as_str()));
                let now = recent.answers.get(address).copied().unwrap_or_default();
                let _ = writeln!(text, "    {name}  {address:<15}  {state} {now:>4}/s   {note}");
            }
        }
        text
    }

    fn rows_of<'a>(&'a self, backend: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.name.starts_with(backend))
    }

    fn retries(&self) -> u64 {
        let (retries, resends) = self.tally.retries();
        retries + resends
    }

    fn paint(&self, colour: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            print("\x1b[?7h\x1b[?25h");
        }
    }
}

const BOLD: u8 = 1;
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

fn millis(duration: Duration) -> String {
    format!("{:>4.1}", duration.as_secs_f64() * 1000.0)
}

/// Writes to standard output. If nobody reads it any more, the exit code still tells.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
