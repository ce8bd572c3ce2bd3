//! What a node remembers of tenants. No I/O: time is an argument.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{Tenant, TenantRecord};

/// Names that are known to mean nobody, at most. Beyond it those are forgotten that nobody asked for again since the
/// last time, as the names of a flood are.
const NOBODIES: usize = 1024;

/// How long it is remembered that a tenant was removed, so that an answer which was under way then cannot bring it
/// back. Longer than any statement may take.
const REMOVED: Duration = Duration::from_secs(120);

/// A tenant as it was when the database was last asked.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) record: Arc<TenantRecord>,
    /// `None` for a record that cannot be used.
    pub(super) tenant: Option<Arc<Tenant>>,
    /// When the question was asked whose answer this is.
    asked: Instant,
    /// Seconds after the beginning when somebody last wanted it.
    used: AtomicU64,
}

/// What is known of a name.
#[derive(Debug)]
pub(super) enum Known {
    /// This is the tenant, or it cannot be used.
    Fresh(Option<Arc<Tenant>>),
    /// This was the tenant, this long ago.
    Stale(Option<Arc<Tenant>>, Duration),
    /// There is no such tenant.
    Nobody,
    /// There was no such tenant, but that is long ago.
    WasNobody,
    /// Nothing.
    Unknown,
}

/// A name that meant nobody when the database was last asked.
#[derive(Debug)]
struct Nobody {
    asked: Instant,
    /// Somebody asked for it since then.
    again: AtomicBool,
}

/// What a node remembers of tenants.
#[derive(Debug)]
pub(super) struct Memory {
    expiry: Duration,
    begin: Instant,
    tenants: HashMap<Box<str>, Kept>,
    nobodies: HashMap<Box<str>, Nobody>,
    removed: HashMap<Box<str>, Instant>,
}

impl Memory {
    pub(super) fn new(expiry: Duration, now: Instant) -> Self {
        Self {
            expiry,
            begin: now,
            tenants: HashMap::new(),
            nobodies: HashMap::new(),
            removed: HashMap::new(),
        }
    }

    pub(super) fn look_up(&self, name: &str, now: Instant) -> Known {
        if let Some(kept) = self.tenants.get(name) {
            kept.used.store((now - self.begin).as_secs(), Ordering::Relaxed);
            let age = now - kept.asked;
            let tenant = kept.tenant.clone();
            return if age < self.expiry { Known::Fresh(tenant) } else { Known::Stale(tenant, age) };
        }
        let Some(nobody) = self.nobodies.get(name) else { return Known::Unknown };
        nobody.again.store(true, Ordering::Relaxed);
        if now - nobody.asked < self.expiry { Known::Nobody } else { Known::WasNobody }
    }

    /// Notes that a record is still what it was; `None` if it is not.
    #[expect(clippy::option_option, reason = "whether it is, and whether it can be used")]
    pub(super) fn confirm(&mut self, record: &TenantRecord, asked: Instant) -> Option<Option<Arc<Tenant>>> {
        let kept = self.tenants.get_mut(&*record.external_id)?;
        if *kept.record != *record {
            return None;
        }
        kept.asked = kept.asked.max(asked);
        Some(kept.tenant.clone())
    }

    /// Keeps an answer, unless a later question was answered already. Returns the record before.
    ///
    /// # Errors
    /// When the answer is too old to count.
    pub(super) fn put(
        &mut self,
        record: &Arc<TenantRecord>,
        tenant: Option<&Arc<Tenant>>,
        asked: Instant,
    ) -> Result<Option<Arc<TenantRecord>>, Outdated> {
        let name = &*record.external_id;
        let later = |at: Option<Instant>| at.is_some_and(|at| at > asked);
        let kept = self.tenants.get(name);
        if later(kept.map(|kept| kept.asked)) || later(self.removed.get(name).copied()) {
            return Err(Outdated);
        }
        let used = kept.map_or_else(
            || asked.saturating_duration_since(self.begin).as_secs(),
            |kept| kept.used.load(Ordering::Relaxed),
        );
        let kept = Kept {
            record: Arc::clone(record),
            tenant: tenant.map(Arc::clone),
            asked,
            used: AtomicU64::new(used),
        };
        self.nobodies.remove(name);
        self.removed.remove(name);
        Ok(self.tenants.insert(name.into(), kept).map(|before| before.record))
    }

    /// Keeps the answer that there is no such tenant; as [`put`](Self::put).
    pub(super) fn remove(
        &mut self,
        name: &str,
        asked: Instant,
    ) -> Result<Option<Arc<TenantRecord>>, Outdated> {
        match self.tenants.get(name) {
            Some(kept) if kept.asked > asked => return Err(Outdated),
            Some(_) => {}
            None => return Ok(None),
        }
        self.removed(name, asked);
        Ok(self.tenants.remove(name).map(|before| before.record))
    }

    /// Remembers that a tenant was removed, whether or not it was known here: an answer that was under way then may have it
    /// still.
    pub(super) fn removed(&mut self, name: &str, asked: Instant) {
        self.removed.retain(|_, at| asked.saturating_duration_since(*at) < REMOVED);
        self.removed.insert(name.into(), asked);
    }

    /// Whether what is known of a tenant is the answer to a question that was asked after a moment.
    pub(super) fn is_later(&self, name: &str, asked: Instant) -> bool {
        let removed = self.removed.get(name).copied();
        let kept = self.tenants.get(name).map(|kept| kept.asked);
        kept.max(removed).is_some_and(|at| at > asked)
    }

    /// Remembers that a name means nobody.
    pub(super) fn put_nobody(&mut self, name: &str, asked: Instant) {
        if self.nobodies.len() >= NOBODIES {
            self.nobodies.retain(|_, nobody| std::mem::take(nobody.again.get_mut()));
        }
        if self.nobodies.len() >= NOBODIES {
            self.nobodies.clear();
        }
        match self.nobodies.get_mut(name) {
            Some(nobody) => nobody.asked = nobody.asked.max(asked),
            None => {
                self.nobodies.insert(name.into(), Nobody { asked, again: AtomicBool::new(false) });
            }
        }
    }

    pub(super) fn forget_nobody(&mut self, name: &str) {
        self.nobodies.remove(name);
    }

    pub(super) fn forget_nobodies(&mut self) {
        self.nobodies.clear();
    }

    pub(super) fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.tenants.get(name)?.tenant.clone()
    }

    pub(super) fn record(&self, name: &str) -> Option<Arc<TenantRecord>> {
        self.tenants.get(name).map(|kept| Arc::clone(&kept.record))
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.tenants.contains_key(name)
    }

    /// Forgets tenants that nobody wanted for `unused`, and names the others.
    pub(super) fn sweep(&mut self, unused: Duration, now: Instant) -> Vec<Box<str>> {
        let now = (now - self.begin).as_secs();
        self.tenants
            .retain(|_, kept| now.saturating_sub(kept.used.load(Ordering::Relaxed)) < unused.as_secs());
        self.tenants.keys().cloned().collect()
    }
}

/// An answer to a question that was asked before one which is answered already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outdated;

#[cfg(test)]
mod tests;
