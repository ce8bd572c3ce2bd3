//! A replication session: a slot and the messages that come through it (postgres_changes 7.1, 7.2).
//!
//! The slot is temporary, of a name that nobody else uses, and ends with the session; or it is permanent, bears the
//! name of the settings, and the session goes on where the last one ended.

mod unfinished;

use std::sync::Arc;

use bytes::Bytes;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent};
use realtime_pgoutput::{
    DecodeError, Decoder, Lsn,
    message::{Message, UnixMicros},
};
use realtime_tls::{DialError, Edit, Relay, TlsMode};
use secrecy::ExposeSecret as _;
use tokio::time;
use tokio_util::task::AbortOnDropHandle;
use unfinished::Backend;
pub(crate) use unfinished::Unfinished;

use crate::{
    DatabaseConfig,
    config::SESSION_OPTIONS,
    failpoints::{self, Point},
};

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Protocol version: all that is sent without streaming of unfinished transactions is in the first.
const PROTO_VERSION: u8 = 1;

/// Messages that may wait between the connection and the worker. When they do, the connection is not read
/// and the walsender waits.
const BUFFERED_MESSAGES: usize = 256;

/// Largest message: a row may hold one value of a gigabyte, but no frame carries more than a few megabytes.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// How long the server may take to start streaming.
const START_TIMEOUT: time::Duration = time::Duration::from_secs(20);

/// How long the server may take to end the stream when it was asked to.
const STOP_TIMEOUT: time::Duration = time::Duration::from_secs(5);

/// How often the position is confirmed to the server, if it has moved. What was delivered after the last time comes
/// again when a permanent slot is resumed by another process.
const CONFIRM_INTERVAL: time::Duration = time::Duration::from_secs(1);

/// Signs of life that the server owes us within the time after which it is given up.
const SIGNS_OF_LIFE: u32 = 5;

/// The same of a connection that is for all nodes, at most: if its node hangs, another has to get the lock soon. The
/// server lets go of it after a fifth of that.
const SHARED_SILENCE_LIMIT: time::Duration = time::Duration::from_secs(25);

/// How long the connection of a node that has the lock and does not stream yet may say nothing until the server ends it,
/// at most, from PostgreSQL 14 on: the node hangs. While it streams the server asks for signs of life instead.
const CLAIM_LIMIT: time::Duration = time::Duration::from_secs(30);

/// What our replication connections are called in `pg_stat_activity`.
pub(crate) const APPLICATION_NAME: &str = "realtime_replication";

/// Why a session ended or did not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicationError {
    /// The connection or the server.
    #[error(transparent)]
    Wire(#[from] PgWireError),
    /// No connection, or none that may be trusted.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A message that is not of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No slot in time.
    #[error("Replication connection timed out during initialization")]
    Timeout,
    /// Nothing came for so long that the server must have hung, or the way to it is cut.
    #[error("The server has not been heard for {0:?}")]
    Silence(time::Duration),
    /// The server ended the stream.
    #[error("The server ended the replication stream")]
    Ended,
    /// Another node reads the database, and it cannot be followed.
    #[error("Another node reads the database: {0}")]
    Shared(String),
    /// Another server that is not of this cluster reads the permanent slot.
    #[error("Another server reads the slot {0}: this one stands by. Servers with the same NATS_URL share it")]
    Taken(String),
    /// The publication does not exist or has no tables, and broadcasts are not published or not wanted.
    #[error("The publication has no tables")]
    NothingPublished,
    /// Everything else that has to be asked before a session starts.
    #[error("{0}")]
    Preparation(String),
}

impl ReplicationError {
    /// Whether the server gave this SQLSTATE.
    fn has_code(&self, code: &str) -> bool {
        // The library keeps the code as a part of the text only.
        matches!(self, Self::Wire(PgWireError::Server(text)) if text.contains(&format!("SQLSTATE {code}")))
    }

    /// The server has failed with what it was to read, through no fault of its state or of the connection: it may fail
    /// again there.
    pub(crate) fn is_undecodable(&self) -> bool {
        let Self::Wire(PgWireError::Server(text)) = self else { return false };
        let class = text.split_once("SQLSTATE ").and_then(|(_, code)| code.get(..2));
        class.is_some_and(|class| !matches!(class, "08" | "28" | "53" | "55" | "57" | "58"))
    }

    /// What a client is told: the words of the database are for the log.
    pub(crate) fn told(&self) -> String {
        format!("{}: row changes cannot be read from the database", self.code())
    }

    /// Operators' code (http_and_ops 10).
    pub(crate) fn code(&self) -> &'static str {
        if self.is_slot_in_use() || matches!(self, Self::Taken(_)) {
            "ReplicationSlotBeingUsed"
        } else if self.has_code("53300") {
            "ReplicationMaxWalSendersReached"
        } else if matches!(self, Self::Timeout) {
            "ReplicationConnectionTimeout"
        } else if matches!(self, Self::Silence(_)) {
            "ReplicationConnectionWatchdogTimeout"
        } else {
            "StartReplicationFailed"
        }
    }

    /// Another connection reads the slot.
    pub(crate) fn is_slot_in_use(&self) -> bool {
        self.has_code("55006")
    }

    /// The publication does not exist, or did not when the change that is decoded was made.
    pub(crate) fn is_publication_missing(&self) -> bool {
        self.has_code("42704")
    }

    /// Reading the slot again from where it stands would fail again: its log is gone, it holds a message that we do
    /// not take, or a publication is missing in its past.
    pub(crate) fn is_lasting(&self) -> bool {
        self.has_code("55000")
            || self.has_code("58P01")
            || self.is_publication_missing()
            || matches!(self, Self::Decode(_))
            || matches!(self, Self::Wire(error) if error.is_message_too_large())
    }
}

/// What comes through a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message.
    Message(Message),
    /// Nothing happened up to this position that concerns the publication.
    Idle(Lsn),
}

/// What comes from the server, before it is decoded: what nodes can hand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// A message of pgoutput.
    Data(Bytes),
    /// `Begin`, which the library has decoded.
    Begin { final_lsn: Lsn, xid: u32, commit_time: UnixMicros },
    /// `Commit`, the same.
    Commit { commit_lsn: Lsn, end_lsn: Lsn, commit_time: UnixMicros },
    /// As [`Event::Idle`].
    Idle(Lsn),
}

impl Raw {
    /// What it means.
    pub(crate) fn decode(self, decoder: &mut Decoder) -> Result<Event, DecodeError> {
        Ok(match self {
            Self::Data(data) => Event::Message(decoder.decode(data)?),
            Self::Begin { final_lsn, xid, commit_time } => {
                Event::Message(Message::Begin { final_lsn, commit_time, xid })
            }
            Self::Commit { commit_lsn, end_lsn, commit_time } => {
                Event::Message(Message::Commit { flags: 0, commit_lsn, end_lsn, commit_time })
            }
            Self::Idle(position) => Event::Idle(position),
        })
    }
}

/// A decoder for what a session brings.
pub(crate) fn decoder() -> Decoder {
    Decoder::new(PROTO_VERSION)
}

/// What a connection to the server is for, among nodes.
#[derive(Debug, Clone)]
pub(crate) enum Claim {
    /// For this node alone.
    None,
    /// For all nodes, or all servers: only while no other connection holds the advisory lock of this name. The connection
    /// holds it from then on.
    Lock(String),
}

/// The connection, and whether it streams.
enum Link {
    Open(Box<ReplicationClient>),
    /// Not before its time.
    Held(AbortOnDropHandle<Result<Box<ReplicationClient>, ReplicationError>>),
    /// It has failed.
    Failed,
}

/// A connection to the server with a slot.
pub(crate) struct Walsender {
    link: Link,
    slot: Arc<str>,
    resumed: bool,
    start: Lsn,
    /// When the server was last heard.
    heard: time::Instant,
    silence_limit: time::Duration,
    /// How long it may say nothing before it streams.
    claim_limit: time::Duration,
}

/// [`CLAIM_LIMIT`], or what is set for the other direction if that is less.
fn claim_limit(silence_limit: time::Duration) -> time::Duration {
    if silence_limit.is_zero() { CLAIM_LIMIT } else { silence_limit.min(CLAIM_LIMIT) }
}

impl Walsender {
    /// Connects, and finds or makes the slot for what these publications publish. `anew`: a permanent slot that is there
    /// is dropped first. `None`: somebody else holds the lock.
    pub(crate) async fn connect(
        config: &DatabaseConfig,
        publications: &[String],
        anew: bool,
        claim: Claim,
        unfinished: &Unfinished,
    ) -> Result<Option<Self>, ReplicationError> {
        // What an earlier attempt has left.
        unfinished.end(config).await?;
        let limit = config.connect_timeout + config.slot_timeout;
        match time::timeout(limit, Self::open(config, publications, anew, claim, unfinished)).await {
            Ok(opened) => opened,
            Err(_) => {
                unfinished.end(config).await?;
                Err(ReplicationError::Timeout)
            }
        }
    }

    async fn open(
        config: &DatabaseConfig,
        publications: &[String],
        anew: bool,
        claim: Claim,
        unfinished: &Unfinished,
    ) -> Result<Option<Self>, ReplicationError> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !config.slot_name.chars().all(valid) {
            let problem = "The slot's name must consist of lower-case letters, digits and _".to_owned();
            return Err(ReplicationError::Preparation(problem));
        }
        let slot = if config.durable_slot {
            config.slot_name.clone()
        } else {
            format!("{}_{:08x}", config.slot_name, rand::random::<u32>())
        };
        let (host, port) = reach(config).await?;
        let replication = ReplicationConfig::new(
            &host,
            &config.user,
            config.password.expose_secret(),
            &config.name,
            &slot,
            publications.iter().map(|name| as_identifier(name)).collect::<Vec<_>>(),
        )
        .with_port(port)
        .with_options(SESSION_OPTIONS)
        .with_application_name(APPLICATION_NAME)
        .with_buffer_size(BUFFERED_MESSAGES)
        .with_status_interval(CONFIRM_INTERVAL)
        .with_max_message_size(MAX_MESSAGE);
        // The server asks for a sign of life when it has had none for half of the time that we let it wait for one: what
        // we send unasked must be rarer than that, or it has no reason to speak.
        let silence_limit = match &claim {
            Claim::Lock(_) if config.silence_limit.is_zero() => SHARED_SILENCE_LIMIT,
            Claim::Lock(_) => config.silence_limit.min(SHARED_SILENCE_LIMIT),
            Claim::None => config.silence_limit,
        };
        let sign_of_life = silence_limit / SIGNS_OF_LIFE;
        let replication = match silence_limit {
            time::Duration::ZERO => replication,
            _ => replication.with_wakeup_interval(sign_of_life),
        };
        let mut client = ReplicationClient::connect_gated(replication).await?;
        if let Claim::Lock(name) = &claim {
            let set = format!(
                "select pg_catalog.set_config(name, '{}', false) from pg_catalog.pg_settings
                 where name operator(pg_catalog.=) 'idle_session_timeout'",
                claim_limit(config.silence_limit).as_millis()
            );
            client.simple_query(&set).await?;
            let name = name.replace('\'', "''");
            let sql =
                format!("select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('{name}', 0))");
            let rows = client.simple_query(&sql).await?;
            let held = rows.first().and_then(|row| row.first()?.as_deref().map(|held| held == b"t"));
            if held != Some(true) {
                // Dropped, not shut down: that waits for a stream which never began.
                return Ok(None);
            }
        }
        let found = if config.durable_slot { find_slot(&mut client, &slot, anew).await? } else { None };
        let mut start = found;
        if found.is_none() {
            let lifetime = if config.durable_slot { "" } else { "TEMPORARY " };
            // The older spelling of "no snapshot", which every version since 10 understands.
            let create =
                format!("CREATE_REPLICATION_SLOT {slot} {lifetime}LOGICAL pgoutput NOEXPORT_SNAPSHOT");
            let backend = prepare_to_wait(&mut client, config.connect_timeout + config.slot_timeout).await?;
            unfinished.begins(backend.clone());
            let made = client.simple_query(&create).await;
            unfinished.finished(&backend);
            let made = made?;
            client.simple_query("reset lock_timeout").await?;
            start = made.first().and_then(|row| lsn(row.get(1)?.as_deref()?));
            if failpoints::reach(Point::SlotMade).await {
                return Err(ReplicationError::Ended);
            }
        }
        if !sign_of_life.is_zero() {
            // Before version 12 it is the operator's alone: half a minute, if he has not changed it.
            let set = format!(
                "select pg_catalog.set_config(name, '{}', false) from pg_catalog.pg_settings
                 where name operator(pg_catalog.=) 'wal_sender_timeout' and context operator(pg_catalog.=) 'user'",
                sign_of_life.as_millis()
            );
            client.simple_query(&set).await?;
        }
        let (resumed, start) = (found.is_some(), start.unwrap_or_default());
        let claim_limit = claim_limit(config.silence_limit);
        let (link, slot, heard) = (Link::Open(Box::new(client)), slot.into(), time::Instant::now());
        Ok(Some(Self { link, slot, resumed, start, heard, silence_limit, claim_limit }))
    }

    /// Starts streaming.
    pub(crate) async fn start(&mut self) -> Result<(), ReplicationError> {
        if let Link::Open(client) = &mut self.link {
            start(client).await?;
        }
        self.heard = time::Instant::now();
        Ok(())
    }

    /// Starts streaming at some time: what is read until then comes after it.
    pub(crate) fn start_at(&mut self, at: time::Instant) {
        let claim_limit = self.claim_limit;
        if let Link::Open(mut client) = std::mem::replace(&mut self.link, Link::Failed) {
            self.link = Link::Held(AbortOnDropHandle::new(tokio::spawn(async move {
                wait_until(&mut client, at, claim_limit).await?;
                start(&mut client).await?;
                Ok(client)
            })));
        }
    }

    /// Whether it goes on where an earlier session ended, so that nothing is missing in between.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Where it begins: everything before it has been delivered, or is nobody's.
    pub(crate) fn start_position(&self) -> Lsn {
        self.start
    }

    /// Name of its slot.
    pub(crate) fn slot(&self) -> &Arc<str> {
        &self.slot
    }

    /// What comes next.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Raw, ReplicationError> {
        loop {
            let event = self.heard().await?;
            return Ok(match event {
                ReplicationEvent::XLogData { data, .. } => Raw::Data(data),
                ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => Raw::Begin {
                    final_lsn: Lsn(final_lsn.as_u64()),
                    commit_time: unix(commit_time_micros),
                    xid,
                },
                ReplicationEvent::Commit { lsn, end_lsn, commit_time_micros } => Raw::Commit {
                    commit_lsn: Lsn(lsn.as_u64()),
                    end_lsn: Lsn(end_lsn.as_u64()),
                    commit_time: unix(commit_time_micros),
                },
                ReplicationEvent::KeepAlive { wal_end, .. } => Raw::Idle(Lsn(wal_end.as_u64())),
                ReplicationEvent::Message { .. } => continue,
                ReplicationEvent::StoppedAt { .. } => return Err(ReplicationError::Ended),
            });
        }
    }

    /// What comes next from the server, which may not be silent for too long.
    async fn heard(&mut self) -> Result<ReplicationEvent, ReplicationError> {
        if let Link::Held(task) = &mut self.link {
            let started = task.await;
            self.link = Link::Failed;
            self.link = Link::Open(started.map_err(|_| ReplicationError::Ended)??);
            self.heard = time::Instant::now();
        }
        let Link::Open(client) = &mut self.link else { return Err(ReplicationError::Ended) };
        let event = client.recv();
        let event = if self.silence_limit.is_zero() {
            event.await
        } else {
            // What has come already counts, however late we look.
            let limit = self.heard + self.silence_limit;
            let silence = |_| ReplicationError::Silence(self.silence_limit);
            time::timeout_at(limit, event).await.map_err(silence)?
        };
        self.heard = time::Instant::now();
        event?.ok_or(ReplicationError::Ended)
    }

    /// Tells the server that everything before this position was handed over; it may forget it.
    pub(crate) fn confirm(&self, position: Lsn) {
        if let Link::Open(client) = &self.link {
            client.update_applied_lsn(pgwire_replication::Lsn::from_u64(position.0));
        }
    }

    /// Ends the session; its slot goes with it.
    pub(crate) async fn stop(mut self) {
        let Link::Open(client) = &mut self.link else { return };
        match time::timeout(STOP_TIMEOUT, client.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "replication session ended with an error"),
            // Closing the connection is all that is left.
            Err(_) => client.abort(),
        }
    }
}

/// Waits before the stream starts, and lets the server know that this node does not hang.
async fn wait_until(
    client: &mut ReplicationClient,
    limit: time::Instant,
    claim_limit: time::Duration,
) -> Result<(), ReplicationError> {
    loop {
        time::sleep_until(limit.min(time::Instant::now() + claim_limit / 3)).await;
        if time::Instant::now() >= limit {
            return Ok(());
        }
        client.simple_query("select 1").await?;
    }
}

async fn start(client: &mut ReplicationClient) -> Result<(), ReplicationError> {
    let started = async {
        client.start().await?;
        client.wait_started().await
    };
    Ok(time::timeout(START_TIMEOUT, started).await.map_err(|_| ReplicationError::Timeout)??)
}

/// Where the library is to connect: to the server itself, or to a connection that we have made because it is to be
/// encrypted or to go to certain addresses.
async fn reach(config: &DatabaseConfig) -> Result<(String, u16), ReplicationError> {
    if config.route.is_direct() && !config.old_server {
        return Ok((config.host.clone(), config.port));
    }
    if !config.old_server && config.route.tls.mode() == TlsMode::Disable {
        let address = config.route.resolve(&config.host, config.port).await?;
        return Ok((address.ip().to_string(), address.port()));
    }
    let stream = config.route.dial(&config.host, config.port).await?;
    let edit = config.old_server.then_some(without_messages as Edit);
    let relay = Relay::open_edited(stream, edit).map_err(DialError::Io)?;
    Ok((relay.host().display().to_string(), relay.port()))
}

/// The library asks for the messages of `pg_logical_emit_message`, which servers before version 14 refuse.
fn without_messages(query: &str) -> Option<String> {
    query.starts_with("START_REPLICATION ").then(|| query.replacen(", messages 'true'", "", 1))
}

/// Where a permanent slot of this name stands, if there is one to go on with. One of another plugin or database is the
/// operator's affair: making ours will fail and say so.
async fn find_slot(
    client: &mut ReplicationClient,
    slot: &str,
    anew: bool,
) -> Result<Option<Lsn>, ReplicationError> {
    let sql = format!(
        "select confirmed_flush_lsn from pg_catalog.pg_replication_slots
         where slot_name operator(pg_catalog.=) '{slot}' and plugin operator(pg_catalog.=) 'pgoutput'
             and database operator(pg_catalog.=) pg_catalog.current_database()"
    );
    let rows = client.simple_query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if anew {
        client.simple_query(&format!("DROP_REPLICATION_SLOT {slot}")).await?;
        return Ok(None);
    }
    Ok(Some(row.first().and_then(|value| lsn(value.as_deref()?)).unwrap_or_default()))
}

/// Which server process makes a slot; if this process dies, it does not wait much longer.
async fn prepare_to_wait(
    client: &mut ReplicationClient,
    limit: time::Duration,
) -> Result<Backend, ReplicationError> {
    // We give up before the server does.
    let limit = limit + time::Duration::from_secs(5);
    let sql = format!(
        "select pid, backend_start, pg_catalog.set_config('lock_timeout', '{}', false)
         from pg_catalog.pg_stat_activity where pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()",
        limit.as_millis()
    );
    let rows = client.simple_query(&sql).await?;
    let text = |at: usize| Some(String::from_utf8_lossy(rows.first()?.get(at)?.as_deref()?).into_owned());
    let unknown = || ReplicationError::Preparation("The server does not say which process it is".to_owned());
    Ok(Backend { pid: text(0).ok_or_else(unknown)?, begun: text(1).ok_or_else(unknown)? })
}

/// A position as the server writes it, `16/B374D848`.
fn lsn(text: &[u8]) -> Option<Lsn> {
    let (high, low) = std::str::from_utf8(text).ok()?.split_once('/')?;
    let (high, low) = (u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?);
    Some(Lsn((high << 32) | low))
}

/// A publication's name as PostgreSQL reads a list of them: bare names are folded to lower case and end at white space
/// and commas.
fn as_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn unix(postgres_micros: i64) -> UnixMicros {
    UnixMicros(postgres_micros.saturating_add(POSTGRES_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_asked_for_less() {
        let query = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p', messages 'true')";
        let expected = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
        assert_eq!(without_messages(query).as_deref(), Some(expected));
        assert_eq!(without_messages("select 1, messages 'true'"), None);
    }

    #[test]
    fn positions_are_read() {
        assert_eq!(lsn(b"16/B374D848"), Some(Lsn(0x16_B374_D848)));
        for bad in [&b""[..], b"16", b"16/", b"x/1", b"\xff/1"] {
            assert_eq!(lsn(bad), None);
        }
    }

    /// tenant_database 54, 55
    #[test]
    fn operators_codes() {
        let server = |text: &str| ReplicationError::Wire(PgWireError::Server(text.to_owned()));
        for (error, code) in [
            (server("slot \"x\" is active for PID 1 (SQLSTATE 55006)"), "ReplicationSlotBeingUsed"),
            (
                server("number of requested standby connections exceeds max_wal_senders (SQLSTATE 53300)"),
                "ReplicationMaxWalSendersReached",
            ),
            (ReplicationError::Timeout, "ReplicationConnectionTimeout"),
            (
                ReplicationError::Silence(time::Duration::from_secs(300)),
                "ReplicationConnectionWatchdogTimeout",
            ),
            (ReplicationError::Ended, "StartReplicationFailed"),
            (ReplicationError::Taken("x".to_owned()), "ReplicationSlotBeingUsed"),
        ] {
            assert_eq!(error.code(), code);
        }
    }

    #[test]
    fn what_lasts() {
        let server = |text: &str| ReplicationError::Wire(PgWireError::Server(text.to_owned()));
        let busy = server("replication slot \"x\" is active for PID 1 (SQLSTATE 55006)");
        assert!(busy.is_slot_in_use() && !busy.is_lasting());
        let missing = server("publication \"x\" does not exist (SQLSTATE 42704)");
        assert!(missing.is_publication_missing() && missing.is_lasting());
        let large = PgWireError::MessageTooLarge { payload_bytes: 2, limit_bytes: 1 };
        assert!(ReplicationError::Wire(large).is_lasting());
        let row = server("division by zero (SQLSTATE 22012)");
        assert!(row.is_undecodable() && !row.is_lasting() && !busy.is_undecodable());
        assert!(!server("terminating connection (SQLSTATE 57P01)").is_undecodable());
        assert!(!ReplicationError::Ended.is_undecodable());
        assert!(!ReplicationError::Ended.is_lasting() && !ReplicationError::Timeout.is_lasting());
    }
}
