//! Decoding of logical replication messages.

mod error;
mod reader;

use std::sync::Arc;

use bytes::Bytes;
pub use error::DecodeError;
use reader::Reader;

use crate::{
    Oid,
    message::{
        Message, OldTuple, Prepared, Relation, RelationColumn, ReplicaIdentity, Tuple, TwoPhase, UnixMicros,
        Value,
    },
};

/// Decodes the messages of one replication session, in order.
///
/// It has to see all of them: inside a streamed block (protocol version ≥ 2) messages carry a transaction id.
#[derive(Debug, Clone)]
pub struct Decoder {
    proto_version: u8,
    in_stream: bool,
}

impl Decoder {
    /// A decoder for a session that asked for this `proto_version` (1 to 4).
    #[must_use]
    pub const fn new(proto_version: u8) -> Self {
        Self { proto_version, in_stream: false }
    }

    /// Decodes one message. Values are slices of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are no whole message of the protocol.
    pub fn decode(&mut self, bytes: Bytes) -> Result<Message, DecodeError> {
        let mut reader = Reader::new(bytes);
        let tag = reader.u8("message type")?;
        let message = self.body(tag, &mut reader)?;
        match reader.remaining() {
            0 => Ok(message),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }

    // Long because the protocol has many messages: one arm each.
    fn body(&mut self, tag: u8, r: &mut Reader) -> Result<Message, DecodeError> {
        Ok(match tag {
            b'B' => Message::Begin { final_lsn: r.lsn("LSN")?, commit_time: time(r)?, xid: r.u32("xid")? },
            b'C' => Message::Commit {
                flags: r.u8("flags")?,
                commit_lsn: r.lsn("LSN")?,
                end_lsn: r.lsn("LSN")?,
                commit_time: time(r)?,
            },
            b'O' => Message::Origin { commit_lsn: r.lsn("LSN")?, name: r.string()? },
            b'R' => Message::Relation { xid: self.xid(r)?, relation: Arc::new(relation(r)?) },
            b'Y' => Message::Type {
                xid: self.xid(r)?,
                oid: r.u32("type")?,
                schema: schema(r)?,
                name: r.string()?,
            },
            b'I' => {
                let (xid, relation) = (self.xid(r)?, r.u32("relation")?);
                new_tag(r)?;
                Message::Insert { xid, relation, new: tuple(r)? }
            }
            b'U' => self.update(r)?,
            b'D' => {
                let (xid, relation) = (self.xid(r)?, r.u32("relation")?);
                let tag = r.u8("tuple type")?;
                let old =
                    old_tuple(tag, r)?.ok_or(DecodeError::UnknownTag { what: "tuple type", byte: tag })?;
                Message::Delete { xid, relation, old }
            }
            b'T' => self.truncate(r)?,
            b'M' => self.logical(r)?,
            b'S' => {
                self.in_stream = true;
                Message::StreamStart { xid: r.u32("xid")?, first: r.u8("segment")? == 1 }
            }
            b'E' => {
                self.in_stream = false;
                Message::StreamStop
            }
            b'c' => Message::StreamCommit {
                xid: r.u32("xid")?,
                flags: r.u8("flags")?,
                commit_lsn: r.lsn("LSN")?,
                end_lsn: r.lsn("LSN")?,
                commit_time: time(r)?,
            },
            b'A' => {
                let (xid, subxid) = (r.u32("xid")?, r.u32("xid")?);
                // Only with parallel streaming, which the message itself does not tell.
                let abort = if r.remaining() == 0 { None } else { Some((r.lsn("LSN")?, time(r)?)) };
                Message::StreamAbort { xid, subxid, abort }
            }
            b'b' => Message::TwoPhase(TwoPhase::BeginPrepare(prepared(r)?)),
            b'P' => Message::TwoPhase(TwoPhase::Prepare(flagged(r)?)),
            b'K' => Message::TwoPhase(TwoPhase::CommitPrepared(flagged(r)?)),
            b'p' => Message::TwoPhase(TwoPhase::StreamPrepare(flagged(r)?)),
            b'r' => {
                r.u8("flags")?;
                Message::TwoPhase(TwoPhase::RollbackPrepared {
                    prepare_end_lsn: r.lsn("LSN")?,
                    rollback_end_lsn: r.lsn("LSN")?,
                    prepare_time: time(r)?,
                    rollback_time: time(r)?,
                    xid: r.u32("xid")?,
                    gid: r.string()?,
                })
            }
            byte => return Err(DecodeError::UnknownMessage(byte)),
        })
    }

    /// The transaction id that messages carry inside a streamed block.
    fn xid(&self, r: &mut Reader) -> Result<Option<u32>, DecodeError> {
        if self.in_stream && self.proto_version >= 2 { r.u32("xid").map(Some) } else { Ok(None) }
    }

    fn update(&self, r: &mut Reader) -> Result<Message, DecodeError> {
        let (xid, relation) = (self.xid(r)?, r.u32("relation")?);
        let tag = r.u8("tuple type")?;
        let old = if tag == b'N' {
            None
        } else {
            let old = old_tuple(tag, r)?.ok_or(DecodeError::UnknownTag { what: "tuple type", byte: tag })?;
            new_tag(r)?;
            Some(old)
        };
        let mut new = tuple(r)?;
        if let Some(OldTuple::Key(old) | OldTuple::Full(old)) = &old {
            fill_unchanged(&mut new, old);
        }
        Ok(Message::Update { xid, relation, old, new })
    }

    fn truncate(&self, r: &mut Reader) -> Result<Message, DecodeError> {
        let xid = self.xid(r)?;
        let count = r.u32("relation count")?;
        let options = r.u8("truncate options")?;
        let relations = (0..count).map(|_| r.u32("relation")).collect::<Result<Vec<Oid>, _>>()?;
        Ok(Message::Truncate {
            xid,
            cascade: options & 1 != 0,
            restart_identity: options & 2 != 0,
            relations,
        })
    }

    fn logical(&self, r: &mut Reader) -> Result<Message, DecodeError> {
        let xid = self.xid(r)?;
        let transactional = r.u8("flags")? & 1 != 0;
        let lsn = r.lsn("LSN")?;
        let prefix = r.string()?;
        let len = r.u32("content length")?;
        Ok(Message::Logical { xid, transactional, lsn, prefix, content: r.bytes(len as usize, "content")? })
    }
}

fn time(r: &mut Reader) -> Result<UnixMicros, DecodeError> {
    Ok(UnixMicros::from_postgres(r.i64("time")?))
}

/// A schema name; the protocol shortens `pg_catalog` to nothing.
fn schema(r: &mut Reader) -> Result<Box<str>, DecodeError> {
    let name = r.string()?;
    Ok(if name.is_empty() { "pg_catalog".into() } else { name })
}

fn relation(r: &mut Reader) -> Result<Relation, DecodeError> {
    let oid = r.u32("relation")?;
    let (schema, name) = (schema(r)?, r.string()?);
    let replica_identity = match r.u8("replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        byte => return Err(DecodeError::UnknownTag { what: "replica identity", byte }),
    };
    let count = r.u16("column count")?;
    let columns = (0..count).map(|_| column(r)).collect::<Result<_, _>>()?;
    Ok(Relation { oid, schema, name, replica_identity, columns })
}

fn column(r: &mut Reader) -> Result<RelationColumn, DecodeError> {
    let identity = r.u8("column flags")? & 1 != 0;
    Ok(RelationColumn {
        identity,
        name: r.string()?,
        type_oid: r.u32("column type")?,
        type_modifier: r.i32("type modifier")?,
    })
}

fn new_tag(r: &mut Reader) -> Result<(), DecodeError> {
    match r.u8("tuple type")? {
        b'N' => Ok(()),
        byte => Err(DecodeError::UnknownTag { what: "tuple type", byte }),
    }
}

fn old_tuple(tag: u8, r: &mut Reader) -> Result<Option<OldTuple>, DecodeError> {
    Ok(match tag {
        b'K' => Some(OldTuple::Key(tuple(r)?)),
        b'O' => Some(OldTuple::Full(tuple(r)?)),
        _ => None,
    })
}

fn tuple(r: &mut Reader) -> Result<Tuple, DecodeError> {
    let count = usize::from(r.u16("column count")?);
    // Each column takes a byte at least: no more is reserved than the message can hold.
    let mut tuple = Vec::with_capacity(count.min(r.remaining()));
    for _ in 0..count {
        tuple.push(match r.u8("column kind")? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(r.sized("column value")?),
            b'b' => Value::Binary(r.sized("column value")?),
            byte => return Err(DecodeError::UnknownTag { what: "column kind", byte }),
        });
    }
    Ok(tuple)
}

/// Takes values that the update left alone from the old row, where that has them: all under `FULL`, else those of a
/// key so long that it is TOASTed. What is outside of a key tuple's key stands as NULL, which nothing TOASTed is.
fn fill_unchanged(new: &mut Tuple, old: &Tuple) {
    for (new, old) in new.iter_mut().zip(old) {
        if *new == Value::Unchanged && *old != Value::Null {
            *new = old.clone();
        }
    }
}

fn flagged(r: &mut Reader) -> Result<Prepared, DecodeError> {
    r.u8("flags")?;
    prepared(r)
}

fn prepared(r: &mut Reader) -> Result<Prepared, DecodeError> {
    Ok(Prepared {
        prepare_lsn: r.lsn("LSN")?,
        end_lsn: r.lsn("LSN")?,
        time: time(r)?,
        xid: r.u32("xid")?,
        gid: r.string()?,
    })
}

#[cfg(test)]
mod tests;
