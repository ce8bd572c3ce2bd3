//! Limits failures by address. Pure; time is given.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use realtime_channels::{address::network, budget::Spent};
use tokio::time::Instant;

/// Addresses that are remembered. If there are more, those with the fewest failures are forgotten.
const MAX_PEERS: usize = 4096;

/// Recent failures by address.
#[derive(Debug)]
pub struct Throttle {
    /// Failures that may come in a row.
    failures: u32,
    /// Time after which one failure is forgotten.
    forgotten: Duration,
    /// What addresses have used of their failures.
    failed: Mutex<HashMap<IpAddr, Spent>>,
}

impl Throttle {
    /// Allows so many failures in a row. One of them is forgotten each time `forgotten` has passed.
    #[must_use]
    pub fn new(failures: u32, forgotten: Duration) -> Self {
        Self { failures, forgotten, failed: Mutex::default() }
    }

    /// Counts a failure. False if there were too many; being refused for that is not counted.
    pub fn fail(&self, peer: IpAddr, now: Instant) -> bool {
        self.attempt(peer, now, || None::<()>).is_ok()
    }

    /// Lets somebody try, unless too many attempts from their address have failed. Attempts from one address run one
    /// after the other, so that each knows the outcome of those before it.
    ///
    /// # Errors
    /// How long they have to wait.
    pub fn attempt<T>(
        &self,
        peer: IpAddr,
        now: Instant,
        login: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, Duration> {
        let key = network(peer);
        let mut peers = self.failed.lock();
        let mut failed = peers.get(&key).copied().unwrap_or_default();
        let (cost, all) = (self.forgotten, self.forgotten * self.failures);
        if !failed.allows(cost, all, now) {
            return Err(failed.wait(cost, all, now));
        }
        let admitted = login();
        if admitted.is_none() {
            make_room(&mut peers, now);
            failed.spend(cost, now);
            peers.insert(key, failed);
        }
        Ok(admitted)
    }
}

fn make_room(peers: &mut HashMap<IpAddr, Spent>, now: Instant) {
    if peers.len() < MAX_PEERS {
        return;
    }
    peers.retain(|_, failed| !failed.owed(now).is_zero());
    if peers.len() >= MAX_PEERS
        && let Some(peer) = peers.iter().min_by_key(|(_, failed)| failed.owed(now)).map(|(peer, _)| *peer)
    {
        peers.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const FORGOTTEN: Duration = Duration::from_secs(6);

    fn throttle() -> Throttle {
        Throttle::new(10, FORGOTTEN)
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn fails(throttle: &Throttle, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        throttle.attempt(peer, now, || None::<()>).map(|admitted| assert_eq!(admitted, None))
    }

    #[test]
    fn ten_failures_bar_even_the_right_word_for_a_while() {
        let (throttle, start) = (throttle(), Instant::now());
        for _ in 0..10 {
            assert_eq!(fails(&throttle, PEER, start), Ok(()));
        }
        assert_eq!(fails(&throttle, PEER, start), Err(FORGOTTEN));
        assert_eq!(throttle.attempt(PEER, start, || Some(())), Err(FORGOTTEN));
        let later = start + Duration::from_secs(2);
        assert_eq!(fails(&throttle, PEER, later), Err(Duration::from_secs(4)));
        // Others are not concerned.
        assert_eq!(fails(&throttle, "192.0.2.1".parse().unwrap(), later), Ok(()));
        // Being turned away is no failure; one more try is free every six seconds.
        let later = start + FORGOTTEN;
        assert_eq!(throttle.attempt(PEER, later, || Some(())), Ok(Some(())));
        assert_eq!(fails(&throttle, PEER, later), Ok(()));
        assert_eq!(fails(&throttle, PEER, later), Err(FORGOTTEN));
        let much_later = start + Duration::from_secs(600);
        for _ in 0..10 {
            assert_eq!(fails(&throttle, PEER, much_later), Ok(()));
        }
        assert!(fails(&throttle, PEER, much_later).is_err());
    }

    #[test]
    fn a_network_counts_as_one() {
        let (throttle, now) = (throttle(), Instant::now());
        for n in 0..10_u128 {
            let peer = Ipv6Addr::from_bits((0x2001_0db8 << 96) | n);
            assert_eq!(fails(&throttle, peer.into(), now), Ok(()));
        }
        assert!(fails(&throttle, "2001:db8::ffff".parse().unwrap(), now).is_err());
        assert!(fails(&throttle, "2001:db8:0:1::1".parse().unwrap(), now).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_who_failed_most_stays() {
        let (throttle, now) = (throttle(), Instant::now());
        for _ in 0..10 {
            assert_eq!(fails(&throttle, PEER, now), Ok(()));
        }
        for n in 0..10_000_u32 {
            let peer = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n);
            assert_eq!(fails(&throttle, peer.into(), now), Ok(()));
        }
        assert_eq!(throttle.failed.lock().len(), MAX_PEERS);
        assert!(fails(&throttle, PEER, now).is_err());
    }
}
