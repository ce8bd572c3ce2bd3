//! What the log tells, and what it must not (http_and_ops 0, 9.6).

use anyhow::{Context as _, Result};
use realtime_testkit::{
    SECRET, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now, until,
};
use serde_json::{Value, json};
use tokio::time;

use super::line;
use crate::{BINARY, private};

/// http_and_ops 32: one line a request, by what became of it; those about health only if they are wanted
#[tokio::test]
async fn requests_are_logged() -> Result<()> {
    let db = TestDb::new().await?;
    for hidden in [true, false] {
        let options = ServerOptions::default()
            .env("LOG_FORMAT", "text")
            .env("DISABLE_HEALTHCHECK_LOGGING", &hidden.to_string());
        let server = Server::start(BINARY, &db, options).await?;
        for path in ["/healthcheck", "/api/ping?apikey=s3cret", "/nowhere"] {
            server.http("GET", path, &[("X-Request-Id", "of-the-gateway-000001")], b"").await?;
        }
        server.http("POST", "/api/broadcast", &[("Authorization", "Bearer potato")], b"").await?;
        line(&server, |line| line.contains("POST /api/broadcast")).await?;
        let log = server.log();
        let find = |path: &str| {
            log.lines().rfind(|line| line.contains(&format!(" {path} status="))).unwrap_or_default()
        };
        assert_eq!(find("/healthcheck").is_empty(), hidden, "{log}");
        let ping = find("/api/ping");
        assert!(ping.contains(" info GET /api/ping status=200 duration_ms="), "{ping}");
        assert!(ping.contains("tenant=realtime-dev request_id=of-the-gateway-000001"), "{ping}");
        assert!(find("/nowhere").contains(" warning HttpClientError: GET /nowhere status=404"), "{log}");
        assert!(find("/api/broadcast").contains(" warning POST /api/broadcast status=401"), "{log}");
        assert!(!log.contains("s3cret"), "{log}");
    }
    Ok(())
}

/// As JSON a line has the tenant under the names that the reference gives it, the request and the code.
#[tokio::test]
async fn lines_are_json_where_nobody_reads_along() -> Result<()> {
    let db = TestDb::new().await?;
    let output = tokio::process::Command::new(BINARY)
        .env_clear()
        .envs(db.env().await?)
        .env("PORT", "0")
        .env("REGION", "eu-central-1")
        .env("CLUSTER", "main")
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = tokio::io::BufReader::new(output.stderr.context("stderr")?);
    let mut found = None;
    while found.is_none() {
        let mut text = String::new();
        let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut text);
        time::timeout(realtime_testkit::PATIENCE, read).await??;
        let line: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        assert_eq!((&line["region"], &line["cluster"]), (&json!("eu-central-1"), &json!("main")), "{line}");
        if line["message"] == "serving" {
            let port = u16::try_from(line["port"].as_u64().context("port")?)?;
            let headers = [("Authorization", "Bearer potato"), ("baggage", "request-id=of-the-caller")];
            realtime_testkit::http(port, "POST", "/api/broadcast", &headers, b"").await?;
        }
        if line["error_code"] == "MalformedJWT" {
            found = Some(line);
        }
    }
    let line = found.context("line")?;
    for (name, value) in [
        ("level", "warning"),
        ("message", "MalformedJWT: request refused"),
        ("project", "realtime-dev"),
        ("external_id", "realtime-dev"),
        ("request_id", "of-the-caller"),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    Ok(())
}

/// What was done to a channel is told with the tenant, the role, the tables and why.
#[tokio::test]
async fn lines_about_channels_name_whose_they_are() -> Result<()> {
    let db = private::database().await?;
    db.sql(
        "create function public.refuse() returns boolean language plpgsql as
            $$ begin raise exception using errcode = 'P0001'; end $$;
         create policy raises on realtime.messages for select to anon using (public.refuse())",
    )
    .await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    let missing = json!([{"event": "*", "schema": "public", "table": "no_such_table"}]);
    socket.watch("realtime:rows", missing).await.expect_err("there is no such table");
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (refused, _) = socket.join("realtime:mine", json!({"config": {"private": true}})).await?;
    assert_eq!(refused["status"], "error");
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    socket.join("realtime:open", json!({"config": {}})).await?;
    socket
        .send(json!("1"), json!("9"), "realtime:open", "access_token", json!({"access_token": "potato"}))
        .await?;
    socket.event("realtime:open", "phx_close").await?;
    for (text, names) in [
        ("ChannelShutdown: ", &["role=authenticated"][..]),
        ("policies of a private topic could not be evaluated", &["role=anon", "P0001"]),
        ("subscription refused", &["role=authenticated", "tables=public.no_such_table", "reason="]),
    ] {
        let line = line(&server, |line| line.contains(text)).await?;
        for name in names.iter().chain(&["tenant=realtime-dev"]) {
            assert!(line.contains(name), "{name}: {line}");
        }
    }
    Ok(())
}

/// One client that does the same wrong thing all the time leaves a few lines.
#[tokio::test]
async fn a_bad_client_cannot_flood_the_log() -> Result<()> {
    let (server, _db) = crate::server().await?;
    let begun = time::Instant::now();
    let mut socket = server.socket(Version::V2, "anon").await?;
    for n in 0..2_000 {
        socket.send_text(format!("not a frame {n}")).await?;
    }
    for n in 0..200 {
        let (reply, _) = socket.join("realtime:", json!({"config": {}})).await?;
        assert_eq!(reply["status"], "error", "{n}");
    }
    // Ten of a kind pass within ten seconds, and one that tells how many did not.
    let passed = |text: &str| server.log().matches(text).count();
    for text in ["MalformedWebSocketMessage: ", "TopicNameRequired: "] {
        until("the first lines", || async { Ok(passed(text) >= 10) }).await?;
        let windows = begun.elapsed().as_secs() / 10 + 1;
        assert!(passed(text) < 11 * usize::try_from(windows)?, "{windows}: {}", server.log());
    }
    Ok(())
}

/// Anything that must not be in a log, in a session that touches it all at the lowest level: secrets, tokens, what
/// clients say, values of rows, also where the database repeats them in an error.
#[tokio::test]
async fn no_secret_is_logged() -> Result<()> {
    let db = private::database().await?;
    db.sql(
        "create table public.secrets (id int primary key, owner text, n text);
         alter publication supabase_realtime add table public.secrets;
         grant select on public.secrets to anon, authenticated;
         alter table public.secrets enable row level security;
         create function public.complain(value text) returns boolean language plpgsql as
            $$ begin if value like 'fail%' then raise exception 'value %', value; end if; return true; end $$;
         create policy sees on public.secrets for select to authenticated using (public.complain(owner));
         create policy also on public.secrets for select to anon using (n::int > 0);
         create policy raises on realtime.messages for insert to anon with check (public.complain('fail-rowvalue-5'));
         create policy raises_too on realtime.messages for select to anon using (public.complain('fail-rowvalue-6'));",
    ).await?;
    let options = ServerOptions::default()
        .env("LOG_LEVEL", "debug")
        .env("METRICS_JWT_SECRET", "hidden-metrics-secret")
        .env("METRICS_TOKEN_BLOCKLIST", "hidden-blocked-token")
        .env("METRICS_PUSHER_ENABLED", "true")
        .env("METRICS_PUSHER_URL", "http://someone:hidden-push-password@127.0.0.1:1/")
        .env("METRICS_PUSHER_AUTH", "hidden-push-auth")
        .env("METRICS_PUSHER_INTERVAL_MS", "100")
        .env("TENANT_MAX_CHANNELS_PER_CLIENT", "3");
    let server = Server::start(BINARY, &db, options).await?;

    let claims = |role: &str| json!({"role": role, "exp": unix_now() + 3_600, "sub": "hidden-subject", "email": "hidden@example.com"});
    let good = sign(&claims("authenticated"));
    let url = format!("ws://localhost:{}/socket/websocket?apikey={good}&vsn=2.0.0", server.port());
    let mut socket = match Socket::try_connect(&url, &[], Version::V2).await? {
        Ok(socket) => socket,
        Err(refused) => anyhow::bail!("{}", refused.body),
    };
    socket
        .watch("realtime:rows", json!([{"event": "*", "schema": "public", "table": "secrets", "filter": "owner=neq.hidden-filter"}])).await?;
    let wrong = json!({"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "secrets", "filter": "id=eq.hidden-filter-value"}]}});
    socket.join("realtime:wrong", wrong).await?;
    socket.event("realtime:wrong", "system").await?;
    db.sql("insert into public.secrets values (1, 'hidden-row-value', '1')").await?;
    socket.event("realtime:rows", "postgres_changes").await?;
    db.sql("insert into public.secrets values (2, 'fail-rowvalue-1', 'rowvalue-2')").await?;
    socket.event("realtime:rows", "system").await?;
    // Another role whose policy cannot even read the value.
    let mut other = server.socket(Version::V1, "anon").await?;
    other.watch("realtime:rows", json!([{"event": "*", "schema": "public", "table": "secrets"}])).await?;
    db.sql("insert into public.secrets values (3, 'x', 'rowvalue-3')").await?;
    other.event("realtime:rows", "system").await?;

    let said = json!({"type": "broadcast", "event": "e", "payload": {"text": "hidden-payload"}});
    socket.send(json!("1"), json!("9"), "realtime:rows", "broadcast", said).await?;
    let private_join = json!({"config": {"private": true}, "access_token": sign(&claims("anon"))});
    let (refused, _) = socket.join("realtime:mine", private_join).await?;
    assert_eq!(refused["status"], "error");
    let mut wrong = sign(&claims("anon"));
    wrong.push_str("hidden-signature");
    for token in [&*wrong, "hidden-no-token", "eyJhidden.eyJhidden.hidden"] {
        socket
            .send(json!("1"), json!("10"), "realtime:rows", "access_token", json!({"access_token": token}))
            .await?;
        socket.join("realtime:other", json!({"config": {}, "access_token": token})).await?;
        let bearer = format!("Bearer {token}");
        for (method, path) in [
            ("GET", format!("/metrics?token={token}")),
            ("GET", format!("/socket/websocket?apikey={token}&vsn=2.0.0")),
            ("GET", format!("/socket/longpoll?apikey={token}&vsn=2.0.0")),
            ("POST", "/api/broadcast/t/events/e?private=true".to_owned()),
        ] {
            let headers = [
                ("Authorization", &*bearer),
                ("Content-Type", "application/json"),
                ("Cookie", "hidden-cookie"),
            ];
            server.http(method, &path, &headers, br#"{"a": "hidden-body"}"#).await?;
        }
    }
    let bearer = format!("Bearer {}", sign(&claims("anon")));
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let answer = server.http("POST", "/api/broadcast/t/events/e?private=true", &headers, b"{}").await?;
    assert_eq!(answer.status, 422, "{answer:?}");
    socket.send_text("[hidden-frame").await?;
    socket.settle().await?;
    line(&server, |line| line.contains("MetricsPusherException")).await?;
    line(&server, |line| line.contains("RlsPolicyError")).await?;

    let env = db.env().await?;
    let password = env.iter().find(|(name, _)| name == "DB_PASSWORD").map(|(_, value)| value.clone());
    let password = password.unwrap_or_default();
    server.http("GET", "/last", &[], b"").await?;
    line(&server, |line| line.contains("GET /last")).await?;
    let log = server.log();
    for line in log.lines() {
        let words = ["hidden", "rowvalue", "eyJ", SECRET, &token("anon")];
        for word in words.into_iter().chain(Some(&*password).filter(|password| password.len() > 8)) {
            assert!(!line.contains(word), "{word} in {line}");
        }
    }
    Ok(())
}
