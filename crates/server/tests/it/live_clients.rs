//! Live rows in the hands of people: the official clients keep maps that are right, and so does the collection for
//! TanStack DB, in Node.js and in Chromium (`spec live.md`, cases 1, 13, 15 and 16).

use anyhow::{Context as _, Result, bail, ensure};
use realtime_testkit::{Server, ServerOptions, TestDb, free_port, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    BINARY,
    browser::scenario_in,
    clients::{Client, folder, node_in, python_in},
};

const TANSTACK: &str = "tanstack-db";

/// A table with rows in two rooms.
const ROWS: &str = "create table public.items (id int primary key, room int, words text);
    insert into public.items values (1, 5, 'a'), (2, 5, 'b'), (3, 6, 'c');
    create table public.flags (id int primary key, live boolean);
    insert into public.flags values (1, true);
    grant select on public.items, public.flags to anon;
    alter publication supabase_realtime add table public.items, public.flags;";

async fn start() -> Result<(Server, TestDb)> {
    let db = TestDb::new().await?;
    db.sql(ROWS).await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    Ok((server, db))
}

fn item(id: i32, room: i32, words: &str) -> Value {
    json!({"id": id, "room": room, "words": words})
}

fn javascript(server: &Server, package: &str, vsn: &str, subscriptions: &Value) -> Result<Client> {
    let mut command = node_in("js")?;
    let url = format!("http://localhost:{}", server.port());
    command.args(["live.mjs", package, &url, &token("anon"), vsn, &subscriptions.to_string()]);
    Client::start(command)
}

fn python(server: &Server, subscriptions: &Value) -> Result<Client> {
    let mut command = python_in("python", "python")?;
    let url = format!("ws://localhost:{}", server.port());
    command.args(["live.py", &url, &token("anon"), &subscriptions.to_string()]);
    Client::start(command)
}

/// Waits until the maps have these rows, and nothing else.
async fn has(client: &mut Client, maps: Value) -> Result<()> {
    let mut last = Value::Null;
    loop {
        let seen = client.next("maps").await.with_context(|| format!("last had {last}, not {maps}"))?;
        if seen == maps {
            return Ok(());
        }
        last = seen;
    }
}

/// Waits until this is told, and returns it.
async fn told(client: &mut Client, message: &str) -> Result<Value> {
    loop {
        let system = client.next("system").await.with_context(|| message.to_owned())?;
        ensure!(system["status"] != "error", "{system}");
        if system["message"] == message {
            return Ok(system);
        }
    }
}

/// A map follows its table (case 1): rows, then what enters, changes and leaves, by the filter or altogether.
async fn follows(mut client: Client, server: Server, db: &TestDb, is_whole: bool) -> Result<()> {
    assert_eq!(client.next("status").await?, "SUBSCRIBED");
    let complete = told(&mut client, "Live rows are complete").await?;
    if is_whole {
        assert_eq!((&complete["extension"], &complete["rows"]), (&json!("postgres_changes"), &json!(2)));
    }
    has(&mut client, json!([[item(1, 5, "a"), item(2, 5, "b")]])).await?;
    db.sql(
        "update public.items set words = 'changed' where id = 1; update public.items set room = 6 where id = 2;
         update public.items set room = 5 where id = 3; insert into public.items values (4, 5, 'd'), (5, 6, 'e');
         delete from public.items where id = 5;",
    )
    .await?;
    has(&mut client, json!([[item(1, 5, "changed"), item(3, 5, "c"), item(4, 5, "d")]])).await?;
    db.sql("begin; update public.items set id = 9 where id = 4; delete from public.items where id = 1; end")
        .await?;
    has(&mut client, json!([[item(3, 5, "c"), item(9, 5, "d")]])).await?;
    db.sql("truncate public.items").await?;
    has(&mut client, json!([[]])).await?;
    // A server that goes away: the client comes back by itself, with the rows of then.
    let port = server.port();
    server.stop().await?;
    db.sql("insert into public.items values (7, 5, 'g')").await?;
    let options = ServerOptions::default().env("PORT", &port.to_string());
    let _server = Server::start(BINARY, db, options).await?;
    has(&mut client, json!([[item(7, 5, "g")]])).await
}

async fn javascript_follows(package: &str, vsn: &str) -> Result<()> {
    let (server, db) = start().await?;
    let binding =
        json!([{"event": "*", "schema": "public", "table": "items", "filter": "room=eq.5", "live": true}]);
    let client = javascript(&server, package, vsn, &binding)?;
    follows(client, server, &db, true).await
}

#[tokio::test]
async fn javascript_keeps_a_map() -> Result<()> {
    javascript_follows("@supabase/supabase-js", "2.0.0").await
}

#[tokio::test]
async fn javascript_keeps_a_map_with_serializer_1() -> Result<()> {
    javascript_follows("@supabase/supabase-js", "1.0.0").await
}

#[tokio::test]
async fn javascript_of_2023_keeps_a_map() -> Result<()> {
    javascript_follows("supabase-js-2.39", "1.0.0").await
}

#[tokio::test]
async fn python_keeps_a_map() -> Result<()> {
    let (server, db) = start().await?;
    let filter = "@live=eq.true,room=eq.5";
    let client =
        python(&server, &json!([{"event": "*", "schema": "public", "table": "items", "filter": filter}]))?;
    // It hands over the texts of a message alone.
    follows(client, server, &db, false).await
}

/// Over long-poll (case 16).
#[tokio::test]
async fn phoenix_keeps_a_map_over_long_poll() -> Result<()> {
    let (server, db) = start().await?;
    let mut command = node_in("js")?;
    let binding =
        json!({"event": "*", "schema": "public", "table": "items", "filter": "room=eq.5", "live": true});
    let url = format!("http://localhost:{}", server.port());
    command.args(["live-phoenix.mjs", &url, &token("anon"), &binding.to_string()]);
    let mut client = Client::start(command)?;
    assert_eq!(client.next("status").await?, "SUBSCRIBED");
    has(&mut client, json!([[item(1, 5, "a"), item(2, 5, "b")]])).await?;
    db.sql("update public.items set room = 11 - room; delete from public.items where id = 1").await?;
    has(&mut client, json!([[item(3, 5, "c")]])).await
}

/// Several live bindings, a plain one, a broadcast and presence in one channel (cases 13 and 15).
async fn beside_others(mut client: Client, db: &TestDb) -> Result<()> {
    let live = |rows: Value| json!([[item(1, 5, "a"), item(2, 5, "b")], [item(3, 6, "c")], rows, []]);
    assert_eq!(client.next("status").await?, "SUBSCRIBED");
    has(&mut client, live(json!([{"id": 1, "live": true}]))).await?;
    client.command(json!({"send": "cursor"})).await?;
    assert_eq!(client.next("broadcast").await?["event"], "cursor");
    client.command(json!({"track": {"user": "a"}})).await?;
    while client.next("presence").await?.as_array().is_some_and(Vec::is_empty) {}
    db.sql("insert into public.flags values (2, true), (3, false); update public.flags set live = false where id = 1")
        .await?;
    has(&mut client, live(json!([{"id": 2, "live": true}]))).await?;
    db.sql("delete from public.items where id < 3; update public.items set room = 5").await?;
    has(&mut client, json!([[item(3, 5, "c")], [], [{"id": 2, "live": true}], []])).await
}

/// `flags` has a column `live`: a filter on it makes nothing live. The last binding hears of rows that leave alone.
fn several() -> Value {
    json!([
        {"event": "*", "schema": "public", "table": "items", "filter": "@live=eq.true,room=eq.5"},
        {"event": "*", "schema": "public", "table": "items", "filter": "room=eq.6,@live=eq.true"},
        {"event": "*", "schema": "public", "table": "flags", "filter": "live=eq.true"},
        {"event": "*", "schema": "public", "table": "flags", "filter": "@live=eq.true,live=eq.true"},
        {"event": "DELETE", "schema": "public", "table": "items", "filter": "@live=eq.true,@order=eq.id"},
    ])
}

#[tokio::test]
async fn javascript_has_live_rows_beside_others() -> Result<()> {
    let (server, db) = start().await?;
    beside_others(javascript(&server, "@supabase/supabase-js", "2.0.0", &several())?, &db).await
}

#[tokio::test]
async fn javascript_of_2023_has_live_rows_beside_others() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(ROWS).await?;
    // It does not ask for presence.
    let options = ServerOptions::default().env("TENANT_PRESENCE_ENABLED", "true");
    let server = Server::start(BINARY, &db, options).await?;
    beside_others(javascript(&server, "supabase-js-2.39", "1.0.0", &several())?, &db).await
}

#[tokio::test]
async fn python_has_live_rows_beside_others() -> Result<()> {
    let (server, db) = start().await?;
    beside_others(python(&server, &several())?, &db).await
}

/// A live binding that asks for deletes alone hears of what leaves, and of nothing else (case 15). What is plain in the
/// same channel gets what it always got.
#[tokio::test]
async fn a_live_binding_may_ask_for_deletes() -> Result<()> {
    let (server, db) = start().await?;
    let bindings = json!([
        {"event": "DELETE", "schema": "public", "table": "items", "filter": "room=eq.5", "live": true},
        {"event": "*", "schema": "public", "table": "flags", "filter": "live=eq.true"},
    ]);
    let mut client = javascript(&server, "@supabase/supabase-js", "2.0.0", &bindings)?;
    assert_eq!(client.next("status").await?, "SUBSCRIBED");
    told(&mut client, "Live rows are complete").await?;
    db.sql(
        "insert into public.items values (4, 5, 'd'); insert into public.flags values (2, false), (3, true)",
    )
    .await?;
    let change = client.next("change").await?;
    assert_eq!((&change["index"], &change["new"]["id"]), (&json!(1), &json!(3)), "{change}");
    db.sql("update public.items set room = 6 where id = 1").await?;
    let change = client.next("change").await?;
    assert_eq!(
        (&change["index"], &change["eventType"], &change["old"]),
        (&json!(0), &json!("DELETE"), &json!({"id": 1}))
    );
    assert_eq!(change["time"], "string");
    Ok(())
}

/// Runs a Node.js program in the folder of the collection.
async fn node(arguments: &[&str]) -> Result<()> {
    let output = node_in(TANSTACK)?.args(arguments).output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(())
}

/// Its own tests with a client whose server is the test; its types; and `dist` is what `src` makes.
#[tokio::test]
async fn the_collection_for_tanstack_db() -> Result<()> {
    const COMPILER: &str = "node_modules/typescript/bin/tsc";
    node(&["--test", "test/rows.test.mjs", "test/writes.test.mjs"]).await?;
    node(&[COMPILER, "--project", "test"]).await?;
    let made = tempfile::tempdir()?;
    let out = made.path().display().to_string();
    node(&[COMPILER, "--project", "tsconfig.json", "--outDir", &out]).await?;
    let kept = folder(TANSTACK).join("dist");
    let same = Command::new("diff").args(["-r", &out]).arg(kept).output().await?;
    ensure!(same.status.success(), "run `npm run build`: {}", String::from_utf8_lossy(&same.stdout));
    Ok(())
}

/// The scenario of `clients/tanstack-db/test`: rows enter, change and leave; writes; the server, the database and
/// policies come and go.
async fn tanstack_db(program: &str) -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(
        "create table public.todos (id uuid primary key default gen_random_uuid(), list int, owner text, task text,
            done boolean not null default false);
         insert into public.todos (list, owner, task) values (5, 'ann', 'buy bread'), (5, 'ann', 'call home'),
            (5, 'ann', 'water plants'), (6, 'ann', 'other'), (5, 'bob', 'secret');
         delete from public.todos where task in ('other', 'secret');
         alter table public.todos enable row level security; grant select on public.todos to authenticated;
         create policy \"one's own\" on public.todos for select to authenticated
            using (owner = current_setting('request.jwt.claims', true)::json ->> 'sub');
         create function public.quiet() returns trigger language plpgsql as
            $$ begin new.task := lower(new.task); return new; end $$;
         create trigger quiet before insert on public.todos for each row execute function public.quiet();
         alter publication supabase_realtime add table public.todos;",
    )
    .await?;
    let port = free_port()?;
    let options = ServerOptions::default().env("PORT", &port.to_string());
    let mut server = Some(Server::start(BINARY, &db, options.clone()).await?);
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    let name = db.name().to_owned();
    let user = sign(&json!({"role": "authenticated", "sub": "ann", "exp": unix_now() + 3600}));
    let url = format!("http://localhost:{port}");
    scenario_in(TANSTACK, program, &[&url, &token("anon"), &user], async |asked| {
        if let Some(statements) = asked["sql"].as_str() {
            db.sql(statements).await
        } else if asked["start"] == true {
            server = Some(Server::start(BINARY, &db, options.clone()).await?);
            Ok(())
        } else if asked["stop"] == true {
            server.take().context("no server")?.stop().await
        } else if asked["away"] == true {
            let end = format!(
                "alter database {name} with allow_connections false; select pg_terminate_backend(pid)
                 from pg_stat_activity where datname = '{name}' and application_name like 'realtime%'"
            );
            admin.batch_execute(&end).await?;
            server.as_ref().context("no server")?.logged("ReplicationConnectionDown").await?;
            Ok(())
        } else if asked["back"] == true {
            Ok(admin.batch_execute(&format!("alter database {name} with allow_connections true")).await?)
        } else {
            bail!("{asked}")
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tanstack_db_in_node() -> Result<()> {
    tanstack_db("test/node.mjs").await
}

#[tokio::test(flavor = "multi_thread")]
async fn tanstack_db_in_chromium() -> Result<()> {
    tanstack_db("test/chromium.mjs").await
}

/// resume 1 and live 11 by hand: the network is cut three times, and comes back. A list that goes on where it was is right each
/// time, and gets no more than what has changed; a journal of inserts misses none.
#[tokio::test]
async fn a_network_that_is_cut_is_made_up_for() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(
        "create table public.todos (id int primary key, task text);
         insert into public.todos values (1, 'Say hello'), (2, 'Water the plants'), (3, 'Call home');
         grant select on public.todos to anon;
         alter publication supabase_realtime add table public.todos;",
    )
    .await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let url = format!("http://localhost:{}", server.port());
    let arguments = ["@supabase/supabase-js", &url, &token("anon")];
    scenario_in("js", "network-cut.mjs", &arguments, async |asked| {
        db.sql(asked["sql"].as_str().context("statements")?).await
    })
    .await
}
