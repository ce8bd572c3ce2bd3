//! A member's slot in a room, and which messages are meant for it.

use std::sync::Arc;

use bytes::Bytes;
use realtime_protocol::{Vsn, frame};

use crate::{
    diff_gate::DiffGate,
    form::Form,
    key::{Kind, MemberId, MessageId, Sight},
    message::Message,
    outbox::Outbox,
    signal::Signal,
};

/// Bytes of broadcasts that are held for a channel.
const MAX_HELD_BYTES: usize = 4_000_000;

/// Broadcasts that are held for a channel, of whatever size.
const MAX_HELD: usize = 4_096;

/// A channel that comes into a room.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
    /// How they are written.
    pub vsn: Vsn,
    /// Which frames it may see.
    pub sight: Sight,
    /// Hold its broadcasts and send nothing before [`Membership::open`](crate::Membership::open): for a channel that is
    /// still being sent older messages.
    pub hold: bool,
    /// Keeps diffs of presence back while joins of its socket are not answered; of serializer 1.0.0 only.
    pub diffs: Option<Arc<DiffGate>>,
    /// What the broadcasts begin with that it wants, if it does not want all: of a stream of events that names one.
    pub only: Option<Arc<[u8]>>,
}

impl Member {
    /// A member that may see everything, from now on.
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, vsn: Vsn) -> Self {
        Self { outbox, vsn, sight: Sight::ALL, hold: false, diffs: None, only: None }
    }
}

/// A member of a room with what the room knows about it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: MemberId,
    /// The first message that is meant for it: what was published before it came is not.
    since: u64,
    /// The first diff of presence that is meant for it: the state that it was sent includes the earlier ones.
    pub(crate) diffs_since: u64,
    /// It is sent the state of presence, and may be sent it again.
    pub(crate) takes_state: bool,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) vsn: Vsn,
    /// The form of compressed messages that it takes.
    pub(crate) form: Option<Form>,
    pub(crate) sight: Sight,
    pub(crate) diffs: Option<Arc<DiffGate>>,
    /// What the broadcasts begin with that it wants.
    only: Option<Arc<[u8]>>,
    /// Stored messages that it has already been sent: they are not delivered to it again.
    pub(crate) replayed: Box<[MessageId]>,
    pub(crate) held: Option<Box<Held>>,
    /// Bytes that its presence takes.
    pub(crate) present: usize,
}

/// Broadcasts that are held for a channel.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) frames: Vec<(Option<MessageId>, Bytes)>,
    pub(crate) bytes: usize,
    /// There were too many; the channel has missed some.
    pub(crate) overflown: bool,
    /// The first kept message that is new to it: those before are missed.
    pub(crate) mark: u64,
}

impl Slot {
    /// A slot for a member; `next` is the number of the next message, `mark` that of the next that is kept.
    pub(crate) fn new(id: MemberId, member: Member, next: u64, mark: u64) -> Self {
        Self {
            id,
            since: next,
            diffs_since: next,
            takes_state: false,
            form: Form::of(member.vsn, &member.outbox),
            outbox: member.outbox,
            vsn: member.vsn,
            sight: member.sight,
            diffs: member.diffs,
            only: member.only,
            replayed: Box::default(),
            held: member.hold.then(|| Box::new(Held { mark, ..Held::default() })),
            present: 0,
        }
    }

    /// Whether every recent message is meant for it, if it did not send the message itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.sight == Sight::ALL && self.replayed.is_empty() && self.held.is_none() && self.only.is_none()
    }

    /// Holds what is meant for it, if nothing may be sent yet. Presence is not held: the channel will be sent its state.
    pub(crate) fn hold(&mut self, batch: &[Message]) -> bool {
        let Some(mut held) = self.held.take() else { return false };
        for message in batch.iter().filter(|message| !message.kind.is_presence() && self.wants(message)) {
            let Some(frame) = self.frame(message) else { continue };
            let full = held.bytes + frame.len() > MAX_HELD_BYTES || held.frames.len() >= MAX_HELD;
            held.overflown |= full || self.outbox.keep(frame.len()).is_none();
            if !held.overflown {
                held.bytes += frame.len();
                held.frames.push((message.id, frame.clone()));
            }
        }
        self.held = Some(held);
        true
    }

    /// Keeps large diffs of so many bytes away from it if its outbox has no room for them, until it is sent the state again:
    /// who reads slowly is not closed for what others track.
    pub(crate) fn skip_diffs(&mut self, bytes: usize) {
        let gets_diffs = self.takes_state && self.diffs_since != u64::MAX && self.sight.presence;
        if gets_diffs && !self.outbox.has_room_for(bytes) {
            self.diffs_since = u64::MAX;
            self.outbox.signal(Signal::PresenceBehind(self.id));
        }
    }

    /// What it gets of a message.
    pub(crate) fn frame<'a>(&self, message: &'a Message) -> Option<&'a Bytes> {
        message.frame_as(self.vsn, self.form)
    }

    /// Whether a message is meant for it.
    pub(crate) fn wants(&self, message: &Message) -> bool {
        self.is_recent(message)
            && !message.is_of(self.id)
            && self.sight.sees(message.kind)
            && message.id.is_none_or(|id| !self.replayed.contains(&id))
            && self.wants_event(message)
    }

    /// Whether a message is of the event that it wants.
    fn wants_event(&self, message: &Message) -> bool {
        let Some(only) = self.only.as_deref().filter(|_| message.kind == Kind::Broadcast) else {
            return true;
        };
        let content = message.frame(self.vsn).and_then(|frame| frame::content(frame));
        content.is_some_and(|content| content.starts_with(only))
    }

    /// Whether a message is younger than what the channel knows from its beginning.
    pub(crate) fn is_recent(&self, message: &Message) -> bool {
        message.number >= if message.kind == Kind::Presence { self.diffs_since } else { self.since }
    }

    /// Gives back to the outbox what it counted for this member.
    pub(crate) fn release(self) {
        if let Some(gate) = &self.diffs {
            gate.forget(self.id);
        }
        self.outbox.unkeep(self.held.map_or(0, |held| held.bytes));
        self.outbox.release(self.present);
    }
}
