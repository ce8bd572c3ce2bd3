//! Keeps what is known up to date.

use std::{collections::HashSet, sync::Arc, time::Duration};

use realtime_retry::Backoff;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Directory, STALE_LIMIT};
use crate::{
    StoreError,
    store::{Found, Listener, News},
};

/// Pauses before listening is tried again.
const RETRY: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(30));

/// The first of them, also when a connection was lost.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

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
        let mut retry = RETRY;
        loop {
            match self.store.listen().await {
                Ok(listener) => {
                    if retry.failures() > 0 {
                        tracing::info!("the metadata database is back");
                    }
                    retry = RETRY;
                    self.hear(listener).await;
                    time::sleep(FIRST_PAUSE).await;
                }
                Err(error) => {
                    if retry.failures() == 0 {
                        let code = error.code();
                        tracing::error!(code, %error, "cannot listen to the metadata database; retrying");
                    }
                    time::sleep(retry.failed(rand::random_range(0.5..1.0))).await;
                }
            }
        }
    }

    /// Takes news until the connection is lost.
    async fn hear(&self, mut listener: Listener) {
        // Something may have changed while nobody listened.
        self.flags.forget();
        self.memory.write().forget_nobodies();
        if let Err(error) = self.refresh_known().await {
            tracing::warn!(code = error.code(), %error, "cannot read the known tenants again");
        }
        while let Some(news) = listener.next().await {
            match news {
                News::Flag => self.flags.forget(),
                News::Operation { node, operation, tenant } if node != self.node => {
                    // Fails if nobody listens.
                    let _ = self.operations.send((operation, tenant));
                }
                News::Operation { .. } => {}
                News::Tenant(name) => self.hear_of(&name).await,
            }
        }
    }

    /// Somebody has changed a tenant.
    async fn hear_of(&self, name: &str) {
        let known = {
            let mut memory = self.memory.write();
            memory.forget_nobody(name);
            memory.knows(name)
        };
        // An answer that is on its way may be older than the change.
        let concerns = known || self.flights.awaits(name);
        if concerns && let Err(error) = self.refresh(name).await {
            tracing::warn!(tenant = name, code = error.code(), %error, "cannot read a changed tenant");
        }
    }

    async fn keep_fresh(&self) {
        let mut ticks = time::interval((self.options.expiry / 2).max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.refresh_known().await {
                tracing::debug!(code = error.code(), %error, "cannot read the known tenants again");
            }
        }
    }

    /// Asks for all known tenants, and forgets those that nobody has used for long.
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
            // A tenant whose record cannot be read is not gone: it stays as it was.
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
                self.backfill.consider(&record);
                self.learn(&record.external_id.clone(), Some(record), asked);
            }
        }
        Ok(())
    }
}
