//! Reads all counters and writes them as text.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use realtime_channels::{
    counters::{MessageType, TenantCounters, TransportKind},
    tenant_runtime::TenantRuntime,
    webhooks::HookView,
};
use realtime_cluster::Cluster;
use realtime_codes::ErrorCode;
use realtime_hub::HistoryFigures;
use realtime_metrics::{Counter, Snapshot};
use realtime_postgres::{RelationCounters, Stats};
use realtime_protocol::deflate;
use tokio::time::Instant;

use super::{
    exposition::Exposition,
    families::{self as f, Family},
    host::{self, Host},
};
use crate::{diagnostics::ErrorCounts, node::Node, operators::logging};

/// Time without a socket after which a tenant is left out, until it has a socket again (http_and_ops 3).
pub(super) const VACANT: Duration = Duration::from_secs(600);

/// Label that the reference gives the series of its web server.
const ENDPOINT: &str = "RealtimeWeb.Endpoint";

/// Label values of results, by index.
const RESULTS: [&str; 2] = ["ok", "error"];

/// Label values of serializers, by index.
const SERIALIZERS: [&str; 2] = ["1.0.0", "2.0.0"];

/// A tenant that is shown.
struct Shown {
    name: Arc<str>,
    runtime: Arc<TenantRuntime>,
    counters: Arc<TenantCounters>,
    output_bytes: u64,
    history: HistoryFigures,
}

/// Which series are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Those of the node as a whole.
    Global,
    /// Those of its tenants.
    Tenants,
    /// Both.
    All,
}

/// The metrics of this node as text.
#[must_use]
pub(super) fn render(node: &Node, host: &Host, part: Part) -> String {
    let identity = node.identity();
    let region = node.region().unwrap_or("nil");
    let mut out = Exposition::new(&[("host", &*identity.host), ("id", &*identity.id), ("region", region)]);
    node.counters().retire();
    let shown: Vec<Shown> = node
        .runtimes()
        .iter()
        .map(|runtime| {
            let counters = Arc::clone(runtime.counters());
            let output_bytes = counters.output(runtime.sockets().bytes_written());
            let (name, history) = (Arc::clone(runtime.name()), runtime.hub().history_figures(runtime.name()));
            Shown { name, runtime: Arc::clone(runtime), counters, output_bytes, history }
        })
        .collect();
    let errors = ErrorCounts::global().all();
    if part != Part::Tenants {
        global(&mut out, node, host, &shown, &errors);
    }
    if part != Part::Global {
        // They work where nobody is connected, too.
        webhooks(&mut out, &shown);
        let now = Instant::now();
        let vacant =
            |shown: &Shown| shown.runtime.sockets().vacant_for(now).is_some_and(|for_| for_ > VACANT);
        let shown: Vec<Shown> = shown.into_iter().filter(|shown| !vacant(shown)).collect();
        connected_in_cluster(&mut out, node, &shown);
        tenants(&mut out, &shown);
        let mut family = out.family(&f::ERROR);
        for (code, tenant, count) in &errors {
            if shown.iter().any(|shown| *shown.name == **tenant) {
                family.add(&[code, tenant], *count as f64);
            }
        }
    }
    out.finish()
}

/// Figures of the node.
fn global(out: &mut Exposition, node: &Node, host: &Host, shown: &[Shown], errors: &[(String, String, u64)]) {
    global_numbers(out, node, shown);
    global_errors(out, errors);
    global_sizes(out, node);
    compressed(out);
    connections(out, node);
    handled(out, node);
    host.write(out);
    host::process(out);
    host::runtime(out);
    for (name, value) in node.cluster().map(Cluster::metrics).unwrap_or_default() {
        if let Some(family) = f::ALL.iter().find(|family| family.name == name) {
            out.family(family).add(&[], value);
        }
    }
    out.family(&f::BUILD_INFO).add(&[env!("CARGO_PKG_VERSION")], 1.0);
}

/// Who is connected, and sums over all tenants.
fn global_numbers(out: &mut Exposition, node: &Node, shown: &[Shown]) {
    let totals = node.counters().totals();
    let connected: u32 = shown.iter().map(|shown| shown.runtime.users().count()).sum();
    // Other nodes tell their numbers with each heartbeat, including tenants that are not used here.
    let elsewhere = node.cluster().map_or(0, Cluster::users_elsewhere);
    let databases = shown.iter().filter(|shown| shown.runtime.database().is_ready()).count();
    out.family(&f::GLOBAL_CONNECTED).add(&[], f64::from(connected));
    out.family(&f::GLOBAL_CONNECTED_CLUSTER).add(&[], f64::from(connected) + elsewhere as f64);
    out.family(&f::TENANTS_CONNECTED).add(&[], databases as f64);
    for (family, value) in [
        (&f::GLOBAL_JOINS, totals.joins),
        (&f::GLOBAL_EVENTS, totals.events),
        (&f::GLOBAL_PRESENCE_EVENTS, totals.presence_events),
        (&f::GLOBAL_DB_EVENTS, totals.db_events),
        (&f::GLOBAL_INPUT_BYTES, totals.input_bytes),
        (&f::GLOBAL_OUTPUT_BYTES, totals.output_bytes),
        (&f::SLOW_CONSUMERS, node.counters().node().slow_consumers.get()),
        (&f::CLIENT_MEMORY, node.memory().used() as u64),
        (&f::CLIENT_MEMORY_MAX, node.memory().limit() as u64),
        (&f::LOG_LINES_SUPPRESSED, logging::suppressed()),
    ] {
        out.family(family).add(&[], value as f64);
    }
}

/// Counts of operators' codes.
fn global_errors(out: &mut Exposition, errors: &[(String, String, u64)]) {
    let mut family = out.family(&f::GLOBAL_ERROR);
    for same in errors.chunk_by(|a, b| a.0 == b.0) {
        if let Some((code, ..)) = same.first() {
            let count: u64 = same.iter().map(|(.., count)| count).sum();
            family.add(&[code], count as f64);
        }
    }
}

/// Sizes of payloads, and set-ups of databases.
fn global_sizes(out: &mut Exposition, node: &Node) {
    let totals = node.counters().totals();
    let mut family = out.family(&f::PAYLOAD_SIZE);
    for (message, seen) in MessageType::ALL.iter().zip(&totals.payload_sizes) {
        family.histogram(&[message.as_str()], seen);
    }
    let region = node.region().unwrap_or("nil");
    out.family(&f::MIGRATIONS_DURATION).histogram(&[region], &totals.set_ups);
    out.family(&f::MIGRATIONS_EXCEPTIONS)
        .add(&[ErrorCode::MigrationsFailedToRun.as_str()], totals.set_up_failures as f64);
}

/// What was compressed and inflated.
fn compressed(out: &mut Exposition) {
    let (sent, received) = (deflate::packed(), deflate::unpacked());
    let mut family = out.family(&f::COMPRESSED_MESSAGES);
    family.add(&["sent"], sent.messages as f64);
    family.add(&["received"], received.messages as f64);
    let mut family = out.family(&f::COMPRESSED_BYTES);
    for (direction, plain, compressed) in
        [("sent", sent.before, sent.after), ("received", received.after, received.before)]
    {
        family.add(&[direction, "plain"], plain as f64);
        family.add(&[direction, "compressed"], compressed as f64);
    }
}

/// Connections to the listener.
fn connections(out: &mut Exposition, node: &Node) {
    let (open, max) = node.connections();
    out.family(&f::CONNECTIONS_TOTAL).add(&[], open as f64);
    out.family(&f::CONNECTIONS_ACTIVE).add(&[], open as f64);
    out.family(&f::CONNECTIONS_MAX).add(&[], max as f64);
}

/// Joins, handshakes, messages, and questions to other nodes.
fn handled(out: &mut Exposition, node: &Node) {
    let counters = node.counters().node();
    let mut family = out.family(&f::CHANNEL_JOINED);
    for (transport, results) in TransportKind::ALL.iter().zip(&counters.joined) {
        for (result, count) in RESULTS.iter().zip(results) {
            family.add(&[result, transport.as_str(), ENDPOINT], count.get() as f64);
        }
    }
    let mut family = out.family(&f::GLOBAL_RPC);
    for (success, seen) in ["true", "false"].iter().zip(&counters.asked) {
        family.histogram(&[success, "nats"], &seen.snapshot());
    }
    out.family(&f::HANDLED_IN).histogram(&[ENDPOINT], &counters.handled_in.snapshot());
    let mut family = out.family(&f::SOCKET_CONNECTED);
    for (transport, results) in TransportKind::ALL.iter().zip(&counters.connected) {
        for (result, serializers) in RESULTS.iter().zip(results) {
            for (serializer, seen) in SERIALIZERS.iter().zip(serializers) {
                family.histogram(&[result, transport.as_str(), ENDPOINT, serializer], &seen.snapshot());
            }
        }
    }
}

/// A number of a tenant.
type Number = fn(&Shown) -> u64;

/// A number that a tenant's database counts.
type DatabaseNumber = fn(&Stats) -> u64;

/// A number of one of its tables.
type RelationNumber = fn(&RelationCounters) -> &Counter;

/// A histogram of a tenant's database.
type DatabaseHistogram = fn(&Stats) -> Snapshot;

/// Users of tenants on all nodes. A node knows the users on other nodes only while it has sockets of the tenant.
/// Otherwise it leaves the series to nodes that know, unless there are no users elsewhere at all.
fn connected_in_cluster(out: &mut Exposition, node: &Node, shown: &[Shown]) {
    let knows = |name: &str| {
        node.cluster().is_none_or(|cluster| cluster.users_elsewhere() == 0 || cluster.counts_users_of(name))
    };
    let mut family = out.family(&f::CONNECTED_CLUSTER);
    for shown in shown.iter().filter(|shown| knows(&shown.name)) {
        family.add(&[&shown.name], shown.runtime.users().total().into());
    }
}

/// Figures of tenants, one family after the other.
fn tenants(out: &mut Exposition, shown: &[Shown]) {
    let numbers: [(&'static Family, Number); 11] = [
        (&f::CONNECTED, |shown| shown.runtime.users().count().into()),
        (&f::SOCKETS, |shown| shown.runtime.sockets().len() as u64),
        (&f::JOINS, |shown| shown.counters.joins.get()),
        (&f::EVENTS, |shown| shown.counters.events.get()),
        (&f::PRESENCE_EVENTS, |shown| shown.counters.presence_events.get()),
        (&f::DB_EVENTS, |shown| shown.counters.db_events.get()),
        (&f::INPUT_BYTES, |shown| shown.counters.input_bytes.get()),
        (&f::OUTPUT_BYTES, |shown| shown.output_bytes),
        (&f::HISTORY_MESSAGES, |shown| shown.history.messages as u64),
        (&f::HISTORY_BYTES, |shown| shown.history.bytes as u64),
        (&f::MESSAGES_REPLAYED, |shown| shown.counters.messages_replayed.get()),
    ];
    for (family, read) in numbers {
        let mut family = out.family(family);
        for shown in shown {
            family.add(&[&shown.name], read(shown) as f64);
        }
    }
    let mut family = out.family(&f::TENANTS_PAYLOAD_SIZE);
    for shown in shown {
        for message in MessageType::ALL {
            let seen = shown.counters.payload_sizes(message).snapshot();
            family.histogram(&[message.as_str(), &shown.name], &seen);
        }
    }
    database_histograms(out, shown);
    database_numbers(out, shown);
    relation_numbers(out, shown);
}

/// A number of a webhook.
type HookNumber = fn(&HookView) -> u64;

/// What webhooks have done.
fn webhooks(out: &mut Exposition, shown: &[Shown]) {
    let numbers: [(&'static Family, HookNumber); 5] = [
        (&f::WEBHOOKS_DELIVERED, |hook| hook.delivered),
        (&f::WEBHOOKS_FAILED, |hook| hook.failed),
        (&f::WEBHOOKS_DEAD_LETTERS, |hook| hook.dead_letters),
        (&f::WEBHOOKS_GAPS, |hook| hook.gaps),
        (&f::WEBHOOKS_WAITING, |hook| hook.waiting),
    ];
    let views = |shown: &Shown| shown.runtime.webhooks().views(&shown.runtime.tenant());
    let all: Vec<_> = shown.iter().map(|shown| (&shown.name, views(shown))).collect();
    for (family, read) in numbers {
        let mut family = out.family(family);
        for (tenant, hooks) in &all {
            for hook in hooks {
                family.add(&[&hook.webhook.name, tenant], read(hook) as f64);
            }
        }
    }
}

fn database_histograms(out: &mut Exposition, shown: &[Shown]) {
    let histograms: [(&'static Family, DatabaseHistogram); 7] = [
        (&f::READ_AUTHORIZATION, |stats| stats.policies.read.snapshot()),
        (&f::WRITE_AUTHORIZATION, |stats| stats.policies.write.snapshot()),
        (&f::COMMITTED_LATENCY, |stats| stats.committed_latency.snapshot()),
        (&f::INSERTED_LATENCY, |stats| stats.inserted_latency.snapshot()),
        (&f::REPLAY, |stats| stats.replays.snapshot()),
        (&f::QUERY_DURATION, |stats| stats.check_times.snapshot()),
        (&f::LIVE_RUNS, |stats| stats.live_runs.snapshot()),
    ];
    for (family, read) in histograms {
        let mut family = out.family(family);
        for shown in shown {
            family.histogram(&[&shown.name], &read(&shown.counters.database));
        }
    }
}

/// What was decided about rows under row-level security, by table.
fn relation_numbers(out: &mut Exposition, shown: &[Shown]) {
    let numbers: [(&'static Family, RelationNumber); 5] = [
        (&f::CHANGES_COMPILED, |counters| &counters.compiled),
        (&f::CHANGES_ASKED, |counters| &counters.asked),
        (&f::CHANGES_WITHHELD, |counters| &counters.withheld),
        (&f::CHANGES_COMPARED, |counters| &counters.compared),
        (&f::CHANGES_MISMATCH, |counters| &counters.mismatch),
    ];
    let relations: Vec<_> =
        shown.iter().map(|shown| (shown, shown.counters.database.relations.all())).collect();
    for (family, read) in numbers {
        let mut family = out.family(family);
        for (shown, relations) in &relations {
            for (relation, counters) in relations {
                family.add(&[relation, &shown.name], read(counters).get() as f64);
            }
        }
    }
}

fn database_numbers(out: &mut Exposition, shown: &[Shown]) {
    let load = Ordering::Relaxed;
    let mut family = out.family(&f::POLLER_STOP);
    for shown in shown {
        let stats = &shown.counters.database;
        family.add(&["normal", &shown.name], stats.sessions_ended.get() as f64);
        family.add(&["other", &shown.name], stats.sessions_lost.get() as f64);
    }
    let mut family = out.family(&f::POLLER_QUERY_EXCEPTION);
    for shown in shown {
        family.add(&["unavailable", &shown.name], shown.counters.database.check_failures.get() as f64);
    }
    let mut family = out.family(&f::CHANGES_SKIP);
    for shown in shown {
        family.add(&["rate_limited", &shown.name], shown.counters.database.dropped.load(load) as f64);
    }
    let numbers: [(&'static Family, DatabaseNumber); 29] = [
        (&f::POLLER_EXCEPTION, |stats| stats.sessions_lost.get()),
        (&f::POLLER_PREPARE_EXCEPTION, |stats| stats.session_failures.get()),
        (&f::CHANGES_DISPATCH, |stats| stats.deliveries.load(Ordering::Relaxed)),
        (&f::SUBSCRIBERS, |stats| stats.subscribers.load(Ordering::Relaxed)),
        (&f::CHANGES_ROWS, |stats| stats.rows.load(Ordering::Relaxed)),
        (&f::CHANGES_QUESTIONS, |stats| stats.questions.load(Ordering::Relaxed)),
        (&f::CHANGES_CHECKS, |stats| stats.checks.load(Ordering::Relaxed)),
        (&f::CHANGES_JUDGED, |stats| stats.judged.load(Ordering::Relaxed)),
        (&f::CHANGES_TERMS_ASKED, |stats| stats.terms_asked.load(Ordering::Relaxed)),
        (&f::CHANGES_CHECK_ROUNDS, |stats| stats.check_times.count()),
        (&f::CHANGES_CHECK_SECONDS, |stats| stats.check_times.sum()),
        (&f::LIVE_RESULTS, |stats| stats.live_results.load(Ordering::Relaxed)),
        (&f::LIVE_ROWS, |stats| stats.live_rows.load(Ordering::Relaxed)),
        (&f::LIVE_LOOKS, |stats| stats.live_looks.load(Ordering::Relaxed)),
        (&f::LIVE_CHANGES, |stats| stats.live_changes.load(Ordering::Relaxed)),
        (&f::LIVE_FAILURES, |stats| stats.live_failures.get()),
        (&f::POLICIES_ASKED, |stats| stats.policies.asked.load(Ordering::Relaxed)),
        (&f::POLICIES_PROBES, |stats| stats.policies.probes.load(Ordering::Relaxed)),
        (&f::POLICIES_STATEMENTS, |stats| stats.policies.statements.load(Ordering::Relaxed)),
        (&f::POLICIES_CROWDED, |stats| stats.policies.crowded.load(Ordering::Relaxed)),
        (&f::POLICIES_READ_SECONDS, |stats| stats.policies.read.sum()),
        (&f::POLICIES_WRITE_SECONDS, |stats| stats.policies.write.sum()),
        (&f::REPLICATION_SESSIONS, |stats| stats.sessions.load(Ordering::Relaxed)),
        (&f::SUBSCRIPTION_CHECKS, |stats| stats.subscription_checks.load(Ordering::Relaxed)),
        (&f::CHANGES_SKIPPED, |stats| stats.skipped.load(Ordering::Relaxed)),
        (&f::CHANGES_LEFT_OUT, |stats| stats.left_out.load(Ordering::Relaxed)),
        (&f::JOURNAL_PASSES, |stats| stats.journal_passes.load(Ordering::Relaxed)),
        (&f::JOURNAL_BYTES, |stats| stats.journal_bytes.load(Ordering::Relaxed)),
        (&f::REPLICATION_LAG, |stats| stats.lag_bytes.load(Ordering::Relaxed)),
    ];
    for (family, read) in numbers {
        let mut family = out.family(family);
        for shown in shown {
            family.add(&[&shown.name], read(&shown.counters.database) as f64);
        }
    }
}
