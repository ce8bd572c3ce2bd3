//! Live rows that functions decide: what functions read is known too, as far as their texts say it (live 3).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    BINARY,
    live_client::{LiveClient, Map, TOPIC},
    server,
};

/// What clients are told of functions that cannot be looked into.
const NOT_KNOWN: &str = "LiveReadsNotKnown";

/// Notes that members of their room see, and numbers that functions make of `settings`.
async fn notes(db: &TestDb) -> Result<()> {
    db.sql(
        "create table public.members (room int, who text, primary key (room, who));
         create table public.settings (name text primary key, value int);
         create table public.notes (id int primary key, room int, body text);
         create table public.open (id int primary key);
         insert into public.settings values ('factor', 2);
         insert into public.notes select n, n % 3, 'note ' || n from generate_series(1, 6) n;
         insert into public.open select n from generate_series(1, 3) n;
         create function public.me() returns text language sql stable as
            $$ select current_setting('request.jwt.claims', true)::jsonb ->> 'sub' $$;
         create function public.is_in(r int) returns bool language plpgsql stable security definer set search_path = public as
            $$ declare found bool; begin
                select exists (select from members m where m.room = r and m.who = public.me()) into found;
                return found;
            exception when others then return false; end $$;
         create function public.is_member(r int) returns bool language sql stable security definer as
            $$ select public.is_in(r) $$;
         create function public.factor() returns int language plpgsql stable as
            $$ begin return (select value from public.settings where name = 'factor'); end $$;
         create function public.times(int, int) returns int language sql stable as
            $$ select $1 * $2 * value from public.settings where name = 'factor' $$;
         create operator public.*** (leftarg = int, rightarg = int, function = public.times);
         create function public.all_settings() returns setof public.settings language sql stable as
            $$ select * from public.settings $$;
         create function public.folded(int, int) returns int language sql stable as $$ select $1 + $2 * public.factor() $$;
         create aggregate public.fold (int) (sfunc = public.folded, stype = int, initcond = '0');
         alter table public.notes enable row level security;
         create policy p on public.notes for select to authenticated using (public.is_member(room));
         create view public.mine with (security_invoker = on) as select id, body from public.notes;
         create view public.deep with (security_invoker = on) as select id, upper(body) as body from public.mine;
         create view public.scaled as select id, id * public.factor() as n from public.open;
         create view public.operated as select id, id *** 1 as n from public.open;
         create view public.sets as select s.name, s.value from public.all_settings() s;
         create view public.folds as select 1 as one, public.fold(id) as n from public.open;
         alter publication supabase_realtime add table public.members, public.settings, public.notes, public.open;
         grant select on all tables in schema public to anon, authenticated",
    )
    .await
}

fn view(name: &str, key: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": name, "live": true, "key": [key]})
}

fn token(sub: &str) -> String {
    sign(&json!({"role": "authenticated", "sub": sub, "exp": unix_now() + 3_600}))
}

async fn join(server: &Server, binding: Value, key: &str) -> Result<LiveClient> {
    let socket = server.socket(Version::V2, "authenticated").await?;
    let mut client = LiveClient::join(socket, json!([binding]), &[&[key]], Some(&token("ann"))).await?;
    client.complete().await?;
    Ok(client)
}

/// What `select` shows ann.
async fn shown(db: &Client, name: &str, key: &str) -> Result<Map> {
    db.batch_execute(
        r#"begin; select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "ann"}', true);
           set local role authenticated"#,
    )
    .await?;
    let rows = db.query(&format!("select to_jsonb(q)::text from public.{name} q"), &[]).await?;
    db.batch_execute("rollback").await?;
    let mut map = Map::new();
    for row in rows {
        let record: Value = serde_json::from_str(row.get(0))?;
        map.insert(record[key].to_string(), record);
    }
    Ok(map)
}

/// Why a binding is refused.
async fn refused(server: &Server, binding: Value) -> Result<String> {
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    let payload = json!({"config": {"postgres_changes": [binding]}, "access_token": token("ann")});
    socket.join(TOPIC, payload).await?;
    let system = socket.event(TOPIC, "system").await?;
    assert_eq!(system["status"], "error", "{system}");
    Ok(system["message"].as_str().unwrap_or_default().to_owned())
}

/// live 3: a change of a table that only functions read has the results read again: functions of policies, of views, of
/// operators and aggregates, sets in FROM, nested ones.
#[tokio::test]
async fn tables_that_functions_read_are_followed() -> Result<()> {
    let (server, db) = server().await?;
    notes(&db).await?;
    let reader = db.connect().await?;
    // A table that is watched by its name has its policies judged row by row; the others are read again.
    let views = [
        ("notes", "id"),
        ("mine", "id"),
        ("deep", "id"),
        ("scaled", "id"),
        ("operated", "id"),
        ("sets", "name"),
        ("folds", "one"),
    ];
    let mut clients = Vec::new();
    for (name, key) in views {
        clients.push(join(&server, view(name, key), key).await?);
    }
    for change in [
        "insert into public.members values (1, 'ann')",
        "update public.settings set value = 3",
        "insert into public.members values (2, 'ann'), (1, 'bob')",
        "delete from public.members where room = 1",
        "begin; update public.settings set value = 5; truncate public.members; commit",
    ] {
        let mut before = Vec::new();
        for (name, key) in views {
            before.push(shown(&reader, name, key).await?);
        }
        db.sql(change).await?;
        let mut differ = 0;
        for (((name, key), client), before) in views.iter().zip(&mut clients).zip(before) {
            let after = shown(&reader, name, key).await?;
            differ += usize::from(before != after);
            client.has(&after).await?;
        }
        assert!(differ >= 2, "{change}");
    }
    for client in &clients {
        assert!(!client.was_warned(), "{:?}", client.systems);
    }
    Ok(())
}

/// A function that is replaced while a view is live brings other rows, and is followed where it reads now.
#[tokio::test]
async fn a_replaced_function_is_noticed() -> Result<()> {
    let (server, db) = server().await?;
    notes(&db).await?;
    db.sql(
        "create table public.rates (rate int primary key); insert into public.rates values (7);
         alter publication supabase_realtime add table public.rates",
    )
    .await?;
    let reader = db.connect().await?;
    let mut scaled = join(&server, view("scaled", "id"), "id").await?;
    let mut folds = join(&server, view("folds", "one"), "one").await?;
    db.sql(
        "create or replace function public.factor() returns int language sql stable security definer as
            $$ select max(rate) from public.rates $$",
    )
    .await?;
    for change in
        ["update public.rates set rate = 8", "insert into public.rates values (9)", "truncate public.rates"]
    {
        scaled.has(&shown(&reader, "scaled", "id").await?).await?;
        folds.has(&shown(&reader, "folds", "one").await?).await?;
        db.sql(change).await?;
    }
    // One that is made anew is another one, which the text of the other calls all the same.
    db.sql(
        "create function public.rate() returns int language sql stable security definer as $$ select 1 $$;
         create or replace function public.factor() returns int language sql stable security definer as
            $$ select public.rate() + 1 $$",
    )
    .await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    db.sql(
        "drop function public.rate(); create function public.rate() returns int language sql stable security definer as
            $$ select value from public.settings $$",
    )
    .await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    db.sql("update public.settings set value = 11").await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    assert!(!scaled.was_warned() && !folds.was_warned(), "{:?} {:?}", scaled.systems, folds.systems);
    Ok(())
}

/// What cannot be looked into is told once, and followed by the clock where results are read by it.
#[tokio::test]
async fn functions_that_are_not_understood_are_told() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    notes(&db).await?;
    db.sql(
        "create or replace function public.factor() returns int language plpgsql stable as
            $$ declare n int; begin execute format('select value from public.%I', 'settings') into n; return n; end $$",
    )
    .await?;
    let reader = db.connect().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut scaled = join(&server, view("scaled", "id"), "id").await?;
    let told = scaled.told(NOT_KNOWN).await?;
    assert_eq!(told["status"], "warning", "{told}");
    assert!(told.to_string().contains("public.factor()"), "{told}");
    db.sql("begin; update public.settings set value = 4; insert into public.open values (4); commit").await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    let count = scaled.systems.iter().filter(|system| system["code"] == NOT_KNOWN).count();
    assert_eq!(count, 1, "{:?}", scaled.systems);
    drop(server);

    let by_clock = ServerOptions::default().env("LIVE_RECHECK_MS", "300");
    let server = Server::start(BINARY, &db, by_clock).await?;
    let mut scaled = join(&server, view("scaled", "id"), "id").await?;
    db.sql("update public.settings set value = 6").await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    assert!(!scaled.was_warned(), "{:?}", scaled.systems);
    Ok(())
}

/// What the log tells is followed at once, whatever is read by the clock besides.
#[tokio::test]
async fn the_clock_holds_nothing_up() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    notes(&db).await?;
    db.sql("alter publication supabase_realtime drop table public.settings").await?;
    let by_clock = ServerOptions::default().env("LIVE_RECHECK_MS", "3600000");
    let server = Server::start(BINARY, &db, by_clock).await?;
    let reader = db.connect().await?;
    let mut scaled = join(&server, view("scaled", "id"), "id").await?;
    db.sql("insert into public.open values (4)").await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    db.sql("delete from public.open where id = 1").await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    Ok(())
}

/// Tables that functions of views read have to be published, as those that views name; those that functions of policies read
/// are published for the server alone.
#[tokio::test]
async fn tables_that_functions_read_have_to_be_published() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    notes(&db).await?;
    db.sql("alter publication supabase_realtime drop table public.settings, public.members").await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let reader = db.connect().await?;
    let why = refused(&server, view("scaled", "id")).await?;
    assert!(why.contains("a function that public.scaled calls reads public.settings"), "{why}");
    assert!(why.contains("alter publication supabase_realtime add table public.settings"), "{why}");
    let mut mine = join(&server, view("mine", "id"), "id").await?;
    for change in ["insert into public.members values (1, 'ann')", "delete from public.members"] {
        db.sql(change).await?;
        mine.has(&shown(&reader, "mine", "id").await?).await?;
    }
    // So is what it reads when it was replaced.
    db.sql(
        "create table public.staff (room int, who text, primary key (room, who)); insert into public.staff values (2, 'ann');
         create or replace function public.is_in(r int) returns bool language sql stable security definer as
            $$ select exists (select from public.staff s where s.room = r and s.who = public.me()) $$",
    )
    .await?;
    for change in ["insert into public.staff values (0, 'ann')", "delete from public.staff where room = 2"] {
        mine.has(&shown(&reader, "mine", "id").await?).await?;
        db.sql(change).await?;
    }
    mine.has(&shown(&reader, "mine", "id").await?).await?;
    assert!(!mine.was_warned(), "{:?}", mine.systems);
    db.sql("alter publication supabase_realtime add table public.settings").await?;
    let mut scaled = join(&server, view("scaled", "id"), "id").await?;
    db.sql("update public.settings set value = 9").await?;
    scaled.has(&shown(&reader, "scaled", "id").await?).await?;
    Ok(())
}
