//! What a publisher has to do once it has said something.

use std::sync::Arc;

use crate::{
    cell::{Congestion, RoomCell},
    context::Context,
    fan_out::FanOut,
    room::Room,
};

/// What a publisher has to do once it has said something. Nothing by default.
#[derive(Debug, Default)]
#[must_use = "run it once everything that belongs together is said, and wait while there is congestion"]
pub struct Delivery {
    /// Gives the members what was said. `None`: nobody is to get it, or somebody else is serving the room.
    pub run: Option<FanOut>,
    /// More waits than should: the publisher should say nothing more before that is over. Run first what has to be run.
    pub congestion: Option<Congestion>,
}

impl Delivery {
    /// The same for a publisher of this node, which waits for the bus to other nodes too.
    pub(crate) fn and_bus(self, context: &Context) -> Self {
        match Congestion::of_bus(context) {
            Some(jam) => Self { congestion: Some(jam), ..self },
            None => self,
        }
    }
}

impl RoomCell {
    /// What the publisher of a message that was just queued has to do.
    pub(crate) fn delivery(self: &Arc<Self>, room: &mut Room) -> Delivery {
        let run = self.schedule(room);
        // A room that this publisher serves itself cannot be slower than the publisher.
        let behind = run.is_none() && room.is_congested();
        Delivery { run, congestion: behind.then(|| Congestion::of_room(self)) }
    }
}
