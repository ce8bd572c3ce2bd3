//! What other nodes have kept of a room, for a node that has just got its first member there (resume 4).
//!
//! All nodes are asked. Those that hear the room have what was said there; each has, besides, what was said on itself. So what
//! one of them had not heard yet when it answered is told by the node on which it was said. The room is heard here already
//! when they are asked, so nothing falls between an answer and what is said later.

use futures_util::future::join_all;
use realtime_hub::{RoomKey, Told};
use tokio::time::{self, Duration};

use crate::{cluster::Cluster, node::Node, wire::past};

/// How long the answers are waited for. A client waits for its join meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// Asks the other nodes what they have kept of a room, unless they have told it, and keeps it here too. Who asks while
    /// another does gets the answers to one more question, together with all others who do. Returns since when nothing is
    /// missing in what they told. Cancel safe.
    pub async fn ask_history(&self, room: &RoomKey) -> Option<u64> {
        let node = self.node();
        if !node.hub.should_ask_history(room) {
            return None;
        }
        let asked = node.asking.ask(room, async {
            if node.hub.should_ask_history(room) { ask(node, room).await } else { None }
        });
        time::timeout(PATIENCE, asked).await.ok().flatten()
    }
}

async fn ask(node: &Node, room: &RoomKey) -> Option<u64> {
    let question = past::question(room);
    let answers = node.peers.others().into_iter().map(|other| {
        let question = question.clone();
        async move { node.questions.ask(other, question, PATIENCE).await.ok() }
    });
    let answers = join_all(answers).await;
    let told: Vec<Told> = answers
        .into_iter()
        .flatten()
        .filter_map(|answer| past::decode(answer).inspect_err(|error| node.link.malformed(*error)).ok())
        .collect();
    node.hub.adopt_history(room, told)
}
