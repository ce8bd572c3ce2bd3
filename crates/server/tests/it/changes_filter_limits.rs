//! What filters may cost others, and what is told of them (decisions 20, 22).

use anyhow::Result;
use realtime_testkit::{Server, Socket, Version};
use serde_json::{Value, json};

use crate::server;

const TOPIC: &str = "realtime:any";

async fn watching(server: &Server, table: &str, filter: &str) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let subscription = json!({"event": "*", "schema": "public", "table": table, "filter": filter});
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

/// The text that subscriptions are refused with.
async fn refused(server: &Server, subscriptions: Value) -> Result<String> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": subscriptions}})).await?;
    let system = socket.event(TOPIC, "system").await?;
    assert_eq!(system["status"], "error", "{system}");
    Ok(system["message"].as_str().unwrap_or_default().to_owned())
}

/// The database compares such a pattern with a text of equal letters at every place: the longer both are, the longer it
/// takes.
fn slow_pattern() -> String {
    format!("%{}_b%", "a".repeat(400))
}

#[tokio::test]
async fn a_slow_filter_holds_up_nobody_else() -> Result<()> {
    let (server, db) = server().await?;
    let mut slow = watching(&server, "test", &format!("details=like.{}", slow_pattern())).await?;
    let mut other = watching(&server, "test", "").await?;
    let mut asked = watching(&server, "test", "details=gt.").await?;
    // Each of them takes the database several times as long as it may.
    let long = 300_000;
    db.sql(&format!(
        "insert into public.test (id, details) select n, repeat('a', {long}) from generate_series(1, 20) n;
         insert into public.test (id, details) values (21, repeat('a', 401) || 'b'), (22, 'no'), (23, repeat('a', 500) || 'b')"
    ))
    .await?;
    for n in 1..=23 {
        assert_eq!(other.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], n);
        assert_eq!(asked.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], n);
    }
    let told = slow.event(TOPIC, "system").await?;
    assert_eq!((&told["status"], &told["code"]), (&json!("warning"), &json!("FilterTooSlow")), "{told}");
    assert_eq!(told["message"], "A filter takes too long, changes are withheld: 57014 query_canceled");
    for n in [21, 23] {
        assert_eq!(slow.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], n, "in order");
    }
    assert!(slow.settle().await?.is_empty(), "told once");
    Ok(())
}

#[tokio::test]
async fn a_row_with_many_filters_is_sent_to_the_database_once() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let filter = |n: usize| json!({"event": "*", "schema": "public", "table": "test", "filter": format!("details=match.^(?=a).*{n}$")});
    let ids = socket.watch(TOPIC, (0..100).map(filter).collect()).await?;
    let before = peak(&server)?;
    db.sql("insert into public.test (id, details) values (1, repeat('a', 200000) || '7')").await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(change["ids"], json!([ids[7]]));
    // A copy for each filter is twenty megabytes, and as many in the message.
    let grown = peak(&server)?.saturating_sub(before);
    assert!(grown < 15_000, "{grown} kB for one row of 200");
    Ok(())
}

/// The most memory that a server has had, in kilobytes.
fn peak(server: &Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test]
async fn the_number_of_values_and_conditions_is_limited() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.m (id int primary key, num numeric); grant select on public.m to anon;
            alter publication supabase_realtime add table public.m",
    )
    .await?;
    let numbers = |from: usize| {
        let conditions: Vec<String> = (from..from + 100).map(|n| format!("num=neq.{n}.50")).collect();
        json!({"event": "*", "schema": "public", "table": "m", "filter": conditions.join(",")})
    };
    let text = refused(&server, (0..11).map(|n| numbers(n * 100)).collect()).await?;
    assert!(text.ends_with("too many different values in filters. Maximum 1000"), "{text}");
    let mut socket = server.socket(Version::V2, "anon").await?;
    let subscriptions: Value = (0..10).map(|n| numbers(n * 100)).collect();
    socket.watch(TOPIC, subscriptions).await?;
    let conditions = vec!["id=eq.1"; 101].join(",");
    let text = refused(&server, json!([{"schema": "public", "table": "test", "filter": conditions}])).await?;
    assert_eq!(text, "Error parsing `filter` params: filter must not have more than 100 conditions");
    Ok(())
}

#[tokio::test]
async fn the_first_value_that_is_refused_is_told_without_its_text() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.u (id uuid primary key, num numeric); grant select on public.u to anon;
         alter publication supabase_realtime add table public.u",
    )
    .await?;
    let of = |filter: &str| json!({"event": "*", "schema": "public", "table": "u", "filter": filter});
    let filters = ["num=gt.1.0", "num=gt.2.0,id=neq.ann: my IBAN is DE00", "num=eq.x"];
    let text = refused(&server, filters.iter().map(|filter| of(filter)).collect()).await?;
    assert!(text.ends_with("Exception: ERROR 22P02 (invalid_text_representation)"), "{text}");
    assert!(text.contains(r#"filters: [{"num", "gt", "2.0", false}, {"id","#), "which one: {text}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_in_the_log_cannot_be_filtered() -> Result<()> {
    let (server, db) = server().await?;
    let version = db.client().query_one("select current_setting('server_version_num')::int", &[]).await?;
    let version: i32 = version.get(0);
    let list = if version >= 150_000 { " (id, a)" } else { "" };
    db.sql(&format!(
        "create table public.g (id int primary key, a int, b int generated always as (a * 2) stored);
         create table public.h (id int primary key, a int, b int);
         grant select on public.g, public.h to anon;
         alter publication supabase_realtime add table public.g, public.h{list}"
    ))
    .await?;
    let of = |table: &str, filter: &str| json!([{"schema": "public", "table": table, "filter": filter}]);
    let why = "it is generated, or not in the column list of the publication";
    for table in ["g", "h"].into_iter().take(if version >= 150_000 { 2 } else { 1 }) {
        let text = refused(&server, of(table, "b=eq.2")).await?;
        assert!(text.ends_with(&format!("column b of the filter is not in the log: {why}")), "{text}");
        let mut socket = watching(&server, table, "a=eq.1").await?;
        db.sql(&format!("insert into public.{table} (id, a) values (1, 1)")).await?;
        socket.event(TOPIC, "postgres_changes").await?;
    }
    if version >= 180_000 {
        db.sql("alter publication supabase_realtime set (publish_generated_columns = stored)").await?;
        let mut socket = watching(&server, "g", "b=eq.10").await?;
        db.sql("insert into public.g (id, a) values (5, 5)").await?;
        assert_eq!(socket.event(TOPIC, "postgres_changes").await?["data"]["record"]["b"], 10);
        db.sql("alter publication supabase_realtime set (publish_generated_columns = none)").await?;
    }
    if version < 150_000 {
        return Ok(());
    }
    // The list changes while the table is watched.
    let mut socket = watching(&server, "g", "a=eq.2").await?;
    db.sql("alter publication supabase_realtime set table public.test, public.g (id); insert into public.g (id, a) values (2, 2)").await?;
    let told = socket.event(TOPIC, "system").await?;
    assert_eq!(told["status"], "warning", "{told}");
    assert!(told["message"].as_str().unwrap_or_default().contains("not in the log"), "{told}");
    Ok(())
}

#[tokio::test]
async fn extension_types_compare_wherever_their_schema_is() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create schema \"Odd ext\"; create extension citext schema \"Odd ext\"; create extension ltree schema \"Odd ext\";
         create domain public.nick as \"Odd ext\".citext;
         create table public.x (id int primary key, c \"Odd ext\".citext, l \"Odd ext\".ltree, n public.nick,
            cs \"Odd ext\".citext[]);
         grant select on public.x to anon; alter publication supabase_realtime add table public.x",
    )
    .await?;
    let mut sockets = Vec::new();
    for (filter, matches) in [
        ("c=eq.ANN", true),
        ("c=neq.aNN", false),
        ("c=in.(bob,ANN)", true),
        ("c=like.aN%", true),
        ("c=match.^aN", true),
        ("c=isdistinct.ANN", false),
        ("c=gt.ANM", true),
        ("n=eq.ANN", true),
        ("cs=eq.\"{ANN}\"", true),
        ("l=eq.a.b", true),
        ("l=lt.a.c", true),
    ] {
        sockets.push((filter, matches, watching(&server, "x", filter).await?));
    }
    db.sql("insert into public.x values (1, 'Ann', 'a.b', 'Ann', '{Ann}')").await?;
    for (filter, matches, socket) in &mut sockets {
        if *matches {
            assert_eq!(socket.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], 1, "{filter}");
        }
    }
    for (filter, matches, socket) in &mut sockets {
        assert!(*matches || socket.settle().await?.is_empty(), "{filter}");
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_filter_is_told_once() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = watching(&server, "test", "details=like.a%").await?;
    let mut other = watching(&server, "test", "").await?;
    let next = async |n: i32, other: &mut Socket| -> Result<()> {
        db.sql(&format!("insert into public.test (id) values ({n})")).await?;
        while other.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"] != n {}
        Ok(())
    };
    next(1, &mut other).await?;
    db.sql("alter table public.test alter details type int using 1").await?;
    next(2, &mut other).await?;
    let told = socket.event(TOPIC, "system").await?["message"].to_string();
    assert!(told.contains("operator like requires a text-compatible column type"), "{told}");
    for n in 3..6 {
        db.sql("analyze public.test").await?;
        next(n, &mut other).await?;
    }
    assert!(socket.settle().await?.is_empty(), "told once");
    // What comes to be refused again is told again.
    db.sql("alter table public.test alter details type text using 'abc'").await?;
    next(6, &mut other).await?;
    db.sql("alter table public.test alter details type int using 1").await?;
    next(7, &mut other).await?;
    let frame = socket.expect(|frame| frame.event == "system").await?;
    assert!(frame.payload["message"].to_string().contains("text-compatible"), "{:?}", frame.payload);
    Ok(())
}
