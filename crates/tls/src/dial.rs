//! Connections that something else than `tokio_postgres` speaks on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_postgres::{Config, NoTls};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{IpVersion, Route, TlsMode};

/// PostgreSQL's request for TLS: its length and a number that no version of the protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How long a peer may be silent that should answer: beyond it the connection counts as broken.
pub(crate) const PEER_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host's name means nothing.
    #[error("The database's host {host} cannot be found: {problem}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver says.
        problem: String,
    },
    /// It has addresses, none of them wanted.
    #[error("The database's host {host} has no {version} address")]
    NoAddress {
        /// The name.
        host: String,
        /// What is wanted.
        version: IpVersion,
    },
    /// No connection, or a broken one.
    #[error("Cannot connect to the database: {0}")]
    Io(#[from] io::Error),
    /// The server has no TLS.
    #[error("The database's server does not support TLS, which is required")]
    NoTls,
    /// The server's certificate or its TLS is refused, or ours by it.
    #[error("TLS to the database failed: {0}")]
    Handshake(io::Error),
}

/// A connection to a database's server on which nothing has been said yet.
#[derive(Debug)]
pub enum Stream {
    /// Plain.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Route {
    /// Connects, and encrypts if that is wanted. Has no limit of time of its own.
    ///
    /// # Errors
    /// [`DialError`], whose text is for operators.
    pub async fn dial(&self, host: &str, port: u16) -> Result<Stream, DialError> {
        let addresses = self.addresses(host, port).await?;
        let mut stream = TcpStream::connect(&addresses[..]).await?;
        stream.set_nodelay(true)?;
        watch(&stream)?;
        let mode = self.tls.mode();
        if mode == TlsMode::Disable {
            return Ok(Stream::Plain(stream));
        }
        stream.write_all(&SSL_REQUEST).await?;
        // Exactly one byte: what an attacker may have put behind it must not count as said by the server later.
        match (stream.read_u8().await?, mode) {
            (b'S', _) => {}
            (b'N', TlsMode::Prefer) => return Ok(Stream::Plain(stream)),
            _ => return Err(DialError::NoTls),
        }
        let invalid = |error| DialError::Handshake(io::Error::new(io::ErrorKind::InvalidInput, error));
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        let connector = TlsConnector::from(self.tls.client());
        let stream = connector.connect(name, stream).await.map_err(DialError::Handshake)?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// Lets the system notice a peer that is gone without a word.
fn watch(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_LIMIT).with_interval(PEER_LIMIT / 3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(PEER_LIMIT))?;
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection that is none: every use of it is the error that there was. `tokio_postgres` makes its errors itself,
/// and so it makes one of ours.
pub(crate) struct Unreachable(Option<DialError>);

impl Unreachable {
    pub(crate) fn new(error: DialError) -> Self {
        Self(Some(error))
    }

    /// The error, as one of `tokio_postgres`.
    pub(crate) async fn refuse(mut self, config: &Config) -> tokio_postgres::Error {
        let mut config = config.clone();
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        loop {
            // The loop is for the compiler: nothing can be said on a connection that is none.
            if let Err(error) = config.connect_raw(Self(self.0.take()), NoTls).await {
                return error;
            }
        }
    }

    fn error(&mut self) -> io::Error {
        match self.0.take() {
            Some(DialError::Io(error) | DialError::Handshake(error)) => error,
            Some(error) => io::Error::new(io::ErrorKind::NotFound, error.to_string()),
            None => io::ErrorKind::NotConnected.into(),
        }
    }
}

impl AsyncRead for Unreachable {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }
}

impl AsyncWrite for Unreachable {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
