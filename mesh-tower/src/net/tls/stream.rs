//! What is spoken over TLS, for as long as the peer is trusted.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use rustls::ProtocolVersion;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::session::Held;
use crate::identity::PeerRefused;
use crate::net::io::Raw;

/// A TLS stream. Once its peer is not trusted any more it fails, for whoever reads or writes.
#[pin_project]
pub(crate) struct Guarded {
    #[pin]
    stream: TlsStream<Raw>,
    held: Option<Held>,
    refused: Option<PeerRefused>,
}

impl Guarded {
    pub(in crate::net) fn new(stream: TlsStream<Raw>, held: Option<Held>) -> Self {
        Self { stream, held, refused: None }
    }

    /// Resolves when the peer has said something: sent tickets, as servers do that have let a client in, or more.
    ///
    /// # Errors
    /// If it refuses the client, or is gone.
    pub(in crate::net) async fn hear(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let read = Pin::new(&mut self.stream).poll_fill_buf(cx).map_ok(<[u8]>::is_empty);
            match read {
                Poll::Ready(Ok(true)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(false)) => Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending if self.stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Fails once the peer is refused; until then wakes whoever reads when that changes.
    fn poll_trust(self: Pin<&mut Self>, cx: &mut Context<'_>) -> io::Result<()> {
        let this = self.project();
        if let Some(held) = this.held
            && let Poll::Ready(refused) = held.poll_refused(cx)
        {
            *this.refused = Some(refused);
        }
        trusted(this.refused.as_ref())
    }
}

fn trusted(refused: Option<&PeerRefused>) -> io::Result<()> {
    refused.map_or(Ok(()), |refused| {
        let text = format!("the peer is not trusted any more: {refused}");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    })
}

/// Why writing failed. A peer that has closed the connection may have said why before, by an alert that nobody has read:
/// in TLS 1.3 a server refuses a client's certificate when the client is through and writes. As long as it has said
/// nothing, that or the end is waited for: a socket may know that it is closed before it is known to be readable.
fn last_word(mut stream: Pin<&mut TlsStream<Raw>>, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData};
    if !matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted) {
        return Poll::Ready(error);
    }
    let tls = stream.get_ref().1;
    let is_silent = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) && tls.tls13_tickets_received() == 0;
    match stream.as_mut().poll_fill_buf(cx) {
        Poll::Ready(Err(alert)) if alert.kind() == InvalidData => Poll::Ready(alert),
        Poll::Pending if is_silent => Poll::Pending,
        _ => Poll::Ready(error),
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.as_mut().poll_trust(cx)?;
        self.project().stream.poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut this = self.project();
        trusted(this.refused.as_ref())?;
        let done = ready!(this.stream.as_mut().poll_write(cx, buf));
        match done {
            Err(error) => last_word(this.stream, cx, error).map(Err),
            done => Poll::Ready(done),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        trusted(this.refused.as_ref())?;
        let done = ready!(this.stream.as_mut().poll_flush(cx));
        match done {
            Err(error) => last_word(this.stream, cx, error).map(Err),
            done => Poll::Ready(done),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut this = self.project();
        trusted(this.refused.as_ref())?;
        let done = ready!(this.stream.as_mut().poll_write_vectored(cx, bufs));
        match done {
            Err(error) => last_word(this.stream, cx, error).map(Err),
            done => Poll::Ready(done),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::model::{self, IdentityFrom};
    use rustls::version::{TLS12, TLS13};
    use rustls::{AlertDescription, Error};
    use rustls_pki_types::{ServerName, UnixTime};
    use tokio::io::AsyncWriteExt as _;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::identity::Identity;
    use crate::testing::Authority;

    /// The server is gone by then, and its word is there to be read.
    #[tokio::test]
    async fn whoever_writes_to_a_server_that_refused_them_learns_why() {
        let (authority, other) = (Authority::new("cluster.local"), Authority::new("cluster.local"));
        let material = authority.issue("spiffe://cluster.local/a").material(authority.bundles());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let settings = model::Identity::new(IdentityFrom::Custom);
        let identity = Identity::new(material, &settings, &provider, 1, UnixTime::now()).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(identity.server_config(&Arc::from([]), true).unwrap()));
        let stranger = other.issue("spiffe://cluster.local/b").careless_client(&[&TLS13, &TLS12]);

        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move { acceptor.accept(far).await.map(drop) });
        let connector = TlsConnector::from(Arc::new(stranger));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, Raw::Other(Box::new(near))).await.unwrap();
        server.await.unwrap().unwrap_err();
        let error = Guarded::new(stream, None).write_all(b"PRI").await.unwrap_err();
        let told = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        assert_eq!(told, Some(&Error::AlertReceived(AlertDescription::UnknownCA)), "{error:?}");
    }
}
