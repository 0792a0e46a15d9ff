//! Where the Workload API is served (SPIFFE Workload Endpoint, 4).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::net::TcpStream;

use crate::net::Io;

/// An endpoint: `unix:/run/agent.sock`, `unix:///run/agent.sock`, or `tcp://127.0.0.1:8081`.
#[derive(Debug)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// Whoever holds the receiver serves.
    #[cfg(test)]
    Memory(tokio::sync::mpsc::Sender<tokio::io::DuplexStream>),
}

impl Endpoint {
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Io>> {
        match self {
            #[cfg(unix)]
            Self::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "there are no Unix sockets here")),
            Self::Tcp(address) => Ok(Box::new(TcpStream::connect(address).await?)),
            #[cfg(test)]
            Self::Memory(listener) => {
                let (near, far) = tokio::io::duplex(64 * 1024);
                listener.send(far).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(Box::new(near))
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| Err(format!("{text:?} is no endpoint of the Workload API: {why}"));
        if text.contains(['?', '#']) {
            return refused("it must have no query and no fragment");
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return refused("it begins with `unix:` or `tcp:`");
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "unix" if rest.starts_with('/') && rest.len() > 1 => Ok(Self::Unix(rest.into())),
            "unix" => refused("`unix:` is followed by an absolute path, and no host"),
            "tcp" => match rest.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => Ok(Self::Tcp(address)),
                _ => refused("`tcp://` is followed by an IP address and a port, and nothing else"),
            },
            _ => refused("it begins with `unix:` or `tcp:`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms of the standard, and what it forbids.
    #[test]
    fn endpoints_are_read_by_the_standard() {
        let unix = |path: &str| Ok(Endpoint::Unix(path.into()));
        let tcp = |address: &str| Ok(Endpoint::Tcp(address.parse().unwrap()));
        let (scheme, path) = ("it begins with", "absolute path");
        let (address, query) = ("an IP address and a port", "no query");
        let cases: [(&str, Result<Endpoint, &str>); 20] = [
            ("unix:/run/agent.sock", unix("/run/agent.sock")),
            ("unix:///run/agent.sock", unix("/run/agent.sock")),
            ("tcp://127.0.0.1:8081", tcp("127.0.0.1:8081")),
            ("tcp:127.0.0.1:8081", tcp("127.0.0.1:8081")),
            ("tcp://[::1]:8081", tcp("[::1]:8081")),
            ("", Err(scheme)),
            ("/run/agent.sock", Err(scheme)),
            ("http://127.0.0.1:8081", Err(scheme)),
            ("npipe:agent", Err(scheme)),
            ("unix:", Err(path)),
            ("unix:/", Err(path)),
            ("unix:run/agent.sock", Err(path)),
            ("unix://host/agent.sock", Err(path)),
            ("unix:/run/agent.sock?x", Err(query)),
            ("unix:/run/agent.sock#x", Err(query)),
            ("tcp://127.0.0.1", Err(address)),
            ("tcp://127.0.0.1:0", Err(address)),
            ("tcp://agent:8081", Err(address)),
            ("tcp://user@127.0.0.1:8081", Err(address)),
            ("tcp://127.0.0.1:8081/path", Err(address)),
        ];
        for (text, wanted) in cases {
            match (text.parse::<Endpoint>(), wanted) {
                (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{error}"),
                (read, wanted) => assert_eq!(format!("{:?}", read.ok()), format!("{:?}", wanted.ok()), "{text}"),
            }
        }
    }
}
