//! Connections for protocols that `tokio_postgres` does not speak.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    error::DialError,
    mode::TlsMode,
    route::{PEER_LIMIT, Route},
};

/// PostgreSQL's request for TLS: its length and a number that no version of the protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

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
        // Exactly one byte: bytes that an attacker may have put behind it must not be taken for the server's later.
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

/// Lets the system notice a peer that vanished.
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
