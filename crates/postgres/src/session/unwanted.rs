//! What a node that follows does not get, because it has said that it does not want it.

use realtime_pgoutput::Oid;
use rustc_hash::FxHashSet;

/// What a node has said.
#[derive(Debug, Default)]
pub(crate) struct Unwanted {
    /// What counts.
    granted: Words,
    /// What was said last, if it does not count yet.
    asked: Option<Words>,
}

#[derive(Debug, Default)]
struct Words {
    wanted: FxHashSet<Oid>,
    unwanted: FxHashSet<Oid>,
}

impl Unwanted {
    /// Whether rows of a relation may be left out.
    pub(crate) fn leaves_out(&self, relation: Oid) -> bool {
        let mut all = std::iter::once(&self.granted).chain(&self.asked);
        all.any(|words| words.unwanted.contains(&relation))
    }

    /// Whether this is what was said last.
    pub(crate) fn is(&self, wanted: &FxHashSet<Oid>, unwanted: &FxHashSet<Oid>) -> bool {
        let last = self.asked.as_ref().unwrap_or(&self.granted);
        last.wanted == *wanted && last.unwanted == *unwanted
    }

    /// Whether what was said does not count yet.
    pub(super) const fn waits(&self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn ask(&mut self, wanted: FxHashSet<Oid>, unwanted: FxHashSet<Oid>) {
        self.asked = Some(Words { wanted, unwanted });
    }

    /// What was said last counts.
    pub(super) fn granted(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.granted = asked;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_for_certain_when_both_know() {
        let set = |oids: &[Oid]| oids.iter().copied().collect::<FxHashSet<Oid>>();
        let mut unwanted = Unwanted::default();
        assert!(!unwanted.leaves_out(1) && unwanted.is(&set(&[]), &set(&[])));
        unwanted.ask(set(&[2]), set(&[1]));
        assert!(unwanted.leaves_out(1), "from somewhere on");
        assert!(unwanted.waits() && unwanted.is(&set(&[2]), &set(&[1])));
        unwanted.granted();
        assert!(!unwanted.waits() && unwanted.leaves_out(1));
        unwanted.ask(set(&[1, 2]), set(&[]));
        assert!(unwanted.leaves_out(1), "up to somewhere");
        unwanted.granted();
        assert!(!unwanted.leaves_out(1));
    }
}
