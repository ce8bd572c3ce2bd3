//! Questions to the other nodes, for operators: metrics, figures of the process, what runs for a tenant, and ending
//! it.
//!
//! Each node answers for itself, and the asking node puts the answers together. A node that does not answer in time is
//! left out and named in the log; the other answers are useful without it.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures_util::{StreamExt as _, stream};
use realtime_channels::counters::NodeCounters;
use realtime_cluster::{AskError, Cluster, Contact, NodeStatus};
use realtime_codes::ErrorCode;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::node::{Node, short_id};

/// Nodes that are asked at once.
pub const ASKED_AT_ONCE: usize = 16;

/// How long a page waits for the other nodes. A node that does not answer is shown without figures.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Largest answer after decompression: twice that of ten thousand tenants.
const MAX_TEXT: u64 = 64_000_000;

/// A question to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Its metrics: the text, compressed with gzip.
    Metrics,
    /// [`NodeFigures`](super::figures::NodeFigures).
    Figures,
    /// What runs there for a tenant: [`TenantThere`](super::tenants::TenantThere), or null.
    Tenant(String),
    /// What it did during the last hour: [`Series`](super::history::Series), of all, or of a tenant.
    History(Option<String>),
    /// What happens there in a tenant: [`Activity`](super::activity::Activity).
    Activity(String),
    /// Rows that it has kept of the log of a tenant's database: what [`question`](realtime_channels::sharing::question) writes.
    Changes {
        /// The tenant.
        tenant: String,
        /// `pg_class.oid` of their tables.
        tables: Vec<u32>,
        /// The place behind which they are: the commit record of a transaction,
        commit: u64,
        /// and a number in it.
        number: u64,
    },
    /// End the tenant's connections to its database. The answer: whether there were any.
    EndDatabase(String),
    /// End the tenant's replication session. The answer: whether there was one.
    EndReplication(String),
    /// End the tenant's sockets and its connections to its database. The answer: whether there were any.
    Reload(String),
}

/// As JSON.
pub(super) fn json(answer: &impl Serialize) -> Option<Bytes> {
    serde_json::to_vec(answer).ok().map(Bytes::from)
}

/// The other nodes that can be asked.
fn others(cluster: &Cluster) -> Vec<NodeStatus> {
    let mut nodes = cluster.nodes();
    nodes.retain(|node| !node.is_self && node.contact == Contact::Heard);
    nodes
}

/// What a node answered, or why it did not.
pub type Answered<T> = (NodeStatus, Result<T, AskError>);

/// Asks one other node, by its short id. `None` if no node has that id.
pub async fn ask_one<T: DeserializeOwned>(
    this: &Node,
    id: &str,
    question: &Question,
    limit: Duration,
) -> Option<Answered<T>> {
    let cluster = this.cluster()?;
    let node = cluster.nodes().into_iter().find(|node| !node.is_self && short_id(node.id) == id)?;
    let answer = ask(this, cluster, &node, json(question)?, limit).await;
    Some((node, answer))
}

/// Puts a question to a node, and counts how long that took.
///
/// # Errors
/// [`AskError`].
pub async fn put(
    counters: &NodeCounters,
    cluster: &Cluster,
    node: u32,
    question: Bytes,
    limit: Duration,
) -> Result<Bytes, AskError> {
    let begun = Instant::now();
    let answer = cluster.ask(node, question, limit).await;
    counters.asked(answer.is_ok(), begun.elapsed());
    answer
}

/// Asks a node, and logs why it does not answer.
async fn ask<T: DeserializeOwned>(
    this: &Node,
    cluster: &Cluster,
    node: &NodeStatus,
    question: Bytes,
    limit: Duration,
) -> Result<T, AskError> {
    let answer = put(this.counters().node(), cluster, node.id, question, limit).await;
    let answer = answer.and_then(|answer| serde_json::from_slice(&answer).map_err(|_| AskError::Broken));
    answer.inspect_err(|error| missing(node, *error, "a node does not answer"))
}

/// Asks all other nodes the same question. Empty on a node that is alone.
pub async fn ask_others<T: DeserializeOwned>(
    this: &Node,
    question: &Question,
    limit: Duration,
) -> Vec<Answered<T>> {
    let Some(cluster) = this.cluster() else { return Vec::new() };
    let Some(question) = json(question) else { return Vec::new() };
    let answers = stream::iter(others(cluster)).map(|node| {
        let question = question.clone();
        async move {
            let answer = ask(this, cluster, &node, question, limit).await;
            (node, answer)
        }
    });
    let mut answers: Vec<_> = answers.buffer_unordered(ASKED_AT_ONCE).collect().await;
    // Sorted, so that pages look the same each time.
    answers.sort_by(|(a, _), (b, _)| (&a.name, a.id).cmp(&(&b.name, b.id)));
    answers
}

/// Logs that a node did not answer.
pub fn missing(node: &NodeStatus, error: AskError, what: &str) {
    let code = match error {
        AskError::Timeout => ErrorCode::TimeoutOnRpcCall,
        _ => ErrorCode::RpcError,
    };
    let id = short_id(node.id);
    tracing::error!(code = code.as_str(), node = node.name, id, %error, "{what}");
}

/// Compresses a text.
///
/// # Errors
/// Those of the compressor.
pub fn compress(text: &[u8]) -> std::io::Result<Bytes> {
    let mut body = GzEncoder::new(Vec::new(), Compression::fast());
    body.write_all(text)?;
    body.finish().map(Bytes::from)
}

/// Decompresses a text.
///
/// # Errors
/// If it is not compressed, or larger than any node's answer should be.
pub fn decompress(body: &[u8]) -> std::io::Result<Bytes> {
    let mut text = Vec::new();
    GzDecoder::new(body).take(MAX_TEXT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(std::io::Error::other("too large"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_as_json() {
        let json = |question: &Question| serde_json::to_string(question).unwrap();
        assert_eq!(json(&Question::Metrics), r#""metrics""#);
        assert_eq!(json(&Question::EndDatabase("t".to_owned())), r#"{"end_database":"t"}"#);
        assert!(serde_json::from_str::<Question>(r#"{"dance":1}"#).is_err());
    }

    #[test]
    fn texts_come_back() {
        let text = "realtime_x{host=\"h\"} 1\n".repeat(1000);
        let small = compress(text.as_bytes()).unwrap();
        assert!(small.len() < text.len() / 20);
        assert_eq!(decompress(&small).unwrap(), text);
        assert!(decompress(b"no gzip").is_err());
    }
}
