//! Private topics: whatever node they are on, people hear and see what policies let them, and no more.

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Answer, Socket, Version, sign, token, unix_now};
use serde_json::{Value, json};

use super::{Nodes, presence::Watcher, say};

const ROOM: &str = "realtime:room-1";

/// Three nodes on a database with the policies of [`crate::private`].
async fn nodes() -> Result<Nodes> {
    Nodes::start_on(crate::private::database().await?, 3, &[]).await
}

fn private() -> Value {
    json!({"private": true, "broadcast": {"ack": true, "replication_ready": true}})
}

fn present(key: &str) -> Value {
    json!({"private": true, "broadcast": {"ack": true}, "presence": {"enabled": true, "key": key}})
}

impl Nodes {
    /// A socket with the token of a role whose first join is to a topic.
    async fn enter(
        &self,
        node: usize,
        version: Version,
        role: &str,
        topic: &str,
        config: Value,
    ) -> Result<Socket> {
        let mut socket = self.nodes[node].socket(version, role).await?;
        let (reply, _) = socket.join(topic, json!({ "config": config })).await?;
        ensure!(reply["status"] == "ok", "{role} on {topic}: {reply}");
        Ok(socket)
    }

    async fn post(&self, node: usize, path: &str, role: &str, body: Value) -> Result<Answer> {
        let bearer = format!("Bearer {}", token(role));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.nodes[node].http("POST", path, &headers, body.to_string().as_bytes()).await
    }
}

/// The next broadcast is this one.
async fn hears(socket: &mut Socket, topic: &str, event: &str, n: i64) -> Result<()> {
    let heard = socket.event(topic, "broadcast").await?;
    assert_eq!((&heard["event"], &heard["payload"]["n"]), (&json!(event), &json!(n)), "{heard}");
    Ok(())
}

/// Nothing but what was taken has come.
async fn nothing_else(socket: &mut Socket) -> Result<()> {
    let rest = socket.settle().await?;
    let rest: Vec<_> = rest.iter().filter(|frame| frame.event == "broadcast").collect();
    assert!(rest.is_empty(), "{rest:?}");
    Ok(())
}

/// Sends a broadcast and gives the reply.
async fn ask_to_say(socket: &mut Socket, topic: &str, event: &str, n: i64) -> Result<Value> {
    let reference = socket.next_ref();
    let payload = json!({"type": "broadcast", "event": event, "payload": {"n": n}});
    socket.send(json!("1"), json!(reference), topic, "broadcast", payload).await?;
    socket.reply(&reference).await
}

/// protocol 51, 53, 55; tenant_database 8, 15, 17, 23; http_and_ops 46, 52: policies are asked on whatever node somebody
/// is; what is said over a socket, over HTTP and by the database reaches those of the private topic on every node, once,
/// and nobody of the public topic of the same name, nor the other way round.
#[tokio::test]
async fn members_of_every_node_and_nobody_else() -> Result<()> {
    let nodes = nodes().await?;
    let (mut members, mut public) = (Vec::new(), Vec::new());
    for node in 0..3 {
        for version in Version::BOTH {
            let mut member = nodes.enter(node, version, "authenticated", ROOM, private()).await?;
            assert_eq!(member.event(ROOM, "system").await?["status"], "ok");
            members.push(member);
        }
        public.push(nodes.enter(node, Version::V2, "anon", ROOM, json!({})).await?);
        for (role, topic) in [("anon", ROOM), ("authenticated", "realtime:closed")] {
            let refused = nodes.enter(node, Version::V2, role, topic, private()).await.err();
            let refused = refused.with_context(|| format!("{role} was let into {topic} on node {node}"))?;
            assert!(refused.to_string().contains("Unauthorized: You do not have permissions"), "{refused}");
        }
        for sub in ["me", "you"] {
            let claims = json!({"role": "authenticated", "sub": sub, "exp": unix_now() + 3600});
            let port = nodes.nodes[node].port();
            let mut socket = Socket::connect(port, Version::V2, &sign(&claims)).await?;
            let (reply, _) = socket.join("realtime:own-me", json!({"config": private()})).await?;
            assert_eq!(reply["status"] == "ok", sub == "me", "{sub} on node {node}: {reply}");
        }
    }

    // Each sender is on another node. What a node says of a tenant is in order: whoever has heard the public word of a
    // node has got all that was said there before.
    for from in 0..3 {
        let n = from as i64;
        assert_eq!(ask_to_say(&mut members[2 * from], ROOM, "socket", n).await?["status"], "ok");
        say(&mut public[from], ROOM, "public", json!({"n": n})).await?;
        for (number, member) in members.iter_mut().enumerate() {
            if number != 2 * from {
                hears(member, ROOM, "socket", n).await?;
            }
        }
        for (number, socket) in public.iter_mut().enumerate() {
            if number != from {
                hears(socket, ROOM, "public", n).await?;
            }
        }
    }

    // Over HTTP: by who may, and by who may not.
    let single = "/api/broadcast/room-1/events/single?private=true";
    for (node, role, status) in [(0, "authenticated", 202), (1, "anon", 403), (2, "potato", 422)] {
        let answer = nodes.post(node, single, role, json!({"n": node})).await?;
        assert_eq!(answer.status, status, "{role}: {answer:?}");
    }
    let batch = json!({"messages": [
        {"topic": "room-1", "event": "batch", "payload": {"n": 5}, "private": true},
        {"topic": "room-1", "event": "batch", "payload": {"n": 6}, "private": false}]});
    assert_eq!(nodes.post(1, "/api/broadcast", "anon", batch.clone()).await?.status, 202, "the public one");
    for socket in &mut public {
        hears(socket, ROOM, "batch", 6).await?;
    }
    assert_eq!(nodes.post(0, "/api/broadcast", "authenticated", batch).await?.status, 202);
    for socket in &mut public {
        hears(socket, ROOM, "batch", 6).await?;
    }
    for member in &mut members {
        hears(member, ROOM, "single", 0).await?;
        hears(member, ROOM, "batch", 5).await?;
    }

    // By the database: one node reads it for all.
    for (n, private) in [(7, true), (8, false), (9, true)] {
        nodes.db.sql(&format!("select realtime.send('{{\"n\": {n}}}', 'db', 'room-1', {private})")).await?;
    }
    for member in &mut members {
        hears(member, ROOM, "db", 7).await?;
        hears(member, ROOM, "db", 9).await?;
    }
    for socket in &mut public {
        hears(socket, ROOM, "db", 8).await?;
    }
    for socket in members.iter_mut().chain(&mut public) {
        nothing_else(socket).await?;
    }
    Ok(())
}

/// protocol 52, 56, 57, 67; tenant_database 20, 30: the right to read, to hear, to see and to write are judged each on the
/// node of who wants it, whatever node the others are on.
#[tokio::test]
async fn rights_are_judged_where_somebody_is() -> Result<()> {
    let nodes = nodes().await?;
    let enter = async |node, role: &str, topic: &str| {
        nodes.enter(node, Version::V2, role, &format!("realtime:{topic}"), present(role)).await
    };
    let denied = json!({"status": "error", "response": {"reason": "unauthorized"}});

    // Reads and does not write.
    let mut readers = Vec::new();
    for node in 0..3 {
        readers.push(enter(node, "authenticated", "ro-1").await?);
    }
    let mut service = Watcher::of(enter(1, "service_role", "ro-1").await?, "realtime:ro-1").await?;
    assert_eq!(ask_to_say(&mut readers[0], "realtime:ro-1", "e", 1).await?, denied);
    let mut reader = Watcher::of(readers.remove(0), "realtime:ro-1").await?;
    assert_eq!(reader.try_track(json!({"by": "a reader"})).await?["status"], "error");
    assert_eq!(ask_to_say(&mut service.socket, "realtime:ro-1", "e", 2).await?["status"], "ok");
    hears(&mut reader.socket, "realtime:ro-1", "e", 2).await?;
    for socket in &mut readers {
        hears(socket, "realtime:ro-1", "e", 2).await?;
        nothing_else(socket).await?;
    }
    service.track(json!({"n": 1})).await?;
    reader.sees(&[("service_role", json!({"n": 1}))]).await?;

    // Sees who is present, and hears nothing; and the other way round.
    let (sees, hears_only) = ("realtime:presence-1", "realtime:blind-1");
    let mut deaf = Watcher::of(enter(0, "authenticated", "presence-1").await?, sees).await?;
    let mut blind = enter(0, "authenticated", "blind-1").await?;
    let mut speaker = Watcher::of(enter(2, "service_role", "presence-1").await?, sees).await?;
    let mut other = Watcher::of(enter(2, "service_role", "blind-1").await?, hears_only).await?;
    assert_eq!(ask_to_say(&mut speaker.socket, sees, "e", 3).await?["status"], "ok");
    speaker.track(json!({"n": 2})).await?;
    deaf.track(json!({"n": 3})).await?;
    for watcher in [&mut deaf, &mut speaker] {
        watcher.sees(&[("authenticated", json!({"n": 3})), ("service_role", json!({"n": 2}))]).await?;
    }
    assert_eq!(deaf.others(), [""; 0], "what was said before the presence that it has seen");
    other.track(json!({"n": 4})).await?;
    assert_eq!(ask_to_say(&mut other.socket, hears_only, "e", 5).await?["status"], "ok");
    hears(&mut blind, hears_only, "e", 5).await?;
    let rest = blind.settle().await?;
    assert!(rest.iter().all(|frame| !frame.event.starts_with("presence")), "{rest:?}");
    Ok(())
}

/// protocol 58, 61, 71 among nodes: presence on a private topic is that of all nodes and of nobody in public; who loses
/// the right to be there is gone for all.
#[tokio::test]
async fn presence_of_private_topics() -> Result<()> {
    let nodes = nodes().await?;
    let mut watchers = Vec::new();
    for node in 0..3 {
        let key = format!("k{node}");
        let socket = nodes.enter(node, Version::V2, "authenticated", ROOM, present(&key)).await?;
        let mut watcher = Watcher::of(socket, ROOM).await?;
        watcher.track(json!({ "node": node })).await?;
        watchers.push(watcher);
    }
    let config = json!({"presence": {"enabled": true, "key": "public"}});
    let mut public = Watcher::of(nodes.enter(1, Version::V2, "anon", ROOM, config).await?, ROOM).await?;
    public.track(json!({})).await?;
    let all = [("k0", json!({"node": 0})), ("k1", json!({"node": 1})), ("k2", json!({"node": 2}))];
    for watcher in &mut watchers {
        watcher.sees(&all).await?;
    }
    public.sees(&[("public", json!({}))]).await?;

    // The token of one becomes one that the policies do not let in.
    let payload = json!({"access_token": token("anon")});
    watchers[0].socket.send(json!("1"), Value::Null, ROOM, "access_token", payload).await?;
    assert_eq!(watchers[0].socket.event(ROOM, "system").await?["status"], "error");
    watchers[0].socket.event(ROOM, "phx_close").await?;
    for watcher in &mut watchers[1..] {
        watcher.sees(&all[1..]).await?;
    }
    // And one goes.
    drop(watchers.remove(1));
    watchers[1].sees(&all[2..]).await?;
    public.sees(&[("public", json!({}))]).await?;
    assert_eq!(watchers[0].socket.settle().await?, [], "who is out is told nothing");
    Ok(())
}
