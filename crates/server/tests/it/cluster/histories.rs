//! Histories of broadcasts among several nodes (resume 4, its cases 9 and 10).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Socket, Version, token};
use serde_json::{Value, json};

use super::Nodes;
use crate::histories::{ON, back, moment, say, until_number};

const TOPIC: &str = "realtime:room";

fn past(came: &[(bool, u32)]) -> Vec<u32> {
    came.iter().filter(|(replayed, _)| *replayed).map(|(_, n)| *n).collect()
}

async fn late(nodes: &Nodes, node: usize, since: Value) -> Result<Socket> {
    let mut socket = nodes.nodes[node].socket(Version::V2, "anon").await?;
    let (reply, _) = socket
        .join(
            TOPIC,
            if since.is_null() { json!({"config": {"broadcast": {"ack": true}}}) } else { back(since) },
        )
        .await?;
    ensure!(reply["status"] == "ok", "{reply}");
    Ok(socket)
}

/// Ends the first node, and starts another.
async fn replace_first(nodes: &mut Nodes, name: &str) -> Result<()> {
    nodes.nodes.remove(0).stop().await?;
    nodes.links.remove(0);
    nodes.add(&[ON[0], ON[1], ("NODE_NAME", name)]).await?;
    nodes.see_each_other(2).await
}

/// resume, cases 9 and 10: a node that gets its first member asks the others; one after the other is started anew
#[tokio::test]
async fn a_history_outlives_the_nodes_that_kept_it() -> Result<()> {
    let mut nodes = Nodes::start_with(2, &ON).await?;
    let mut first = late(&nodes, 0, Value::Null).await?;
    let since = moment();
    say(&mut first, TOPIC, 1).await?;
    say(&mut first, TOPIC, 2).await?;
    let mut other = late(&nodes, 1, json!(since)).await?;
    say(&mut first, TOPIC, 3).await?;
    let (came, gaps) = until_number(&mut other, 3).await?;
    assert_eq!((past(&came), gaps), (vec![1, 2], vec![]), "{came:?}");

    // What is said here is heard there under the same id.
    say(&mut other, TOPIC, 4).await?;
    let here = late(&nodes, 1, json!(since)).await?;
    let there = late(&nodes, 0, json!(since)).await?;
    let mut ids = Vec::new();
    for mut socket in [here, there] {
        let mut all = Vec::new();
        while all.len() < 4 {
            let frame = socket.expect(|frame| frame.event == "broadcast").await?;
            all.push(frame.payload["meta"]["id"].as_str().context("id")?.to_owned());
        }
        ids.push(all);
    }
    assert_eq!(ids[0], ids[1]);

    // The node that they began on goes, and another comes.
    drop(first);
    replace_first(&mut nodes, "node3").await?;
    let mut late_again = late(&nodes, 1, json!(since)).await?;
    say(&mut other, TOPIC, 5).await?;
    let (came, gaps) = until_number(&mut late_again, 5).await?;
    assert_eq!((past(&came), gaps), (vec![1, 2, 3, 4], vec![]), "{came:?}");

    // Now the other one too; what was said is still known.
    drop(other);
    replace_first(&mut nodes, "node4").await?;
    let mut last = late(&nodes, 1, json!(since)).await?;
    say(&mut late_again, TOPIC, 6).await?;
    let (came, gaps) = until_number(&mut last, 6).await?;
    assert_eq!((past(&came), gaps), (vec![1, 2, 3, 4, 5], vec![]), "{came:?}");
    Ok(())
}

/// What nobody has heard but the node it was said on is asked for there; that no more was said cannot be known.
#[tokio::test]
async fn what_nobody_heard_is_told_and_a_gap_with_it() -> Result<()> {
    let nodes = Nodes::start_with(2, &ON).await?;
    let since = moment();
    let bearer = format!("Bearer {}", token("anon"));
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let answer = nodes.nodes[0].http("POST", "/api/broadcast/room/events/e", &headers, b"{\"n\":1}").await?;
    ensure!(answer.status == 202, "{answer:?}");
    let mut late = late(&nodes, 1, json!(since)).await?;
    let (came, gaps) = until_number(&mut late, 1).await?;
    assert_eq!(came, [(true, 1)]);
    assert_eq!((gaps.len(), &gaps[0]["code"]), (1, &json!("MessagesNotKept")));
    Ok(())
}

/// Over HTTP a node without members asks the others each time, once for all who ask at the same time. Without `since` all
/// comes that is kept there.
#[tokio::test]
async fn a_node_without_members_shows_what_others_keep() -> Result<()> {
    let nodes = Nodes::start_with(2, &ON).await?;
    let mut speaker = late(&nodes, 0, Value::Null).await?;
    let bearer = format!("Bearer {}", token("anon"));
    let shown = async || {
        let headers = [("Authorization", &*bearer)];
        let answer = nodes.nodes[1].http("GET", "/api/broadcast/room/history", &headers, b"").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let messages: Vec<Value> = serde_json::from_str(&answer.body)?;
        anyhow::Ok(messages.iter().map(|message| message["payload"]["n"].clone()).collect::<Vec<_>>())
    };
    for last in 1..4 {
        say(&mut speaker, TOPIC, last).await?;
        let all: Vec<Value> = (1..=last).map(Value::from).collect();
        for shown in futures_util::future::join_all((0..8).map(|_| shown())).await {
            assert_eq!(shown?, all);
        }
    }
    Ok(())
}
