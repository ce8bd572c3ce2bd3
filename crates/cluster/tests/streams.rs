//! Owners and followers of a stream over a real NATS: nobody is left out in silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use realtime_cluster::{
    Cluster, Credentials, NatsConfig,
    stream::{FollowError, Followed, Owned, Part},
};
use realtime_hub::Hub;
use realtime_testkit::{Nats, PATIENCE, until};
use tokio::time::{self, Duration};

async fn node(nats: &Nats) -> Result<Cluster> {
    let config = NatsConfig {
        servers: vec![nats.url()],
        credentials: Credentials::None,
        require_tls: false,
        ca: None,
        client_certificate: None,
        prefix: "realtime".to_owned(),
        node_name: "node".to_owned(),
        region: None,
        version: "0.0.0",
        heartbeat: Duration::from_millis(200),
        // A busy machine.
        node_timeout: Duration::from_secs(6),
        linger: Duration::from_secs(30),
    };
    let cluster = Cluster::new(config, &Hub::new(rand::random(), Duration::ZERO));
    cluster.start().await?;
    until("it is connected", || async { Ok(cluster.is_connected()) }).await?;
    Ok(cluster)
}

/// As soon as the owner listens.
async fn follow(cluster: &Cluster, tenant: &Arc<str>) -> Result<Followed> {
    let follow = async {
        loop {
            match cluster.follow(tenant).await {
                Ok(followed) => return followed,
                Err(_) => time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    time::timeout(PATIENCE, follow).await.context("nobody can be followed")
}

fn group(owned: &Owned, position: u64, event: &Bytes) {
    owned.carry(Part::Begin, &Bytes::from_static(b"begin"));
    owned.carry(Part::Within, event);
    owned.carry(Part::End(position), &Bytes::from_static(b"end"));
}

/// The events of a group, in order.
async fn hears(followed: &mut Followed, event: &Bytes) -> Result<()> {
    for expected in [&Bytes::from_static(b"begin"), event, &Bytes::from_static(b"end")] {
        let next = time::timeout(PATIENCE, followed.next()).await.context("nothing came")??;
        assert!(next == *expected, "{} bytes instead of {}", next.len(), expected.len());
    }
    Ok(())
}

/// Who ends and begins to follow again at once hears everything: the last words of the one that was are not about the
/// one that is.
#[tokio::test(flavor = "multi_thread")]
async fn following_again_at_once() -> Result<()> {
    let nats = Nats::start(&[]).await?;
    let (owner, other) = (node(&nats).await?, node(&nats).await?);
    let tenant: Arc<str> = "t".into();
    let owned = owner.own(&tenant, 1, Bytes::new());
    let mut followed = follow(&other, &tenant).await?;
    for round in 2..60 {
        let event = Bytes::from(format!("event {round}"));
        group(&owned, round, &event);
        hears(&mut followed, &event).await.with_context(|| format!("round {round}"))?;
        if round % 2 == 0 {
            // One beside the other, as when settings of a database change.
            let next = follow(&other, &tenant).await?;
            drop(std::mem::replace(&mut followed, next));
            time::sleep(Duration::from_millis(round)).await;
        } else {
            drop(followed);
            followed = follow(&other, &tenant).await?;
        }
    }
    Ok(())
}

/// The only follower takes nothing for longer than it is waited for: what it gets is without a hole, and then it is told.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_waited_for_is_told() -> Result<()> {
    let nats = Nats::start(&[]).await?;
    let (owner, other) = (node(&nats).await?, node(&nats).await?);
    let tenant: Arc<str> = "t".into();
    let owned = owner.own(&tenant, 1, Bytes::new());
    let mut followed = follow(&other, &tenant).await?;
    let event = Bytes::from(vec![b'x'; 1_000_000]);
    let count = 18;
    for position in 2..count + 2 {
        group(&owned, position, &event);
    }
    assert!(owned.has_followers());
    time::timeout(PATIENCE * 2, owned.room()).await.context("it is waited for without bound")?;
    assert!(!owned.has_followers(), "it is not waited for any more");
    group(&owned, 100, &Bytes::from_static(b"not for it"));
    for _ in 0..count {
        hears(&mut followed, &event).await?;
    }
    let end = time::timeout(PATIENCE, followed.next()).await.context("it was left out in silence")?;
    assert!(matches!(end, Err(FollowError::Dropped)), "{end:?}");
    // And it can come back.
    let mut followed = follow(&other, &tenant).await?;
    let event = Bytes::from_static(b"again");
    group(&owned, 200, &event);
    hears(&mut followed, &event).await
}
