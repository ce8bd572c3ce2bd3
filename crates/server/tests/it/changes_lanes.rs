//! A policy that is slow for one user delays the rows of that user alone, and these come in order.

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Frame, PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::time;

use crate::changes_images::{TOPIC, frames, seen, server_on, server_with, watching};

/// For each row `says` asks a function that cannot be read. It takes as long as `pace` says if eve asks, and looks behind
/// the `gate`.
const SAYS: &str = "
    create table pace (ms int); insert into pace values (0);
    create table gate (id int primary key);
    create function slow(who text) returns bool language plpgsql security definer as $$
        begin
            if public.me() = 'eve' then
                execute format('select pg_sleep(%s / 1000.0)', (select ms from public.pace));
                execute 'select count(*) from public.gate';
            end if;
            return true;
        end $$;
    create table says (id int primary key, owner text, body text);
    alter table says enable row level security;
    create policy own on says to authenticated using (slow(owner || id::text));
    alter publication supabase_realtime add table says;";

/// How slow eve is: far from what a row may take, and far slower than all that a test does meanwhile.
const SLOWLY: &str = "update pace set ms = 150";

/// A server that waits for a party no longer than in earnest.
async fn server() -> Result<(Server, TestDb)> {
    let options = ServerOptions::fast();
    server_with(SAYS, options.env("POLICY_WAIT_MS", "200")).await
}

/// The changes of `says` among some frames. Nothing was withheld.
fn changes(frames: &[Frame]) -> Result<Vec<(String, Value)>> {
    let mut changes = Vec::new();
    for Frame { event, payload, .. } in frames {
        ensure!(payload["code"] != "RlsPolicyError", "told: {payload}");
        let data = &payload["data"];
        if event == "postgres_changes" && data["table"] == "says" {
            let record = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
            changes.push((data["type"].as_str().unwrap_or_default().to_owned(), record.clone()));
        }
    }
    Ok(changes)
}

fn ids(changes: &[(String, Value)]) -> Vec<i64> {
    changes.iter().filter_map(|(_, record)| record["id"].as_i64()).collect()
}

/// row_security 2.5: others have all rows while the rows of the slow one are on their way; then it has the same ones
#[tokio::test]
async fn slow_policy_delays_only_its_own_rows() -> Result<()> {
    let (server, db) = server().await?;
    let (mut ann, mut bob) =
        (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
    let mut eve = watching(&server, "eve", "says").await?;
    db.sql(SLOWLY).await?;
    for id in 1..=90 {
        db.sql(&format!("insert into says values ({id}, 'ann', '')")).await?;
    }
    db.sql("insert into says select n, 'ann', '' from generate_series(91, 120) n").await?;
    db.sql("update says set body = 'x' where id % 10 = 0; delete from says where id = 1").await?;
    let all = seen(&db, &mut ann).await?;
    assert_eq!(all.len(), 120 + 12 + 1);
    assert_eq!(seen(&db, &mut bob).await?, all);
    let mut came = changes(&eve.settle().await?)?;
    ensure!(came.len() < all.len(), "eve takes a long time");
    db.sql("update pace set ms = 0").await?;
    came.extend(changes(&frames(&db, &mut eve).await?)?);
    assert_eq!(came, all, "in order, none lost, none twice");
    // From then on it has them at once, and others too.
    db.sql("insert into says values (200, 'ann', '')").await?;
    for socket in [&mut ann, &mut bob, &mut eve] {
        assert_eq!(ids(&seen(&db, socket).await?), [200]);
    }
    Ok(())
}

/// row_security 15: rows of a transaction that each take their time with each party come whole, and in order
#[tokio::test]
async fn a_transaction_of_rows_that_take_their_time_comes_whole() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create function takes_its_time(who text) returns bool language plpgsql as
            $$ begin perform pg_sleep(0.003); return who <> ''; end $$;
         drop policy own on says;
         create policy own on says to authenticated using (takes_its_time(owner || id::text))",
    )
    .await?;
    let mut parties = Vec::new();
    for me in ["ann", "bob", "cyn", "dan", "eve"] {
        parties.push(watching(&server, me, "says").await?);
    }
    db.sql("insert into says select n, 'ann', '' from generate_series(1, 200) n").await?;
    for party in &mut parties {
        assert_eq!(ids(&changes(&frames(&db, party).await?)?), (1..=200).collect::<Vec<i64>>());
    }
    Ok(())
}

/// row_security 16: a policy that claims to have met a lock is asked a few times, while others get their rows
#[tokio::test]
async fn a_policy_that_claims_to_have_met_a_lock_is_asked_a_few_times() -> Result<()> {
    let db = TestDb::alone().await?;
    let policy = "
        create function locked(row_of text) returns bool language plpgsql as $$ begin
            if me() = 'eve' then
                raise log 'eve was asked for';
                raise exception 'x' using errcode = '55P03';
            end if;
            return true;
         end $$;
         drop policy own on docs;
         create policy own on docs to authenticated using (locked(owner || id::text));";
    let (server, db) = server_on(db, policy, ServerOptions::default()).await?;
    let (mut ann, mut eve) =
        (watching(&server, "ann", "docs").await?, watching(&server, "eve", "docs").await?);
    db.sql("insert into docs values (1, 'ann', '')").await?;
    assert_eq!(ids(&seen(&db, &mut ann).await?), [1]);
    eve.expect(|frame| frame.payload["code"] == "RlsPolicyError").await?;
    let tries = db.log()?.matches("LOG:  eve was asked for").count();
    ensure!((1..=8).contains(&tries), "asked {tries} times");
    Ok(())
}

/// Who waits for a lock that somebody holds delays nobody, and loses nothing
#[tokio::test]
async fn policy_that_waits_for_a_lock_delays_only_its_own_rows() -> Result<()> {
    let (server, db) = server().await?;
    let (mut ann, mut eve) =
        (watching(&server, "ann", "says").await?, watching(&server, "eve", "says").await?);
    let mut keeper = db.connect().await?;
    let closed = keeper.transaction().await?;
    closed.batch_execute("lock table gate in access exclusive mode").await?;
    for id in 1..=10 {
        db.sql(&format!("insert into says values ({id}, 'ann', '')")).await?;
        assert_eq!(ids(&seen(&db, &mut ann).await?), [id]);
    }
    assert_eq!(changes(&eve.settle().await?)?, []);
    closed.commit().await?;
    assert_eq!(ids(&changes(&frames(&db, &mut eve).await?)?), (1..=10).collect::<Vec<i64>>());
    Ok(())
}

/// A row that takes too long by itself is withheld alone, and that is told
#[tokio::test]
async fn row_that_takes_too_long_is_withheld_alone() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "drop policy own on says;
         create policy own on says to authenticated
            using (case when me() = 'eve' and body = 'long' then pg_sleep(60) is not null else slow(owner || id::text) end)",
    )
    .await?;
    let (mut ann, mut eve) =
        (watching(&server, "ann", "says").await?, watching(&server, "eve", "says").await?);
    db.sql("insert into says select n, 'ann', case n when 5 then 'long' end from generate_series(1, 9) n")
        .await?;
    assert_eq!(ids(&seen(&db, &mut ann).await?), (1..=9).collect::<Vec<i64>>());
    let mut frames = frames(&db, &mut eve).await?;
    let told = frames.extract_if(.., |frame| frame.payload["code"] == "RlsPolicyError").collect::<Vec<_>>();
    ensure!(told.len() == 1 && told[0].payload["message"].to_string().contains("57014"), "{told:?}");
    assert_eq!(ids(&changes(&frames)?), [1, 2, 3, 4, 6, 7, 8, 9]);
    Ok(())
}

/// What is told of the table comes behind the rows that it is about
#[tokio::test]
async fn truncation_is_told_behind_the_rows_that_wait() -> Result<()> {
    let (server, db) = server().await?;
    let (mut ann, mut eve) =
        (watching(&server, "ann", "says").await?, watching(&server, "eve", "says").await?);
    db.sql(SLOWLY).await?;
    db.sql("insert into says select n, 'ann', '' from generate_series(1, 8) n").await?;
    db.sql("truncate says").await?;
    db.sql("insert into says values (9, 'ann', '')").await?;
    for socket in [&mut ann, &mut eve] {
        let mut came = Vec::new();
        for Frame { payload, .. } in frames(&db, socket).await? {
            match payload["code"].as_str() {
                Some("Truncated") => came.push(json!("truncated")),
                _ if payload["data"]["table"] == "says" => came.push(payload["data"]["record"]["id"].clone()),
                code => ensure!(code == Some("ChangesDelayed"), "{payload}"),
            }
        }
        let rows = (1..=8).map(|n| json!(n)).chain([json!("truncated"), json!(9)]);
        assert_eq!(came, rows.collect::<Vec<Value>>());
    }
    Ok(())
}

/// resume 1: who comes back and is slow gets all that was missed, at its own pace, before it has caught up
#[tokio::test]
async fn slow_client_that_comes_back_gets_all_it_missed() -> Result<()> {
    let (server, db) = server().await?;
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into says values (0, 'ann', '')").await?;
    let first = ann.expect(|frame| frame.payload["data"]["table"] == "says").await?;
    let since = first.payload["data"]["commit_timestamp"].clone();
    // More than a lane takes of what comes.
    db.sql("insert into says select n, 'ann', '' from generate_series(1, 1500) n").await?;
    db.sql("update pace set ms = 1").await?;
    let claims = json!({"role": "authenticated", "me": "eve", "exp": unix_now() + 3600});
    let mut eve = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
    let entry = json!({"event": "*", "schema": "public", "table": "says", "since": since});
    let (reply, _) = eve.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    let missed = async {
        let mut missed = Vec::new();
        loop {
            let frame = eve.frame().await?;
            if frame.payload["message"] == "Caught up" {
                return anyhow::Ok(missed);
            }
            missed.push(frame);
        }
    };
    let missed = time::timeout(PATIENCE * 3, missed).await.context("it has not caught up")??;
    assert_eq!(ids(&changes(&missed)?), (0..=1500).collect::<Vec<i64>>());
    assert_eq!(ids(&seen(&db, &mut ann).await?), (1..=1500).collect::<Vec<i64>>());
    db.sql("insert into says values (2000, 'ann', '')").await?;
    let live = eve.expect(|frame| frame.event == "postgres_changes").await?;
    assert_eq!(live.payload["data"]["record"]["id"], 2000);
    Ok(())
}

/// A lane is bounded: what does not fit is withheld, and told
#[tokio::test]
async fn rows_that_find_no_room_are_withheld_and_told() -> Result<()> {
    let (server, db) = server().await?;
    let (mut ann, mut eve) =
        (watching(&server, "ann", "says").await?, watching(&server, "eve", "says").await?);
    db.sql(SLOWLY).await?;
    db.sql("insert into says select n, 'ann', '' from generate_series(1, 1300) n").await?;
    assert_eq!(ids(&seen(&db, &mut ann).await?), (1..=1300).collect::<Vec<i64>>());
    let told = eve.expect(|frame| frame.payload["code"] == "RlsPolicyError").await?;
    ensure!(
        told.payload["message"].to_string().contains("more wait for the answer than are kept"),
        "{told:?}"
    );
    db.sql("update pace set ms = 0").await?;
    // The row with this number comes when there is room again.
    let mut came = Vec::new();
    let drained = async {
        while came.last() != Some(&1301) {
            db.sql("delete from says where id = 1301; insert into says values (1301, 'ann', '')").await?;
            let inserts =
                eve.settle().await?.into_iter().filter(|frame| frame.payload["data"]["type"] == "INSERT");
            came.extend(ids(&changes(&inserts.collect::<Vec<_>>())?));
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE * 3, drained).await.context("the lane is not emptied")??;
    came.retain(|id| *id <= 1300);
    ensure!(came.len() >= 900 && came.len() < 1300, "{}", came.len());
    ensure!(came.is_sorted_by(|a, b| a < b), "in order, none twice: {came:?}");
    Ok(())
}

/// Who gets another token while rows wait is told that they are not delivered
#[tokio::test]
async fn rows_that_wait_for_an_old_token_are_told() -> Result<()> {
    let (server, db) = server().await?;
    let token =
        |more: u64| sign(&json!({"role": "authenticated", "me": "eve", "exp": unix_now() + 3600 + more}));
    let mut ann = watching(&server, "ann", "says").await?;
    let mut eve = Socket::connect(server.port(), Version::V2, &token(0)).await?;
    let entry = json!({"event": "*", "schema": "public", "table": "says"});
    let (_, reference) = eve.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
    eve.expect(|frame| frame.payload["message"] == "Subscribed to PostgreSQL").await?;
    db.sql(SLOWLY).await?;
    db.sql("insert into says select n, 'ann', '' from generate_series(1, 90) n").await?;
    assert_eq!(seen(&db, &mut ann).await?.len(), 90);
    eve.send(json!(reference), Value::Null, TOPIC, "access_token", json!({"access_token": token(1)})).await?;
    let told = eve.expect(|frame| frame.payload["status"] == "gap").await?;
    assert_eq!(told.payload["code"], "RlsPolicyError", "{told:?}");
    // With the new one it goes on.
    db.sql("update pace set ms = 0; insert into says values (100, 'ann', '')").await?;
    eve.expect(|frame| frame.payload["data"]["record"]["id"] == 100).await?;
    Ok(())
}
