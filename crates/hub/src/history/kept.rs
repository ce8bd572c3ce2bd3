//! A message that is kept.

use std::sync::OnceLock;

use bytes::Bytes;
use realtime_protocol::{Encoding, UserBroadcast, Vsn, encode};

use crate::{
    key::MessageId,
    message::{Frames, SERIALIZERS},
};

/// What a kept message costs beside its text: its entries in lists, and what allocators add.
const OVERHEAD: usize = 384;

/// What a message says, in the bytes that its frame carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The payload of a `broadcast` event, without its closing brace.
    Json(Bytes),
    /// A message with a name and a body of its own encoding.
    User(UserBroadcast),
}

impl Content {
    /// The same content in the memory of a frame that carries it; a copy if there is none.
    pub(crate) fn shared(self, frames: &Frames, meta_len: usize) -> Self {
        let share = |body: &Bytes| {
            let part = |frame: &Bytes| encode::part_of(frame, body, meta_len);
            frames.iter().flatten().find_map(part).unwrap_or_else(|| Bytes::copy_from_slice(body))
        };
        match self {
            Self::Json(open) => Self::Json(share(&open)),
            Self::User(user) => Self::User(UserBroadcast { body: share(&user.body), ..user }),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Json(open) => open.len(),
            Self::User(user) => user.body.len() + user.event.len(),
        }
    }
}

/// A message as it is shown over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// JSON text of an object.
    Json(Vec<u8>),
    /// Bytes with an event.
    Binary(Box<str>, Bytes),
}

/// A message that is kept. Frames for those who have missed it are made once for each serializer, when the first asks.
#[derive(Debug)]
pub struct Kept {
    id: MessageId,
    content: Content,
    /// Whether the database has it too.
    is_stored: bool,
    frames: [OnceLock<Option<Bytes>>; SERIALIZERS],
}

impl Kept {
    /// A message.
    #[must_use]
    pub fn new(id: MessageId, content: Content, is_stored: bool) -> Self {
        Self { id, content, is_stored, frames: Default::default() }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Whether it is a row of the database.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// What it says.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The frame for somebody who has missed it, if the serializer can carry it.
    pub fn frame(&self, vsn: Vsn, topic: &str) -> Option<Bytes> {
        let made = self.frames.get(vsn as usize)?;
        made.get_or_init(|| self.encode(vsn, topic)).clone()
    }

    /// Whether somebody has asked for its frame before.
    #[must_use]
    pub fn has_frame(&self, vsn: Vsn) -> bool {
        self.frames.get(vsn as usize).is_some_and(|frame| frame.get().is_some())
    }

    fn encode(&self, vsn: Vsn, topic: &str) -> Option<Bytes> {
        let meta = self.meta();
        match &self.content {
            Content::Json(open) => Some(encode::broadcast_with_meta(vsn, topic, open, meta.as_bytes())),
            Content::User(user) => encode::replayed_user(vsn, topic, user, meta.as_bytes()),
        }
    }

    fn meta(&self) -> String {
        format!("{{\"id\":\"{}\",\"replayed\":true}}", id_text(self.id))
    }

    /// As it is shown over HTTP.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let meta = self.meta();
        match &self.content {
            Content::Json(open) => Shown::Json(encode::with_meta(open, meta.as_bytes())),
            Content::User(user) if user.encoding == Encoding::Json => {
                // What claims to be JSON and is not is shown as the bytes that it is.
                let text = encode::user_text(user, meta.as_bytes());
                text.map_or_else(|| Shown::Binary(user.event.clone(), user.body.clone()), Shown::Json)
            }
            Content::User(user) => Shown::Binary(user.event.clone(), user.body.clone()),
        }
    }

    /// Bytes that it takes, those of its frames included.
    pub(crate) fn size(&self, topic: &str) -> usize {
        let frames = self.frames.iter().filter_map(|frame| frame.get()?.as_ref().map(Bytes::len));
        OVERHEAD + topic.len() + self.content.len() + frames.sum::<usize>()
    }
}

/// An id as text: that of a UUID.
#[must_use]
pub fn id_text(id: MessageId) -> String {
    let part = |shift: u32, digits: u32| (id >> shift) & ((1 << (4 * digits)) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 8),
        part(80, 4),
        part(64, 4),
        part(48, 4),
        part(0, 12)
    )
}
