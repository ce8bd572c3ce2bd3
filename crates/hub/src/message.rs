//! A message on its way to the members of a room: one finished frame per serializer, and a compressed one where members
//! take that.

use bytes::Bytes;
use realtime_protocol::Vsn;

use crate::{
    form::{Form, PACKED},
    key::{Kind, MemberId, MessageId},
};

/// All serializers, in the order of their numbers.
pub(crate) const ALL: [Vsn; 4] = [Vsn::V1, Vsn::V2, Vsn::V2Text, Vsn::Events];

/// Number of serializers.
pub(crate) const SERIALIZERS: usize = ALL.len();

/// How many members use each serializer.
pub(crate) type Users = [u32; SERIALIZERS];

/// A frame for each serializer that has users.
pub(crate) type Frames = [Option<Bytes>; SERIALIZERS];

/// Writes a frame for each serializer that has users.
pub(crate) fn encode_for(users: &Users, mut encode: impl FnMut(Vsn) -> Option<Bytes>) -> Frames {
    let mut encoded = Encoded::default();
    encoded.add(users, &mut encode);
    encoded.frames
}

/// A message that is written for the serializers of a room without the room's lock: who comes meanwhile may use another
/// one.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) frames: Frames,
    /// For which serializers a frame was asked for, whether or not there is one.
    asked: [bool; SERIALIZERS],
}

impl Encoded {
    /// Writes the frames that are lacking. `encode` is called once per serializer at most.
    pub(crate) fn add(&mut self, users: &Users, encode: &mut impl FnMut(Vsn) -> Option<Bytes>) {
        let slots = self.frames.iter_mut().zip(&mut self.asked).zip(users).zip(ALL);
        for (((frame, asked), count), vsn) in slots {
            if *count > 0 && !std::mem::replace(asked, true) {
                *frame = encode(vsn);
            }
        }
    }

    /// Whether nothing is lacking for these users.
    pub(crate) fn covers(&self, users: &Users) -> bool {
        self.asked.iter().zip(users).all(|(asked, count)| *asked || *count == 0)
    }
}

/// A message that waits to be fanned out.
#[derive(Debug)]
pub(crate) struct Message {
    /// Messages of a room are numbered: a member gets those that were published since it came.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// The member that does not get it.
    pub(crate) except: Option<Sender>,
    /// The row, of a message that is stored in the database.
    pub(crate) id: Option<MessageId>,
    pub(crate) frames: Frames,
    /// Frames that were compressed, by form.
    pub(crate) packed: [Option<Bytes>; PACKED],
}

/// The member that sent a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) id: MemberId,
    /// The form of compressed messages that it takes.
    pub(crate) form: Option<Form>,
}

impl Message {
    /// The plain frame for a serializer.
    pub(crate) fn frame(&self, vsn: Vsn) -> Option<&Bytes> {
        self.frames.get(vsn as usize)?.as_ref()
    }

    /// The frame for a member: compressed if it takes that, and there is such a frame.
    pub(crate) fn frame_as(&self, vsn: Vsn, form: Option<Form>) -> Option<&Bytes> {
        let packed = form.and_then(|form| self.packed.get(form.index())?.as_ref());
        packed.or_else(|| self.frame(vsn))
    }

    /// Whether a member has sent it.
    pub(crate) fn is_of(&self, member: MemberId) -> bool {
        self.except.is_some_and(|sender| sender.id == member)
    }
}
