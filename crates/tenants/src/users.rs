//! How many users a tenant has.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Counts a tenant's users: sockets from their first successful join until they end (protocol 9.2).
#[derive(Debug, Default)]
pub struct Users(AtomicU32);

impl Users {
    /// Users right now.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more user, unless there are `max` already. Never more than `max`, however many ask at once.
    #[must_use]
    pub fn enter(self: &Arc<Self>, max: u32) -> Option<UserSlot> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
            .ok()
            .map(|_| UserSlot(Arc::clone(self)))
    }
}

/// A counted user; dropping it frees the place.
#[derive(Debug)]
pub struct UserSlot(Arc<Users>);

impl Drop for UserSlot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
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
        assert_eq!(users.count(), 0);
        assert!(users.enter(0).is_none());
    }
}
