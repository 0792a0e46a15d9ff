//! openssl and curl, and the files that they and other peers are given.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{PATIENCE, Ran, run};
use crate::certs::{Issued, Swap};

/// A certificate, its key, and whom to trust, as files in a directory of their own, which goes with this.
#[derive(Debug)]
pub struct Files {
    directory: TempDir,
}

impl Files {
    /// Writes them.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write(issued: &Issued) -> Self {
        let files = Self { directory: tempfile::tempdir().expect("a temporary directory can be made") };
        files.rotate(issued);
        files
    }

    /// Replaces them, each at once.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn rotate(&self, issued: &Issued) {
        issued.write_to(self.directory.path(), Swap::Files).expect("the directory can be written to");
    }

    /// The directory that has them.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate, and those between it and the root.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }

    /// Who is trusted.
    pub fn bundle(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// The flags of our Go programs.
    pub(super) fn for_go(&self) -> Vec<String> {
        let flags = [("-cert", self.certificate()), ("-key", self.key()), ("-ca", self.bundle())];
        flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]).collect()
    }
}

/// What `openssl s_client` saw of a server.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// How the program ended, and all that it said.
    pub ran: Ran,
    /// Such as `TLSv1.3`; `None` if there was no handshake.
    pub version: Option<String>,
    /// What both speak, by ALPN.
    pub alpn: Option<String>,
    /// The number of the alert that the server sent, if it did (RFC 8446 6).
    pub alert: Option<u8>,
}

/// Connects by TLS, sends `input`, and waits until the server closes the connection, a minute at most. With files, their
/// certificate is shown; without, none. `arguments` are further ones of `s_client`: `["-alpn", "h2", "-tls1_2"]`.
///
/// The server is not verified, so that what it does is seen. The program is the one that `MESH_PEER_OPENSSL` names.
///
/// # Panics
/// If the variable is not set, the program cannot be run, or the connection stays open.
pub async fn s_client(server: SocketAddr, files: Option<&Files>, arguments: &[&str], input: &[u8]) -> Handshake {
    let mut all: Vec<OsString> = ["s_client", "-ign_eof", "-connect", &server.to_string()].map(Into::into).into();
    if let Some(files) = files {
        all.extend(["-cert".into(), files.certificate().into(), "-cert_chain".into(), files.certificate().into()]);
        all.extend(["-key".into(), files.key().into()]);
    }
    all.extend(arguments.iter().map(Into::into));
    handshake(run("MESH_PEER_OPENSSL", all, input, PATIENCE).await)
}

fn handshake(ran: Ran) -> Handshake {
    let said = ran.said();
    let after = |start: &str| said.lines().find_map(|line| line.trim_start().strip_prefix(start).map(str::trim));
    let version = after("New, ").and_then(|rest| rest.split(',').next()).filter(|version| *version != "(NONE)");
    // The session tells which it is; the line above means TLS 1.2 by any version before 1.3.
    let version = after("Protocol  : ").or(version).map(str::to_owned);
    let alpn = after("ALPN protocol: ").map(str::to_owned);
    let alert = said.rsplit_once("SSL alert number ").map(|(_, rest)| rest);
    let alert = alert.and_then(|rest| rest.split(|after: char| !after.is_ascii_digit()).next()?.parse().ok());
    Handshake { version, alpn, alert, ran }
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// How the program ended: 0 if there was an answer, whatever its status.
    pub code: Option<i32>,
    /// Its status; 0 if there was none.
    pub status: u16,
    /// `1.1`, `2`; `0` if there was none.
    pub version: String,
    /// Its headers, as they came, informational responses included.
    pub head: String,
    /// Its body.
    pub body: String,
    /// What went wrong.
    pub error: String,
}

/// Fetches a URL, for a minute at most. With files, their certificate is shown, and the server must have one that their
/// bundle trusts; `arguments` are further ones of curl. The program is the one that `MESH_PEER_CURL` names.
///
/// # Panics
/// If the variable is not set, or the program cannot be run.
pub async fn curl(url: &str, files: Option<&Files>, arguments: &[&str]) -> Fetched {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (head, body) = (directory.path().join("head"), directory.path().join("body"));
    // --disable comes first, and means the user's own file of options.
    let mut all: Vec<OsString> = ["--disable", "--silent", "--show-error", "--max-time", "60"].map(Into::into).into();
    all.extend(["--noproxy".into(), "*".into(), "--write-out".into(), "%{http_code} %{http_version}".into()]);
    all.extend(["--dump-header".into(), head.clone().into(), "--output".into(), body.clone().into()]);
    if let Some(files) = files {
        all.extend(["--cert".into(), files.certificate().into(), "--key".into(), files.key().into()]);
        all.extend(["--cacert".into(), files.bundle().into()]);
    }
    all.extend(arguments.iter().map(Into::into));
    all.push(url.into());
    let ran = run("MESH_PEER_CURL", all, b"", 2 * PATIENCE).await;
    let (status, version) = ran.output.split_once(' ').unwrap_or_default();
    // A file that was not written is of an answer that did not come.
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    Fetched {
        code: ran.code,
        status: status.parse().unwrap_or_default(),
        version: version.to_owned(),
        head: read(head),
        body: read(body),
        error: ran.errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(output: &str) -> (Option<String>, Option<String>, Option<u8>) {
        let ran = Ran { code: Some(1), output: output.to_owned(), errors: String::new() };
        let Handshake { version, alpn, alert, .. } = handshake(ran);
        (version, alpn, alert)
    }

    #[test]
    fn what_openssl_says_is_understood() {
        let refused = "New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256\nALPN protocol: h2\nEarly data was not sent\n\
            40:error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate required:rec.c:1601:SSL alert number 116\n";
        assert_eq!(seen(refused), (Some("TLSv1.3".to_owned()), Some("h2".to_owned()), Some(116)));
        let older = "No ALPN negotiated\nNew, TLSv1.2, Cipher is X\nSSL-Session:\n    Protocol  : TLSv1.2\n";
        assert_eq!(seen(older), (Some("TLSv1.2".to_owned()), None, None));
        assert_eq!(seen("New, (NONE), Cipher is (NONE)\n"), (None, None, None));
    }
}
