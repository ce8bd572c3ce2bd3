//! What a node and its tenants did during the last hour, for the charts of the dashboard.
//!
//! A sample is taken every fifteen seconds, of numbers that are counted in any case. What is kept is bounded: an hour of
//! the node and of some hundred tenants.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use realtime_channels::{counters::TenantCounters, tenant_runtime::TenantRuntime};
use serde::{Deserialize, Serialize};
use tokio::time::{self, MissedTickBehavior};

use super::process;
use crate::node::Node;

/// Seconds between two samples. Samples of all nodes belong to the same moments, so that they can be added up.
pub const EVERY: u64 = 15;

/// Samples that are kept: an hour of them.
pub const KEPT: usize = 240;

/// Tenants whose samples are kept: 12 KB each. They are those that came first while there was room.
pub const MAX_TENANTS: usize = 500;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Open sockets.
    Sockets,
    /// Joins that were admitted, per second.
    Joins,
    /// Broadcasts accepted and delivered, per second.
    Events,
    /// Row changes read from the log, per second.
    Rows,
    /// Row changes, times the subscriptions that they matched, per second.
    Deliveries,
    /// Bytes of the log that were not handed over yet.
    Lag,
    /// Milliseconds per second that the database took to evaluate policies.
    Policies,
    /// Resident memory of the process, in bytes.
    Memory,
    /// CPUs that the process used.
    Cpu,
}

impl Measure {
    /// All of them, in the order in which samples have them.
    pub const ALL: [Self; 9] = [
        Self::Sockets,
        Self::Joins,
        Self::Events,
        Self::Rows,
        Self::Deliveries,
        Self::Lag,
        Self::Policies,
        Self::Memory,
        Self::Cpu,
    ];

    /// Whether it says something about a single tenant.
    #[must_use]
    pub const fn is_of_tenants(self) -> bool {
        !matches!(self, Self::Memory | Self::Cpu)
    }

    /// Puts what two nodes or tenants measured together. One node reads a database's log, others may remember what they
    /// read: the largest lag counts.
    fn merge(self, one: f32, other: f32) -> f32 {
        if self == Self::Lag { one.max(other) } else { one + other }
    }
}

/// A sample: one number for each of [`Measure::ALL`].
type Values = [f32; Measure::ALL.len()];

/// Samples in the order of time, each with its moment: seconds since 1970 divided by [`EVERY`]. As other nodes tell it:
/// another release may measure fewer things, or more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// Moments and their numbers.
    pub samples: Vec<(u64, Vec<f32>)>,
}

impl Series {
    /// Adds the samples of another node.
    pub fn merge(&mut self, other: Self) {
        for (at, values) in other.samples {
            match self.samples.binary_search_by_key(&at, |(at, _)| *at) {
                Ok(place) => {
                    if let Some((_, mine)) = self.samples.get_mut(place) {
                        for ((mine, theirs), measure) in mine.iter_mut().zip(values).zip(Measure::ALL) {
                            *mine = measure.merge(*mine, theirs);
                        }
                    }
                }
                Err(place) => self.samples.insert(place, (at, values)),
            }
        }
        let more = self.samples.len().saturating_sub(KEPT);
        self.samples.drain(..more);
    }

    /// The samples of one measure, as far as they are finite numbers.
    pub fn of(&self, measure: Measure) -> Vec<(u64, f32)> {
        let place = Measure::ALL.iter().position(|known| *known == measure).unwrap_or_default();
        let value = |values: &Vec<f32>| values.get(place).copied().filter(|value| value.is_finite());
        self.samples.iter().filter_map(|(at, values)| Some((*at, value(values)?))).collect()
    }
}

/// What was counted for a tenant, or for the process, when it was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    joins: u64,
    events: u64,
    rows: u64,
    deliveries: u64,
    policy_micros: u64,
}

impl Counted {
    fn of(counters: &TenantCounters) -> Self {
        let stats = &counters.database;
        Self {
            joins: counters.joins.get(),
            events: counters.events.get(),
            rows: stats.rows.load(Ordering::Relaxed),
            deliveries: counters.db_events.get(),
            policy_micros: stats.check_times.sum() + stats.policies.read.sum() + stats.policies.write.sum(),
        }
    }

    /// What was counted since `before`. Counters that are lower than before have begun anew.
    fn since(self, before: Self) -> Self {
        let grown = |now: u64, before: u64| if now < before { now } else { now - before };
        Self {
            joins: grown(self.joins, before.joins),
            events: grown(self.events, before.events),
            rows: grown(self.rows, before.rows),
            deliveries: grown(self.deliveries, before.deliveries),
            policy_micros: grown(self.policy_micros, before.policy_micros),
        }
    }
}

/// A tenant at the moment of a sample.
#[derive(Debug, Clone)]
struct Looked {
    name: Arc<str>,
    sockets: u64,
    lag: u64,
    counted: Counted,
}

impl Looked {
    fn at(runtime: &TenantRuntime) -> Self {
        let counters = runtime.counters();
        Self {
            name: Arc::clone(runtime.name()),
            sockets: runtime.sockets().len() as u64,
            lag: counters.database.lag_bytes.load(Ordering::Relaxed),
            counted: Counted::of(counters),
        }
    }
}

/// The samples of the last hour.
#[derive(Debug, Default)]
pub struct History(Mutex<Tracks>);

#[derive(Debug, Default)]
struct Tracks {
    node: VecDeque<(u64, Values)>,
    tenants: HashMap<Arc<str>, VecDeque<(u64, Values)>>,
    /// What was counted when it was last looked at.
    before: HashMap<Arc<str>, Counted>,
    cpu_before: Option<Duration>,
    /// The moment of the last sample.
    last: Option<u64>,
}

impl History {
    /// The samples of the node.
    #[must_use]
    pub fn node(&self) -> Series {
        series(&self.0.lock().node)
    }

    /// The samples of a tenant; none if nothing is kept of it.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Series {
        self.0.lock().tenants.get(name).map(series).unwrap_or_default()
    }
}

fn series(track: &VecDeque<(u64, Values)>) -> Series {
    Series { samples: track.iter().map(|(at, values)| (*at, values.to_vec())).collect() }
}

impl Tracks {
    /// Takes a sample at a moment, which must be later than the last.
    fn sample(&mut self, at: u64, looked: Vec<Looked>, usage: Option<(Duration, u64)>) {
        if self.last.is_some_and(|last| at <= last) {
            return;
        }
        // After a pause, such as a suspended machine, what was counted is of all the time since.
        let seconds = (self.last.map_or(1, |last| at - last) * EVERY) as f32;
        let mut sum: Values = Values::default();
        let mut before = HashMap::with_capacity(looked.len());
        for Looked { name, sockets, lag, counted } in looked {
            let since = counted.since(self.before.get(&name).copied().unwrap_or_default());
            before.insert(Arc::clone(&name), counted);
            let rate = |count: u64| count as f32 / seconds;
            let values: Values = [
                sockets as f32,
                rate(since.joins),
                rate(since.events),
                rate(since.rows),
                rate(since.deliveries),
                lag as f32,
                rate(since.policy_micros) / 1000.0,
                0.0,
                0.0,
            ];
            for ((sum, value), measure) in sum.iter_mut().zip(values).zip(Measure::ALL) {
                *sum = measure.merge(*sum, value);
            }
            if self.tenants.len() < MAX_TENANTS || self.tenants.contains_key(&name) {
                push(self.tenants.entry(name).or_default(), at, values);
            }
        }
        let [.., memory, cpu] = &mut sum;
        if let Some((cpu_now, resident)) = usage {
            *memory = resident as f32;
            let spent = self.cpu_before.map_or(Duration::ZERO, |before| cpu_now.saturating_sub(before));
            *cpu = spent.as_secs_f32() / seconds;
            self.cpu_before = Some(cpu_now);
        }
        push(&mut self.node, at, sum);
        self.before = before;
        self.last = Some(at);
        // What is older than an hour makes room for others.
        self.tenants.retain(|_, track| track.back().is_some_and(|(last, _)| last + KEPT as u64 > at));
    }
}

fn push(track: &mut VecDeque<(u64, Values)>, at: u64, values: Values) {
    while track.front().is_some_and(|(first, _)| first + KEPT as u64 <= at) {
        track.pop_front();
    }
    track.push_back((at, values));
}

/// Takes samples until the server stops.
pub async fn watch(node: Arc<Node>, history: Arc<History>) {
    let mut ticks = time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // CPU is that since the first sample.
    let mut last = moment();
    if let Ok(usage) = process::usage() {
        history.0.lock().cpu_before = Some(usage.0);
    }
    let work = async {
        loop {
            ticks.tick().await;
            let now = moment();
            if now == last {
                continue;
            }
            last = now;
            let looked = node.runtimes().iter().map(|runtime| Looked::at(runtime)).collect();
            history.0.lock().sample(now, looked, process::usage().ok());
        }
    };
    tokio::select! {
        () = node.stopping().cancelled() => {}
        () = work => {}
    }
}

/// The number of the present moment, the same on all nodes whose clocks agree.
#[must_use]
pub fn moment() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / EVERY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(name: &str, sockets: u64, events: u64) -> Looked {
        let counted = Counted { events, policy_micros: events * 1_000, ..Counted::default() };
        Looked { name: name.into(), sockets, lag: sockets * 10, counted }
    }

    fn of(series: &Series, measure: Measure) -> Vec<f32> {
        series.of(measure).into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn samples_are_rates_of_what_was_counted() {
        let history = History::default();
        let take = |at, looked, cpu| {
            history.0.lock().sample(at, looked, Some((Duration::from_secs(cpu), 1_000)));
        };
        take(10, vec![looked("a", 1, 30), looked("b", 5, 0)], 1);
        take(11, vec![looked("a", 2, 60)], 31);
        // The counters have begun anew, and a sample was missed.
        take(13, vec![looked("a", 0, 30)], 31);
        take(13, vec![looked("a", 9, 90)], 99);
        let (a, node) = (history.tenant("a"), history.node());
        assert_eq!(of(&a, Measure::Sockets), [1.0, 2.0, 0.0]);
        assert_eq!(of(&a, Measure::Events), [2.0, 2.0, 1.0]);
        assert_eq!(of(&a, Measure::Policies), [2.0, 2.0, 1.0]);
        assert_eq!(of(&node, Measure::Sockets), [6.0, 2.0, 0.0]);
        assert_eq!(of(&node, Measure::Lag), [50.0, 20.0, 0.0]);
        assert_eq!(of(&node, Measure::Cpu), [0.0, 2.0, 0.0]);
        assert_eq!(history.tenant("nobody"), Series::default());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let history = History::default();
        for at in 0..1_000 {
            let all = (0..10).map(|n| looked(&format!("t{}-{n}", at / 100), 1, 1)).collect();
            history.0.lock().sample(at + 1, all, None);
        }
        assert_eq!(history.node().samples.len(), KEPT);
        assert_eq!(history.0.lock().tenants.len(), 30, "those of the last hour");
        let many = (0..2 * MAX_TENANTS).map(|n| looked(&format!("m{n}"), 1, 1)).collect();
        history.0.lock().sample(2_000, many, None);
        assert!(history.0.lock().tenants.len() <= MAX_TENANTS);
        assert_eq!(
            of(&history.node(), Measure::Sockets),
            [2.0 * MAX_TENANTS as f32],
            "all count for the node"
        );
    }

    #[test]
    fn nodes_are_added_up_whatever_they_measure() {
        let mut one = Series { samples: vec![(1, vec![1.0; 9]), (3, vec![1.0; 9])] };
        one.merge(Series { samples: vec![(2, vec![5.0]), (3, vec![5.0, 5.0]), (4, vec![f32::NAN; 20])] });
        assert_eq!(one.of(Measure::Sockets), [(1, 1.0), (2, 5.0), (3, 6.0)]);
        assert_eq!(one.of(Measure::Cpu), [(1, 1.0), (3, 1.0)]);
        let many = Series { samples: (0..10_000).map(|at| (at, Vec::new())).collect() };
        one.merge(many);
        assert_eq!(one.samples.len(), KEPT);
    }
}
