//! The rooms about which other nodes are being asked: each question once for all who ask it at once, and so many at a time
//! that no tenant holds up the others.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use realtime_flights::{Flights, Seat};
use realtime_hub::RoomKey;
use tokio::sync::Semaphore;

/// Rooms that are asked about at once: other nodes answer only so many questions.
const AT_ONCE: usize = 8;

/// Those of them that are of one tenant: its clients choose about how many rooms they ask. Most of them, since mostly only one
/// tenant asks about many, when all of its clients come back at once; two are left for the others.
const OF_A_TENANT: usize = AT_ONCE - 2;

/// The rooms that are being asked about.
#[derive(Debug)]
pub(crate) struct Asking {
    /// A room is asked about for all who ask before its turn comes.
    flights: Flights<RoomKey, Option<u64>>,
    /// One question about a room at a time.
    rooms: Table<RoomKey, Semaphore>,
    tenants: Table<Arc<str>, Semaphore>,
    permits: Semaphore,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            flights: Flights::default(),
            rooms: Table::default(),
            tenants: Table::default(),
            permits: Semaphore::new(AT_ONCE),
        }
    }
}

impl Asking {
    /// Has a question about a room put when it is its turn, and shares the answer. Cancel safe: it is put for the others.
    pub(crate) async fn ask(&self, room: &RoomKey, put: impl Future<Output = Option<u64>>) -> Option<u64> {
        let ask = async move |seat: &Seat<'_, RoomKey, Option<u64>>| {
            let line = self.rooms.entry(room, || Semaphore::new(1));
            let tenant = self.tenants.entry(&room.tenant, || Semaphore::new(OF_A_TENANT));
            let _turn = line.value.acquire().await.ok()?;
            let _of_tenant = tenant.value.acquire().await.ok()?;
            let _permit = self.permits.acquire().await.ok()?;
            seat.depart();
            put.await
        };
        self.flights.ask(room, ask).await
    }
}

/// Things that are there as long as somebody uses them.
#[derive(Debug)]
struct Table<K, V>(Mutex<HashMap<K, Used<V>>>);

#[derive(Debug)]
struct Used<V> {
    value: Arc<V>,
    /// How many use it. Counted under the table's lock: of several who leave at once one is the last.
    by: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    fn entry(&self, key: &K, new: impl FnOnce() -> V) -> Entry<'_, K, V> {
        let mut table = self.0.lock();
        let used = table.entry(key.clone()).or_insert_with(|| Used { value: Arc::new(new()), by: 0 });
        used.by += 1;
        Entry { table: self, key: key.clone(), value: Arc::clone(&used.value) }
    }
}

/// Somebody who uses one.
struct Entry<'a, K: Hash + Eq, V> {
    table: &'a Table<K, V>,
    key: K,
    value: Arc<V>,
}

impl<K: Hash + Eq, V> Drop for Entry<'_, K, V> {
    fn drop(&mut self) {
        let mut table = self.table.0.lock();
        let Some(used) = table.get_mut(&self.key) else { return };
        used.by -= 1;
        if used.by == 0 {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;
    use realtime_hub::Audience;
    use tokio::{sync::Notify, time};

    use super::*;

    fn room(tenant: &str, topic: &str) -> RoomKey {
        RoomKey { tenant: tenant.into(), audience: Audience::Public, topic: topic.into() }
    }

    /// Nobody gets an answer from before the question, and however many ask, two are put.
    #[tokio::test]
    async fn requests_for_a_room_share_the_next_answer() {
        let (asking, put, gate) = (Asking::default(), AtomicU64::new(0), Notify::new());
        let key = room("t", "a");
        let ask = || {
            asking.ask(&key, async {
                let number = put.fetch_add(1, Ordering::Relaxed) + 1;
                gate.notified().await;
                Some(number)
            })
        };
        let first = ask();
        let others = async {
            while put.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            let asked = join_all((0..100).map(|_| ask()));
            let open = async {
                gate.notify_one();
                while put.load(Ordering::Relaxed) == 1 {
                    tokio::task::yield_now().await;
                }
                gate.notify_one();
            };
            tokio::join!(asked, open).0
        };
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first, Some(1));
        assert_eq!(others, vec![Some(2); 100]);
        assert!(asking.rooms.0.lock().is_empty() && asking.tenants.0.lock().is_empty());
    }

    /// Those who wait may go at the same moment, as when the sockets of a node end.
    #[test]
    fn nothing_is_left_when_all_go_at_once() {
        const GOING: usize = 4;
        let table = Table::<u32, u32>::default();
        for _ in 0..2_000 {
            let together = std::sync::Barrier::new(GOING);
            std::thread::scope(|scope| {
                for _ in 0..GOING {
                    scope.spawn(|| {
                        let entry = table.entry(&1, || 7);
                        together.wait();
                        drop(entry);
                    });
                }
            });
            assert!(table.0.lock().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_asks_about_many_rooms_holds_up_no_other() {
        let asking = Asking::default();
        let never = (0..100).map(|n| {
            let (key, asking) = (room("many", &n.to_string()), &asking);
            async move { asking.ask(&key, std::future::pending()).await }
        });
        let never = time::timeout(time::Duration::from_secs(1), join_all(never));
        let other = async {
            tokio::task::yield_now().await;
            let mut answers = Vec::new();
            for n in 0..10 {
                answers.push(asking.ask(&room("few", &n.to_string()), async { Some(n) }).await);
            }
            answers
        };
        let (never, other) = tokio::join!(never, time::timeout(time::Duration::from_millis(500), other));
        assert!(never.is_err());
        assert_eq!(other.unwrap(), (0..10).map(Some).collect::<Vec<_>>());
        assert!(asking.rooms.0.lock().is_empty() && asking.tenants.0.lock().is_empty());
    }
}
