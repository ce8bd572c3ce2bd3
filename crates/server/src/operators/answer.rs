//! Answers the questions that other nodes ask for their operators.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use realtime_cluster::Answerer;
use realtime_pgoutput::{Lsn, Position};
use realtime_postgres::Recall;

use super::{
    activity::Activity,
    ask::{Question, json},
    figures::NodeFigures,
    metrics::Gathered,
    tenants,
};

/// Answers other nodes. Weak, because the cluster holds it and the node holds the cluster.
struct Answers(Weak<Gathered>);

/// Begins to answer other nodes, if there can be any.
pub fn answer_others(gathered: &Arc<Gathered>) {
    if let Some(cluster) = gathered.node().cluster() {
        cluster.set_answerer(Arc::new(Answers(Arc::downgrade(gathered))));
    }
}

impl Answerer for Answers {
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let gathered = self.0.upgrade();
        Box::pin(async move {
            // A later release may ask questions that this one does not know.
            let question = serde_json::from_slice(&question).ok()?;
            answer(&gathered?, question).await
        })
    }
}

async fn answer(gathered: &Arc<Gathered>, question: Question) -> Option<Bytes> {
    let node = gathered.node();
    match question {
        Question::Metrics => gathered.own_compressed().await.ok(),
        Question::Figures => json(&NodeFigures::of(node).await),
        Question::Tenant(external_id) => json(&tenants::here(node, &external_id).await),
        Question::History(None) => json(&gathered.history().node()),
        Question::History(Some(external_id)) => json(&gathered.history().tenant(&external_id)),
        Question::Activity(external_id) => json(&Activity::here(node, &external_id).await),
        Question::Changes { tenant, tables, commit, number } => {
            let after = Position { commit: Lsn(commit), number };
            node.running(&tenant)?.database().kept_changes(Recall { tables, after }).await
        }
        Question::EndDatabase(external_id) => json(&tenants::end_database_here(node, &external_id).await),
        Question::EndReplication(external_id) => {
            json(&tenants::end_replication_here(node, &external_id).await)
        }
        Question::Reload(external_id) => json(&tenants::reload_here(node, &external_id).await),
    }
}

#[cfg(test)]
mod tests {
    use realtime_channels::sharing;

    use super::*;

    #[test]
    fn what_nodes_ask_for_their_clients_is_understood() {
        let after = Position { commit: Lsn(u64::MAX), number: 3 };
        let bytes = sharing::question("t", &Recall { tables: vec![1, 2], after });
        let expected =
            Question::Changes { tenant: "t".to_owned(), tables: vec![1, 2], commit: u64::MAX, number: 3 };
        assert_eq!(serde_json::from_slice::<Question>(&bytes).unwrap(), expected);
    }
}
