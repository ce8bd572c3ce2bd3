//! How long an answer waits for a client that does not read it.
//!
//! What waits for the client stands in memory: what the HTTP server has of the answer, and what the answer itself holds. A
//! client that takes some of it at times is slow; one that takes next to nothing holds it for as long as it likes.

use std::{
    error::Error as _,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Duration, Instant, Sleep},
};

/// Bytes that a client has to take within the limit. The system takes them in pieces of about this size, as there is room in
/// its buffers.
const LEAST: usize = 64 * 1024;

/// A connection that is given up when its client takes less than [`LEAST`] bytes in the limit. Only the time counts in which
/// something waits for it. As long as nothing does, that costs nothing.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    /// Zero for any time.
    limit: Duration,
    /// There while something waits.
    waiting: Option<Box<Waiting>>,
    /// What was waited in all, and taken, since it last took enough.
    waited: Duration,
    taken: usize,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

/// The client does not read.
#[derive(Debug, thiserror::Error)]
#[error("the client does not read the answer")]
pub(super) struct NotRead;

impl NotRead {
    /// Whether this is why a connection has ended.
    pub(super) fn is_in(error: &hyper::Error) -> bool {
        let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        cause.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<Self>())
    }
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waiting: None, waited: Duration::ZERO, taken: 0 }
    }

    /// The connection.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Looks at what has come of writing: so many bytes were taken, or the client has to take some first.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending if self.limit.is_zero() => {}
            Poll::Pending => {
                let left = self.limit.saturating_sub(self.waited);
                let begin =
                    || Box::new(Waiting { since: Instant::now(), timer: Box::pin(time::sleep(left)) });
                if self.waiting.get_or_insert_with(begin).timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, NotRead)));
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Ready(Ok(done)) => {
                if let Some(waiting) = self.waiting.take() {
                    self.waited += waiting.since.elapsed();
                }
                self.taken += bytes(done);
                if self.taken >= LEAST {
                    (self.taken, self.waited) = (0, Duration::ZERO);
                }
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.judge(cx, written, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, written, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, ended, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A client that takes `bytes` every `pause`. When its answer of a megabyte was given up, or was read.
    async fn answered(bytes: usize, pause: u64) -> Result<Duration, Duration> {
        let (server, client): (_, DuplexStream) = duplex(16 * 1024);
        let mut server = Patient::new(server, LIMIT);
        let reading = tokio::spawn(async move {
            let mut client = client;
            let mut read = vec![0; bytes];
            loop {
                time::sleep(Duration::from_secs(pause)).await;
                if client.read_exact(&mut read).await.is_err() {
                    break;
                }
            }
        });
        let begun = Instant::now();
        let written = server.write_all(&vec![b'x'; 1 << 20]).await;
        reading.abort();
        match written {
            Ok(()) => Ok(begun.elapsed()),
            Err(error) => {
                assert!(error.get_ref().is_some_and(|inner| inner.is::<NotRead>()));
                Err(begun.elapsed())
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_clients_get_their_answer_and_idle_ones_do_not() {
        assert_eq!(answered(1, 1_000).await, Err(LIMIT));
        let dripped = answered(1, 1).await.unwrap_err();
        assert!((LIMIT..LIMIT * 2).contains(&dripped), "a byte a second: {dripped:?}");
        assert!(answered(1_200, 1).await.is_ok(), "a little more than 64 KB in a minute");
        assert!(answered(16 * 1024, 14).await.is_ok());
        assert!(answered(900, 1).await.is_err(), "a little less");
    }

    /// What a client takes without delay never adds up to anything.
    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_a_client_that_reads() {
        let (server, mut client) = duplex(1_000);
        let mut server = Patient::new(server, LIMIT);
        for _ in 0..100 {
            server.write_all(&[b'x'; 100]).await.unwrap();
            client.read_exact(&mut [0; 100]).await.unwrap();
            time::sleep(LIMIT).await;
        }
        assert!(server.waiting.is_none() && server.waited.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn any_time() {
        let (server, _client) = duplex(10);
        let mut server = Patient::new(server, Duration::ZERO);
        assert!(time::timeout(LIMIT * 100, server.write_all(&[0; 100])).await.is_err(), "it waits");
    }
}
