//! The rooms about which other nodes are being asked.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use realtime_hub::RoomKey;
use tokio::sync::Semaphore;

/// Rooms that are asked about at once: other nodes answer only so many questions.
const AT_ONCE: usize = 8;

/// The rooms that are being asked about.
#[derive(Debug)]
pub(crate) struct Asking {
    /// One line for each, in which all who want to know stand.
    pub(crate) rooms: Mutex<HashMap<RoomKey, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) permits: Semaphore,
}

impl Default for Asking {
    fn default() -> Self {
        Self { rooms: Mutex::default(), permits: Semaphore::new(AT_ONCE) }
    }
}
