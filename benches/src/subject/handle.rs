use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Kind, Order};
use crate::credentials::Credentials;
use crate::{Result, process};

/// A process with servers under test; it ends when this is dropped, or with the process that holds it.
#[derive(Debug)]
pub struct Subjects {
    process: Child,
    addresses: Vec<SocketAddr>,
}

impl Subjects {
    /// Starts `exe`, the path that cargo gives as `env!("CARGO_BIN_EXE_subject-server")`, and returns once it listens.
    ///
    /// # Errors
    /// If the process cannot be started or ends before it listens.
    pub fn spawn(exe: &str, kinds: &[Kind], credentials: Option<&Credentials>) -> Result<Self> {
        let credentials = credentials.map(|credentials| credentials.server().directory().to_owned());
        let order = serde_json::to_string(&Order { kinds: kinds.to_vec(), credentials })?;
        let mut process = Command::new(exe).arg(order).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("the server has no standard output")?;
        let mut subjects = Self { process, addresses: Vec::new() };
        let mut line = String::new();
        if BufReader::new(stdout).read_line(&mut line)? == 0 {
            return Err("the server ended".into());
        }
        subjects.addresses = serde_json::from_str(&line)?;
        Ok(subjects)
    }

    /// Where each of the kinds listens, in their order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What tells the CPU time that the process has spent.
    pub fn meter(&self) -> impl Fn() -> Result<Duration> + use<> {
        let id = self.id();
        move || process::cpu(id)
    }
}

impl Drop for Subjects {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
