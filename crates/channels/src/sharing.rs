//! How nodes share the stream of a tenant's database: `realtime_cluster` does what `realtime_postgres` asks for.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use realtime_cluster::{
    Cluster,
    stream::{self, Followed, Owned, Part},
};
use realtime_pgoutput::{Oid, Position};
use realtime_postgres::{Carried, Following, Owning, Place, Recall, Sharing};
use serde_json::json;
use tokio::time::Duration;

/// How long the node that reads may take to say what it has kept: joins wait for it.
const RECALL: Duration = Duration::from_secs(3);

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
            let (cluster, stream) = (self.cluster.clone(), Arc::clone(&self.stream));
            let following: Box<dyn Following> = Box::new(Follower { followed, cluster, stream });
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

struct Follower {
    followed: Followed,
    cluster: Cluster,
    stream: Arc<str>,
}

/// The question for what the node that reads a tenant's database has kept, as nodes put it to each other.
#[must_use]
pub fn question(tenant: &str, recall: &Recall) -> Bytes {
    let Position { commit, number } = recall.after;
    let asked = json!({"tenant": tenant, "tables": recall.tables, "commit": commit.0, "number": number});
    json!({ "changes": asked }).to_string().into()
}

impl Following for Follower {
    fn position(&self) -> u64 {
        self.followed.position()
    }

    fn about(&self) -> Bytes {
        self.followed.about().clone()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Carried, String>> {
        Box::pin(async {
            let carried = self.followed.next().await.map_err(|error| error.to_string())?;
            Ok(match carried {
                stream::Carried::Event(event) => Carried::Event(event),
                stream::Carried::Skipped { key, events } => Carried::Skipped { relation: key, rows: events },
                stream::Carried::Granted => Carried::Granted,
            })
        })
    }

    fn can_leave_out(&self) -> bool {
        self.followed.sorted_by().is_some()
    }

    fn want(&mut self, wanted: Vec<Oid>, unwanted: Vec<Oid>) -> bool {
        self.followed.want(wanted, unwanted)
    }

    fn recall(&self, recall: &Recall) -> Option<BoxFuture<'static, Result<Bytes, String>>> {
        let owner = self.followed.sorted_by()?;
        let (cluster, question) = (self.cluster.clone(), question(&self.stream, recall));
        Some(Box::pin(async move {
            cluster.ask(owner, question, RECALL).await.map_err(|error| error.to_string())
        }))
    }

    fn confirm(&self, position: u64) {
        self.followed.confirm(position);
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
            Place::Row(relation) => Part::Of(relation),
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
