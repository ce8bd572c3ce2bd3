//! The publication of policies is made, read and kept.

use std::time::Duration;

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::Oid;
use tokio::time::Instant;

use super::{State, failed::Failed};
use crate::{catalog, policy_publication, pool};

/// How long a table stays that nobody's policies read any more: a policy may be about to be replaced.
const UNREAD: Duration = Duration::from_secs(20);

impl State {
    /// A session reads these publications.
    pub(in crate::worker) fn reads(&mut self, publications: &[String]) {
        if self.along.reading != publications {
            self.along.reading = publications.to_vec();
            self.forget_policies();
        }
    }

    /// Makes the publication of tables that policies read, if there are any and our role may.
    pub(in crate::worker) async fn make_policy_publication(&self) -> Result<(), Failed> {
        if self.along.is_on {
            let client = pool::get(&self.pool).await?;
            policy_publication::make(&client, &self.publication).await?;
        }
        Ok(())
    }

    /// The publications that a session should read.
    pub(in crate::worker) async fn publications_to_read(&self) -> Result<Vec<String>, Failed> {
        let mut all = self.publications().unwrap_or_default().to_vec();
        if self.along.is_on {
            let client = pool::get(&self.pool).await?;
            if policy_publication::is_readable(&client, self.along.slot.as_deref()).await? {
                all.push(policy_publication::NAME.to_owned());
            }
        }
        Ok(all)
    }

    /// Whether a session that reads these publications reads that of policies where it should not, or does not where it
    /// could go on without a gap. `exists`: whether the publication does.
    pub(super) async fn is_read_wrong(
        &self,
        client: &Client,
        reading: &[String],
        exists: bool,
    ) -> Result<bool, Failed> {
        let slot = self.along.slot.as_deref();
        Ok(match reading.iter().any(|name| name == policy_publication::NAME) {
            true => !exists,
            false => {
                let wanted = exists && self.along.is_on && slot.is_some();
                wanted && policy_publication::is_readable(client, slot).await?
            }
        })
    }

    /// Reads which tables clients may watch. What is in both publications comes without the conditions of the main one
    /// until it has left the other.
    pub(super) async fn read_published(
        &mut self,
        client: &Client,
    ) -> Result<Vec<catalog::Published>, Failed> {
        let mut published = catalog::published(client, &self.publication).await?;
        if !self.along.is_on {
            return Ok(published);
        }
        let unread = self.unread();
        let tables = policy_publication::tables(client, &self.publication, &unread).await?;
        let taken_out = policy_publication::take_out(client, &tables).await?;
        let now = Instant::now();
        let before = std::mem::take(&mut self.along.tables);
        for table in tables.iter().filter(|table| !taken_out.contains(&table.oid)) {
            let since = before.get(&table.oid).copied().unwrap_or(Some(now));
            self.along.tables.insert(table.oid, since);
        }
        // Another node may have been faster.
        let mut left = before.into_keys().chain(taken_out).filter(|oid| !self.along.has(*oid)).peekable();
        if left.peek().is_some() {
            let position = policy_publication::position(client).await?;
            let left: Vec<Oid> = left.collect();
            self.along.left.extend(left.into_iter().map(|oid| (oid, position)));
        }
        self.along.is_between = tables.iter().any(|table| table.in_main && self.along.has(table.oid));
        published.retain(|table| !self.along.has(table.oid));
        Ok(published)
    }

    /// Whether tables are in both publications: to be looked at again soon.
    pub(in crate::worker) fn is_between(&self) -> bool {
        self.along.is_between
    }

    /// The tables that nobody's policies have read for a while.
    fn unread(&mut self) -> Vec<Oid> {
        if !self.engine.is_compiled() || self.along.sharing.as_ref().is_some_and(|all| all.has_others()) {
            return Vec::new();
        }
        let now = Instant::now();
        let mut unread = Vec::new();
        for (oid, since) in &mut self.along.tables {
            if self.engine.is_read(*oid) || self.live.depends_on(*oid) {
                *since = None;
            } else if *since.get_or_insert(now) + UNREAD <= now {
                unread.push(*oid);
            }
        }
        unread
    }

    /// Publishes what policies read and is not published, where our role may. Then they have to be compiled again: their
    /// answers can be kept.
    pub(super) async fn publish_lacking(&mut self) -> Result<(), Failed> {
        let now = Instant::now();
        let along = &mut self.along;
        if !along.is_on || !along.is_read() || along.lacking.is_empty() || along.retry_at > Some(now) {
            return Ok(());
        }
        let lacking: Vec<Oid> = along.lacking.iter().copied().collect();
        let client = pool::get(&self.pool).await?;
        let addable = policy_publication::addable(&client, &self.publication, &lacking).await?;
        drop(client);
        if addable.is_empty() {
            return Ok(());
        }
        let added = policy_publication::add(&self.pool, &addable).await?;
        if added.len() == addable.len() {
            self.along.retry_at = None;
            self.along.backoff.succeeded();
        } else {
            self.along.retry_at = Some(now + self.along.backoff.failed(1.0));
        }
        if !added.is_empty() {
            self.along.tables.extend(added.into_iter().map(|oid| (oid, None)));
            self.forget_policies();
        }
        Ok(())
    }
}
