//! What comes through a replication session.

use bytes::Bytes;
use realtime_pgoutput::{
    DecodeError, Decoder, Lsn, Oid,
    message::{Message, UnixMicros},
};

/// Protocol version: all that is sent without streaming of unfinished transactions is in the first.
pub(super) const PROTO_VERSION: u8 = 1;

/// What comes through a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message, and its bytes if it is one of those that the library does not decode.
    Message(Message, Bytes),
    /// Nothing happened up to this position that concerns the publication.
    Idle(Lsn),
    /// In their place: so many rows of a relation that this node has said that it does not want.
    Skipped(Oid, u32),
    /// What this node has said that it wants counts from here on.
    Granted,
}

/// What comes from the server, before it is decoded: what nodes can hand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// A message of pgoutput.
    Data(Bytes),
    /// `Begin`, which the library has decoded.
    Begin { final_lsn: Lsn, xid: u32, commit_time: UnixMicros },
    /// `Commit`, which the library has decoded.
    Commit { commit_lsn: Lsn, end_lsn: Lsn, commit_time: UnixMicros },
    /// Nothing happened up to this position that concerns the publication.
    Idle(Lsn),
}

impl Raw {
    /// What it means.
    pub(crate) fn decode(self, decoder: &mut Decoder) -> Result<Event, DecodeError> {
        Ok(match self {
            Self::Data(data) => Event::Message(decoder.decode(data.clone())?, data),
            Self::Begin { final_lsn, xid, commit_time } => {
                Event::Message(Message::Begin { final_lsn, commit_time, xid }, Bytes::new())
            }
            Self::Commit { commit_lsn, end_lsn, commit_time } => {
                Event::Message(Message::Commit { flags: 0, commit_lsn, end_lsn, commit_time }, Bytes::new())
            }
            Self::Idle(position) => Event::Idle(position),
        })
    }
}

/// A decoder for what a session brings.
pub(crate) fn decoder() -> Decoder {
    Decoder::new(PROTO_VERSION)
}
