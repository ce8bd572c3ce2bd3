//! How nodes share the stream of a tenant's database: `realtime_cluster` does what `realtime_postgres` asks for.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use realtime_cluster::{
    Cluster,
    stream::{Followed, Owned, Part},
};
use realtime_postgres::{Following, Owning, Place, Sharing};

/// The other nodes, as one stream of a tenant's database sees them.
#[derive(Debug)]
pub struct NodeSharing {
    cluster: Cluster,
    /// Names the stream among nodes.
    stream: Arc<str>,
    lock_name: String,
    /// Whether all nodes follow the stream, and not only those with users of the tenant.
    for_everyone: bool,
}

impl NodeSharing {
    /// The stream of a tenant's database.
    #[must_use]
    pub fn new(cluster: Cluster, tenant: Arc<str>, slot_name: &str) -> Self {
        let lock_name = format!("realtime stream {} {tenant} {slot_name}", cluster.prefix());
        Self { cluster, stream: tenant, lock_name, for_everyone: false }
    }

    /// The stream that the first generation reads from the same database. It has other publications and another slot.
    #[must_use]
    pub fn of_first_generation(cluster: Cluster, tenant: &str, slot_name: &str) -> Self {
        let lock_name = format!("realtime first generation {} {tenant} {slot_name}", cluster.prefix());
        // No tenant has this name: names are kept in databases, whose texts cannot contain this character.
        let stream = format!("{tenant}\0first generation").into();
        Self { cluster, stream, lock_name, for_everyone: true }
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
        self.lock_name.clone()
    }

    fn follow(&self) -> BoxFuture<'_, Result<Box<dyn Following>, String>> {
        Box::pin(async {
            let followed = self.cluster.follow(&self.stream).await.map_err(|error| error.to_string())?;
            let following: Box<dyn Following> = Box::new(Follower(followed));
            Ok(following)
        })
    }

    fn own(&self, position: u64, about: Bytes) -> Box<dyn Owning> {
        Box::new(Owner {
            owned: self.cluster.own(&self.stream, position, about),
            for_everyone: self.for_everyone,
        })
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

struct Owner {
    owned: Owned,
    for_everyone: bool,
}

impl Owning for Owner {
    fn carry(&self, place: Place, event: Bytes) {
        let place = match place {
            Place::Begin => Part::Begin,
            Place::Within => Part::Within,
            Place::Needed(key) => Part::Needed(key),
            Place::End(position) => Part::End(position),
        };
        self.owned.carry(place, &event);
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.owned.room())
    }

    fn has_followers(&self) -> bool {
        self.owned.has_followers()
    }

    fn has_all(&self) -> bool {
        if self.for_everyone { self.owned.has_everyone() } else { self.owned.has_all() }
    }

    fn confirmed(&self, own: u64) -> u64 {
        self.owned.confirmed(own)
    }
}
