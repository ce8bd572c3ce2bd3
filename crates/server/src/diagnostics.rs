//! Counts of operators' codes, by code and tenant.
//!
//! Every warning and error with a `code` is counted where the event is made, whatever the log level is and however
//! many lines the log leaves out.

use std::{collections::BTreeMap, sync::LazyLock};

use parking_lot::Mutex;

/// Pairs of code and tenant that are counted separately. Codes are few; tenants are those of this node.
const MAX_PAIRS: usize = 50_000;

/// Counts by code and tenant. An unknown tenant is empty.
#[derive(Debug, Default)]
pub struct ErrorCounts(Mutex<BTreeMap<(String, String), u64>>);

impl ErrorCounts {
    /// The counts of this process. Log lines belong to the process, even if several servers run in it.
    #[must_use]
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<ErrorCounts> = LazyLock::new(ErrorCounts::default);
        &GLOBAL
    }

    /// Counts one more.
    pub fn add(&self, code: &str, tenant: &str) {
        let mut counts = self.0.lock();
        let key = (code.to_owned(), tenant.to_owned());
        if counts.len() >= MAX_PAIRS && !counts.contains_key(&key) {
            return;
        }
        *counts.entry(key).or_default() += 1;
    }

    /// All counts, by code and tenant, in order.
    #[must_use]
    pub fn all(&self) -> Vec<(String, String, u64)> {
        let counts = self.0.lock();
        counts.iter().map(|((code, tenant), count)| (code.clone(), tenant.clone(), *count)).collect()
    }
}
