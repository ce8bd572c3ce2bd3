//! Owners and followers of a stream over a real NATS: nobody is left out in silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use realtime_cluster::{
    Cluster, Credentials, NatsConfig, TenantSide,
    rates::{Elsewhere, METERS, Rates},
    stream::{Carried, FollowError, Followed, Owned, Part},
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
        assert!(next == Carried::Event(expected.clone()), "not the {} bytes", expected.len());
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

/// What comes, as text: `-KEY*COUNT` for what is left out, `!` for what is granted.
async fn next(followed: &mut Followed) -> Result<String> {
    Ok(match time::timeout(PATIENCE, followed.next()).await.context("nothing came")?? {
        Carried::Event(event) => String::from_utf8_lossy(&event).into_owned(),
        Carried::Skipped { key, events } => format!("-{key}*{events}"),
        Carried::Granted => "!".to_owned(),
    })
}

fn rows(owned: &Owned, position: u64) {
    owned.carry(Part::Begin, &"begin".into());
    for (key, event) in [(1, "a"), (1, "b"), (2, "c"), (3, "d"), (1, "e")] {
        owned.carry(Part::Of(key), &event.into());
    }
    owned.carry(Part::End(position), &"end".into());
}

/// Each follower gets what it wants, from a place between two groups on. One of an earlier release gets everything, whatever
/// others want.
#[tokio::test(flavor = "multi_thread")]
async fn followers_get_what_they_want() -> Result<()> {
    let nats = Nats::start(&[]).await?;
    let (owner, one, other) = (node(&nats).await?, node(&nats).await?, node(&nats).await?);
    let tenant: Arc<str> = "t".into();
    let owned = owner.own(&tenant, 1, Bytes::new());
    let mut one = follow(&one, &tenant).await?;
    let mut other = follow(&other, &tenant).await?;
    assert!(one.sorted_by() == Some(owner.id()) && one.want(vec![1], vec![2, 3]));
    assert!(!one.want(vec![], vec![]), "one word at a time");
    assert_eq!(next(&mut one).await?, "!");
    let all = ["begin", "a", "b", "c", "d", "e", "end"];
    let expect = async |followed: &mut Followed, expected: &[&str]| {
        for expected in expected {
            assert_eq!(next(followed).await?, *expected);
        }
        anyhow::Ok(())
    };
    // The other has said nothing: all is on the line.
    rows(&owned, 2);
    expect(&mut other, &all).await?;
    expect(&mut one, &all[..3]).await?;
    for _ in 3..7 {
        next(&mut one).await?;
    }
    assert!(other.want(vec![2], vec![1, 3]));
    // Within a group nothing changes.
    owned.carry(Part::Begin, &"begin".into());
    let granted = time::timeout(Duration::from_millis(300), async {
        while next(&mut other).await? != "!" {}
        anyhow::Ok(())
    });
    assert!(granted.await.is_err(), "the group is not over");
    owned.carry(Part::Of(1), &"x".into());
    owned.carry(Part::End(3), &"end".into());
    expect(&mut other, &["x", "end", "!"]).await?;
    expect(&mut one, &["begin", "x", "end"]).await?;
    rows(&owned, 4);
    expect(&mut one, &["begin", "a", "b", "-2*1", "-3*1", "e", "end"]).await?;
    expect(&mut other, &["begin", "-1*2", "c", "-3*1", "-1*1", "end"]).await?;

    // A node that does not know of that: subjects and messages are those of docs/cluster.md.
    let client = async_nats::connect(nats.url()).await?;
    let mut whole = client.subscribe("realtime.2.c.t").await?;
    let mut question = vec![2, 0];
    question.extend(7_u64.to_be_bytes());
    question.extend(7_u32.to_be_bytes());
    let answer = client.request("realtime.2.o.t", question.into()).await?;
    assert_eq!(answer.payload[0], 2, "as ever");
    rows(&owned, 5);
    let mut expected: Vec<u8> = Vec::new();
    for event in all {
        expected.extend(u32::try_from(event.len())?.to_be_bytes());
        expected.extend(event.as_bytes());
    }
    let mut came: Vec<u8> = Vec::new();
    while came.len() < expected.len() {
        let message = time::timeout(PATIENCE, whole.next()).await?.context("nothing came")?.payload;
        if message[1] == 0 {
            came.extend(&message[18..]);
        }
    }
    assert_eq!(came, expected);
    expect(&mut one, &["begin", "a", "b", "-2*1", "-3*1", "e", "end"]).await?;

    // Large ones come in pieces.
    let large = Bytes::from("y".repeat(3_000_000));
    owned.carry(Part::Begin, &"begin".into());
    (1..4).for_each(|key| owned.carry(Part::Of(key), &large));
    owned.carry(Part::End(6), &"end".into());
    assert_eq!(next(&mut one).await?, "begin");
    assert_eq!(next(&mut one).await?.len(), large.len());
    expect(&mut one, &["-2*1", "-3*1", "end"]).await
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
