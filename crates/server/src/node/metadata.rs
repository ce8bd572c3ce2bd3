//! The metadata database: its set-up at the start, and the tasks that follow its changes.

use std::{sync::Arc, time::Duration};

use realtime_retry::Backoff;
use realtime_tenants::{Directory, Seed, StoreError};
use tokio::{sync::oneshot, time};

use super::{connect::connect_databases, node::Node, webhooks};

/// How long the start waits for the metadata database. After that the server serves, and refuses tenants that it does
/// not know.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Pauses between attempts to set it up. Nobody is served until one succeeds.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));

/// How often running tenants are looked up even if nobody connects, so that the directory does not forget them.
const TOUCH: Duration = Duration::from_secs(3600);

/// Sets up the metadata database, makes the environment's tenant in it, follows its changes, and connects to the
/// databases of the tenants known from the start. Returns after the first attempt or after [`START_LIMIT`]; the work
/// goes on by itself.
pub async fn begin(node: &Arc<Node>) {
    let Some(directory) = node.tenants().directory().map(Arc::clone) else {
        webhooks::begin(node);
        connect_databases(node);
        return;
    };
    if node.settings().metadata.as_ref().is_some_and(|metadata| metadata.gcm_without_key) {
        tracing::warn!("DB_ENC_WRITE_GCM means nothing without DB_ENC_KEY_GCM");
    }
    let (tried, is_tried) = oneshot::channel();
    let (keeping, stop) = (Arc::clone(node), node.stopping().clone());
    node.sockets().spawn(async move {
        let seed = keeping.settings().metadata.as_ref().and_then(|metadata| metadata.seed.as_ref());
        let work = async {
            set_up(&directory, seed, tried).await;
            connect_databases(&keeping);
            tokio::join!(
                Arc::clone(&directory).run(stop.clone()),
                keeping.follow_changes(),
                keeping.follow_operations(),
                keep_running_known(&keeping),
                keeping.keep_webhooks()
            )
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = work => {}
        }
    });
    let _ = time::timeout(START_LIMIT, is_tried).await;
}

/// Tries until it works; logs the first failure. `tried` is told after the first attempt.
async fn set_up(directory: &Directory, seed: Option<&Seed>, tried: oneshot::Sender<()>) {
    let mut backoff = RETRY;
    let mut tried = Some(tried);
    while let Err(error) = try_set_up(directory, seed).await {
        if let Some(tried) = tried.take() {
            tracing::error!(code = error.code(), %error, "the metadata database cannot be used; retrying");
            let _ = tried.send(());
        }
        time::sleep(backoff.failed(1.0)).await;
    }
}

async fn try_set_up(directory: &Directory, seed: Option<&Seed>) -> Result<(), StoreError> {
    for change in directory.store().set_up().await? {
        tracing::info!("metadata: {change}");
    }
    if let Some(seed) = seed {
        directory.store().seed(seed).await?;
        directory.refresh(&seed.external_id).await?;
    }
    Ok(())
}

async fn keep_running_known(node: &Node) {
    loop {
        time::sleep(TOUCH).await;
        for runtime in node.runtimes() {
            // Whoever needs the tenant logs what is wrong.
            let _ = node.tenants().get(runtime.name()).await;
        }
    }
}
