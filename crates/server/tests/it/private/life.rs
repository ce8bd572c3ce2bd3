//! What becomes of private topics when things around them change.

use super::*;

/// protocol 79, 80; tenant_database 64, 65, 66
#[tokio::test]
async fn missed_messages() -> Result<()> {
    let (server, db) = server().await?;
    let at = |age: i64, n: i64| {
        format!(
            "insert into realtime.messages (topic, extension, event, private, payload, inserted_at)
             values ('room-1', 'broadcast', 'old', true, '{{\"n\": {n}}}', now() at time zone 'utc' - interval '{age} s');"
        )
    };
    db.sql(&[at(1000, 1), at(500, 2), at(400, 3), at(300, 4)].concat()).await?;
    db.sql("select realtime.send_binary('\\x07', 'bytes', 'room-1', true)").await?;
    let since = |age: u64| (unix_now() - age) * 1000;
    let replay = |replay: Value| private(json!({ "replay": replay }), false);
    let numbers = async |version, parameters: Value| -> Result<Vec<Value>> {
        let (mut socket, join_ref) =
            joined(&server, version, "authenticated", "room-1", replay(parameters)).await?;
        let mut seen = Vec::new();
        for frame in socket.settle().await? {
            assert_eq!((frame.event.as_str(), &frame.msg_ref), ("broadcast", &Value::Null));
            assert_eq!(frame.payload["meta"]["replayed"], true);
            if version == Version::V2 {
                let binary = frame.payload["event"] == "bytes";
                assert_eq!(frame.join_ref, if binary { Value::Null } else { json!(join_ref) });
            }
            let n = &frame.payload["payload"]["n"];
            seen.push(if n.is_null() { frame.payload["payload"].clone() } else { n.clone() });
        }
        Ok(seen)
    };
    let all = numbers(Version::V2, json!({"since": since(700), "limit": 10})).await?;
    assert_eq!(all, [json!(2), json!(3), json!(4), json!([7])], "older ones never come");
    let latest = numbers(Version::V1, json!({"since": since(700), "limit": 2})).await?;
    assert_eq!(latest, [json!(4)], "the newest, of which serializer 1 cannot carry bytes");
    assert_eq!(numbers(Version::V2, json!({"since": since(700), "limit": 0})).await?, [json!([7])]);
    assert!(numbers(Version::V2, json!({"since": since(0) + 50_000})).await?.is_empty());

    let mut socket = server.socket(Version::V2, "authenticated").await?;
    for parameters in [json!({"since": "x"}), json!({"since": since(9), "limit": "x"}), json!({})] {
        let reason = refusal(&mut socket, "room-1", replay(parameters)).await?;
        assert_eq!(reason, "UnableToReplayMessages: Replay params are not valid");
    }
    let public = json!({"config": {"broadcast": {"replay": {"since": 1}}}});
    assert_eq!(
        refusal(&mut socket, "room-1", public).await?,
        "UnableToReplayMessages: Replay is not allowed for public channels"
    );
    let blind = private(json!({"replay": {"since": 1}}), true);
    assert_eq!(refusal(&mut socket, "presence-1", blind).await?, unauthorized("presence-1"));
    Ok(())
}

/// tenant_database 57, 58, 75: one connection for everything, while somebody is there; made anew when it is lost.
#[tokio::test]
async fn the_connection_lives_with_its_listeners() -> Result<()> {
    let db = database().await?;
    let options = ServerOptions::default().env("REPLICATION_IDLE_STOP_MS", "300");
    let server = Server::start(BINARY, &db, options).await?;
    let walsenders = async |wanted: i64| -> Result<()> {
        const SQL: &str = "select count(*) from pg_stat_replication r join pg_stat_activity a using (pid)
            where a.datname = current_database()";
        let reached = async {
            while db.client().query_one(SQL, &[]).await?.get::<_, i64>(0) != wanted {
                time::sleep(time::Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        time::timeout(PATIENCE, reached).await.with_context(|| format!("never {wanted} walsenders"))?
    };
    walsenders(0).await?;
    let mut listener = listening(&server, Version::V2, "room-1", true).await?;
    db.sql(
        "create table public.t (id int primary key); grant select on public.t to authenticated;
            alter publication supabase_realtime add table public.t",
    )
    .await?;
    listener.watch("realtime:any", json!([{"schema": "*"}])).await?;
    walsenders(1).await?;
    db.sql("insert into public.t values (1); select realtime.send('{}', 'e', 'room-1')").await?;
    let change = listener.event("realtime:any", "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["id"], 1);
    listener.event("realtime:room-1", "broadcast").await?;
    assert!(listener.settle().await?.is_empty(), "messages are no row changes");

    db.sql(
        "select pg_terminate_backend(pid) from pg_stat_replication join pg_stat_activity using (pid)
            where datname = current_database()",
    )
    .await?;
    for topic in ["realtime:any", "realtime:room-1"] {
        assert_eq!(listener.event(topic, "system").await?["status"], "gap", "{topic}");
        assert_eq!(listener.event(topic, "system").await?["status"], "ok", "{topic}");
    }
    db.sql("select realtime.send('{\"n\": 2}', 'e', 'room-1')").await?;
    assert_eq!(listener.event("realtime:room-1", "broadcast").await?["payload"]["n"], 2);
    drop(listener);
    walsenders(0).await
}

/// tenant_database 70, 71: a server sets a fresh database up by itself, or leaves it alone if told so.
#[tokio::test]
async fn the_first_use_sets_the_database_up() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let (mut socket, _) = joined(
        &server,
        Version::V2,
        "service_role",
        "room-1",
        private(json!({"replication_ready": true}), false),
    )
    .await?;
    socket.event("realtime:room-1", "system").await?;
    db.sql("select realtime.send('{}', 'e', 'room-1')").await?;
    assert_eq!(socket.event("realtime:room-1", "broadcast").await?["event"], "e");

    let untouched = TestDb::new().await?;
    let options = ServerOptions::default().env("PREPARE_DATABASES", "false");
    let server = Server::start(BINARY, &untouched, options).await?;
    let (mut socket, join_ref) =
        joined(&server, Version::V2, "anon", "a", json!({"config": {"broadcast": loud()}})).await?;
    assert_eq!(push(&mut socket, &join_ref, "a", "broadcast", hello(1)).await?["status"], "ok");
    let mut service = server.socket(Version::V2, "service_role").await?;
    assert_eq!(refusal(&mut service, "a", private(json!({}), false)).await?, unauthorized("a"));
    let schemas: i64 = untouched
        .client()
        .query_one("select count(*) from pg_namespace where nspname = 'realtime'", &[])
        .await?
        .get(0);
    assert_eq!(schemas, 0);
    Ok(())
}

/// tenant_database 49, 51; postgres_changes 107: publications come and go while one connection reads both
#[tokio::test]
async fn publications_come_and_go() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.t (id int primary key); grant select on public.t to authenticated;
         create table public.foreign (id int primary key); grant select on public.foreign to authenticated;
         alter publication supabase_realtime add table public.t",
    )
    .await?;
    let mut socket = listening(&server, Version::V2, "room-1", true).await?;
    socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
    let told = async |socket: &mut Socket| -> Result<String> {
        let system = socket.event("realtime:any", "system").await?;
        Ok(format!("{}: {}", system["status"].as_str().unwrap_or_default(), system["message"]))
    };
    let send = async |n: i32| db.sql(&format!("select realtime.send('{{\"n\": {n}}}', 'e', 'room-1')")).await;

    // A table that is none of messages is of no interest, to watchers of row changes neither.
    db.sql(
        "alter publication supabase_realtime_messages_publication add table public.foreign;
         insert into public.foreign values (1); insert into public.t values (1)",
    )
    .await?;
    send(1).await?;
    assert_eq!(socket.event("realtime:room-1", "broadcast").await?["payload"]["n"], 1);
    let change = socket.event("realtime:any", "postgres_changes").await?;
    assert_eq!((&change["data"]["table"], socket.settle().await?.len()), (&json!("t"), 0));
    server.logged("Unexpected relation on schema 'public' and table 'foreign'").await?;

    // The connection that is made anew reads what is left.
    db.sql("drop publication supabase_realtime").await?;
    assert!(told(&mut socket).await?.starts_with("warning: \"Unable to subscribe"));
    let heard = async |socket: &mut Socket, n: i32| {
        let limit = time::Instant::now() + PATIENCE;
        while time::Instant::now() < limit {
            send(n).await?;
            if socket.settle().await?.iter().any(|frame| frame.payload["payload"]["n"] == n) {
                return Ok(());
            }
            // More than a hundred a second would be too many, and what comes next would be dropped with them.
            time::sleep(time::Duration::from_millis(50)).await;
        }
        anyhow::bail!("broadcasts do not come")
    };
    heard(&mut socket, 2).await?;
    db.sql("create publication supabase_realtime for table public.t").await?;
    assert_eq!(told(&mut socket).await?, "ok: \"Subscribed to PostgreSQL\"");
    db.sql("insert into public.t values (2)").await?;
    send(3).await?;
    socket.event("realtime:any", "postgres_changes").await?;
    socket.expect(|frame| frame.payload["payload"]["n"] == 3).await?;

    // Without the publication of messages rows go on; who watches them is told of the gap.
    db.sql("drop publication supabase_realtime_messages_publication").await?;
    assert!(told(&mut socket).await?.starts_with("gap: \"The connection to the database was lost"));
    assert!(told(&mut socket).await?.starts_with("ok"));
    db.sql("insert into public.t values (3)").await?;
    socket.event("realtime:any", "postgres_changes").await?;
    Ok(())
}

/// protocol 50; tenant_database 25, 67: without the database public topics go on, private ones wait for better times
#[tokio::test]
async fn the_database_is_away() -> Result<()> {
    let (server, db) = server().await?;
    let (mut public, public_ref) =
        joined(&server, Version::V2, "anon", "a", json!({"config": {"broadcast": loud()}})).await?;
    let (mut asked, asked_ref) = member(&server, "authenticated", "room-1").await?;
    assert_eq!(push(&mut asked, &asked_ref, "room-1", "broadcast", hello(1)).await?["status"], "ok");
    let (mut fresh, fresh_ref) = member(&server, "authenticated", "room-2").await?;
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    let away = format!(
        "alter database {0} with allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{0}' and application_name like 'realtime%'",
        db.name()
    );
    admin.batch_execute(&away).await?;

    assert_eq!(push(&mut public, &public_ref, "a", "broadcast", hello(2)).await?["status"], "ok");
    let track = json!({"type": "presence", "event": "track", "payload": {}});
    let refused = json!({"status": "error", "response": {}});
    fresh.send(json!(fresh_ref), json!("x"), "realtime:room-2", "broadcast", hello(3)).await?;
    // Its answer follows the broadcast's, if there is one.
    assert_eq!(push(&mut fresh, &fresh_ref, "room-2", "presence", track).await?, refused);
    assert!(fresh.settle().await?.is_empty(), "neither delivered nor answered");
    server.logged("UnableToHandleBroadcast").await?;
    let reason = refusal(&mut fresh, "room-3", private(json!({}), false)).await?;
    let unreachable = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let limited = "DatabaseConnectionRateLimitReached: Too many database connections attempts per second";
    assert!(reason == unreachable || reason == limited, "{reason}");
    assert_eq!(push(&mut asked, &asked_ref, "room-1", "broadcast", hello(4)).await?["status"], "ok");

    admin.batch_execute(&format!("alter database {} with allow_connections true", db.name())).await?;
    let back = async {
        let mut n = 10;
        loop {
            n += 1;
            fresh.send(json!(fresh_ref), Value::Null, "realtime:room-2", "broadcast", hello(n)).await?;
            if !fresh.settle().await?.is_empty() {
                return anyhow::Ok(());
            }
            time::sleep(time::Duration::from_millis(100)).await;
        }
    };
    time::timeout(PATIENCE, back).await.context("never delivered again")?
}
