//! Results that end, or lose their rows: the rows leave, and that is told.

use std::sync::Arc;

use bytes::Bytes;
use realtime_changes::{Action, RowView, SubscribeRefusal};
use realtime_live::values;

use super::{
    Live,
    binding::Binding,
    group::{Group, Stage, halfway, send},
    result::Stale,
    run::now,
};
use crate::{
    Notice,
    live::{LiveRefusal, Source},
};

/// What clients are told of a result that is over a bound.
const TOO_LARGE: &str = "LiveResultTooLarge";

/// What they are told of a key that is none.
const NOT_UNIQUE: &str = "LiveKeyNotUnique";

impl Live {
    /// Rows leave.
    pub(super) fn send_left(&self, keys: &[Box<[u8]>], to: &[Arc<Binding>], view: &RowView, source: &Source) {
        // Not all that comes now has come.
        let at = halfway(now());
        let left = |key: &[u8]| (Action::Delete, view.left(&values(key), at, &source.types));
        let rows: Vec<(Action, Bytes)> = keys.iter().map(|key| left(key)).collect();
        send(&*self.sink, to, &rows, false);
    }

    /// All rows of a result leave; its bindings begin anew.
    pub(super) fn empty(&mut self, result: u32) {
        self.release(result);
        let Some(kept) = self.results.get_mut(&result) else { return };
        let (view, source) = (Arc::clone(&kept.view), Arc::clone(&kept.source));
        let mut groups = std::mem::take(&mut kept.newcomers);
        let members = std::mem::take(&mut kept.members);
        if let Some(keeper) = kept.keeper.take() {
            groups.push(Group::new(keeper, members, Stage::Complete));
        }
        let mut fresh = Vec::new();
        for mut group in groups {
            let keys = group.keeper.clear();
            self.send_left(&keys, &group.to, &view, &source);
            let new = |binding| Group::new(group.keeper.clone(), vec![binding], Stage::First);
            fresh.extend(group.to.into_iter().map(new));
        }
        if let Some(kept) = self.results.get_mut(&result) {
            kept.newcomers = fresh;
        }
    }

    /// A result cannot be had at the moment: its rows leave. It comes back when the catalog allows it again.
    pub(super) fn lose(&mut self, result: u32, refusal: &LiveRefusal) {
        let text = refusal.to_string();
        let Some(kept) = self.results.get_mut(&result) else { return };
        kept.stale = Stale::No;
        if kept.lost.replace(text.clone()).as_ref() == Some(&text) {
            return;
        }
        self.empty(result);
        let Some(kept) = self.results.get(&result) else { return };
        let (table, role) = kept.about();
        tracing::warn!(
            code = "RealtimeDisabledForConfiguration",
            table,
            role = role.as_deref(),
            error = text,
            "a live result has lost its rows"
        );
        for binding in kept.bindings() {
            let told: SubscribeRefusal = refusal.told(binding.spec.context());
            self.sink.notice(binding.channel, Notice::refusal(&told));
        }
    }

    pub(super) fn end_for_rows(&mut self, result: u32) {
        let text = format!(
            "A live result was ended: it has more than {} rows (LIVE_MAX_ROWS). Ask for fewer, with a filter or a limit",
            self.settings.max_rows
        );
        self.end(result, TOO_LARGE, text);
    }

    pub(super) fn end_for_memory(&mut self, result: u32) {
        let text = "A live result was ended: live results take more memory than they may (LIVE_MAX_MB)";
        self.end(result, TOO_LARGE, text.to_owned());
    }

    pub(super) fn end_for_key(&mut self, result: u32) {
        let text = "A live result was ended: two of its rows have the same `key`. Ask with columns that tell rows apart";
        self.end(result, NOT_UNIQUE, text.to_owned());
    }

    /// Ends a result for good.
    fn end(&mut self, result: u32, code: &'static str, text: String) {
        self.empty(result);
        let Some(kept) = self.results.get_mut(&result) else { return };
        kept.moving.clear();
        let (table, role) = kept.about();
        tracing::warn!(code, table, role = role.as_deref(), error = text, "live result ended");
        let bindings: Vec<Arc<Binding>> = kept.bindings().map(Arc::clone).collect();
        let notice = Notice::warning(code, text);
        for binding in bindings {
            self.sink.notice(binding.channel, notice.clone());
            self.leave(binding.name());
        }
    }
}
