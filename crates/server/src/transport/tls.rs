//! An encrypted connection that any task can write to, as to a plain one.
//!
//! The TLS session and its buffers are under a lock. Publishers encrypt and write; the socket's task reads. What the
//! socket does not take stays in the session, at most [`BUFFER`] bytes, and the outbox is told so.

use std::io::{self, BufRead as _, IoSlice, Read, Write};

use bytes::BytesMut;
use parking_lot::Mutex;
use realtime_hub::Sink;
use rustls::ServerConnection;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
};

use super::Transport;

/// Encrypted bytes that may wait for the socket to take them.
const BUFFER: usize = 64 * 1024;

/// An encrypted connection after its handshake.
#[derive(Debug)]
pub struct TlsSocket {
    tcp: TcpStream,
    session: Mutex<ServerConnection>,
}

impl TlsSocket {
    /// Takes over a connection after its handshake.
    #[must_use]
    pub fn new(tcp: TcpStream, mut session: ServerConnection) -> Self {
        session.set_buffer_limit(Some(BUFFER));
        Self { tcp, session: Mutex::new(session) }
    }

    /// Whether there are decrypted bytes that nobody has read. The operating system does not know of them.
    fn has_plaintext(&self) -> bool {
        let mut session = self.session.lock();
        !matches!(session.reader().fill_buf(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes the session's buffers. False if the socket does not take all of them.
    fn drain(&self, session: &mut ServerConnection) -> io::Result<bool> {
        while session.wants_write() {
            match session.write_tls(&mut NonBlocking(&self.tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Sink for TlsSocket {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session.lock();
        // What waits goes first. Nothing is added while the socket does not take it.
        if !self.drain(&mut session)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = session.writer().write_vectored(slices)?;
        self.drain(&mut session)?;
        Ok(taken)
    }

    fn try_drain(&self) -> io::Result<bool> {
        self.drain(&mut self.session.lock())
    }
}

impl Transport for TlsSocket {
    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        if interest.is_readable() && self.has_plaintext() {
            return Ok(Ready::READABLE);
        }
        self.tcp.ready(interest).await
    }

    /// Reads as many records as there is room for: a client may send one for each small message, and turns are counted
    /// in reads.
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut session = self.session.lock();
        let mut taken = 0;
        loop {
            match session.reader().fill_buf() {
                Ok([]) => return Ok(taken),
                Ok(decrypted) => {
                    let room = buffer.capacity() - buffer.len();
                    let count = decrypted.len().min(room);
                    buffer.extend_from_slice(decrypted.get(..count).unwrap_or_default());
                    session.reader().consume(count);
                    taken += count;
                    if count == room {
                        return Ok(taken);
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer left without an alert. For a WebSocket that is an end, too.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(taken),
                Err(error) => return Err(error),
            }
            match session.read_tls(&mut NonBlocking(&self.tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                read => read?,
            };
            if let Err(error) = session.process_new_packets() {
                // The session has an alert for the peer.
                let _ = self.drain(&mut session);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    fn end(&self) {
        let mut session = self.session.lock();
        session.send_close_notify();
        let _ = self.drain(&mut session);
        self.tcp.end();
    }
}

/// The socket for a library that reads and writes until it is told to wait.
struct NonBlocking<'a>(&'a TcpStream);

impl Read for NonBlocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
