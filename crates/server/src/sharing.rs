//! How nodes share the stream of a tenant's database: what `realtime_postgres` asks for, as `realtime_cluster` has it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use realtime_cluster::{
    Cluster,
    stream::{Followed, Owned, Place as StreamPlace},
};
use realtime_postgres::{Following, Owning, Place, Sharing};

/// The other nodes, as far as one tenant's database is concerned.
#[derive(Debug)]
pub struct NodeSharing {
    cluster: Cluster,
    /// The tenant's `external_id`.
    tenant: Arc<str>,
    slot_name: String,
}

impl NodeSharing {
    /// For the database of a tenant.
    #[must_use]
    pub fn new(cluster: Cluster, tenant: Arc<str>, slot_name: &str) -> Self {
        Self { cluster, tenant, slot_name: slot_name.to_owned() }
    }
}

impl Sharing for NodeSharing {
    fn is_connected(&self) -> bool {
        self.cluster.is_connected()
    }

    fn is_isolated(&self) -> bool {
        self.cluster.lost_for().is_some_and(|lost| lost > self.cluster.node_timeout())
    }

    fn has_others(&self) -> bool {
        self.cluster.has_others()
    }

    fn lock_name(&self) -> String {
        format!("realtime stream {} {} {}", self.cluster.prefix(), self.tenant, self.slot_name)
    }

    fn follow(&self) -> BoxFuture<'_, Result<Box<dyn Following>, String>> {
        Box::pin(async {
            let followed = self.cluster.follow(&self.tenant).await.map_err(|error| error.to_string())?;
            let following: Box<dyn Following> = Box::new(Follower(followed));
            Ok(following)
        })
    }

    fn own(&self, position: u64, about: Bytes) -> Box<dyn Owning> {
        Box::new(Owner(self.cluster.own(&self.tenant, position, about)))
    }
}

struct Follower(Followed);

impl Following for Follower {
    fn position(&self) -> u64 {
        self.0.position()
    }

    fn about(&self) -> Bytes {
        self.0.about().clone()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async { self.0.next().await.map_err(|error| error.to_string()) })
    }

    fn confirm(&self, position: u64) {
        self.0.confirm(position);
    }
}

struct Owner(Owned);

impl Owning for Owner {
    fn carry(&self, place: Place, event: Bytes) {
        let place = match place {
            Place::Begin => StreamPlace::Begin,
            Place::Within => StreamPlace::Within,
            Place::Needed(key) => StreamPlace::Needed(key),
            Place::End(position) => StreamPlace::End(position),
        };
        self.0.carry(place, &event);
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.room())
    }

    fn has_followers(&self) -> bool {
        self.0.has_followers()
    }

    fn has_all(&self) -> bool {
        self.0.has_all()
    }

    fn confirmed(&self, own: u64) -> u64 {
        self.0.confirmed(own)
    }
}
