//! The official clients, unmodified, against the real binary.
//!
//! `scripts/test` installs them: npm packages in `clients/js`, a Python environment in `clients/python/.venv`.

mod program;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Link, Server, ServerOptions, TestDb, sign, token};
use serde_json::{Value, json};

pub use self::program::{Client, folder, node_in, python_in};
use crate::{
    BINARY,
    admin::{Admin, TENANT_SECRET, tenant_token},
    server,
};

/// A row is inserted, updated and deleted; what the client shows of it.
async fn changes(client: &mut Client, db: &TestDb) -> Result<()> {
    db.sql(
        "insert into public.test (details, binary_data) values ('hello, é', '\\x00ff');
         update public.test set details = 'changed'; delete from public.test",
    )
    .await?;
    let change = |kind: &str, new: Value, old: Value| json!({"index": 0, "eventType": kind, "schema": "public", "table": "test", "errors": null, "new": new, "old": old});
    let row = |details: &str| json!({"id": 1, "details": details, "binary_data": "00ff"});
    assert_eq!(client.next("change").await?, change("INSERT", row("hello, é"), json!({})));
    assert_eq!(client.next("change").await?, change("UPDATE", row("changed"), json!({"id": 1})));
    assert_eq!(client.next("change").await?, change("DELETE", json!({}), json!({"id": 1})));
    Ok(())
}

async fn javascript(vsn: &str) -> Result<()> {
    let (server, db) = server().await?;
    let every = json!([{"event": "*", "schema": "public", "table": "test"}]);
    let mut client = Client::javascript(&server, vsn, &every)?;
    let mut other = Client::javascript(
        &server,
        vsn,
        &json!([{"event": "INSERT", "schema": "public", "table": "test", "filter": "details=eq.no"}]),
    )?;
    client.ready().await?;
    other.ready().await?;
    changes(&mut client, &db).await?;
    db.sql("insert into public.test (details) values ('no')").await?;
    let change = other.next("change").await?;
    assert_eq!(
        (&change["eventType"], &change["new"]["details"]),
        (&json!("INSERT"), &json!("no")),
        "only what its filter lets through"
    );

    client.command(json!({"send": "cursor"})).await?;
    assert_eq!(client.next("sent").await?, "ok");
    assert_eq!(other.next("broadcast").await?, json!({"event": "cursor", "payload": {"n": 1}}));
    client.command(json!({"track": {"user": "a"}})).await?;
    assert_eq!(client.next("tracked").await?, "ok");
    while other.next("presence").await?.as_array().is_some_and(Vec::is_empty) {}
    client.command(json!({"leave": true})).await?;
    assert_eq!(client.next("left").await?, "ok");
    Ok(())
}

/// npm `@supabase/supabase-js` with serializer 2.0.0 (postgres_changes 118, 119; protocol 14)
#[tokio::test]
async fn javascript_with_serializer_2() -> Result<()> {
    javascript("2.0.0").await
}

/// npm `@supabase/supabase-js` with serializer 1.0.0
#[tokio::test]
async fn javascript_with_serializer_1() -> Result<()> {
    javascript("1.0.0").await
}

/// What the JavaScript client makes of values by the types in `columns` (postgres_changes 121)
#[tokio::test]
async fn javascript_reads_values() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.typed (id int8 primary key, n numeric, f float8, o oid, b bool, j json, jb jsonb, a int4[], d text[],
            ts timestamp, tz timestamptz, day date, t text, by bytea, m money);
         grant select on public.typed to anon; alter publication supabase_realtime add table public.typed",
    )
    .await?;
    let mut client =
        Client::javascript(&server, "2.0.0", &json!([{"event": "*", "schema": "public", "table": "typed"}]))?;
    client.ready().await?;
    db.sql(
        r#"insert into public.typed values (10, 1.50, 'NaN', 4294967295, false, '"[1,2,3]"', '{"k": ["v"]}', '{{1,2},{3,4}}',
            '{"{1}",NULL}', '2019-09-10 00:00:00', '2019-09-10 00:00:00.5+02', '2019-09-10', '{1,2}', '\x0a', 12.34)"#,
    )
    .await?;
    // A string in a json column is parsed once more: that is the client's way.
    let new = json!({"id": 10, "n": 1.5, "f": null, "o": 4_294_967_295_u32, "b": false, "j": [1, 2, 3], "jb": {"k": ["v"]},
        "a": [[1, 2], [3, 4]], "d": ["{1}", null], "ts": "2019-09-10T00:00:00", "tz": "2019-09-09T22:00:00.5+00:00",
        "day": "2019-09-10", "t": "{1,2}", "by": "0a", "m": "$12.34"});
    assert_eq!(client.next("change").await?["new"], new);
    Ok(())
}

/// PyPI `realtime`, which speaks the serializer of its own choice (protocol 14.10)
#[tokio::test]
async fn python() -> Result<()> {
    let (server, db) = server().await?;
    let every = json!([{"event": "*", "schema": "public", "table": "test"}]);
    let mut client = Client::python(&server, &every)?;
    client.ready().await?;
    changes(&mut client, &db).await?;
    client.command(json!({"send": "cursor"})).await?;
    assert_eq!(client.next("broadcast").await?["event"], "cursor");
    client.command(json!({"track": {"user": "a"}})).await?;
    while client.next("presence").await?.as_array().is_some_and(Vec::is_empty) {}
    Ok(())
}

/// PyPI `realtime`: a database that is away for a while ends no subscription; later changes arrive (clients 1)
#[tokio::test]
async fn python_outlives_its_database() -> Result<()> {
    let (server, db) = server().await?;
    let every = json!([{"event": "*", "schema": "public", "table": "test"}]);
    let mut client = Client::python(&server, &every)?;
    client.ready().await?;
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    for round in 0..2 {
        let name = db.name();
        let away = format!(
            "alter database {name} with allow_connections false; select pg_terminate_backend(pid)
             from pg_stat_activity where datname = '{name}' and application_name like 'realtime%'"
        );
        admin.batch_execute(&away).await?;
        server.logged("ReplicationConnectionDown").await?;
        admin.batch_execute(&format!("alter database {name} with allow_connections true")).await?;
        // The notice of the gap is none that it can read; that of the end is.
        assert_eq!(client.next("system").await?["message"], "Subscribed to PostgreSQL");
        db.sql(&format!("insert into public.test (details) values ('{round}')")).await?;
        assert_eq!(client.next("change").await?["new"]["details"], json!(round.to_string()));
    }
    Ok(())
}

/// PyPI `realtime`: an application that keeps where it was gets every change, in order, over a network that is cut again
/// and again (resume 1)
#[tokio::test]
async fn python_goes_on_where_it_was() -> Result<()> {
    let (server, db) = server().await?;
    let link = Link::to(server.port()).await?;
    let mut command = python_in("python", "python")?;
    command.args(["since.py", &format!("ws://localhost:{}", link.port()), &token("anon")]);
    let mut client = Client::start(command)?;
    client.ready().await?;
    let insert = "insert into public.test (details) values ('x')";
    let mut last = 0;
    for round in 0..3 {
        db.sql(insert).await?;
        last = follows(&mut client, last, 1).await?;
        link.cut();
        for _ in 0..=round {
            db.sql(insert).await?;
        }
        link.mend();
        last = follows(&mut client, last, round + 1).await?;
    }
    db.sql(insert).await?;
    assert_eq!(follows(&mut client, last, 1).await?, 10);
    Ok(())
}

/// Waits until so many changes have come behind the last one. What has come before may come again, but nothing is left
/// out.
async fn follows(client: &mut Client, last: i64, more: i64) -> Result<i64> {
    let mut came = last;
    while came < last + more {
        let id = client.next("change").await?.as_i64().context("id")?;
        ensure!(id <= came + 1, "{id} came after {came}");
        came = came.max(id);
    }
    Ok(came)
}

/// Every official client in one channel: what each says reaches each other, as text, over HTTP and, where both
/// ends can, as bytes; all see who is present. supabase-js newest in both serializers, supabase-js 2.39, PyPI
/// `realtime`, npm `phoenix` over a WebSocket and over long-poll. (protocol 1.11, 41, 44, 45, 58, 61, 69)
#[tokio::test]
async fn all_clients_in_one_channel() -> Result<()> {
    let db = TestDb::new().await?;
    // Old clients do not ask for presence.
    let options = ServerOptions::default().env("TENANT_PRESENCE_ENABLED", "true");
    let server = Server::start(BINARY, &db, options).await?;
    let newest = "@supabase/supabase-js";
    // Clients by name; the second value tells who speaks bytes.
    let mut clients = vec![
        ("newest", true, Client::talk(&server, &["talk.mjs", newest], "newest", Some("2.0.0"))?),
        ("second", true, Client::talk(&server, &["talk.mjs", newest], "second", None)?),
        ("newest-v1", false, Client::talk(&server, &["talk.mjs", newest], "newest-v1", Some("1.0.0"))?),
        ("v2.39", false, Client::talk(&server, &["talk.mjs", "supabase-js-2.39"], "v2.39", None)?),
        ("python", false, Client::talk_python(&server, "python")?),
        ("phoenix", false, Client::talk(&server, &["phoenix.mjs", "websocket"], "phoenix", None)?),
        ("longpoll", false, Client::talk(&server, &["phoenix.mjs", "longpoll"], "longpoll", None)?),
    ];
    for (name, _, client) in &mut clients {
        assert_eq!(client.next("status").await.context(*name)?, "SUBSCRIBED", "{name}");
    }

    for speaker in 0..clients.len() {
        let name = clients[speaker].0;
        let payload = json!({"from": name, "text": "hello, é"});
        clients[speaker].2.command(json!({ "send": payload })).await?;
        assert_eq!(clients[speaker].2.next("sent").await?, "ok", "{name}");
        for (listener, (to, _, client)) in clients.iter_mut().enumerate() {
            if listener != speaker {
                let heard = client.next("broadcast").await.with_context(|| format!("{name} to {to}"))?;
                assert_eq!(heard, json!({"event": "text", "payload": payload}), "{name} to {to}");
            }
        }
    }

    for speaker in [0, 1] {
        clients[speaker].2.command(json!({"bytes": [0, 255, 7]})).await?;
        assert_eq!(clients[speaker].2.next("sent").await?, "ok");
        let heard = clients[1 - speaker].2.next("broadcast").await?;
        assert_eq!(heard, json!({"event": "bytes", "payload": {"bytes": [0, 255, 7]}}));
    }

    clients[0].2.command(json!({"rest": {"n": 1}})).await?;
    for (name, _, client) in &mut clients {
        // Who does not speak bytes was not told of them.
        let heard = client.next("broadcast").await.with_context(|| format!("over HTTP to {name}"))?;
        assert_eq!(heard, json!({"event": "rest", "payload": {"n": 1}}), "{name}");
    }

    let mut present = json!({});
    for (name, _, client) in &mut clients {
        client.command(json!({ "track": name })).await?;
        assert_eq!(client.next("tracked").await?, "ok", "{name}");
        present[*name] = json!([name]);
    }
    for (name, _, client) in &mut clients {
        client.sees(&present).await.context(*name)?;
    }
    let mut gone = clients.remove(0);
    gone.2.command(json!({"untrack": true})).await?;
    assert_eq!(gone.2.next("untracked").await?, "ok");
    present.as_object_mut().context("object")?.remove("newest");
    for (name, _, client) in &mut clients {
        client.sees(&present).await.context(*name)?;
    }
    // A client that ends without a word is gone for the others.
    drop(clients.remove(0));
    present.as_object_mut().context("object")?.remove("second");
    for (name, _, client) in &mut clients {
        client.sees(&present).await.context(*name)?;
    }
    Ok(())
}

/// The official JavaScript client in private channels, with one serializer: joins and writes allowed and denied,
/// policies for presence alone, broadcasts from the database, replay, a token that reads less.
async fn private_channels(vsn: &str) -> Result<()> {
    let (server, db) = crate::private::server().await?;
    let quiet = json!({});
    let loud = json!({"ack": true, "self": true});
    let mut denied = Client::private(&server, vsn, "anon", "room-1", &quiet, false)?;
    let (status, error) = denied.status().await?;
    let reason = "Unauthorized: You do not have permissions to read from this Channel topic: room-1";
    assert_eq!(status, "CHANNEL_ERROR");
    assert!(error.as_str().is_some_and(|error| error.contains(reason)), "{error}");
    drop(denied);

    let mut writer = Client::private(&server, vsn, "authenticated", "room-1", &loud, false)?;
    let mut reader = Client::private(&server, vsn, "authenticated", "ro-1", &loud, false)?;
    let mut present = Client::private(&server, vsn, "authenticated", "presence-1", &loud, true)?;
    let ready = json!({"replication_ready": true});
    let mut listener = Client::private(&server, vsn, "authenticated", "room-1", &ready, false)?;
    for client in [&mut writer, &mut reader, &mut present, &mut listener] {
        assert_eq!(client.status().await?.0, "SUBSCRIBED");
    }
    let ready = listener.next("system").await.context("not ready")?;
    assert_eq!(ready["message"], "Replication connection established");
    writer.command(json!({"send": {"n": 1}})).await?;
    let heard = json!({"event": "text", "payload": {"n": 1}, "meta": null});
    assert_eq!(writer.next("broadcast").await?, heard);
    assert_eq!(writer.next("sent").await?, "ok");
    reader.command(json!({"send": {"n": 1}})).await?;
    assert_eq!(reader.next("sent").await?, "error", "it is told, not left to time out");
    present.command(json!({"track": "me"})).await?;
    while present.next("presence").await? != 1 {}
    present.command(json!({"send": {"n": 1}})).await?;
    assert_eq!(present.next("sent").await?, "error");

    assert_eq!(listener.next("broadcast").await?, heard);
    db.sql(crate::private::TELLING).await?;
    db.sql(
        "insert into public.bc values (1, 'x'); update public.bc set v = 'y'; delete from public.bc;
         select realtime.send('{\"n\": 2}', 'sent', 'room-1');
         select realtime.send_binary('\\x07ff', 'bytes', 'room-1');",
    )
    .await?;
    let (x, y) = (json!({"id": 1, "v": "x"}), json!({"id": 1, "v": "y"}));
    for (event, record, old) in
        [("INSERT", &x, &Value::Null), ("UPDATE", &y, &x), ("DELETE", &Value::Null, &y)]
    {
        let seen = listener.next("broadcast").await?;
        assert_eq!((&seen["event"], &seen["payload"]["operation"]), (&json!(event), &json!(event)));
        assert_eq!((&seen["payload"]["record"], &seen["payload"]["old_record"]), (record, old));
        assert_eq!(seen["payload"]["id"], seen["meta"]["id"]);
    }
    let sent = listener.next("broadcast").await?;
    assert_eq!((&sent["event"], &sent["payload"]["n"]), (&json!("sent"), &json!(2)));
    if vsn == "2.0.0" {
        let bytes = listener.next("broadcast").await?;
        assert_eq!((&bytes["event"], &bytes["payload"]), (&json!("bytes"), &json!({"bytes": [7, 255]})));
    }

    let since = (realtime_testkit::unix_now() - 600) * 1000;
    let replay = json!({"replay": {"since": since, "limit": 10}});
    let mut late = Client::private(&server, vsn, "authenticated", "room-1", &replay, false)?;
    for event in ["INSERT", "UPDATE", "DELETE", "sent"] {
        let seen = late.next("broadcast").await?;
        assert_eq!((&seen["event"], &seen["meta"]["replayed"]), (&json!(event), &json!(true)));
    }

    writer.command(json!({"auth": token("anon")})).await?;
    let system = writer.next("system").await.context("the new token changed nothing")?;
    let text = "You do not have permissions to read from this Channel topic: room-1";
    assert_eq!((&system["status"], &system["message"]), (&json!("error"), &json!(text)));
    assert_eq!(writer.next("status").await?, "CLOSED");
    Ok(())
}

/// npm `@supabase/supabase-js` in private channels, serializer 2.0.0 (protocol 51 to 53, 57, 71, 79, 81, 82, 83;
/// tenant_database 20, 26, 30, 42 to 45, 66)
#[tokio::test]
async fn javascript_in_private_channels() -> Result<()> {
    private_channels("2.0.0").await
}

/// npm `@supabase/supabase-js` in private channels, serializer 1.0.0, which carries no bytes
#[tokio::test]
async fn javascript_in_private_channels_with_serializer_1() -> Result<()> {
    private_channels("1.0.0").await
}

/// A tenant made as the seed of the reference makes it, used by the official client at its own address until its secret
/// changes. http_and_ops 9, 20; protocol 93
#[tokio::test]
async fn a_tenant_made_over_http() -> Result<()> {
    let admin = Admin::start().await?;
    let db = TestDb::with_fixture_a().await?;
    let place: std::collections::HashMap<_, _> = db.env().await?.into_iter().collect();
    let body = format!(
        r#"{{"tenant":{{"name":"realtime-dev","external_id":"realtime-dev",
            "jwt_secret":"a1d99c8b-91b6-47b2-8f3c-aa7d9a9ad20f","extensions":[{{"type":"postgres_cdc_rls","settings":{{
            "db_name":"{}","db_host":"{}","db_user":"{}","db_password":"{}","db_port":"{}","region":"us-west-1",
            "poll_interval_ms":100,"poll_max_record_bytes":1048576,"ssl_enforced":false}}}}]}}}}"#,
        place["DB_NAME"], place["DB_HOST"], place["DB_USER"], place["DB_PASSWORD"], place["DB_PORT"]
    );
    let bearer = format!("Bearer {}", sign(&json!({})));
    let headers = [("Content-Type", "application/json"), ("Authorization", &*bearer)];
    let made = admin.server.http("POST", "/api/tenants", &headers, body.as_bytes()).await?;
    ensure!(made.status == 201, "{made:?}");

    let token = tenant_token(TENANT_SECRET);
    let every = json!([{"event": "*", "schema": "public", "table": "test"}]);
    let mut client = Client::of_tenant(&admin.server, "realtime-dev", &token, &every)?;
    client.ready().await?;
    changes(&mut client, &db).await?;
    client.command(json!({"send": "cursor"})).await?;
    assert_eq!(client.next("sent").await?, "ok");

    admin.change("realtime-dev", json!({"jwt_secret": "another-secret"})).await?;
    assert_eq!(client.next("system").await?["message"], "Server requested disconnect");
    // Its token is worth nothing any more: it is not let in again.
    assert_ne!(client.status().await?.0, "SUBSCRIBED");
    let token = tenant_token("another-secret");
    let mut client = Client::of_tenant(&admin.server, "realtime-dev", &token, &every)?;
    client.ready().await?;
    db.sql("alter sequence public.test_id_seq restart").await?;
    changes(&mut client, &db).await
}
