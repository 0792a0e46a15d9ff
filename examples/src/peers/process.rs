//! A foreign program: started, listened to, ended.

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::PATIENCE;

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(10);
/// So many lines of what a program said are shown when a test fails.
const SHOWN: usize = 200;

/// A running program. Dropping it ends it: it is asked to by SIGTERM, and killed if it is still there ten seconds
/// later.
///
/// If it is dropped because a test panics, what the program has said is printed, so that the failed test shows it.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    output: watch::Receiver<String>,
    /// Disconnected when the program has closed its output, which is when it has ended. In a mutex only to be `Sync`.
    ended: Mutex<mpsc::Receiver<Infallible>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, without input. What it writes to its standard output and error is kept.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &'static str, command: Command) -> Self {
        let program = command.get_program().to_owned();
        Self::try_start(name, command).unwrap_or_else(|error| panic!("{name}: {program:?} does not start: {error}"))
    }

    fn try_start(name: &'static str, mut command: Command) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
        // It holds the ends to write to: with them open, the program's end would never be seen.
        drop(command);
        let (lines, output) = watch::channel(String::new());
        let (ends, ended) = mpsc::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            collect(reader, &lines);
            drop((lines, ends));
        })?;
        Ok(Self { name, child, output, ended: Mutex::new(ended), status: None })
    }

    /// Its number in the operating system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said so far, in whole lines.
    pub fn output(&self) -> String {
        self.output.borrow().clone()
    }

    /// Waits until `find` finds something in a line of what it says, or has said before.
    ///
    /// # Panics
    /// If it ends, or a minute passes, without that; `what` names what was expected.
    pub async fn said<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut output = self.output.clone();
        loop {
            if let Some(found) = output.borrow_and_update().lines().find_map(&find) {
                return found;
            }
            match timeout_at(deadline, output.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => panic!("{} ended before it told {what}", self.name),
                Err(_) => panic!("{} did not tell {what} within {PATIENCE:?}", self.name),
            }
        }
    }

    /// Waits until it has ended by itself, or closed its output.
    pub async fn ended(&self) {
        let mut output = self.output.clone();
        while output.changed().await.is_ok() {}
    }

    /// Ends it as dropping it does, and says how it ended.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn stop(mut self) -> io::Result<ExitStatus> {
        self.end(GRACE)
    }

    fn end(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        // Nobody has waited for it, so the id is still its own, even if it has ended. An error means that it has.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(grace) {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.end(GRACE);
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            #[expect(clippy::print_stderr, reason = "the harness keeps it with the failed test")]
            {
                eprintln!("---- {} ({ended:?}), its last {} lines ----\n{}", self.name, last.len(), last.join("\n"));
            }
        }
    }
}

/// Appends what comes to `lines`, line by line, until the writers are gone.
fn collect(reader: PipeReader, lines: &watch::Sender<String>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        lines.send_modify(|text| text.push_str(&String::from_utf8_lossy(&line)));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("shell", command)
    }

    fn whole(line: &str) -> Option<String> {
        (line == "ready").then(|| line.to_owned())
    }

    /// The shell itself sleeps, not a child of it that would outlive it.
    const SLEEP: &str = "exec sleep 600";

    #[tokio::test]
    async fn what_it_says_is_waited_for_and_kept() {
        let process = shell(&format!("echo out; echo err >&2; echo ready; {SLEEP}"));
        assert_eq!(process.said("that it is ready", whole).await, "ready");
        // What was said before is found as well.
        process.said("a word on its standard error", |line| (line == "err").then_some(())).await;
        assert_eq!(process.output(), "out\nerr\nready\n");
    }

    #[tokio::test]
    async fn it_is_asked_to_end_and_may_clean_up() {
        let process = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        process.said("that it is ready", whole).await;
        assert_eq!(process.stop().unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn it_is_killed_if_it_does_not_end() {
        let mut process = shell(&format!("trap '' TERM; echo ready; {SLEEP}"));
        process.said("that it is ready", whole).await;
        assert_eq!(process.end(Duration::from_millis(50)).unwrap().signal(), Some(Signal::SIGKILL as i32));
    }

    #[tokio::test]
    async fn one_that_has_ended_already_is_no_error() {
        let process = shell("echo ready; exit 3");
        process.ended().await;
        assert_eq!(process.stop().unwrap().code(), Some(3));
    }

    #[tokio::test]
    #[should_panic(expected = "shell ended before it told that it is ready")]
    async fn waiting_ends_with_the_program() {
        shell("echo 'bind: address already in use'; exit 1").said("that it is ready", whole).await;
    }

    #[test]
    #[should_panic(expected = "\"/nowhere/peer\" does not start: No such file")]
    fn a_program_that_is_not_there_is_named() {
        Process::start("peer", Command::new("/nowhere/peer"));
    }
}
