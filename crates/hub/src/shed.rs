//! Broadcasts over their tenant's limit: they are not delivered, and the members are told how many were not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_protocol::{Extension, Ref, SystemMessage, Vsn, encode};
use tokio::{runtime::Handle, time};

use crate::{cell::RoomCell, fan_out::FanOut, key::Kind, message::encode_for, room::Shed};

/// How long a room counts what is not delivered before it tells its members: they are told once in that time at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl RoomCell {
    /// Queues a message of the server itself for all members who may see broadcasts.
    pub(crate) fn tell(self: &Arc<Self>, encode: impl FnMut(Vsn) -> Option<Bytes>) -> Option<FanOut> {
        let mut room = self.room.lock();
        if room.len() == 0 {
            return None;
        }
        let frames = encode_for(&room.users, encode);
        room.enqueue(Kind::Notice, None, None, frames);
        self.schedule(&mut room)
    }

    /// Whether a message is over the limit now. Then it must not be delivered, nor, if it is `said_here`, go to other
    /// nodes; the members will be told of one more that was not.
    pub(crate) fn sheds(self: &Arc<Self>, said_here: bool) -> bool {
        let over = self.meter.is_over();
        if over {
            self.missed(1, said_here);
        }
        over
    }

    /// Counts messages that the members do not get.
    pub(crate) fn missed(self: &Arc<Self>, count: u64, said_here: bool) {
        let mut room = self.room.lock();
        if room.len() == 0 {
            return;
        }
        // Whoever counts the first has it told.
        let told_of = room.shed.all > 0;
        let more = u32::try_from(count).unwrap_or(u32::MAX);
        room.shed.all = room.shed.all.saturating_add(more);
        if said_here {
            room.shed.said_here = room.shed.said_here.saturating_add(more);
        }
        drop(room);
        if told_of {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                let cell = Arc::clone(self);
                runtime.spawn(async move {
                    time::sleep(TELL_EVERY).await;
                    cell.tell_missed();
                });
            }
            Err(_) => self.tell_missed(),
        }
    }

    /// Tells the members, and other nodes, what they did not get since the last time.
    fn tell_missed(self: &Arc<Self>) {
        let Shed { all, said_here } = std::mem::take(&mut self.room.lock().shed);
        let message = SystemMessage::dropped(Extension::System, all.into(), self.meter.limit());
        let members = self.room.lock().len();
        self.meter.told(&message, members);
        drop(self.tell(|vsn| Some(encode::system(vsn, &Ref::null(), &self.key.topic, &message))));
        if said_here > 0
            && let Some(bus) = self.context.bus()
        {
            bus.dropped(&self.key, said_here.into());
        }
    }
}
