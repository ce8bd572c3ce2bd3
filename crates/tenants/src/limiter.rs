//! How often something may happen (protocol 9.3): counts per tick, averaged over a minute.
//!
//! Pure: time comes in as the time since some fixed moment. Ticks that were due while nobody looked are made
//! up for, so that an idle tenant costs nothing.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

/// What a window counts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Time between two ticks.
    pub tick: Duration,
    /// Counts that are kept, one a tick.
    pub ticks: usize,
}

impl Span {
    /// Of joins, events, presence and row changes: a minute in steps of five seconds.
    pub const EVENTS: Self = Self { tick: Duration::from_secs(5), ticks: 12 };

    /// Of HTTP requests: a minute in steps of one second (http_and_ops 2.2).
    pub const REQUESTS: Self = Self { tick: Duration::from_secs(1), ticks: 60 };
}

/// An idle window forgets what it was after this long, and begins anew.
const FORGET: Duration = Duration::from_secs(300);

/// The counts of the last ticks. Begins with one of zero, as if the first tick came at the start.
#[derive(Debug)]
pub struct Window {
    span: Span,
    counts: VecDeque<u64>,
    sum: u64,
    /// Ticks in a row without a count.
    idle: u32,
}

impl Window {
    /// A window that has seen nothing.
    #[must_use]
    pub fn new(span: Span) -> Self {
        Self { span, counts: VecDeque::from([0]), sum: 0, idle: 0 }
    }

    /// Takes what was counted since the last tick; returns the average per second.
    pub fn tick(&mut self, count: u64) -> f64 {
        self.idle = if count == 0 { self.idle.saturating_add(1) } else { 0 };
        if self.span.tick * self.idle >= FORGET {
            *self = Self { idle: self.idle, ..Self::new(self.span) };
            return 0.0;
        }
        self.counts.push_back(count);
        self.sum += count;
        if self.counts.len() > self.span.ticks {
            self.sum -= self.counts.pop_front().unwrap_or(0);
        }
        self.average()
    }

    /// Counts per second, over the ticks there have been.
    #[must_use]
    pub fn average(&self) -> f64 {
        self.sum as f64 / (self.counts.len() as f64 * self.span.tick.as_secs_f64())
    }
}

/// What other nodes have counted, as they said last.
#[derive(Debug, Default)]
struct Elsewhere {
    /// Bits of an `f64`: their averages together.
    average: AtomicU64,
    /// What they counted in a second, together.
    recent: AtomicU32,
    /// How many of them counted something in it.
    nodes: AtomicU32,
}

/// Counts something and tells whether there is too much of it. Shared by all who count.
///
/// Triggered while the average per second is the limit or more; that changes on ticks only.
#[derive(Debug)]
pub struct Limiter {
    tick_millis: u64,
    limit: AtomicU32,
    /// Counted since the last tick.
    pending: AtomicU64,
    /// Counted ever.
    total: AtomicU64,
    /// When the next tick is due, in milliseconds.
    due: AtomicU64,
    /// Bits of an `f64`: the average as of the last tick.
    average: AtomicU64,
    triggered: AtomicBool,
    /// The second of the last count, and what was counted in it: half of the bits each.
    second: AtomicU64,
    /// The last second before that one in which something was counted, as well.
    second_before: AtomicU64,
    elsewhere: Elsewhere,
    window: Mutex<Window>,
}

impl Limiter {
    /// A limiter that allows fewer than `limit` per second on average.
    #[must_use]
    pub fn new(span: Span, limit: u32, now: Duration) -> Self {
        let tick_millis = millis(span.tick);
        Self {
            tick_millis,
            limit: AtomicU32::new(limit),
            pending: AtomicU64::new(0),
            total: AtomicU64::new(0),
            due: AtomicU64::new(millis(now) + tick_millis),
            average: AtomicU64::new(0f64.to_bits()),
            triggered: AtomicBool::new(false),
            second: AtomicU64::new(0),
            second_before: AtomicU64::new(0),
            elsewhere: Elsewhere::default(),
            window: Mutex::new(Window::new(span)),
        }
    }

    /// Counts `n` more. They weigh from the next tick on.
    pub fn add(&self, n: u64, now: Duration) {
        self.advance(now);
        self.pending.fetch_add(n, Ordering::Relaxed);
        self.total.fetch_add(n, Ordering::Relaxed);
        let second = second_of(now);
        let packed = self.second.load(Ordering::Relaxed);
        if packed >> 32 != second {
            self.second_before.store(packed, Ordering::Relaxed);
        }
        let add = |packed: u64| {
            let so_far = if packed >> 32 == second { packed & COUNT } else { 0 };
            Some(second << 32 | so_far.saturating_add(n).min(COUNT))
        };
        let _ = self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether one more would be too much: both the average and the count of this second have reached the limit. So while
    /// there are too many, as many pass in each second as the limit allows.
    pub fn is_over(&self, now: Duration) -> bool {
        self.is_triggered(now) && {
            let packed = self.second.load(Ordering::Relaxed);
            let so_far = if packed >> 32 == second_of(now) { packed & COUNT } else { 0 };
            so_far >= u64::from(self.share())
        }
    }

    /// How many may pass in a second on this node: what the others leave, at least an equal share.
    fn share(&self) -> u32 {
        let (limit, elsewhere) = (self.limit(), &self.elsewhere);
        let nodes = elsewhere.nodes.load(Ordering::Relaxed).saturating_add(1);
        let left = limit.saturating_sub(elsewhere.recent.load(Ordering::Relaxed));
        left.max(limit / nodes)
    }

    /// Whether the average reached the limit at the last tick, or reaches it together with that of other nodes.
    pub fn is_triggered(&self, now: Duration) -> bool {
        self.advance(now);
        self.triggered.load(Ordering::Relaxed)
            || (self.average_elsewhere() > 0.0 && self.average(now) >= f64::from(self.limit()))
    }

    /// The average per second at the last tick, together with that of other nodes.
    pub fn average(&self, now: Duration) -> f64 {
        self.average_here(now) + self.average_elsewhere()
    }

    /// The average per second of this node at the last tick.
    pub fn average_here(&self, now: Duration) -> f64 {
        self.advance(now);
        f64::from_bits(self.average.load(Ordering::Relaxed))
    }

    fn average_elsewhere(&self) -> f64 {
        f64::from_bits(self.elsewhere.average.load(Ordering::Relaxed))
    }

    /// What was counted in the last whole second.
    pub fn last_second(&self, now: Duration) -> u32 {
        let last = second_of(now).wrapping_sub(1) & COUNT;
        let seconds = [&self.second, &self.second_before].map(|second| second.load(Ordering::Relaxed));
        let found = seconds.into_iter().find(|packed| packed >> 32 == last);
        found.map_or(0, |packed| u32::try_from(packed & COUNT).unwrap_or(u32::MAX))
    }

    /// Takes what other nodes count: their average per second, what they counted in a second, and how many of them did.
    pub fn set_elsewhere(&self, average: f64, recent: u32, nodes: u32) {
        self.elsewhere.average.store(average.to_bits(), Ordering::Relaxed);
        self.elsewhere.recent.store(recent, Ordering::Relaxed);
        self.elsewhere.nodes.store(nodes, Ordering::Relaxed);
    }

    /// Everything ever counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The limit per second.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets another limit and goes on counting; the next tick decides whether it is reached.
    pub fn adjust_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Sets another limit and starts counting from zero; an equal limit changes nothing.
    pub fn set_limit(&self, limit: u32, now: Duration) {
        if self.limit.swap(limit, Ordering::Relaxed) == limit {
            return;
        }
        let mut window = self.window.lock();
        *window = Window::new(window.span);
        self.pending.store(0, Ordering::Relaxed);
        self.due.store(millis(now) + self.tick_millis, Ordering::Relaxed);
        self.average.store(0f64.to_bits(), Ordering::Relaxed);
        self.triggered.store(false, Ordering::Relaxed);
    }

    /// Runs the ticks that are due.
    fn advance(&self, now: Duration) {
        let now = millis(now);
        if now < self.due.load(Ordering::Relaxed) {
            return;
        }
        let mut window = self.window.lock();
        let mut due = self.due.load(Ordering::Relaxed);
        if now < due {
            return;
        }
        let mut average = window.tick(self.pending.swap(0, Ordering::Relaxed));
        due += self.tick_millis;
        // After this many empty ticks a window does not change any more.
        let mut left = millis(FORGET) / self.tick_millis + 1;
        while due <= now && left > 0 {
            average = window.tick(0);
            due += self.tick_millis;
            left -= 1;
        }
        if due <= now {
            due = now + self.tick_millis;
        }
        self.average.store(average.to_bits(), Ordering::Relaxed);
        self.triggered.store(average >= f64::from(self.limit()), Ordering::Relaxed);
        self.due.store(due, Ordering::Relaxed);
    }
}

/// The half of [`Limiter::second`] that counts.
const COUNT: u64 = 0xFFFF_FFFF;

fn second_of(now: Duration) -> u64 {
    now.as_secs() & COUNT
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Calls of one client within a window that begins at the first of them (protocol 5.4).
#[derive(Debug, Clone, Copy, Default)]
pub struct CallWindow {
    began: Option<Duration>,
    calls: u32,
}

impl CallWindow {
    /// Counts a call. False if there have been `max` since the window began.
    pub fn allow(&mut self, now: Duration, max: u32, window: Duration) -> bool {
        match self.began {
            Some(began) if now.saturating_sub(began) <= window => self.calls = self.calls.saturating_add(1),
            _ => *self = Self { began: Some(now), calls: 1 },
        }
        self.calls <= max
    }

    /// When calls are allowed again.
    #[must_use]
    pub fn opens_at(&self, window: Duration) -> Duration {
        self.began.unwrap_or_default() + window + Duration::from_millis(1)
    }
}

/// Counts what one client sends in each second, to notice one that keeps sending far too much.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flood {
    second: u64,
    count: u32,
    /// Seconds in a row before this one with too many.
    seconds: u32,
}

/// Seconds in a row with too many messages after which a client floods.
const FLOOD_SECONDS: u32 = 10;

impl Flood {
    /// Counts one message. True if there were more than `max` in each of the last ten seconds.
    pub fn hear(&mut self, now: Duration, max: u32) -> bool {
        let second = now.as_secs();
        if second != self.second {
            let goes_on = self.count > max && second == self.second + 1;
            *self =
                Self { second, count: 0, seconds: if goes_on { self.seconds.saturating_add(1) } else { 0 } };
        }
        self.count = self.count.saturating_add(1);
        self.seconds >= FLOOD_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limiter(limit: u32) -> Limiter {
        Limiter::new(Span::EVENTS, limit, Duration::ZERO)
    }

    /// protocol 48
    #[test]
    fn a_thousand_in_five_seconds_reach_a_limit_of_a_hundred() {
        let events = limiter(100);
        events.add(1000, Duration::ZERO);
        assert!(!events.is_triggered(Duration::from_millis(4999)), "states change on ticks only");
        // The window holds the zero of its start and the thousand: ten seconds.
        assert!(events.is_triggered(seconds(5)));
        assert!((events.average(seconds(5)) - 100.0).abs() < 1e-9);
        assert!(!events.is_triggered(seconds(10)), "three values: 66.7 a second");
        assert_eq!(events.total(), 1000);
    }

    #[test]
    fn one_less_does_not() {
        let events = limiter(100);
        events.add(999, Duration::ZERO);
        assert!(!events.is_triggered(seconds(5)));
    }

    #[test]
    fn a_limit_of_zero_is_always_reached() {
        assert!(limiter(0).is_triggered(seconds(5)));
    }

    #[test]
    fn twelve_values_are_kept() {
        let events = limiter(10);
        for tick in 0..12 {
            events.add(60, seconds(5 * tick));
        }
        assert!((events.average(seconds(60)) - 12.0).abs() < 1e-9, "the zero of the start fell out");
        assert!(events.is_triggered(seconds(60)));
        assert!((events.average(seconds(90)) - 6.0).abs() < 1e-9, "missed ticks are made up for");
        assert!(!events.is_triggered(seconds(90)));
        assert!(events.average(seconds(100_000)).abs() < 1e-9);
    }

    #[test]
    fn an_idle_window_begins_anew() {
        let events = limiter(100);
        events.add(1, Duration::ZERO);
        let late = seconds(1000);
        events.add(1000, late);
        assert!(events.is_triggered(late + seconds(5)), "two values, not thirteen");
    }

    #[test]
    fn a_new_limit_begins_anew() {
        let events = limiter(100);
        events.add(5000, Duration::ZERO);
        assert!(events.is_triggered(seconds(5)));
        events.set_limit(100, seconds(6));
        assert!(events.is_triggered(seconds(6)), "the same limit: nothing changes");
        events.set_limit(200, seconds(6));
        assert!(!events.is_triggered(seconds(11)));
        assert_eq!(events.limit(), 200);
    }

    #[test]
    fn requests_are_averaged_over_sixty_seconds() {
        let requests = Limiter::new(Span::REQUESTS, 100, Duration::ZERO);
        requests.add(30, Duration::ZERO);
        assert!((requests.average(seconds(1)) - 15.0).abs() < 1e-9);
        assert!((requests.average(seconds(59)) - 0.5).abs() < 1e-9);
        assert!(requests.average(seconds(61)).abs() < 1e-9);
    }

    /// spec README, decision 23
    #[test]
    fn over_the_limit_as_many_pass_as_it_allows() {
        let events = limiter(100);
        events.add(1000, Duration::ZERO);
        assert!(!events.is_over(Duration::ZERO), "not counted yet");
        assert!(!events.is_over(seconds(5)), "the first of a second");
        events.add(99, seconds(5));
        assert!(!events.is_over(seconds(5)));
        events.add(1, seconds(5));
        assert!(events.is_over(seconds(5)));
        assert!(!events.is_over(seconds(6)), "the next second has a share of its own");
        events.add(100, seconds(9));
        assert!(events.is_over(seconds(9)));
        assert!(!events.is_over(seconds(10)), "on average it is below");
        assert!(limiter(0).is_over(seconds(5)));
    }

    /// Several nodes let through as much as one would, whatever their parts of it.
    #[test]
    fn nodes_share_a_limit() {
        let events = limiter(90);
        events.add(300, Duration::ZERO);
        assert!(!events.is_triggered(seconds(5)), "thirty a second");
        events.set_elsewhere(60.0, 80, 2);
        assert!(events.is_triggered(seconds(5)));
        assert!((events.average(seconds(5)) - 90.0).abs() < 1e-9);
        assert!((events.average_here(seconds(5)) - 30.0).abs() < 1e-9);
        events.add(29, seconds(6));
        assert!(!events.is_over(seconds(6)), "a third, although the others leave less");
        events.add(1, seconds(6));
        assert!(events.is_over(seconds(6)));
        events.set_elsewhere(60.0, 20, 2);
        assert!(!events.is_over(seconds(6)), "what the others leave");
        events.add(40, seconds(6));
        assert!(events.is_over(seconds(6)));
        assert_eq!([6, 7, 8].map(|at| events.last_second(seconds(at))), [0, 70, 0]);
        events.add(1, seconds(7));
        assert_eq!(events.last_second(seconds(7)), 70);
        events.set_elsewhere(0.0, 0, 0);
        assert!(!events.is_triggered(seconds(7)), "alone again");
    }

    #[test]
    fn a_flood_is_what_goes_on_for_ten_seconds() {
        let mut flood = Flood::default();
        let mut second = |at, count| (0..count).any(|_| flood.hear(seconds(at), 10));
        for at in 100..110 {
            assert!(!second(at, 11), "{at}");
        }
        assert!(second(110, 1));
        assert!(!second(111, 1), "that second had less");
        for at in 200..209 {
            assert!(!second(at, 11));
        }
        assert!(!second(210, 11), "a second without a message is between");
    }

    /// protocol 64
    #[test]
    fn calls_within_a_window() {
        let mut calls = CallWindow::default();
        let window = seconds(30);
        for _ in 0..5 {
            assert!(calls.allow(seconds(100), 5, window));
        }
        assert!(!calls.allow(seconds(130), 5, window));
        assert!(calls.allow(seconds(131), 5, window), "the window began at the first call and is over");
        assert!(!calls.allow(seconds(131), 1, window));
    }
}
