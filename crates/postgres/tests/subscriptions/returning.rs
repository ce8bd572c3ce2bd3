//! Channels that come back, all at once: what that asks of the database, and how often the journal is read.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use futures_util::future::join_all;
use realtime_postgres::Notice;
use serde_json::json;

use crate::support::{Channel, Watched};

const CHANNELS: usize = 1_000;

const CHANGES: usize = 40;

/// What is handed over in one slice at most, and what one change adds to it.
const SLICE: u64 = 10_000 + CHANNELS as u64;

/// resume 3: a thousand share a check of what they want, and some passes; each gets what it has missed, once and in order.
#[tokio::test]
async fn a_thousand_who_come_back_cost_a_few_questions_and_passes() -> Result<()> {
    let mut watched = Watched::new().await?;
    let witness = watched.channel();
    watched.handle.subscribe(witness.request(1, &json!({"schema": "public", "table": "test"}))).await?;
    watched.db.sql("insert into public.test (details) values ('seen')").await?;
    let since = watched.first_place(&witness).await;
    for _ in 0..CHANGES {
        watched.db.sql("insert into public.test (details) values ('missed')").await?;
    }
    watched.delivered(&witness, 1 + CHANGES).await;

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let stats = watched.handle.stats();
    let before = count(&stats.subscription_checks);
    let channels: Vec<Channel> = (0..CHANNELS).map(|_| watched.channel()).collect();
    let back = json!({"schema": "public", "table": "test", "since": since});
    let asked = channels.iter().map(|channel| watched.handle.subscribe(channel.request(1, &back)));
    for outcome in join_all(asked).await {
        outcome?;
    }
    for channel in &channels {
        watched.told(channel, &Notice::CaughtUp).await;
    }
    let places = watched.places();
    let missed = &places[&witness.id][1..];
    for channel in &channels {
        assert_eq!(places[&channel.id], missed, "{:?}", channel.id);
    }
    let stats = watched.handle.stats();
    let (checks, passes) = (count(&stats.subscription_checks) - before, count(&stats.journal_passes));
    assert!(checks <= 3, "{checks} checks");
    assert!((1..=20).contains(&passes), "{passes} passes");
    let most = count(&stats.journal_slice_most);
    assert!(most <= SLICE, "{most} in one slice");
    assert!(count(&stats.journal_changes) <= passes * (1 + CHANGES as u64), "each change once in a pass");

    watched.db.sql("insert into public.test (details) values ('live')").await?;
    watched.delivered(&channels[0], CHANGES + 1).await;
    let places = watched.places();
    assert!(channels.iter().all(|channel| places[&channel.id].len() == CHANGES + 1), "live ones once, too");
    Ok(())
}

/// resume 3: what the journal costs for one who comes back does not grow with those who are there.
#[tokio::test]
async fn one_who_comes_back_costs_nothing_for_those_who_are_there() -> Result<()> {
    let mut watched = Watched::new().await?;
    let channels: Vec<Channel> = (0..CHANNELS).map(|_| watched.channel()).collect();
    let there = json!({"schema": "public", "table": "test"});
    let asked = channels.iter().map(|channel| watched.handle.subscribe(channel.request(1, &there)));
    for outcome in join_all(asked).await {
        outcome?;
    }
    watched.db.sql("insert into public.test (details) values ('seen')").await?;
    let since = watched.first_place(&channels[0]).await;
    for _ in 0..CHANGES {
        watched.db.sql("insert into public.test (details) values ('missed')").await?;
    }
    watched.delivered(&channels[0], 1 + CHANGES).await;
    let back = watched.channel();
    let since = json!({"schema": "public", "table": "test", "since": since});
    watched.handle.subscribe(back.request(1, &since)).await?;
    watched.told(&back, &Notice::CaughtUp).await;
    assert_eq!(watched.places()[&back.id], watched.places()[&channels[0].id][1..]);
    let considered = watched.handle.stats().journal_considered.load(Ordering::Relaxed);
    assert_eq!(considered, CHANGES as u64, "one for each change");
    Ok(())
}
