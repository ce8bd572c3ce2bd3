//! What breaks between nodes is told, and mended.

use anyhow::Result;
use realtime_testkit::{
    Nats, PATIENCE, SECRET, Server, ServerOptions, TestDb, Version, free_port, http, sign, until,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time,
};

use super::{Nodes, presence::Watcher, say};
use crate::BINARY;

const TOPIC: &str = "realtime:lobby";

/// A node that loses NATS goes on for those on it; channels on both sides of the gap are told that they may have missed
/// something, and what is said afterwards is heard again everywhere.
#[tokio::test]
async fn a_lost_connection_is_told_and_mended() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    let mut sockets = Vec::new();
    for node in 0..3 {
        sockets.push(nodes.join(node, Version::V2, TOPIC, json!({})).await?);
    }
    let mut neighbour = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    nodes.links[0].cut();
    let connected = |is: f64| {
        let node = &nodes.nodes[0];
        until(
            "the node knows",
            move || async move { Ok(node.metric("realtime_cluster_connected").await? == is) },
        )
    };
    connected(0.0).await?;
    say(&mut sockets[0], TOPIC, "alone", json!({})).await?;
    assert_eq!(neighbour.event(TOPIC, "broadcast").await?["event"], "alone");
    // A join does not wait for nodes that cannot be reached.
    let _late = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    nodes.links[0].mend();
    connected(1.0).await?;
    // It missed what others may have said; they missed what was said there.
    for socket in &mut sockets {
        let told = socket.event(TOPIC, "system").await?;
        assert_eq!((&told["status"], &told["extension"]), (&json!("gap"), &json!("system")));
        assert!(told["message"].as_str().unwrap_or_default().contains("other nodes"), "{told}");
    }
    nodes.see_each_other(3).await?;
    say(&mut sockets[0], TOPIC, "together", json!({})).await?;
    for socket in &mut sockets[1..] {
        assert_eq!(socket.event(TOPIC, "broadcast").await?["event"], "together");
    }
    Ok(())
}

/// A network that takes nothing any more, under load: what waits for it holds nobody up for longer than it takes to notice.
/// Those on the node go on, new ones come, and who is elsewhere leaves.
#[tokio::test]
async fn a_network_that_stands_still() -> Result<()> {
    let mut nodes = Nodes::start(2).await?;
    let (mut here, mut there) =
        (Watcher::enter(&nodes, 0, "a").await?, Watcher::enter(&nodes, 1, "b").await?);
    here.track(json!({})).await?;
    there.track(json!({})).await?;
    let both = [("a", json!({})), ("b", json!({}))];
    here.sees(&both).await?;
    there.sees(&both).await?;
    let mut speaker = nodes.join(0, Version::V2, "realtime:loud", json!({})).await?;
    let mut neighbour = nodes.join(0, Version::V2, "realtime:loud", json!({})).await?;
    nodes.links[0].stall();
    const COUNT: usize = 600;
    let speaking = tokio::spawn(async move {
        let payload = json!({"x": "y".repeat(60_000)});
        for _ in 0..COUNT {
            say(&mut speaker, "realtime:loud", "e", payload.clone()).await?;
        }
        Ok::<_, anyhow::Error>(speaker)
    });
    // Operators are answered too, by those nodes that can be asked.
    let port = nodes.nodes[0].port();
    let asking = tokio::spawn(async move {
        let bearer = format!("Bearer {}", sign(&json!({})));
        let mut answers = 0;
        loop {
            let answer = http(port, "GET", "/metrics", &[("authorization", &bearer)], b"").await?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
            answers += 1;
            let cut = |line: &str| line.starts_with("realtime_cluster_connected") && line.ends_with(" 0");
            if answers > 3 && answer.body.lines().any(cut) {
                return Ok::<_, anyhow::Error>(());
            }
            time::sleep(time::Duration::from_millis(100)).await;
        }
    });
    for heard in 0..COUNT {
        let next = neighbour.event("realtime:loud", "broadcast").await;
        next.map_err(|error| anyhow::anyhow!("{heard} were heard: {error:.200}"))?;
    }
    let _speaker = time::timeout(PATIENCE, speaking).await???;
    until("the node knows", || async {
        Ok(nodes.nodes[0].metric("realtime_cluster_connected").await? == 0.0)
    })
    .await?;
    time::timeout(PATIENCE, asking).await???;
    here.sees(&both[..1]).await?;
    there.sees(&both[1..]).await?;
    let mut late = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    say(&mut late, TOPIC, "alone", json!({})).await?;
    assert_eq!(here.socket.event(TOPIC, "broadcast").await?["event"], "alone");
    nodes.links[0].mend();
    here.sees(&both).await?;
    there.sees(&both).await?;
    say(&mut late, TOPIC, "together", json!({})).await?;
    assert_eq!(there.socket.event(TOPIC, "broadcast").await?["event"], "together");

    // It ends in time too, whether or not its last words reach anybody.
    nodes.links[0].stall();
    say(&mut late, TOPIC, "last words", json!({})).await?;
    let log = nodes.nodes.remove(0).stop_and_tell().await?;
    assert!(!log.contains("did not end in time"), "{log}");
    there.sees(&both[1..]).await
}

/// A server without NATS serves those on it, and joins the others when NATS is there: who joined before is told that
/// others were not heard; its credentials are in no log.
#[tokio::test]
async fn nats_may_come_later() -> Result<()> {
    let db = TestDb::new().await?;
    let port = free_port()?;
    let options = ServerOptions::default()
        .env("NATS_URL", &format!("nats://me:s3cret-word@127.0.0.1:{port}"))
        .env("METRICS_JWT_SECRET", SECRET)
        .env("LOG_LEVEL", "debug");
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join(TOPIC, json!({"config": {"broadcast": {"self": true}}})).await?;
    assert_eq!(reply["status"], "ok");
    say(&mut socket, TOPIC, "e", json!({})).await?;
    socket.event(TOPIC, "broadcast").await?;
    assert_eq!(server.metric("realtime_cluster_connected").await?, 0.0);
    let _nats = Nats::start_at(port, &["--user", "me", "--pass", "s3cret-word"]).await?;
    until("it connects", || async { Ok(server.metric("realtime_cluster_connected").await? == 1.0) }).await?;
    assert_eq!(socket.event(TOPIC, "system").await?["status"], "gap");
    assert!(!server.log().contains("s3cret-word"));
    Ok(())
}

/// A poll that waits does not use up the time of a node that stops: the others are told that it goes.
#[tokio::test]
async fn a_node_with_polls_takes_its_leave() -> Result<()> {
    let mut nodes = Nodes::start(2).await?;
    let leaving = nodes.nodes.remove(0);
    let path = format!("/socket/longpoll?vsn=2.0.0&apikey={}", realtime_testkit::token("anon"));
    let opened: serde_json::Value = serde_json::from_str(&leaving.http("GET", &path, &[], b"").await?.body)?;
    let session = format!("{path}&token={}", opened["token"].as_str().unwrap_or_default());
    let mut poll = tokio::net::TcpStream::connect(("127.0.0.1", leaving.port())).await?;
    poll.write_all(format!("GET {session} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
    // Taken by the session behind the poll.
    let heartbeat = br#"[null,"1","phoenix","heartbeat",{}]"#;
    assert_eq!(leaving.http("POST", &session, &[], heartbeat).await?.status, 200);
    let mut answer = [0; 64];
    poll.read_exact(&mut answer).await?;
    poll.write_all(format!("GET {session} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
    assert_eq!(leaving.http("GET", "/healthcheck", &[], b"").await?.status, 200);
    let log = leaving.stop_and_tell().await?;
    assert!(!log.contains("in time"), "{log}");
    nodes.nodes[0].logged("a node has gone").await?;
    Ok(())
}

/// A request that never ends does not hold up a node that stops, and the others are told that it goes.
#[tokio::test]
async fn a_node_with_a_request_that_never_ends_stops() -> Result<()> {
    let mut nodes = Nodes::start(2).await?;
    let leaving = nodes.nodes.remove(0);
    let mut request = tokio::net::TcpStream::connect(("127.0.0.1", leaving.port())).await?;
    let head = format!(
        "POST /api/broadcast HTTP/1.1\r\nHost: x\r\napikey: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
        realtime_testkit::token("service_role")
    );
    request.write_all(head.as_bytes()).await?;
    // That is said when the body is waited for.
    let mut answer = [0; 12];
    time::timeout(PATIENCE, request.read_exact(&mut answer)).await??;
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 100");
    request.write_all(b"{\"messages\":").await?;
    let log = leaving.stop_and_tell().await?;
    assert!(log.contains("some sockets did not end in time"), "{log}");
    nodes.nodes[0].logged("a node has gone").await?;
    Ok(())
}

/// What a node does not deliver because there is too much goes to no other node; those who listen there are told, too.
#[tokio::test]
async fn what_is_dropped_is_told_on_every_node() -> Result<()> {
    let mut nodes = Nodes::start(1).await?;
    nodes.add(&[("TENANT_MAX_EVENTS_PER_SECOND", "5")]).await?;
    nodes.see_each_other(2).await?;
    let mut listener = nodes.join(0, Version::V2, TOPIC, json!({})).await?;
    let mut speaker = nodes.join(1, Version::V2, TOPIC, json!({"broadcast": {"ack": true}})).await?;
    for n in 0..200 {
        say(&mut speaker, TOPIC, "early", json!({ "n": n })).await?;
    }
    let refused = async {
        for n in 0.. {
            let reference = format!("n{n}");
            speaker.send(json!("1"), json!(reference), TOPIC, "broadcast", json!({"event": "e"})).await?;
            if speaker.reply(&reference).await?["status"] == "error" {
                return anyhow::Ok(());
            }
            time::sleep(time::Duration::from_millis(50)).await;
        }
        anyhow::bail!("never")
    };
    time::timeout(PATIENCE, refused).await??;
    let told = listener.event(TOPIC, "system").await?;
    assert_eq!((&told["status"], &told["code"]), (&json!("warning"), &json!("MessagesDropped")), "{told}");
    assert!(told["count"].as_u64().is_some_and(|count| count > 0), "{told}");
    Ok(())
}
