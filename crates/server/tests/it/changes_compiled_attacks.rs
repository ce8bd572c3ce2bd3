//! What compiled policies depend on without its being seen at first sight, and parties that hold up what is asked of
//! all (row_security 2.2).

use anyhow::{Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use crate::changes_images::{seen, server_with, watching};

const ROOMS: &str = "
    create table members (room int, who text, primary key (room, who));
    create table says (id int primary key, room int, body text);
    alter table says enable row level security;
    alter publication supabase_realtime add table says, members;";

/// A server whose tenant may have as many events as there are.
async fn server(more: &str) -> Result<(Server, TestDb)> {
    server_with(more, ServerOptions::fast()).await
}

/// The same where rows wait for nobody as long as they do in other tests.
async fn impatient_server(more: &str) -> Result<(Server, TestDb)> {
    let options = ServerOptions::fast();
    server_with(more, options.env("POLICY_WAIT_MS", "1000")).await
}

async fn ids(db: &TestDb, socket: &mut Socket) -> Result<Vec<Value>> {
    let came = seen(db, socket).await?.into_iter().filter(|(kind, _)| kind != "DELETE");
    Ok(came.map(|(_, record)| record["id"].clone()).collect())
}

/// A membership counts from the next row, whatever stands between it and the policy.
async fn follows(server: &Server, db: &TestDb, policy: &str) -> Result<()> {
    db.sql(&format!(
        "delete from says; delete from members; drop policy if exists own on says;
         create policy own on says to authenticated using ({policy});
         insert into members values (1, 'ann')"
    ))
    .await?;
    let mut ann = watching(server, "ann", "says").await?;
    db.sql("insert into says values (1, 1, '')").await?;
    assert_eq!(ids(db, &mut ann).await?, [1], "{policy}");
    for (id, sql, shown) in [
        (2, "delete from members", false),
        (3, "insert into members values (1, 'ann')", true),
        (4, "update members set who = 'bob'", false),
        (5, "update members set who = 'ann'", true),
        (6, "truncate members", false),
    ] {
        db.sql(sql).await?;
        db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
        let expected: &[i32] = if shown { &[id] } else { &[] };
        assert_eq!(ids(db, &mut ann).await?, expected, "{policy}: {sql}");
    }
    Ok(())
}

/// What a transaction changes behind a row decides about the row: the row is there from the commit on
#[tokio::test]
async fn what_a_transaction_changes_behind_a_row_counts_for_the_row() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create function may(r int) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where m.room = r and m.who = public.me()) $$;"
    ))
    .await?;
    for policy in ["room in (select m.room from members m where m.who = me())", "may(room)"] {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy})"
        ))
        .await?;
        let mut ann = watching(&server, "ann", "says").await?;
        db.sql("insert into says values (1, 1, '')").await?;
        assert_eq!(ids(&db, &mut ann).await?, [0; 0], "{policy}");
        // Longer than what waits for the end of a transaction, and shorter.
        for (first, last) in [(10, 11), (1000, 3600)] {
            let rows = format!("insert into says select n, 1, '' from generate_series({first}, {last}) n");
            db.sql(&format!("begin; {rows}; insert into members values (1, 'ann'); commit")).await?;
            let shown: Vec<i32> = (first..=last).collect();
            assert_eq!(ids(&db, &mut ann).await?, shown, "{policy}");
            let rows = rows.replace("select n", "select -n");
            db.sql(&format!("begin; {rows}; delete from members; commit")).await?;
            assert_eq!(ids(&db, &mut ann).await?, [0; 0], "{policy}");
            db.sql(&format!(
                "begin; insert into members values (1, 'ann'); {}; truncate members; commit",
                rows.replace("-n", "-n - 10000")
            ))
            .await?;
            assert_eq!(ids(&db, &mut ann).await?, [0; 0], "{policy}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_looks_like_a_column_is_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create table rooms (room int primary key);
         insert into rooms values (1), (2);
         alter publication supabase_realtime add table rooms;
         create function is_open(r rooms) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where m.room = r.room and m.who = public.me()) $$;
         create function may(r int) returns bool language sql stable security definer as
            $$ select exists (select from public.rooms a where a.room = r and a.is_open) $$;
         create function may_too() returns setof int language sql stable security definer as
            $$ select a.room from (select * from public.rooms) b join public.rooms a on a.room = b.room where a.is_open $$;"
    ))
    .await?;
    follows(&server, &db, "may(room)").await?;
    follows(&server, &db, "room in (select may_too())").await
}

#[tokio::test]
async fn a_table_that_is_named_like_an_expression_around_it_is_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create function may(r int) returns bool language sql stable security definer set search_path = public as
            $$ with members as (select * from members where who = me()) select exists (select from members where room = r) $$;
         create function mine() returns setof int language sql stable security definer set search_path = public as
            $$ with members as (select * from members where who = me()) select room from members $$;"
    ))
    .await?;
    follows(&server, &db, "may(room)").await?;
    follows(&server, &db, "room in (select mine())").await
}

#[tokio::test]
async fn what_a_default_of_an_argument_reads_is_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create function mine() returns int[] language sql stable security definer as
            $$ select array(select m.room from public.members m where m.who = public.me()) $$;
         create function may(r int, rooms int[] default mine()) returns bool language sql stable as
            $$ select r = any (rooms) $$;
         create function outer_may(r int) returns bool language sql stable as $$ select public.may(r) $$;"
    ))
    .await?;
    follows(&server, &db, "may(room)").await?;
    follows(&server, &db, "outer_may(room)").await
}

#[tokio::test]
async fn what_an_operator_of_users_reads_is_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create function joined(who text, room int) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where m.room = $2 and m.who = $1) $$;
         create operator public.= (leftarg = text, rightarg = int, function = joined);
         create function may(r int) returns bool language sql stable set search_path = public as
            $$ select me() = r $$;"
    ))
    .await?;
    follows(&server, &db, "may(room)").await
}

#[tokio::test]
async fn overloads_and_helpers_of_many_kinds_are_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create function is_in(r int) returns bool language sql stable as $$ select false $$;
         create function is_in(r bigint) returns bool language sql stable as $$ select false $$;
         create function is_in(r int, variadic who text[]) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where m.room = r and m.who = any (is_in.who)) $$;
         create function dynamic(r int) returns bool language plpgsql stable security definer as
            $$ declare found bool; begin execute 'select exists (select from public.members where room = $1 and who = public.me())' into found using r; return found; end $$;
         create view seen_members as select * from members;
         create function by_view(r int) returns bool language sql stable security definer as
            $$ select exists (select from public.seen_members m where m.room = r and m.who = public.me()) $$;
         create function volatile_one(r int) returns bool language plpgsql volatile security definer as
            $$ begin return exists (select from public.members m where m.room = r and m.who = public.me()); end $$;
         create function atomic_one(r int) returns bool language sql stable security definer
            begin atomic; select exists (select from members m where m.room = r and m.who = me()); end;
         create function immutable_one(r int) returns bool language sql immutable security definer as
            $$ select exists (select from public.members m where m.room = r and m.who = public.me()) $$;"
    ))
    .await?;
    for policy in [
        "is_in(room, 'x', me())",
        "dynamic(room)",
        "by_view(room)",
        "exists (select from seen_members m where m.room = says.room and m.who = me())",
        "volatile_one(room)",
        "atomic_one(room)",
        "immutable_one(room)",
        "room in (select m.room from members m where m.who = me() union select 77)",
        "(select count(*) from members m where m.who = me()) = 1 and room = 1",
        "me() in (select m.who from members m where m.room = says.room)",
        "room = (select max(m.room) from members m where m.who = me())",
        "not exists (select from (values (1)) v where not exists (select from members m where m.who = me())) and room = 1",
    ] {
        follows(&server, &db, policy).await?;
    }
    Ok(())
}

/// A setting that another part of the policy makes
#[tokio::test]
async fn a_setting_that_a_helper_makes_is_not_taken_from_elsewhere() -> Result<()> {
    let (server, db) = server(
        "create table noted (id int primary key, owner text);
         create function note() returns bool language plpgsql as
            $$ begin perform set_config('app.me', me(), true); return true; end $$;
         create function note_stable() returns bool language plpgsql stable as
            $$ begin perform set_config('app.me', me(), true); return true; end $$;
         create function noted_me() returns text language sql stable as $$ select current_setting('app.me', true) $$;
         alter table noted enable row level security;
         alter publication supabase_realtime add table noted;",
    )
    .await?;
    for policy in [
        "case when note() then owner = current_setting('app.me', true) end",
        "case when note_stable() then owner = noted_me() end",
        "case when note_stable() then owner = current_setting('app.me'::text || '', true) end",
    ] {
        db.sql(&format!(
            "delete from noted; drop policy if exists own on noted;
             create policy own on noted to authenticated using ({policy})"
        ))
        .await?;
        let (mut ann, mut bob) =
            (watching(&server, "ann", "noted").await?, watching(&server, "bob", "noted").await?);
        db.sql("insert into noted values (1, 'ann'), (2, 'bob'), (3, 'ann')").await?;
        assert_eq!(ids(&db, &mut ann).await?, [1, 3], "{policy}");
        assert_eq!(ids(&db, &mut bob).await?, [2], "{policy}");
    }
    Ok(())
}

/// What the compiler cannot see: settings of a function's own, casts written in SQL, claims that a helper sets.
#[tokio::test]
async fn what_policies_depend_on_out_of_sight_is_asked() -> Result<()> {
    let (server, db) = server(
        "create table noted (id int primary key, owner text, room int);
         create table members (room int, who text, primary key (room, who));
         create function may(r int) returns bool language sql stable security definer
            set request.jwt.claims to '{\"me\":\"shared\"}' set search_path to '' as
            $$ select exists (select from public.members m where m.room = r and m.who = public.me()) $$;
         create type tk as (k int);
         create function tk_text(t tk) returns text language sql stable security definer as
            $$ select coalesce(max(m.who), 'nobody') from public.members m where m.room = t.k $$;
         create cast (tk as text) with function tk_text(tk);
         create function note() returns bool language plpgsql as $$
            begin perform set_config('request.jwt.claims', '{\"me\":\"ann\"}', true); return true; end $$;
         grant select on all tables in schema public to authenticated;
         alter table noted enable row level security;
         alter publication supabase_realtime add table noted, members;",
    )
    .await?;
    let shown = async |policy: &str, who: &str, expected: [&[i32]; 2]| -> Result<()> {
        db.sql(&format!(
            "delete from noted; truncate members; drop policy if exists own on noted;
             create policy own on noted to authenticated using ({policy});
             insert into members values (1, '{who}')"
        ))
        .await?;
        let mut bob = watching(&server, "bob", "noted").await?;
        db.sql("insert into noted values (1, 'ann', 1), (2, 'bob', 2), (3, 'bob', 1)").await?;
        assert_eq!(ids(&db, &mut bob).await?, expected[0], "{policy}");
        db.sql(&format!("update members set room = 2 where who = '{who}'")).await?;
        db.sql("insert into noted values (4, 'ann', 1), (5, 'bob', 2), (6, 'bob', 1)").await?;
        assert_eq!(ids(&db, &mut bob).await?, expected[1], "{policy}");
        Ok(())
    };
    shown("may(room)", "shared", [&[1, 3], &[5]]).await?;
    shown("owner = (select row(1)::tk::text)", "bob", [&[2, 3], &[]]).await?;
    shown("case when note() then owner = me() end", "bob", [&[1], &[4]]).await?;
    Ok(())
}

/// Repeats a trial until it holds, as long as a definition may take to count.
async fn until(mut trial: impl AsyncFnMut(i32) -> Result<bool>, what: &str) -> Result<()> {
    let begun = Instant::now();
    for round in 1.. {
        if trial(round).await? {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE / 4, "{what}");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test]
async fn labels_of_an_enum_that_change_hands_are_followed() -> Result<()> {
    let (server, db) = server(
        "create type state as enum ('open', 'closed');
         create table posts (id serial primary key, state state);
         alter table posts enable row level security;
         create policy own on posts to authenticated using (state = 'open');
         alter publication supabase_realtime add table posts;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "posts").await?;
    db.sql("insert into posts values (1, 'open'), (2, 'closed')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    // What was closed is open now: the policy means the value, not the word.
    db.sql(
        "alter type state rename value 'open' to 'x'; alter type state rename value 'closed' to 'open';
         alter type state rename value 'x' to 'closed'",
    )
    .await?;
    until(
        async |round| {
            let (open, closed) = (round * 10, round * 10 + 1);
            db.sql(&format!("insert into posts values ({open}, 'closed'), ({closed}, 'open')")).await?;
            Ok(ids(&db, &mut ann).await? == [open])
        },
        "the labels are not followed",
    )
    .await
}

#[tokio::test]
async fn schemas_of_the_publication_are_followed() -> Result<()> {
    let (server, db) = server(
        "create schema one; create schema two;
         create table one.members (room int, who text, primary key (room, who));
         create table two.others (id int primary key);
         create table says (id int primary key, room int);
         alter table says enable row level security;
         create function may(r int) returns bool language sql stable security definer as
            $$ select exists (select from one.members m where m.room = r and m.who = public.me()) $$;
         create policy own on says to authenticated using (may(room));
         alter publication supabase_realtime add table says;",
    )
    .await?;
    if db
        .client()
        .batch_execute("alter publication supabase_realtime add tables in schema one")
        .await
        .is_err()
    {
        // Publications have schemas from PostgreSQL 15 on.
        return Ok(());
    }
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into one.members values (1, 'ann')").await?;
    db.sql("insert into says values (1, 1)").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    db.sql("begin; alter publication supabase_realtime drop tables in schema one; alter publication supabase_realtime add tables in schema two; commit").await?;
    until(
        async |round| {
            db.sql("insert into one.members values (1, 'ann') on conflict do nothing").await?;
            db.sql(&format!("insert into says values ({}, 1)", round * 10)).await?;
            let first = ids(&db, &mut ann).await?;
            db.sql("delete from one.members").await?;
            db.sql(&format!("insert into says values ({}, 1)", round * 10 + 1)).await?;
            Ok(first == [round * 10] && ids(&db, &mut ann).await?.is_empty())
        },
        "a table that is not published any more is read",
    )
    .await
}

/// Definitions count within two seconds, also where nothing but the definition is written
#[tokio::test]
async fn a_definition_that_changes_while_nothing_is_written_counts() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create function may(r int) returns bool language sql stable as $$ select r = 1 $$;
         create policy own on says to authenticated using (may(room));"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into says values (1, 1, ''), (2, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    db.sql("create or replace function may(r int) returns bool language sql stable as $$ select r = 2 $$")
        .await?;
    // The promise is a time.
    sleep(Duration::from_secs(3)).await;
    db.sql("insert into says values (3, 1, ''), (4, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [4]);
    Ok(())
}

/// Takes very long for eve, in words that are read.
const SLOW: &str = "
    create function slow_me() returns text language sql stable as $$
        select case when public.me() = 'eve' then (select max(n)::text from generate_series(1, 2000000000) n)
            else public.me() end $$;
    create function may(r int) returns bool language sql stable security definer as
        $$ select exists (select from public.members m where m.room = r and m.who = public.slow_me()) $$;";

/// One party whose answers take too long is left alone: it is not asked whenever something changes
#[tokio::test]
async fn a_slow_party_is_not_asked_again_and_again() -> Result<()> {
    let (server, db) = impatient_server(&format!("{ROOMS} {SLOW}")).await?;
    for policy in ["room in (select m.room from members m where m.who = slow_me())", "may(room)"] {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy})"
        ))
        .await?;
        let (mut ann, mut eve) =
            (watching(&server, "ann", "says").await?, watching(&server, "eve", "says").await?);
        // Both are asked. Eve takes too long, also alone, and is told.
        db.sql("insert into says values (0, 0, '')").await?;
        assert_eq!(ids(&db, &mut ann).await?, [0; 0], "{policy}");
        while !eve.frame().await?.payload["message"].to_string().contains("57014") {
            db.sql("insert into says select max(id) + 1000, 0, '' from says").await?;
        }
        ids(&db, &mut ann).await?;
        let before = server.metric("realtime_changes_terms_asked").await?;
        let rounds = 20;
        for room in 1..=rounds {
            db.sql(&format!("insert into members values ({room}, 'ann')")).await?;
            db.sql(&format!("insert into says values ({room}, {room}, '')")).await?;
            assert_eq!(ids(&db, &mut ann).await?, [room], "{policy}");
        }
        let came = server.metric("realtime_changes_terms_asked").await? - before;
        // Ann for each room, and for each change; eve hardly ever. Once more when others change a role.
        ensure!(came <= f64::from(3 * rounds), "{policy}: {came} parties were asked");
    }
    Ok(())
}

/// The rows of a party that has not answered yet wait for its answer, in order; nobody else's do
#[tokio::test]
async fn a_new_party_that_is_slow_holds_up_nobody_else() -> Result<()> {
    let (server, db) = impatient_server(&format!(
        "{ROOMS}
         create table gate (id int primary key);
         alter publication supabase_realtime add table gate;
         create function gated() returns text language plpgsql stable security definer as $$
            declare n int;
            begin
                if public.me() = 'eve' then select count(*) into n from public.gate; end if;
                return public.me();
            end $$;
         create function may(r int) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where m.room = r and m.who = public.gated()) $$;"
    ))
    .await?;
    for policy in ["room in (select m.room from members m where m.who = gated())", "may(room)"] {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy});
             insert into members values (1, 'ann'), (1, 'eve')"
        ))
        .await?;
        let mut ann = watching(&server, "ann", "says").await?;
        db.sql("insert into says values (1, 1, '')").await?;
        assert_eq!(ids(&db, &mut ann).await?, [1], "{policy}");
        // Eve's question cannot be answered until the gate is open, however long all of this takes.
        let mut keeper = db.connect().await?;
        let closed = keeper.transaction().await?;
        closed.batch_execute("lock table gate in access exclusive mode").await?;
        let mut eve = watching(&server, "eve", "says").await?;
        for id in 2..=20 {
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            assert_eq!(ids(&db, &mut ann).await?, [id], "{policy}");
        }
        closed.commit().await?;
        let mut came = Vec::new();
        while came.len() < 19 {
            let frame = eve.frame().await?;
            let data = &frame.payload["data"];
            if data["table"] == "says" {
                came.push(data["record"]["id"].clone());
            } else {
                ensure!(
                    !frame.payload["message"].to_string().contains("withheld"),
                    "{policy}: {:?}",
                    frame.payload
                );
            }
        }
        let expected: Vec<Value> = (2..=20).map(Value::from).collect();
        assert_eq!(came, expected, "{policy}");
        // From then on it waits for nothing.
        db.sql("insert into says values (21, 1, '')").await?;
        assert_eq!(
            (ids(&db, &mut ann).await?, ids(&db, &mut eve).await?),
            (vec![Value::from(21)], vec![Value::from(21)])
        );
    }
    Ok(())
}
