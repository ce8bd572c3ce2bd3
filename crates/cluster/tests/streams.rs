//! Owners and followers of a stream over a real NATS: nobody is left out in silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use realtime_cluster::{
    Cluster, Credentials, NatsConfig, TenantSide,
    rates::{Elsewhere, METERS, Rates},
    stream::{FollowError, Followed, Owned, Part},
};
use realtime_hub::{Hub, Meter, Unlimited};
use realtime_testkit::{Nats, PATIENCE, until};
use tokio::time::{self, Duration};

async fn node(nats: &Nats) -> Result<Cluster> {
    node_that_lingers(nats, Duration::from_secs(30)).await
}

async fn node_that_lingers(nats: &Nats, linger: Duration) -> Result<Cluster> {
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
        linger,
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

/// A tenant of a node, with some users.
#[derive(Debug)]
struct Side(Arc<dyn Meter>, u32);

impl TenantSide for Side {
    fn meter(&self) -> &Arc<dyn Meter> {
        &self.0
    }

    fn users(&self) -> u32 {
        self.1
    }

    fn set_users_elsewhere(&self, _: u32) {}

    fn rates(&self) -> (Rates, [u32; METERS]) {
        Default::default()
    }

    fn set_rates_elsewhere(&self, _: &[Elsewhere; METERS]) {}
}

/// What other nodes say of a tenant is listened to while it has a socket here, and a while longer; not for ever. Who comes
/// again is told anew.
#[tokio::test(flavor = "multi_thread")]
async fn idle_tenants_are_not_listened_for() -> Result<()> {
    let nats = Nats::start(&[]).await?;
    let (node, other) = (node_that_lingers(&nats, Duration::from_millis(300)).await?, node(&nats).await?);
    let side = |users: u32| -> Arc<dyn TenantSide> { Arc::new(Side(Arc::new(Unlimited), users)) };
    let (idle, used): (Arc<str>, Arc<str>) = ("idle".into(), "used".into());
    let held = node.interest(&used, &side(1));
    held.ready().await;
    for _ in 0..3 {
        let interest = node.interest(&idle, &side(1));
        interest.ready().await;
        until("its users are told", || async { Ok(other.users_elsewhere() == 2) }).await?;
        assert!(node.counts_users_of(&idle));
        drop(interest);
        until("it is forgotten", || async { Ok(!node.counts_users_of(&idle)) }).await?;
        until("and its users with it", || async { Ok(other.users_elsewhere() == 1) }).await?;
        assert!(node.counts_users_of(&used), "it has a socket");
    }
    Ok(())
}
