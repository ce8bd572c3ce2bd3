//! How often things happen that are limited per second, on all nodes together (pure).
//!
//! Each node tells the others its own rates of a tenant that has users there, as far as they have changed by more than
//! others may be mistaken about. So steady traffic costs nothing, and rates far below the limit neither.

/// The limits of a tenant per second: joins, events, presence events, row changes, requests.
pub const METERS: usize = 5;

/// What all nodes together may be mistaken about, as a part of the limit: a twenty-fifth, well within the tenth that is
/// promised.
const TOLERANCE: u64 = 25;

/// How often something happens on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// The average per second, as it is compared with the limit, in thousandths.
    pub average: u64,
    /// How many there were in the last whole second.
    pub recent: u32,
}

/// How often each of what is limited happens on a node.
pub type Rates = [Rate; METERS];

/// How often something happens on the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Elsewhere {
    /// On all of them.
    pub rate: Rate,
    /// On how many of them it happens.
    pub nodes: u32,
}

/// Adds up what other nodes have told.
#[must_use]
pub fn elsewhere<'a>(nodes: impl Iterator<Item = &'a Rates>) -> [Elsewhere; METERS] {
    let mut sums = [Elsewhere::default(); METERS];
    for rates in nodes {
        for (sum, rate) in sums.iter_mut().zip(rates) {
            sum.rate.average = sum.rate.average.saturating_add(rate.average);
            sum.rate.recent = sum.rate.recent.saturating_add(rate.recent);
            sum.nodes += u32::from(rate.recent > 0);
        }
    }
    sums
}

/// Whether others have to be told: what they know is too far from what is so. `nodes`: how many nodes have users.
#[must_use]
pub fn has_changed(told: &Rates, now: &Rates, limits: &[u32; METERS], nodes: usize) -> bool {
    let nodes = u64::try_from(nodes.max(1)).unwrap_or(u64::MAX);
    told.iter().zip(now).zip(limits).any(|((told, now), limit)| {
        let bound = u64::from(*limit).saturating_mul(1000) / TOLERANCE / nodes;
        let is_far = |a: u64, b: u64| a.abs_diff(b) > bound;
        is_far(told.average, now.average)
            || is_far(u64::from(told.recent) * 1000, u64::from(now.recent) * 1000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(average: u64, recent: u32) -> Rates {
        let mut rates = Rates::default();
        rates[1] = Rate { average, recent };
        rates
    }

    #[test]
    fn small_changes_are_not_told() {
        let changed = |told: &Rates, now: &Rates, nodes| has_changed(told, now, &[100; METERS], nodes);
        let none = Rates::default();
        assert!(!changed(&none, &events(2_000, 2), 2), "two of a hundred");
        assert!(changed(&none, &events(2_000, 2), 4), "four nodes may each be mistaken by one");
        assert!(changed(&none, &events(0, 3), 2));
        assert!(changed(&none, &events(2_001, 0), 2));
        assert!(changed(&events(50_000, 50), &none, 2), "as well when it ends");
        assert!(!has_changed(&none, &none, &[0; METERS], 3));
        assert!(has_changed(&none, &events(0, 1), &[0; METERS], 3));
    }

    #[test]
    fn nodes_where_nothing_happens_do_not_share() {
        let [_, events, ..] = elsewhere([events(1_500, 3), events(500, 0), events(0, 4)].iter());
        assert_eq!(events, Elsewhere { rate: Rate { average: 2_000, recent: 7 }, nodes: 2 });
    }
}
