//! Live rows of views (live 3, case 7).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, TestDb, Version};
use serde_json::{Value, json};

use crate::{
    BINARY,
    live_client::{LiveClient, TOPIC, select, tasks},
    server,
};

async fn views(db: &TestDb) -> Result<()> {
    tasks(db).await?;
    db.sql(
        "create table public.rooms (room int primary key, name text);
         insert into public.rooms values (0, 'zero'), (1, 'one'), (2, 'two');
         grant select on public.rooms to anon;
         alter publication supabase_realtime add table public.rooms;
         create view public.shown as select t.id, t.title, r.name from public.tasks t join public.rooms r using (room);
         create view public.counts as select room, count(*) as tasks, bool_and(done) as done from public.tasks group by room;
         create view public.names as select name from public.shown;
         create view public.safe with (security_invoker = on) as select * from public.tasks;
         create table public.hidden (id int primary key);
         create view public.unseen as select h.id from public.hidden h;
         create materialized view public.stored as select * from public.tasks;
         grant select on all tables in schema public to anon",
    )
    .await
}

fn view(name: &str, more: Value) -> Value {
    let mut binding = json!({"event": "*", "schema": "public", "table": name});
    binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    binding
}

/// live 7, 8
#[tokio::test]
async fn views_are_kept() -> Result<()> {
    let (server, db) = server().await?;
    views(&db).await?;
    let mut shown = LiveClient::one(&server, "anon", view("shown", json!({})), &["id"]).await?;
    let mut counts =
        LiveClient::one(&server, "anon", view("counts", json!({"key": ["room"], "live": true})), &["room"])
            .await?;
    let mut names = LiveClient::one(&server, "anon", view("names", json!({})), &["name"]).await?;
    let mut safe = LiveClient::one(
        &server,
        "anon",
        view("safe", json!({"order": "id.desc", "limit": 2, "live": true})),
        &["id"],
    )
    .await?;
    for client in [&mut shown, &mut counts, &mut names, &mut safe] {
        client.news().await?;
    }
    db.sql("begin; update public.rooms set name = 'ONE' where room = 1; update public.tasks set room = 2, done = true where id in (1, 4); commit").await?;
    shown.has(&select(&db, "select * from public.shown", &["id"]).await?).await?;
    counts.has(&select(&db, "select * from public.counts", &["room"]).await?).await?;
    names.has(&select(&db, "select distinct name from public.names", &["name"]).await?).await?;
    safe.has(&select(&db, "select * from public.tasks order by id desc limit 2", &["id"]).await?).await?;
    let mut news = shown.news().await?;
    news.sort_unstable();
    assert_eq!(news, ["UPDATE 1", "UPDATE 4"]);
    let mut news = counts.news().await?;
    news.sort_unstable();
    assert_eq!(news, ["DELETE 1", "UPDATE 2"]);
    assert_eq!(names.news().await?, ["DELETE \"one\""], "the whole row is the key");
    assert_eq!(safe.news().await?, Vec::<String>::new());
    db.sql("create or replace view public.shown as select t.id, t.title, r.name, t.done from public.tasks t join public.rooms r using (room)").await?;
    shown.has(&select(&db, "select * from public.shown", &["id"]).await?).await?;
    assert!(![&shown, &counts, &names, &safe].iter().any(|client| client.was_warned()));
    Ok(())
}

async fn refused(server: &Server, binding: Value) -> Result<Value> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [binding]}})).await?;
    socket.event(TOPIC, "system").await
}

/// live 7: what cannot be kept is refused, with the table that is missing.
#[tokio::test]
async fn what_cannot_be_kept_is_refused() -> Result<()> {
    let (server, db) = server().await?;
    views(&db).await?;
    for (binding, reason) in [
        (view("unseen", json!({})), "public.hidden"),
        (view("hidden", json!({"live": true})), "alter publication"),
        (view("stored", json!({})), "LIVE_RECHECK_MS"),
        (view("nothing", json!({"live": true})), "Unable to subscribe"),
        (view("tasks", json!({"live": true, "limit": 20_000})), "LIVE_MAX_ROWS"),
        (view("tasks", json!({"live": true, "order": "nope"})), "nope"),
        (view("tasks", json!({"live": true, "limit": 0})), "`limit` must be"),
        (view("*", json!({"live": true})), "wildcard"),
    ] {
        let system = refused(&server, binding.clone()).await?;
        assert_eq!(system["status"], "error", "{binding}: {system}");
        assert!(system["message"].as_str().unwrap_or_default().contains(reason), "{binding}: {system}");
    }
    let duplicate = view("tasks", json!({"live": true, "key": ["room"]}));
    let socket = server.socket(Version::V2, "anon").await?;
    let mut client = LiveClient::join(socket, json!([duplicate]), &[&["room"]], None).await?;
    let told = client.told("LiveKeyNotUnique").await?;
    assert_eq!(told["status"], "warning");
    assert!(client.rows[0].map.is_empty(), "{:?}", client.rows);
    Ok(())
}

/// live 7: a materialized view is read again by the clock.
#[tokio::test]
async fn a_materialized_view_is_read_by_the_clock() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    views(&db).await?;
    let options = ServerOptions::default().env("LIVE_RECHECK_MS", "200");
    let server = Server::start(BINARY, &db, options).await?;
    let mut stored =
        LiveClient::one(&server, "anon", view("stored", json!({"key": ["id"]})), &["id"]).await?;
    db.sql("delete from public.tasks where id = 1; refresh materialized view public.stored").await?;
    stored.has(&select(&db, "select * from public.stored", &["id"]).await?).await?;
    Ok(())
}

/// live 1: a view is live in any case, and takes what live bindings ask.
#[tokio::test]
async fn a_view_takes_order_and_limit_without_live() -> Result<()> {
    let (server, db) = server().await?;
    views(&db).await?;
    let binding = view("safe", json!({"order": "id.desc", "limit": 2}));
    let mut safe = LiveClient::one(&server, "anon", binding, &["id"]).await?;
    let last = "select * from public.tasks order by id desc limit 2";
    safe.has(&select(&db, last, &["id"]).await?).await?;
    db.sql("insert into public.tasks values (7, 'seven')").await?;
    safe.has(&select(&db, last, &["id"]).await?).await?;
    let mut counts =
        LiveClient::one(&server, "anon", view("counts", json!({"key": ["room"]})), &["room"]).await?;
    counts.news().await?;
    db.sql("update public.tasks set done = true").await?;
    let news = counts.news().await?;
    assert!(!news.is_empty() && news.iter().all(|news| news.starts_with("UPDATE")), "{news:?}");
    let system = refused(&server, view("safe", json!({"limit": "x"}))).await?;
    assert!(system["message"].as_str().unwrap_or_default().contains("`limit` must be"), "{system}");
    Ok(())
}

/// What does not exist yet is refused, told, and begins when it exists.
#[tokio::test]
async fn what_does_not_exist_yet_begins_later() -> Result<()> {
    let (server, db) = server().await?;
    views(&db).await?;
    for (name, binding, made) in [
        ("later", json!({}), "create view public.later as select * from public.tasks"),
        ("sorted", json!({"live": true}), "create view public.sorted as select * from public.tasks"),
        (
            "fresh",
            json!({"live": true}),
            "create table public.fresh as select * from public.tasks; alter table public.fresh add primary key (id); alter publication supabase_realtime add table public.fresh",
        ),
    ] {
        let socket = server.socket(Version::V2, "anon").await?;
        let mut client = LiveClient::join(socket, json!([view(name, binding)]), &[&["id"]], None).await?;
        client.told("Unable to subscribe").await?;
        db.sql(&format!("{made}; grant select on public.{name} to anon")).await?;
        client.has(&select(&db, "select * from public.tasks", &["id"]).await?).await?;
    }
    Ok(())
}
