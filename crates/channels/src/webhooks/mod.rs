//! Webhooks of the second generation: row changes of a tenant's database, posted to endpoints of its operator.
//!
//! Each webhook has all of its own: a reader of the log with a slot, a queue, a task that posts. So a slow endpoint delays
//! nothing but its own webhook, and clients not at all. With a permanent slot the position of a webhook is that of its
//! slot: the database keeps it, and keeps the log from there on. It moves on when everything before it was posted or
//! given up. Among several nodes the one that holds a webhook's advisory lock reads and posts.

mod addresses;
mod delivery;
mod hook;
mod queue;
mod sink;
mod state;
mod wanted;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

pub use addresses::Reach;
use realtime_postgres::{DatabaseConfig, drop_idle_beginning};
use realtime_tenants::Tenant;
use state::HookState;
pub use state::{DeadLetter, HookView, Reading};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wanted::{Aim, Hook, Hooks, Wanted, slot, slot_prefix};

/// The webhooks of one tenant, on this node.
#[derive(Debug)]
pub struct Webhooks {
    tenant: Arc<str>,
    hooks: Hooks,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Whether slots were looked for that webhooks have left which are gone.
    swept: AtomicBool,
}

impl Webhooks {
    /// For a tenant. Nothing runs yet.
    #[must_use]
    pub fn new(tenant: Arc<str>) -> Self {
        Self {
            tenant,
            hooks: Hooks::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            swept: AtomicBool::new(false),
        }
    }

    /// Makes what runs follow the tenant's settings. What has not changed goes on. `config`: the database; `reach`: what may
    /// be posted to, always the same. Call it within a runtime, if there are or were webhooks, or if the slot is permanent.
    pub fn apply(&self, tenant: &Tenant, config: &DatabaseConfig, reach: Reach) {
        if self.stop.is_cancelled() {
            return;
        }
        let mut hooks = self.hooks.lock();
        for (name, hook) in &*hooks {
            if !tenant.webhooks.iter().any(|webhook| webhook.name == *name) {
                hook.aim.send_replace(Aim::Remove);
            }
        }
        for webhook in tenant.webhooks.iter() {
            let aim = match tenant.suspend {
                true => Aim::Pause,
                false => Aim::Run(Arc::new(Wanted {
                    webhook: Arc::new(webhook.clone()),
                    database: tenant.database.clone(),
                    config: config.clone(),
                    reach,
                })),
            };
            if let Some(hook) = hooks.get(&webhook.name) {
                hook.aim.send_replace(aim);
                continue;
            }
            let state = Arc::new(HookState::new(Arc::clone(&self.tenant), &webhook.name));
            let (sender, aims) = watch::channel(aim);
            let work = hook::run(aims, Arc::clone(&self.hooks), Arc::clone(&state), self.stop.clone());
            self.tasks.spawn(work);
            hooks.insert(webhook.name.clone(), Hook { aim: sender, state });
        }
        drop(hooks);
        if config.durable_slot && !tenant.suspend && !self.swept.swap(true, Ordering::AcqRel) {
            self.sweep(tenant, config);
        }
    }

    /// Drops the permanent slots of webhooks that were removed while no server ran: they would keep the log for ever.
    fn sweep(&self, tenant: &Tenant, config: &DatabaseConfig) {
        let prefix = slot_prefix(&config.slot_name);
        let kept: Vec<String> =
            tenant.webhooks.iter().map(|webhook| slot(&config.slot_name, &webhook.name)).collect();
        let (config, stop) = (config.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let keep = |name: &str| kept.iter().any(|kept| kept == name);
            let swept = stop.run_until_cancelled(drop_idle_beginning(&config, &prefix, &keep)).await;
            if let Some(Err(error)) = swept {
                tracing::debug!(tenant = &*config.tenant, %error, "slots of former webhooks were not looked for");
            }
        });
    }

    /// Whether there are webhooks: then the tenant is used, even if nobody is connected.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.hooks.lock().is_empty()
    }

    /// What they are and what they have done, by name. `tenant`: its settings.
    #[must_use]
    pub fn views(&self, tenant: &Tenant) -> Vec<HookView> {
        let hooks = self.hooks.lock();
        let view = |webhook: &realtime_webhooks::Webhook| {
            let state = hooks.get(&webhook.name).map(|hook| &hook.state);
            HookView::new(webhook, state.map(Arc::as_ref))
        };
        tenant.webhooks.iter().map(view).collect()
    }

    /// Ends all of them; what was not posted comes again where slots are permanent. Nothing begins afterwards.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
