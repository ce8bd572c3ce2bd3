//! Live rows of tables (live 1 to 3).

use anyhow::Result;
use realtime_testkit::Version;
use serde_json::{Value, json};

use crate::{
    live_client::{LiveClient, TOPIC, live, select, tasks},
    server,
};

const ALL: &str = "select * from public.tasks";

/// live 1: rows, then `complete`, then what changes.
#[tokio::test]
async fn rows_come_first_and_then_what_changes() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    for version in [Version::V2, Version::V1] {
        let socket = server.socket(version, "anon").await?;
        let binding = json!([live(json!({"order": "id.desc"}))]);
        let mut client = LiveClient::join(socket, binding, &[&["id"]], None).await?;
        client.complete().await?;
        let first = std::mem::take(&mut client.rows[0].told);
        assert_eq!(first, (1..=6).rev().map(|id| format!("INSERT {id}")).collect::<Vec<_>>());
        assert_eq!(client.rows[0].complete, Some(6));
        client.has(&select(&db, ALL, &["id"]).await?).await?;

        db.sql("insert into public.tasks values (7, 'new', false, 1)").await?;
        client.has(&select(&db, ALL, &["id"]).await?).await?;
        db.sql("update public.tasks set title = 'changed' where id = 7").await?;
        client.has(&select(&db, ALL, &["id"]).await?).await?;
        db.sql("update public.tasks set title = 'changed' where id = 7").await?;
        db.sql("delete from public.tasks where id = 7").await?;
        client.has(&select(&db, ALL, &["id"]).await?).await?;
        assert_eq!(client.news().await?, ["INSERT 7", "UPDATE 7", "DELETE 7"]);
        assert!(!client.was_warned(), "{:?}", client.systems);
    }
    Ok(())
}

/// The reply has what the client sent, and the id.
#[tokio::test]
async fn the_reply_is_what_was_sent() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let binding = json!({"event": "*", "schema": "public", "table": "tasks", "filter": "@live=eq.true,@order=eq.id,room=eq.1"});
    let (reply, _) = socket.join(TOPIC, json!({"config": {"postgres_changes": [binding]}})).await?;
    let mut entry = reply["response"]["postgres_changes"][0].clone();
    assert!(entry.as_object_mut().unwrap().remove("id").unwrap().as_u64().is_some());
    assert_eq!(entry, binding);
    let first = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(first["data"]["record"], json!({"id": 1, "title": "task 1", "done": false, "room": 1}));
    Ok(())
}

/// live 3, 5: a filter and a selection, without replica identity FULL.
#[tokio::test]
async fn rows_enter_change_and_leave_by_their_filter() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let binding = live(json!({"filter": "room=eq.1", "select": ["title"]}));
    let mut client = LiveClient::one(&server, "anon", binding, &["id"]).await?;
    client.news().await?;
    let expect = async |client: &mut LiveClient, sql: &str, told: &[&str]| -> Result<()> {
        db.sql(sql).await?;
        client.has(&select(&db, "select id, title from public.tasks where room = 1", &["id"]).await?).await?;
        assert_eq!(client.news().await?, told, "{sql}");
        Ok(())
    };
    expect(&mut client, "update public.tasks set room = 1 where id = 2", &["INSERT 2"]).await?;
    expect(&mut client, "update public.tasks set title = 'x' where id = 2", &["UPDATE 2"]).await?;
    expect(&mut client, "update public.tasks set done = not done where id = 2", &[]).await?;
    expect(&mut client, "update public.tasks set room = 2 where id = 2", &["DELETE 2"]).await?;
    expect(&mut client, "update public.tasks set id = 100 where id = 1", &["DELETE 1", "INSERT 100"]).await?;
    expect(&mut client, "delete from public.tasks where room = 2", &[]).await?;
    assert!(!client.was_warned());
    Ok(())
}

/// live 6
#[tokio::test]
async fn a_limit_pushes_out_and_lets_in() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let binding = live(json!({"order": "id.desc", "limit": 3}));
    let mut client = LiveClient::one(&server, "anon", binding, &["id"]).await?;
    assert_eq!(client.news().await?, ["INSERT 6", "INSERT 5", "INSERT 4"]);
    db.sql("insert into public.tasks values (7, 'new')").await?;
    let expected = "select * from public.tasks order by id desc limit 3";
    client.has(&select(&db, expected, &["id"]).await?).await?;
    assert_eq!(client.news().await?, ["DELETE 4", "INSERT 7"]);
    db.sql("delete from public.tasks where id = 6").await?;
    client.has(&select(&db, expected, &["id"]).await?).await?;
    assert_eq!(client.news().await?, ["DELETE 6", "INSERT 4"]);
    Ok(())
}

/// live 13: other bindings, broadcasts and presence of the channel are not disturbed.
#[tokio::test]
async fn several_bindings_of_a_channel() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let socket = server.socket(Version::V2, "anon").await?;
    let bindings = json!([
        live(json!({"filter": "room=eq.0"})),
        {"event": "*", "schema": "public", "table": "tasks"},
        live(json!({"filter": "room=eq.1", "order": "id"})),
        live(json!({"event": "DELETE"})),
    ]);
    let keys: [&[&str]; 4] = [&["id"], &[], &["id"], &["id"]];
    let mut client = LiveClient::join(socket, bindings, &keys, None).await?;
    client.complete().await?;
    assert_eq!(client.rows[0].map.keys().collect::<Vec<_>>(), ["3", "6"]);
    assert_eq!(client.rows[2].told, ["INSERT 1", "INSERT 4"]);
    assert_eq!(
        (client.rows[3].told.len(), client.rows[3].complete),
        (0, Some(6)),
        "only leaving is asked for"
    );
    db.sql("update public.tasks set room = 1 where id = 3; delete from public.tasks where id = 1").await?;
    client.news().await?;
    assert_eq!(client.rows[0].map.keys().collect::<Vec<_>>(), ["6"]);
    assert_eq!(client.rows[2].map.keys().collect::<Vec<_>>(), ["3", "4"]);
    assert_eq!(client.rows[3].told, ["DELETE 1"]);
    let plain: Vec<&Value> = client.plain.iter().map(|data| &data["type"]).collect();
    assert_eq!(plain, ["UPDATE", "DELETE"]);

    let broadcast = json!({"type": "broadcast", "event": "e", "payload": {"x": 1}});
    let mut other = server.socket(Version::V2, "anon").await?;
    other.join(TOPIC, json!({"config": {}})).await?;
    other.send(json!("1"), json!("9"), TOPIC, "broadcast", broadcast).await?;
    while !client.others.iter().any(|frame| frame.event == "broadcast") {
        client.step().await?;
    }
    assert!(!client.was_warned(), "{:?}", client.systems);
    Ok(())
}

/// live 15
#[tokio::test]
async fn a_column_named_live_stays_usable() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.streams (id int primary key, live bool);
         grant select on public.streams to anon;
         alter publication supabase_realtime add table public.streams;
         insert into public.streams values (1, true), (2, false)",
    )
    .await?;
    let binding =
        json!({"event": "*", "schema": "public", "table": "streams", "filter": "live=eq.true,@live=eq.true"});
    let mut client = LiveClient::one(&server, "anon", binding, &["id"]).await?;
    let shown = "select * from public.streams where live";
    client.has(&select(&db, shown, &["id"]).await?).await?;
    db.sql("update public.streams set live = not live").await?;
    client.has(&select(&db, shown, &["id"]).await?).await?;
    assert_eq!(client.news().await?.len(), 3);
    let mut plain = server.socket(Version::V2, "anon").await?;
    plain
        .watch("realtime:plain", json!([{"schema": "public", "table": "streams", "filter": "live=eq.true"}]))
        .await?;
    db.sql("insert into public.streams values (3, true)").await?;
    assert_eq!(plain.event("realtime:plain", "postgres_changes").await?["data"]["record"]["id"], 3);
    Ok(())
}

/// live 2: what commits while a result is read is told once; what was open then, when it commits.
#[tokio::test]
async fn snapshot_and_stream_meet() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    // A session of the log waits for transactions that were open before it.
    let _first = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    let mut open = db.connect().await?;
    let transaction = open.transaction().await?;
    transaction
        .batch_execute("insert into public.tasks values (50, 'open'); delete from public.tasks where id = 1")
        .await?;
    let mut clients = Vec::new();
    for at in 100..110 {
        db.sql(&format!("insert into public.tasks values ({at}, 'before')")).await?;
        let socket = server.socket(Version::V2, "anon").await?;
        let binding = json!([live(json!({"filter": format!("id=lt.{}", 1_000 + at)}))]);
        clients.push(LiveClient::join(socket, binding, &[&["id"]], None).await?);
        db.sql(&format!("update public.tasks set title = 'after' where id = {at}")).await?;
    }
    let expected = select(&db, ALL, &["id"]).await?;
    for client in &mut clients {
        client.complete().await?;
        client.has(&expected).await?;
        assert!(!client.rows[0].map.contains_key("50"));
    }
    transaction.commit().await?;
    let expected = select(&db, ALL, &["id"]).await?;
    for client in &mut clients {
        client.has(&expected).await?;
        let told = client.news().await?;
        let mut names: Vec<&String> = told.iter().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), told.len(), "told twice: {told:?}");
    }
    Ok(())
}

/// live 8: what one transaction does comes together.
#[tokio::test]
async fn a_transaction_is_told_at_once() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let mut client = LiveClient::one(&server, "anon", live(json!({})), &["id"]).await?;
    client.news().await?;
    db.sql("begin; update public.tasks set title = 'one'; update public.tasks set title = 'two'; delete from public.tasks where id > 3; commit").await?;
    client.has(&select(&db, ALL, &["id"]).await?).await?;
    let mut told = client.news().await?;
    told.sort_unstable();
    assert_eq!(told, ["DELETE 4", "DELETE 5", "DELETE 6", "UPDATE 1", "UPDATE 2", "UPDATE 3"]);
    Ok(())
}
