//! Results that wait for tables which only policies read, and which have to be published for the server alone: a policy, or a
//! function that it calls, was replaced while they were live.

use realtime_pgoutput::Oid;

use super::Live;

impl Live {
    /// The tables that results wait for.
    pub(in crate::worker::state) fn lacks(&self) -> Vec<Oid> {
        self.lacking.iter().flat_map(|(_, tables)| tables.iter().map(|(oid, _)| *oid)).collect()
    }

    /// Tables were published where that could be done: results are read, or lose their rows.
    pub(in crate::worker::state) fn were_published(&mut self, has: impl Fn(Oid) -> bool) {
        for (result, tables) in std::mem::take(&mut self.lacking) {
            match tables.iter().find(|(oid, _)| !has(*oid)) {
                Some((_, refusal)) => {
                    self.lose(result, refusal);
                    self.schedule(result);
                }
                None => {
                    if let Some(kept) = self.results.get_mut(&result) {
                        kept.is_doubted = true;
                    }
                    self.read_again(result);
                    self.schedule(result);
                }
            }
        }
    }
}
