//! Live rows on several nodes, of which one reads the database.

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::json;

use super::Nodes;
use crate::live_client::{LiveClient, select, tasks};

/// live 14: rows are right on all nodes, and by differences when the node that reads is killed.
#[tokio::test]
async fn live_rows_are_right_on_all_nodes() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    tasks(&nodes.db).await?;
    let mut clients = Vec::new();
    for node in &nodes.nodes {
        for binding in [
            json!({"event": "*", "schema": "public", "table": "tasks", "live": true}),
            json!({"event": "*", "schema": "public", "table": "tasks", "live": true, "order": "id", "limit": 100}),
        ] {
            clients.push(Some(LiveClient::one(node, "anon", binding, &["id"]).await?));
        }
    }
    let agree = async |clients: &mut Vec<Option<LiveClient>>| -> Result<()> {
        let expected = select(&nodes.db, "select * from public.tasks", &["id"]).await?;
        for client in clients.iter_mut().flatten() {
            client.has(&expected).await?;
        }
        Ok(())
    };
    nodes
        .db
        .sql("update public.tasks set title = 'x' where id < 3; insert into public.tasks values (10, 'ten')")
        .await?;
    agree(&mut clients).await?;
    let killed = (0..3).find(|node| nodes.reads(*node)).context("nobody reads")?;
    clients[2 * killed] = None;
    clients[2 * killed + 1] = None;
    for client in clients.iter_mut().flatten() {
        client.rows[0].told.clear();
    }
    nodes.nodes[killed].signal(Signal::SIGKILL)?;
    nodes
        .db
        .sql("delete from public.tasks where id = 10; insert into public.tasks values (11, 'eleven')")
        .await?;
    agree(&mut clients).await?;
    for client in clients.iter_mut().flatten() {
        let mut news = client.news().await?;
        news.sort_unstable();
        assert_eq!(news, ["DELETE 10", "INSERT 11"]);
        assert!(!client.was_warned(), "{:?}", client.systems);
    }
    Ok(())
}
