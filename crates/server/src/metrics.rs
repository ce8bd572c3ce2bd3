//! What operators watch (http_and_ops 11), in the text format of Prometheus.
//!
//! Everything is counted where it happens, in atomics; this reads them when somebody asks.

use std::{collections::HashMap, sync::atomic::Ordering};

use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Opts, Registry, TextEncoder};
use realtime_cluster::Cluster;
use realtime_postgres::Stats;

use crate::{app::App, tenant_runtime::TenantRuntime};

/// Whether a number only grows.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// A metric of a tenant: its name, what it tells, and where it is read.
type Metric = (&'static str, Kind, &'static str, fn(&TenantRuntime) -> Option<f64>);

const METRICS: &[Metric] = &[
    ("realtime_connections_connected", Kind::Gauge, "Sockets with a joined channel", |tenant| {
        Some(f64::from(tenant.users().count()))
    }),
    ("realtime_connections_connected_cluster", Kind::Gauge, "The same on all nodes", |tenant| {
        Some(f64::from(tenant.users().total()))
    }),
    ("realtime_channel_joins", Kind::Counter, "Attempts to join", |tenant| {
        Some(tenant.meters().joins().total() as f64)
    }),
    ("realtime_channel_events", Kind::Counter, "Broadcasts accepted and delivered", |tenant| {
        Some(tenant.meters().events().total() as f64)
    }),
    ("realtime_channel_presence_events", Kind::Counter, "Presence states, changes and diffs", |tenant| {
        Some(tenant.meters().presence().total() as f64)
    }),
    (
        "realtime_channel_db_events",
        Kind::Counter,
        "Row changes, times the subscriptions they matched",
        |tenant| Some(tenant.meters().db_events().total() as f64),
    ),
    (
        "realtime_replication_poller_changes_dispatch",
        Kind::Counter,
        "Row changes sent, by columns",
        |tenant| stat(tenant, |stats| &stats.deliveries),
    ),
    ("realtime_replication_poller_changes_skip", Kind::Counter, "Row changes dropped: too many", |tenant| {
        stat(tenant, |stats| &stats.dropped)
    }),
    ("realtime_changes_rows", Kind::Counter, "Row changes read from the log", |tenant| {
        stat(tenant, |stats| &stats.rows)
    }),
    ("realtime_changes_filter_questions", Kind::Counter, "Filters that the database evaluated", |tenant| {
        stat(tenant, |stats| &stats.questions)
    }),
    (
        "realtime_changes_checks",
        Kind::Counter,
        "Roles and claims whose sight of rows was checked",
        |tenant| stat(tenant, |stats| &stats.checks),
    ),
    (
        "realtime_changes_check_rounds",
        Kind::Counter,
        "Times the database was asked who sees rows",
        |tenant| stat(tenant, |stats| &stats.check_rounds),
    ),
    ("realtime_changes_check_seconds", Kind::Counter, "Time that these questions took", |tenant| {
        stat(tenant, |stats| &stats.check_micros).map(|micros| micros / 1e6)
    }),
    ("realtime_policies_asked", Kind::Counter, "Questions to the policies of private topics", |tenant| {
        stat(tenant, |stats| &stats.policies.asked)
    }),
    (
        "realtime_policies_probes",
        Kind::Counter,
        "Round trips to the database for them: equal questions share one",
        |tenant| stat(tenant, |stats| &stats.policies.probes),
    ),
    ("realtime_policies_statements", Kind::Counter, "Statements in these round trips", |tenant| {
        stat(tenant, |stats| &stats.policies.statements)
    }),
    (
        "realtime_policies_crowded",
        Kind::Counter,
        "Questions that found no connection in time, or were not put for that reason",
        |tenant| stat(tenant, |stats| &stats.policies.crowded),
    ),
    ("realtime_policies_read_seconds", Kind::Counter, "Time that checks of reading took", |tenant| {
        tenant.database().stats().map(|stats| stats.policies.read.micros() as f64 / 1e6)
    }),
    ("realtime_policies_write_seconds", Kind::Counter, "Time that checks of writing took", |tenant| {
        tenant.database().stats().map(|stats| stats.policies.write.micros() as f64 / 1e6)
    }),
    ("realtime_replication_sessions", Kind::Counter, "Replication sessions started", |tenant| {
        stat(tenant, |stats| &stats.sessions)
    }),
    (
        "realtime_replication_lag_bytes",
        Kind::Gauge,
        "Bytes of the log that were not handed over yet",
        |tenant| stat(tenant, |stats| &stats.lag_bytes),
    ),
];

fn stat(tenant: &TenantRuntime, which: fn(&Stats) -> &std::sync::atomic::AtomicU64) -> Option<f64> {
    tenant.database().stats().map(|stats| which(stats).load(Ordering::Relaxed) as f64)
}

/// All metrics as text.
///
/// # Errors
/// When a metric's name or labels are not of the format.
pub fn render(app: &App) -> prometheus::Result<String> {
    let labels: HashMap<String, String> =
        [("host".to_owned(), hostname()), ("region".to_owned(), app.region().unwrap_or("nil").to_owned())]
            .into();
    let registry = Registry::new_custom(None, Some(labels))?;
    let runtimes = app.runtimes();
    for (name, kind, help, read) in METRICS {
        let values = runtimes.iter().filter_map(|tenant| Some((tenant.tenant(), read(tenant)?)));
        let options = Opts::new(*name, *help);
        match kind {
            Kind::Counter => {
                let metric = CounterVec::new(options, &["tenant"])?;
                registry.register(Box::new(metric.clone()))?;
                for (tenant, value) in values {
                    metric.get_metric_with_label_values(&[&*tenant.external_id])?.inc_by(value);
                }
            }
            Kind::Gauge => {
                let metric = GaugeVec::new(options, &["tenant"])?;
                registry.register(Box::new(metric.clone()))?;
                for (tenant, value) in values {
                    metric.get_metric_with_label_values(&[&*tenant.external_id])?.set(value);
                }
            }
        }
    }
    for (name, grows, help, value) in app.cluster().map(Cluster::metrics).unwrap_or_default() {
        if grows {
            let metric = Counter::with_opts(Opts::new(name, help))?;
            metric.inc_by(value);
            registry.register(Box::new(metric))?;
        } else {
            let metric = Gauge::with_opts(Opts::new(name, help))?;
            metric.set(value);
            registry.register(Box::new(metric))?;
        }
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}
