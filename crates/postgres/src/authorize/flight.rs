//! Questions that several ask at once are put once.
//!
//! A question is shared by all who ask it before it is put. Who asks while it is being answered gets a new
//! one: an answer never dates from before its question, so whoever asks after a policy has changed sees that.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// The questions that wait to be put, each with the place where its answer will be.
pub(super) struct Flights<K, V> {
    waiting: Mutex<HashMap<K, Waiting<V>>>,
}

/// A question that waits to be put.
struct Waiting<V> {
    answer: Arc<OnceCell<V>>,
    /// How many wait for it. Counted under the table's lock: of several that leave at once one is the last.
    seats: usize,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

/// A place on a flight. Leaving the last place cancels the flight.
pub(super) struct Seat<'a, K: Hash + Eq, V> {
    flights: &'a Flights<K, V>,
    key: K,
    answer: Arc<OnceCell<V>>,
}

impl<K: Hash + Eq + Clone, V: Clone> Flights<K, V> {
    /// Number of questions that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// The answer to a question. `put` is run by one of those who share it, or by another if that one is
    /// cancelled; it calls [`Seat::depart`] when the question is put.
    ///
    /// Cancel safe: the question is put for the others.
    pub(super) async fn ask(&self, key: &K, put: impl AsyncFnOnce(&Seat<'_, K, V>) -> V) -> V {
        let seat = self.seat(key);
        let run = async || {
            // Those who are about to ask the same get in.
            tokio::task::yield_now().await;
            put(&seat).await
        };
        seat.answer.get_or_init(run).await.clone()
    }

    fn seat(&self, key: &K) -> Seat<'_, K, V> {
        let mut table = self.waiting.lock();
        let waiting =
            table.entry(key.clone()).or_insert_with(|| Waiting { answer: Arc::default(), seats: 0 });
        waiting.seats += 1;
        Seat { flights: self, key: key.clone(), answer: Arc::clone(&waiting.answer) }
    }
}

impl<K: Hash + Eq, V> Seat<'_, K, V> {
    /// From now on nobody else gets in.
    pub(super) fn depart(&self) {
        let mut table = self.flights.waiting.lock();
        if table.get(&self.key).is_some_and(|waiting| Arc::ptr_eq(&waiting.answer, &self.answer)) {
            table.remove(&self.key);
        }
    }
}

impl<K: Hash + Eq, V> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        let mut table = self.flights.waiting.lock();
        let Some(waiting) = table.get_mut(&self.key) else { return };
        // One that was put is not in the table any more; another of the same key may be.
        if Arc::ptr_eq(&waiting.answer, &self.answer) {
            waiting.seats -= 1;
            if waiting.seats == 0 {
                table.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::{sync::Notify, time::timeout};

    use super::*;

    #[tokio::test]
    async fn those_who_ask_at_once_share() {
        let flights = Flights::default();
        let put = AtomicU32::new(0);
        let ask = |key: u32| {
            let (flights, put) = (&flights, &put);
            async move {
                flights
                    .ask(&key, async |seat: &Seat<'_, _, _>| {
                        seat.depart();
                        put.fetch_add(1, Ordering::Relaxed)
                    })
                    .await
            }
        };
        let answers = futures_util::future::join_all([1, 2, 1, 1, 2].map(ask)).await;
        assert_eq!(put.load(Ordering::Relaxed), 2);
        assert_eq!((answers[0], answers[1]), (answers[2], answers[4]));
        assert_eq!(ask(1).await, 2, "answered questions are put anew");
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn who_asks_after_the_departure_gets_a_later_answer() {
        let (flights, departed, answer) = (Flights::default(), Notify::new(), Notify::new());
        let first = flights.ask(&1, async |seat: &Seat<'_, _, _>| {
            seat.depart();
            departed.notify_one();
            answer.notified().await;
            "early"
        });
        let second = async {
            departed.notified().await;
            let late = flights.ask(&1, async |_: &Seat<'_, _, _>| "late").await;
            answer.notify_one();
            late
        };
        assert_eq!(tokio::join!(first, second), ("early", "late"));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_cancelled_asker_harms_nobody() {
        let flights = Flights::default();
        let never = flights.ask(&1, async |_: &Seat<'_, _, _>| std::future::pending().await);
        let first = timeout(Duration::from_millis(20), never);
        let second = flights.ask(&1, async |_: &Seat<'_, _, _>| 7);
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err());
        assert_eq!(second, 7);
        assert_eq!(flights.len(), 0, "nothing is left behind");
    }

    /// Those who wait may go at the same moment, as when the sockets of a node that is cut off end.
    #[test]
    fn nothing_is_left_when_all_go_at_once() {
        const GOING: usize = 4;
        let flights = Flights::<u32, u32>::default();
        for _ in 0..2_000 {
            let together = std::sync::Barrier::new(GOING);
            std::thread::scope(|scope| {
                for _ in 0..GOING {
                    scope.spawn(|| {
                        let seat = flights.seat(&1);
                        together.wait();
                        drop(seat);
                    });
                }
            });
            assert_eq!(flights.len(), 0);
        }
    }
}
