//! The limiters of one tenant, on the machine's clock (protocol 9).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use realtime_cluster::rates::{Elsewhere, METERS, Rate, Rates};
use realtime_hub::Kind;
use realtime_metrics::Counter;
use realtime_protocol::SystemMessage;
use realtime_tenants::{Limiter, Limits, Span};
use tokio::time::Instant;

use crate::counters::TenantCounters;

/// A [`Limiter`] that knows the time.
#[derive(Debug)]
pub struct Meter {
    limiter: Limiter,
    origin: Instant,
    /// Everything ever counted, including by earlier meters.
    counter: Arc<Counter>,
}

impl Meter {
    fn new(span: Span, limit: u32, counter: &Arc<Counter>) -> Self {
        let counter = Arc::clone(counter);
        Self { limiter: Limiter::new(span, limit, Duration::ZERO), origin: Instant::now(), counter }
    }

    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.limiter.add(n, self.origin.elapsed());
        self.counter.add(n);
    }

    /// Counts `shown`, of which only `n` count against the limit.
    fn add_shown(&self, n: u64, shown: u64) {
        self.limiter.add(n, self.origin.elapsed());
        self.counter.add(shown);
    }

    /// Whether there were too many on average, as of the last tick.
    pub fn is_triggered(&self) -> bool {
        self.limiter.is_triggered(self.origin.elapsed())
    }

    /// Whether one more would be too many. What is above the limit is dropped (spec README, decision 23).
    pub fn is_over(&self) -> bool {
        self.limiter.is_over(self.origin.elapsed())
    }

    /// The average per second as of the last tick, on all nodes.
    pub fn average(&self) -> f64 {
        self.limiter.average(self.origin.elapsed())
    }

    /// Everything ever counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counter.get()
    }

    /// The limit per second.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limiter.limit()
    }

    /// How often it happens on this node.
    fn rate(&self) -> Rate {
        let now = self.origin.elapsed();
        // An average is positive, and what does not fit is far above any limit.
        let average = (self.limiter.average_here(now) * 1000.0).round() as u64;
        Rate { average, recent: self.limiter.last_second(now) }
    }

    /// Takes how often it happens on other nodes.
    fn set_elsewhere(&self, elsewhere: &Elsewhere) {
        let average = elsewhere.rate.average as f64 / 1000.0;
        self.limiter.set_elsewhere(average, elsewhere.rate.recent, elsewhere.nodes);
    }

    fn set_limit(&self, limit: u32) {
        self.limiter.set_limit(limit, self.origin.elapsed());
    }
}

/// The meters of a tenant (protocol 9.2).
#[derive(Debug)]
pub struct Meters {
    joins: Meter,
    events: Meter,
    presence: Meter,
    db_events: Meter,
    requests: Meter,
    counters: Arc<TenantCounters>,
    /// Largest payload in bytes, including its allowance.
    max_payload_bytes: AtomicUsize,
    /// Whether channels above a limit are stopped, as the reference does.
    closes_channels: bool,
}

impl Meters {
    /// Meters that have counted nothing.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self::counted_by(limits, Arc::default())
    }

    /// New meters that add to existing counters.
    #[must_use]
    pub fn counted_by(limits: &Limits, counters: Arc<TenantCounters>) -> Self {
        let events = limits.max_events_per_second;
        Self {
            joins: Meter::new(Span::EVENTS, limits.max_joins_per_second, &counters.joins),
            events: Meter::new(Span::EVENTS, events, &counters.events),
            presence: Meter::new(
                Span::EVENTS,
                limits.max_presence_events_per_second,
                &counters.presence_events,
            ),
            db_events: Meter::new(Span::EVENTS, events, &counters.db_events),
            requests: Meter::new(Span::REQUESTS, events, &counters.requests),
            counters,
            max_payload_bytes: AtomicUsize::new(limits.max_payload_bytes()),
            closes_channels: false,
        }
    }

    /// Chooses what happens above a limit: `closes` stops channels, otherwise messages are dropped.
    #[must_use]
    pub fn closing_channels(mut self, closes: bool) -> Self {
        self.closes_channels = closes;
        self
    }

    /// Whether channels above a limit are stopped.
    #[must_use]
    pub fn closes_channels(&self) -> bool {
        self.closes_channels
    }

    /// Whether broadcasts are not delivered now.
    #[must_use]
    pub fn sheds(&self) -> bool {
        !self.closes_channels && self.events.is_over()
    }

    /// Whether row changes are dropped now.
    #[must_use]
    pub fn drops_rows(&self) -> bool {
        if self.closes_channels { self.db_events.is_triggered() } else { self.db_events.is_over() }
    }

    /// Counts row changes: `matches` of subscriptions, for `sockets` sockets. Only a socket counts against the limit, since
    /// its client alone says how many subscriptions and channels it has; the reference counts all that match.
    pub fn count_rows(&self, matches: u64, sockets: u64) {
        self.db_events.add_shown(if self.closes_channels { matches } else { sockets }, matches);
    }

    /// Takes new limits. A meter whose limit changes begins anew, except that of requests (http_and_ops 1.4).
    pub fn set_limits(&self, limits: &Limits) {
        self.joins.set_limit(limits.max_joins_per_second);
        self.events.set_limit(limits.max_events_per_second);
        self.presence.set_limit(limits.max_presence_events_per_second);
        self.db_events.set_limit(limits.max_events_per_second);
        // Requests keep their average: it is compared with the new limit directly.
        self.requests.limiter.adjust_limit(limits.max_events_per_second);
        self.max_payload_bytes.store(limits.max_payload_bytes(), Ordering::Relaxed);
    }

    /// Largest payload in bytes, including its allowance (protocol 5.2).
    #[must_use]
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes.load(Ordering::Relaxed)
    }

    /// All meters, in the order in which nodes tell them.
    fn all(&self) -> [&Meter; METERS] {
        [&self.joins, &self.events, &self.presence, &self.db_events, &self.requests]
    }

    /// How often what is limited happens on this node, and the limits per second.
    #[must_use]
    pub fn rates(&self) -> (Rates, [u32; METERS]) {
        (self.all().map(Meter::rate), self.all().map(Meter::limit))
    }

    /// Takes how often it happens on other nodes: the limits count over all of them.
    pub fn set_elsewhere(&self, elsewhere: &[Elsewhere; METERS]) {
        for (meter, elsewhere) in self.all().into_iter().zip(elsewhere) {
            meter.set_elsewhere(elsewhere);
        }
    }

    /// The counters of the tenant.
    #[must_use]
    pub fn counters(&self) -> &Arc<TenantCounters> {
        &self.counters
    }

    /// Joins that passed the checks for which no database is asked.
    #[must_use]
    pub fn joins(&self) -> &Meter {
        &self.joins
    }

    /// Broadcasts accepted and delivered, and unknown events.
    #[must_use]
    pub fn events(&self) -> &Meter {
        &self.events
    }

    /// Presence states sent, changes made, diffs delivered.
    #[must_use]
    pub fn presence(&self) -> &Meter {
        &self.presence
    }

    /// Row changes, times the subscriptions that match each; against the limit, times the sockets that get each.
    #[must_use]
    pub fn db_events(&self) -> &Meter {
        &self.db_events
    }

    /// HTTP requests.
    #[must_use]
    pub fn requests(&self) -> &Meter {
        &self.requests
    }
}

impl realtime_hub::Meter for Meters {
    fn delivered(&self, kind: Kind, count: u64) {
        match kind {
            Kind::Broadcast => self.events.add(count),
            Kind::Presence => self.presence.add(count),
            Kind::Notice => {}
        }
    }

    fn is_exceeded(&self) -> bool {
        self.closes_channels && self.events.is_triggered()
    }

    fn is_over(&self) -> bool {
        self.sheds()
    }

    fn limit(&self) -> u32 {
        self.events.limit()
    }

    fn told(&self, message: &SystemMessage, members: usize) {
        self.counters().notices.told(message, members as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// http_and_ops 22: what was counted against a limit that changes begins anew, nothing else does
    #[tokio::test(start_paused = true)]
    async fn counts_begin_anew_with_their_limit() {
        let limits = Limits::default();
        let meters = Meters::new(&limits);
        let all =
            || [meters.joins(), meters.events(), meters.presence(), meters.db_events(), meters.requests()];
        for meter in all() {
            meter.add(1_000_000);
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        let counting = || all().map(|meter| meter.average() > 0.0);
        assert_eq!(counting(), [true; 5]);
        meters.set_limits(&Limits { max_concurrent_users: 1, max_payload_size_in_kb: 1, ..limits });
        assert_eq!((counting(), meters.max_payload_bytes()), ([true; 5], 1500));
        let limits = Limits { max_joins_per_second: 7, ..limits };
        meters.set_limits(&limits);
        assert_eq!(counting(), [false, true, true, true, true]);
        let limits = Limits { max_presence_events_per_second: 7, ..limits };
        meters.set_limits(&limits);
        assert_eq!(counting(), [false, true, false, true, true]);
        meters.set_limits(&Limits { max_events_per_second: 7, ..limits });
        assert_eq!(
            counting(),
            [false, false, false, false, true],
            "requests are compared with the limit as it is"
        );
        assert_eq!(meters.requests().limit(), 7);
    }
}
