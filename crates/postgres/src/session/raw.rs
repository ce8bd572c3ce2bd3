//! What the server sends, as nodes hand it on.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use realtime_pgoutput::{Lsn, message::UnixMicros};

use crate::Place;
use crate::replication::Raw;

const DATA: u8 = 0;
const BEGIN: u8 = 1;
const COMMIT: u8 = 2;
const IDLE: u8 = 3;

impl Raw {
    /// What it is to a stream. `within`: a transaction has begun and not ended; what the server says of its log then is no
    /// place between two. Descriptions of relations and types are sent once per session, before the first row that needs
    /// them.
    pub(super) fn place(&self, within: bool) -> Place {
        match self {
            Self::Begin { .. } => Place::Begin,
            Self::Commit { end_lsn, .. } => Place::End(end_lsn.0),
            Self::Idle(_) if within => Place::Within,
            Self::Idle(position) => Place::End(position.0),
            Self::Data(data) => match &data[..] {
                [kind @ (b'R' | b'Y'), a, b, c, d, ..] => {
                    // Types before the relations that are made of them.
                    let order = u64::from(*kind == b'R') << 32;
                    Place::Needed(order | u64::from(u32::from_be_bytes([*a, *b, *c, *d])))
                }
                [b'I' | b'U' | b'D', a, b, c, d, ..] => Place::Row(u32::from_be_bytes([*a, *b, *c, *d])),
                _ => Place::Within,
            },
        }
    }

    /// The event as bytes, for the other nodes.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        match self {
            Self::Data(data) => {
                out.reserve(data.len());
                out.put_u8(DATA);
                out.put_slice(data);
            }
            Self::Begin { final_lsn, xid, commit_time } => {
                out.put_u8(BEGIN);
                out.put_u64(final_lsn.0);
                out.put_u32(*xid);
                out.put_i64(commit_time.0);
            }
            Self::Commit { commit_lsn, end_lsn, commit_time } => {
                out.put_u8(COMMIT);
                out.put_u64(commit_lsn.0);
                out.put_u64(end_lsn.0);
                out.put_i64(commit_time.0);
            }
            Self::Idle(position) => {
                out.put_u8(IDLE);
                out.put_u64(position.0);
            }
        }
        out.freeze()
    }

    /// What another node has written.
    pub(super) fn read(mut event: Bytes) -> Option<Self> {
        let kind = event.try_get_u8().ok()?;
        let mut number = || event.try_get_u64().ok();
        Some(match kind {
            DATA => Self::Data(event),
            BEGIN => Self::Begin {
                final_lsn: Lsn(number()?),
                xid: event.try_get_u32().ok()?,
                commit_time: UnixMicros(event.try_get_i64().ok()?),
            },
            COMMIT => Self::Commit {
                commit_lsn: Lsn(number()?),
                end_lsn: Lsn(number()?),
                commit_time: UnixMicros(event.try_get_i64().ok()?),
            },
            IDLE => Self::Idle(Lsn(number()?)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_server_can_be_handed_on() {
        for (raw, place) in [
            (Raw::Data(Bytes::from_static(b"I\0\0\0\x07rest")), Place::Row(7)),
            (Raw::Data(Bytes::from_static(b"T\0\0\0\x01\0\0\0\0\x07")), Place::Within),
            (Raw::Data(Bytes::from_static(b"R\0\0\0\x07rest")), Place::Needed(0x1_0000_0007)),
            (Raw::Data(Bytes::from_static(b"Y\0\0\0\x07rest")), Place::Needed(7)),
            (Raw::Begin { final_lsn: Lsn(1), xid: 2, commit_time: UnixMicros(-3) }, Place::Begin),
            (
                Raw::Commit { commit_lsn: Lsn(1), end_lsn: Lsn(u64::MAX), commit_time: UnixMicros(3) },
                Place::End(u64::MAX),
            ),
            (Raw::Idle(Lsn(9)), Place::End(9)),
        ] {
            assert_eq!(raw.place(false), place);
            assert_eq!(Raw::read(raw.encode()), Some(raw));
        }
        let (idle, end) = (Raw::Idle(Lsn(9)), UnixMicros(0));
        assert_eq!(idle.place(true), Place::Within, "nobody may be let in here");
        let commit = Raw::Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_time: end };
        assert_eq!(commit.place(true), Place::End(2));
        assert_eq!(Raw::read(Bytes::new()), None);
        assert_eq!(Raw::read(Bytes::from_static(&[BEGIN, 1])), None);
    }
}
