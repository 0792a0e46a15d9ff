use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Listening;
use super::manner::{Manner, Order};
use crate::Result;

/// A server process; it ends when this is dropped, or with the process that holds it.
#[derive(Debug)]
pub struct Server {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    listening: Listening,
}

impl Server {
    /// Starts `exe`, the path that cargo gives as `env!("CARGO_BIN_EXE_greeter-server")`, and returns once it listens
    /// on `ports` ports.
    ///
    /// # Errors
    /// If the process cannot be started or ends before it listens.
    pub fn spawn(exe: &str, ports: usize) -> Result<Self> {
        let mut process =
            Command::new(exe).arg(ports.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = process.stdin.take().ok_or("the server has no standard input")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("the server has no standard output")?);
        let listening = Listening { endpoints: Vec::new(), control_plane: None };
        let mut server = Self { process, stdin, stdout, listening };
        server.listening = serde_json::from_str(&server.read_line()?)?;
        Ok(server)
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.listening.endpoints
    }

    /// Where its xDS control plane listens, which it has under the feature `peers` only.
    pub fn control_plane(&self) -> Option<SocketAddr> {
        self.listening.control_plane
    }

    /// How many connections it has accepted since it started, on all ports together.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn connections(&mut self) -> Result<u64> {
        self.ask("")
    }

    /// Has the endpoint at this place answer so from now on; it does when this returns.
    ///
    /// # Errors
    /// If there is none at this place, or the process has ended.
    pub fn tell(&mut self, endpoint: usize, manner: Manner) -> Result<()> {
        self.ask(&serde_json::to_string(&Order { endpoint, manner })?)?;
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Result<u64> {
        writeln!(self.stdin, "{line}")?;
        self.stdin.flush()?;
        Ok(self.read_line()?.trim().parse()?)
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("the server ended".into());
        }
        Ok(line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
