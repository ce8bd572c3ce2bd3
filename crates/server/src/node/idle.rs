//! Ends what runs for tenants that nobody uses any more. It is made again when somebody comes.

use std::{sync::Arc, time::Duration};

use realtime_tenants::Tenants;
use tokio::time::{self, Instant, MissedTickBehavior};

use super::node::Node;

/// How long the runtime of a tenant is kept after its last use.
const KEPT: Duration = Duration::from_secs(3600);

/// Pause between two looks for idle tenants.
const LOOK: Duration = Duration::from_secs(60);

/// Pause between two looks for broadcasts that are too old to be kept.
const SWEEP: Duration = Duration::from_secs(5);

/// Ends the runtimes of idle tenants, and frees what was kept long enough, until the server stops.
pub async fn watch(node: Arc<Node>) {
    let mut ticks = time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeps = time::interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.stopping().cancelled() => return,
            _ = sweeps.tick() => node.hub().sweep_histories(),
            _ = ticks.tick() => node.forget_idle(KEPT, Instant::now()),
        }
    }
}

impl Node {
    /// Ends the runtimes of tenants that nobody has used for this long. Tenants of the configuration and the
    /// environment's tenant are few; they stay connected.
    fn forget_idle(&self, kept: Duration, now: Instant) {
        if let Tenants::Stored(directory) = self.tenants() {
            self.forget_unused(|name| directory.default_tenant() == Some(name), kept, now);
        }
    }

    fn forget_unused(&self, is_spared: impl Fn(&str) -> bool, kept: Duration, now: Instant) {
        let mut runtimes = self.lock_runtimes();
        let unused: Vec<Box<str>> = runtimes
            .iter()
            // A runtime is handed out by this table or by another holder. While the table is locked, nobody can get
            // one that only the table holds.
            .filter(|(name, runtime)| Arc::strong_count(runtime) == 1 && !is_spared(name))
            .filter(|(_, runtime)| runtime.is_unused(kept, now) && !runtime.webhooks().is_any())
            .map(|(name, _)| name.clone())
            .collect();
        for name in unused {
            let Some(runtime) = runtimes.remove(&name) else { continue };
            tracing::debug!(tenant = &*name, "nobody has used the tenant for a while: its connections end");
            runtime.retire();
            // The end goes on by itself.
            drop(self.end(runtime.database()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::{Env, Settings};

    #[tokio::test(start_paused = true)]
    async fn tenants_that_nobody_uses_are_forgotten() {
        let mut settings = Settings::from_env(&Env::new(&|_| None)).unwrap();
        let tenant = settings.tenants.remove(0);
        settings.tenants = ["a", "b", "spared"]
            .map(|name| realtime_tenants::Tenant { external_id: name.into(), ..tenant.clone() })
            .into();
        let node = Node::new(settings, CancellationToken::new()).unwrap();
        let a = node.runtime_of("a").unwrap();
        assert!(node.runtime_of("b").is_some() && node.runtime_of("spared").is_some());
        let forget = || node.forget_unused(|name| name == "spared", KEPT, Instant::now());
        forget();
        assert_eq!(node.runtimes().len(), 3, "all were used a moment ago");
        time::advance(KEPT).await;
        forget();
        assert!(node.running("b").is_none() && node.running("spared").is_some());
        assert!(node.running("a").is_some(), "somebody has it");
        assert!(node.runtime_of("b").is_some(), "it is made anew");
        drop(a);
        forget();
        assert!(node.running("a").is_none() && node.running("b").is_some());
    }
}
