//! Why a replication session ended or did not come to be.

use pgwire_replication::PgWireError;
use realtime_pgoutput::DecodeError;
use realtime_tls::DialError;
use tokio::time;

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
    #[error("Another server reads the slot {0}; standing by. Servers with the same NATS_URL share it")]
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

    /// Another server reads.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Taken(_))
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

#[cfg(test)]
mod tests {
    use super::*;

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
