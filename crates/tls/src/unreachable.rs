//! A connection that could not be made, as an error of `tokio_postgres`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{Config, NoTls};

use crate::error::DialError;

/// A connection that could not be made: every use of it fails with the error. `tokio_postgres` makes its errors itself,
/// so this makes it wrap ours.
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
            // The loop is for the compiler: connecting over this always fails.
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
