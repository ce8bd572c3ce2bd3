//! The rest of a request's body, if the answer is known before it was read: a wrong token, a body that is too large,
//! no such route.
//!
//! If a connection is closed while its client still sends, it is reset, and the client often sees that instead of the
//! answer. So the rest is read and thrown away first, within limits. A client that sends more gets the answer at once,
//! and may miss it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{Request, header};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{self, Duration};

/// Largest body of a request, in bytes. Routes that read a body use this limit, too.
pub const MAX_BODY: usize = 8_000_000;

/// Bytes that are thrown away at most: twice what a body may have.
const MAX_LEFT: u64 = 2 * MAX_BODY as u64;

/// How long reading the rest may take, and how long the client may pause in between.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

/// A body that comes back when nobody reads it any more.
pub(super) struct Lent<B> {
    body: Option<B>,
    home: Arc<Mutex<Option<B>>>,
}

/// Where an unfinished body comes back to.
pub(super) struct Leftover<B>(Arc<Mutex<Option<B>>>);

/// Lends the body of a request.
pub(super) fn lend<B: Body>(request: Request<B>) -> (Request<Lent<B>>, Leftover<B>) {
    // A client that waits for permission to send the body has sent none of it.
    let waits = request.headers().contains_key(header::EXPECT);
    let home = Arc::new(Mutex::new(None));
    let unwanted = waits || request.body().size_hint().lower() > MAX_LEFT;
    let back = if unwanted { Arc::default() } else { Arc::clone(&home) };
    (request.map(|body| Lent { body: Some(body), home: back }), Leftover(home))
}

impl<B: Body<Data = Bytes> + Unpin> Leftover<B> {
    /// Reads the rest.
    pub(super) async fn throw_away(self) {
        let Some(body) = self.0.lock().take() else { return };
        let mut body = pin!(body);
        let mut left = MAX_LEFT;
        let rest = async {
            while let Ok(Some(Ok(frame))) =
                time::timeout(PAUSE, poll_fn(|cx| body.as_mut().poll_frame(cx))).await
            {
                let read = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                left = left.saturating_sub(read);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = time::timeout(LIMIT, rest).await;
    }
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.home.lock() = self.body.take();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body that counts what was read of it.
    struct Chunks(VecDeque<usize>, Arc<Mutex<usize>>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            // Nothing follows, and no end either.
            if self.0.front() == Some(&0) {
                return Poll::Pending;
            }
            let Some(length) = self.0.pop_front() else { return Poll::Ready(None) };
            *self.1.lock() += length;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; length])))))
        }
    }

    async fn read_of(chunks: &[usize], expect: bool, by_handler: usize) -> usize {
        let read = Arc::new(Mutex::new(0));
        let mut request = Request::new(Chunks(chunks.iter().copied().collect(), Arc::clone(&read)));
        if expect {
            request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
        }
        let (mut request, leftover) = lend(request);
        for _ in 0..by_handler {
            poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        }
        drop(request);
        leftover.throw_away().await;
        *read.lock()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_read_within_limits() {
        assert_eq!(read_of(&[], false, 0).await, 0);
        assert_eq!(read_of(&[10, 20, 30], false, 0).await, 60);
        assert_eq!(read_of(&[10, 20, 30], false, 1).await, 60);
        assert_eq!(read_of(&[10, 20, 30], false, 4).await, 60);
        // Nothing is asked of who waits to be asked.
        assert_eq!(read_of(&[10, 20, 30], true, 0).await, 0);
        // Neither is a client waited for that pauses.
        assert_eq!(read_of(&[10, 0, 30], false, 0).await, 10);
        let endless = vec![MAX_BODY; 10];
        assert_eq!(read_of(&endless, false, 0).await, 2 * MAX_BODY);
    }
}
