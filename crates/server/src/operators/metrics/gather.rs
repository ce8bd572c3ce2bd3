//! The metrics of all nodes (http_and_ops 3).
//!
//! Each node is asked once at a time, and its text is kept for a moment. So several scrapers at once, of all regions
//! or of one, cost as much as one. A scraper says how long it waits, and gets what has come by then.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, Shared},
    stream,
};
use parking_lot::Mutex;
use realtime_cluster::{AskError, Cluster, Contact, NodeStatus};
use realtime_codes::ErrorCode;
use tokio::time;

use super::{
    collect::{Part, render},
    host::Host,
    merge::merge,
};
use crate::{
    node::Node,
    operators::{
        ask::{ASKED_AT_ONCE, Question, compress, decompress, missing, put},
        history::History,
    },
};

/// Largest answer. Beyond it the remaining nodes are left out. The answer is held in memory, and scrapers have limits
/// too.
const MAX_TEXTS: usize = 256_000_000;

/// How long a text is used after it has come.
const FRESH: Duration = Duration::from_secs(1);

type Outcome = Result<Bytes, AskError>;

/// A text that is being made, or that was made a moment ago.
type Text = Shared<BoxFuture<'static, Outcome>>;

/// Whose metrics a text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    /// This node's.
    Own,
    /// This node's, compressed for other nodes.
    Compressed,
    /// Another node's.
    Node(u32),
}

/// The metrics of this node, and those of others while somebody asks for them.
pub struct Gathered {
    node: Arc<Node>,
    host: Host,
    texts: Mutex<HashMap<Whose, Text>>,
    history: Arc<History>,
}

impl Gathered {
    /// Gathers for a node.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, host: Host::default(), texts: Mutex::default(), history: Arc::default() }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// What this node did during the last hour.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The metrics of this node as text.
    #[must_use]
    pub fn render(&self, part: Part) -> String {
        render(&self.node, &self.host, part)
    }

    /// The text of this node, compressed.
    ///
    /// # Errors
    /// If it could not be made.
    pub async fn own_compressed(self: &Arc<Self>) -> Outcome {
        let own = self.own();
        self.kept(Whose::Compressed, async move {
            let text = own.await?;
            let compressed = tokio::task::spawn_blocking(move || compress(&text)).await;
            compressed.ok().and_then(Result::ok).ok_or(AskError::Broken)
        })
        .await
    }

    /// The current metrics of this node alone.
    pub async fn of_this_node(self: &Arc<Self>) -> Bytes {
        self.made().await.unwrap_or_default()
    }

    /// The metrics of all nodes, or of a region's nodes, as parts of one text. `patience`: how long the caller waits
    /// at most, if known.
    pub async fn gather(self: &Arc<Self>, region: Option<&str>, patience: Option<Duration>) -> Vec<Bytes> {
        let wanted = |of: Option<&str>| region.is_none_or(|region| of.unwrap_or("nil") == region);
        let Some(cluster) = self.node.cluster() else {
            return if wanted(self.node.region()) { vec![self.of_this_node().await] } else { Vec::new() };
        };
        let limit = self.node.settings().operations.metrics_limit;
        let waits = patience.map_or(limit, |patience| patience.min(limit));
        let begun = time::Instant::now();
        let nodes: Vec<NodeStatus> = cluster
            .nodes()
            .into_iter()
            .filter(|node| node.contact == Contact::Heard && wanted(node.region.as_deref()))
            .collect();
        let answers = stream::iter(nodes)
            .map(|node| async move {
                let text = if node.is_self { self.own() } else { self.of_node(cluster, node.id, limit) };
                let text = time::timeout_at(begun + waits, text).await.unwrap_or(Err(AskError::Timeout));
                text.inspect_err(|error| missing(&node, *error, "the metrics of a node are missing")).ok()
            })
            .buffer_unordered(ASKED_AT_ONCE);
        merge(&within_bounds(answers).await)
    }

    fn own(self: &Arc<Self>) -> Text {
        let gathered = Arc::clone(self);
        self.kept(Whose::Own, async move { gathered.made().await })
    }

    /// Made in a thread of its own: with many tenants it takes a while, in which other tasks should run.
    async fn made(self: &Arc<Self>) -> Outcome {
        let gathered = Arc::clone(self);
        let text = tokio::task::spawn_blocking(move || gathered.render(Part::All)).await;
        text.map(Bytes::from).map_err(|_| AskError::Broken)
    }

    fn of_node(self: &Arc<Self>, cluster: &Cluster, node: u32, limit: Duration) -> Text {
        let (counters, cluster) = (Arc::clone(self.node.counters().node()), cluster.clone());
        self.kept(Whose::Node(node), async move {
            let question = serde_json::to_vec(&Question::Metrics).map_err(|_| AskError::Broken)?;
            let answer = put(&counters, &cluster, node, question.into(), limit).await?;
            let text = tokio::task::spawn_blocking(move || decompress(&answer)).await;
            text.ok().and_then(Result::ok).ok_or(AskError::Broken)
        })
    }

    /// The text that is being made already, or one that is made now. It is completed even if nobody waits.
    fn kept(self: &Arc<Self>, whose: Whose, make: impl Future<Output = Outcome> + Send + 'static) -> Text {
        let mut texts = self.texts.lock();
        if let Some(text) = texts.get(&whose) {
            return text.clone();
        }
        let task = tokio::spawn(make);
        let text = async move { task.await.unwrap_or(Err(AskError::Broken)) }.boxed().shared();
        texts.insert(whose, text.clone());
        let (kept, made) = (Arc::clone(self), text.clone());
        tokio::spawn(async move {
            // A failure is not kept, because the next attempt may succeed.
            if made.await.is_ok() {
                time::sleep(FRESH).await;
            }
            kept.texts.lock().remove(&whose);
        });
        text
    }
}

/// The texts that have come, as many as fit into one answer.
async fn within_bounds(answers: impl Stream<Item = Option<Bytes>>) -> Vec<Bytes> {
    let mut answers = pin!(answers);
    let mut texts: Vec<Bytes> = Vec::new();
    let mut size = 0;
    while let Some(text) = answers.next().await {
        let Some(text) = text else { continue };
        size += text.len();
        if size > MAX_TEXTS {
            tracing::error!(
                code = ErrorCode::RpcError.as_str(),
                "the metrics of all nodes are too large for one answer: scrape each node by itself"
            );
            break;
        }
        texts.push(text);
    }
    texts
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::{Env, Settings};

    fn node() -> Arc<Node> {
        Node::new(Settings::from_env(&Env::new(&|_| None)).unwrap(), CancellationToken::new()).unwrap()
    }

    /// Scrapers at the same time share what is made; a moment later it is made anew, and after a failure at once.
    #[tokio::test(start_paused = true)]
    async fn made_once_for_all_who_ask_at_once() {
        let gathered = Arc::new(Gathered::new(node()));
        let made = Arc::new(AtomicUsize::new(0));
        let ask = |outcome: Outcome| {
            let made = Arc::clone(&made);
            gathered.kept(Whose::Node(1), async move {
                time::sleep(Duration::from_millis(100)).await;
                made.fetch_add(1, Ordering::Relaxed);
                outcome
            })
        };
        let text = Ok(Bytes::from_static(b"x"));
        let all: Vec<Text> = (0..10).map(|_| ask(text.clone())).collect();
        for one in all {
            assert_eq!(one.await, text);
        }
        assert_eq!(ask(Err(AskError::Gone)).await, text, "still fresh");
        assert_eq!(made.load(Ordering::Relaxed), 1);
        time::sleep(FRESH + Duration::from_millis(1)).await;
        assert_eq!(ask(Err(AskError::Gone)).await, Err(AskError::Gone));
        tokio::task::yield_now().await;
        assert_eq!(ask(text.clone()).await, text);
        assert_eq!(made.load(Ordering::Relaxed), 3);
    }
}
