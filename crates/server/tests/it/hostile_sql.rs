//! What applications make in their schemas is not found by the server's own statements, and their code does not run as the
//! server's role.

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::BINARY;

const TOPIC: &str = "realtime:any";

/// Ends a statement of the server that runs it as the server's role.
const TRAP: &str = "
    create function public.spring() returns void language plpgsql as $$ begin
        if pg_catalog.current_setting('application_name') operator(pg_catalog.~) '^realtime'
            and current_user operator(pg_catalog.=) session_user
        then
            raise exception 'code of an application runs as %', current_user;
        end if;
    end $$;";

/// Operators and functions of the same names as the built-in ones, with arguments that fit better or as well.
fn traps() -> String {
    let mut sql = String::from(TRAP);
    let mut count = 0;
    let mut function = |sql: &mut String, arguments: &str, returns: &str, body: &str| {
        count += 1;
        let name = format!("public.trap_{count}");
        sql.push_str(&format!(
            "create function {name}({arguments}) returns {returns} language plpgsql as
                $$ begin perform public.spring(); return {body}; end $$;"
        ));
        name
    };
    let types =
        ["text", "varchar", "name", "uuid", "oid", "int2", "int4", "int8", "bool", "timestamp", "\"char\""];
    for (operator, returns, body) in [
        ("=", "pg_catalog.bool", "false"),
        ("<>", "pg_catalog.bool", "false"),
        ("<", "pg_catalog.bool", "false"),
        (">=", "pg_catalog.bool", "false"),
        ("~", "pg_catalog.bool", "false"),
        ("~*", "pg_catalog.bool", "false"),
        ("~~", "pg_catalog.bool", "false"),
        ("~~*", "pg_catalog.bool", "false"),
        ("||", "pg_catalog.text", "''"),
        ("-", "pg_catalog.int8", "0"),
        ("+", "pg_catalog.int8", "0"),
    ] {
        for of in types {
            let arguments = format!("pg_catalog.{of}, pg_catalog.{of}");
            let function = function(&mut sql, &arguments, returns, body);
            sql.push_str(&format!(
                "create operator public.{operator}
                    (function = {function}, leftarg = pg_catalog.{of}, rightarg = pg_catalog.{of});"
            ));
        }
    }
    for pair in ["name, pg_catalog.text", "text, pg_catalog.name", "name, pg_catalog.varchar"] {
        let arguments = format!("pg_catalog.{pair}");
        let function = function(&mut sql, &arguments, "pg_catalog.bool", "false");
        let (left, right) = arguments.split_once(", ").unwrap();
        sql.push_str(&format!(
            "create operator public.= (function = {function}, leftarg = {left}, rightarg = {right});"
        ));
    }
    for (name, arguments, returns) in [
        ("set_config", "text, text, bool", "text"),
        ("current_setting", "text", "text"),
        ("current_setting", "text, bool", "text"),
        ("current_database", "", "name"),
        ("pg_current_snapshot", "", "text"),
        ("jsonb_array_elements_text", "jsonb", "text"),
        ("jsonb_array_length", "jsonb", "int4"),
        ("to_jsonb", "anyelement", "jsonb"),
        ("quote_ident", "text", "text"),
        ("format_type", "oid, int4", "text"),
        ("pg_has_role", "oid, oid, text", "bool"),
        ("has_column_privilege", "oid, oid, int2, text", "bool"),
        ("unnest", "anyarray", "text"),
        ("starts_with", "text, text", "bool"),
        ("now", "", "timestamptz"),
        ("gen_random_uuid", "", "uuid"),
    ] {
        let qualify = |name: &str| format!("pg_catalog.{name}");
        let arguments: Vec<String> = arguments.split(", ").filter(|of| !of.is_empty()).map(qualify).collect();
        sql.push_str(&format!(
            "create function public.{name}({}) returns pg_catalog.{returns} language plpgsql as
                $$ begin perform public.spring(); return null; end $$;",
            arguments.join(", ")
        ));
    }
    for name in ["text", "name", "oid", "uuid", "jsonb", "regclass", "bool", "int8", "timestamp"] {
        sql.push_str(&format!(
            "create domain public.{name} as pg_catalog.{name} check (public.spring() is not null);"
        ));
    }
    sql
}

/// A database whose schema is set up, with a table, policies and messages; then somebody makes traps in `public`, which comes
/// before `pg_catalog` on everybody's search path.
async fn trapped() -> Result<TestDb> {
    let db = TestDb::new().await?;
    migrate(&db).await?;
    db.sql(
        "create type public.mood as enum ('sad', 'happy');
         create function public.to_mood(text) returns public.mood language plpgsql as
            $$ begin perform public.spring(); return $1; end $$;
         create cast (text as public.mood) with function public.to_mood(text);
         create function public.is_short(text) returns bool language plpgsql as
            $$ begin perform public.spring(); return pg_catalog.length($1) operator(pg_catalog.<) 9; end $$;
         create domain public.short as text check (public.is_short(value));
         create type public.pair as (a public.short, b int);
         create table public.things (id int primary key, v text, vc varchar, n name, u uuid, m public.mood,
            ts timestamptz, tags text[], s public.short, p public.pair, num numeric, ch char(3));
         grant select on public.things to anon;
         alter publication supabase_realtime add table public.things;
         create policy reads on realtime.messages for select to authenticated using (realtime.topic() = 'room');
         create policy writes on realtime.messages for insert to authenticated with check (realtime.topic() = 'room');
         select realtime.send('{\"n\": 1}', 'e', 'room', true);",
    )
    .await?;
    let builder = format!("builder_{}", db.name());
    db.sql(&format!(
        "create role {builder}; grant create, usage on schema public to {builder}; set role {builder}; {} reset role;
         alter database {} set search_path = public, pg_catalog",
        traps(),
        db.name()
    ))
    .await?;
    Ok(db)
}

async fn migrate(db: &TestDb) -> Result<String> {
    let output = Command::new(BINARY).arg("migrate").env_clear().envs(db.env().await?).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

async fn watch(server: &Server, filter: &str) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let subscription = json!({"event": "INSERT", "schema": "public", "table": "things", "filter": filter});
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

#[tokio::test]
async fn nothing_of_an_application_runs_as_the_servers_role_for_row_changes() -> Result<()> {
    let db = trapped().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let filters = [
        "id=eq.1",
        "v=eq.x",
        "v=neq.y",
        "v=in.(x,\"y z\")",
        "vc=in.(x)",
        "n=eq.x",
        "v=gt.a",
        "v=lte.z",
        "v=like.%x",
        "v=ilike.%É%,id=gt.100",
        "v=match.^x",
        "v=imatch.^X",
        "v=isdistinct.é",
        "u=in.(A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11)",
        "m=eq.happy",
        "m=gte.sad",
        "m=isdistinct.sad",
        "ts=lt.2030-01-01",
        "tags=eq.\"{a,b}\"",
        "s=eq.fits",
        "s=gt.a",
        "s=in.(fits)",
        "p=eq.\"(fits,1)\"",
        "num=gte.1.50",
        "ch=lt.zz",
    ];
    let mut sockets = Vec::new();
    for filter in filters {
        sockets.push((filter, watch(&server, filter).await?));
    }
    db.sql(
        "insert into public.things values (1, 'x', 'x', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'happy',
            '2024-01-01', '{a,b}', 'fits', row('fits', 1)::public.pair, 1.5, 'abc')",
    )
    .await?;
    for (filter, socket) in sockets.iter_mut().filter(|(filter, _)| !filter.contains("100")) {
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(change["data"]["record"]["id"], 1, "{filter}");
    }
    let mut socket = server.socket(Version::V2, "anon").await?;
    let bad = json!({"event": "*", "schema": "public", "table": "things", "filter": "s=eq.much too long"});
    socket.join(TOPIC, json!({"config": {"postgres_changes": [bad]}})).await?;
    let refused = socket.event(TOPIC, "system").await?["message"].to_string();
    assert!(refused.contains("ERROR 23514 (check_violation)"), "the check is made: {refused}");
    server.logged("DatabaseRoleIsSuperuser").await?;
    Ok(())
}

#[tokio::test]
async fn nothing_of_an_application_runs_as_the_servers_role_for_private_topics() -> Result<()> {
    let db = trapped().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    let config = json!({"config": {"private": true,
        "broadcast": {"ack": true, "self": true, "replay": {"since": 0}},
        "presence": {"enabled": true, "key": "k"}}});
    let (reply, reference) = socket.join("realtime:room", config).await?;
    assert_eq!(reply["status"], "ok", "{reply}");
    let replayed = socket.event("realtime:room", "broadcast").await?;
    assert_eq!((&replayed["event"], &replayed["meta"]["replayed"]), (&json!("e"), &json!(true)));
    let sent: Value = json!({"type": "broadcast", "event": "said", "payload": {}});
    socket.send(json!(reference), Value::Null, "realtime:room", "broadcast", sent).await?;
    let said = socket.event("realtime:room", "broadcast").await?;
    assert_eq!(said["event"], "said");
    let (reply, _) = server
        .socket(Version::V2, "authenticated")
        .await?
        .join("realtime:other", json!({"config": {"private": true}}))
        .await?;
    assert_eq!(reply["status"], "error", "{reply}");
    Ok(())
}

#[tokio::test]
async fn nothing_of_an_application_runs_as_the_servers_role_while_a_database_is_set_up() -> Result<()> {
    let db = trapped().await?;
    assert!(migrate(&db).await?.contains("Nothing to change"));
    db.sql("drop schema realtime cascade").await?;
    let text = migrate(&db).await?;
    assert!(text.contains("Create function realtime.send"), "{text}");
    Ok(())
}
