//! The connection to NATS.

use std::{path::Path, sync::Arc};

use async_nats::{Auth, AuthError, ConnectOptions, Event, Server};
use realtime_protocol::ErrorCode;
use secrecy::ExposeSecret as _;
use tokio::time::{self, Duration, Instant};

use super::{Client, Link};
use crate::config::{Credentials, NatsConfig, read_credentials};

/// How often the server is pinged. Three pings without an answer end the connection: a network that swallows everything is
/// noticed within eight seconds.
const PING: Duration = Duration::from_secs(2);

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Reasons that are logged, once each, until there is a connection.
const REASONS: usize = 8;

/// Messages that may wait for the connection, beside what waits in streams.
const COMMANDS: usize = 64;

/// Messages that may wait for the task of a subscription, which takes them at once.
const SUBSCRIPTION: usize = 4096;

/// How long the server may take to tell that it has read what was sent.
const BARRIER: Duration = Duration::from_secs(2);

/// How long a complaint of the server may be under way behind its answer: both come by the same connection.
const COMPLAINT: Duration = Duration::from_millis(200);

/// How often a probe looks whether it was refused.
const LOOK: Duration = Duration::from_millis(20);

/// Why a node cannot begin to connect. A server that cannot be reached is no such reason: the client retries.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Settings that the client refuses.
    #[error("Cannot connect to NATS: {0}")]
    Settings(#[from] async_nats::ConnectError),
}

impl Link {
    /// Connects. If the servers cannot be reached the client keeps retrying.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<(), ConnectError> {
        let client = options(self).connect(&self.config.servers[..]).await?;
        let _ = self.client.set(Client::Nats(client));
        Ok(())
    }
}

/// Why a node could not take part in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// There is no connection.
    #[error("{0}")]
    Unreachable(String),
    /// It may not use its subjects.
    #[error("{0}")]
    Forbidden(String),
}

/// Whether a node could take part in a cluster with these settings: connect, listen and publish. Nobody is told of it.
///
/// # Errors
/// Why not.
pub async fn probe(config: NatsConfig, limit: Duration) -> Result<(), ProbeError> {
    let link = Arc::new(Link::new(config, 0));
    link.connect().await.map_err(|error| ProbeError::Unreachable(error.to_string()))?;
    let refused = async {
        // Each server has refused once: further attempts would say the same.
        while link.refusals.lock().len() < link.config.servers.len() {
            time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = link.connected(limit) => {}
        () = refused => {}
    }
    if !link.is_connected() {
        let reasons = link.refusals.lock().join("; ");
        let text = if reasons.is_empty() { "no answer in time".to_owned() } else { reasons };
        return Err(ProbeError::Unreachable(text));
    }
    // What was said of attempts that failed is past.
    link.complaint.send_replace(None);
    let mut complaints = link.complaint.subscribe();
    let listening = link.subscribe(link.subjects.nodes()).await;
    let answered = link.barrier().await;
    let complaint = time::timeout(COMPLAINT, complaints.wait_for(Option::is_some)).await;
    drop(listening);
    match complaint {
        Ok(Ok(text)) => Err(ProbeError::Forbidden(text.clone().unwrap_or_default())),
        _ if answered => Ok(()),
        _ => Err(ProbeError::Unreachable("no answer in time".to_owned())),
    }
}

fn options(link: &Arc<Link>) -> ConnectOptions {
    let config = &link.config;
    let (events, attempts, pauses) = (Arc::clone(link), Arc::clone(link), Arc::clone(link));
    let mut options = login(&config.credentials)
        .name(&config.node_name)
        .custom_inbox_prefix(link.subjects.inbox(link.id))
        .no_echo()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .require_tls(config.require_tls)
        .ping_interval(PING)
        .connection_timeout(CONNECT_LIMIT)
        .request_timeout(Some(BARRIER))
        .client_capacity(COMMANDS)
        .subscription_capacity(SUBSCRIPTION)
        .reconnect_delay_callback(move |_| pauses.retry.lock().failed(rand::random_range(0.5..1.0)))
        // Called before each attempt. It chooses no server: it is where the client tells why the last attempts failed.
        .reconnect_to_server_callback(move |servers, _| {
            failed(&attempts, &servers);
            std::future::ready(None)
        })
        .event_callback(move |event| {
            happened(&events, &event);
            std::future::ready(())
        });
    if let Some(ca) = &config.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &config.client_certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    options
}

fn login(credentials: &Credentials) -> ConnectOptions {
    match credentials {
        Credentials::None => ConnectOptions::new(),
        Credentials::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.expose_secret().to_owned())
        }
        Credentials::Token(token) => ConnectOptions::with_token(token.expose_secret().to_owned()),
        Credentials::NKey(seed) => ConnectOptions::with_nkey(seed.expose_secret().to_owned()),
        Credentials::File(path) => {
            let path = path.clone();
            ConnectOptions::with_auth_callback(move |nonce| std::future::ready(sign(&path, &nonce)))
        }
    }
}

/// Logs in with the current content of the file of credentials: JWTs expire, and operators replace them.
fn sign(path: &Path, nonce: &[u8]) -> Result<Auth, AuthError> {
    let (jwt, key) = read_credentials(path).map_err(AuthError::new)?;
    let mut auth = Auth::new();
    auth.jwt = Some(jwt);
    auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
    Ok(auth)
}

/// Logs why there is no connection: each reason once.
fn failed(link: &Link, servers: &[Server]) {
    for server in servers {
        let Some(reason) = &server.last_error else { continue };
        let address = &server.addr;
        let reason = format!("{}:{}: {reason}", address.host(), address.port());
        {
            let mut told = link.refusals.lock();
            if told.len() >= REASONS || told.contains(&reason) {
                continue;
            }
            told.push(reason.clone());
        }
        let (node, code) = (&*link.config.node_name, ErrorCode::UnableToConnectToNats.as_str());
        tracing::error!(
            node,
            code,
            error = reason,
            "not connected to other nodes: serving standalone; retrying"
        );
    }
}

pub(super) fn happened(link: &Link, event: &Event) {
    let node = &*link.config.node_name;
    match event {
        Event::Connected => {
            tracing::info!(node, "connected to NATS");
            *link.connected_at.lock() = Some(Instant::now());
            link.connected.send_replace(true);
            link.refusals.lock().clear();
            link.retry.lock().succeeded();
            link.resumed.notify_one();
        }
        Event::Disconnected | Event::Closed => {
            if link.connected.send_replace(false) {
                *link.lost_at.lock() = Some(Instant::now());
                let code = ErrorCode::RealtimeNodeDisconnected.as_str();
                tracing::error!(
                    node,
                    code,
                    "connection to NATS lost: clients on other nodes do not hear what is said here; retrying"
                );
            }
        }
        Event::SlowConsumer(_) => {
            let code = ErrorCode::RpcError.as_str();
            let reason = "messages from other nodes came faster than this node took them";
            tracing::warn!(node, code, reason, "some messages were dropped; the channels are told");
        }
        // For example: this node may not listen or publish on a subject.
        Event::ServerError(error) => {
            let code = ErrorCode::RpcError.as_str();
            tracing::error!(node, code, %error, "NATS reports an error");
            link.complaint.send_replace(Some(error.to_string()));
        }
        Event::ClientError(error) => tracing::debug!(node, %error, "cannot connect to NATS"),
        Event::LameDuckMode | Event::Draining => tracing::info!(node, %event, "NATS server is going away"),
    }
}
