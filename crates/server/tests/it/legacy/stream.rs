//! What the stream engine sends to whom.

use anyhow::Result;
use realtime_testkit::{ServerOptions, TestDb, until};
use serde_json::{Value, json};

use super::{heard, joined, streaming, users};

/// legacy 19, 20
#[tokio::test]
async fn each_topic_gets_each_change() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[]).await?;
    let topics = ["realtime:*", "realtime:public", "realtime:public:users"];
    let mut all = joined(&server, &topics).await?;
    let mut one = joined(&server, &["realtime:public", "realtime:auth", "realtime:public:user"]).await?;
    db.sql("insert into users values (1, 'a')").await?;
    for topic in topics {
        assert_eq!(all.event(topic, "INSERT").await?["record"], json!({"id": "1", "name": "a"}));
    }
    assert_eq!(one.event("realtime:public", "INSERT").await?["record"]["id"], "1");
    assert_eq!([all.settle().await?.len(), one.settle().await?.len()], [0, 0]);
    Ok(())
}

/// legacy 19: with the frames that clients before 2020 need.
#[tokio::test]
async fn star_events_come_first() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[("LEGACY_PROFILE", "v0.10")]).await?;
    let mut socket = joined(&server, &["realtime:public:users"]).await?;
    db.sql("insert into users values (1, 'a')").await?;
    let (star, typed) = (socket.frame().await?, socket.frame().await?);
    assert_eq!((&star.event[..], &typed.event[..]), ("*", "INSERT"));
    assert_eq!(star.payload, typed.payload);
    assert!(typed.payload.get("errors").is_none());
    Ok(())
}

/// legacy 21, 22, 23, 24
#[tokio::test]
async fn values_have_topics() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[]).await?;
    let (short, long) = ("s".repeat(99), "l".repeat(100));
    let topics = [
        "realtime:*".to_owned(),
        "realtime:public:users:id=eq.1".to_owned(),
        "realtime:public:users:id.eq.1".to_owned(),
        "realtime:public:users:id=eq.01".to_owned(),
        "realtime:public:users:name=eq.Thomas Shelby".to_owned(),
        "realtime:public:users:name=eq.Ada".to_owned(),
        format!("realtime:public:users:name=eq.{short}"),
        format!("realtime:public:users:name=eq.{long}"),
        "realtime:public:users:name=eq.".to_owned(),
    ];
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut socket = joined(&server, &topics).await?;
    let mut after = async |statement: &str| -> Result<Vec<String>> {
        db.sql(&format!(
            "{statement}; insert into users values (-1, 'end'); delete from users where id = -1"
        ))
        .await?;
        let mut heard = heard(&mut socket, "-1").await?;
        assert_eq!(socket.event("realtime:*", "DELETE").await?["old_record"]["id"], "-1");
        heard.retain(|line| !line.starts_with("realtime:* "));
        Ok(heard.into_iter().map(|line| line.replace("realtime:public:users:", "")).collect())
    };
    let mut first = after("insert into users values (1, 'Thomas Shelby')").await?;
    first.sort();
    assert_eq!(first, ["id.eq.1 INSERT", "id=eq.1 INSERT", "name=eq.Thomas Shelby INSERT"]);
    let mut moved = after("update users set name = 'Ada' where id = 1").await?;
    moved.sort();
    assert_eq!(moved, ["id.eq.1 UPDATE", "id=eq.1 UPDATE", "name=eq.Ada UPDATE"]);
    // Of a deleted row only the key is known.
    let mut gone = after("delete from users where id = 1").await?;
    gone.sort();
    assert_eq!(gone, ["id.eq.1 DELETE", "id=eq.1 DELETE"]);
    db.sql("alter table users replica identity full").await?;
    assert_eq!(
        after(&format!("insert into users values (2, '{short}')")).await?,
        [format!("name=eq.{short} INSERT")]
    );
    assert_eq!(after("delete from users where id = 2").await?, [format!("name=eq.{short} DELETE")]);
    assert_eq!(after(&format!("insert into users values (3, '{long}')")).await?, [""; 0]);
    assert_eq!(after("insert into users values (4, null), (5, '')").await?, ["name=eq. INSERT"]);
    Ok(())
}

/// legacy 26
#[tokio::test]
async fn truncations() -> Result<()> {
    let db = users().await?;
    db.sql("create table teams (id int primary key); alter publication supabase_realtime add table teams")
        .await?;
    let server = streaming(&db, &[]).await?;
    let topics = ["realtime:*", "realtime:public", "realtime:public:users", "realtime:public:users:id=eq.1"];
    let mut socket = joined(&server, &topics).await?;
    db.sql("truncate users, teams; insert into users values (1, 'a')").await?;
    let mut heard = heard(&mut socket, "1").await?;
    heard.sort();
    let truncated = |topic: &str| format!("{topic} TRUNCATE");
    let mut expected: Vec<String> =
        ["realtime:*", "realtime:*", "realtime:public", "realtime:public", "realtime:public:users"]
            .map(truncated)
            .to_vec();
    expected.push("realtime:public INSERT".to_owned());
    expected.sort();
    assert_eq!(heard, expected);
    db.sql("truncate teams").await?;
    let mut payload = socket.event("realtime:*", "TRUNCATE").await?;
    assert!(payload["commit_timestamp"].take().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        payload,
        json!({"schema": "public", "table": "teams", "type": "TRUNCATE", "commit_timestamp": null})
    );
    Ok(())
}

/// legacy 30, 31, 32, 33, 34, 35
#[tokio::test]
async fn payloads() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(
        "create type mood as enum ('sad', 'ok');
         create domain moment as timestamptz;
         create table things (id bigint primary key, task text, done bool, price numeric(10,2), tags text[],
            doc jsonb, span int4range, feels mood, at timestamptz, local timestamp, day date, moment moment, blob bytea,
            user_id int8);
         alter publication supabase_realtime add table things;",
    )
    .await?;
    let (server, older) = (streaming(&db, &[]).await?, streaming(&db, &[("LEGACY_PROFILE", "v0.10")]).await?);
    let mut socket = joined(&server, &["realtime:*"]).await?;
    let mut before = joined(&older, &["realtime:*"]).await?;
    db.sql(
        "insert into things values (3, 'say \"hi\"', true, 1.5, '{a,\"b c\"}', '{\"a\": 1}', '[1,3)', 'ok',
            '2021-02-16 23:47:47.51613+00', '2021-02-16 23:47:47.51613', '2021-02-16', 'infinity', '\\x00ff', 1)",
    )
    .await?;
    let insert = socket.event("realtime:*", "INSERT").await?;
    assert_eq!(
        insert["record"],
        json!({"id": "3", "task": "say \"hi\"", "done": "t", "price": "1.50", "tags": "{a,\"b c\"}",
            "doc": "{\"a\": 1}", "span": "[1,3)", "feels": "ok", "at": "2021-02-16T23:47:47.51613Z",
            "local": "2021-02-16T23:47:47.51613Z", "day": "2021-02-16", "moment": "infinity", "blob": "\\x00ff",
            "user_id": "1"})
    );
    let record = &before.event("realtime:*", "INSERT").await?["record"];
    assert_eq!(record["at"], "2021-02-16 23:47:47.51613+00");
    assert_eq!(record["local"], "2021-02-16 23:47:47.51613");
    let columns: Vec<_> =
        insert["columns"].as_array().unwrap().iter().map(|column| column["type"].as_str().unwrap()).collect();
    assert_eq!(
        columns,
        [
            "int8",
            "text",
            "bool",
            "numeric",
            "_text",
            "jsonb",
            "int4range",
            "mood",
            "timestamptz",
            "timestamp",
            "date",
            "timestamptz",
            "bytea",
            "int8"
        ]
    );
    let none = 4_294_967_295_u32;
    assert_eq!(
        insert["columns"][0],
        json!({"name": "id", "type": "int8", "flags": ["key"], "type_modifier": none})
    );
    assert_eq!(
        insert["columns"][1],
        json!({"name": "task", "type": "text", "flags": [], "type_modifier": none})
    );
    assert!(insert["columns"][3]["type_modifier"].as_u64().unwrap() < u64::from(none));
    assert_eq!((&insert["errors"], &insert["type"]), (&Value::Null, &json!("INSERT")));

    db.sql("update things set id = 4, task = null").await?;
    let update = socket.event("realtime:*", "UPDATE").await?;
    assert_eq!((&update["old_record"], &update["record"]["id"]), (&json!({}), &json!("4")));
    assert_eq!(update["record"]["task"], Value::Null);
    db.sql("alter table things replica identity full; update things set task = 'x'").await?;
    let update = socket.event("realtime:*", "UPDATE").await?;
    assert_eq!((&update["old_record"]["id"], &update["old_record"]["task"]), (&json!("4"), &Value::Null));
    assert_eq!((&update["old_record"]["done"], &update["record"]["task"]), (&json!("t"), &json!("x")));
    db.sql(
        "create unique index by_user on things (user_id); alter table things alter user_id set not null;
         alter table things replica identity using index by_user; delete from things",
    )
    .await?;
    let delete = socket.event("realtime:*", "DELETE").await?;
    assert!(delete.get("record").is_none());
    assert_eq!((&delete["old_record"]["user_id"], &delete["old_record"]["id"]), (&json!("1"), &Value::Null));

    db.sql("begin; insert into things (id, user_id) values (10, 10); insert into things (id, user_id) values (11, 11), (12, 12), (13, 13), (9, 9); commit").await?;
    let mut times = Vec::new();
    for id in ["10", "11", "12", "13", "9"] {
        let change = socket.event("realtime:*", "INSERT").await?;
        assert_eq!(change["record"]["id"], id);
        times.push(change["commit_timestamp"].as_str().unwrap().to_owned());
    }
    times.dedup();
    assert_eq!((times.len(), times[0].len()), (1, "2021-02-22T05:22:19Z".len()));
    Ok(())
}

/// legacy 24, 32: a large value that an update leaves alone.
#[tokio::test]
async fn toasted_values() -> Result<()> {
    let db = users().await?;
    db.sql("alter table users add big text; alter table users alter big set storage external").await?;
    let server = streaming(&db, &[]).await?;
    let mut socket = joined(&server, &["realtime:*", "realtime:public:users:big=eq.unchanged_toast"]).await?;
    db.sql("insert into users values (1, 'a', repeat('x', 10000)); update users set name = 'b'").await?;
    assert_eq!(socket.event("realtime:*", "INSERT").await?["record"]["big"].as_str().unwrap().len(), 10000);
    assert_eq!(
        socket.event("realtime:*", "UPDATE").await?["record"],
        json!({"id": "1", "name": "b", "big": "unchanged_toast"})
    );
    assert_eq!(socket.settle().await?, []);
    Ok(())
}

/// legacy 27, 28, 29
#[tokio::test]
async fn what_may_be_broadcast() -> Result<()> {
    let db = users().await?;
    db.sql(
        "create schema auth; create table auth.users (id bigint primary key);
         create table done (id text primary key);
         alter publication supabase_realtime add table auth.users, done",
    )
    .await?;
    let dir = tempfile::tempdir()?;
    let topics = [
        "realtime:*",
        "realtime:public",
        "realtime:auth",
        "realtime:public:users",
        "realtime:public:users:id=eq.1",
    ];
    let insert = |relation: &str| json!({"relation": relation, "events": ["INSERT"]});
    for (at, (entries, expected)) in [
        (json!([insert("auth"), insert("public")]), &["realtime:auth", "realtime:public"][..]),
        (json!([insert("*")]), &["realtime:*", "realtime:*", "realtime:auth", "realtime:public"]),
        (json!([insert("public:*")]), &["realtime:public:users"]),
        (json!([insert("*:*:*")]), &["realtime:public:users:id=eq.1"]),
        (Value::Null, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{at}.json"));
        std::fs::write(
            &path,
            if entries.is_null() { json!({}) } else { json!({"realtime": entries}) }.to_string(),
        )?;
        let server = streaming(&db, &[("CONFIGURATION_FILE", path.to_str().unwrap())]).await?;
        let mut socket = joined(&server, &topics).await?;
        let mut everything = joined(&server, &["realtime:public:done:id=eq.x"]).await?;
        db.sql("insert into auth.users values (1); insert into users values (1, 'a'); update users set name = 'b'; delete from users; delete from auth.users").await?;
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            let frame = socket.frame().await?;
            assert_eq!(frame.event, "INSERT");
            heard.push(frame.topic);
        }
        heard.sort();
        assert_eq!(heard, expected);
        // Nothing else has come by the time that the log is past all of it.
        let end = "select pg_current_wal_insert_lsn()::text";
        let end: String = db.client().query_one(end, &[]).await?.get(0);
        let past = "select coalesce(bool_or(confirmed_flush_lsn >= $1::text::pg_lsn), false)
            from pg_replication_slots where database = current_database()";
        until("the log is read", || async { Ok(db.client().query_one(past, &[&end]).await?.get(0)) }).await?;
        assert_eq!([socket.settle().await?.len(), everything.settle().await?.len()], [0, 0]);
        server.stop().await?;
    }
    Ok(())
}

/// Both generations at once: a channel with `config` is of the second, whatever the other one's engine.
#[tokio::test]
async fn both_generations_at_once() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let options = ServerOptions::default().env("LEGACY_MODE", "stream").env("SECURE_CHANNELS", "true");
    let server = realtime_testkit::Server::start(crate::BINARY, &db, options).await?;
    super::logged(&server, "reading the log").await?;
    let mut socket = server.socket(realtime_testkit::Version::V1, "anon").await?;
    let topic = "realtime:public:test";
    super::join(&mut socket, topic).await?;
    socket.watch("realtime:new", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    db.sql("insert into test (id, details) values (7, 'a')").await?;
    assert_eq!(socket.event(topic, "INSERT").await?["record"]["id"], "7");
    assert_eq!(socket.event("realtime:new", "postgres_changes").await?["data"]["record"]["id"], 7);
    assert_eq!(socket.settle().await?, []);
    assert_eq!(server.http("GET", "/api/ping", &[], b"").await?.status, 200);
    Ok(())
}
