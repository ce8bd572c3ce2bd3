//! The state of this node and of its databases, for the status page.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use realtime_channels::tenant_runtime::TenantRuntime;
use realtime_cluster::{Cluster, Contact};
use realtime_pages::{
    About, Site,
    status::{self, Databases, Probe, View},
};
use realtime_postgres::Health;
use tokio::time::{self, Instant, MissedTickBehavior};

use crate::node::{Node, short_id};

/// Pause between two looks at the databases.
const LOOK_AT_DATABASES: Duration = Duration::from_secs(5);

/// Databases that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// Looks at databases between two probes of the nodes, which are 15 seconds apart (http_and_ops 4.2).
const LOOKS_PER_PROBE: u32 = 3;

/// How long a finished report is used: at most one a second is made (http_and_ops 4.2).
const REPORT_LIFE: Duration = Duration::from_secs(1);

/// The recent state of this node and its databases.
pub struct Status {
    node: Arc<Node>,
    site: Site,
    /// When this node last probed itself, and the round trip.
    probe: Mutex<Option<(Instant, Duration)>>,
    report: Mutex<Option<(Instant, Bytes)>>,
}

impl Status {
    /// The state of a node that starts now.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let about =
            About { version: env!("CARGO_PKG_VERSION"), node: &node.identity().id, region: node.region() };
        Self { site: Site::new(about), probe: Mutex::default(), report: Mutex::default(), node }
    }

    /// The node.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The report of the status page, as JSON.
    pub fn report(&self) -> Bytes {
        let mut cached = self.report.lock();
        if let Some((made, bytes)) = &*cached
            && made.elapsed() < REPORT_LIFE
        {
            return bytes.clone();
        }
        let report = self.view(databases(&self.node.runtimes())).assess();
        let bytes = Bytes::from(serde_json::to_vec(&report).unwrap_or_default());
        *cached = Some((Instant::now(), bytes.clone()));
        bytes
    }

    /// The state of the cluster: this node, and what other nodes say with their heartbeats.
    fn view(&self, databases: Databases) -> View {
        let identity = self.node.identity();
        let node = status::Node {
            id: identity.id.clone(),
            region: self.node.region().map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: Some(identity.uptime()),
            databases,
        };
        let probe = self.probe.lock().map(|(at, latency)| Probe {
            from: identity.id.clone(),
            to: identity.id.clone(),
            age: at.elapsed(),
            latency: Some(latency),
        });
        let mut view = View { nodes: vec![node], probes: probe.into_iter().collect() };
        for heard in self.node.cluster().into_iter().flat_map(Cluster::nodes) {
            if heard.contact == Contact::Namesake {
                // The page needs distinct ids.
                continue;
            }
            let from = short_id(heard.id);
            let probe = |to: u32, latency| Probe {
                from: from.clone(),
                to: short_id(to),
                age: heard.measured_ago,
                latency,
            };
            let answered = heard.latencies.iter().map(|(to, millis)| {
                // Another node can send any number. One that is not a duration is shown as zero.
                let latency = Duration::try_from_secs_f64(millis / 1000.0).unwrap_or_default();
                probe(*to, Some(latency))
            });
            view.probes.extend(answered.chain(heard.unanswered.iter().map(|to| probe(*to, None))));
            if !heard.is_self {
                let (connected, failing) = heard.databases;
                view.nodes.push(status::Node {
                    id: from.clone(),
                    region: heard.region,
                    version: heard.version,
                    uptime: heard.uptime,
                    databases: Databases { connected, failing },
                });
            }
        }
        view
    }
}

/// Whether the database's state is watched: it is the server's own, or somebody is connected who may need it. A
/// suspended tenant has no connections on purpose.
fn is_kept(runtime: &TenantRuntime) -> bool {
    let tenant = runtime.tenant();
    !tenant.suspend && (tenant.default || !runtime.sockets().is_empty())
}

fn databases(runtimes: &[Arc<TenantRuntime>]) -> Databases {
    let mut databases = Databases::default();
    for runtime in runtimes.iter().filter(|runtime| is_kept(runtime)) {
        match runtime.database().health() {
            Health::Idle => {}
            Health::Connected => databases.connected += 1,
            Health::Failing => databases.failing += 1,
        }
    }
    databases
}

/// Asks the watched databases again and again, so that the status shows when one is lost and when it is back. Also
/// probes the nodes. Ends when the server stops.
pub async fn watch(status: Arc<Status>) {
    let node = &status.node;
    let mut ticks = time::interval(LOOK_AT_DATABASES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0_u32;
    let work = async {
        loop {
            ticks.tick().await;
            if looks.is_multiple_of(LOOKS_PER_PROBE) {
                probe(&status).await;
            }
            looks = looks.wrapping_add(1);
            let kept = node.runtimes().into_iter().filter(|runtime| is_kept(runtime));
            stream::iter(kept).for_each_concurrent(ASKED_AT_ONCE, ask).await;
            if let Some(cluster) = node.cluster() {
                let Databases { connected, failing } = databases(&node.runtimes());
                cluster.set_databases(connected, failing);
            }
        }
    };
    tokio::select! {
        () = node.stopping().cancelled() => {}
        () = work => {}
    }
}

/// Asks a database. One that nobody has used yet is left alone.
async fn ask(runtime: Arc<TenantRuntime>) {
    if runtime.database().health() != Health::Idle {
        // The handle keeps the outcome.
        let _ = runtime.database().try_on().await;
    }
}

/// Sends a message from this node to itself, and measures how long the runtime takes to run a task and return its
/// answer.
async fn probe(status: &Status) {
    let asked = Instant::now();
    if tokio::spawn(async {}).await.is_ok() {
        *status.probe.lock() = Some((Instant::now(), asked.elapsed()));
    }
}
