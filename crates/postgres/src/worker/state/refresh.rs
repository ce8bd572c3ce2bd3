//! What the log does not tell: which tables are published, and rights that change without a table being altered.
//!
//! Such changes are commits like others, so nothing is asked while the log stands still.

use std::{collections::HashMap, sync::Arc};

use realtime_changes::{NamePattern, SubscribeRefusal};
use realtime_pgoutput::Oid;

use super::{State, failed::Failed};
use crate::{
    Notice, SubscribeRequest,
    catalog::{self, Published},
    live, policy_publication, pool, publication, subscribe,
};

/// Names that are looked for among the views at once: clients choose them.
const MAX_SOUGHT: usize = 100;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Refreshed {
    /// There is something to watch.
    Published,
    /// The publication is gone, or has no tables.
    Unpublished,
    /// Other publications exist than those that the session reads. Nothing else was looked at.
    Differs,
}

impl State {
    /// Looks which tables are published and tells the channels for which that makes a difference. Subscriptions stay
    /// as they are: they say what is wanted, not what there is. `reading`: the publications that the session
    /// reads, if there is one. Without one nobody is told to be subscribed.
    pub(in crate::worker) async fn refresh(
        &mut self,
        reading: Option<&[String]>,
    ) -> Result<Refreshed, Failed> {
        self.flush().await;
        let client = pool::get(&self.pool).await?;
        let names = [&*self.publication, publication::NAME, policy_publication::NAME];
        let mut publications = catalog::publications(&client, &names).await?;
        let all = publications.len();
        if self.publication != policy_publication::NAME {
            publications.retain(|name| name != policy_publication::NAME);
        }
        let has_policies = publications.len() < all;
        let differs = match reading {
            None => false,
            Some(reading) => {
                let others = reading.iter().filter(|name| *name != policy_publication::NAME || !has_policies);
                !others.eq(&publications) || self.is_read_wrong(&client, reading, has_policies).await?
            }
        };
        self.publications = Some(publications);
        if differs {
            return Ok(Refreshed::Differs);
        }
        let running = reading.is_some();
        let published = self.read_published(&client).await?;
        self.shares_plans = !catalog::has_immutable_functions(&client).await?;
        if published != self.published {
            self.published = published;
            self.differs = true;
        }
        self.find_dropped(&client).await?;
        let differs = std::mem::take(&mut self.differs);
        for watcher in self.watchers.values_mut().filter(|_| differs) {
            let tables = watcher.request.tables(&self.published);
            if tables == watcher.tables {
                continue;
            }
            watcher.tables = tables;
            let notice = match missing(&watcher.request, &self.published) {
                Some(context) => Notice::refusal(&SubscribeRefusal::NoTable(context)),
                None if running => Notice::Subscribed,
                None => continue,
            };
            self.sink.notice(watcher.request.channel, notice);
        }
        drop(client);
        if running {
            self.recheck_definitions().await?;
            self.revive().await?;
            self.recheck_rights().await?;
            self.recheck_types().await?;
            self.publish_lacking().await?;
            self.recheck_policies().await?;
            self.revive_lanes().await;
            self.recheck_live().await?;
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
        // What is live may mean something that reads the published tables.
        !self.published.is_empty()
            && self.vain.values().any(|request| missing(&request.plain(), &self.published).is_none())
    }

    /// Subscribes the channels whose tables have appeared.
    async fn revive(&mut self) -> Result<(), Failed> {
        for request in self.ready_requests().await {
            let outcome =
                match subscribe::check(&self.pool, &self.publication, self.live_bounds(), &request, None)
                    .await
                {
                    Ok(checked) => self.add((*request).clone(), checked).await,
                    Err(refusal) => Err(refusal),
                };
            let notice = match outcome {
                Ok(()) => Notice::Subscribed,
                Err(SubscribeRefusal::NoTable(_) | SubscribeRefusal::Unavailable(_)) => continue,
                Err(refusal) => {
                    self.vain.remove(&request.channel);
                    Notice::refusal(&refusal)
                }
            };
            self.sink.notice(request.channel, notice);
        }
        Ok(())
    }

    /// The channels that wait and lack nothing any more. What a live binding means need not be published under its name, and
    /// a view never is.
    async fn ready_requests(&self) -> Vec<Arc<SubscribeRequest>> {
        let mut views: HashMap<(&str, &str), bool> = HashMap::new();
        let mut ready = Vec::new();
        'requests: for request in self.vain.values() {
            for (_, spec) in request.subscriptions.iter().filter(|(_, spec)| spec.live.is_none()) {
                if self.published.iter().any(|table| spec.matches_name(&table.schema, &table.name)) {
                    continue;
                }
                let (NamePattern::Exact(schema), NamePattern::Exact(table)) = (&spec.schema, &spec.table)
                else {
                    continue 'requests;
                };
                let is_view = match views.get(&(&**schema, &**table)) {
                    Some(is_view) => *is_view,
                    // The others are looked for when the log has grown again.
                    None if views.len() >= MAX_SOUGHT => false,
                    None => {
                        let is_view = live::is_view(&self.pool, spec).await.unwrap_or(false);
                        views.insert((schema, table), is_view);
                        is_view
                    }
                };
                if !is_view {
                    continue 'requests;
                }
            }
            ready.push(Arc::clone(request));
        }
        ready
    }

    /// Asks again what the roles may see: attributes and memberships of roles change without a table being altered.
    async fn recheck_rights(&mut self) -> Result<(), Failed> {
        let mut wanted: Vec<(Arc<str>, Oid)> = Vec::new();
        for (oid, known) in self.known.iter().filter(|(oid, _)| !self.gone.contains(**oid)) {
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
                // Repeated until it works: nobody is attached yet to a table that was just read.
                self.relation(relation).await;
            }
        }
        Ok(())
    }
}

impl State {
    /// Asks again what tables and their types are called, and what else the log does not tell of: a schema, a type or a
    /// domain is renamed without its tables being touched, a root without its partitions.
    async fn recheck_definitions(&mut self) -> Result<(), Failed> {
        let known: Vec<Oid> = self.known.keys().copied().collect();
        if known.is_empty() {
            return Ok(());
        }
        let client = pool::get(&self.pool).await?;
        let prints: HashMap<Oid, i64> = catalog::fingerprints(&client, &known).await?.into_iter().collect();
        drop(client);
        for oid in known {
            let Some(known) = self.known.get(&oid) else { continue };
            // What is gone was told by the publication.
            if prints.get(&oid).is_some_and(|print| known.fingerprint != Some(*print)) {
                let relation = Arc::clone(&known.relation);
                // Repeated until it works: nobody is attached yet to a table that was just read.
                self.relation(relation).await;
            }
        }
        Ok(())
    }

    /// Asks again what types are made of: they are altered without their tables being touched.
    async fn recheck_types(&mut self) -> Result<(), Failed> {
        let columns = self.known.values().flat_map(|known| &known.relation.columns);
        let wanted: Vec<Oid> = columns.map(|column| column.type_oid).collect();
        let mut types = self.types.clone();
        types.forget_alterable(wanted.iter().copied());
        if types.missing(wanted.iter().copied()).is_empty() {
            return Ok(());
        }
        let client = pool::get(&self.pool).await?;
        catalog::load_types(&client, &mut types, wanted).await?;
        self.types = types;
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
            generation: crate::Generations::default().next(),
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
    fn what_is_served_and_what_is_missing() {
        let (a, ab) = (published(&["a"]), published(&["a", "b"]));
        let of_a = request(&[json!({"schema": "public", "table": "a"})]);
        let of_both = request(&[json!({"table": "a"}), json!({"table": "b", "event": "INSERT"})]);
        let of_all = request(&[json!({"schema": "*"})]);
        for (request, of_one, of_two) in
            [(&of_a, vec![1], vec![1]), (&of_both, vec![1], vec![1, 2]), (&of_all, vec![1], vec![1, 2])]
        {
            assert_eq!((request.tables(&a), request.tables(&ab)), (of_one, of_two));
            assert_eq!(missing(request, &ab), None);
            assert!(missing(request, &[]).is_some());
        }
        let context = missing(&of_both, &a).unwrap();
        assert_eq!(context, "[event: INSERT, schema: public, table: b, filters: [], select: nil]");
    }
}
