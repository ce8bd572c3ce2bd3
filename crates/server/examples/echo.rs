//! A WebSocket server that sends every message back, through the listener, handshake, reader, socket task and outbox of
//! the real one. `scripts/autobahn` tests it.
//!
//! `echo PORT TLS_PORT`: the second port is encrypted. Messages are compressed as rooms do it. Two things differ from the
//! real server, which leaves them to the session: text that is not UTF-8 closes the socket with 1007, and messages may be
//! larger, as the test suite sends them.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use axum::{
    Extension, Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http::{StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use realtime_channels::driver::Ending;
use realtime_hub::{BULK, Outbox, Sink};
use realtime_protocol::{Opcode, deflate::Packer, frame};
use realtime_server::{
    transport::{
        ConnectionPermit, TlsSocket, Transport,
        conversation::Conversation,
        listener::{self, Patient},
        socket::{self, IDLE_LIMIT},
        ws::{deflate::Agreed, handshake, reader::Reader},
    },
    turns::Turns,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Duration, Instant},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// Largest message, in bytes: what the test suite sends, and as much again.
const MAX_MESSAGE: usize = 32 * 1024 * 1024;

/// Most that waits for a client, in bytes.
const MAX_QUEUED: usize = 2 * MAX_MESSAGE;

/// Connections at once.
const PLACES: usize = 100;

/// Code that closes a socket whose text is not UTF-8 (RFC 6455 8.1).
const NOT_UTF8: u16 = 1007;

#[tokio::main]
async fn main() -> Result<()> {
    let ports = std::env::args().skip(1).map(|port| port.parse()).collect::<Result<Vec<u16>, _>>()?;
    let [port, tls_port] = ports[..] else { anyhow::bail!("Usage: echo PORT TLS_PORT") };
    let places = Arc::new(Semaphore::new(PLACES));
    let serve = |port, tls| -> Result<_> {
        let listener = listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), port)?;
        let router = Router::new().fallback(any(upgrade));
        Ok(listener::serve(listener, router, Arc::clone(&places), tls, IDLE_LIMIT, CancellationToken::new()))
    };
    tokio::join!(serve(port, None)?, serve(tls_port, Some(acceptor()?))?);
    Ok(())
}

/// Encrypts with a certificate that nobody knows.
fn acceptor() -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn upgrade(Extension(permit): Extension<ConnectionPermit>, mut request: Request) -> Response {
    let accept = match handshake::accept(request.method(), request.headers()) {
        Ok(accept) => accept,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let agreed = Agreed::with(request.headers());
    tokio::spawn(serve(hyper::upgrade::on(&mut request), agreed, permit));
    let headers = [
        (header::CONNECTION, "Upgrade".parse().ok()),
        (header::UPGRADE, "websocket".parse().ok()),
        (header::SEC_WEBSOCKET_ACCEPT, Some(accept)),
        (header::SEC_WEBSOCKET_EXTENSIONS, agreed.and_then(Agreed::answer)),
    ];
    let headers: http::HeaderMap =
        headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn serve(upgrade: OnUpgrade, agreed: Option<Agreed>, permit: ConnectionPermit) -> Result<()> {
    let upgraded = match upgrade.await?.downcast::<TokioIo<Patient<TcpStream>>>() {
        Ok(parts) => {
            echo(parts.io.into_inner().into_inner(), &parts.read_buf, agreed, permit).await;
            return Ok(());
        }
        Err(upgraded) => upgraded,
    };
    let parts = upgraded
        .downcast::<TokioIo<Patient<TlsStream<TcpStream>>>>()
        .ok()
        .context("a connection of no known kind")?;
    let (tcp, session) = parts.io.into_inner().into_inner().into_inner();
    echo(TlsSocket::new(tcp, session), &parts.read_buf, agreed, permit).await;
    Ok(())
}

async fn echo<T: Transport>(
    stream: T,
    already_read: &[u8],
    agreed: Option<Agreed>,
    permit: ConnectionPermit,
) {
    let stream = Arc::new(stream);
    let sink: Arc<dyn Sink> = Arc::<T>::clone(&stream);
    let outbox = Arc::new(Outbox::with_sink(MAX_QUEUED, sink));
    let echo = Echo { outbox, packs: agreed.is_some_and(Agreed::packs) };
    let reader = Reader::with_limit(already_read, MAX_MESSAGE).inflating(agreed.is_some());
    socket::run(stream, reader, echo, Turns::new().line(), IDLE_LIMIT, permit).await;
}

/// Says what it hears.
struct Echo {
    outbox: Arc<Outbox>,
    /// Whether messages are compressed.
    packs: bool,
}

impl Conversation for Echo {
    fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    fn tenant(&self) -> &'static str {
        "echo"
    }

    fn count(&self, _: usize, _: Duration) {}

    fn count_slow(&self) {}

    fn wants_input(&self) -> bool {
        true
    }

    fn waiting_bytes(&self) -> usize {
        0
    }

    fn receive(&mut self, opcode: Opcode, message: Bytes) -> Result<(), Ending> {
        let frame = match opcode {
            Opcode::Text if std::str::from_utf8(&message).is_err() => return Err(Ending::Close(NOT_UTF8)),
            Opcode::Text => frame::text(&message),
            Opcode::Binary => frame::binary(&message),
        };
        let packer = if self.packs { Packer::new(&frame) } else { None };
        let packed = packer.and_then(|mut packer| {
            while packer.step(BULK) {}
            packer.finish()
        });
        // A client that is too slow is closed by the outbox.
        let _ = self.outbox.queue(packed.unwrap_or(frame));
        Ok(())
    }

    fn flush(&mut self) {}

    fn event(&mut self) -> impl Future<Output = Result<(), Ending>> + Send {
        std::future::pending()
    }

    fn signals(&mut self) -> Result<(), Ending> {
        Ok(())
    }

    fn wake_at(&self) -> Option<Instant> {
        None
    }

    fn on_time(&mut self) -> Result<(), Ending> {
        Ok(())
    }

    fn end(&mut self) {}
}
