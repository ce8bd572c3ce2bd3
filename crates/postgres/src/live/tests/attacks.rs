//! Code of applications that is met on the way runs as the role that asked, never as the server's.

use anyhow::Result;
use serde_json::json;

use super::support::{LIMITS, Live, anon, texts};

/// Ends a statement that runs it as the server's role.
const SPRING: &str = "create function public.spring() returns void language plpgsql as $$ begin
        if pg_catalog.current_setting('application_name') operator(pg_catalog.~) '^realtime'
            and current_user operator(pg_catalog.=) session_user
        then
            raise exception 'code of an application runs as %', current_user;
        end if;
    end $$;";

/// Operators, functions and types of the names that statements of ours have, with arguments that fit as well or better.
fn traps() -> String {
    let (mut sql, mut count) = (String::new(), 0);
    let types = [
        "text", "varchar", "name", "uuid", "oid", "int2", "int4", "int8", "bool", "float8", "jsonb",
        "\"char\"",
    ];
    for (operator, returns, body) in [
        ("=", "bool", "false"),
        ("<>", "bool", "false"),
        ("<", "bool", "false"),
        (">", "bool", "false"),
        ("<=", "bool", "false"),
        (">=", "bool", "false"),
        ("~", "bool", "false"),
        ("~*", "bool", "false"),
        ("~~", "bool", "false"),
        ("~~*", "bool", "false"),
        ("@>", "bool", "false"),
        ("&&", "bool", "false"),
        ("*", "int8", "0"),
        ("->", "jsonb", "null"),
        ("->>", "text", "null"),
    ] {
        for of in types {
            count += 1;
            sql.push_str(&format!(
                "create function public.trap_{count}(pg_catalog.{of}, pg_catalog.{of}) returns pg_catalog.{returns}
                    language plpgsql as $$ begin perform public.spring(); return {body}; end $$;
                 create operator public.{operator}
                    (function = public.trap_{count}, leftarg = pg_catalog.{of}, rightarg = pg_catalog.{of});"
            ));
        }
    }
    for (name, arguments, returns) in [
        ("set_config", "text, text, bool", "text"),
        ("pg_current_snapshot", "", "text"),
        ("clock_timestamp", "", "timestamptz"),
        ("date_part", "text, timestamptz", "float8"),
        ("pg_backend_pid", "", "int4"),
        ("count", "text", "int8"),
        ("format", "text, text", "text"),
        ("num_nulls", "text", "int4"),
        ("concat", "text, text", "text"),
        ("quote_ident", "name", "text"),
        ("pg_has_role", "oid, oid, text", "bool"),
        ("pg_options_to_table", "text[]", "text"),
        ("hashtextextended", "text, int8", "int8"),
    ] {
        let arguments: Vec<String> =
            arguments.split(", ").filter(|of| !of.is_empty()).map(|of| format!("pg_catalog.{of}")).collect();
        sql.push_str(&format!(
            "create function public.{name}({}) returns pg_catalog.{returns} language plpgsql as
                $$ begin perform public.spring(); return null; end $$;",
            arguments.join(", ")
        ));
    }
    for name in ["text", "name", "oid", "uuid", "jsonb", "json", "int4", "bool", "int8", "float8"] {
        sql.push_str(&format!(
            "create domain public.{name} as pg_catalog.{name} check (public.spring() is not null);"
        ));
    }
    sql
}

#[tokio::test]
async fn nothing_of_an_application_runs_as_the_servers_role() -> Result<()> {
    let live = Live::new().await?;
    let builder = format!("builder_{}", live.db.name());
    live.db
        .sql(&format!(
            "{SPRING}
             create type public.mood as enum ('sad', 'happy');
             create function public.is_short(pg_catalog.text) returns pg_catalog.bool language plpgsql as
                $$ begin perform public.spring(); return pg_catalog.length($1) operator(pg_catalog.<) 9; end $$;
             create domain public.short as pg_catalog.text check (public.is_short(value));
             create function public.to_mood(pg_catalog.text) returns public.mood language plpgsql as
                $$ begin perform public.spring(); return pg_catalog.enum_first(null::public.mood); end $$;
             create cast (pg_catalog.text as public.mood) with function public.to_mood(pg_catalog.text) as implicit;
             create function public.from_mood(public.mood) returns pg_catalog.text language plpgsql as
                $$ begin perform public.spring(); return 'x'; end $$;
             create cast (public.mood as pg_catalog.text) with function public.from_mood(public.mood) as assignment;
             create role {builder}; grant create, usage on schema public to {builder};
             create table public.things (id int primary key, v text, vc varchar, n name, u uuid, m public.mood, s public.short,
                d jsonb, tags text[], ch char(3), num numeric);
             insert into public.things values (1, 'a', 'a', 'a', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'sad', null,
                '{{\"k\": \"a\"}}', '{{a}}', 'a', 1.5);
             alter publication supabase_realtime add table public.things;
             set role {builder}; {} reset role;
             update public.things set s = 'a';
             -- A table whose owner has policies, a view and defaults that spring.
             alter table public.things owner to {builder}; alter table public.things enable row level security;
             set role {builder};
             create policy p on public.things for select to anon using (public.spring() is not null);
             create view public.seen as select t.*, public.spring() is null as sprung from public.things t
                where public.is_short(t.v);
             grant select on public.things, public.seen to anon; reset role;
             alter database {} set search_path = public, pg_catalog",
            traps(),
            live.db.name()
        ))
        .await?;
    for filter in [
        "",
        "id=eq.1",
        "id=in.(1,2)",
        "id=gte.1",
        "v=eq.a",
        "v=in.(a,b)",
        "v=like.a%",
        "v=ilike.A%",
        "v=match.^a",
        "vc=eq.a",
        "n=eq.a",
        "u=eq.a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "m=eq.sad",
        "m=in.(sad,happy)",
        "m=lt.happy",
        "s=eq.a",
        "s=in.(a)",
        "d->>k=eq.a",
        "d->k=eq.\"\\\"a\\\"\"",
        "d=cs.{\"k\":\"a\"}",
        "tags=cs.{a}",
        "tags=ov.{a,b}",
        "ch=eq.a",
        "num=eq.1.50",
        "num=lte.2",
        "v=isdistinct.b",
        "m=is.null,or=(v.eq.a)",
        "not.or=(v.eq.b,num.gt.5)",
    ] {
        for table in ["things", "seen"] {
            for order in ["id", "v.desc,num", "m", "s,ch", "u,d,tags"] {
                let parameters = json!({"table": table, "filter": filter, "order": order, "limit": 5});
                let source = live.look(parameters).await?;
                let (_, rows) = live.read_as(&source, &anon(), LIMITS).await?;
                let expected = usize::from(!filter.starts_with("m=is.null"));
                assert_eq!(
                    rows.len(),
                    expected,
                    "{table} {filter}: {:?}",
                    rows.iter().map(texts).collect::<Vec<_>>()
                );
            }
        }
    }
    Ok(())
}

/// A role that may use neither the schema of a type nor that of its operators still filters by the type.
#[tokio::test]
async fn a_role_need_not_have_the_use_of_a_types_schema() -> Result<()> {
    let live = Live::new().await?;
    live.db
        .sql(
            "create schema types; create type types.mood as enum ('sad', 'happy'); create domain types.word as text;
             create table public.t (id int primary key, m types.mood, w types.word, ms types.mood[]);
             insert into public.t values (1, 'sad', 'x', '{sad}'); grant select on public.t to anon;
             alter publication supabase_realtime add table public.t",
        )
        .await?;
    for filter in
        ["m=eq.sad", "m=in.(sad,happy)", "m=lt.happy", "m=isdistinct.happy", "w=eq.x", "ms=eq.{sad}"]
    {
        assert_eq!(live.texts(json!({"table": "t", "filter": filter})).await?.len(), 1, "{filter}");
    }
    Ok(())
}
