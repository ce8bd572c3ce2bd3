//! A replication session: a temporary slot and the messages that come through it (postgres_changes 7.1, 7.2).

use bytes::Bytes;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent};
use realtime_pgoutput::{
    DecodeError, Decoder, Lsn,
    message::{Message, UnixMicros},
};
use secrecy::ExposeSecret as _;
use tokio::time;

use crate::{DatabaseConfig, config::SESSION_OPTIONS};

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Protocol version: all that is sent without streaming of unfinished transactions is in the first.
const PROTO_VERSION: u8 = 1;

/// Messages that may wait between the connection and the worker. When they do, the connection is not read
/// and the walsender waits.
const BUFFERED_MESSAGES: usize = 256;

/// Largest message: a row may hold one value of a gigabyte, but no frame carries more than a few megabytes.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// How long making the slot may take beyond connecting: it waits for transactions that are running.
const SLOT_TIMEOUT: time::Duration = time::Duration::from_secs(20);

/// Why a session ended or did not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicationError {
    /// The connection or the server.
    #[error(transparent)]
    Wire(#[from] PgWireError),
    /// A message that is not of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No slot in time.
    #[error("Replication connection timed out during initialization")]
    Timeout,
    /// The server ended the stream.
    #[error("The server ended the replication stream")]
    Ended,
}

/// What comes through a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message.
    Message(Message),
    /// Nothing happened up to this position that concerns the publication.
    Idle(Lsn),
}

/// A running replication session.
pub(crate) struct Session {
    client: ReplicationClient,
    decoder: Decoder,
}

impl Session {
    /// Connects, makes a temporary slot of a name that nobody else uses, and starts streaming.
    pub(crate) async fn start(config: &DatabaseConfig) -> Result<Self, ReplicationError> {
        let limit = config.connect_timeout + SLOT_TIMEOUT;
        time::timeout(limit, Self::open(config)).await.map_err(|_| ReplicationError::Timeout)?
    }

    async fn open(config: &DatabaseConfig) -> Result<Self, ReplicationError> {
        let slot = format!("{}_{:08x}", config.slot_name, rand::random::<u32>());
        let replication = ReplicationConfig::new(
            &config.host,
            &config.user,
            config.password.expose_secret(),
            &config.name,
            &slot,
            config.publication.as_str(),
        )
        .with_port(config.port)
        .with_options(SESSION_OPTIONS)
        .with_application_name("realtime_replication")
        .with_buffer_size(BUFFERED_MESSAGES)
        .with_max_message_size(MAX_MESSAGE);
        let mut client = ReplicationClient::connect_gated(replication).await?;
        // The older spelling of "no snapshot", which every version since 10 understands.
        let create = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        client.simple_query(&create).await?;
        client.start().await?;
        client.wait_started().await?;
        Ok(Self { client, decoder: Decoder::new(PROTO_VERSION) })
    }

    /// The next event.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Event, ReplicationError> {
        loop {
            let event = self.client.recv().await?.ok_or(ReplicationError::Ended)?;
            return Ok(match event {
                ReplicationEvent::XLogData { data, .. } => Event::Message(self.decode(data)?),
                ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                    Event::Message(Message::Begin {
                        final_lsn: Lsn(final_lsn.as_u64()),
                        commit_time: unix(commit_time_micros),
                        xid,
                    })
                }
                ReplicationEvent::Commit { lsn, end_lsn, commit_time_micros } => {
                    Event::Message(Message::Commit {
                        flags: 0,
                        commit_lsn: Lsn(lsn.as_u64()),
                        end_lsn: Lsn(end_lsn.as_u64()),
                        commit_time: unix(commit_time_micros),
                    })
                }
                ReplicationEvent::KeepAlive { wal_end, .. } => Event::Idle(Lsn(wal_end.as_u64())),
                ReplicationEvent::Message { .. } => continue,
                ReplicationEvent::StoppedAt { .. } => return Err(ReplicationError::Ended),
            });
        }
    }

    fn decode(&mut self, data: Bytes) -> Result<Message, DecodeError> {
        self.decoder.decode(data)
    }

    /// Tells the server that everything before this position was handed over; it may forget it.
    pub(crate) fn confirm(&self, position: Lsn) {
        self.client.update_applied_lsn(pgwire_replication::Lsn::from_u64(position.0));
    }

    /// Ends the session; its slot goes with it.
    pub(crate) async fn stop(mut self) {
        if let Err(error) = self.client.shutdown().await {
            tracing::debug!(%error, "replication session ended with an error");
        }
    }
}

fn unix(postgres_micros: i64) -> UnixMicros {
    UnixMicros(postgres_micros.saturating_add(POSTGRES_EPOCH))
}
