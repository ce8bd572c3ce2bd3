//! The back door: connections that a full server accepts only to say that it is alive and full.

use std::{collections::VecDeque, fs::File, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse as _};
use http::{HeaderValue, Request, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::transport::Peer;

/// Connections at the back door at once. If there are more, the oldest are closed: they were answered already, or ask
/// for nothing.
const GUESTS: usize = 64;

/// How long a connection may stay at the back door.
const STAY: Duration = Duration::from_secs(5);

/// Descriptors that are kept open, so that one can be given up for a connection when there is no other.
const SPARES: usize = 4;

/// Seconds that clients should wait before they come again.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("1");

/// The paths that are served.
const OPEN: [&str; 1] = ["/healthcheck"];

/// The connections at the back door, and the spare descriptors.
pub(super) struct BackDoor {
    guests: Mutex<VecDeque<CancellationToken>>,
    spares: Arc<Mutex<Vec<File>>>,
}

/// A descriptor that was given up. When it is dropped, another one is opened in its place.
pub(super) struct Spare(Arc<Mutex<Vec<File>>>);

/// A connection at the back door.
pub(super) struct Guest {
    /// Cancelled when another connection needs its place.
    evicted: CancellationToken,
    spare: Option<Spare>,
}

/// Whether an error says that the process, or the machine, has no descriptors left.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EMFILE | Errno::ENFILE))
}

impl BackDoor {
    pub(super) fn new() -> Self {
        let spares = Arc::default();
        refill(&spares);
        Self { guests: Mutex::default(), spares }
    }

    /// Gives up a spare descriptor, so that the next connection can be accepted. `None` if there is none; then guests
    /// have to leave, which frees some in a moment.
    pub(super) fn lend(&self) -> Option<Spare> {
        match self.spares.lock().pop() {
            Some(spare) => {
                drop(spare);
                Some(Spare(Arc::clone(&self.spares)))
            }
            None => {
                self.guests.lock().drain(..).for_each(|guest| guest.cancel());
                None
            }
        }
    }

    /// Admits a connection. It may replace the oldest one.
    pub(super) fn admit(&self, spare: Option<Spare>) -> Guest {
        let evicted = CancellationToken::new();
        let mut guests = self.guests.lock();
        guests.push_back(evicted.clone());
        if guests.len() > GUESTS
            && let Some(first) = guests.pop_front()
        {
            first.cancel();
        }
        Guest { evicted, spare }
    }
}

impl Guest {
    /// Serves the connection for as long as it may stay.
    pub(super) async fn serve(self, stop: CancellationToken, connection: impl Future<Output = ()>) {
        tokio::select! {
            () = connection => {}
            () = time::sleep(STAY) => {}
            () = self.evicted.cancelled() => {}
            () = stop.cancelled() => {}
        }
        // The connection is closed, so its descriptor is free again.
        drop(self.spare);
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        refill(&self.0);
    }
}

/// Opens descriptors until there are enough, or until the system has no more.
fn refill(spares: &Mutex<Vec<File>>) {
    let mut spares = spares.lock();
    while spares.len() < SPARES
        && let Ok(file) = File::open("/dev/null")
    {
        spares.push(file);
    }
}

/// Answers one request.
pub(super) async fn connection<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let open = OPEN.contains(&request.uri().path());
        let router = router.clone();
        async move {
            if open {
                return router.oneshot(request.map(Body::new)).await;
            }
            let told =
                [(header::RETRY_AFTER, COME_AGAIN), (header::CONNECTION, HeaderValue::from_static("close"))];
            Ok((StatusCode::SERVICE_UNAVAILABLE, told, "All connections are taken").into_response())
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(STAY).keep_alive(false);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection at the back door ended");
            }
        }
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_came_first_makes_room() {
        let door = BackDoor::new();
        let guests: Vec<_> = (0..=GUESTS).map(|_| door.admit(None)).collect();
        let evicted: Vec<_> = guests.iter().map(|guest| guest.evicted.is_cancelled()).collect();
        assert!(evicted[0] && evicted[1..].iter().all(|evicted| !evicted));
        assert_eq!(door.guests.lock().len(), GUESTS);
    }

    #[tokio::test]
    async fn spare_descriptors_come_back() {
        let door = BackDoor::new();
        let lent: Vec<_> = std::iter::from_fn(|| door.lend()).take(100).collect();
        assert_eq!(lent.len(), SPARES);
        let guests: Vec<_> = lent.into_iter().map(|spare| door.admit(Some(spare))).collect();
        assert!(door.lend().is_none() && guests.iter().all(|guest| guest.evicted.is_cancelled()));
        drop(guests);
        assert_eq!(door.spares.lock().len(), SPARES);
    }
}
