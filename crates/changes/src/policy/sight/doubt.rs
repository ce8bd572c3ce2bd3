//! Which policies may be why a verdict is wrong.

use realtime_pgoutput::message::UnixMicros;

use super::{
    super::atom::{Atom, Judged},
    PartyName, Sight,
};
use crate::{cell::Cell, truth::Truth};

impl<P: PartyName> Sight<P> {
    /// The policies, by their places, that say of a row what was said of it as a whole: that a party sees it, or not. If
    /// that is wrong, it is one of them. None if the policies say nothing of the kind: then the index led astray.
    pub fn suspects<'a>(
        &self,
        party: P,
        row: &impl Fn(usize) -> Cell<'a>,
        now: UnixMicros,
        shown: bool,
    ) -> Vec<usize> {
        let Some(held) = self.parties.get(&party) else { return Vec::new() };
        let with = Judged { values: &held.values, now };
        let mut call = |id: super::CallId| {
            let key = self.call_key(id.index(), row);
            let known = key.and_then(|key| self.calls.get(id.index())?.known(&key, party, held.since));
            known.unwrap_or(Truth::OPEN)
        };
        let mut says = |part: &crate::tree::Tree<Atom>| {
            part.judge(&mut |atom: &Atom| atom.judge(row, &with, &mut call)).holds()
        };
        let parts = self.policy.parts.iter().enumerate();
        parts.filter(|(_, part)| says(part) == shown).map(|(at, _)| at).collect()
    }
}
