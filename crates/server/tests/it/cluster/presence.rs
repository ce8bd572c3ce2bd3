//! Who is present, whatever node they are on.

use std::collections::BTreeMap;

use anyhow::Result;
use nix::sys::signal::Signal;
use realtime_testkit::{Socket, Version, until};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::Nodes;

const TOPIC: &str = "realtime:lobby";

/// A client that keeps what it is told of presence, as the official ones do: by ref.
pub(super) struct Watcher {
    pub(super) socket: Socket,
    topic: String,
    /// Ref to key and object.
    known: BTreeMap<String, (String, Value)>,
    /// Whether a diff has come.
    told: bool,
    /// Events of other kinds that have come while presence was looked at.
    others: Vec<String>,
}

/// Ref, key and object of each entry.
pub(super) fn metas(keys: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (key, value) in keys.as_object().into_iter().flatten() {
        for meta in value["metas"].as_array().into_iter().flatten() {
            let reference = meta["phx_ref"].as_str().unwrap_or_default().to_owned();
            let mut object = meta.clone();
            object.as_object_mut().unwrap().retain(|name, _| !name.starts_with("phx_"));
            all.push((reference, key.clone(), object));
        }
    }
    all
}

impl Watcher {
    pub(super) async fn enter(nodes: &Nodes, node: usize, key: &str) -> Result<Self> {
        let config = json!({"presence": {"enabled": true, "key": key}});
        Self::of(nodes.join(node, Version::V2, TOPIC, config).await?, TOPIC).await
    }

    /// A socket whose first join was to a topic, with presence.
    pub(super) async fn of(mut socket: Socket, topic: &str) -> Result<Self> {
        let state = socket.event(topic, "presence_state").await?;
        let known = metas(&state).into_iter().map(|(r, key, object)| (r, (key, object))).collect();
        Ok(Self { socket, topic: topic.to_owned(), known, told: false, others: Vec::new() })
    }

    pub(super) async fn track(&mut self, object: Value) -> Result<()> {
        assert_eq!(self.try_track(object).await?["status"], "ok");
        Ok(())
    }

    /// The reply.
    pub(super) async fn try_track(&mut self, object: Value) -> Result<Value> {
        let reference = self.socket.next_ref();
        let payload = json!({"type": "presence", "event": "track", "payload": object});
        self.socket.send(json!("1"), json!(reference), &self.topic, "presence", payload).await?;
        self.socket.reply(&reference).await
    }

    /// Takes all diffs that have come. No ref joins twice, and only who is known leaves; the first diff may tell of
    /// somebody whom the state no longer had.
    async fn catch_up(&mut self) -> Result<()> {
        for frame in self.socket.settle().await? {
            if frame.event != "presence_diff" || frame.topic != self.topic {
                self.others.push(frame.event);
                continue;
            }
            for (reference, ..) in metas(&frame.payload["leaves"]) {
                let known = self.known.remove(&reference).is_some();
                assert!(known || !self.told, "{reference} left and was not known");
            }
            for (reference, key, object) in metas(&frame.payload["joins"]) {
                let before = self.known.insert(reference.clone(), (key, object));
                assert!(before.is_none(), "{reference} joined twice");
            }
            self.told = true;
        }
        Ok(())
    }

    /// Events that have come beside those of presence.
    pub(super) fn others(&self) -> &[String] {
        &self.others
    }

    fn present(&self) -> Vec<(String, Value)> {
        let mut present: Vec<_> = self.known.values().cloned().collect();
        present.sort_by_key(|(key, object)| format!("{key} {object}"));
        present
    }

    /// Waits until exactly these are known to be present.
    pub(super) async fn sees(&mut self, expected: &[(&str, Value)]) -> Result<()> {
        let mut expected: Vec<_> =
            expected.iter().map(|(key, object)| ((*key).to_owned(), object.clone())).collect();
        expected.sort_by_key(|(key, object)| format!("{key} {object}"));
        let limit = Instant::now() + realtime_testkit::PATIENCE;
        loop {
            self.catch_up().await?;
            if self.present() == expected {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < limit, "{:?} are present, not {expected:?}", self.present());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// protocol 58, 61, 62 among nodes: joins, updates and leaves; a node whose first socket comes later knows all
#[tokio::test]
async fn joins_updates_and_leaves() -> Result<()> {
    let nodes = Nodes::start(3).await?;
    let mut a = Watcher::enter(&nodes, 0, "a").await?;
    let mut b = Watcher::enter(&nodes, 1, "b").await?;
    a.track(json!({"n": 1})).await?;
    b.track(json!({"n": 2})).await?;
    let both = [("a", json!({"n": 1})), ("b", json!({"n": 2}))];
    a.sees(&both).await?;
    b.sees(&both).await?;
    let begun = Instant::now();
    let mut c = Watcher::enter(&nodes, 2, "c").await?;
    // It waits for the others' answers, but not longer than a second.
    let all = c.present().len() == 2 || begun.elapsed() >= Duration::from_secs(1);
    assert!(all, "the state of the first socket on a node has everybody: {:?}", c.present());
    c.sees(&both).await?;
    a.track(json!({"n": 3})).await?;
    let changed = [("a", json!({"n": 3})), ("b", json!({"n": 2}))];
    for watcher in [&mut a, &mut b, &mut c] {
        watcher.sees(&changed).await?;
    }
    drop(a);
    for watcher in [&mut b, &mut c] {
        watcher.sees(&[("b", json!({"n": 2}))]).await?;
    }
    drop(b);
    c.sees(&[]).await
}

/// What is told to a node that comes later may be larger than a message of NATS: all of it, and one entry.
#[tokio::test]
async fn large_objects_and_many() -> Result<()> {
    let nodes = Nodes::start(2).await?;
    let mut a = Watcher::enter(&nodes, 0, "a").await?;
    let mut b = Watcher::enter(&nodes, 0, "b").await?;
    let large = |letter: &str| json!({"x": letter.repeat(1_400_000)});
    a.track(large("a")).await?;
    b.track(large("b")).await?;
    let both = [("a", large("a")), ("b", large("b"))];
    a.sees(&both).await?;
    let mut c = Watcher::enter(&nodes, 1, "c").await?;
    c.sees(&both).await?;
    drop(b);
    c.sees(&both[..1]).await
}

/// The bound of what is shown in a room counts over all nodes. Halves of a cluster that meet with more than that show the same
/// on both sides, and close nobody.
#[tokio::test]
async fn what_is_shown_is_bounded_over_nodes() -> Result<()> {
    let nodes = Nodes::start(2).await?;
    let mut a = Watcher::enter(&nodes, 0, "a").await?;
    let mut b = Watcher::enter(&nodes, 1, "b").await?;
    let large = |letter: &str, bytes: usize| json!({"x": letter.repeat(bytes)});
    a.track(large("a", 2_900_000)).await?;
    b.sees(&[("a", large("a", 2_900_000))]).await?;
    assert_eq!(b.try_track(large("b", 2_900_000)).await?["status"], "error");

    nodes.links[1].cut();
    b.sees(&[]).await?;
    b.track(large("b", 2_800_000)).await?;
    let mut small = Watcher::enter(&nodes, 1, "s").await?;
    small.track(json!({})).await?;
    nodes.links[1].mend();
    let shown = [("b", large("b", 2_800_000)), ("s", json!({}))];
    for watcher in [&mut a, &mut b, &mut small] {
        watcher.sees(&shown).await?;
    }
    for node in [0, 1] {
        let mut late = Watcher::enter(&nodes, node, "late").await?;
        late.sees(&shown).await?;
    }
    assert!(a.others().iter().any(|event| event == "system"), "it is told that it is hidden");
    // What was hidden comes back when there is room.
    drop(b);
    for watcher in [&mut a, &mut small] {
        watcher.sees(&[("a", large("a", 2_900_000)), ("s", json!({}))]).await?;
    }
    Ok(())
}

/// Node loss in each way: its people leave within the time that is set, and come back, exactly, when it does.
#[tokio::test]
async fn lost_nodes_leave_and_come_back() -> Result<()> {
    let mut nodes = Nodes::start(3).await?;
    let mut watchers = Vec::new();
    for (node, key) in [(0, "a"), (1, "b"), (2, "c")] {
        let mut watcher = Watcher::enter(&nodes, node, key).await?;
        watcher.track(json!({"node": node})).await?;
        watchers.push(watcher);
    }
    let all = [("a", json!({"node": 0})), ("b", json!({"node": 1})), ("c", json!({"node": 2}))];
    for watcher in &mut watchers {
        watcher.sees(&all).await?;
    }

    // NATS is cut off one of them: it sees itself alone, the others see each other. Its people change meanwhile.
    nodes.links[0].cut();
    watchers[0].sees(&all[..1]).await?;
    watchers[1].sees(&all[1..]).await?;
    watchers[2].sees(&all[1..]).await?;
    watchers[0].track(json!({"node": 0, "n": 1})).await?;
    watchers[1].track(json!({"node": 1, "n": 1})).await?;
    let mut late = Watcher::enter(&nodes, 0, "late").await?;
    late.track(json!({})).await?;
    nodes.links[0].mend();
    let all = [
        ("a", json!({"node": 0, "n": 1})),
        ("b", json!({"node": 1, "n": 1})),
        ("c", json!({"node": 2})),
        ("late", json!({})),
    ];
    for watcher in watchers.iter_mut().chain([&mut late]) {
        watcher.sees(&all).await?;
    }

    // A short cut, shorter than a node may be silent: nobody leaves.
    nodes.links[1].cut();
    until("the node has noticed", || async {
        Ok(nodes.nodes[1].metric("realtime_cluster_connected").await? == 0.0)
    })
    .await?;
    drop(late);
    nodes.links[1].mend();
    let three = &all[..3];
    let refs: Vec<String> = watchers[1].known.keys().cloned().collect();
    for watcher in &mut watchers {
        watcher.sees(three).await?;
    }
    assert!(watchers[1].known.keys().all(|reference| refs.contains(reference)));

    // A network that swallows everything.
    nodes.links[2].silence();
    watchers[0].sees(&all[..2]).await?;
    nodes.links[2].mend();
    for watcher in &mut watchers {
        watcher.sees(three).await?;
    }

    // A node that stands still.
    nodes.nodes[1].signal(Signal::SIGSTOP)?;
    let two = [all[0].clone(), all[2].clone()];
    watchers[0].sees(&two).await?;
    watchers[2].sees(&two).await?;
    nodes.nodes[1].signal(Signal::SIGCONT)?;
    for watcher in &mut watchers {
        watcher.sees(three).await?;
    }

    // A node that is killed, and one that goes in good order: at once.
    nodes.nodes[1].signal(Signal::SIGKILL)?;
    let gone = Instant::now();
    watchers[0].sees(&two).await?;
    let took = gone.elapsed();
    assert!(took < realtime_testkit::PATIENCE / 2, "{took:?} with a time-out of five seconds");
    watchers[2].sees(&two).await?;
    nodes.nodes.remove(2).stop().await?;
    watchers[0].sees(&all[..1]).await?;
    nodes.sees(&nodes.nodes[0], 1).await
}
