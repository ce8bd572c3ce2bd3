//! How handles of one tenant's database follow one another, and how they end.
//!
//! A tenant has one handle in charge at a time. What outlives a handle belongs to the tenant: the sink, the counters,
//! those who attend to broadcasts. What belongs to a handle ends with it: connections, the replication session,
//! subscriptions, limits of attempts. Invariants:
//!
//! - A handle that was shut down never connects again, so nobody who still holds it keeps a database busy.
//! - From the moment of succession only the successor says whether broadcasts arrive: an old session that comes to its
//!   end late, or even begins late, cannot take back what the new one says.
//! - The gap between the two is told once, at the succession, to those who were promised that broadcasts arrive.

use std::sync::Arc;

use rand::Rng as _;
use tokio::time::{self, Duration, Instant};

use super::TenantDatabase;
use crate::{ConnectError, DatabaseConfig, slots};

/// When a handle that took over connects for those who attend.
const COME_BACK_MILLIS: std::ops::Range<u64> = 5_000..10_000;

/// How long a slot that is still read is waited for before it is left alone: its reader is ending.
const SLOTS_LIMIT: Duration = Duration::from_secs(10);

/// Pause between looks at it.
const SLOTS_LOOK: Duration = Duration::from_millis(200);

impl TenantDatabase {
    /// A handle that takes over from this one, perhaps with other settings: with the same sink and counters, and those
    /// who attend to broadcasts attend to its broadcasts. It connects when it is used; with `come_back` also by itself,
    /// 5 to 10 seconds from now, if somebody attends or its slot is permanent. Shut this one down after. Subscriptions
    /// to row changes do not go over: the channels have to ask again. Call it within a runtime.
    #[must_use]
    pub fn succeed(&self, config: DatabaseConfig, come_back: bool) -> Self {
        let old = &self.inner.config;
        let place = |config: &DatabaseConfig| (config.host.clone(), config.port, config.name.clone());
        let resumes = old.durable_slot
            && config.durable_slot
            && old.slot_name == config.slot_name
            && place(old) == place(&config);
        let attendees = Arc::clone(&self.inner.attendees);
        let reign = attendees.succeed(resumes);
        let inherited = (attendees, Arc::clone(&self.inner.heirloom));
        let (sink, stats) = (Arc::clone(&self.inner.sink), Arc::clone(&self.inner.stats));
        let database = Self::with(config, sink, stats, inherited, reign);
        if come_back {
            let returning = database.clone();
            database.spawn(async move { returning.come_back().await });
        }
        database
    }

    /// Connects for those who are there already and do not ask.
    async fn come_back(&self) {
        loop {
            let pause = rand::rng().random_range(COME_BACK_MILLIS);
            time::sleep(Duration::from_millis(pause)).await;
            if self.inner.config.durable_slot {
                // That starts the worker.
                if self.try_on().await.is_ok() {
                    return;
                }
            } else {
                if self.inner.attendees.is_any()
                    && let Ok(pool) = self.pool()
                {
                    self.worker(pool).await;
                }
                return;
            }
        }
    }

    /// Ends all connections, for good: whatever is asked of this handle from now on fails, and it never connects
    /// again. Returns when its work is over; what was asked before may take until its own limit.
    ///
    /// Cancel safe: the end goes on by itself.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.private.close();
        if let Ok(pool) = &self.inner.pool {
            pool.close();
        }
        self.inner.contact.lost();
        self.inner.tasks.wait().await;
    }

    /// Drops the replication slots of this server in the database: the one of the settings, those that begin with its
    /// name, and those of the reference's broadcasts. A slot that somebody reads is waited for, ten seconds at most,
    /// then left. Works after [`shutdown`](Self::shutdown), on a connection of its own. Returns their names.
    ///
    /// # Errors
    /// [`ConnectError`] when the database cannot be asked.
    pub async fn drop_slots(&self) -> Result<Vec<String>, ConnectError> {
        let by = Instant::now() + SLOTS_LIMIT;
        let mut dropped = Vec::new();
        loop {
            let busy = slots::drop_idle(&self.inner.config, &mut dropped).await?;
            if busy.is_empty() {
                return Ok(dropped);
            }
            if Instant::now() >= by {
                let (slots, code) = (busy.join(", "), "DropReplicationSlotFailed");
                let tenant = &*self.inner.config.tenant;
                tracing::warn!(tenant, code, slots, "slots in use were not dropped");
                return Ok(dropped);
            }
            time::sleep(SLOTS_LOOK).await;
        }
    }
}
