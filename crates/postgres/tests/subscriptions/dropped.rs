//! What it costs to begin to watch all tables, and tables that are dropped while they are watched.

use anyhow::Result;
use realtime_postgres::{Notice, SubscribeRequest};
use serde_json::json;

use crate::support::{Watched, look_until};

const POOL: &str =
    "datname = current_database() and application_name = 'realtime' and backend_type = 'client backend'";

impl Watched {
    /// How many transactions the database has seen. The server's own connections are ended: then all are counted.
    async fn transactions(&self) -> Result<i64> {
        self.db.sql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {POOL}")).await?;
        let none = format!("select count(*) = 0 from pg_stat_activity where {POOL}");
        look_until(&self.db, &none).await?;
        let count = "select xact_commit from pg_stat_database where datname = current_database()";
        self.db.sql("select pg_stat_clear_snapshot()").await?;
        Ok(self.db.client().query_one(count, &[]).await?.try_get(0)?)
    }

    /// How many transactions it takes that channels begin to watch everything.
    async fn cost_of_joins(&mut self) -> Result<i64> {
        let before = self.transactions().await?;
        for _ in 0..10 {
            let channel = self.channel();
            // A connection that was ended may not be known to be.
            while self.handle.subscribe(channel.request(1, &json!({"schema": "public"}))).await.is_err() {}
            self.end(&channel);
        }
        Ok(self.transactions().await? - before)
    }
}

/// Tables that were dropped cost those nothing who come later; their last rows are delivered.
#[tokio::test]
async fn dropped_tables_cost_later_channels_nothing() -> Result<()> {
    let mut watched = Watched::new().await?;
    let channel = watched.channel();
    watched.handle.subscribe(channel.request(1, &json!({"schema": "public"}))).await?;
    let cost = watched.cost_of_joins().await?;
    let each = |statement: &str| (0..100).map(|n| statement.replace('N', &n.to_string())).collect::<String>();
    watched
        .db
        .sql(&each(
            "create table public.dN (id int primary key); grant select on public.dN to anon;
             alter publication supabase_realtime add table public.dN; insert into public.dN values (1);",
        ))
        .await?;
    watched.delivered(&channel, 100).await;
    // What is published was looked at, with the tables there: on a quick machine they could come and go between two looks.
    watched.told(&channel, &Notice::Subscribed).await;
    watched.forget_notices();
    watched.db.sql(&each("insert into public.dN values (2); drop table public.dN;")).await?;
    watched.delivered(&channel, 200).await;
    // What is published was looked at, with the tables gone.
    watched.told(&channel, &Notice::Subscribed).await;
    assert_eq!(watched.watchers().await?, 1);
    let later = watched.cost_of_joins().await?;
    assert!(later < cost + 500, "{later} transactions, {cost} before");
    assert!(!watched.ids_of_next_row(&channel).await?.is_empty());
    Ok(())
}

/// A wildcard is looked up in a few questions, however many tables it means, and whether the worker knows them or not.
#[tokio::test]
async fn a_wildcard_costs_no_more_for_many_tables() -> Result<()> {
    let mut watched = Watched::new().await?;
    let channel = watched.channel();
    watched.handle.subscribe(channel.request(1, &json!({"schema": "public"}))).await?;
    let cost = watched.cost_of_joins().await?;
    let tables: String = (0..200)
        .map(|n| {
            format!(
                "create table public.w{n} (id int primary key, a text, b numeric[]);
                 grant select on public.w{n} to anon, authenticated;
                 alter publication supabase_realtime add table public.w{n}; insert into public.w{n} values (1);"
            )
        })
        .collect();
    watched.db.sql(&tables).await?;
    watched.delivered(&channel, 200).await;
    let later = watched.cost_of_joins().await?;
    assert!(later < cost + 300, "{later} transactions, {cost} before");
    // A role that the worker has not met.
    let other = watched.channel();
    let before = watched.transactions().await?;
    let request = || {
        let request = other.request(1, &json!({"schema": "public"}));
        SubscribeRequest {
            role: "authenticated".into(),
            claims: r#"{"role":"authenticated"}"#.into(),
            ..request
        }
    };
    while watched.handle.subscribe(request()).await.is_err() {}
    let first = watched.transactions().await? - before;
    assert!(first < 100, "{first} transactions");
    watched.forget_notices();
    watched.db.sql("insert into public.w7 values (2)").await?;
    watched.delivered(&other, 1).await;
    Ok(())
}
