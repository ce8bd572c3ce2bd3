//! What nodes write to each other: a compact header, then records whose payloads are the bytes that clients sent.
//!
//! Numbers are big endian, lengths and small numbers LEB128. A message that does not parse is refused as a whole: it came
//! from a node of another version, or from somebody who is no node.
//!
//! An envelope on a subject of a tenant is `version u8, kind u8, node u32, number u64`, then records. Envelopes of a node
//! are numbered without gaps in each part of a tenant, so a receiver notices what it has missed.

mod direct;
pub mod past;

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
pub use direct::{Asked, Blank, Direct, Told, Unheard};
use realtime_hub::{Audience, Entry, MemberId, MessageId};
use realtime_protocol::{Encoding, UserBroadcast};

use crate::{
    rates::{Rate, Rates},
    scope::Listens,
};

/// Version of everything that is written here. Nodes of different versions exchange nothing: it is part of every subject
/// and message.
pub const WIRE_VERSION: u8 = 2;

/// Length of an envelope's header.
pub(crate) const HEADER: usize = 14;

/// A message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Not a message of this version of the cluster's protocol")]
pub struct Malformed;

/// What an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole records.
    Records,
    /// A part of records that are too large for one message, neither the first nor the last.
    Fragment,
    /// The last part.
    LastFragment,
    /// Nothing: its number is that of the envelope before it, and reveals the loss of that.
    Mark,
    /// The first part. Parts that come without it must not be read: bytes of a client would be taken for records.
    FirstFragment,
}

/// The header of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Who sent it.
    pub node: u32,
    /// Number within what this node says about this part of the tenant, from 1.
    pub number: u64,
}

impl Header {
    /// Writes it.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let mut rest = &mut out[..];
        rest.put_u8(WIRE_VERSION);
        rest.put_u8(self.kind as u8);
        rest.put_u32(self.node);
        rest.put_u64(self.number);
        out
    }

    /// Reads it off the front of a message.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(message: &mut Bytes) -> Result<Self, Malformed> {
        if message.len() < HEADER || message.get_u8() != WIRE_VERSION {
            return Err(Malformed);
        }
        let kind = match message.get_u8() {
            0 => Kind::Records,
            1 => Kind::Fragment,
            2 => Kind::LastFragment,
            3 => Kind::Mark,
            4 => Kind::FirstFragment,
            _ => return Err(Malformed),
        };
        Ok(Self { kind, node: message.get_u32(), number: message.get_u64() })
    }
}

/// Something that a node says about a tenant.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A broadcast: the payload as JSON text.
    Json(Room, Bytes),
    /// A broadcast with a name and a body of its own encoding.
    User(Room, UserBroadcast),
    /// A member is present, or announces something else.
    Present(Room, MemberId, Present),
    /// A member is no longer present.
    Absent(Room, MemberId),
    /// How many users the tenant has on this node.
    Users(u32),
    /// The buckets of the tenant that this node listens to.
    Listens(Listens),
    /// How often what is limited happens on this node.
    Rates(Rates),
    /// This many messages were not delivered, because there were too many.
    Dropped(Room, u64),
    /// A broadcast that is kept, and its id: a [`Json`](Self::Json) or a [`User`](Self::User).
    Kept(MessageId, Box<Record>),
}

/// An entry of presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The presence key.
    pub key: Box<str>,
    /// The entry's ref.
    pub phx_ref: Box<str>,
    /// What members are told.
    pub meta: Bytes,
}

/// A room of the tenant that a message is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Room {
    /// Public or private.
    pub audience: Audience,
    /// The topic, `realtime:` included.
    pub topic: Arc<str>,
}

const JSON: u8 = 1;
const USER: u8 = 2;
const PRESENT: u8 = 3;
const ABSENT: u8 = 4;
const USERS: u8 = 5;
const DROPPED: u8 = 6;
const LISTENS: u8 = 7;
const RATES: u8 = 8;
const KEPT: u8 = 9;
/// Added to the kind for private rooms.
const PRIVATE: u8 = 0x80;

fn put_head(out: &mut BytesMut, kind: u8, audience: Audience, topic: &str) {
    out.put_u8(if audience == Audience::Private { kind | PRIVATE } else { kind });
    put_bytes(out, topic.as_bytes());
}

pub(crate) fn put_json(out: &mut BytesMut, audience: Audience, topic: &str, payload: &[u8]) {
    put_head(out, JSON, audience, topic);
    put_bytes(out, payload);
}

pub(crate) fn put_user(out: &mut BytesMut, audience: Audience, topic: &str, user: &UserBroadcast) {
    put_head(out, USER, audience, topic);
    put_bytes(out, user.event.as_bytes());
    out.put_u8(u8::from(user.encoding == Encoding::Json));
    put_bytes(out, &user.body);
}

pub(crate) fn put_present(
    out: &mut BytesMut,
    audience: Audience,
    topic: &str,
    member: MemberId,
    entry: &Entry,
) {
    put_head(out, PRESENT, audience, topic);
    put_number(out, member);
    put_bytes(out, entry.key().as_bytes());
    put_bytes(out, entry.phx_ref().as_bytes());
    put_bytes(out, entry.meta());
}

pub(crate) fn put_absent(out: &mut BytesMut, audience: Audience, topic: &str, member: MemberId) {
    put_head(out, ABSENT, audience, topic);
    put_number(out, member);
}

pub(crate) fn put_dropped(out: &mut BytesMut, audience: Audience, topic: &str, count: u64) {
    put_head(out, DROPPED, audience, topic);
    put_number(out, count);
}

/// Begins a broadcast that is kept.
pub(crate) fn put_kept(out: &mut BytesMut, id: MessageId) {
    out.put_u8(KEPT);
    out.put_u128(id);
}

pub(crate) fn put_users(out: &mut BytesMut, users: u32) {
    out.put_u8(USERS);
    put_number(out, users.into());
}

pub(crate) fn put_listens(out: &mut BytesMut, listens: Listens) {
    out.put_u8(LISTENS);
    put_number(out, listens.version);
    out.put_u64(listens.buckets);
}

pub(crate) fn put_rates(out: &mut BytesMut, rates: &Rates) {
    out.put_u8(RATES);
    for rate in rates {
        put_number(out, rate.average);
        put_number(out, rate.recent.into());
    }
}

/// Reads all records.
///
/// # Errors
/// [`Malformed`] when one of them cannot be read; then none may be acted on.
pub fn records(mut body: Bytes) -> Result<Vec<Record>, Malformed> {
    let mut records = Vec::new();
    while !body.is_empty() {
        records.push(record(&mut body)?);
    }
    Ok(records)
}

fn record(body: &mut Bytes) -> Result<Record, Malformed> {
    let kind = byte(body)?;
    if kind == USERS {
        return Ok(Record::Users(u32::try_from(number(body)?).map_err(|_| Malformed)?));
    }
    if kind == LISTENS {
        return Ok(Record::Listens(listens(body)?));
    }
    if kind == KEPT {
        let id = body.try_get_u128().map_err(|_| Malformed)?;
        let is_broadcast = matches!(body.first().map(|kind| kind & !PRIVATE), Some(JSON | USER));
        return if is_broadcast { Ok(Record::Kept(id, Box::new(record(body)?))) } else { Err(Malformed) };
    }
    if kind == RATES {
        let mut rates = Rates::default();
        for rate in &mut rates {
            let (average, recent) = (number(body)?, number(body)?);
            *rate = Rate { average, recent: u32::try_from(recent).map_err(|_| Malformed)? };
        }
        return Ok(Record::Rates(rates));
    }
    let audience = if kind & PRIVATE == 0 { Audience::Public } else { Audience::Private };
    let room = Room { audience, topic: text(body)?.into() };
    match kind & !PRIVATE {
        JSON => Ok(Record::Json(room, bytes(body)?)),
        USER => {
            let event = text(body)?;
            let json = byte(body)? == 1;
            let encoding = if json { Encoding::Json } else { Encoding::Binary };
            Ok(Record::User(room, UserBroadcast { event, encoding, body: bytes(body)? }))
        }
        PRESENT => {
            let member = number(body)?;
            Ok(Record::Present(
                room,
                member,
                Present { key: text(body)?, phx_ref: text(body)?, meta: bytes(body)? },
            ))
        }
        ABSENT => Ok(Record::Absent(room, number(body)?)),
        DROPPED => Ok(Record::Dropped(room, number(body)?)),
        _ => Err(Malformed),
    }
}

fn listens(body: &mut Bytes) -> Result<Listens, Malformed> {
    Ok(Listens { version: number(body)?, buckets: long(body)? })
}

fn byte(body: &mut Bytes) -> Result<u8, Malformed> {
    body.try_get_u8().map_err(|_| Malformed)
}

fn long(body: &mut Bytes) -> Result<u64, Malformed> {
    body.try_get_u64().map_err(|_| Malformed)
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn number(body: &mut Bytes) -> Result<u64, Malformed> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(body)?;
        let bits = u64::from(byte & 0x7F);
        if bits << shift >> shift != bits {
            return Err(Malformed);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn bytes(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = usize::try_from(number(body)?).map_err(|_| Malformed)?;
    if len > body.len() {
        return Err(Malformed);
    }
    Ok(body.split_to(len))
}

fn text(body: &mut Bytes) -> Result<Box<str>, Malformed> {
    let bytes = bytes(body)?;
    std::str::from_utf8(&bytes).map(Into::into).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests;
