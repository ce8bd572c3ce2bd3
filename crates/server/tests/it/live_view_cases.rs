//! Live rows of views, more closely: whose rights count, what tells rows apart, queries that do not end (live 7 to 9).

use anyhow::{Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{Server, ServerOptions, TestDb, Version, sign, unix_now, until};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    BINARY,
    live_client::{LiveClient, Map, select},
    server,
};

/// Customers, their orders, and what was ordered. Orders are under row-level security for `authenticated`.
async fn shop(db: &TestDb) -> Result<()> {
    db.sql(
        "create table public.customers (id int primary key, name text);
         create table public.orders (id int primary key, customer int, note text);
         create table public.items (order_id int, n int, what text, primary key (order_id, n));
         create table public.members (customer int, who text, primary key (customer, who));
         insert into public.customers select n, 'c' || n from generate_series(1, 4) n;
         insert into public.orders select n, n % 4 + 1, 'note ' || n % 3 from generate_series(1, 12) n;
         insert into public.items select n, 1, 'tea' from generate_series(1, 12) n;
         insert into public.members values (1, 'ann'), (2, 'ann'), (2, 'bob'), (3, 'bob');
         alter table public.orders enable row level security;
         create policy own on public.orders for select to authenticated using (customer in
            (select m.customer from public.members m where m.who = current_setting('request.jwt.claims', true)::jsonb ->> 'sub'));
         alter publication supabase_realtime add table public.customers, public.orders, public.items, public.members;
         create view public.joined as select o.id, o.note, c.name from public.orders o join public.customers c on c.id = o.customer;
         create view public.own with (security_invoker = on) as
            select o.id, o.note, c.name from public.orders o join public.customers c on c.id = o.customer;
         create view public.lines with (security_invoker = on) as select i.order_id, i.n, i.what, o.note
            from public.items i left join public.orders o on o.id = i.order_id;
         create view public.totals with (security_invoker = on) as
            select customer, count(*) as n, max(note) as last from public.orders group by customer;
         create view public.notes with (security_invoker = on) as select note from public.orders;
         create view public.deep with (security_invoker = on) as select id, upper(note) as note from public.own where name <> 'c3';
         grant select on all tables in schema public to anon, authenticated",
    )
    .await
}

fn view(name: &str, more: Value) -> Value {
    let mut binding = json!({"event": "*", "schema": "public", "table": name, "live": true});
    binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    binding
}

async fn join(server: &Server, sub: &str, binding: Value, key: &[&str]) -> Result<LiveClient> {
    let token = sign(&json!({"role": "authenticated", "sub": sub, "exp": unix_now() + 3_600}));
    let socket = server.socket(Version::V2, "authenticated").await?;
    let mut client = LiveClient::join(socket, json!([binding]), &[key], Some(&token)).await?;
    client.complete().await?;
    Ok(client)
}

/// What `select` shows somebody.
async fn shown(db: &Client, sub: &str, query: &str, key: &[&str]) -> Result<Map> {
    let claims = json!({"role": "authenticated", "sub": sub}).to_string();
    db.batch_execute("begin").await?;
    db.execute(
        "select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)",
        &[&claims],
    )
    .await?;
    let rows = db.query(&format!("select to_jsonb(q)::text from ({query}) q"), &[]).await?;
    db.batch_execute("rollback").await?;
    let mut map = Map::new();
    for row in rows {
        let record: Value = serde_json::from_str(row.get(0))?;
        let values: Vec<String> = key.iter().map(|key| record[key].to_string()).collect();
        map.insert(values.join("/"), record);
    }
    Ok(map)
}

/// A statement of a random commit.
fn statement(random: &mut StdRng) -> String {
    let (order, customer, n) =
        (random.random_range(1..20), random.random_range(1..5), random.random_range(1..4));
    let who = ["ann", "bob", "eve"].choose(random).unwrap();
    match random.random_range(0..14) {
        0 | 1 => format!(
            "insert into public.orders values ({order}, {customer}, 'note {n}') on conflict do nothing"
        ),
        2 | 3 => {
            format!("update public.orders set note = 'note {n}', customer = {customer} where id = {order}")
        }
        4 => format!(
            "update public.orders set id = id + 100 where id = {order} and not exists (select from public.orders where id = {order} + 100)"
        ),
        5 => format!("delete from public.orders where id in ({order}, {order} + 100)"),
        6 => format!("update public.customers set name = 'c' || {n} where id = {customer}"),
        7 => format!("delete from public.customers where id = {customer}"),
        8 => format!("insert into public.customers values ({customer}, 'new') on conflict do nothing"),
        9 => format!(
            "insert into public.items values ({order}, {n}, 'milk') on conflict (order_id, n) do update set what = 'more'"
        ),
        10 => format!("delete from public.items where order_id = {order}"),
        11 => format!("insert into public.members values ({customer}, '{who}') on conflict do nothing"),
        12 => format!("delete from public.members where customer = {customer} and who = '{who}'"),
        _ => format!("update public.orders set note = null where customer = {customer}"),
    }
}

/// Whatever is committed, every client's rows are those that `select` shows its party.
#[tokio::test]
async fn views_show_each_party_what_select_shows_it() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (server, db) = server().await?;
    shop(&db).await?;
    let reader = db.connect().await?;
    let asked: [(Value, &str, &[&str]); 8] = [
        (view("joined", json!({})), "select * from public.joined", &["id"]),
        (view("own", json!({})), "select * from public.own", &["id"]),
        (
            view("own", json!({"filter": "name=neq.c2", "order": "note.desc.nullslast", "limit": 3})),
            "select * from public.own where name <> 'c2' order by note desc nulls last, id limit 3",
            &["id"],
        ),
        (view("lines", json!({"key": ["order_id", "n"]})), "select * from public.lines", &["order_id", "n"]),
        (view("totals", json!({"key": ["customer"]})), "select * from public.totals", &["customer"]),
        (view("totals", json!({})), "select * from public.totals", &["customer", "n", "last"]),
        (view("notes", json!({})), "select distinct note from public.notes", &["note"]),
        (view("deep", json!({})), "select * from public.deep", &["id"]),
    ];
    let mut clients = Vec::new();
    for sub in ["ann", "bob"] {
        for (binding, query, key) in &asked {
            clients.push((sub, *query, *key, join(&server, sub, binding.clone(), key).await?));
        }
    }
    for round in 0..25 {
        for _ in 0..random.random_range(1..4) {
            let statements: Vec<String> =
                (0..random.random_range(1..5)).map(|_| statement(&mut random)).collect();
            let end = if random.random_bool(0.1) { "rollback" } else { "commit" };
            db.sql(&format!("begin; {}; {end}", statements.join("; "))).await?;
        }
        if round == 12 {
            db.sql("truncate public.items; alter view public.joined set (security_invoker = on)").await?;
        }
        for (sub, query, key, client) in &mut clients {
            let expected = shown(&reader, sub, query, key).await?;
            client.has(&expected).await?;
        }
    }
    for (sub, query, key, client) in &mut clients {
        client.news().await?;
        ensure!(
            client.rows[0].map == shown(&reader, sub, query, key).await?,
            "{sub} {query}: it does not stay so"
        );
        ensure!(!client.was_warned(), "{sub} {query}: {:?}", client.systems);
    }
    Ok(())
}

/// live 8: however many tables of a view a transaction changes, it is read once and told once.
#[tokio::test]
async fn a_transaction_makes_one_run_and_one_set_of_messages() -> Result<()> {
    let db = TestDb::alone().await?;
    shop(&db).await?;
    db.sql(&format!("alter database {} set log_statement = 'all'", db.name())).await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut joined = join(&server, "ann", view("joined", json!({})), &["id"]).await?;
    let runs = || anyhow::Ok(db.log()?.matches("declare live_rows").count());
    let mut all = 0;
    for round in 0..5 {
        joined.news().await?;
        let before = runs()?;
        db.sql(&format!(
            "begin; update public.customers set name = 'x{round}'; update public.orders set note = 'y' where id < 3;
             insert into public.orders values ({0}, 1, 'new'); update public.orders set note = 'z{round}' where id < 3;
             delete from public.orders where id = {0} - 1 and id > 30; commit",
            31 + round
        ))
        .await?;
        joined.has(&select(&db, "select * from public.joined", &["id"]).await?).await?;
        let mut told = joined.news().await?;
        let count = told.len();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), count, "each row is told once: {told:?}");
        all += runs()? - before;
    }
    // A commit that is in the log before others see it makes a second run, and so does a look at the catalog: not each time.
    assert!((5..10).contains(&all), "{all} runs for five transactions of five statements on two tables");
    // What changes nothing of it is not told, and a table that it does not read costs nothing.
    let before = runs()?;
    db.sql("update public.customers set name = name; update public.members set who = who; insert into public.items values (50, 1, 'x')").await?;
    assert_eq!(joined.news().await?, Vec::<String>::new());
    assert!(runs()? - before <= 3);
    Ok(())
}

/// live 7: rows that are the same are one row; it leaves with the last of them.
#[tokio::test]
async fn a_view_without_a_key_shows_each_row_once() -> Result<()> {
    let (server, db) = server().await?;
    shop(&db).await?;
    db.sql("update public.orders set note = case when id < 3 then 'same' else 'other' end; insert into public.members select n, 'all' from generate_series(1, 4) n").await?;
    let mut notes = join(&server, "all", view("notes", json!({})), &["note"]).await?;
    let mut told = notes.news().await?;
    told.sort_unstable();
    assert_eq!(told, ["INSERT \"other\"", "INSERT \"same\""]);
    db.sql("delete from public.orders where id = 1").await?;
    assert_eq!(notes.news().await?, Vec::<String>::new());
    db.sql("delete from public.orders where id = 2; update public.orders set note = null where id = 3")
        .await?;
    notes.has(&shown(db.client(), "all", "select distinct note from public.notes", &["note"]).await?).await?;
    let mut told = notes.news().await?;
    told.sort_unstable();
    assert_eq!(told, ["DELETE \"same\"", "INSERT null"]);
    assert!(!notes.was_warned());
    Ok(())
}

/// live 7: a key that tells rows apart at first, and no more later.
#[tokio::test]
async fn a_key_that_is_none_any_more_ends_the_result() -> Result<()> {
    let (server, db) = server().await?;
    shop(&db).await?;
    db.sql("delete from public.items where order_id > 3").await?;
    let mut lines =
        LiveClient::one(&server, "anon", view("lines", json!({"key": ["order_id"]})), &["order_id"]).await?;
    assert_eq!(lines.rows[0].map.len(), 3);
    db.sql("insert into public.items values (2, 2, 'milk')").await?;
    let told = lines.told("LiveKeyNotUnique").await?;
    assert_eq!(told["status"], "warning");
    assert!(lines.rows[0].map.is_empty());
    lines.systems.clear();
    db.sql("delete from public.items where n = 2").await?;
    let again =
        LiveClient::one(&server, "anon", view("lines", json!({"key": ["order_id"]})), &["order_id"]).await?;
    assert_eq!(again.rows[0].map.len(), 3);
    Ok(())
}

/// Rights on a view, what it says and whether it is there change without a word of the log.
#[tokio::test]
async fn what_becomes_of_a_view_is_followed() -> Result<()> {
    let (server, db) = server().await?;
    shop(&db).await?;
    let mut own = join(&server, "ann", view("own", json!({})), &["id"]).await?;
    let all = "select * from public.own";
    let has = async |own: &mut LiveClient| -> Result<()> {
        own.has(&shown(db.client(), "ann", all, &["id"]).await?).await
    };
    let before = own.rows[0].map.len();
    db.sql("alter view public.own set (security_invoker = off)").await?;
    has(&mut own).await?;
    assert!(own.rows[0].map.len() > before, "with the rights of the owner");
    db.sql("alter view public.own set (security_invoker = on)").await?;
    has(&mut own).await?;
    db.sql("create or replace view public.own with (security_invoker = on) as select o.id, o.note, c.name, i.what from public.orders o join public.customers c on c.id = o.customer left join public.items i on i.order_id = o.id and i.n = 1").await?;
    has(&mut own).await?;
    db.sql("update public.items set what = 'coffee'").await?;
    has(&mut own).await?;
    assert!(!own.was_warned(), "{:?}", own.systems);

    db.sql("revoke select on public.own from authenticated").await?;
    own.told("may not read").await?;
    assert!(own.rows[0].map.is_empty());
    own.systems.clear();
    db.sql("grant select on public.own to authenticated").await?;
    has(&mut own).await?;
    own.systems.clear();

    db.sql("revoke select on public.items from authenticated").await?;
    own.told("42501").await?;
    own.systems.clear();
    db.sql("grant select on public.items to authenticated; update public.items set what = 'cocoa'").await?;
    has(&mut own).await?;
    own.systems.clear();

    db.sql("alter publication supabase_realtime drop table public.items").await?;
    own.told("public.items").await?;
    assert!(own.rows[0].map.is_empty());
    own.systems.clear();
    db.sql("drop view public.deep; drop view public.own").await?;
    db.sql("create view public.own with (security_invoker = on) as select id, note from public.orders; grant select on public.own to authenticated").await?;
    has(&mut own).await?;
    Ok(())
}

/// live 9, and a query that does not let itself be cancelled: nobody else waits, and its sessions are ended.
#[tokio::test]
async fn a_query_that_does_not_end_holds_up_nobody() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    shop(&db).await?;
    db.sql(
        "create function public.pace() returns bool language plpgsql stable as $$ begin return true; end $$;
         create view public.paced as select id, note from public.orders where public.pace();
         create view public.plain as select id, note from public.orders;
         grant select on public.paced, public.plain to anon",
    )
    .await?;
    let options = ServerOptions::default().env("LIVE_STATEMENT_TIMEOUT", "400");
    let server = Server::start(BINARY, &db, options).await?;
    let mut paced = LiveClient::one(&server, "anon", view("paced", json!({})), &["id"]).await?;
    let mut plain = LiveClient::one(&server, "anon", view("plain", json!({})), &["id"]).await?;
    let bodies = [
        "begin perform pg_sleep(100); return true; end",
        "begin loop begin perform pg_sleep(100); exception when query_canceled then null; end; end loop; end",
        "begin loop begin for n in 1 .. 1000000 loop null; end loop; exception when others or query_canceled then null; end; end loop; end",
    ];
    for (told, body) in bodies.into_iter().enumerate() {
        db.sql(&format!(
            "create or replace function public.pace() returns bool language plpgsql stable as $$ {body} $$;
             update public.orders set note = 'slow {told}'"
        ))
        .await?;
        let expected = select(&db, "select id, note from public.orders", &["id"]).await?;
        plain.has(&expected).await?;
        paced.told("LiveQueryTooSlow").await?;
        for n in 0..5 {
            db.sql(&format!("update public.orders set note = 'more {n}' where id = 1")).await?;
            plain.has(&select(&db, "select id, note from public.orders", &["id"]).await?).await?;
        }
        db.sql("create or replace function public.pace() returns bool language plpgsql stable as $$ begin return true; end $$").await?;
        paced.has(&select(&db, "select id, note from public.orders", &["id"]).await?).await?;
        paced.systems.clear();
        until("its sessions have ended", async || {
            let sql = "select count(*) = 0 from pg_stat_activity where datname = current_database()
                and state <> 'idle' and query ~ 'live_rows' and pid <> pg_backend_pid()";
            Ok(db.client().query_one(sql, &[]).await?.get(0))
        })
        .await?;
    }
    assert!(!plain.was_warned(), "{:?}", plain.systems);
    Ok(())
}

/// The log of a table can have another key than the primary key, and may change its mind.
#[tokio::test]
async fn a_row_leaves_whatever_key_the_log_has() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.parts (id int primary key, code int not null unique, name text);
         alter table public.parts replica identity using index parts_code_key;
         insert into public.parts select n, n * 10, 'p' || n from generate_series(1, 6) n;
         grant select on public.parts to anon; alter publication supabase_realtime add table public.parts",
    )
    .await?;
    let mut parts = LiveClient::one(&server, "anon", view("parts", json!({})), &["id"]).await?;
    for change in [
        "delete from public.parts where id = 1",
        "update public.parts set id = 102 where id = 2",
        "update public.parts set code = 31 where id = 3",
        "alter table public.parts replica identity default",
        "delete from public.parts where id = 4",
        "update public.parts set id = 105 where id = 5",
        "alter table public.parts replica identity full",
        "update public.parts set id = 106 where id = 6",
        "delete from public.parts where id = 106",
        "alter table public.parts replica identity using index parts_code_key",
        "delete from public.parts where id = 105",
        "update public.parts set id = 2 where id = 102",
    ] {
        db.sql(change).await?;
        parts.has(&select(&db, "select * from public.parts", &["id"]).await?).await?;
    }
    assert!(!parts.was_warned(), "{:?}", parts.systems);
    Ok(())
}
