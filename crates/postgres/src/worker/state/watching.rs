//! Which tables are watched, for operators.

use std::collections::BTreeMap;

use super::State;
use crate::visibility::compiled::Watching;

impl State {
    /// Which published tables are watched with which role, by how many channels.
    pub(in crate::worker) fn watching(&self) -> Watching {
        let mut counts: BTreeMap<(u32, &str), usize> = BTreeMap::new();
        for watcher in self.watchers.values() {
            for table in &watcher.tables {
                *counts.entry((*table, &*watcher.request.role)).or_default() += 1;
            }
        }
        counts.into_iter().map(|((table, role), channels)| (table, role.into(), channels)).collect()
    }
}
