//! How long the log waits for receivers that have fallen behind.
//!
//! A large transaction is read faster than clients take it. The log waits for a receiver that keeps reading, so that a
//! burst does not close it. But a slow receiver must harm only itself (delivery 10):
//!
//! - A receiver that takes less than [`RATE`] spends the patience of its address: [`PATIENCE`] in all, which comes
//!   back at one part in [`REGAIN`]. Other sockets, other channels and reconnects of that address share it.
//! - For all receivers together the log waits [`SHARE`] of the time, after a reserve that one burst may use up.
//!
//! Beyond that nobody is waited for: the outbox fills up, and the socket is closed with 1013.

use std::{collections::HashMap, net::IpAddr, pin::Pin, sync::Arc};

use parking_lot::Mutex;
use realtime_hub::Outbox;
use tokio::time::{self, Duration, Instant};

use crate::{address::network, budget::Spent};

/// How long the log waits for the sockets of an address that read too slowly.
const PATIENCE: Duration = Duration::from_millis(250);

/// Patience comes back at one part of the time in so many. So one address can cost half a per cent of the time at
/// most.
const REGAIN: u32 = 200;

/// Bytes per second at which a receiver reads fast enough. Waiting for it spends no patience.
const RATE: u64 = 4_000_000;

/// The log waits for all receivers together for one part of the time in so many: 200 milliseconds per second.
const SHARE: u32 = 5;

/// Longest wait of a stream that has not waited for a while. A burst of some tens of megabytes needs it.
const RESERVE: Duration = Duration::from_secs(2);

/// Pause between two looks at receivers that have fallen behind.
const LOOK: Duration = Duration::from_millis(2);

/// Addresses whose patience is remembered before those with full patience are removed.
const ADDRESSES: usize = 1_024;

/// Time of waiting that may be spent, and comes back at one part of the time in `regain`.
#[derive(Debug)]
struct Waits {
    /// A wait that took longer than planned counts in full.
    spent: Spent,
    most: Duration,
    regain: u32,
}

impl Waits {
    fn new(most: Duration, regain: u32) -> Self {
        Self { spent: Spent::default(), most, regain }
    }

    /// Whether enough is left for one more look.
    fn is_left(&self) -> bool {
        self.spent.allows(LOOK * self.regain, self.most * self.regain, Instant::now())
    }

    fn spend(&mut self, time: Duration) {
        self.spent.spend(time * self.regain, Instant::now());
    }

    /// Whether some of what was spent has not come back yet.
    fn owes(&self) -> bool {
        !self.spent.owed(Instant::now()).is_zero()
    }
}

/// How long the log still waits for the sockets of an address.
#[derive(Debug)]
pub struct Patience(Mutex<Waits>);

impl Default for Patience {
    fn default() -> Self {
        Self(Mutex::new(Waits::new(PATIENCE, REGAIN)))
    }
}

impl Patience {
    fn is_left(&self) -> bool {
        self.0.lock().is_left()
    }

    /// Spends a wait of this length, during which the receivers took so many bytes.
    fn spend(&self, time: Duration, taken: u64) {
        let worth = Duration::from_micros(taken.saturating_mul(1_000_000) / RATE);
        self.0.lock().spend(time.saturating_sub(worth));
    }
}

/// The patience of all addresses.
#[derive(Debug, Default)]
pub struct Patiences(Mutex<HashMap<IpAddr, Arc<Patience>>>);

impl Patiences {
    /// The patience of an address. All addresses of an IPv6 network share one. A client without an address has its
    /// own.
    #[must_use]
    pub fn of(&self, address: Option<IpAddr>) -> Arc<Patience> {
        let Some(address) = address else { return Arc::default() };
        let mut known = self.0.lock();
        if known.len() >= ADDRESSES && known.len() == known.capacity() {
            let owes = |patience: &Patience| patience.0.lock().owes();
            known.retain(|_, patience| Arc::strong_count(patience) > 1 || owes(patience));
        }
        Arc::clone(known.entry(network(address)).or_default())
    }
}

/// Receivers whose outboxes are more than half full, and how long a stream waits for them.
#[derive(Debug)]
pub struct Behind {
    waiting: Mutex<HashMap<usize, Receiver>>,
    share: Mutex<Waits>,
}

#[derive(Debug)]
struct Receiver {
    outbox: Arc<Outbox>,
    patience: Arc<Patience>,
    /// Bytes that the receiver had taken when it was last looked at.
    taken: u64,
}

impl Default for Behind {
    fn default() -> Self {
        Self { waiting: Mutex::default(), share: Mutex::new(Waits::new(RESERVE, SHARE)) }
    }
}

impl Behind {
    /// Adds a receiver, unless it is there already.
    pub fn add(&self, outbox: &Arc<Outbox>, patience: &Arc<Patience>) {
        self.waiting.lock().entry(Arc::as_ptr(outbox).addr()).or_insert_with(|| Receiver {
            outbox: Arc::clone(outbox),
            patience: Arc::clone(patience),
            taken: outbox.bytes_written(),
        });
    }

    /// A wait for the receivers, if there are any, as long as their patience allows.
    pub fn relieve(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        if self.waiting.lock().is_empty() {
            return None;
        }
        Some(Box::pin(async {
            let mut receivers: Vec<_> = std::mem::take(&mut *self.waiting.lock()).into_values().collect();
            loop {
                receivers.retain(|receiver| !receiver.outbox.has_room() && receiver.patience.is_left());
                if receivers.is_empty() || !self.share.lock().is_left() {
                    return;
                }
                let before = Instant::now();
                time::sleep(LOOK).await;
                let waited = before.elapsed();
                self.share.lock().spend(waited);
                spend(&mut receivers, waited);
            }
        }))
    }
}

/// Takes a wait out of the patience of each address once, however many of its sockets are behind.
fn spend(receivers: &mut [Receiver], waited: Duration) {
    let mut addresses: HashMap<usize, (Arc<Patience>, u64)> = HashMap::new();
    for receiver in receivers {
        let taken = receiver.outbox.bytes_written();
        let since = taken.saturating_sub(std::mem::replace(&mut receiver.taken, taken));
        let address = addresses.entry(Arc::as_ptr(&receiver.patience).addr());
        address.or_insert_with(|| (Arc::clone(&receiver.patience), 0)).1 += since;
    }
    for (patience, taken) in addresses.into_values() {
        patience.spend(waited, taken);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::*;

    const FULL: usize = 1_000_000;

    fn full() -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(FULL));
        outbox.push(vec![b'x'; FULL].into()).unwrap();
        outbox
    }

    /// How long a stream waits for these.
    async fn waited(behind: &Behind, receivers: &[(Arc<Outbox>, Arc<Patience>)]) -> Duration {
        let before = Instant::now();
        for (outbox, patience) in receivers {
            behind.add(outbox, patience);
        }
        if let Some(relief) = behind.relieve() {
            relief.await;
        }
        before.elapsed()
    }

    /// Whatever number of sockets and channels, and however often it connects.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_read_is_waited_for_once() {
        let (behind, patiences) = (Behind::default(), Patiences::default());
        let address = |text: &str| Some(text.parse().unwrap());
        let mut all = Duration::ZERO;
        for host in 0..100 {
            let patience = patiences.of(address(&format!("2001:db8::{host:x}")));
            let sockets: Vec<_> = (0..10).map(|_| (full(), Arc::clone(&patience))).collect();
            all += waited(&behind, &sockets).await;
        }
        assert!((PATIENCE..PATIENCE + 10 * LOOK).contains(&all), "{all:?}");
        time::advance(Duration::from_secs(10)).await;
        let again = waited(&behind, &[(full(), patiences.of(address("2001:db8::1")))]).await;
        assert!(again <= Duration::from_secs(10) / REGAIN + 2 * LOOK, "{again:?}");
        let other = waited(&behind, &[(full(), patiences.of(address("2001:db8:0:1::1")))]).await;
        assert!(other >= PATIENCE, "{other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn all_addresses_together_have_a_share_of_the_time() {
        let behind = Behind::default();
        let (start, mut all) = (Instant::now(), Duration::ZERO);
        while start.elapsed() < Duration::from_secs(60) {
            all += waited(&behind, &[(full(), Arc::default())]).await;
            time::advance(LOOK).await;
        }
        assert!(all <= RESERVE + start.elapsed() / SHARE + PATIENCE, "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_on_is_waited_for() {
        let (behind, outbox, patience) = (Behind::default(), full(), Arc::default());
        behind.add(&outbox, &patience);
        let relief = behind.relieve().unwrap();
        let reading = async {
            let mut frames = VecDeque::new();
            // A little at a time, as a sink would take it; longer than anybody's patience.
            for part in (0..100).rev() {
                time::sleep(Duration::from_millis(4)).await;
                outbox.take(&mut frames);
                if part > 0 {
                    outbox.push(Bytes::from(vec![b'x'; part * 20_000])).unwrap();
                }
            }
        };
        let before = Instant::now();
        let ((), waited) = tokio::join!(reading, async {
            relief.await;
            before.elapsed()
        });
        assert!(waited > PATIENCE, "{waited:?}");
        assert!(patience.is_left() && outbox.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_forgotten_when_they_owe_nothing() {
        let patiences = Patiences::default();
        let of = |n: u32| patiences.of(Some(IpAddr::V4(n.into())));
        of(0).spend(PATIENCE, 0);
        for n in 1..10_000 {
            of(n);
        }
        assert!(patiences.0.lock().len() < 4 * ADDRESSES);
        assert!(!of(0).is_left());
    }
}
