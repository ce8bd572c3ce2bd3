//! The image that is sent is the image that is judged (row_security 1, 2; its cases are numbered as there).

use anyhow::Result;
use realtime_testkit::{Frame, SECRET, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::BINARY;

pub(crate) const TOPIC: &str = "realtime:any";

/// A server, and a table `docs` whose rows their owners see: those whose name is the claim `me`.
pub(crate) async fn server(more: &str) -> Result<(Server, TestDb)> {
    server_with(more, ServerOptions::fast()).await
}

/// The same with further settings.
pub(crate) async fn server_with(more: &str, options: ServerOptions) -> Result<(Server, TestDb)> {
    server_on(TestDb::new().await?, more, options).await
}

/// The same on a database that has nothing yet.
pub(crate) async fn server_on(db: TestDb, more: &str, options: ServerOptions) -> Result<(Server, TestDb)> {
    db.sql(&format!(
        "create function me() returns text language sql stable as
            $$ select current_setting('request.jwt.claims', true)::jsonb ->> 'me' $$;
         create table docs (id int primary key, owner text, body text);
         alter table docs enable row level security;
         create policy own on docs to authenticated using (owner = (select me()));
         create table fence (id serial primary key);
         {more}
         grant select on all tables in schema public to anon, authenticated, service_role;
         alter publication supabase_realtime add table docs, fence;",
    ))
    .await?;
    let server = Server::start(BINARY, &db, options.env("METRICS_JWT_SECRET", SECRET)).await?;
    Ok((server, db))
}

pub(crate) async fn watching(server: &Server, me: &str, table: &str) -> Result<Socket> {
    let claims = json!({"role": "authenticated", "me": me, "sub": me, "exp": unix_now() + 3600});
    let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
    let fence = json!({"event": "INSERT", "schema": "public", "table": "fence"});
    socket.watch(TOPIC, json!([{"event": "*", "schema": "public", "table": table}, fence])).await?;
    Ok(socket)
}

/// What has come of all that was committed before.
pub(crate) async fn frames(db: &TestDb, socket: &mut Socket) -> Result<Vec<Frame>> {
    let fence =
        db.client().query_one("insert into fence default values returning id", &[]).await?.get::<_, i32>(0);
    let mut frames = Vec::new();
    loop {
        let frame = socket.frame().await?;
        let data = &frame.payload["data"];
        match data["table"] == "fence" {
            true if data["record"]["id"] == fence => return Ok(frames),
            true => {}
            false if frame.event == "phx_reply" => {}
            false => frames.push(frame),
        }
    }
}

/// The events that have come: type, and the record or for a delete the old one.
pub(crate) async fn seen(db: &TestDb, socket: &mut Socket) -> Result<Vec<(String, Value)>> {
    let changes = frames(db, socket).await?.into_iter().filter(|frame| frame.event == "postgres_changes");
    Ok(changes
        .map(|frame| {
            let data = &frame.payload["data"];
            let record = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
            (data["type"].as_str().unwrap_or_default().to_owned(), record.clone())
        })
        .collect())
}

pub(crate) fn event(action: &str, record: Value) -> (String, Value) {
    (action.to_owned(), record)
}

/// row_security 3, 4: each version is judged by itself, not by what stands under its key in the end
#[tokio::test]
async fn each_version_is_judged_by_itself() -> Result<()> {
    let (server, db) = server("insert into docs values (1, 'ann', 'ann''s');").await?;
    let (mut ann, mut bob) =
        (watching(&server, "ann", "docs").await?, watching(&server, "bob", "docs").await?);
    db.sql("begin; update docs set body = 'secret' where id = 1; update docs set owner = 'bob', body = 'for bob' where id = 1; commit")
        .await?;
    db.sql("begin; insert into docs values (2, 'ann', 'a'); delete from docs where id = 2; insert into docs values (2, 'bob', 'b'); commit")
        .await?;
    db.sql("begin; insert into docs values (3, 'bob', 'c'); update docs set id = 4 where id = 3; delete from docs where id = 4; commit")
        .await?;
    db.sql("insert into docs values (5, 'ann', 'd'), (6, 'bob', 'd')").await?;
    assert_eq!(
        seen(&db, &mut ann).await?,
        [
            event("UPDATE", json!({"id": 1, "owner": "ann", "body": "secret"})),
            event("INSERT", json!({"id": 2, "owner": "ann", "body": "a"})),
            event("DELETE", json!({"id": 2})),
            event("DELETE", json!({"id": 4})),
            event("INSERT", json!({"id": 5, "owner": "ann", "body": "d"})),
        ]
    );
    assert_eq!(
        seen(&db, &mut bob).await?,
        [
            event("UPDATE", json!({"id": 1, "owner": "bob", "body": "for bob"})),
            event("DELETE", json!({"id": 2})),
            event("INSERT", json!({"id": 2, "owner": "bob", "body": "b"})),
            event("INSERT", json!({"id": 3, "owner": "bob", "body": "c"})),
            event("UPDATE", json!({"id": 4, "owner": "bob", "body": "c"})),
            event("DELETE", json!({"id": 4})),
            event("INSERT", json!({"id": 6, "owner": "bob", "body": "d"})),
        ]
    );
    Ok(())
}

/// row_security 7, 8: a child's row opens no parent's; security that is turned on at a root counts at once
#[tokio::test]
async fn relatives_are_not_taken_for_each_other() -> Result<()> {
    let (server, db) = server(
        "create table child (extra int) inherits (docs);
         create table root (id int primary key, owner text) partition by range (id);
         create table root_1 partition of root for values from (0) to (100);
         create policy own on root to authenticated using (owner = me());
         alter publication supabase_realtime set (publish_via_partition_root = true);
         alter publication supabase_realtime add table root;
         insert into child values (1, 'bob', 'of the child', 1);",
    )
    .await?;
    let mut bob = watching(&server, "bob", "docs").await?;
    let mut root = watching(&server, "bob", "root").await?;
    db.sql("insert into docs values (1, 'ann', 'hidden')").await?;
    assert_eq!(seen(&db, &mut bob).await?, []);
    db.sql("insert into root values (1, 'ann')").await?;
    assert_eq!(seen(&db, &mut root).await?, [event("INSERT", json!({"id": 1, "owner": "ann"}))]);
    db.sql("alter table root enable row level security; insert into root values (2, 'ann'), (3, 'bob')")
        .await?;
    assert_eq!(seen(&db, &mut root).await?, [event("INSERT", json!({"id": 3, "owner": "bob"}))]);
    Ok(())
}

/// row_security 9, 23: nothing that a policy's function leaves behind is there for the next party
#[tokio::test]
async fn nothing_of_a_party_is_left_for_the_next() -> Result<()> {
    let (server, db) = server(
        "create function cached() returns text language plpgsql as $$ begin
            if coalesce(current_setting('app.me', true), '') = '' then
                perform set_config('app.me', current_setting('request.jwt.claim.sub', true), true);
            end if;
            perform pg_advisory_lock(4711);
            return current_setting('app.me', true);
         end $$;
         create function declared_wrongly() returns text language sql immutable as $$ select cached() $$;
         drop policy own on docs;
         create policy own on docs to authenticated using (owner = cached() and owner = declared_wrongly());",
    )
    .await?;
    let mut sockets = Vec::new();
    for me in ["ann", "bob", "eve"] {
        sockets.push((me, watching(&server, me, "docs").await?));
    }
    db.sql("insert into docs select n, (array['ann', 'bob', 'eve'])[n % 3 + 1], '' from generate_series(1, 30) n").await?;
    for (me, socket) in &mut sockets {
        let records = seen(&db, socket).await?;
        assert_eq!(records.len(), 10, "{me}");
        assert!(records.iter().all(|(_, record)| record["owner"] == *me), "{me}: {records:?}");
    }
    let locks = db
        .client()
        .query_one("select count(*) from pg_locks where locktype = 'advisory' and objid = 4711", &[]);
    assert_eq!(locks.await?.get::<_, i64>(0), 0, "a lock that a policy took is left");
    Ok(())
}

/// row_security 10, 11: what policies read in other tables is as of after the commit, under their policies
#[tokio::test]
async fn memberships_count_from_their_commit() -> Result<()> {
    let (server, db) = server(
        "create table members (room int, uid text); create table rooms (id int primary key, room int);
         alter table members enable row level security;
         create policy own on members to authenticated using (uid = me());
         alter table rooms enable row level security;
         create policy members on rooms to authenticated using (room in (select m.room from members m));
         alter publication supabase_realtime add table rooms;
         insert into members values (1, 'ann'), (1, 'bob'), (2, 'bob');",
    )
    .await?;
    let (mut ann, mut bob) =
        (watching(&server, "ann", "rooms").await?, watching(&server, "bob", "rooms").await?);
    db.sql("insert into rooms values (1, 1), (2, 2)").await?;
    let one = event("INSERT", json!({"id": 1, "room": 1}));
    assert_eq!(seen(&db, &mut ann).await?, std::slice::from_ref(&one));
    assert_eq!(seen(&db, &mut bob).await?, [one, event("INSERT", json!({"id": 2, "room": 2}))]);
    db.sql("begin; delete from members where uid = 'bob'; insert into rooms values (3, 1); commit").await?;
    db.sql("insert into members values (2, 'ann')").await?;
    db.sql("insert into rooms values (4, 2)").await?;
    let room = |id, room| event("INSERT", json!({"id": id, "room": room}));
    assert_eq!(seen(&db, &mut ann).await?, [room(3, 1), room(4, 2)]);
    assert_eq!(seen(&db, &mut bob).await?, []);
    Ok(())
}

/// row_security 17: names that the server uses itself, and policies that take the row as a whole
#[tokio::test]
async fn any_name_will_do() -> Result<()> {
    let (server, db) = server(
        "create table party (id int primary key, places text, looked_at text, t text, claims text, role text, number int,
            wanted int, images text, verdict text, n int, values_0 text, ordinality int, image text, wanted_row text);
         alter table party enable row level security;
         create policy own on party to authenticated using (claims = me() and number = n and wanted is not null
            and coalesce(places, looked_at, t, role, images, verdict, values_0, image, wanted_row) = claims);
         create table wanted_row (id int primary key, owner text);
         create function owned(r wanted_row) returns bool language sql stable as $$ select r.owner = me() $$;
         alter table wanted_row enable row level security;
         create policy own on wanted_row to authenticated using (owned(wanted_row));
         alter publication supabase_realtime add table party, wanted_row;",
    )
    .await?;
    let (mut ann, mut whole) =
        (watching(&server, "ann", "party").await?, watching(&server, "ann", "wanted_row").await?);
    db.sql(
        "insert into party (id, claims, number, n, wanted, role) values
            (1, 'ann', 1, 1, 1, 'ann'), (2, 'ann', 1, 2, 1, 'ann'), (3, 'bob', 1, 1, 1, 'bob'), (4, 'ann', 4, 4, 1, 'ann');
         insert into wanted_row values (1, 'ann'), (2, 'bob'), (3, 'ann')",
    )
    .await?;
    let ids = |events: &[(String, Value)]| {
        events.iter().map(|(_, record)| record["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&seen(&db, &mut ann).await?), [1, 4]);
    assert_eq!(ids(&seen(&db, &mut whole).await?), [1, 3]);
    Ok(())
}

/// Values of every kind come to the policies as they are in the table.
#[tokio::test]
async fn values_of_every_kind_reach_policies_unchanged() -> Result<()> {
    const POLICY: &str = "tags = array['a,b', null, '{\"}'] and nested[2][1] = 3 and data ->> 'k' = 'v' and nothing = 'null'::jsonb
        and raw ->> 'k' = 'v' and mail = 'a@b' and mails = array['a@b', 'c@d']::mail[] and p = row(1, 'x y')::pair
        and bits = b'101' and fixed = 'ab   ' and r @> 5 and b = '\\x00ff' and f = 'NaN' and ts = '2020-01-01 12:00+02'
        and mood = 'sad' and i = interval '1 day 2 hours' and missing is null and x::text = '<a/>' and u is not null
        and absent is distinct from 'x'";
    let (server, db) = server(&format!(
        "create type mood as enum ('sad', 'ok'); create type pair as (a int, b text);
         create domain mail as text not null check (value like '%@%');
         create table kinds (id int primary key, tags text[], nested int[], data jsonb, nothing jsonb, raw json, mail mail,
            mails mail[], p pair, bits bit(3), fixed char(5), r int4range, b bytea, f float8, ts timestamptz, mood mood,
            i interval, missing json, x xml, u uuid, absent text);
         alter table kinds enable row level security;
         create policy own on kinds to authenticated using ({POLICY});
         alter publication supabase_realtime add table kinds;"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "kinds").await?;
    let values = "array['a,b', null, '{\"}'], '{{1,2},{3,4}}', '{\"k\": \"v\"}', 'null', '{\"k\": \"v\"}', 'a@b',
        array['a@b', 'c@d']::mail[], row(1, 'x y')::pair, b'101', 'ab', '[1,9)', '\\x00ff', 'NaN', '2020-01-01 10:00Z', 'sad',
        '26 hours', null, '<a/>', gen_random_uuid(), null";
    db.sql(&format!("insert into kinds values (1, {values})")).await?;
    let shown = db.client().query_one(&format!("select count(*) from kinds where {POLICY}"), &[]).await?;
    assert_eq!(shown.get::<_, i64>(0), 1, "the policy itself");
    let frames = frames(&db, &mut ann).await?;
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].payload["data"]["record"]["id"], 1);
    Ok(())
}

/// row_security 22: what `select` refuses for want of USAGE is not delivered, from a second or two after a revoke
#[tokio::test]
async fn schemas_that_may_not_be_used_show_nothing() -> Result<()> {
    let (server, db) = server(
        "create schema hidden; create table hidden.things (id int primary key, what text);
         grant usage on schema hidden to authenticated; grant select on hidden.things to authenticated;
         alter publication supabase_realtime add table hidden.things;",
    )
    .await?;
    let claims = json!({"role": "authenticated", "exp": unix_now() + 3600});
    let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
    socket.watch(TOPIC, json!([{"event": "*", "schema": "hidden", "table": "things"}])).await?;
    db.sql("insert into hidden.things values (0, 'seen')").await?;
    let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
    assert_eq!(data["record"], json!({"id": 0, "what": "seen"}));
    db.sql("revoke usage on schema hidden from authenticated").await?;
    let limit = tokio::time::Instant::now() + realtime_testkit::PATIENCE;
    for id in 1.. {
        db.sql(&format!("insert into hidden.things values ({id}, 'hidden')")).await?;
        let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
        if data["errors"] == json!(["Error 401: Unauthorized"]) {
            assert_eq!(data["record"], json!({}));
            break;
        }
        anyhow::ensure!(tokio::time::Instant::now() < limit, "the revoke never counts");
    }
    Ok(())
}

/// Statements that a policy prepares or removes outlive a rollback: the next question must not run them.
#[tokio::test]
async fn statements_that_policies_prepare_are_never_run() -> Result<()> {
    let (server, db) = server(
        "create function meddles() returns bool language plpgsql as $$ begin
            execute 'deallocate all';
            for n in 0 .. 20 loop
                execute format('prepare s%s as select 1 / 0', n);
            end loop;
            return true;
         end $$;
         drop policy own on docs;
         create policy own on docs to authenticated using (owner = me() and meddles());",
    )
    .await?;
    let mut ann = watching(&server, "ann", "docs").await?;
    for id in 1..=5 {
        db.sql(&format!("insert into docs values ({id}, 'ann', ''), ({}, 'bob', '')", id + 100)).await?;
        assert_eq!(
            seen(&db, &mut ann).await?,
            [event("INSERT", json!({"id": id, "owner": "ann", "body": ""}))]
        );
        // The catalog is asked over the same connections.
        db.sql(&format!("alter table docs alter body set default '{id}'")).await?;
    }
    Ok(())
}

/// row_security 16: a policy that claims to have met a lock holds up nobody else
#[tokio::test]
async fn a_policy_that_raises_lock_not_available_is_a_failure() -> Result<()> {
    let (server, db) = server(
        "create function locked() returns bool language plpgsql as $$ begin
            if me() = 'eve' then raise exception 'x' using errcode = '55P03'; end if;
            assert me() <> 'mallory';
            return true;
         end $$;
         drop policy own on docs;
         create policy own on docs to authenticated using (locked());",
    )
    .await?;
    let mut eve = watching(&server, "eve", "docs").await?;
    let mut mallory = watching(&server, "mallory", "docs").await?;
    let mut ann = watching(&server, "ann", "docs").await?;
    db.sql("insert into docs values (1, 'ann', '')").await?;
    assert_eq!(seen(&db, &mut ann).await?.len(), 1);
    for (socket, code) in [(&mut eve, "55P03"), (&mut mallory, "P0004")] {
        let frames = frames(&db, socket).await?;
        let told: Vec<&str> = frames.iter().filter_map(|frame| frame.payload["message"].as_str()).collect();
        assert!(told.len() == 1 && told[0].contains(code), "{frames:?}");
    }
    Ok(())
}

/// The same where the policy is compiled, and what it compares rows with raises that.
#[tokio::test]
async fn what_a_party_is_asked_for_fails_by_its_own_code() -> Result<()> {
    let (server, db) = server(
        "create function whose() returns text language plpgsql stable as $$ begin
            if me() = 'eve' then raise exception 'x' using errcode = '55P03'; end if;
            return me();
         end $$;
         drop policy own on docs;
         create policy own on docs to authenticated using (owner = (select whose()));",
    )
    .await?;
    let (mut eve, mut ann) =
        (watching(&server, "eve", "docs").await?, watching(&server, "ann", "docs").await?);
    db.sql("insert into docs values (1, 'ann', '')").await?;
    assert_eq!(seen(&db, &mut ann).await?.len(), 1);
    let told = eve.expect(|frame| frame.payload["code"] == "RlsPolicyError").await?;
    let text = told.payload["message"].to_string();
    assert!(text.contains("55P03 lock_not_available"), "{text}");
    Ok(())
}

/// A column's own collation decides, and a policy goes on to mean what it meant when what it names is renamed.
#[tokio::test]
async fn policies_mean_what_they_mean_in_the_table() -> Result<()> {
    let (server, db) = server(
        "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table named (id int primary key, owner text collate ci);
         create table members (uid text); insert into members values ('ann');
         alter table named enable row level security;
         create policy own on named to authenticated using (owner <> 'BOB'
            and exists (select from members where uid = me()));
         alter publication supabase_realtime add table named;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "named").await?;
    let mut eve = watching(&server, "eve", "named").await?;
    db.sql("insert into named values (1, 'bob'), (2, 'Ann')").await?;
    assert_eq!(seen(&db, &mut ann).await?, [event("INSERT", json!({"id": 2, "owner": "Ann"}))]);
    db.sql(
        "alter table members rename to members_old; create table members (uid text); insert into members values ('eve');
         grant select on members to authenticated; insert into named values (3, 'Ann')",
    )
    .await?;
    assert_eq!(seen(&db, &mut ann).await?, [event("INSERT", json!({"id": 3, "owner": "Ann"}))]);
    assert_eq!(seen(&db, &mut eve).await?, []);
    Ok(())
}
