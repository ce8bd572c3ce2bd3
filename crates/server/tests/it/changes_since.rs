//! Clients that come back go on where they were: what comes, in which order (resume 1 to 3; its cases are numbered as there).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Frame, Server, ServerOptions, Socket, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::changes_images::{TOPIC, event, server, server_with};

pub async fn connect(server: &Server, version: Version, me: &str) -> Result<Socket> {
    let claims = json!({"role": "authenticated", "me": me, "sub": me, "exp": unix_now() + 3600});
    Socket::connect(server.port(), version, &sign(&claims)).await
}

/// A client of a table that goes on at a place.
pub async fn back(server: &Server, me: &str, table: &str, since: &Value) -> Result<Socket> {
    let mut socket = connect(server, Version::V2, me).await?;
    let entry = json!({"event": "*", "schema": "public", "table": table, "since": since});
    let (reply, _) = socket.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    if since.is_null() {
        socket.expect(|frame| frame.payload["message"] == "Subscribed to PostgreSQL").await?;
    }
    Ok(socket)
}

/// The next change.
pub async fn change(socket: &mut Socket) -> Result<Value> {
    Ok(socket.expect(|frame| frame.event == "postgres_changes").await?.payload["data"].clone())
}

/// What comes until the channel has caught up: the changes, and what was told of gaps.
pub async fn missed(socket: &mut Socket) -> Result<(Vec<(String, Value)>, Vec<Value>)> {
    let (mut changes, mut told) = (Vec::new(), Vec::new());
    loop {
        let Frame { event, payload, .. } = socket.frame().await?;
        match &*event {
            "postgres_changes" => changes.push(shown(&payload["data"])),
            "system" if payload["message"] == "Caught up" => {
                ensure!(payload["status"] == "ok" && payload["extension"] == "postgres_changes", "{payload}");
                return Ok((changes, told));
            }
            "system" if payload["status"] == "gap" => told.push(payload),
            _ => {}
        }
    }
}

/// The type, and the record or for a delete the old one.
pub fn shown(data: &Value) -> (String, Value) {
    let record = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
    (data["type"].as_str().unwrap_or_default().to_owned(), record.clone())
}

pub fn doc(id: i32, body: &str) -> Value {
    json!({"id": id, "owner": "ann", "body": body})
}

/// resume 1: each change that was missed comes, once and in order; then live ones do.
#[tokio::test]
async fn what_was_missed_comes_once_in_order() -> Result<()> {
    let (server, db) = server(
        "create table notes (id int primary key, owner text, body text);
        alter publication supabase_realtime add table notes;",
    )
    .await?;
    for (table, version, in_filter) in [
        ("docs", Version::V2, false),
        ("docs", Version::V1, true),
        ("notes", Version::V1, false),
        ("notes", Version::V2, true),
    ] {
        let mut first = back(&server, "ann", table, &Value::Null).await?;
        db.sql(&format!("insert into {table} values (0, 'ann', 'seen')")).await?;
        let seen = change(&mut first).await?;
        let since = seen["commit_timestamp"].as_str().context("time")?.to_owned();
        drop(first);
        db.sql(&format!("insert into {table} values (1, 'ann', 'a'), (2, 'ann', 'b'), (9, 'bob', 'hidden')"))
            .await?;
        db.sql(&format!("begin; update {table} set body = 'c' where id = 1; update {table} set body = 'd' where id = 1; commit")).await?;
        db.sql(&format!("delete from {table} where id = 2")).await?;
        let mut socket = connect(&server, version, "ann").await?;
        let entry = match in_filter {
            true => {
                json!({"event": "*", "schema": "public", "table": table, "filter": format!("owner=eq.ann,@since=eq.{since}")})
            }
            false => {
                json!({"event": "*", "schema": "public", "table": table, "filter": "owner=eq.ann", "since": since})
            }
        };
        let (reply, _) = socket.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
        ensure!(reply["status"] == "ok", "{reply}");
        let mut came = missed(&mut socket).await?;
        came.0.retain(|(kind, _)| kind != "DELETE");
        let expected = vec![
            event("INSERT", doc(0, "seen")),
            event("INSERT", doc(1, "a")),
            event("INSERT", doc(2, "b")),
            event("UPDATE", doc(1, "c")),
            event("UPDATE", doc(1, "d")),
        ];
        assert_eq!(came, (expected, vec![]), "{table}");
        db.sql(&format!("insert into {table} values (3, 'ann', 'live')")).await?;
        assert_eq!(shown(&change(&mut socket).await?), event("INSERT", doc(3, "live")));
        db.sql(&format!("delete from {table}")).await?;
    }
    Ok(())
}

/// resume 3: what a party may not see now does not come; what it may see now does, also of before it might.
#[tokio::test]
async fn what_was_missed_is_judged_as_of_now() -> Result<()> {
    let (server, db) = server("
        create table members (room int, who text, primary key (room, who));
        create table says (id int primary key, room int);
        alter table says enable row level security;
        create policy own on says to authenticated using (room in (select m.room from members m where m.who = me()));
        insert into members values (1, 'ann');
        alter publication supabase_realtime add table says, members;").await?;
    let mut first = back(&server, "ann", "says", &Value::Null).await?;
    db.sql("insert into says values (0, 1)").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    drop(first);
    db.sql("insert into says values (1, 1)").await?;
    db.sql("insert into says values (2, 2)").await?;
    db.sql("delete from members; insert into members values (2, 'ann')").await?;
    let mut socket = back(&server, "ann", "says", &since).await?;
    assert_eq!(missed(&mut socket).await?.0, [event("INSERT", json!({"id": 2, "room": 2}))]);
    db.sql("insert into says values (3, 1), (4, 2)").await?;
    assert_eq!(shown(&change(&mut socket).await?), event("INSERT", json!({"id": 4, "room": 2})));
    Ok(())
}

/// resume 4: rows are read as the table was described when they were written.
#[tokio::test]
async fn rows_of_before_an_alteration_are_read_as_they_were() -> Result<()> {
    let (server, db) = server(
        "create table notes (id int primary key, a int, b text);
        alter publication supabase_realtime add table notes;",
    )
    .await?;
    let mut first = back(&server, "ann", "notes", &Value::Null).await?;
    let mut witness = back(&server, "ann", "notes", &Value::Null).await?;
    db.sql("insert into notes values (0, 0, 'x')").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    drop(first);
    db.sql("insert into notes values (1, 10, 'old')").await?;
    // A live row is described by what the catalog has when it is read.
    let mut witnessed = vec![shown(&change(&mut witness).await?), shown(&change(&mut witness).await?)];
    db.sql("alter table notes drop column a, add column c bool").await?;
    db.sql("insert into notes values (2, 'new', true)").await?;
    witnessed.push(shown(&change(&mut witness).await?));
    let mut socket = back(&server, "ann", "notes", &since).await?;
    let came = missed(&mut socket).await?;
    assert_eq!(came, (witnessed, vec![]));
    assert_eq!(came.0[1], event("INSERT", json!({"id": 1, "a": 10, "b": "old"})));
    assert_eq!(came.0[2], event("INSERT", json!({"id": 2, "b": "new", "c": true})));
    db.sql("insert into notes values (3, 'live', false)").await?;
    for socket in [&mut socket, &mut witness] {
        assert_eq!(shown(&change(socket).await?), event("INSERT", json!({"id": 3, "b": "live", "c": false})));
    }
    Ok(())
}

/// resume 4: many rows of before alterations, under row-level security, while others go on.
#[tokio::test]
async fn many_rows_of_before_an_alteration_hold_up_nobody() -> Result<()> {
    let (server, db) = server("").await?;
    let mut witness = back(&server, "ann", "docs", &Value::Null).await?;
    db.sql("insert into docs values (0, 'ann', 'first')").await?;
    let since = change(&mut witness).await?["commit_timestamp"].clone();
    for turn in 0..3 {
        for id in 1..=200 {
            let id = turn * 200 + id;
            db.sql(&format!("insert into docs (id, owner, body) values ({id}, 'ann', 'x')")).await?;
            change(&mut witness).await?;
        }
        db.sql(&format!("alter table docs add column c{turn} int")).await?;
    }
    let mut returning = Vec::new();
    for _ in 0..5 {
        returning.push(back(&server, "ann", "docs", &since).await?);
    }
    db.sql("insert into docs (id, owner, body) values (1000, 'ann', 'live')").await?;
    assert_eq!(change(&mut witness).await?["record"]["id"], 1000);
    for mut socket in returning {
        let (mut came, told) = missed(&mut socket).await?;
        came.retain(|(_, record)| record["id"] != 1000);
        assert_eq!((came.len(), told), (601, vec![]));
    }
    Ok(())
}

/// Those who watched a table that was truncated while they were away are told.
#[tokio::test]
async fn truncated_tables_are_told_of_afterwards() -> Result<()> {
    let (server, db) = server("").await?;
    let mut first = back(&server, "ann", "docs", &Value::Null).await?;
    db.sql("insert into docs values (1, 'ann', 'a')").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    drop(first);
    db.sql("insert into docs values (2, 'ann', 'b')").await?;
    db.sql("truncate docs").await?;
    db.sql("insert into docs values (3, 'ann', 'c')").await?;
    let mut socket = back(&server, "ann", "docs", &since).await?;
    let (came, told) = missed(&mut socket).await?;
    assert_eq!(came.iter().map(|(_, record)| record["id"].clone()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(told.iter().map(|told| told["code"].clone()).collect::<Vec<_>>(), ["Truncated"]);
    Ok(())
}

/// What stands before a TRUNCATE comes before it is told of, also if the database has to be asked who sees it.
#[tokio::test]
async fn rows_from_before_a_truncation_come_before_it() -> Result<()> {
    let (server, db) = server(
        "create function opaque(id int) returns bool language plpgsql security definer as $$
            begin execute 'select 1'; return id > 0; end $$;
        create table asked (id int primary key);
        alter table asked enable row level security;
        create policy own on asked to authenticated using (opaque(id));
        alter publication supabase_realtime add table asked;",
    )
    .await?;
    let mut first = back(&server, "ann", "asked", &Value::Null).await?;
    db.sql("insert into asked values (1)").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    drop(first);
    db.sql("insert into asked values (2)").await?;
    db.sql("truncate asked").await?;
    db.sql("insert into asked values (3)").await?;
    let mut socket = back(&server, "ann", "asked", &since).await?;
    let mut came = Vec::new();
    loop {
        let Frame { event, payload, .. } = socket.frame().await?;
        match &*event {
            "postgres_changes" => came.push(payload["data"]["record"]["id"].clone()),
            "system" if payload["message"] == "Caught up" => break,
            "system" if payload["status"] == "gap" => came.push(payload["code"].clone()),
            _ => {}
        }
    }
    assert_eq!(Value::from(came), json!([1, 2, "Truncated", 3]));
    Ok(())
}

/// The rows of `says` that come until one has come, in their order.
async fn rows_until(socket: &mut Socket, last: i64) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        ids.push(change(socket).await?["record"]["id"].as_i64().context("id")?);
    }
    Ok(ids)
}

/// Rows whose policies read what is not in the stream wait for others before they are judged. Whoever comes back meanwhile
/// gets each of them once, and so does who was there.
#[tokio::test]
async fn rows_that_wait_for_others_come_once() -> Result<()> {
    const ROWS: i64 = 400;
    const BACK: i64 = 8;
    let options = ServerOptions::default()
        .env("POLICY_PUBLICATION", "off")
        .env("TENANT_MAX_EVENTS_PER_SECOND", "100000000");
    let (server, db) = server_with(
        "create table members (room int, who text, primary key (room, who));
        create table says (id int primary key, room int);
        alter table says enable row level security;
        create policy own on says to authenticated using (room in (select m.room from members m where m.who = me()));
        insert into members values (1, 'ann');
        alter publication supabase_realtime add table says;",
        options,
    )
    .await?;
    let mut live = back(&server, "ann", "says", &Value::Null).await?;
    db.sql("insert into says values (0, 1)").await?;
    let since = change(&mut live).await?["commit_timestamp"].clone();
    let writer = db.connect().await?;
    let write = async {
        for id in 1..=ROWS {
            writer.execute("insert into says values ($1::int8, 1)", &[&id]).await?;
        }
        anyhow::Ok(())
    };
    // One comes back after the other while rows are written.
    let come = async {
        let (mut came, mut sockets) = (vec![0], Vec::new());
        for at in 0..BACK {
            came.extend(rows_until(&mut live, (at + 1) * ROWS / (BACK + 1)).await?);
            sockets.push(back(&server, "ann", "says", &since).await?);
        }
        anyhow::Ok((came, sockets))
    };
    let ((), (mut came, mut sockets)) = tokio::try_join!(write, come)?;
    came.extend(rows_until(&mut live, ROWS).await?);
    let mut all = vec![Vec::new(); sockets.len()];
    for (ids, socket) in all.iter_mut().zip(&mut sockets) {
        ids.extend(rows_until(socket, ROWS).await?);
    }
    // What comes twice has come before the next row.
    db.sql(&format!("insert into says values ({}, 1)", ROWS + 1)).await?;
    sockets.push(live);
    all.push(came);
    let expected: Vec<i64> = (0..=ROWS + 1).collect();
    for (mut ids, mut socket) in all.into_iter().zip(sockets) {
        ids.extend(rows_until(&mut socket, ROWS + 1).await?);
        assert_eq!(ids, expected);
    }
    Ok(())
}

/// Many come back at once, one of them does not read, and others go on live meanwhile.
#[tokio::test]
async fn many_come_back_at_once() -> Result<()> {
    const ROWS: i64 = 600;
    let options = ServerOptions::fast();
    let (server, db) = server_with("", options).await?;
    let mut first = back(&server, "ann", "docs", &Value::Null).await?;
    db.sql("insert into docs values (0, 'ann', '')").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    for at in 0..ROWS / 20 {
        db.sql(&format!(
            "insert into docs select i, 'ann', repeat('x', 500) from generate_series({}, {}) i",
            at * 20 + 1,
            at * 20 + 20
        ))
        .await?;
    }
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(back(&server, "ann", "docs", &since).await?);
        // Some come while a pass is under way.
        db.sql(&format!("update docs set body = '{}' where id = 0", sockets.len())).await?;
    }
    let mut live = 0;
    while live < 50 {
        let data = change(&mut first).await?;
        live += usize::from(data["type"] == "UPDATE");
    }
    for (at, socket) in sockets.iter_mut().enumerate() {
        let (came, told) = missed(socket).await?;
        let inserts: Vec<i64> = came
            .iter()
            .filter(|(kind, _)| kind == "INSERT")
            .filter_map(|(_, record)| record["id"].as_i64())
            .collect();
        assert_eq!(inserts, (0..=ROWS).collect::<Vec<_>>(), "socket {at}");
        assert_eq!(told, Vec::<Value>::new());
        let mut updates: Vec<String> = came
            .iter()
            .filter(|(kind, _)| kind == "UPDATE")
            .filter_map(|(_, record)| Some(record["body"].as_str()?.to_owned()))
            .collect();
        while updates.len() < 50 {
            let (kind, record) = shown(&change(socket).await?);
            ensure!(kind == "UPDATE", "{kind} {record}");
            updates.push(record["body"].as_str().context("body")?.to_owned());
        }
        assert_eq!(updates, (1..=50).map(|n| n.to_string()).collect::<Vec<_>>(), "socket {at}");
    }
    Ok(())
}
