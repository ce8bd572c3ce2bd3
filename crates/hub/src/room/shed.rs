//! Broadcasts that are over their tenant's limit: they are not delivered, and the members are told how many were not.

use std::{sync::Arc, time::Duration};

use realtime_protocol::{Extension, Ref, SystemMessage, encode};
use tokio::{runtime::Handle, time};

use super::{Kind, Membership, RoomCell};

/// How long a room counts what is not delivered before it tells its members: they are told once in that time at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the members of a room did not get and were not told of yet.
#[derive(Debug, Default)]
pub(super) struct Shed {
    all: u64,
    /// Those among them that were said on this node: members on others do not get them either.
    said_here: u64,
}

impl RoomCell {
    /// Whether what is said now is over the limit. Then it must not be delivered: the members will be told of one message
    /// more that was not. `said_here`: nor must it go to other nodes.
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
        let told_of = room.shed.all > 0;
        room.shed.all += count;
        room.shed.said_here += if said_here { count } else { 0 };
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
        let message = SystemMessage::dropped(Extension::System, all, self.meter.limit());
        drop(self.tell(|vsn| Some(encode::system(vsn, &Ref::null(), &self.key.topic, &message))));
        if said_here > 0
            && let Some(bus) = self.hub.bus()
        {
            bus.dropped(&self.key, said_here);
        }
    }
}

impl Membership {
    /// Whether what this channel says now is over the limit of its tenant. Then it must not be said, here or on other
    /// nodes; the members will be told of one message more that was not delivered.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.cell.sheds(true)
    }
}

impl Kind {
    /// Whether it tells of a change of presence: the state that a channel is sent has it already.
    pub(super) const fn is_presence(self) -> bool {
        matches!(self, Self::Presence)
    }
}
