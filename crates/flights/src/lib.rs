//! Questions that several ask at once are put once.
//!
//! A question is shared by all who ask it before it departs. Whoever asks later asks anew: an answer never dates from before
//! its question.

use std::{borrow::Borrow, collections::HashMap, fmt, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// The questions that others may still join.
pub struct Flights<K, V> {
    waiting: Mutex<HashMap<K, Waiting<V>>>,
}

/// A question that others may still join.
struct Waiting<V> {
    answer: Arc<OnceCell<V>>,
    /// How many wait for the answer. Counted under the table's lock: of several who leave at once one is the last.
    seats: usize,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("waiting", &self.waiting.lock().len()).finish()
    }
}

/// A seat on a flight. When the last is left the question is forgotten: questions that nobody waits for take no memory.
pub struct Seat<'a, K: Hash + Eq, V> {
    flights: &'a Flights<K, V>,
    key: K,
    answer: Arc<OnceCell<V>>,
}

impl<K: Hash + Eq + Clone, V: Clone> Flights<K, V> {
    /// Number of questions that others may still join.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether there is no such question.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a question can still be joined.
    pub fn awaits<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.waiting.lock().contains_key(key)
    }

    /// The answer to a question. `put` is run by one of those who share the question, or by another if that one is
    /// cancelled. Others can join until it calls [`Seat::depart`], or until it returns.
    ///
    /// Cancel safe: the question is put for the others.
    pub async fn ask(&self, key: &K, put: impl AsyncFnOnce(&Seat<'_, K, V>) -> V) -> V {
        let seat = self.seat(key);
        let run = async || {
            // Those who are about to ask the same get in.
            tokio::task::yield_now().await;
            let answer = put(&seat).await;
            seat.depart();
            answer
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
    /// From now on nobody else can join.
    pub fn depart(&self) {
        let mut table = self.flights.waiting.lock();
        if table.get(&self.key).is_some_and(|waiting| Arc::ptr_eq(&waiting.answer, &self.answer)) {
            table.remove(&self.key);
        }
    }
}

impl<K: Hash + Eq, V> fmt::Debug for Seat<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

impl<K: Hash + Eq, V> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        let mut table = self.flights.waiting.lock();
        let Some(waiting) = table.get_mut(&self.key) else { return };
        // A question that has departed is not in the table any more; another of the same key may be.
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

    /// A question that never departs can be joined until it is answered.
    #[tokio::test]
    async fn who_asks_after_the_answer_asks_anew() {
        let (flights, asked) = (Flights::<Box<str>, u32>::default(), AtomicU32::new(0));
        let key: Box<str> = "t".into();
        let ask = || flights.ask(&key, async |_: &Seat<'_, _, _>| asked.fetch_add(1, Ordering::Relaxed));
        assert!(!flights.awaits("t"));
        assert_eq!(tokio::join!(ask(), ask()), (0, 0));
        assert_eq!(ask().await, 1);
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn nothing_is_left_when_all_who_wait_go() {
        let flights = Flights::<u32, u32>::default();
        let ask = || flights.ask(&1, async |_: &Seat<'_, _, _>| std::future::pending().await);
        let short = Duration::from_millis(1);
        let (one, other) = tokio::join!(timeout(short, ask()), timeout(2 * short, ask()));
        assert!(one.is_err() && other.is_err());
        assert!(flights.is_empty());
    }
}
