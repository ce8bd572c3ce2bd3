//! Results that nobody has, kept for those who come back (resume 2).
//!
//! A result that its last client has left rests for as long as the journal keeps changes. Where the log tells of its rows it
//! is kept up to date; otherwise it is read when somebody comes. It gives way to results that somebody has.

use tokio::time::Instant;

use super::Live;

impl Live {
    /// Nobody has a result any more.
    pub(super) fn rest(&mut self, result: u32) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        let is_known = kept.lost.is_none() && (kept.keeper.is_some() || kept.reading.is_some());
        let Some(time) = self.rests_for.filter(|_| is_known) else { return self.drop_result(result) };
        if kept.rests_until.is_none() {
            let until = Instant::now() + time;
            kept.rests_until = Some(until);
            self.resting.insert((until, result));
        }
    }

    /// Somebody comes to a result. Whether it was resting.
    pub(super) fn wake(&mut self, result: u32) -> bool {
        let until = self.results.get_mut(&result).and_then(|kept| kept.rests_until.take());
        until.is_some_and(|until| self.resting.remove(&(until, result)))
    }

    /// Forgets the results that have rested long enough.
    pub(super) fn forget_rested(&mut self, now: Instant) {
        while let Some((_, result)) = self.resting.first().copied().filter(|(until, _)| *until <= now) {
            self.drop_result(result);
        }
    }

    /// Forgets one that rests, if there are as many results as there may be.
    pub(super) fn make_room(&mut self) {
        if self.results.len() >= self.settings.max_results
            && let Some((_, result)) = self.resting.first().copied()
        {
            self.drop_result(result);
        }
    }

    /// Whether what is kept fits into the memory for it, a result having grown: if need be without what is kept for those
    /// who come back.
    pub(super) fn fits(&mut self, result: u32) -> bool {
        while !self.share.takes(self.bytes) {
            if let Some((_, resting)) = self.resting.first().copied() {
                self.drop_result(resting);
                continue;
            }
            let Some(kept) = self.results.get_mut(&result) else { return false };
            kept.keeper.iter_mut().for_each(realtime_live::Keeper::forget);
            let bytes = kept.measure();
            self.bytes = self.bytes + bytes - std::mem::replace(&mut kept.bytes, bytes);
            return self.share.takes(self.bytes);
        }
        true
    }
}
