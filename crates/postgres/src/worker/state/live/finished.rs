//! What becomes of a result when a reading of it is over.

use std::sync::Arc;

use rand::Rng as _;
use realtime_changes::RowView;
use tokio::time::Instant;

use super::{
    Live, PAUSE,
    binding::{Binding, Identity},
    direct::Direct,
    group::{Group, Stage},
    result::{Kept, Moving, Stale},
    run::{Done, Trouble},
};
use crate::{
    Notice,
    live::{ReadAt, Source},
};

/// What clients are told when their query takes too long.
const TOO_SLOW: &str = "LiveQueryTooSlow";

/// What they are told when it fails.
const FAILED: &str = "LiveQueryFailed";

impl Live {
    /// Takes what a reading has brought.
    pub(super) fn finished(&mut self, done: Done) {
        let Done { result, groups, outcome, was_doubted, took, source } = done;
        self.stats.live_runs.record_time(took);
        let Some(kept) = self.results.get_mut(&result) else { return };
        (kept.reading, kept.took) = (None, Some(took));
        take_back(kept, groups, self.rests_for.is_some());
        kept.not_before = Instant::now() + PAUSE.0.max(took * PAUSE.1);
        if let Some(table) = self.tables.get_mut(&kept.source.oid) {
            table.reading.remove(&result);
        }
        let last = self.tables.get(&kept.source.oid).map_or(0, |table| table.last);
        // Rows that have passed meanwhile may have been judged by what was so before the reading.
        let is_unsure = std::mem::take(&mut kept.is_policy_changed) && last != kept.last;
        let (moving, is_other) = (std::mem::take(&mut kept.moving), source.is_some());
        self.hold(result);
        for moving in moving {
            self.goes(result, moving);
        }
        if let Some((source, view)) = source {
            self.comes_from(result, source, view);
        }
        let queued = self.results.get_mut(&result).map(|kept| std::mem::take(&mut kept.queued));
        match outcome {
            Ok(read) => {
                self.was_read(result, &read);
                let has_queued = queued.as_ref().is_some_and(|queued| !queued.is_empty());
                if let Some(kept) = self.results.get_mut(&result)
                    // What the log has told was looked at as rows of the one before.
                    && (is_other && has_queued || is_unsure)
                {
                    kept.stale = Stale::Yes;
                }
                self.catch_up(result, queued.unwrap_or_default());
            }
            // Perhaps a column was dropped, or a right taken away, a moment ago.
            Err(Trouble::Failed(_) | Trouble::Denied(_)) if !was_doubted => {
                if let Some(kept) = self.results.get_mut(&result) {
                    (kept.is_doubted, kept.stale) = (true, Stale::Yes);
                }
            }
            Err(trouble) => self.was_not_read(result, trouble),
        }
        self.tell_doubts(result);
        self.after(result);
    }

    /// What is to be done whatever has become of a reading.
    fn after(&mut self, result: u32) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        let bytes = kept.measure();
        self.bytes = self.bytes + bytes - std::mem::replace(&mut kept.bytes, bytes);
        let is_empty = kept.is_empty();
        if is_empty {
            self.rest(result);
        }
        if !self.fits(result) && !is_empty {
            return self.end_for_memory(result);
        }
        self.schedule(result);
    }

    fn was_read(&mut self, result: u32, read: &ReadAt) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        kept.stale.was_read(&read.snapshot);
        kept.seen = Some((read.snapshot.clone(), Instant::now()));
        (kept.lost, kept.told) = (None, None);
        // Whoever has not had all rows has no room for them.
        if kept.newcomers.iter().any(|group| group.is_put_off) {
            let pause = kept.backoff.failed(1.0);
            kept.not_before = kept.not_before.max(Instant::now() + pause);
        } else {
            kept.backoff.succeeded();
        }
        let recheck = self.settings.recheck.filter(|_| kept.source.needs_clock());
        kept.by_clock_at = recheck.map(|recheck| Instant::now() + recheck);
    }

    fn was_not_read(&mut self, result: u32, trouble: Trouble) {
        match trouble {
            Trouble::Unavailable(error) => {
                tracing::debug!(error, "live result not read; retrying");
                if let Some(kept) = self.results.get_mut(&result) {
                    kept.is_doubted = true;
                }
                self.read_again(result);
            }
            Trouble::Slow => {
                let limit = self.settings.statement_timeout;
                let text = format!(
                    "The query of a live result takes longer than {} ms. It is tried again; until then rows may be old",
                    limit.as_millis()
                );
                self.tell_trouble(result, TOO_SLOW, text);
                self.read_again(result);
            }
            Trouble::Failed(error) => self.has_failed(result, &error, "until then rows may be old"),
            Trouble::Denied(error) => {
                self.empty(result);
                self.has_failed(result, &error, "its rows have left");
            }
            Trouble::Refused(refusal) => self.lose(result, &refusal),
            Trouble::Lacking(tables) => self.lacking.push((result, tables)),
            Trouble::Apart => {
                if let Some(kept) = self.results.get_mut(&result) {
                    kept.stale = Stale::Yes;
                }
            }
            Trouble::TooMany => self.end_for_rows(result),
            Trouble::NotUnique => self.end_for_key(result),
        }
    }

    fn has_failed(&mut self, result: u32, error: &str, rows: &str) {
        let text = format!("The query of a live result fails: {error}. It is tried again; {rows}");
        self.tell_trouble(result, FAILED, text);
        if let Some(kept) = self.results.get_mut(&result) {
            // Perhaps a right was taken away, or a column.
            kept.is_doubted = true;
        }
        self.read_again(result);
    }

    /// Reads a result again after a pause that grows.
    pub(super) fn read_again(&mut self, result: u32) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        kept.stale = Stale::Yes;
        let pause = kept.backoff.failed(rand::rng().random_range(0.5..1.0));
        kept.not_before = kept.not_before.max(Instant::now() + pause);
    }

    /// Tells the clients of a result what is wrong with it, once until it has been read.
    fn tell_trouble(&mut self, result: u32, code: &'static str, text: String) {
        self.stats.live_failures.add(1);
        let Some(kept) = self.results.get_mut(&result) else { return };
        if kept.told.replace(code) == Some(code) {
            return;
        }
        let (table, role) = kept.about();
        tracing::warn!(
            code,
            table,
            role = role.as_deref(),
            error = text,
            "a live result cannot be read; retrying"
        );
        let notice = Notice::warning(code, text);
        for binding in kept.bindings() {
            self.sink.notice(binding.channel, notice.clone());
        }
    }

    /// The catalog says something else about a result. Those whose claims make a difference now go apart.
    fn comes_from(&mut self, result: u32, source: Arc<Source>, view: Arc<RowView>) {
        self.delist(result);
        if let Some(kept) = self.results.get_mut(&result) {
            let before = &kept.source;
            // What it did not depend on may have changed since it was read.
            if !source.reads.is_subset(&before.reads) || !source.doubts.is_empty() && before.doubts.is_empty()
            {
                kept.stale = Stale::Yes;
            }
            kept.source = Arc::clone(&source);
            kept.view = view;
            kept.direct = Direct::of(&source, self.collation_is_c).map(Arc::new);
        }
        self.is_whose(result, &source);
        self.enlist(result);
    }

    /// Gives a result that comes from elsewhere its name. Those whose claims make a difference now go apart.
    fn is_whose(&mut self, result: u32, source: &Arc<Source>) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        let bindings: Vec<Arc<Binding>> = kept.bindings().map(Arc::clone).collect();
        let Some(first) = bindings.first() else { return };
        let identity = Identity::of(first, source);
        if identity == kept.identity {
            return;
        }
        if self.identities.contains_key(&identity) {
            for binding in bindings {
                self.goes(result, Moving { binding, to: Some(Arc::clone(source)) });
            }
            return;
        }
        let before = std::mem::replace(&mut kept.identity, identity.clone());
        self.identities.remove(&before);
        self.identities.insert(identity.clone(), result);
        for binding in bindings.into_iter().skip(1) {
            if Identity::of(&binding, source) != identity {
                self.goes(result, Moving { binding, to: Some(Arc::clone(source)) });
            }
        }
    }
}

/// Gives a result its keepers back. Who has all rows now is a member. `rests`: what clients had that are gone is kept.
fn take_back(kept: &mut Kept, groups: Vec<Group>, rests: bool) {
    for mut group in groups {
        group.to.retain(|binding| !binding.is_gone());
        if group.to.is_empty() && !(rests && group.stage == Stage::Complete) {
            continue;
        }
        if group.stage != Stage::Complete {
            kept.newcomers.push(group);
            continue;
        }
        for binding in group.to {
            if !kept.members.iter().any(|member| member.name() == binding.name()) {
                kept.members.push(binding);
            }
        }
        if kept.keeper.is_none() {
            kept.keeper = Some(group.keeper);
        }
    }
    if kept.members.is_empty() && !rests {
        kept.keeper = None;
    }
}
