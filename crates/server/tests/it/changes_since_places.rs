//! The places that clients come back with: those that are not kept, those of another history, those ahead of the log (resume
//! 1, 5, 6; its cases are numbered as there).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Frame, ServerOptions, Version, until};
use serde_json::{Value, json};

use crate::{
    changes_images::{TOPIC, event, server, server_with},
    changes_since::{back, change, connect, doc, missed, shown},
};

/// resume 5: what is no place is refused; what is of another history, or not kept, is told.
#[tokio::test]
async fn places_that_are_not_kept_are_told() -> Result<()> {
    let (server, db) = server("").await?;
    for since in [json!("yesterday"), json!(17), json!({}), json!("16/B374D848"), json!("")] {
        let mut socket = connect(&server, Version::V2, "ann").await?;
        let entry = json!({"event": "*", "schema": "public", "table": "docs", "since": since});
        let (reply, _) = socket.join(TOPIC, json!({"config": {"postgres_changes": [entry]}})).await?;
        ensure!(reply["status"] == "ok", "{reply}");
        let refused = socket.expect(|frame| frame.event == "system").await?.payload;
        assert_eq!(refused["status"], "error", "{since}: {refused}");
        let text = refused["message"].as_str().context("message")?;
        ensure!(text.starts_with("Error parsing `since` params"), "{text}");
    }
    db.sql("insert into docs values (1, 'ann', 'a')").await?;
    for since in
        ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "0/1:1", "FFFFFFFF/0:1"]
    {
        let mut socket = back(&server, "ann", "docs", &json!(since)).await?;
        let gap = socket.expect(|frame| frame.payload["status"] == "gap").await?.payload;
        assert_eq!(gap["code"], "ChangesNotKept");
        assert_eq!(gap["message"], format!("Changes after {since} are not kept any more"));
        assert_eq!((&gap["extension"], &gap["channel"]), (&json!("postgres_changes"), &json!("any")));
        db.sql("insert into docs values (2, 'ann', 'live')").await?;
        assert_eq!(
            shown(&change(&mut socket).await?),
            event("INSERT", doc(2, "live")),
            "live changes come all the same"
        );
        db.sql("delete from docs where id = 2").await?;
    }
    Ok(())
}

/// resume 5: a database that was restored has another history: a change of the former one, which this one never had, is no
/// place to go on at, wherever it lies.
#[tokio::test]
async fn changes_of_another_history_are_no_places() -> Result<()> {
    let (server, db) = server("create table unpublished (id serial);").await?;
    let mut witness = back(&server, "ann", "docs", &Value::Null).await?;
    let mut places = Vec::new();
    for id in 1..=2 {
        db.sql(&format!("insert into docs values ({id}, 'ann', 'a')")).await?;
        change(&mut witness).await?;
        let lsn = db.client().query_one("select pg_current_wal_insert_lsn()::text", &[]).await?;
        places.push(format!("{}:1", lsn.get::<_, String>(0)));
    }
    // The log goes on behind the second one, too.
    db.sql("insert into unpublished default values").await?;
    for place in places {
        let mut socket = back(&server, "ann", "docs", &json!(place)).await?;
        let gap = socket.expect(|frame| frame.payload["status"] == "gap").await?.payload;
        assert_eq!(gap["code"], "ChangesNotKept");
        assert_eq!(gap["message"], format!("Changes after {place} are not kept any more"));
        db.sql("update docs set body = 'live' where id = 1").await?;
        let live = |frame: &Frame| frame.payload["data"]["record"]["body"] == "live";
        socket.expect(live).await?;
    }
    Ok(())
}

/// resume 6: the journal forgets, and says so
#[tokio::test]
async fn a_journal_that_is_full_forgets_and_says_so() -> Result<()> {
    let options = ServerOptions::default()
        .env("CHANGES_JOURNAL_MB", "1")
        .env("TENANT_MAX_EVENTS_PER_SECOND", "100000000");
    let (server, db) = server_with("", options).await?;
    let mut first = back(&server, "ann", "docs", &Value::Null).await?;
    db.sql("insert into docs values (1, 'ann', 'a')").await?;
    let since = change(&mut first).await?["commit_timestamp"].clone();
    db.sql("insert into docs select i, 'ann', repeat('x', 1000) from generate_series(10, 2009) i").await?;
    for _ in 0..2000 {
        change(&mut first).await?;
    }
    let kept = server.metric("realtime_changes_journal_bytes").await?;
    ensure!(kept <= 1_048_576.0 && kept > 500_000.0, "{kept}");
    let mut socket = back(&server, "ann", "docs", &since).await?;
    let gap = socket.expect(|frame| frame.payload["status"] == "gap").await?.payload;
    assert_eq!(gap["code"], "ChangesNotKept");
    Ok(())
}

/// A server whose log is behind, as that of a node is which has just come, sends nothing once more of before the place that a
/// client has from elsewhere.
#[tokio::test]
async fn a_server_that_is_behind_sends_nothing_again() -> Result<()> {
    const ROWS: i32 = 40;
    let dir = tempfile::tempdir()?;
    let held = dir.path().join("held");
    std::fs::write(&held, "")?;
    // The first row waits until somebody has come, and the others take their time.
    let slow = format!("policy_table_changed=1*hold({});policy_table_changed=delay(20)", held.display());
    let (server, db) = server_with("", ServerOptions::fast().env("FAILPOINTS", &slow)).await?;
    let _witness = back(&server, "ann", "docs", &Value::Null).await?;
    for id in 1..ROWS {
        db.sql(&format!("insert into docs values ({id}, 'ann', 'seen elsewhere')")).await?;
    }
    let now = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let since: String = db.client().query_one(now, &[]).await?.try_get(0)?;
    db.sql(&format!("insert into docs values ({ROWS}, 'ann', 'missed')")).await?;
    let is_checked = async || Ok(server.metric("realtime_changes_subscription_checks").await? >= 2.0);
    let release = async {
        until("somebody has come back", is_checked).await?;
        Ok(std::fs::remove_file(&held)?)
    };
    let since = json!(since);
    let (mut socket, ()) = tokio::try_join!(back(&server, "ann", "docs", &since), release)?;
    assert_eq!(missed(&mut socket).await?, (vec![event("INSERT", doc(ROWS, "missed"))], vec![]));
    db.sql(&format!("insert into docs values ({}, 'ann', 'live')", ROWS + 1)).await?;
    assert_eq!(change(&mut socket).await?["record"]["id"], json!(ROWS + 1));
    Ok(())
}
