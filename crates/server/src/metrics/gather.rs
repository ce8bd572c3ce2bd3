//! The metrics of all nodes (http_and_ops 3).
//!
//! Each node's text is asked for once at a time and kept for a moment, so that several scrapers at once, of all regions or
//! of one, cost what one does. A scraper waits as long as it says, and gets what has come by then.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream,
};
use parking_lot::Mutex;
use realtime_cluster::{AskError, Cluster, Contact, NodeStatus};
use tokio::time;

use super::{Part, merge::merge, render};
use crate::{
    app::App,
    nodes::{ASKED_AT_ONCE, Question, compress, decompress, missing, put},
};

/// Largest answer: beyond it the nodes that are left are left out. It is held in memory, and scrapers have limits too.
const MAX_TEXTS: usize = 256_000_000;

/// How long a text is good that has come.
const FRESH: Duration = Duration::from_secs(1);

type Outcome = Result<Bytes, AskError>;

/// A text that is being made, or was a moment ago.
type Text = Shared<BoxFuture<'static, Outcome>>;

/// Of whom a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    /// This node's.
    Own,
    /// This node's, as others get it.
    Compressed,
    /// Another node's.
    Node(u32),
}

/// Texts of nodes that somebody asks for.
#[derive(Default)]
pub struct Gathered {
    texts: Mutex<HashMap<Whose, Text>>,
}

impl Gathered {
    /// The text of this node, compressed.
    ///
    /// # Errors
    /// When it could not be made.
    pub async fn own_compressed(self: &Arc<Self>, app: &Arc<App>) -> Outcome {
        let own = self.own(app);
        self.kept(Whose::Compressed, async move {
            let text = own.await?;
            let compressed = tokio::task::spawn_blocking(move || compress(&text)).await;
            compressed.ok().and_then(Result::ok).ok_or(AskError::Broken)
        })
        .await
    }

    fn own(self: &Arc<Self>, app: &Arc<App>) -> Text {
        let app = Arc::clone(app);
        self.kept(Whose::Own, async move { made(&app).await })
    }

    fn of_node(self: &Arc<Self>, app: &App, cluster: &Cluster, node: u32, limit: Duration) -> Text {
        let (metrics, cluster) = (Arc::clone(app.metrics().node()), cluster.clone());
        self.kept(Whose::Node(node), async move {
            let question = serde_json::to_vec(&Question::Metrics).map_err(|_| AskError::Broken)?;
            let answer = put(&metrics, &cluster, node, question.into(), limit).await?;
            let text = tokio::task::spawn_blocking(move || decompress(&answer)).await;
            text.ok().and_then(Result::ok).ok_or(AskError::Broken)
        })
    }

    /// The text that is being made already, or is made now. It goes on whether or not somebody waits.
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
            // A failure is not kept: the next may succeed.
            if made.await.is_ok() {
                time::sleep(FRESH).await;
            }
            kept.texts.lock().remove(&whose);
        });
        text
    }
}

/// The metrics of all nodes, or of those of a region, as parts of one text. `patience`: how long whoever asks waits at
/// most, if known.
pub async fn gather(app: &Arc<App>, region: Option<&str>, patience: Option<Duration>) -> Vec<Bytes> {
    let wanted = |of: Option<&str>| region.is_none_or(|region| of.unwrap_or("nil") == region);
    let gathered = app.gathered();
    let Some(cluster) = app.cluster() else {
        return if wanted(app.region()) { vec![of_this_node(app).await] } else { Vec::new() };
    };
    let limit = app.settings().operations.metrics_limit;
    let waits = patience.map_or(limit, |patience| patience.min(limit));
    let begun = time::Instant::now();
    let nodes: Vec<NodeStatus> = cluster
        .nodes()
        .into_iter()
        .filter(|node| node.contact == Contact::Heard && wanted(node.region.as_deref()))
        .collect();
    let mut answers = stream::iter(nodes)
        .map(|node| async move {
            let text =
                if node.is_self { gathered.own(app) } else { gathered.of_node(app, cluster, node.id, limit) };
            let text = time::timeout_at(begun + waits, text).await.unwrap_or(Err(AskError::Timeout));
            text.inspect_err(|error| missing(&node, *error, "the metrics of a node are missing")).ok()
        })
        .buffer_unordered(ASKED_AT_ONCE);
    let mut texts: Vec<Bytes> = Vec::new();
    let mut size = 0;
    while let Some(text) = answers.next().await {
        let Some(text) = text else { continue };
        size += text.len();
        if size > MAX_TEXTS {
            tracing::error!(
                code = "RpcError",
                "the metrics of all nodes are too large for one answer: scrape each node by itself"
            );
            break;
        }
        texts.push(text);
    }
    merge(&texts)
}

/// The metrics of this node alone, as they are now.
pub async fn of_this_node(app: &Arc<App>) -> Bytes {
    made(app).await.unwrap_or_default()
}

/// With many tenants it takes a while, in which other tasks should run.
async fn made(app: &Arc<App>) -> Outcome {
    let app = Arc::clone(app);
    let text = tokio::task::spawn_blocking(move || render(&app, Part::All)).await;
    text.map(Bytes::from).map_err(|_| AskError::Broken)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Scrapers at the same time share what is made; a moment later it is made anew, and after a failure at once.
    #[tokio::test(start_paused = true)]
    async fn made_once_for_all_who_ask_at_once() {
        let gathered = Arc::new(Gathered::default());
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
