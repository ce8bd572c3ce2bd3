//! A verdict taken at random, so that the database can be asked whether it says the same.

use std::time::Duration;

use realtime_pgoutput::message::UnixMicros;

use super::{
    super::party::PartyId,
    Judges,
    judge::{Judge, State},
};
use crate::{
    Cell,
    policy::{Seen, Sight},
};

/// A verdict counts only if the clock does not change it within this time: that of the database is another one, and the
/// database is asked later.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// A verdict about an image.
#[derive(Debug)]
pub(in crate::engine) struct Drawn {
    pub(in crate::engine) party: PartyId,
    pub(in crate::engine) shown: bool,
    pub(in crate::engine) suspects: Vec<usize>,
}

impl Judges {
    /// What the policies of one of the roles say of an image for one of its parties: half of the time one that the index
    /// leads to, else any. `dice` chooses. `None` if that is not decided here.
    pub(in crate::engine) fn draw<'a>(
        &self,
        row: &impl Fn(usize) -> Cell<'a>,
        now: UnixMicros,
        dice: u64,
    ) -> Option<Drawn> {
        let decided: Vec<(&Judge, &Sight<PartyId>)> = self
            .0
            .iter()
            // Where answers cannot be kept the log does not tell when they change: a later one proves nothing.
            .filter(|judge| judge.fleeting.is_empty() && !judge.parties.is_empty())
            .filter_map(|judge| match &judge.state {
                State::Compiled(sight) => Some((judge, sight)),
                State::Unknown | State::Asked => None,
            })
            .collect();
        let (judge, sight) = decided.get(place(dice, decided.len())?)?;
        let candidates = sight.candidates(row);
        let dice = dice.rotate_right(16);
        let party = match place(dice.rotate_right(1), candidates.len()) {
            Some(at) if dice & 1 == 0 => *candidates.get(at)?,
            _ => *judge.parties.keys().nth(place(dice.rotate_right(1), judge.parties.len())?)?,
        };
        if judge.is_out_of_date(party) || judge.late.contains_key(&party) {
            return None;
        }
        let is_found = candidates.contains(&party);
        let shown = |now: UnixMicros| {
            let mut seen = Seen::default();
            if is_found {
                sight.judge(party, row, now, &mut seen);
            }
            seen.open.is_empty().then_some(!seen.shown.is_empty())
        };
        let verdict = shown(now)?;
        let away = i64::try_from(CLOCKS_DIFFER.as_micros()).unwrap_or_default();
        for other in [now.0.saturating_sub(away), now.0.saturating_add(away)] {
            if shown(UnixMicros(other)) != Some(verdict) {
                return None;
            }
        }
        let suspects = sight.suspects(party, row, now, verdict);
        Some(Drawn { party, shown: verdict, suspects })
    }
}

/// A place among so many; `None` if there is none.
fn place(dice: u64, of: usize) -> Option<usize> {
    usize::try_from(dice.checked_rem(u64::try_from(of).ok()?)?).ok()
}
