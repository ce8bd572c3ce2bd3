//! The connection to NATS.

use std::{path::Path, sync::Arc};

use async_nats::{Auth, AuthError, Client, ConnectOptions, Event, Server, client::RequestErrorKind};
use secrecy::ExposeSecret as _;
use tokio::time::{self, Duration, Instant};

use super::{Inner, life, listen};
use crate::{Cluster, Credentials, config::read_credentials, questions};

/// How often the server is asked whether it is there. Three questions without an answer end the connection: a network
/// that swallows everything is noticed within eight seconds.
const PING: Duration = Duration::from_secs(2);

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest pause between attempts to connect.
const RETRY_LIMIT: Duration = Duration::from_secs(2);

/// Reasons that are told once each, until there is a connection.
const REASONS: usize = 8;

/// Messages that may wait for the connection, beside what waits in streams.
const COMMANDS: usize = 64;

/// Messages that may wait for the task of a subscription, which takes them at once.
const SUBSCRIPTION: usize = 4096;

/// How long the last words of a node may take.
const LEAVE: Duration = Duration::from_secs(2);

/// How long the server may take to tell that it has read what was sent.
const BARRIER: Duration = Duration::from_secs(2);

/// Why a node cannot begin to connect. A server that is not there is no reason: it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Settings that the client refuses.
    #[error("Cannot connect to NATS: {0}")]
    Settings(#[from] async_nats::ConnectError),
}

impl Cluster {
    /// Connects and begins to talk to others. If the servers are not there it goes on trying.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub async fn start(&self) -> Result<(), ConnectError> {
        let inner = &self.0;
        let client = options(inner).connect(&inner.config.servers[..]).await?;
        let _ = inner.client.set(client);
        inner.tasks.spawn(listen::beats(Arc::clone(inner)));
        inner.tasks.spawn(listen::direct(Arc::clone(inner)));
        inner.tasks.spawn(questions::listen(Arc::clone(inner)));
        inner.tasks.spawn(life::send(Arc::clone(inner)));
        inner.tasks.spawn(life::live(Arc::clone(inner)));
        inner.tasks.spawn(life::mind_the_clock(Arc::clone(inner)));
        Ok(())
    }

    /// Returns when there is a connection, or after `limit`. Cancel safe.
    pub async fn connected(&self, limit: Duration) {
        let mut connected = self.0.connected.subscribe();
        // The sender lives as long as this does.
        let _ = time::timeout(limit, connected.wait_for(|connected| *connected)).await;
    }

    /// Tells the others that this node goes, and ends.
    pub async fn leave(&self) {
        let inner = &self.0;
        // What was said last, by sockets that were closed, is still to go out.
        let _ = time::timeout(Duration::from_secs(1), async {
            while inner.is_connected() && inner.outgoing.backlog.bytes() > 0 {
                time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        inner.stop.cancel();
        inner.tasks.close();
        // They may wait for NATS, which may not be heard any more without being known to be lost.
        let _ = time::timeout(LEAVE, async {
            inner.tasks.wait().await;
            inner.say_beat(true, false).await;
        })
        .await;
        if let Some(client) = inner.client.get().filter(|_| inner.is_connected()) {
            let _ = time::timeout(Duration::from_secs(1), client.flush()).await;
        }
    }
}

fn options(inner: &Arc<Inner>) -> ConnectOptions {
    let config = &inner.config;
    let options = match &config.credentials {
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
    };
    let (events, attempts) = (Arc::clone(inner), Arc::clone(inner));
    let mut options = options
        .name(&config.node_name)
        .custom_inbox_prefix(inner.subjects.inbox(inner.id))
        .no_echo()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .require_tls(config.require_tls)
        .ping_interval(PING)
        .connection_timeout(CONNECT_LIMIT)
        .request_timeout(Some(BARRIER))
        .client_capacity(COMMANDS)
        .subscription_capacity(SUBSCRIPTION)
        .reconnect_delay_callback(|attempts| {
            let millis = 50 << attempts.min(6);
            Duration::from_millis(millis).min(RETRY_LIMIT).mul_f64(rand::random_range(0.5..1.0))
        })
        // Asked before each attempt. It chooses nothing: it is where the client tells why the last ones failed.
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

/// Logs in with what the file of credentials holds now: JWTs expire, and others are put in their place.
fn sign(path: &Path, nonce: &[u8]) -> Result<Auth, AuthError> {
    let (jwt, key) = read_credentials(path).map_err(AuthError::new)?;
    let mut auth = Auth::new();
    auth.jwt = Some(jwt);
    auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
    Ok(auth)
}

/// Tells why there is no connection: each reason once.
fn failed(inner: &Inner, servers: &[Server]) {
    for server in servers {
        let Some(reason) = &server.last_error else { continue };
        let address = &server.addr;
        let reason = format!("{}:{}: {reason}", address.host(), address.port());
        {
            let mut told = inner.refusals.lock();
            if told.len() >= REASONS || told.contains(&reason) {
                continue;
            }
            told.push(reason.clone());
        }
        let (node, code) = (&*inner.config.node_name, "UnableToConnectToNats");
        tracing::error!(
            node,
            code,
            error = reason,
            "not connected to other nodes: this one serves alone and tries on"
        );
    }
}

fn happened(inner: &Inner, event: &Event) {
    let node = &*inner.config.node_name;
    match event {
        Event::Connected => {
            tracing::info!(node, "connected to NATS");
            inner.connected.send_replace(true);
            inner.refusals.lock().clear();
            inner.resumed.notify_one();
        }
        Event::Disconnected | Event::Closed => {
            if inner.connected.send_replace(false) {
                *inner.lost_at.lock() = Some(Instant::now());
                let code = "RealtimeNodeDisconnected";
                tracing::error!(
                    node,
                    code,
                    "connection to NATS lost: only this node hears what is said here"
                );
            }
        }
        Event::SlowConsumer(_) => {
            tracing::warn!(node, "messages from other nodes came faster than they could be taken");
        }
        // For example that this node may not listen or speak on a subject.
        Event::ServerError(error) => {
            tracing::error!(node, code = "RpcError", %error, "NATS reports an error")
        }
        Event::ClientError(error) => tracing::debug!(node, %error, "cannot connect to NATS"),
        Event::LameDuckMode | Event::Draining => tracing::info!(node, %event, "NATS server is going away"),
    }
}

impl Inner {
    /// Returns when the server has read all that was sent to it. False if it does not say so in time.
    pub(super) async fn barrier(&self, client: &Client) -> bool {
        let answer = client.request(self.subjects.nobody(self.id), Default::default()).await;
        matches!(answer, Err(error) if error.kind() == RequestErrorKind::NoResponders)
    }
}
