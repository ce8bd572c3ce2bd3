//! Metrics (http_and_ops 3, 11).

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Answer, PATIENCE, SECRET, Server, ServerOptions, TestDb, Version, sign_with};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    time::{self, Duration, Instant},
};

use crate::{BINARY, private};

/// The value of a metric of the seeded tenant.
fn value(text: &str, name: &str) -> Result<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains("tenant=\"realtime-dev\""))
        .with_context(|| format!("no {name} in {text}"))?;
    Ok(line.rsplit(' ').next().context("value")?.parse()?)
}

/// http_and_ops 54, protocol 90: for bearers of a token of the metrics secret, and nobody else
#[tokio::test]
async fn what_operators_watch() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql(
        "alter table public.test enable row level security;
         create policy every on public.test to anon using (true);",
    )
    .await?;
    let options =
        ServerOptions::default().env("METRICS_JWT_SECRET", "of-the-metrics").env("REGION", "eu-central-1");
    let server = Server::start(BINARY, &db, options).await?;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = server.socket(Version::V2, "anon").await?;
        socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
        sockets.push(socket);
    }
    db.sql("insert into public.test (details) select 'x' from generate_series(1, 5)").await?;
    for socket in &mut sockets {
        for _ in 0..5 {
            socket.event("realtime:any", "postgres_changes").await?;
        }
    }
    let get = |token: &str| {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let server = &server;
        async move { server.request(&request).await }
    };
    for refused in
        [server.get("/metrics").await?, get("potato").await?, get(&sign_with("else", &json!({}))).await?]
    {
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    }
    let all = [
        ("realtime_connections_connected", 2.0),
        ("realtime_channel_joins", 2.0),
        ("realtime_channel_events", 0.0),
        ("realtime_channel_db_events", 10.0),
        ("realtime_changes_rows", 5.0),
        ("realtime_replication_poller_changes_dispatch", 5.0),
        ("realtime_replication_sessions", 1.0),
        ("realtime_replication_poller_changes_skip", 0.0),
    ];
    // What has arrived may be counted a moment later.
    let limit = Instant::now() + PATIENCE;
    let text = loop {
        let text = get(&sign_with("of-the-metrics", &json!({}))).await?;
        let wrong: Vec<_> =
            all.iter().filter(|(name, wanted)| value(&text, name).ok() != Some(*wanted)).collect();
        if wrong.is_empty() {
            break text;
        }
        ensure!(Instant::now() < limit, "not {wrong:?}: {text}");
        time::sleep(Duration::from_millis(20)).await;
    };
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; charset=utf-8"), "{text}");
    assert!(text.contains("region=\"eu-central-1\""), "{text}");
    // Its policy is compiled: each row for each of them, and nobody is asked.
    assert!(value(&text, "realtime_changes_judged")? >= 10.0, "{text}");
    assert!(value(&text, "realtime_changes_checks")? == 0.0, "{text}");
    assert!(value(&text, "realtime_changes_check_seconds")? == 0.0, "{text}");
    assert!(value(&text, "realtime_replication_lag_bytes")? >= 0.0);
    Ok(())
}

/// Where one secret signs the tokens of operators and clients, those of clients do not open the metrics.
#[tokio::test]
async fn clients_do_not_read_the_metrics() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("METRICS_JWT_SECRET", SECRET);
    let server = Server::start(BINARY, &db, options).await?;
    for (claims, status) in [
        (json!({"role": "anon"}), 403),
        (json!({"role": "staff"}), 403),
        (json!({"role": ["service_role"]}), 403),
        (json!({"role": "service_role"}), 200),
        (json!({}), 200),
    ] {
        let bearer = format!("Bearer {}", sign_with(SECRET, &claims));
        let answer = server.http("GET", "/metrics", &[("Authorization", &bearer)], b"").await?;
        assert_eq!(answer.status, status, "{claims}");
    }
    Ok(())
}

/// What a parser makes of metrics, as JSON: families with their samples.
pub(crate) async fn parse(text: &str) -> Result<Value> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../clients/python");
    let interpreter = dir.join(".venv/bin/python");
    ensure!(interpreter.exists(), "make clients/python/.venv from requirements.txt, or run scripts/test");
    let mut parser = Command::new(interpreter)
        .current_dir(&dir)
        .arg("exposition.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    parser.stdin.take().context("stdin")?.write_all(text.as_bytes()).await?;
    let output = parser.wait_with_output().await?;
    ensure!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn scrape(server: &Server, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let bearer = format!("Bearer {}", sign_with("of-the-metrics", &json!({})));
    server.http("GET", path, &[headers, &[("Authorization", &bearer)]].concat(), b"").await
}

/// The sum of the samples of a name whose labels are these.
pub(crate) fn sum(families: &Value, family: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families[family]["samples"].as_array().into_iter().flatten();
    samples
        .filter(|sample| sample[0] == name && labels.iter().all(|(label, value)| sample[1][label] == *value))
        .filter_map(|sample| sample[2].as_f64())
        .sum()
}

/// http_and_ops 54, 55: what a parser of Prometheus reads, after a bit of everything
#[tokio::test]
async fn a_parser_reads_them() -> Result<()> {
    let db = private::database().await?;
    let blocked = sign_with("of-the-metrics", &json!({"n": 1}));
    let options = ServerOptions::default()
        .env("METRICS_JWT_SECRET", "of-the-metrics")
        .env("METRICS_TOKEN_BLOCKLIST", &format!("other, {blocked}"))
        .env("REGION", "eu-central-1")
        .env("TENANT_MAX_CHANNELS_PER_CLIENT", "1");
    let server = Server::start(BINARY, &db, options).await?;

    let mut old = server.socket(Version::V1, "authenticated").await?;
    let mut new = server.socket(Version::V2, "authenticated").await?;
    let config = json!({"config": {"private": true, "broadcast": {"ack": true, "replication_ready": true}, "presence": {"enabled": true}}});
    for socket in [&mut old, &mut new] {
        assert_eq!(socket.join("realtime:room-1", config.clone()).await?.0["status"], "ok");
        assert_eq!(socket.join("realtime:room-2", config.clone()).await?.0["status"], "error");
    }
    // Stored messages arrive from now on.
    old.event("realtime:room-1", "system").await?;
    let text = "x".repeat(2_000);
    for (event, payload) in [
        ("broadcast", json!({"type": "broadcast", "event": "e", "payload": {"text": text}})),
        ("presence", json!({"type": "presence", "event": "track", "payload": {"n": 1}})),
    ] {
        let reference = new.next_ref();
        new.send(json!("1"), json!(reference), "realtime:room-1", event, payload).await?;
        assert_eq!(new.reply(&reference).await?["status"], "ok");
    }
    old.event("realtime:room-1", "broadcast").await?;
    old.event("realtime:room-1", "presence_diff").await?;
    db.sql(
        "insert into realtime.messages (topic, extension, event, private, payload)
         values ('room-1', 'broadcast', 'stored', true, '{}')",
    )
    .await?;
    old.event("realtime:room-1", "broadcast").await?;
    let refused = format!("/socket/longpoll?apikey={}&vsn=2.0.0", "no-token");
    assert!(server.get(&refused).await?.contains("403"));

    let tenant = ("tenant", "realtime-dev");
    let counters = [
        ("realtime_connections_global_connected", &[][..], 2.0),
        ("realtime_connections_connected", &[tenant, ("region", "eu-central-1")][..], 2.0),
        ("realtime_sockets", &[tenant], 2.0),
        ("realtime_tenants_connected", &[], 1.0),
        ("realtime_channel_joins", &[tenant], 2.0),
        ("realtime_channel_global_joins", &[], 2.0),
        ("realtime_channel_error", &[tenant, ("code", "ChannelRateLimitReached")], 2.0),
        ("realtime_channel_global_error", &[("code", "ChannelRateLimitReached")], 2.0),
        ("realtime_channel_error", &[tenant, ("code", "MalformedJWT")], 1.0),
        ("phoenix_channel_joined_total", &[("result", "ok"), ("transport", "websocket")], 2.0),
        ("phoenix_channel_joined_total", &[("result", "error"), ("transport", "websocket")], 2.0),
        ("realtime_build_info", &[], 1.0),
    ];
    let histograms = [
        ("realtime_payload_size", "_count", &[("message_type", "broadcast")][..], 2.0),
        ("realtime_tenants_payload_size", "_count", &[tenant, ("message_type", "presence")][..], 1.0),
        ("realtime_tenants_payload_size", "_bucket", &[("message_type", "broadcast"), ("le", "1000.0")], 1.0),
        ("realtime_tenants_payload_size", "_bucket", &[("message_type", "broadcast"), ("le", "3000.0")], 2.0),
        ("realtime_tenants_read_authorization_check", "_count", &[tenant], 2.0),
        ("realtime_tenants_write_authorization_check", "_count", &[tenant], 1.0),
        ("realtime_tenants_broadcast_from_database_latency_committed_at", "_count", &[tenant], 1.0),
        ("realtime_tenants_broadcast_from_database_latency_inserted_at", "_count", &[tenant], 1.0),
        ("realtime_tenants_migrations_duration_milliseconds", "_count", &[], 1.0),
        ("phoenix_socket_connected_duration_milliseconds", "_count", &[("serializer", "1.0.0")], 1.0),
        (
            "phoenix_socket_connected_duration_milliseconds",
            "_count",
            &[("transport", "longpoll"), ("result", "error")],
            1.0,
        ),
    ];
    // What has arrived may be counted a moment later.
    let limit = Instant::now() + PATIENCE;
    let all = loop {
        let answer = scrape(&server, "/metrics", &[]).await?;
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; charset=utf-8"));
        assert!(!answer.headers.contains_key("content-encoding"), "nobody asked for it");
        let all = parse(&answer.body).await?;
        let counted =
            counters.map(|(name, labels, wanted)| (name, labels, sum(&all, name, name, labels), wanted));
        let summed = histograms.map(|(family, name, labels, wanted)| {
            (family, labels, sum(&all, family, &format!("{family}{name}"), labels), wanted)
        });
        let figures = counted.into_iter().chain(summed);
        let wrong: Vec<_> = figures.filter(|(_, _, figure, wanted)| figure != wanted).collect();
        if wrong.is_empty() {
            break all;
        }
        ensure!(Instant::now() < limit, "{wrong:?}");
        time::sleep(Duration::from_millis(20)).await;
    };
    for (name, at_least) in [
        ("realtime_channel_input_bytes", 2_500.0),
        ("realtime_channel_output_bytes", 2_500.0),
        ("realtime_channel_global_output_bytes", 2_500.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 5.0),
        ("process_threads", 2.0),
        ("process_start_time_seconds", 1.6e9),
        ("process_cpu_seconds_total", 0.0),
        ("tokio_workers", 1.0),
        ("tokio_alive_tasks", 2.0),
        ("osmon_ram_usage", 1.0),
        ("osmon_cpu_avg1", 0.0),
        ("phoenix_connections_active", 2.0),
        ("phoenix_connections_max", 1000.0),
    ] {
        assert!(all.get(name).is_some(), "no {name}");
        assert!(sum(&all, name, name, &[]) >= at_least, "{name}");
    }
    // What is told never falls, whoever leaves.
    let told = sum(&all, "realtime_channel_output_bytes", "realtime_channel_output_bytes", &[]);
    drop((old, new));
    let again = scrape(&server, "/metrics", &[("Accept-Encoding", "gzip")]).await?;
    assert_eq!(again.header("content-encoding"), "gzip");
    let here = parse(&scrape(&server, "/metrics/eu-central-1", &[]).await?.body).await?;
    assert!(sum(&here, "realtime_channel_output_bytes", "realtime_channel_output_bytes", &[]) >= told);
    let elsewhere = scrape(&server, "/metrics/us-east-1", &[]).await?;
    assert_eq!((elsewhere.status, &*elsewhere.body), (200, ""));
    for path in ["/metrics", "/metrics/eu-central-1"] {
        let bearer = format!("Bearer {blocked}");
        for headers in [&[("Authorization", &*bearer)][..], &[("apikey", &*bearer)], &[]] {
            let refused = server.http("GET", path, headers, b"").await?;
            assert_eq!((refused.status, &*refused.body), (403, ""), "{path} {headers:?}");
        }
    }
    Ok(())
}

/// Without a secret nobody may read them.
#[tokio::test]
async fn no_secret_no_metrics() -> Result<()> {
    let (server, _db) = crate::server().await?;
    let token = sign_with("", &json!({}));
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    assert!(server.request(&request).await?.starts_with("HTTP/1.1 403"));
    Ok(())
}
