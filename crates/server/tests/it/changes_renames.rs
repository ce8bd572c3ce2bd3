//! Schemas, tables, types and domains that are renamed while they are watched (row_security 20).

use anyhow::{Context as _, Result};
use realtime_testkit::PATIENCE;
use serde_json::json;
use tokio::time::{self, Duration};

use crate::{
    changes_images::TOPIC,
    changes_stream::{details, notice, watching},
    server,
};

/// row_security 20: new names deliver, old ones are told gone
#[tokio::test]
async fn renames_are_followed() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create schema old; grant usage on schema old to anon; create type old.mood as enum ('fine', 'bad');
         create domain old.text_of as text;
         create table old.t (id serial primary key, details text, m old.mood, d old.text_of);
         grant select on old.t to anon; grant usage on sequence old.t_id_seq to anon;
         alter publication supabase_realtime add table old.t",
    )
    .await?;
    let mut of_old = watching(&server, json!([{"schema": "old", "table": "t"}])).await?;
    let mut of_all = watching(&server, json!([{"schema": "*", "filter": "m=eq.fine"}])).await;
    if of_all.is_err() {
        // A filter has to be on a column of every table.
        of_all = watching(&server, json!([{"schema": "*"}])).await;
    }
    let mut of_all = of_all?;
    let mut by_mood =
        watching(&server, json!([{"schema": "old", "table": "t", "filter": "m=eq.fine"}])).await?;
    let row = |schema: &str, table: &str, details: &str| {
        format!("insert into {schema}.{table} (details, m, d) values ('{details}', 'fine', 'x')")
    };
    db.sql(&row("old", "t", "1")).await?;
    for socket in [&mut of_old, &mut of_all, &mut by_mood] {
        assert_eq!(details(socket).await?, "1");
    }

    db.sql("alter schema old rename to new").await?;
    for socket in [&mut of_old, &mut by_mood] {
        let (status, _, text) = notice(socket).await?;
        assert_eq!(status, "warning", "{text}");
        assert!(text.contains("schema: old"), "{text}");
    }
    let mut of_new = watching(&server, json!([{"schema": "new", "table": "t"}])).await?;
    let mut by_mood =
        watching(&server, json!([{"schema": "new", "table": "t", "filter": "m=eq.fine"}])).await?;
    db.sql(&row("new", "t", "2")).await?;
    for socket in [&mut of_new, &mut of_all, &mut by_mood] {
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(
            (&change["data"]["schema"], &change["data"]["record"]["details"]),
            (&json!("new"), &json!("2"))
        );
    }

    db.sql("alter table new.t rename to u").await?;
    let (status, _, text) = notice(&mut of_new).await?;
    assert_eq!(status, "warning", "{text}");
    let mut of_u = watching(&server, json!([{"schema": "new", "table": "u"}])).await?;
    db.sql(&row("new", "u", "3")).await?;
    for socket in [&mut of_u, &mut of_all] {
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(
            (&change["data"]["table"], &change["data"]["record"]["details"]),
            (&json!("u"), &json!("3"))
        );
    }

    // Types and domains: their new names are shown, and filters on them go on.
    let mut by_mood =
        watching(&server, json!([{"schema": "new", "table": "u", "filter": "m=eq.fine"}])).await?;
    db.sql("alter type new.mood rename to humour; alter domain new.text_of rename to words").await?;
    let shown = async {
        loop {
            // Until the new name is known a filter on it may be ended, which is told, and begin anew.
            db.sql(&row("new", "u", "4")).await?;
            let frames = by_mood.settle().await?;
            let change = frames.iter().rfind(|frame| frame.event == "postgres_changes");
            let columns = change.and_then(|frame| frame.payload["data"]["columns"].as_array().cloned());
            let columns = columns.unwrap_or_default();
            let of = |name: &str| {
                columns.iter().find(|column| column["name"] == name).map(|column| column["type"].clone())
            };
            if (of("m"), of("d")) == (Some(json!("humour")), Some(json!("words"))) {
                return anyhow::Ok(());
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(PATIENCE, shown).await.context("the old names are shown")??;
    let mut anew = watching(&server, json!([{"schema": "new", "table": "u", "filter": "m=eq.fine"}])).await?;
    db.sql(&row("new", "u", "5")).await?;
    assert_eq!(details(&mut anew).await?, "5");
    Ok(())
}

/// row_security 20: the root of a partitioned table that is renamed is told gone, and its rows come by its new name
#[tokio::test]
async fn a_root_that_is_renamed_is_followed() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.root (id int primary key, details text) partition by range (id);
         create table public.root_1 partition of public.root for values from (0) to (100);
         grant select on public.root to anon;
         alter publication supabase_realtime set (publish_via_partition_root = true);
         alter publication supabase_realtime add table public.root",
    )
    .await?;
    let mut of_root = watching(&server, json!([{"schema": "public", "table": "root"}])).await?;
    let mut of_all = watching(&server, json!([{"schema": "public"}])).await?;
    db.sql("insert into public.root values (1, 'root')").await?;
    for socket in [&mut of_root, &mut of_all] {
        assert_eq!(details(socket).await?, "root");
    }
    db.sql("alter table public.root rename to trunk").await?;
    let (status, _, text) = notice(&mut of_root).await?;
    assert_eq!(status, "warning", "{text}");
    assert!(text.contains("table: root"), "{text}");
    let mut of_trunk = watching(&server, json!([{"schema": "public", "table": "trunk"}])).await?;
    db.sql("insert into public.trunk values (2, 'trunk')").await?;
    for socket in [&mut of_trunk, &mut of_all] {
        let change = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(
            (&change["data"]["table"], &change["data"]["record"]["details"]),
            (&json!("trunk"), &json!("trunk"))
        );
    }
    Ok(())
}
