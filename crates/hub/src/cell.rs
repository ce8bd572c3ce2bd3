//! A room that is in use: its state under a lock, and what publishers wait for.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{bus::Backlog, context::Context, key::RoomKey, meter::Meter, room::Room};

/// A room's state with what never changes about the room.
#[derive(Debug)]
pub(crate) struct RoomCell {
    pub(crate) context: Arc<Context>,
    pub(crate) key: RoomKey,
    pub(crate) meter: Arc<dyn Meter>,
    pub(crate) room: Mutex<Room>,
    /// Told when a batch is taken.
    pub(crate) taken: Notify,
}

impl RoomCell {
    /// An empty room.
    pub(crate) fn new(context: &Arc<Context>, key: &RoomKey, meter: &Arc<dyn Meter>) -> Arc<Self> {
        Arc::new(Self {
            context: Arc::clone(context),
            key: key.clone(),
            meter: Arc::clone(meter),
            room: Mutex::default(),
            taken: Notify::new(),
        })
    }
}

/// More was published than could be handed on: publishers have to wait.
#[derive(Debug)]
pub struct Congestion(Jam);

#[derive(Debug)]
enum Jam {
    /// The members of a room do not get it fast enough.
    Room(Arc<RoomCell>),
    /// Other nodes do not get it fast enough.
    Bus(Arc<Backlog>),
}

impl Congestion {
    /// The congestion of the bus, if there is a bus and it is congested.
    pub(crate) fn of_bus(context: &Context) -> Option<Self> {
        let backlog = context.bus()?.backlog();
        backlog.is_large().then(|| Self(Jam::Bus(Arc::clone(backlog))))
    }

    /// The congestion of a room, which is congested.
    pub(crate) fn of_room(cell: &Arc<RoomCell>) -> Self {
        Self(Jam::Room(Arc::clone(cell)))
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match &self.0 {
            Jam::Room(cell) => !cell.room.lock().is_congested(),
            Jam::Bus(backlog) => !backlog.is_large(),
        }
    }

    /// Returns when it is over. Cancel safe.
    pub async fn over(&self) {
        let notify = match &self.0 {
            Jam::Room(cell) => &cell.taken,
            Jam::Bus(backlog) => backlog.taken(),
        };
        loop {
            // Registered before the look, so that what is taken in between wakes us.
            let taken = notify.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if self.is_over() {
                return;
            }
            taken.await;
        }
    }
}
