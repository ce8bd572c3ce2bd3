//! What one node says to another one only: questions about its state, their answers, pings.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{Malformed, WIRE_VERSION, byte, listens, long, number, put_bytes, put_number, text};
use crate::scope::{BUCKETS, Listens, Part, Parts, Scope};

/// What one node says to another one only.
#[derive(Debug, Clone, PartialEq)]
pub enum Direct {
    /// Tell me your node's state of these parts of tenants; the answer bears this number. From now on I listen to what I
    /// say here: an answer proves that it is known.
    Want {
        /// Number of the question.
        ask: u64,
        /// What it is about.
        about: Vec<Asked>,
    },
    /// A part of an answer.
    Told(Told),
    /// The answer about parts of tenants of which the node has no state.
    Blank {
        /// Number of the question.
        ask: u64,
        /// What it is about.
        about: Vec<Blank>,
    },
    /// Answer at once with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
}

/// What is asked about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The parts that the question is about.
    pub parts: Parts,
    /// What the node that asks listens to.
    pub listens: Listens,
}

/// A part of a node's state of something, when it was asked. Parts are cut anywhere: one entry may be larger than a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Number of the question.
    pub ask: u64,
    /// What it is about.
    pub scope: Scope,
    /// All envelopes up to this one are in it.
    pub as_of: u64,
    /// When the node last said something here that was not sent to all.
    pub unheard: Unheard,
    /// Bytes of the parts before it.
    pub offset: u64,
    /// Whether this is the last part.
    pub last: bool,
    /// A part of the records of the state.
    pub records: Bytes,
}

/// Parts of a tenant of which a node has no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blank {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The parts.
    pub parts: Parts,
    /// Envelopes that come have higher numbers.
    pub as_of: u64,
    /// When the node last said something here that was not sent to all.
    pub unheard: Unheard,
}

/// How many milliseconds ago a node last said something that was not sent to all others, because nobody was known to
/// listen, or because there was no way to send it.
pub type Unheard = Option<u64>;

const WANT: u8 = 1;
const TOLD: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
const BLANK: u8 = 5;

impl Direct {
    /// Writes it, with the node that sends it.
    #[must_use]
    pub fn encode(&self, node: u32) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(WIRE_VERSION);
        out.put_u32(node);
        match self {
            Self::Want { ask, about } => {
                out.put_u8(WANT);
                out.put_u64(*ask);
                for Asked { tenant, parts, listens } in about {
                    put_bytes(&mut out, tenant.as_bytes());
                    put_parts(&mut out, *parts);
                    put_number(&mut out, listens.version);
                    out.put_u64(listens.buckets);
                }
            }
            Self::Told(told) => {
                out.put_u8(TOLD);
                out.put_u64(told.ask);
                put_bytes(&mut out, told.scope.tenant.as_bytes());
                out.put_u8(match told.scope.part {
                    Part::Whole => BUCKETS,
                    Part::Bucket(bucket) => bucket,
                });
                out.put_u64(told.as_of);
                put_unheard(&mut out, told.unheard);
                out.put_u64(told.offset);
                out.put_u8(told.last.into());
                out.put_slice(&told.records);
            }
            Self::Blank { ask, about } => {
                out.put_u8(BLANK);
                out.put_u64(*ask);
                for Blank { tenant, parts, as_of, unheard } in about {
                    put_bytes(&mut out, tenant.as_bytes());
                    put_parts(&mut out, *parts);
                    put_number(&mut out, *as_of);
                    put_unheard(&mut out, *unheard);
                }
            }
            Self::Ping(number) => {
                out.put_u8(PING);
                out.put_u64(*number);
            }
            Self::Pong(number) => {
                out.put_u8(PONG);
                out.put_u64(*number);
            }
        }
        out.freeze()
    }

    /// Reads it, with the node that sent it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(mut message: Bytes) -> Result<(u32, Self), Malformed> {
        if byte(&mut message)? != WIRE_VERSION {
            return Err(Malformed);
        }
        let node = message.try_get_u32().map_err(|_| Malformed)?;
        let kind = byte(&mut message)?;
        let number = long(&mut message)?;
        let direct = match kind {
            WANT => Self::Want { ask: number, about: all(&mut message, asked)? },
            TOLD => Self::Told(told(number, message)?),
            BLANK => Self::Blank { ask: number, about: all(&mut message, blank)? },
            PING => Self::Ping(number),
            PONG => Self::Pong(number),
            _ => return Err(Malformed),
        };
        Ok((node, direct))
    }
}

fn asked(body: &mut Bytes) -> Result<Asked, Malformed> {
    Ok(Asked { tenant: text(body)?.into(), parts: parts(body)?, listens: listens(body)? })
}

fn blank(body: &mut Bytes) -> Result<Blank, Malformed> {
    Ok(Blank {
        tenant: text(body)?.into(),
        parts: parts(body)?,
        as_of: number(body)?,
        unheard: unheard(body)?,
    })
}

fn told(ask: u64, mut message: Bytes) -> Result<Told, Malformed> {
    let tenant = text(&mut message)?.into();
    let part = match byte(&mut message)? {
        BUCKETS => Part::Whole,
        bucket if bucket < BUCKETS => Part::Bucket(bucket),
        _ => return Err(Malformed),
    };
    Ok(Told {
        ask,
        scope: Scope { tenant, part },
        as_of: long(&mut message)?,
        unheard: unheard(&mut message)?,
        offset: long(&mut message)?,
        last: byte(&mut message)? == 1,
        records: message,
    })
}

/// Everything that is left, one after the other.
fn all<T>(body: &mut Bytes, one: fn(&mut Bytes) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
    let mut all = Vec::new();
    while !body.is_empty() {
        all.push(one(body)?);
    }
    Ok(all)
}

fn put_parts(out: &mut BytesMut, parts: Parts) {
    out.put_u8(parts.whole.into());
    out.put_u64(parts.buckets);
}

fn parts(body: &mut Bytes) -> Result<Parts, Malformed> {
    Ok(Parts { whole: byte(body)? == 1, buckets: long(body)? })
}

/// Zero: never.
fn put_unheard(out: &mut BytesMut, unheard: Unheard) {
    put_number(out, unheard.map_or(0, |ago| ago.saturating_add(1)));
}

fn unheard(body: &mut Bytes) -> Result<Unheard, Malformed> {
    Ok(number(body)?.checked_sub(1))
}
