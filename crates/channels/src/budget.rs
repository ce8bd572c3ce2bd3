//! What may be spent, and comes back with time. Pure; time is given.
//!
//! A budget is kept as one moment: the one at which all of it has come back. The cost of a unit is the time that it
//! takes to come back. The size of a budget is the time in which all of it comes back. So a budget allows some units
//! at once, and then one unit after each cost.

use std::time::Duration;

use tokio::time::Instant;

/// What somebody has spent of a budget.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// When all of it has come back. `None`: nothing was ever spent.
    until: Option<Instant>,
}

impl Spent {
    /// What was spent and has not come back yet.
    #[must_use]
    pub fn owed(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Whether a unit may be spent of a budget of this size.
    #[must_use]
    pub fn allows(&self, cost: Duration, budget: Duration, now: Instant) -> bool {
        self.owed(now) + cost <= budget
    }

    /// The moment from which on a unit may be spent, which may have passed. `None`: nothing was ever spent.
    #[must_use]
    pub fn free_at(&self, cost: Duration, budget: Duration) -> Option<Instant> {
        (self.until? + cost).checked_sub(budget)
    }

    /// How long it takes until a unit may be spent.
    #[must_use]
    pub fn wait(&self, cost: Duration, budget: Duration, now: Instant) -> Duration {
        (self.owed(now) + cost).saturating_sub(budget)
    }

    /// Spends a unit, whether or not the budget allows it.
    pub fn spend(&mut self, cost: Duration, now: Instant) {
        self.until = Some(now + self.owed(now) + cost);
    }

    /// Spends a unit if it is allowed.
    pub fn take(&mut self, cost: Duration, budget: Duration, now: Instant) -> bool {
        let allowed = self.allows(cost, budget, now);
        if allowed {
            self.spend(cost, now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_comes_back_after_its_cost() {
        let (start, cost, budget) = (Instant::now(), Duration::from_secs(2), Duration::from_secs(10));
        let mut spent = Spent::default();
        let mut taken = |at: Duration| (0..100).filter(|_| spent.take(cost, budget, start + at)).count();
        assert_eq!(taken(Duration::ZERO), 5);
        assert_eq!(taken(Duration::from_secs(1)), 0);
        assert_eq!(taken(Duration::from_secs(2)), 1);
        assert_eq!(taken(Duration::from_secs(9)), 3);
        assert_eq!(taken(Duration::from_secs(1000)), 5);
        let now = start + Duration::from_secs(1000);
        assert_eq!(spent.wait(cost, budget, now), cost);
        assert_eq!(spent.wait(cost, budget, now + cost), Duration::ZERO);
        spent.spend(budget, now);
        assert_eq!(spent.owed(now), 2 * budget, "what is not asked for is owed all the same");
    }
}
