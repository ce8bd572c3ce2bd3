//! Subscriptions that are overtaken: by the end of their channel, by a later one. Each is held at each of its steps.

use anyhow::Result;
use realtime_postgres::Notice;
use serde_json::{Value, json};

use crate::support::{Asking, Watched, hold};

fn test_table() -> Value {
    json!({"schema": "public", "table": "test"})
}

/// How a channel ends whose subscription is still on its way.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The session goes on, and takes the answer for nothing.
    Leave,
    /// Nobody waits for the answer any more.
    Gone,
}

/// A channel that ends at any step of its subscription leaves no watcher: neither the first one, nor one in place of
/// another.
#[tokio::test]
async fn a_channel_that_has_ended_is_not_watched_for() -> Result<()> {
    let mut watched = Watched::new().await?;
    for (end, again) in [(End::Leave, false), (End::Gone, false), (End::Leave, true), (End::Gone, true)] {
        let mut steps = 0;
        loop {
            let channel = watched.channel();
            let handle = watched.handle.clone();
            if again {
                handle.subscribe(channel.request(1, &test_table())).await?;
            }
            let mut asking: Asking<'_> = Box::pin(handle.subscribe(channel.request(2, &test_table())));
            let answered = hold(&mut asking, steps).await.is_some();
            watched.end(&channel);
            match end {
                End::Leave if !answered => drop(asking.await),
                _ => drop(asking),
            }
            assert_eq!(watched.watchers().await?, 0, "{end:?} after {steps} steps, again: {again}");
            if answered {
                break;
            }
            steps += 1;
        }
        assert!(steps > 1, "it was held");
    }
    Ok(())
}

/// Of two subscriptions of a channel the later one counts, whichever is through first.
#[tokio::test]
async fn the_later_subscription_counts() -> Result<()> {
    let mut watched = Watched::new().await?;
    let mut steps = 0;
    loop {
        let channel = watched.channel();
        let handle = watched.handle.clone();
        let mut earlier: Asking<'_> = Box::pin(handle.subscribe(channel.request(1, &test_table())));
        let answered = hold(&mut earlier, steps).await.is_some();
        handle.subscribe(channel.request(2, &test_table())).await?;
        if !answered {
            let _ = earlier.await;
        }
        assert_eq!(watched.ids_of_next_row(&channel).await?, [2], "after {steps} steps");
        watched.end(&channel);
        if answered {
            return Ok(());
        }
        steps += 1;
    }
}

/// A channel that ends at any step does not wait for a table that comes later, and one that waits for it no longer has
/// what it watched before.
#[tokio::test]
async fn a_channel_that_has_ended_waits_for_no_table() -> Result<()> {
    let mut watched = Watched::new().await?;
    let missing = json!({"schema": "public", "table": "later"});
    let living = watched.channel();
    watched.handle.subscribe(living.request(1, &test_table())).await?;
    assert!(watched.handle.subscribe(living.request(2, &missing)).await.is_err());
    assert_eq!(watched.watchers().await?, 0, "it has nothing until there is the table");
    let mut ended = Vec::new();
    loop {
        let channel = watched.channel();
        let handle = watched.handle.clone();
        let mut asking: Asking<'_> = Box::pin(handle.subscribe(channel.request(1, &missing)));
        let answered = hold(&mut asking, ended.len()).await.is_some();
        watched.end(&channel);
        if !answered {
            let _ = asking.await;
        }
        ended.push(channel);
        if answered {
            break;
        }
    }
    watched
        .db
        .sql(
            "create table public.later (id int primary key); grant select on public.later to anon;
             alter publication supabase_realtime add table public.later",
        )
        .await?;
    watched.told(&living, &Notice::Subscribed).await;
    assert_eq!(watched.watchers().await?, 1);
    assert!(!ended.iter().any(|channel| watched.was_told(channel)));
    Ok(())
}

/// The handle of the database is replaced at any step, and the channel ends: the next handle does not watch for it.
#[tokio::test]
async fn a_channel_that_has_ended_is_not_taken_over() -> Result<()> {
    let mut watched = Watched::new().await?;
    let mut steps = 0;
    loop {
        let channel = watched.channel();
        let first = watched.handle.clone();
        let request = channel.request(1, &test_table());
        let mut asking: Asking<'_> = Box::pin(first.subscribe(request.clone()));
        let answered = hold(&mut asking, steps).await.is_some();
        watched.handle = first.succeed(watched.config.clone(), false);
        watched.end(&channel);
        first.shutdown().await;
        if !answered {
            assert!(asking.await.is_err());
        }
        // As whoever asked does when a handle has gone.
        assert!(watched.handle.subscribe(request).await.is_err(), "after {steps} steps");
        assert_eq!(watched.watchers().await?, 0);
        if answered {
            return Ok(());
        }
        steps += 1;
    }
}
