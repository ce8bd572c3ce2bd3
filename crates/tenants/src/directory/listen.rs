//! Keeping what is known up to date.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Directory, STALE_LIMIT};
use crate::{
    StoreError,
    store::{Found, Listener, News},
};

/// Pause before listening is tried again: doubles up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Tenants that are asked for in one question.
const AT_ONCE: usize = 500;

impl Directory {
    /// Learns what other nodes change, and asks for all known tenants before they expire, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
            () = self.keep_fresh() => {}
        }
    }

    async fn follow(&self) {
        let mut pause = RETRY.0;
        let mut failed = false;
        loop {
            match self.store.listen().await {
                Ok(listener) => {
                    if failed {
                        tracing::info!("the metadata database is back");
                    }
                    (pause, failed) = (RETRY.0, false);
                    self.hear(listener).await;
                }
                Err(error) => {
                    if !failed {
                        let code = error.code();
                        tracing::error!(code, %error, "cannot listen to the metadata database, trying on");
                    }
                    failed = true;
                }
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Takes news until the connection is lost.
    async fn hear(&self, mut listener: Listener) {
        // Something may have been changed while nobody listened.
        self.forget_flags();
        self.memory.write().forget_nobodies();
        if let Err(error) = self.refresh_known().await {
            tracing::warn!(code = error.code(), %error, "known tenants could not be read anew");
        }
        while let Some(news) = listener.next().await {
            match news {
                News::Flag => self.forget_flags(),
                News::Operation { node, operation, tenant } if node != self.node => {
                    // Nobody may be listening.
                    let _ = self.operations.send((operation, tenant));
                }
                News::Operation { .. } => {}
                News::Tenant(name) => {
                    let known = {
                        let mut memory = self.memory.write();
                        memory.forget_nobody(&name);
                        memory.knows(&name)
                    };
                    // What is on its way to those who wait for it may be older than this.
                    let concerns = known || self.flights.awaits(&name);
                    if concerns && let Err(error) = self.refresh(&name).await {
                        tracing::warn!(tenant = &*name, code = error.code(), %error, "a change could not be read");
                    }
                }
            }
        }
    }

    async fn keep_fresh(&self) {
        let mut ticks = time::interval((self.options.expiry / 2).max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.refresh_known().await {
                tracing::debug!(code = error.code(), %error, "known tenants could not be read anew");
            }
        }
    }

    /// Asks for all tenants that are known, and forgets those that nobody wants.
    async fn refresh_known(&self) -> Result<(), StoreError> {
        let names = self.memory.write().sweep(STALE_LIMIT, Instant::now());
        for names in names.chunks(AT_ONCE) {
            let asked = Instant::now();
            let Found { records, unreadable } = match self.store.get_many(names).await {
                Ok(found) => found,
                Err(error) => {
                    *self.failed.lock() = Some(Instant::now());
                    return Err(error);
                }
            };
            *self.failed.lock() = None;
            // One that cannot be read is not gone: it stays what it was.
            let there: HashSet<&str> = records
                .iter()
                .map(|record| &*record.external_id)
                .chain(unreadable.iter().map(|name| &**name))
                .collect();
            let gone: Vec<&str> =
                names.iter().map(|name| &**name).filter(|name| !there.contains(name)).collect();
            for name in gone {
                self.learn(name, None, asked);
            }
            for record in records {
                self.move_secrets(&record);
                self.learn(&record.external_id.clone(), Some(record), asked);
            }
        }
        Ok(())
    }
}
