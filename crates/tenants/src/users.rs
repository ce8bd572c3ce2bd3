//! How many users a tenant has.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Counts a tenant's users: sockets from their first successful join until they end (protocol 9.2).
#[derive(Debug, Default)]
pub struct Users {
    here: AtomicU32,
    /// The most that there were here since it was asked.
    most: AtomicU32,
    /// On other nodes, as they said last.
    elsewhere: AtomicU32,
}

impl Users {
    /// Users on this node right now.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.here.load(Ordering::Relaxed)
    }

    /// The most users that were on this node at once since it was asked last.
    #[must_use]
    pub fn take_most(&self) -> u32 {
        let here = self.count();
        self.most.swap(here, Ordering::Relaxed).max(here)
    }

    /// Users on all nodes: on others as they said last, a second or two ago.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.count().saturating_add(self.elsewhere.load(Ordering::Relaxed))
    }

    /// Takes the number of users on other nodes.
    pub fn set_elsewhere(&self, users: u32) {
        self.elsewhere.store(users, Ordering::Relaxed);
    }

    /// Counts one more user, unless there are `max` already. On one node never more than `max`, however many ask at
    /// once; several nodes may each let in what came within the second or two that they take to tell each other.
    #[must_use]
    pub fn enter(self: &Arc<Self>, max: u32) -> Option<UserSlot> {
        let max = max.saturating_sub(self.elsewhere.load(Ordering::Relaxed));
        let one_more = |count| (count < max).then_some(count + 1);
        let before = self.here.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        self.most.fetch_max(before + 1, Ordering::Relaxed);
        Some(UserSlot(Arc::clone(self)))
    }
}

/// A counted user; dropping it frees the place.
#[derive(Debug)]
pub struct UserSlot(Arc<Users>);

impl Drop for UserSlot {
    fn drop(&mut self) {
        self.0.here.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_freed() {
        let users = Arc::new(Users::default());
        let first = users.enter(1);
        assert!(first.is_some());
        assert!(users.enter(1).is_none());
        assert!(users.enter(2).is_some());
        drop(first);
        assert_eq!((users.count(), users.take_most()), (0, 2));
        assert_eq!(users.take_most(), 0);
        assert!(users.enter(0).is_none());
        users.set_elsewhere(2);
        assert_eq!((users.count(), users.total()), (0, 2));
        assert!(users.enter(2).is_none() && users.enter(3).is_some());
    }
}
