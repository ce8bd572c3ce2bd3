//! How clients reach the server: the listener, WebSockets, long-poll and streams of events, plain or encrypted.

mod admission;
pub mod conversation;
pub mod listener;
pub mod longpoll;
mod peer;
pub mod policy_headers;
mod query;
pub mod socket;
pub mod sse;
mod takeover;
mod tls;
pub mod upgrade;
pub mod ws;

use std::{io, net::Shutdown};

pub use admission::NOT_KNOWN;
use bytes::BytesMut;
pub use peer::{ConnectionPermit, Peer};
use realtime_hub::Sink;
use socket2::SockRef;
pub use tls::TlsSocket;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};

/// A connection with non-blocking reads and writes. Its task reads and writes; publishers write, too.
pub trait Transport: Sink + 'static {
    /// Returns when there may be something to read, or when the connection may take more, as `interest` says; and tells
    /// which. One future for both: each socket has it in memory all the time. Cancel safe.
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send;

    /// Returns when there may be something to read. Cancel safe.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        async { self.ready(Interest::READABLE).await.map(drop) }
    }

    /// Returns when the connection may take more. Cancel safe.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send {
        async { self.ready(Interest::WRITABLE).await.map(drop) }
    }

    /// Reads what is there into the buffer's spare room; 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is there. Any other error: the connection cannot be used any more.
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize>;

    /// Tells the peer that nothing more will come. It may still send.
    fn end(&self);
}

impl Transport for TcpStream {
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send {
        Self::ready(self, interest)
    }

    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        Self::try_read_buf(self, buffer)
    }

    fn end(&self) {
        // A connection that is gone needs no end.
        let _ = SockRef::from(self).shutdown(Shutdown::Write);
    }
}
