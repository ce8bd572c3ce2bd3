//! A replication session: a slot and the messages that come through it (postgres_changes 7.1, 7.2).
//!
//! The slot is temporary, with a name of its own, and ends with the session. Or it is permanent and has the name of the
//! settings, and the session goes on where the last one ended.

mod error;
mod event;
mod reach;
mod slot;
mod unfinished;

use std::sync::Arc;

pub(crate) use error::ReplicationError;
pub(crate) use event::{Event, Raw, decoder};
use futures_util::FutureExt as _;
use pgwire_replication::{ReplicationClient, ReplicationConfig, ReplicationEvent};
use realtime_pgoutput::{Lsn, message::UnixMicros};
use secrecy::ExposeSecret as _;
use tokio::time;
use tokio_util::task::AbortOnDropHandle;
pub(crate) use unfinished::Unfinished;

use crate::{DatabaseConfig, config::SESSION_OPTIONS, quote::quoted};

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

/// Signs of life that are expected of the server within its limit of silence.
const SIGNS_OF_LIFE: u32 = 5;

/// How long the server may say nothing on a connection that serves all nodes, at most. If its node hangs, another one has
/// to get the lock soon; the server frees it after a fifth of this time.
const SHARED_SILENCE_LIMIT: time::Duration = time::Duration::from_secs(25);

/// How long a node that holds the lock and does not stream yet may say nothing, at most. Then the server ends its
/// connection (from PostgreSQL 14 on): the node hangs. During streaming the server asks for signs of life instead.
const CLAIM_LIMIT: time::Duration = time::Duration::from_secs(30);

/// What our replication connections are called in `pg_stat_activity`.
pub(crate) const APPLICATION_NAME: &str = "realtime_replication";

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
    /// Since when nothing has come. `None`: something came when it was last looked for.
    silent_since: Option<time::Instant>,
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
        // End what an earlier attempt has left.
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
        let name = slot::name(config)?;
        let silence_limit = silence_limit(config, &claim);
        // The server asks for a sign of life when it has had none for half of the time that we let it wait for one: what
        // we send unasked must be rarer than that, or it has no reason to speak.
        let sign_of_life = silence_limit / SIGNS_OF_LIFE;
        let settings = settings(config, publications, &name, sign_of_life).await?;
        let mut client = ReplicationClient::connect_gated(settings).await?;
        let claim_limit = claim_limit(config.silence_limit);
        if let Claim::Lock(lock) = &claim
            && !take_lock(&mut client, lock, claim_limit).await?
        {
            // Dropped, not shut down: that waits for a stream which never began.
            return Ok(None);
        }
        let found = if config.durable_slot { slot::find(&mut client, &name, anew).await? } else { None };
        let start = match found {
            Some(position) => position,
            None => slot::make(&mut client, config, &name, unfinished).await?,
        };
        if !sign_of_life.is_zero() {
            expect_signs_of_life(&mut client, sign_of_life).await?;
        }
        Ok(Some(Self {
            link: Link::Open(Box::new(client)),
            slot: name.into(),
            resumed: found.is_some(),
            start,
            silent_since: None,
            silence_limit,
            claim_limit,
        }))
    }

    /// Starts streaming.
    pub(crate) async fn start(&mut self) -> Result<(), ReplicationError> {
        if let Link::Open(client) = &mut self.link {
            start(client).await?;
        }
        self.silent_since = None;
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
                    commit_time: UnixMicros::from_postgres(commit_time_micros),
                    xid,
                },
                ReplicationEvent::Commit { lsn, end_lsn, commit_time_micros } => Raw::Commit {
                    commit_lsn: Lsn(lsn.as_u64()),
                    end_lsn: Lsn(end_lsn.as_u64()),
                    commit_time: UnixMicros::from_postgres(commit_time_micros),
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
            self.silent_since = None;
        }
        let Link::Open(client) = &mut self.link else { return Err(ReplicationError::Ended) };
        // Mostly something is there, and no clock has to be looked at.
        let event = match client.recv().now_or_never() {
            Some(event) => event,
            None if self.silence_limit.is_zero() => client.recv().await,
            None => {
                let since = *self.silent_since.get_or_insert_with(time::Instant::now);
                let silence = |_| ReplicationError::Silence(self.silence_limit);
                // An event that has arrived counts, even if we look late.
                time::timeout_at(since + self.silence_limit, client.recv()).await.map_err(silence)?
            }
        };
        self.silent_since = None;
        event?.ok_or(ReplicationError::Ended)
    }

    /// Tells the server that everything before this position was handed over; it may forget it.
    pub(crate) fn confirm(&self, position: Lsn) {
        if let Link::Open(client) = &self.link {
            client.update_applied_lsn(pgwire_replication::Lsn::from_u64(position.0));
        }
    }

    /// Ends the session, and with it a temporary slot.
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

/// How long the server may say nothing: less where other nodes depend on the connection.
fn silence_limit(config: &DatabaseConfig, claim: &Claim) -> time::Duration {
    match claim {
        Claim::Lock(_) if config.silence_limit.is_zero() => SHARED_SILENCE_LIMIT,
        Claim::Lock(_) => config.silence_limit.min(SHARED_SILENCE_LIMIT),
        Claim::None => config.silence_limit,
    }
}

/// What the library is told to try whether the server accepts a replication connection at all. No slot is made.
///
/// # Errors
/// When the server cannot be reached.
pub(crate) async fn probe_settings(config: &DatabaseConfig) -> Result<ReplicationConfig, ReplicationError> {
    let publications = [config.publication.clone()];
    settings(config, &publications, &config.slot_name, time::Duration::ZERO).await
}

/// What the library is told.
async fn settings(
    config: &DatabaseConfig,
    publications: &[String],
    slot: &str,
    sign_of_life: time::Duration,
) -> Result<ReplicationConfig, ReplicationError> {
    let (host, port) = reach::reach(config).await?;
    let settings = ReplicationConfig::new(
        &host,
        &config.user,
        config.password.expose_secret(),
        &config.name,
        slot,
        // Bare names in the list would be folded to lower case, and end at white space and commas.
        publications.iter().map(|name| quoted(name)).collect::<Vec<_>>(),
    )
    .with_port(port)
    .with_options(SESSION_OPTIONS)
    .with_application_name(APPLICATION_NAME)
    .with_buffer_size(BUFFERED_MESSAGES)
    .with_status_interval(CONFIRM_INTERVAL)
    .with_max_message_size(MAX_MESSAGE);
    Ok(match sign_of_life {
        time::Duration::ZERO => settings,
        _ => settings.with_wakeup_interval(sign_of_life),
    })
}

/// Tries to take an advisory lock. Whether the connection has it now.
async fn take_lock(
    client: &mut ReplicationClient,
    name: &str,
    claim_limit: time::Duration,
) -> Result<bool, ReplicationError> {
    let set = format!(
        "select pg_catalog.set_config(name, '{}', false) from pg_catalog.pg_settings
         where name operator(pg_catalog.=) 'idle_session_timeout'",
        claim_limit.as_millis()
    );
    client.simple_query(&set).await?;
    let name = name.replace('\'', "''");
    let sql = format!("select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('{name}', 0))");
    let rows = client.simple_query(&sql).await?;
    let held = rows.first().and_then(|row| row.first()?.as_deref().map(|held| held == b"t"));
    Ok(held == Some(true))
}

/// Has the server look for signs of life.
async fn expect_signs_of_life(
    client: &mut ReplicationClient,
    sign_of_life: time::Duration,
) -> Result<(), ReplicationError> {
    // Before version 12 only operators can set it: half a minute, if they have not changed it.
    let set = format!(
        "select pg_catalog.set_config(name, '{}', false) from pg_catalog.pg_settings
         where name operator(pg_catalog.=) 'wal_sender_timeout' and context operator(pg_catalog.=) 'user'",
        sign_of_life.as_millis()
    );
    client.simple_query(&set).await?;
    Ok(())
}
