//! What owners and followers write to each other.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::wish::Wish;
use crate::{
    chance::Set,
    wire::{Malformed, WIRE_VERSION},
};

/// What the first byte of a welcome has in addition if the stream is sorted.
const SORTED: u8 = 0x80;

/// Length of the header of a part of the stream.
pub(super) const HEADER: usize = 18;

/// What a message of the stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole events, or the last piece of them.
    Events,
    /// A piece of events; more follows.
    Piece,
    /// The followers; its number is that of the message before it.
    Alive,
    /// The owner ends the stream.
    End,
}

/// The header of a message of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) stream: u64,
    pub(super) number: u64,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let mut rest = &mut out[..];
        rest.put_u8(WIRE_VERSION);
        rest.put_u8(self.kind as u8);
        rest.put_u64(self.stream);
        rest.put_u64(self.number);
        out
    }

    pub(super) fn decode(message: &mut Bytes) -> Result<Self, Malformed> {
        if message.len() < HEADER || message.get_u8() != WIRE_VERSION {
            return Err(Malformed);
        }
        let kind = match message.get_u8() {
            0 => Kind::Events,
            1 => Kind::Piece,
            2 => Kind::Alive,
            3 => Kind::End,
            _ => return Err(Malformed),
        };
        Ok(Self { kind, stream: message.get_u64(), number: message.get_u64() })
    }
}

/// Appends an event.
pub(super) fn put_event(out: &mut BytesMut, event: &[u8]) {
    out.put_u32(u32::try_from(event.len()).unwrap_or(u32::MAX));
    out.put_slice(event);
}

/// The next event of a body.
pub(super) fn event(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = body.try_get_u32().map_err(|_| Malformed)? as usize;
    if len > body.len() {
        return Err(Malformed);
    }
    Ok(body.split_to(len))
}

/// Writes the numbers of the followers.
pub(super) fn followers(ids: impl Iterator<Item = u64>) -> Bytes {
    let mut out = BytesMut::new();
    ids.for_each(|id| out.put_u64(id));
    out.freeze()
}

/// Whether a follower is listed.
pub(super) fn is_listed(id: u64, followers: &[u8]) -> bool {
    followers.chunks_exact(8).any(|listed| listed == id.to_be_bytes())
}

/// What a follower says to the owner. Followers draw a number when they begin: a node may begin to follow again before the
/// last message of its former follower has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToOwner {
    /// Let me in. A request of NATS: it has an answer. `sorted`: I understand a sorted stream. Owners that do not know of
    /// that do not read so far.
    Follow { follower: u64, node: u32, sorted: bool },
    /// How many bytes of events were taken since the beginning, and up to which position everything was handed over.
    Taken { follower: u64, stream: u64, bytes: u64, confirmed: u64 },
    /// I am leaving.
    Leave { follower: u64, stream: u64 },
    /// What I want from now on. Said only to owners that sort.
    Want { follower: u64, stream: u64, wish: Wish },
}

impl ToOwner {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(40);
        out.put_u8(WIRE_VERSION);
        match self {
            Self::Follow { follower, node, sorted } => {
                out.put_u8(0);
                out.put_u64(follower);
                out.put_u32(node);
                out.put_u8(u8::from(sorted));
            }
            Self::Taken { follower, stream, bytes, confirmed } => {
                out.put_u8(1);
                out.put_u64(follower);
                out.put_u64(stream);
                out.put_u64(bytes);
                out.put_u64(confirmed);
            }
            Self::Leave { follower, stream } => {
                out.put_u8(2);
                out.put_u64(follower);
                out.put_u64(stream);
            }
            Self::Want { follower, stream, wish } => {
                out.put_u8(3);
                out.put_u64(follower);
                out.put_u64(stream);
                out.put_u64(wish.version);
                for keys in [wish.wanted, wish.unwanted] {
                    out.put_u32(u32::try_from(keys.len()).unwrap_or(u32::MAX));
                    keys.into_iter().for_each(|key| out.put_u32(key));
                }
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut message: Bytes) -> Result<Self, Malformed> {
        let read = |message: &mut Bytes| {
            if message.try_get_u8().ok()? != WIRE_VERSION {
                return None;
            }
            let kind = message.try_get_u8().ok()?;
            let follower = message.try_get_u64().ok()?;
            Some(match kind {
                0 => {
                    let node = message.try_get_u32().ok()?;
                    Self::Follow { follower, node, sorted: message.try_get_u8() == Ok(1) }
                }
                1 => Self::Taken {
                    follower,
                    stream: message.try_get_u64().ok()?,
                    bytes: message.try_get_u64().ok()?,
                    confirmed: message.try_get_u64().ok()?,
                },
                2 => Self::Leave { follower, stream: message.try_get_u64().ok()? },
                3 => {
                    let (stream, version) = (message.try_get_u64().ok()?, message.try_get_u64().ok()?);
                    let (wanted, unwanted) = (keys(message)?, keys(message)?);
                    Self::Want { follower, stream, wish: Wish { version, wanted, unwanted } }
                }
                _ => return None,
            })
        };
        read(&mut message).ok_or(Malformed)
    }
}

fn keys(message: &mut Bytes) -> Option<Set<u32>> {
    let count = message.try_get_u32().ok()?;
    (0..count).map(|_| message.try_get_u32().ok()).collect()
}

/// The owner's answer to a node that wants to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    /// If it follows the sorted stream: the node of the owner.
    pub(super) sorted: Option<u32>,
    pub(super) stream: u64,
    /// Number of the first message for it.
    pub(super) number: u64,
    /// Nothing before this position is in the stream.
    pub(super) position: u64,
    /// What the owner says about the stream, for its readers.
    pub(super) about: Bytes,
    /// Earlier events that are needed to understand what comes.
    pub(super) events: Bytes,
}

impl Welcome {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.about.len() + self.events.len());
        match self.sorted {
            Some(node) => {
                out.put_u8(WIRE_VERSION | SORTED);
                out.put_u32(node);
            }
            None => out.put_u8(WIRE_VERSION),
        }
        out.put_u64(self.stream);
        out.put_u64(self.number);
        out.put_u64(self.position);
        put_event(&mut out, &self.about);
        out.put_slice(&self.events);
        out.freeze()
    }

    pub(super) fn decode(mut message: Bytes) -> Result<Self, Malformed> {
        let mut read = || {
            let version = message.try_get_u8().ok()?;
            if version & !SORTED != WIRE_VERSION {
                return None;
            }
            let sorted = match version & SORTED {
                0 => None,
                _ => Some(message.try_get_u32().ok()?),
            };
            let (stream, number) = (message.try_get_u64().ok()?, message.try_get_u64().ok()?);
            let position = message.try_get_u64().ok()?;
            let about = event(&mut message).ok()?;
            Some(Self { sorted, stream, number, position, about, events: message.clone() })
        };
        read().ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back() {
        for kind in [Kind::Events, Kind::Piece, Kind::Alive, Kind::End] {
            let header = Header { kind, stream: 1, number: u64::MAX };
            assert_eq!(Header::decode(&mut Bytes::copy_from_slice(&header.encode())), Ok(header));
        }
        for message in [
            ToOwner::Follow { follower: 1, node: 2, sorted: true },
            ToOwner::Follow { follower: 1, node: 2, sorted: false },
            ToOwner::Taken { follower: 1, stream: 2, bytes: 3, confirmed: 4 },
            ToOwner::Leave { follower: 1, stream: 2 },
            ToOwner::Want {
                follower: 1,
                stream: 2,
                wish: Wish { version: 3, wanted: [4, 5].into_iter().collect(), unwanted: Set::default() },
            },
        ] {
            assert_eq!(ToOwner::decode(message.clone().encode()), Ok(message));
        }
        // From a node that does not know of sorted streams.
        let former = ToOwner::Follow { follower: 1, node: 2, sorted: false };
        let bytes = former.clone().encode();
        assert_eq!(ToOwner::decode(bytes.slice(..bytes.len() - 1)), Ok(former));
        let listed = followers([u64::MAX, 1].into_iter());
        assert!(is_listed(1, &listed) && is_listed(u64::MAX, &listed) && !is_listed(2, &listed));
        let mut events = BytesMut::new();
        put_event(&mut events, b"x");
        let events = events.freeze();
        for sorted in [None, Some(7)] {
            let about = "about".into();
            let welcome =
                Welcome { sorted, stream: 1, number: 2, position: 3, about, events: events.clone() };
            assert_eq!(Welcome::decode(welcome.encode()), Ok(welcome.clone()));
            assert_eq!(event(&mut welcome.events.clone()).unwrap(), "x");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = Bytes::from(bytes);
            let _ = Header::decode(&mut bytes.clone());
            let _ = ToOwner::decode(bytes.clone());
            let _ = Welcome::decode(bytes.clone());
            let _ = event(&mut bytes.clone());
        }
    }
}
