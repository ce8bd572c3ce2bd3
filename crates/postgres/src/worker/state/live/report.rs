//! Which results are kept, for operators.

use std::cmp::Reverse;

use tokio::time::Duration;

use super::{Live, result::Kept};

/// Results that are told of at most: those with most rows.
const MAX_TOLD: usize = 50;

/// A live result that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveResult {
    /// Schema and name of the table or view.
    pub relation: String,
    /// The role that it is read as.
    pub role: String,
    /// Conditions of its filter.
    pub conditions: usize,
    /// Rows at most, if there is a limit.
    pub limit: Option<u32>,
    /// Rows that its clients have.
    pub rows: usize,
    /// Bindings that share it.
    pub bindings: usize,
    /// How long reading it took, the last time.
    pub took: Option<Duration>,
    /// Whether changes are told by the log alone, where that is possible, or by reading the result again.
    pub direct: bool,
    /// Why there are no rows, or why they may be old.
    pub trouble: Option<String>,
}

impl LiveResult {
    fn of(kept: &Kept) -> Self {
        let spec = kept.bindings().next().map(|binding| (&binding.spec, &binding.role));
        let trouble = kept.lost.clone().or_else(|| kept.told.map(str::to_owned));
        Self {
            relation: format!("{}.{}", kept.source.table.schema, kept.source.table.name),
            role: spec.map(|(_, role)| role.to_string()).unwrap_or_default(),
            conditions: spec.map_or(0, |(spec, _)| spec.conditions()),
            limit: spec.and_then(|(spec, _)| spec.live.as_ref()?.limit),
            rows: kept.rows(),
            bindings: kept.bindings().count(),
            took: kept.took,
            direct: kept.direct.is_some(),
            trouble,
        }
    }
}

impl Live {
    /// The results with most rows, and those in trouble before them.
    pub(in crate::worker::state) fn report(&self) -> Vec<LiveResult> {
        let rank = |kept: &&Kept| {
            let is_well = kept.lost.is_none() && kept.told.is_none();
            (is_well, Reverse(kept.rows()))
        };
        let mut all: Vec<&Kept> = self.results.values().filter(|kept| !kept.is_resting()).collect();
        all.sort_by_key(rank);
        all.into_iter().take(MAX_TOLD).map(LiveResult::of).collect()
    }
}
