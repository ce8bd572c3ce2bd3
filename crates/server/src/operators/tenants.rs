//! What runs for a tenant, on this node and on the others, and ending it.

use std::time::Duration;

use futures_util::future;
use realtime_cluster::AskError;
use realtime_postgres::Reader;
use realtime_tenants::Operation;
use serde::{Deserialize, Serialize};

use super::ask::{Answered, PATIENCE, Question, ask_others};
use crate::node::{DATABASE_LIMIT, Node, RELOAD_LIMIT, short_id};

/// How much longer than the end itself the wait for its answer may take.
const MARGIN: Duration = Duration::from_secs(1);

/// What runs for a tenant on one node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantThere {
    /// Whether the database answers there.
    pub db_connected: bool,
    /// Who reads the database's log for this node, if somebody does.
    pub reader: Option<ReaderThere>,
    /// Whether broadcasts from the database arrive.
    pub replication_connected: bool,
    /// Sockets with a joined channel.
    pub users: u32,
    /// Sockets.
    pub sockets: u64,
    /// Rooms with members.
    pub rooms: u64,
    /// Channels that watch row changes.
    pub watchers: u64,
}

/// The reader of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderThere {
    /// The node itself, for all nodes.
    Owner,
    /// The node itself, for itself alone.
    Alone,
    /// Another node, which it follows.
    Follower,
}

impl From<Reader> for ReaderThere {
    fn from(reader: Reader) -> Self {
        match reader {
            Reader::ThisNode => Self::Owner,
            Reader::ForItself => Self::Alone,
            Reader::AnotherNode => Self::Follower,
        }
    }
}

/// A tenant on a node.
#[derive(Debug, Clone)]
pub struct OnNode {
    /// Short id of the node.
    pub id: String,
    /// Name of the node.
    pub name: String,
    /// Region of the node.
    pub region: Option<String>,
    /// Whether it is this node.
    pub is_self: bool,
    /// What runs there. `None`: nothing. The error says why it is not known.
    pub there: Result<Option<TenantThere>, AskError>,
}

impl OnNode {
    /// What runs there, if it is known and there is something.
    #[must_use]
    pub fn running(&self) -> Option<&TenantThere> {
        self.there.as_ref().ok().and_then(Option::as_ref)
    }

    /// Whether it reads the database's log.
    #[must_use]
    pub fn reads(&self) -> bool {
        let reader = self.running().and_then(|there| there.reader);
        matches!(reader, Some(ReaderThere::Owner | ReaderThere::Alone))
    }
}

/// What runs for a tenant on this node.
pub async fn here(node: &Node, external_id: &str) -> Option<TenantThere> {
    let runtime = node.running(external_id)?;
    let database = runtime.database();
    if database.is_connected() && !database.is_ready() {
        // Checks a connection that was not used for a while. The handle keeps the outcome.
        let _ = database.try_on().await;
    }
    let db_connected = database.is_connected();
    Some(TenantThere {
        db_connected,
        reader: database.reader().map(ReaderThere::from),
        replication_connected: db_connected && database.replication().arrives,
        users: runtime.users().count(),
        sockets: runtime.sockets().len() as u64,
        rooms: node.rooms_of(external_id) as u64,
        watchers: runtime.routes().len() as u64,
    })
}

/// What runs for a tenant on this node, as one of several.
pub async fn on_this_node(node: &Node, external_id: &str) -> OnNode {
    OnNode {
        id: node.identity().id.clone(),
        name: node.settings().node.clone(),
        region: node.region().map(str::to_owned),
        is_self: true,
        there: Ok(here(node, external_id).await),
    }
}

/// What runs for a tenant on all nodes, this one first.
pub async fn everywhere(node: &Node, external_id: &str) -> Vec<OnNode> {
    let question = Question::Tenant(external_id.to_owned());
    let others = ask_others(node, &question, PATIENCE);
    let (this, others) = future::join(on_this_node(node, external_id), others).await;
    let others = others.into_iter().map(|(node, there)| OnNode {
        id: short_id(node.id),
        name: node.name,
        region: node.region,
        is_self: false,
        there,
    });
    std::iter::once(this).chain(others).collect()
}

/// Ends a tenant's connections to its database here. False if there is nothing to end.
pub(super) async fn end_database_here(node: &Node, external_id: &str) -> bool {
    let Some(ending) = node.end_database(external_id) else { return false };
    ending.wait(external_id, DATABASE_LIMIT).await;
    true
}

/// Ends a tenant's replication session here. False if there is nothing to end.
pub(super) async fn end_replication_here(node: &Node, external_id: &str) -> bool {
    match node.running(external_id) {
        Some(runtime) => runtime.database().end_replication().await,
        None => false,
    }
}

/// Ends a tenant's sockets and its connections to its database here. False if there is nothing to end.
pub(super) async fn reload_here(node: &Node, external_id: &str) -> bool {
    let Some(ending) = node.reload(external_id) else { return false };
    ending.wait(external_id, RELOAD_LIMIT).await;
    true
}

/// Asks all nodes to do something, this one included. Returns whether one of them did.
async fn do_everywhere(
    node: &Node,
    question: Question,
    limit: Duration,
    here: impl Future<Output = bool>,
) -> bool {
    let (here, others) = future::join(here, ask_others::<bool>(node, &question, limit + MARGIN)).await;
    here || others.iter().any(|(_, did)| *did == Ok(true))
}

/// Tells nodes through the metadata database, which also reaches nodes that the bus does not. False if there is none,
/// or if it does not answer.
async fn tell(node: &Node, operation: Operation, external_id: &str) -> bool {
    let Some(directory) = node.tenants().directory() else { return false };
    match directory.tell_operation(operation, external_id).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(tenant = external_id, code = error.code(), %error, "other nodes could not be told");
            false
        }
    }
}

/// Whether something runs for a tenant on another node.
async fn runs_elsewhere(node: &Node, external_id: &str) -> bool {
    let question = Question::Tenant(external_id.to_owned());
    let others: Vec<Answered<Option<TenantThere>>> = ask_others(node, &question, PATIENCE).await;
    others.iter().any(|(_, there)| matches!(there, Ok(Some(there)) if there.db_connected))
}

/// Ends a tenant's connections to its database on all nodes; sockets stay. False if, as far as is known, there were
/// none.
pub async fn end_database(node: &Node, external_id: &str) -> bool {
    let here = end_database_here(node, external_id);
    if node.tenants().directory().is_some() {
        let elsewhere = runs_elsewhere(node, external_id).await;
        if tell(node, Operation::Shutdown, external_id).await {
            return here.await || elsewhere;
        }
    }
    do_everywhere(node, Question::EndDatabase(external_id.to_owned()), DATABASE_LIMIT, here).await
}

/// Ends a tenant's replication sessions on all nodes. If only one reader ended, another node would take its place.
/// False if there were none.
pub async fn end_replication(node: &Node, external_id: &str) -> bool {
    let here = end_replication_here(node, external_id);
    do_everywhere(node, Question::EndReplication(external_id.to_owned()), DATABASE_LIMIT, here).await
}

/// Ends a tenant's sockets and its connections to its database on all nodes. False if there were none here and nothing
/// is known of other nodes.
pub async fn reload(node: &Node, external_id: &str) -> bool {
    let here = reload_here(node, external_id);
    if tell(node, Operation::Reload, external_id).await {
        return here.await;
    }
    do_everywhere(node, Question::Reload(external_id.to_owned()), RELOAD_LIMIT, here).await
}
