//! New tokens on joined channels: what they cost, and what ends with one that is refused.

use anyhow::Result;
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::time;

use crate::{
    BINARY,
    clients::{Client, node_in},
    server,
};

const TOPIC: &str = "realtime:any";

/// Connections of the server's pool for row changes.
const POOL: &str =
    "datname = current_database() and application_name = 'realtime' and backend_type = 'client backend'";

async fn renew(socket: &mut Socket, token: &str) -> Result<()> {
    socket.send(json!("1"), json!("t"), TOPIC, "access_token", json!({ "access_token": token })).await
}

/// A server on a table with a column that only `authenticated` may read.
async fn salaries() -> Result<(Server, TestDb)> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.people (id int primary key, salary int);
         grant select on public.people to authenticated; grant select (id) on public.people to anon;
         alter publication supabase_realtime add table public.people",
    )
    .await?;
    Ok((server, db))
}

/// A token that may not watch what the channel watches ends that: at once, told as a warning, and past the expiry of the
/// former token too. The channel lives on.
#[tokio::test]
async fn a_refused_token_ends_what_was_watched() -> Result<()> {
    let (server, db) = salaries().await?;
    let watched = json!([{"schema": "public", "table": "people", "filter": "salary=gt.0"}]);
    let mut socket = server.socket(Version::V2, "anon").await?;
    let staff = token("authenticated");
    let payload =
        json!({"config": {"broadcast": {"self": true}, "postgres_changes": watched}, "access_token": staff});
    assert_eq!(socket.join(TOPIC, payload).await?.0["status"], "ok");
    assert_eq!(socket.event(TOPIC, "system").await?["status"], "ok");
    db.sql("insert into public.people values (1, 10)").await?;
    socket.event(TOPIC, "postgres_changes").await?;

    renew(&mut socket, &token("anon")).await?;
    let told = socket.event(TOPIC, "system").await?;
    assert_eq!(told["status"], "warning");
    assert!(
        told["message"].as_str().unwrap_or_default().ends_with("invalid column for filter salary"),
        "{told}"
    );
    // Another channel shows when the row has passed.
    let mut other = server.socket(Version::V2, "authenticated").await?;
    other.watch(TOPIC, watched).await?;
    db.sql("insert into public.people values (2, 20)").await?;
    other.event(TOPIC, "postgres_changes").await?;
    socket.send(json!("1"), json!("b"), TOPIC, "broadcast", json!({"event": "e"})).await?;
    socket.event(TOPIC, "broadcast").await?;
    assert!(socket.settle().await?.is_empty(), "no row");

    renew(&mut socket, &token("authenticated")).await?;
    assert_eq!(socket.event(TOPIC, "system").await?["message"], "Subscribed to PostgreSQL");
    db.sql("insert into public.people values (3, 30)").await?;
    assert_eq!(socket.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], 3);
    Ok(())
}

/// A table that is gone ends what was watched with the former token; when it is there again, the new one counts.
#[tokio::test]
async fn a_new_token_counts_when_the_table_comes_back() -> Result<()> {
    let (server, db) = salaries().await?;
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "people"}])).await?;
    db.sql("alter publication supabase_realtime drop table public.people").await?;
    assert_eq!(socket.event(TOPIC, "system").await?["status"], "warning");
    renew(&mut socket, &token("anon")).await?;
    assert_eq!(socket.event(TOPIC, "system").await?["status"], "warning");
    db.sql("alter publication supabase_realtime add table public.people").await?;
    assert_eq!(socket.event(TOPIC, "system").await?["message"], "Subscribed to PostgreSQL");
    db.sql("insert into public.people values (1, 10)").await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(change["data"]["record"], json!({"id": 1}), "with the rights of the new token");
    Ok(())
}

/// 6,000 tokens cost the database no more than a few: the last one counts, others' rows come, and so does what else the
/// socket says.
#[tokio::test]
async fn many_tokens_cost_little() -> Result<()> {
    let (server, db) = server().await?;
    let watched = json!([{"schema": "public", "table": "test"}]);
    let mut victim = server.socket(Version::V2, "anon").await?;
    victim.watch(TOPIC, watched.clone()).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, watched).await?;
    let transactions = async || -> Result<i64> {
        let count =
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
        let ended = format!("select pg_terminate_backend(pid) from pg_stat_activity where {POOL}");
        let left = format!("select count(*) from pg_stat_activity where {POOL}");
        // Connections that end have said all that they did.
        db.sql(&ended).await?;
        while db.client().query_one(&left, &[]).await?.try_get::<_, i64>(0)? > 0 {
            time::sleep(time::Duration::from_millis(20)).await;
        }
        Ok(db.client().query_one(count, &[]).await?.try_get(0)?)
    };
    let before = transactions().await?;
    let tokens =
        ["anon", "authenticated"].map(|role| sign(&json!({"role": role, "exp": unix_now() + 3_000})));
    for n in 0..6_000 {
        renew(&mut socket, &tokens[n % 2]).await?;
    }
    db.sql("insert into public.test (details) values ('x')").await?;
    victim.event(TOPIC, "postgres_changes").await?;
    let reference = json!("beat");
    socket.send(Value::Null, reference.clone(), "phoenix", "heartbeat", json!({})).await?;
    socket.expect(|frame| frame.msg_ref == reference).await?;
    let cost = transactions().await? - before;
    assert!(cost < 1_000, "{cost} transactions");
    // The last one counts in the end: what `anon` may not read comes.
    db.sql("revoke all on public.test from anon").await?;
    let limit = time::Instant::now() + PATIENCE;
    loop {
        db.sql("insert into public.test (details) values ('last')").await?;
        let data = loop {
            let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
            if data["record"]["details"] != "x" {
                break data;
            }
        };
        if data["record"]["details"] == "last" {
            return Ok(());
        }
        anyhow::ensure!(time::Instant::now() < limit, "{data}");
        // Two receivers a row: the tenant may get a hundred events a second.
        time::sleep(time::Duration::from_millis(50)).await;
    }
}

/// A join that asks for too much, or of which it cannot be told whether it is private, is refused with the reason.
#[tokio::test]
async fn joins_are_bounded() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options =
        ServerOptions::default().env("CHANNEL_MAX_SUBSCRIPTIONS", "7").env("CHANNEL_ERROR_BACKOFF_MS", "0");
    let server = Server::start(BINARY, &db, options).await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        let changes =
            |count: usize| json!({"config": {"postgres_changes": vec![json!({"schema": "public"}); count]}});
        for (payload, told) in [
            (changes(8), "`config.postgres_changes` has more than 7 entries"),
            (changes(40_000), "`config.postgres_changes` has more than 7 entries"),
            (
                json!({"config": {"presence": {"key": "k".repeat(2_000)}}}),
                "`config.presence.key` is longer than 1024 bytes",
            ),
            (json!({"config": {"private": 1}}), "`config.private` must be true or false"),
            (json!({"config": {"private": "yes"}}), "`config.private` must be true or false"),
            (json!({"config": {"private": [true]}}), "`config.private` must be true or false"),
            (json!({"config": {"private": {}}}), "`config.private` must be true or false"),
        ] {
            let (reply, _) = socket.join(TOPIC, payload).await?;
            let reason = format!("InvalidJoinPayload: {told}");
            assert_eq!(reply, json!({"status": "error", "response": {"reason": reason}}));
        }
        let topic = format!("realtime:{}", "t".repeat(5_000));
        let (reply, _) = socket.join(&topic, json!({"config": {}})).await?;
        assert_eq!(reply["response"]["reason"], "InvalidJoinPayload: `topic` is longer than 4096 bytes");
        let long = "9".repeat(300);
        socket.send(json!(long), json!("r"), TOPIC, "phx_join", json!({"config": {}})).await?;
        let reply = socket.reply("r").await?;
        assert_eq!(reply["response"]["reason"], "InvalidJoinPayload: `join_ref` is longer than 255 bytes");
        assert_eq!(socket.watch(TOPIC, changes(7)["config"]["postgres_changes"].clone()).await?.len(), 7);
    }
    Ok(())
}

/// `setAuth()` and then `removeChannel()` with the official client: nothing is watched afterwards, and the log is not read
/// for ever.
#[tokio::test]
async fn a_channel_removed_behind_a_token_is_not_watched() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default()
        .env("METRICS_JWT_SECRET", realtime_testkit::SECRET)
        .env("REPLICATION_IDLE_STOP_MS", "100");
    let server = Server::start(BINARY, &db, options).await?;
    let tokens = ["authenticated", "anon"].map(token);
    let mut command = node_in("js")?;
    command.arg("removed.mjs").arg(format!("http://localhost:{}", server.port()));
    command.args([&tokens[1], &tokens[0], &tokens[1], "30"]);
    let mut client = Client::start(command)?;
    assert_eq!(client.next("removed").await?, 30);
    let limit = time::Instant::now() + PATIENCE;
    while server.metric("realtime_subscriptions_manager_subscribers").await? > 0.0 {
        anyhow::ensure!(time::Instant::now() < limit, "somebody is watched for");
        time::sleep(time::Duration::from_millis(50)).await;
    }
    // The channel that stayed may get messages; without it nobody needs the log.
    drop(client);
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    while db.client().query_one(slots, &[]).await?.try_get::<_, i64>(0)? > 0 {
        anyhow::ensure!(time::Instant::now() < limit, "the slot never ends");
        time::sleep(time::Duration::from_millis(50)).await;
    }
    Ok(())
}
