//! The places of streams whose rows wait in a lane, because a policy is slow for their user (resume 5, row_security 2.5).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Server, ServerOptions, TestDb};

use super::{Curl, Event, bearer};
use crate::changes_images::server_with;

/// A policy that cannot be read and takes as long as `pace` says; and a table that cannot be shown.
const SCHEMA: &str = "
    create table pace (ms int); insert into pace values (0);
    create function slow(body text) returns bool language plpgsql security definer as $$
        begin
            execute format('select pg_sleep(%s / 1000.0) /* %s */', (select ms from public.pace), body);
            return true;
        end $$;
    create table says (id int primary key, body text);
    create table bare (id int);
    alter table says enable row level security;
    create policy own on says to authenticated using (slow(body));
    alter publication supabase_realtime add table says, bare;";

/// All tables of the schema.
const PATH: &str = "/sse/changes?schema=public";

async fn server() -> Result<(Server, TestDb)> {
    server_with(SCHEMA, ServerOptions::default().env("POLICY_WAIT_MS", "50")).await
}

/// The stream of somebody whose policies are slow from now on.
async fn slow_stream(server: &Server, db: &TestDb) -> Result<Curl> {
    let mut stream = Curl::open(server, PATH, &[&bearer("eve")]).await?;
    stream.expect("subscribed").await?;
    db.sql("update pace set ms = 150").await?;
    Ok(stream)
}

/// The stream goes on at a place, where policies are quick again. All changes up to `last`.
async fn goes_on(server: &Server, db: &TestDb, place: &str, last: i64) -> Result<Vec<i64>> {
    db.sql("update pace set ms = 0").await?;
    let mut stream = Curl::open(server, PATH, &[&bearer("eve"), &format!("Last-Event-ID: {place}")]).await?;
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        let event = stream.next().await?.context("the stream ended")?;
        ensure!(event.name != "gap", "{event:?}");
        if event.data["table"] == "says" {
            ids.push(event.row().1);
        }
    }
    Ok(ids)
}

/// A row that has waited has its place: who comes back with it gets what came behind it, and nothing twice
#[tokio::test]
async fn a_row_that_waited_in_a_lane_has_its_place() -> Result<()> {
    let (server, db) = server().await?;
    let mut stream = slow_stream(&server, &db).await?;
    let began_at = stream.last_id.clone();
    for id in 1..=8 {
        db.sql(&format!("insert into says values ({id}, '')")).await?;
    }
    let mut places = vec![began_at];
    for id in 1..=4 {
        let event = stream.expect("INSERT").await?;
        assert_eq!(event.row().1, id);
        ensure!(!places.contains(&event.id), "row {id} has the place of one before: {places:?}, {event:?}");
        places.push(event.id);
    }
    let place = stream.kill().await?;
    assert_eq!(goes_on(&server, &db, &place, 8).await?, [5, 6, 7, 8]);
    Ok(())
}

/// That a table cannot be shown is told before rows that wait: it is no place to go on from
#[tokio::test]
async fn a_refusal_that_overtakes_rows_has_no_place() -> Result<()> {
    let (server, db) = server().await?;
    let mut stream = slow_stream(&server, &db).await?;
    for id in 1..=8 {
        db.sql(&format!("insert into says values ({id}, '')")).await?;
    }
    db.sql("insert into bare values (1)").await?;
    let mut came = Vec::new();
    let refusal: Event = loop {
        let event = stream.next().await?.context("the stream ended")?;
        if event.data["table"] == "bare" {
            break event;
        }
        if event.data["table"] == "says" {
            came.push(event.row().1);
        }
    };
    ensure!(refusal.data["errors"].is_array(), "{refusal:?}");
    ensure!(came.len() < 8, "rows wait: {came:?}");
    let place = stream.kill().await?;
    let rest: Vec<i64> = (1..=8).skip(came.len()).collect();
    assert_eq!(goes_on(&server, &db, &place, 8).await?, rest, "after {came:?}");
    Ok(())
}
