//! Compressing a room's messages: once per serializer, for the members that take it, outside of the room's lock.

use std::thread::available_parallelism;

use bytes::Bytes;
use realtime_protocol::deflate::{self, Packer};
use tokio::{sync::Semaphore, task};

use crate::{
    form::{Form, PACKED},
    message::Message,
    queue::BULK,
    slot::Slot,
};

/// Who of a room takes compressed messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packing {
    /// How many members use each form.
    users: [u32; PACKED],
    /// From how many bytes on frames are compressed. One number for all sockets of a node.
    from: u32,
}

impl Default for Packing {
    fn default() -> Self {
        Self { users: [0; PACKED], from: u32::MAX }
    }
}

impl Packing {
    /// A member comes.
    pub(crate) fn enter(&mut self, slot: &Slot) {
        if let Some(count) = slot.form.and_then(|form| self.users.get_mut(form.index())) {
            *count += 1;
            self.from = u32::try_from(slot.outbox.packs_from()).unwrap_or(u32::MAX);
        }
    }

    /// A member goes.
    pub(crate) fn leave(&mut self, slot: &Slot) {
        if let Some(count) = slot.form.and_then(|form| self.users.get_mut(form.index())) {
            *count -= 1;
        }
    }

    /// Whether somebody uses a form.
    pub(crate) fn uses(&self, form: Form) -> bool {
        self.count(form) > 0
    }

    fn count(&self, form: Form) -> u32 {
        self.users.get(form.index()).copied().unwrap_or_default()
    }

    /// Whether to compress so many bytes takes so long that others have to have the thread in between.
    pub(crate) fn is_much(&self, messages: &[Message]) -> bool {
        let bytes_of = |message| Form::ALL.map(|form| self.wants(message, form).map_or(0, Bytes::len));
        self.users != [0; PACKED] && messages.iter().flat_map(bytes_of).sum::<usize>() > BULK
    }

    /// The frame that has to be compressed for a form: somebody gets it, and it is large enough.
    fn wants<'a>(&self, message: &'a Message, form: Form) -> Option<&'a Bytes> {
        let is_sender = message.except.is_some_and(|sender| sender.form == Some(form));
        let frame = message.frame(form.vsn()).filter(|frame| frame.len() >= self.from as usize)?;
        (self.count(form) > u32::from(is_sender)).then_some(frame)
    }

    /// Compresses what has to be, at once.
    pub(crate) fn pack(&self, messages: &mut [Message]) {
        if self.users == [0; PACKED] {
            return;
        }
        for message in messages {
            for form in Form::ALL {
                let packed = self.wants(message, form).and_then(deflate::pack);
                set(message, form, packed);
            }
        }
    }

    /// Compresses what has to be. Others have the thread after every [`BULK`] bytes.
    pub(crate) async fn pack_in_turns(&self, messages: &mut [Message], turns: &Semaphore) {
        if self.users == [0; PACKED] {
            return;
        }
        let mut since = 0;
        for message in messages {
            for form in Form::ALL {
                let Some(frame) = self.wants(message, form) else { continue };
                let packed = if frame.len() > BULK {
                    in_turn(frame, turns).await
                } else {
                    if since + frame.len() > BULK {
                        since = 0;
                        task::yield_now().await;
                    }
                    since += frame.len();
                    deflate::pack(frame)
                };
                set(message, form, packed);
            }
        }
    }
}

fn set(message: &mut Message, form: Form, packed: Option<Bytes>) {
    if let Some(place) = message.packed.get_mut(form.index()) {
        *place = packed;
    }
}

/// Turns for half of the processors: a large message that is being compressed has a state of some hundred kilobytes, and the
/// other threads are for what is small.
pub(crate) fn turns() -> Semaphore {
    let processors = available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((processors / 2).max(1))
}

/// Compresses a large frame, after the others that came before.
async fn in_turn(frame: &Bytes, turns: &Semaphore) -> Option<Bytes> {
    let _turn = turns.acquire().await.ok()?;
    let mut packer = Packer::new(frame)?;
    while packer.step(BULK) {
        task::yield_now().await;
    }
    packer.finish()
}
