//! How often clients may ask.

use std::{net::IpAddr, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::throttle::Throttle;

/// Explanations that one address may ask for at once: somebody who tries things out.
const AT_ONCE: u32 = 10;

/// Time after which one more is allowed. Each is a handful of questions to the database.
const PAUSE: Duration = Duration::from_secs(2);

/// Explanations at a time on this node. Each takes a connection that joins need, too.
const TOGETHER: usize = 2;

/// How often explanations may be asked for.
#[derive(Debug)]
pub struct Explaining {
    by_address: Throttle,
    places: Semaphore,
}

impl Explaining {
    /// Whether an address may ask once more; it counts.
    pub fn may(&self, peer: IpAddr) -> bool {
        self.by_address.fail(peer, Instant::now())
    }

    /// A place, while it is kept. `None`: others are at it.
    pub fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }
}

impl Default for Explaining {
    fn default() -> Self {
        Self { by_address: Throttle::new(AT_ONCE, PAUSE), places: Semaphore::new(TOGETHER) }
    }
}
