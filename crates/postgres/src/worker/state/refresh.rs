//! What the log does not tell: which tables are published, and rights that change without a table being altered.
//!
//! Such changes are commits like others, so nothing is asked while the log stands still.

use std::sync::Arc;

use realtime_changes::SubscribeRefusal;
use realtime_pgoutput::Oid;

use super::{Failed, State};
use crate::{
    Notice, SubscribeRequest,
    catalog::{self, Published},
    pool, subscribe,
};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Refreshed {
    /// There is something to watch.
    Published,
    /// The publication is gone, or has no tables.
    Unpublished,
}

impl State {
    /// Looks which tables are published and tells the channels for which that makes a difference. Subscriptions stay
    /// as they are: they say what is wanted, not what there is. `running`: whether there is a session. Without one
    /// nobody is told to be subscribed.
    pub(in crate::worker) async fn refresh(&mut self, running: bool) -> Result<Refreshed, Failed> {
        self.flush().await;
        let client = pool::get(&self.pool).await?;
        let published = catalog::published(&client, &self.publication).await?;
        if published != self.published {
            let before = std::mem::replace(&mut self.published, published);
            for watcher in self.watchers.values() {
                let notice = difference(&watcher.request, &before, &self.published);
                if let Some(notice) = notice.filter(|notice| running || *notice != Notice::Subscribed) {
                    self.sink.notice(watcher.request.channel, notice);
                }
            }
        }
        drop(client);
        if running {
            self.revive().await?;
            self.recheck_rights().await?;
        }
        Ok(if self.published.is_empty() { Refreshed::Unpublished } else { Refreshed::Published })
    }

    /// Tells every channel that has something to watch that it is subscribed.
    pub(in crate::worker) fn confirm_all(&self) {
        for watcher in self.watchers.values() {
            if missing(&watcher.request, &self.published).is_none() {
                self.sink.notice(watcher.request.channel, Notice::Subscribed);
            }
        }
    }

    /// Whether a channel that waits could be subscribed.
    pub(in crate::worker) fn can_revive(&self) -> bool {
        self.vain.values().any(|request| missing(request, &self.published).is_none())
    }

    /// Subscribes the channels whose tables have appeared.
    async fn revive(&mut self) -> Result<(), Failed> {
        let ready: Vec<Arc<SubscribeRequest>> = self
            .vain
            .values()
            .filter(|request| missing(request, &self.published).is_none())
            .map(Arc::clone)
            .collect();
        for request in ready {
            let outcome = match subscribe::check(&self.pool, &self.publication, &request).await {
                Ok(literals) => self.add((*request).clone(), literals).await,
                Err(refusal) => Err(refusal),
            };
            let notice = match outcome {
                Ok(()) => Notice::Subscribed,
                Err(SubscribeRefusal::NoTable(_) | SubscribeRefusal::Unavailable(_)) => continue,
                Err(refusal) => {
                    self.vain.remove(&request.channel);
                    Notice::Error(refusal.to_string())
                }
            };
            self.sink.notice(request.channel, notice);
        }
        Ok(())
    }

    /// Asks again what the roles may see: attributes and memberships of roles change without a table being altered.
    async fn recheck_rights(&mut self) -> Result<(), Failed> {
        let mut wanted: Vec<(Arc<str>, Oid)> = Vec::new();
        for (oid, known) in &self.known {
            wanted.extend(known.access.keys().map(|role| (Arc::clone(role), *oid)));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let client = pool::get(&self.pool).await?;
        let pairs: Vec<(&str, Oid)> = wanted.iter().map(|(role, oid)| (&**role, *oid)).collect();
        let accesses = catalog::role_accesses(&client, &pairs).await?;
        drop(client);
        let mut altered: Vec<Oid> = Vec::new();
        for ((role, oid), access) in wanted.iter().zip(&accesses) {
            let known = self.known.get(oid).and_then(|known| known.access.get(role));
            if known.map(|access| &**access) != access.as_ref() && !altered.contains(oid) {
                altered.push(*oid);
            }
        }
        for oid in altered {
            if let Some(relation) = self.known.get(&oid).map(|known| Arc::clone(&known.relation)) {
                self.load(relation).await?;
            }
        }
        Ok(())
    }
}

/// The first subscription that no published table serves, as messages show it.
fn missing(request: &SubscribeRequest, published: &[Published]) -> Option<String> {
    let serves = |(_, spec): &&(u32, Arc<realtime_changes::SubscriptionSpec>)| {
        !published.iter().any(|table| spec.matches_name(&table.schema, &table.name))
    };
    request.subscriptions.iter().find(serves).map(|(_, spec)| spec.context())
}

/// What a channel is told when the published tables change: that one of its subscriptions has nothing to watch any
/// more, or that it is subscribed, to more or to less than before.
fn difference(request: &SubscribeRequest, before: &[Published], after: &[Published]) -> Option<Notice> {
    let tables = |published: &[Published]| -> Vec<Oid> {
        let meant = published.iter().filter(|table| request.names(&table.schema, &table.name));
        meant.map(|table| table.oid).collect()
    };
    if tables(before) == tables(after) {
        return None;
    }
    Some(match missing(request, after) {
        Some(context) => Notice::Error(SubscribeRefusal::NoTable(context).to_string()),
        None => Notice::Subscribed,
    })
}

#[cfg(test)]
mod tests {
    use realtime_changes::{ChannelId, SubscriptionSpec};
    use serde_json::json;

    use super::*;

    fn request(parameters: &[serde_json::Value]) -> SubscribeRequest {
        let spec = |value: &serde_json::Value| {
            let spec = SubscriptionSpec::parse(value.as_object().unwrap()).unwrap();
            (1, Arc::new(spec))
        };
        SubscribeRequest {
            channel: ChannelId(1),
            role: "anon".into(),
            claims: "{}".into(),
            subscriptions: parameters.iter().map(spec).collect(),
        }
    }

    fn published(names: &[&str]) -> Vec<Published> {
        let table = |(oid, name): (u32, &&str)| Published {
            oid,
            schema: "public".to_owned(),
            name: (*name).to_owned(),
        };
        (1..).zip(names).map(table).collect()
    }

    /// postgres_changes 106, 109
    #[test]
    fn channels_are_told_what_concerns_them() {
        let (a, ab) = (published(&["a"]), published(&["a", "b"]));
        let of_a = request(&[json!({"schema": "public", "table": "a"})]);
        let of_b = request(&[json!({"table": "a"}), json!({"table": "b", "event": "INSERT"})]);
        let of_all = request(&[json!({"schema": "*"})]);
        assert_eq!(difference(&of_a, &a, &ab), None);
        assert_eq!(difference(&of_b, &a, &ab), Some(Notice::Subscribed));
        assert_eq!(difference(&of_all, &a, &ab), Some(Notice::Subscribed));
        assert_eq!(difference(&of_all, &ab, &a), Some(Notice::Subscribed));
        let Some(Notice::Error(text)) = difference(&of_b, &ab, &a) else { panic!("it is told") };
        assert!(
            text.ends_with("[event: INSERT, schema: public, table: b, filters: [], select: nil]"),
            "{text}"
        );
        assert!(matches!(difference(&of_all, &a, &[]), Some(Notice::Error(_))));
    }
}
