//! What is to become of webhooks, and those that run.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use realtime_postgres::{DatabaseConfig, RowReaderConfig};
use realtime_tenants::DatabaseSettings;
use realtime_webhooks::{Webhook, slot_suffix};
use tokio::sync::watch;

use super::{addresses::Reach, state::HookState};

/// Bytes of the name of a tenant's slot that a webhook's slot begins with: what is appended must not make it longer than
/// PostgreSQL's names are.
const MAX_BASE: usize = 63 - 14;

/// The webhooks that run, by name.
pub(super) type Hooks = Arc<Mutex<BTreeMap<Box<str>, Hook>>>;

/// A webhook that runs, or comes to its end.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) aim: watch::Sender<Aim>,
    pub(super) state: Arc<HookState>,
}

/// What is to become of a webhook.
#[derive(Debug, Clone)]
pub(super) enum Aim {
    /// It runs.
    Run(Arc<Wanted>),
    /// It rests, and its slot keeps what comes: its tenant is suspended.
    Pause,
    /// It is gone.
    Remove,
}

/// A webhook as it is to run.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) webhook: Arc<Webhook>,
    /// The database, to be compared.
    pub(super) database: DatabaseSettings,
    pub(super) config: DatabaseConfig,
    pub(super) reach: Reach,
}

impl Wanted {
    /// Whether the same is to be read from the same database: then only the posting changes.
    pub(super) fn reads_the_same(&self, other: &Self) -> bool {
        self.webhook.is_for_the_same(&other.webhook) && self.database == other.database
    }

    /// How the log is read for it.
    pub(super) fn reader(&self) -> RowReaderConfig {
        let (name, config) = (&self.webhook.name, &self.config);
        let slot_name = match config.durable_slot {
            true => slot(&config.slot_name, name),
            false => format!("{}_hook", base(&config.slot_name)),
        };
        let exclusive = Some(format!("realtime webhook {} {name}", config.slot_name));
        let database = DatabaseConfig { slot_name, exclusive, sharing: None, ..config.clone() };
        RowReaderConfig { database, spec: self.webhook.spec.clone() }
    }
}

fn base(slot_name: &str) -> &str {
    slot_name.get(..MAX_BASE).unwrap_or(slot_name)
}

/// What the names of the permanent slots of webhooks begin with.
pub(super) fn slot_prefix(slot_name: &str) -> String {
    format!("{}_hook_", base(slot_name))
}

/// The name of the permanent slot of a webhook.
pub(super) fn slot(slot_name: &str, webhook: &str) -> String {
    format!("{}{}", slot_prefix(slot_name), slot_suffix(webhook))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_slots_are_no_longer_than_postgresql_takes_them() {
        let long = "s".repeat(63);
        assert_eq!(slot(&long, "orders").len(), 63);
        assert!(slot("main", "orders").starts_with("main_hook_"));
        assert!(slot("main", "orders").starts_with(&slot_prefix("main")));
    }
}
