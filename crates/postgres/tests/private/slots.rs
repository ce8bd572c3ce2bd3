//! Making a slot waits for the transactions that are running.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use realtime_changes::{ChannelId, SubscriptionSpec};
use realtime_postgres::{DatabaseConfig, Generations, SubscribeRequest};
use realtime_testkit::{PATIENCE, TestDb};
use serde_json::json;
use tokio::time;

use crate::support::{config, one, open};

const WALSENDERS: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and backend_type = 'walsender'";

async fn watched() -> Result<(TestDb, DatabaseConfig)> {
    let db = TestDb::with_fixture_a().await?;
    let config = config(&db).await?;
    let config = DatabaseConfig {
        connect_timeout: Duration::from_secs(1),
        slot_timeout: Duration::from_millis(300),
        ..config
    };
    Ok((db, config))
}

fn request(channel: u64) -> Result<SubscribeRequest> {
    let parameters = json!({"event": "*", "schema": "public", "table": "test"});
    let spec = SubscriptionSpec::parse(parameters.as_object().context("object")?)?;
    // The channel lives as long as the test.
    let generations: &Generations = Box::leak(Box::default());
    Ok(SubscribeRequest {
        generation: generations.next(),
        channel: ChannelId(channel),
        role: "anon".into(),
        claims: "{}".into(),
        subscriptions: vec![(1, Arc::new(spec))],
    })
}

async fn until_none(db: &TestDb) -> Result<()> {
    let none = async {
        while one::<i64>(db, WALSENDERS).await? > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, none).await.context("walsenders stay")?
}

/// While a transaction is open no slot can be made: attempts follow one another, and none outlives its time.
#[tokio::test]
async fn one_connection_at_a_time_makes_a_slot() -> Result<()> {
    for durable_slot in [false, true] {
        let (db, config) = watched().await?;
        let slot_name = format!("slot_{}", &db.name()[5..13]);
        let database = open(DatabaseConfig { durable_slot, slot_name: slot_name.clone(), ..config });
        let open_transaction = db.connect().await?;
        open_transaction.batch_execute("begin; create table public.b (a int)").await?;

        let watching = async {
            for channel in 0..3 {
                if database.subscribe(request(channel)?).await.is_ok() {
                    bail!("subscribed without a slot");
                }
            }
            anyhow::Ok(())
        };
        let counting = async {
            loop {
                let walsenders = one::<i64>(&db, WALSENDERS).await?;
                if walsenders > 1 {
                    bail!("{walsenders} at once");
                }
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = watching => done?,
            failed = counting => failed?,
        }
        // In the middle of an attempt, too.
        let attempt = database.clone();
        let attempt =
            tokio::spawn(async move { attempt.subscribe(request(9)?).await.map_err(anyhow::Error::from) });
        let begun = async {
            while one::<i64>(&db, WALSENDERS).await? == 0 {
                time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        };
        time::timeout(PATIENCE, begun).await.context("no attempt")??;
        database.shutdown().await;
        assert!(attempt.await?.is_err());
        until_none(&db).await?;
        let slots = "select count(*) from pg_replication_slots where database = current_database()";
        assert_eq!(one::<i64>(&db, slots).await?, 0);
        open_transaction.batch_execute("commit").await?;
    }
    Ok(())
}

/// Whoever waited is subscribed when the transaction is over.
#[tokio::test]
async fn a_slot_is_made_when_the_transaction_is_over() -> Result<()> {
    let (db, config) = watched().await?;
    let database = open(config);
    let open_transaction = db.connect().await?;
    open_transaction.batch_execute("begin; create table public.b (a int)").await?;
    assert!(database.subscribe(request(1)?).await.is_err());
    open_transaction.batch_execute("commit").await?;
    let subscribed = async {
        while database.subscribe(request(1)?).await.is_err() {}
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, subscribed).await.context("never subscribed")??;
    database.shutdown().await;
    until_none(&db).await
}
