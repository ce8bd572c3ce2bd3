//! The end of a server, part by part. Each part has a share of the time, so that it cannot take the time of the parts
//! after it. Slow work is left behind, and ends with the process.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use realtime_channels::sockets;
use tokio::time;

use super::node::Node;

/// Time for answering requests and closing sockets. Polls and batches of broadcasts may take longer by themselves.
const CONNECTIONS_SHARE: Duration = Duration::from_secs(6);

/// Part of it in which all sockets are told. The rest is for the last of them to close.
const TELLING_SHARE: Duration = Duration::from_secs(4);

/// Time for leaving the databases: slots are freed, positions confirmed.
const DATABASES_SHARE: Duration = Duration::from_secs(2);

/// Time for telling the other nodes that this one leaves.
const CLUSTER_SHARE: Duration = Duration::from_secs(2);

impl Node {
    /// Lets requests end, then ends the sockets, the connections to databases and the part in a cluster. Call it after
    /// [`stopping`](Self::stopping) was cancelled. `requests` is done when all running requests are answered.
    pub async fn shut_down(&self, requests: impl Future<Output = ()>) {
        self.sockets().close();
        let runtimes = self.runtimes();
        let of_tenants: Vec<_> = runtimes.iter().map(|runtime| Arc::clone(runtime.sockets())).collect();
        // Both at once: a poll is answered when its session is told.
        let connections = async {
            tokio::join!(requests, async {
                sockets::shut_down(&of_tenants, TELLING_SHARE).await;
                self.sockets().wait().await;
            })
        };
        if time::timeout(CONNECTIONS_SHARE, connections).await.is_err() {
            let sockets = self.sockets().len();
            tracing::warn!(
                sockets,
                "some sockets did not end in time; their clients see a lost connection and come back"
            );
        }
        self.endings().close();
        let databases = async {
            let legacy = async {
                if let Some(legacy) = self.legacy() {
                    legacy.shut_down().await;
                }
            };
            let handles = runtimes.iter().map(|runtime| {
                let database = runtime.database();
                async move { database.shutdown().await }
            });
            let webhooks = runtimes.iter().map(|runtime| {
                let webhooks = runtime.webhooks();
                async move { webhooks.shut_down().await }
            });
            tokio::join!(legacy, join_all(webhooks), join_all(handles), self.endings().wait());
        };
        if time::timeout(DATABASES_SHARE, databases).await.is_err() {
            tracing::warn!(
                "some connections to databases did not end in time; temporary slots go when PostgreSQL notices"
            );
        }
        if let Some(cluster) = self.cluster()
            && time::timeout(CLUSTER_SHARE, cluster.leave()).await.is_err()
        {
            tracing::warn!(
                "the other nodes could not be told of the end in time; they notice within CLUSTER_NODE_TIMEOUT_MS"
            );
        }
    }
}
