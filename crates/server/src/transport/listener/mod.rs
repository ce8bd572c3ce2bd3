//! The TCP listener: accepts connections and speaks HTTP/1.1 on them until they end, are upgraded or taken over.
//!
//! If all places are taken, or the process has no file descriptors left, connections are accepted at the back door:
//! health checks get an answer, everyone else is told to come again. So what watches the server can tell a full server
//! from a dead one.

mod back_door;
mod leftover;
mod paths;
mod patient;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use back_door::BackDoor;
use http::Request;
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
pub use leftover::MAX_BODY;
pub use paths::is_text;
use patient::NotRead;
pub use patient::Patient;
use realtime_codes::ErrorCode;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    ConnectionPermit, Peer,
    takeover::{Carrier, Handover},
};

/// Connections that may wait for the accept loop.
const BACKLOG: i32 = 4096;

/// How long a client may take to send a request's headers. It bounds what a slow-loris attack can hold.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a connection that the kernel accepts before it can send them. More would wait there uncounted for a client
/// that does not read.
const UNSENT: u32 = 256 * 1024;

/// Largest head of a request, in bytes, and largest piece of a body: enough for some headers of the largest size.
const MAX_HEAD: usize = 64 * 1024;

/// Pause after accepting has failed because file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds a listener. An IPv6 wildcard address accepts IPv4 too.
///
/// # Errors
/// Those of the operating system, for example that the port is taken.
pub fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until `stop`, at most as many at once as there are places. Further ones go to the back door.
///
/// Requests that are running at `stop` are answered.
///
/// With `tls` every connection is encrypted. Clients that do not read an answer are given up after `patience`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    places: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
    patience: Duration,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let back_door = BackDoor::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &back_door) => accepted,
        };
        let Some((stream, peer, spare)) = accepted else { continue };
        let router = router.clone();
        let stop = stop.clone();
        tune(&stream);
        let place = if spare.is_none() { Arc::clone(&places).try_acquire_owned().ok() } else { None };
        let Some(place) = place else {
            let guest = back_door.admit(spare);
            let tls = tls.clone();
            connections.spawn(guest.serve(stop.clone(), async move {
                match tls {
                    None => back_door::connection(stream, peer, router, stop).await,
                    Some(tls) => {
                        if let Some(stream) = handshake(&tls, stream, &stop).await {
                            back_door::connection(stream, peer, router, stop).await;
                        }
                    }
                }
            }));
            continue;
        };
        let permit = ConnectionPermit::new(place);
        match tls.clone() {
            None => connections.spawn(connection(Patient::new(stream, patience), peer, permit, router, stop)),
            Some(tls) => connections.spawn(async move {
                if let Some(stream) = handshake(&tls, stream, &stop).await {
                    connection(Patient::new(stream, patience), peer, permit, router, stop).await;
                }
            }),
        };
    }
    connections.close();
    connections.wait().await;
}

/// Sets the options of a connection. Failures are ignored, because it works without them.
fn tune(stream: &TcpStream) {
    // Frames are small and written whole. Waiting for more would only add delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "could not set TCP_NOTSENT_LOWAT");
    }
}

/// Accepts the next connection, with a spare descriptor if there is no other. `None` if accepting failed; the caller
/// tries again.
async fn accept(
    listener: &TcpListener,
    back_door: &BackDoor,
) -> Option<(TcpStream, Peer, Option<back_door::Spare>)> {
    let mut spare = None;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => return Some((stream, Peer(from.ip().to_canonical()), spare)),
            Err(error) if back_door::is_exhaustion(&error) && spare.is_none() => {
                spare = back_door.lend();
                if spare.is_none() {
                    time::sleep(ACCEPT_PAUSE).await;
                    return None;
                }
            }
            Err(error) => {
                // Ignore aborted connections; back off on other errors.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
                {
                    tracing::warn!(%error, "could not accept a connection; trying again. If files are the reason, raise the limit of descriptors");
                    time::sleep(ACCEPT_PAUSE).await;
                }
                return None;
            }
        }
    }
}

/// Encrypts a connection, within the time limit for headers.
async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
    stop: &CancellationToken,
) -> Option<TlsStream<TcpStream>> {
    let accepted = tokio::select! {
        accepted = time::timeout(HEADER_TIMEOUT, tls.accept(stream)) => accepted,
        () = stop.cancelled() => return None,
    };
    match accepted {
        Ok(Ok(stream)) => Some(stream),
        // Caused by the client: it does not trust the certificate, or speaks plain HTTP.
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Serves one connection, until it ends or is taken over.
async fn connection<S: Carrier>(
    stream: Patient<S>,
    peer: Peer,
    permit: ConnectionPermit,
    router: Router,
    stop: CancellationToken,
) {
    let handover = Arc::new(Handover::default());
    let given = Arc::clone(&handover);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Arc::clone(&handover));
        paths::straighten(request.uri_mut());
        let (router, handover) = (router.clone(), Arc::clone(&handover));
        async move {
            let mut answer = if request.body().is_end_stream() {
                router.oneshot(request.map(Body::new)).await?
            } else {
                let (request, leftover) = leftover::lend(request);
                let answer = router.oneshot(request.map(Body::new)).await?;
                leftover.throw_away().await;
                answer
            };
            if handover.takes(&mut answer) {
                // The connection is taken from the HTTP server while it waits.
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = given.told() => {
                if let Some(parts) = connection.into_parts() {
                    given.start(parts.io.into_inner().into_inner());
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        if NotRead::is_in(&error) {
            let code = ErrorCode::AnswerNotRead.as_str();
            tracing::warn!(code, peer = %peer.0, "connection closed: its client does not read the answer");
        }
        tracing::debug!(%error, "http connection ended");
    }
}
