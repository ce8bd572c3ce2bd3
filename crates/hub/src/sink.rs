//! Where an outbox writes its frames.

use std::{
    fmt,
    io::{self, IoSlice},
};

use bytes::Bytes;
use tokio::net::TcpStream;

/// Frames in one vectored write.
const MAX_SLICES: usize = 64;

/// Bytes in one write: the kernel takes some megabytes at once, and a thread needs milliseconds to copy them.
pub(crate) const MAX_WRITE: usize = 256 * 1024;

/// Where frames are written to.
pub trait Sink: Send + Sync + fmt::Debug {
    /// Writes some of the bytes without waiting; [`io::ErrorKind::WouldBlock`] when it would have to.
    ///
    /// # Errors
    /// What the operating system says.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes what the sink has taken and still holds: for a sink that cannot write all it takes, like one that encrypts.
    /// False if the rest has to wait until the socket takes more.
    ///
    /// # Errors
    /// What the operating system says.
    fn try_drain(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Sink for TcpStream {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            // The plain call is a little cheaper in the kernel.
            [slice] => Self::try_write(self, slice),
            _ => self.try_write_vectored(slices),
        }
    }
}

/// Writes the first [`MAX_SLICES`] frames at once, up to [`MAX_WRITE`] bytes of them.
pub(crate) fn write<'a>(
    sink: &dyn Sink,
    mut frames: impl ExactSizeIterator<Item = &'a Bytes>,
) -> io::Result<usize> {
    let part = |frame: &'a Bytes, room: usize| IoSlice::new(frame.get(..room).unwrap_or(frame));
    if frames.len() == 1 {
        let Some(frame) = frames.next() else { return Ok(0) };
        return sink.try_write(&[part(frame, MAX_WRITE)]);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let (mut count, mut room) = (0, MAX_WRITE);
    for (slice, frame) in slices.iter_mut().zip(frames) {
        if room == 0 {
            break;
        }
        *slice = part(frame, room);
        room -= slice.len();
        count += 1;
    }
    sink.try_write(slices.get(..count).unwrap_or(&slices))
}
