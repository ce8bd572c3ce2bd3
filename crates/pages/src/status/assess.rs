//! The rules.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Node, NodeReport, PairReport, Probe, RegionReport, Report, SLOW, STALE, Status, View};

impl View {
    /// What to think of it.
    #[must_use]
    pub fn assess(&self) -> Report {
        let pairs = self.pairs();
        let nodes: Vec<_> = self.nodes.iter().map(|node| report(node, &pairs)).collect();
        let databases = nodes.iter().filter_map(|node| node.databases.status());
        let status = nodes.iter().map(|node| node.status).chain(databases).max().unwrap_or(Status::Loading);
        let node = self.nodes.first().map(|node| node.id.clone()).unwrap_or_default();
        Report { node, status, regions: self.regions(&pairs), nodes, pairs }
    }

    fn pairs(&self) -> Vec<PairReport> {
        let probes: HashMap<_, _> =
            self.probes.iter().map(|probe| ((&*probe.from, &*probe.to), probe)).collect();
        // It hears of pairs only from its start on.
        let observer = self.nodes.first().and_then(|node| node.uptime);
        let mut pairs = Vec::with_capacity(self.nodes.len() * self.nodes.len());
        for from in &self.nodes {
            for to in &self.nodes {
                let probe = probes.get(&(&*from.id, &*to.id)).copied();
                // Not every node tells how it answers itself.
                if probe.is_none() && from.id == to.id {
                    continue;
                }
                pairs.push(PairReport {
                    from: from.id.clone(),
                    to: to.id.clone(),
                    status: way(probe, [observer, from.uptime, to.uptime].into_iter().flatten().min()),
                    latency_ms: probe.and_then(|probe| probe.latency).map(millis),
                    age_seconds: probe.map(|probe| probe.age.as_secs()),
                });
            }
        }
        pairs
    }

    fn regions(&self, pairs: &[PairReport]) -> Vec<RegionReport> {
        let places: HashMap<&str, Option<&str>> =
            self.nodes.iter().map(|node| (&*node.id, node.region.as_deref())).collect();
        let mut ways: BTreeMap<_, Vec<&PairReport>> = BTreeMap::new();
        for pair in pairs {
            let place = |id: &str| places.get(id).copied().flatten();
            ways.entry((place(&pair.from), place(&pair.to))).or_default().push(pair);
        }
        ways.into_iter()
            .map(|((from, to), pairs)| {
                let answered: Vec<f64> = pairs.iter().filter_map(|pair| pair.latency_ms).collect();
                let mean = answered.iter().sum::<f64>() / answered.len() as f64;
                RegionReport {
                    from: from.map(str::to_owned),
                    to: to.map(str::to_owned),
                    status: majority(pairs.iter().map(|pair| pair.status)),
                    latency_ms: (!answered.is_empty()).then_some(mean),
                }
            })
            .collect()
    }
}

impl super::Databases {
    /// `None` if there are none.
    fn status(self) -> Option<Status> {
        match (self.connected, self.failing) {
            (0, 0) => None,
            (_, 0) => Some(Status::Ok),
            (0, _) => Some(Status::Unreachable),
            _ => Some(Status::Slow),
        }
    }
}

/// A pair that was never heard of is loading while one of the two, or who tells, is too young for it, and stale after.
/// `youngest` is the age of the youngest, if an age is known.
fn way(probe: Option<&Probe>, youngest: Option<Duration>) -> Status {
    match probe {
        None if youngest.is_some_and(|age| age <= STALE) => Status::Loading,
        None => Status::Stale,
        Some(probe) if probe.age > STALE => Status::Stale,
        Some(Probe { latency: None, .. }) => Status::Unreachable,
        Some(Probe { latency: Some(latency), .. }) if *latency > SLOW => Status::Slow,
        Some(_) => Status::Ok,
    }
}

fn report(node: &Node, pairs: &[PairReport]) -> NodeReport {
    let incoming: Vec<_> = pairs.iter().filter(|pair| pair.to == node.id).map(|pair| pair.status).collect();
    let outgoing: Vec<_> = pairs.iter().filter(|pair| pair.from == node.id).map(|pair| pair.status).collect();
    NodeReport {
        id: node.id.clone(),
        region: node.region.clone(),
        version: node.version.clone(),
        uptime_seconds: node.uptime.map(|uptime| uptime.as_secs()),
        status: of_node(&incoming, &outgoing),
        databases: node.databases,
    }
}

/// One bad way does not make a bad node: what most say counts.
fn of_node(incoming: &[Status], outgoing: &[Status]) -> Status {
    let count = |ways: &[Status], status| ways.iter().filter(|way| **way == status).count();
    let most = |ways: &[Status], status| count(ways, status) * 2 > ways.len();
    if most(incoming, Status::Unreachable) {
        Status::Unreachable
    } else if most(outgoing, Status::Stale) {
        Status::Stale
    } else if most(outgoing, Status::Slow)
        || count(incoming, Status::Unreachable) > 0
        || count(outgoing, Status::Stale) > 0
    {
        Status::Slow
    } else if outgoing.is_empty() || most(outgoing, Status::Loading) {
        Status::Loading
    } else {
        Status::Ok
    }
}

/// The most frequent; of equally frequent ones the worst.
fn majority(ways: impl Iterator<Item = Status>) -> Status {
    let mut counts: BTreeMap<Status, usize> = BTreeMap::new();
    for way in ways {
        *counts.entry(way).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(status, count)| (*count, *status))
        .map_or(Status::Loading, |(status, _)| status)
}

/// Milliseconds, to a hundredth.
fn millis(latency: Duration) -> f64 {
    (latency.as_secs_f64() * 100_000.0).round() / 100.0
}
