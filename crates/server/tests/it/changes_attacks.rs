//! Policies and tables that are made to harm: what they do stays with those whom they concern.

use anyhow::{Result, ensure};
use realtime_testkit::{Frame, PATIENCE, Socket, TestDb};
use serde_json::{Value, json};

use crate::changes_images::{TOPIC, event, frames, seen, server, watching};

/// Leaves a lock behind that outlives a rollback, if it runs as the server's role.
const TRAP: &str = "
    create function spring() returns bool language plpgsql as $$ begin
        if current_setting('application_name') ~ '^realtime' and current_user = session_user then
            perform pg_advisory_lock(666);
        end if;
        return true;
    end $$;";

/// Goes on for ever, whoever cancels it.
const ENDLESS: &str = "
    create function endless() returns bool language plpgsql as $$ begin
        if current_setting('application_name') !~ '^realtime' then return true; end if;
        loop
            begin
                perform pg_sleep(60);
            exception when query_canceled or others then
                null;
            end;
        end loop;
    end $$;";

async fn locks(db: &TestDb, number: i64) -> Result<i64> {
    let sql = "select count(*) from pg_locks where locktype = 'advisory' and objid::int8 = $1";
    Ok(db.client().query_one(sql, &[&number]).await?.get(0))
}

/// Waits until no session of the server runs a statement.
async fn idle(db: &TestDb) -> Result<()> {
    let limit = tokio::time::Instant::now() + PATIENCE;
    loop {
        let sql = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name ~ '^realtime' and state = 'active'
                and backend_type = 'client backend' and wait_event = 'PgSleep'";
        if db.client().query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < limit, "a session goes on for ever");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What a channel was told of policies, and the records that came.
fn told(frames: &[Frame]) -> (Vec<&str>, Vec<&Value>) {
    let told = frames.iter().filter(|frame| frame.payload["code"] == "RlsPolicyError");
    let changes = frames.iter().filter(|frame| frame.event == "postgres_changes");
    (
        told.filter_map(|frame| frame.payload["message"].as_str()).collect(),
        changes.map(|frame| &frame.payload["data"]["record"]).collect(),
    )
}

#[tokio::test]
async fn a_policy_that_catches_its_cancellation_withholds_only_its_own_rows() -> Result<()> {
    let (server, db) = server(&format!(
        "{ENDLESS}
         drop policy own on docs;
         create policy own on docs to authenticated using (owner = me() or me() = 'eve' and endless());"
    ))
    .await?;
    let (mut eve, mut ann) =
        (watching(&server, "eve", "docs").await?, watching(&server, "ann", "docs").await?);
    for id in 1..=3 {
        db.sql(&format!("insert into docs values ({id}, 'ann', '')")).await?;
    }
    assert_eq!(seen(&db, &mut ann).await?.len(), 3);
    let frames = frames(&db, &mut eve).await?;
    let (told, records) = told(&frames);
    assert!(told.len() == 1 && told[0].contains("57014"), "{told:?}");
    assert_eq!(records.len(), 0);
    idle(&db).await
}

#[tokio::test]
async fn a_policy_that_ends_its_session_withholds_only_its_own_rows() -> Result<()> {
    let (server, db) = server(
        "create function ends() returns bool language plpgsql security definer as $$ begin
            return pg_terminate_backend(pg_backend_pid());
         end $$;
         drop policy own on docs;
         create policy own on docs to authenticated using (owner = me() or me() = 'eve' and ends());",
    )
    .await?;
    let (mut eve, mut ann) =
        (watching(&server, "eve", "docs").await?, watching(&server, "ann", "docs").await?);
    for id in 1..=3 {
        db.sql(&format!("insert into docs values ({id}, 'ann', '')")).await?;
    }
    assert_eq!(seen(&db, &mut ann).await?.len(), 3);
    let frames = frames(&db, &mut eve).await?;
    let (told, records) = told(&frames);
    // On a busy machine the end of a session may take longer than the answer.
    let ended = |text: &str| ["57P01", "57014"].iter().any(|code| text.contains(code));
    assert!(told.len() == 1 && ended(told[0]), "{told:?}");
    assert_eq!(records.len(), 0);
    Ok(())
}

/// The check of a domain runs when a literal is compared, and when a row is.
#[tokio::test]
async fn a_domain_that_catches_its_cancellation_withholds_only_its_own_rows() -> Result<()> {
    let (server, db) = server(&format!(
        "{ENDLESS}
         create domain slow as text check (value is null or value <> 'slow' or endless());
         create type pair as (a slow, b int);
         create table slows (id int primary key, p pair);
         alter publication supabase_realtime add table slows;"
    ))
    .await?;
    let refused = json!({"event": "*", "schema": "public", "table": "slows", "filter": "p=eq.\"(slow,1)\""});
    let mut socket = server.socket(realtime_testkit::Version::V2, "authenticated").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [refused]}})).await?;
    let text = socket.event(TOPIC, "system").await?["message"].to_string();
    assert!(text.contains("57014"), "{text}");
    let mut open = watching(&server, "ann", "slows").await?;
    let filtered = json!({"event": "*", "schema": "public", "table": "slows", "filter": "p=neq.\"(a,1)\""});
    let mut socket = server.socket(realtime_testkit::Version::V2, "authenticated").await?;
    socket.watch(TOPIC, json!([filtered])).await?;
    db.sql("insert into slows values (1, row('slow', 1)), (2, row('fast', 1))").await?;
    assert_eq!(seen(&db, &mut open).await?.len(), 2);
    let told = socket.event(TOPIC, "system").await?;
    assert_eq!(told["code"], "FilterTooSlow", "{told}");
    idle(&db).await
}

/// The types of a key are looked into: their checks would run with the server's rights.
#[tokio::test]
async fn checks_inside_of_a_keys_type_do_not_run_as_the_server() -> Result<()> {
    for (kind, key, value) in [
        ("create type key as (a checked, b int);", "key", "row('x', 1)::key"),
        ("", "checked[]", "array['x']::checked[]"),
        ("create type key as range (subtype = checked);", "key", "key('a', 'b')"),
        (
            "create type inner_key as (a checked); create domain key as inner_key;",
            "key",
            "row('x')::inner_key",
        ),
    ] {
        let (server, db) = server(&format!(
            "{TRAP}
             create domain checked as text check (spring());
             {kind}
             create table large (id {key} primary key, doc text, n int);
             alter table large alter doc set storage external;
             alter table large enable row level security;
             create policy own on large to authenticated using (doc like me() || '%');
             alter publication supabase_realtime add table large;
             insert into large values ({value}, 'ann' || repeat('x', 100000), 0);"
        ))
        .await?;
        let mut ann = watching(&server, "ann", "large").await?;
        db.sql("update large set n = 1").await?;
        let frames = frames(&db, &mut ann).await?;
        let (told, records) = told(&frames);
        assert_eq!((told.len(), records.len()), (1, 0), "{key}: {frames:?}");
        assert_eq!(locks(&db, 666).await?, 0, "{key}: code of an application ran as the server's role");
    }
    Ok(())
}

/// What stands under the name of the table is looked at before it is read.
#[tokio::test]
async fn a_view_in_the_place_of_a_table_is_not_read_as_the_server() -> Result<()> {
    let (server, db) = server(&format!(
        "{TRAP}
         create table large (id int primary key, doc text, n int);
         alter table large alter doc set storage external;
         alter table large enable row level security;
         create policy own on large to authenticated using (doc like me() || '%');
         alter publication supabase_realtime add table large;
         insert into large values (1, 'ann' || repeat('x', 100000), 0);"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "large").await?;
    db.sql("update large set n = 1").await?;
    assert_eq!(seen(&db, &mut ann).await?.len(), 1);
    // The row of this transaction comes before the news of what it does to the table.
    db.sql(
        "begin; update large set n = 2; alter table large rename to moved;
         create view large as select id, doc, n, case when spring() then '0' end as xmin from moved; commit",
    )
    .await?;
    seen(&db, &mut ann).await?;
    assert_eq!(locks(&db, 666).await?, 0, "a view was read as the server's role");
    Ok(())
}

/// Values that the table holds and that their type refuses by now.
#[tokio::test]
async fn an_image_that_cannot_be_built_is_withheld_alone() -> Result<()> {
    let (server, db) = server(
        "create domain tag as text;
         create table tagged (id int primary key, tag tag, owner text, n int);
         create function owned(r tagged) returns bool language sql stable as $$ select r.owner = me() and r.tag <> '' $$;
         alter table tagged enable row level security;
         -- What is made of the tag is not compiled: the database is asked.
         create policy own on tagged to authenticated using (owner = me() and tag || '' <> '');
         create domain given as text not null;
         create table lacking (id int primary key, given given, owner text, n int);
         alter table lacking alter given set storage external;
         alter table lacking enable row level security;
         create policy own on lacking to authenticated using (owner = me() and given || '' <> '');
         alter publication supabase_realtime add table tagged, lacking;
         insert into tagged select n, case n when 2 then 'old' else 'new' end, 'ann', 0 from generate_series(1, 4) n;
         insert into lacking select n, repeat('x', 100000), 'ann', 0 from generate_series(1, 4) n;
         alter domain tag add constraint fresh check (value <> 'old') not valid;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "tagged").await?;
    let ids = |records: &[&Value]| records.iter().map(|record| record["id"].clone()).collect::<Vec<_>>();
    for whole in [false, true] {
        if whole {
            db.sql("drop policy own on tagged; create policy own on tagged to authenticated using (owned(tagged))").await?;
            ann = watching(&server, "ann", "tagged").await?;
        }
        db.sql("update tagged set n = n + 1").await?;
        let frames = frames(&db, &mut ann).await?;
        let (told, records) = told(&frames);
        assert_eq!(ids(&records), [1, 3, 4], "{frames:?}");
        assert!(told.len() == 1 && told[0].contains("23514"), "{told:?}");
    }
    let mut ann = watching(&server, "ann", "lacking").await?;
    db.sql("begin; update lacking set n = 1; delete from lacking where id = 2; commit").await?;
    let frames = frames(&db, &mut ann).await?;
    let (told, records) = told(&frames);
    let updated: Vec<&Value> = records.into_iter().filter(|record| record["id"].is_number()).collect();
    assert_eq!(ids(&updated), [1, 3, 4], "{frames:?}");
    assert!(told.len() == 1 && told[0].contains("the log does not carry"), "{told:?}");
    Ok(())
}

/// The check of a domain runs on the connections that ask the catalog.
#[tokio::test]
async fn what_a_domain_leaves_on_a_connection_is_removed() -> Result<()> {
    let (server, db) = server(
        "create function meddles() returns bool language plpgsql as $$ begin
            if current_setting('application_name') !~ '^realtime' then return true; end if;
            perform pg_advisory_lock(4712);
            execute 'deallocate all';
            for n in 0 .. 40 loop
                execute format('prepare s%s as select 1 / 0', n);
            end loop;
            return true;
         end $$;
         create domain meddling as text check (meddles());
         create table meddled (id int primary key, s meddling);
         alter publication supabase_realtime add table meddled;",
    )
    .await?;
    for id in 1..=5 {
        let filter = format!("s=lt.b{id}");
        let mut socket = Socket::connect(
            server.port(),
            realtime_testkit::Version::V2,
            &realtime_testkit::sign(
                &json!({"role": "authenticated", "exp": realtime_testkit::unix_now() + 3600}),
            ),
        )
        .await?;
        let one = json!({"event": "*", "schema": "public", "table": "meddled", "filter": filter});
        socket.watch(TOPIC, json!([one])).await?;
        db.sql(&format!("insert into meddled values ({id}, 'a')")).await?;
        let data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
        assert_eq!(data["record"]["id"], id);
        assert_eq!(locks(&db, 4712).await?, 0, "a lock is left");
    }
    Ok(())
}

/// What a later statement of a transaction wrote is not what an earlier one left as it was.
#[tokio::test]
async fn a_value_that_changes_later_in_a_transaction_fills_in_nothing() -> Result<()> {
    let (server, db) = server(
        "create table large (id int primary key, doc text, n int);
         alter table large alter doc set storage external;
         alter table large enable row level security;
         create policy own on large to authenticated using (doc like me() || '%');
         alter publication supabase_realtime add table large;
         insert into large select n, 'ann' || repeat('x', 100000), 0 from generate_series(1, 3) n;",
    )
    .await?;
    let (mut ann, mut bob) =
        (watching(&server, "ann", "large").await?, watching(&server, "bob", "large").await?);
    db.sql(
        "begin; update large set n = 1 where id = 1;
         update large set doc = 'bob' || repeat('y', 100000) where id = 1; commit",
    )
    .await?;
    let came = frames(&db, &mut bob).await?;
    let (_, records) = told(&came);
    let docs: Vec<&str> =
        records.iter().map(|record| &record["doc"].as_str().unwrap_or("absent")[..3]).collect();
    assert_eq!(docs, ["bob"], "the first version was ann's");
    let came = frames(&db, &mut ann).await?;
    assert_eq!(told(&came).1.len(), 0, "what cannot be proven is withheld");
    // Where nothing follows, the version that stands is the one in the log.
    db.sql("update large set n = 2 where id = 2").await?;
    assert_eq!(seen(&db, &mut ann).await?.len(), 1);
    db.sql("begin; insert into docs values (9, 'ann', ''); update large set n = 3 where id > 1; commit")
        .await?;
    let ids: Vec<Value> =
        seen(&db, &mut ann).await?.into_iter().map(|(_, record)| record["id"].clone()).collect();
    assert_eq!(ids, [2, 3]);
    Ok(())
}

/// Names of columns that change hands between the log and the question: a policy goes by the column, not by its name.
#[tokio::test]
async fn columns_that_are_renamed_meanwhile_are_not_mistaken() -> Result<()> {
    let (server, db) = server(
        "create table parts (id int primary key, owner text, editor text);
         create table wholes (id int primary key, owner text, editor text);
         alter table parts enable row level security;
         alter table wholes enable row level security;
         create policy own on parts to authenticated using (owner = me());
         create policy own on wholes to authenticated using (row_to_json(wholes.*) ->> 'owner' = me());
         alter publication supabase_realtime add table parts, wholes;",
    )
    .await?;
    for (table, sees) in [("parts", "ann"), ("wholes", "bob")] {
        let (mut ann, mut bob) =
            (watching(&server, "ann", table).await?, watching(&server, "bob", table).await?);
        db.sql(&format!("insert into {table} values (1, 'ann', 'ann')")).await?;
        assert_eq!(seen(&db, &mut ann).await?.len(), 1);
        // The row comes before the news of the names.
        db.sql(&format!(
            "begin; insert into {table} values (2, 'ann', 'bob');
             alter table {table} rename owner to x; alter table {table} rename editor to owner;
             alter table {table} rename x to editor; commit"
        ))
        .await?;
        for (me, socket) in [("ann", &mut ann), ("bob", &mut bob)] {
            assert_eq!(seen(&db, socket).await?.len(), usize::from(me == sees), "{table}, {me}");
        }
        db.sql(&format!(
            "begin; insert into {table} values (3, 'ann', 'bob'); alter table {table} add more int; commit"
        ))
        .await?;
        assert_eq!(seen(&db, if sees == "ann" { &mut bob } else { &mut ann }).await?.len(), 0);
    }
    assert_eq!(event("x", Value::Null).0, "x");
    Ok(())
}
