//! Calls that are asked of those alone for whom they can be true.

use rustc_hash::FxHashSet;

use super::{CallKey, Need, PartyName, Sight};
use crate::{cell::Cell, policy::names::CallId};

impl<P: PartyName> Sight<P> {
    /// The same call for another row whose values are `wanted`, for all that it leads to and that were not asked. `None` if
    /// there are none.
    pub fn alike<'a>(
        &self,
        need: &Need<P>,
        row: &impl Fn(usize) -> Cell<'a>,
        is_wanted: impl FnOnce(&CallKey) -> bool,
    ) -> Option<Need<P>> {
        let key = self.call_key(need.call.index(), row).filter(is_wanted)?;
        let index = self.calls.get(need.call.index())?;
        let (since, parties): (Vec<u64>, Vec<P>) = index.unasked(&key).unzip();
        let (call, generation) = (need.call, index.generation());
        let is_any = !parties.is_empty();
        is_any.then_some(Need { call, key, parties, since, upto: self.next, generation })
    }

    /// Those of a need's parties who have to be asked, by what the bounds of the call were answered: the place of a bound,
    /// and whom a row names. Their answers are the answers for all of the need, if the one that is told has `false`: one of
    /// those for whom no bound holds, and who is `fit` to be asked. `None`: all have to be asked.
    pub fn narrowed(
        &self,
        need: &Need<P>,
        rows: &[(usize, String)],
        is_fit: impl Fn(P) -> bool,
    ) -> Option<(Need<P>, P)> {
        let named = self.named(need.call, rows)?;
        let index = self.calls.get(need.call.index())?;
        let mut witness = None;
        let (mut parties, mut since) = (Vec::new(), Vec::new());
        for (party, of_party) in need.parties.iter().copied().zip(need.since.iter().copied()) {
            let is_certain = !named.contains(&party) && index.leads(of_party, party);
            let testifies = is_certain && witness.is_none() && is_fit(party);
            if testifies {
                witness = Some(party);
            }
            if testifies || !is_certain {
                parties.push(party);
                since.push(of_party);
            }
        }
        let key = need.key.clone();
        let (call, upto, generation) = (need.call, need.upto, need.generation);
        Some((Need { call, key, parties, since, upto, generation }, witness?))
    }

    /// The parties for which a call can be true. `None`: it may be anybody.
    fn named(&self, call: CallId, rows: &[(usize, String)]) -> Option<FxHashSet<P>> {
        let bounds = &self.policy.calls.get(call.index())?.bounds;
        if bounds.is_empty() { None } else { self.whose.named(bounds, rows) }
    }
}
