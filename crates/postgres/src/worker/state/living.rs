//! Live results beside the stream of changes.

use std::{collections::HashSet, sync::Arc};

use realtime_changes::{ChannelId, SubscribeRefusal};
use realtime_pgoutput::Oid;
use tokio::sync::oneshot;

use super::{
    State,
    beside::Late,
    failed::Failed,
    lanes,
    live::{Binding, Event, LiveResult},
    self_check,
};
use crate::{
    SubscribeRequest, catalog,
    live::{self, Bounds, PolicyTables},
    live_settings, pool,
    request::Found,
};

/// What has happened beside the stream.
#[derive(Debug)]
pub(in crate::worker) enum Answer {
    /// A filter that takes long was answered.
    Filter(lanes::Answer),
    /// A party that takes long was asked, or its lane is to be looked at.
    Beside(Late),
    /// A verdict that compiled policies gave was compared with the database's.
    Verdict(self_check::Found),
    /// Something about live results.
    Live(Event),
}

impl State {
    /// What happens next beside the stream; never while nothing can. Cancel safe.
    pub(in crate::worker) async fn answer(&mut self) -> Answer {
        tokio::select! {
            answer = self.aside.answer() => Answer::Filter(answer),
            late = self.beside.next() => Answer::Beside(late),
            found = self.self_check.found() => Answer::Verdict(found),
            event = self.live.event() => Answer::Live(event),
        }
    }

    /// Takes it.
    pub(in crate::worker) async fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Filter(answer) => self.filter_answered(answer).await,
            Answer::Beside(late) => self.happened_beside(late).await,
            Answer::Verdict(found) => self.compared(found).await,
            Answer::Live(event) => {
                self.live.happens(event);
                self.publish_for_live().await;
            }
        }
    }

    /// Publishes what live results wait for, where our role may.
    async fn publish_for_live(&mut self) {
        let lacking = self.live.lacks();
        if lacking.is_empty() {
            return;
        }
        self.along.lacks(lacking);
        if let Err(error) = self.publish_lacking().await {
            tracing::debug!(%error, "tables that policies read are not published");
        }
        let along = &self.along;
        self.live.were_published(|oid| along.is_read() && along.has(oid));
    }

    /// The worker ends. What clients have goes to the next handle of the database, if there is one.
    pub(in crate::worker) async fn hand_over_live(&mut self) {
        self.live.hand_over().await;
    }

    /// Which results are kept, for operators.
    pub(in crate::worker) fn live_results(&self) -> Vec<LiveResult> {
        self.live.report()
    }

    /// Begins to read the results that are due.
    pub(in crate::worker) fn begin_live(&mut self) {
        let policies = if self.along.is_read() { PolicyTables::Unpublished } else { PolicyTables::Published };
        self.live.begin(&self.judging.passed, policies);
    }

    /// The publication has no tables any more, and the log is not read. Live results lose their rows.
    pub(in crate::worker) fn live_unpublished(&mut self) {
        self.live.open();
    }

    /// The rows of a channel leave: it was refused.
    pub(in crate::worker) fn refuse(&mut self, channel: ChannelId, reply: oneshot::Sender<()>) {
        self.live.refuse(channel, reply);
    }

    /// Whether the database orders texts by their bytes. Asked once.
    pub(super) async fn ask_collation(&mut self) -> Result<bool, SubscribeRefusal> {
        if let Some(known) = self.collation_is_c {
            return Ok(known);
        }
        let asked = async {
            let client = pool::get(&self.pool).await?;
            Ok::<_, Failed>(catalog::collation_is_c(&client).await?)
        };
        let is_c = asked.await.map_err(|error| SubscribeRefusal::Unavailable(error.told()))?;
        self.collation_is_c = Some(is_c);
        Ok(is_c)
    }

    /// What live results are allowed.
    pub(super) fn live_bounds(&self) -> Bounds {
        let policies = if self.along.is_on { PolicyTables::Unpublished } else { PolicyTables::Published };
        Bounds::of(self.live.settings(), policies)
    }

    /// Publishes tables that only policies read, so that the log tells of them before results are read.
    pub(super) async fn publish_for(&mut self, found: &[Found]) -> Result<(), SubscribeRefusal> {
        let lacking =
            || found.iter().flat_map(|found| found.source.lacking.iter().map(move |lack| (found, lack)));
        let is_lacking = |along: &super::Along, oid: Oid| !along.is_read() || !along.has(oid);
        if !lacking().any(|(_, (oid, _))| is_lacking(&self.along, *oid)) {
            return Ok(());
        }
        self.along.lacks(lacking().map(|(_, (oid, _))| *oid));
        let published = self.publish_lacking().await;
        published.map_err(|error| SubscribeRefusal::Unavailable(error.told()))?;
        match lacking().find(|(_, (oid, _))| is_lacking(&self.along, *oid)) {
            Some((found, (_, refusal))) => Err(refusal.told(found.spec.context())),
            None => Ok(()),
        }
    }

    /// The live bindings of a request; an error if there are too many results.
    pub(super) fn live_bindings(
        &self,
        request: &SubscribeRequest,
        found: Vec<Found>,
    ) -> Result<Vec<(Binding, Arc<live::Source>)>, SubscribeRefusal> {
        let mut seen = HashSet::new();
        let context = found.first().map(|found| found.spec.context());
        let new = found.into_iter().filter(|found| seen.insert(found.id));
        let bindings: Vec<_> = new
            .map(|Found { id, spec, source, .. }| {
                let (role, claims) = (Arc::clone(&request.role), Arc::clone(&request.claims));
                (Binding::new(request.channel, id, spec, role, claims), source)
            })
            .collect();
        if self.live.has_room(&bindings) {
            return Ok(bindings);
        }
        let message = "too many live results of this tenant on this node (LIVE_MAX_RESULTS)";
        Err(SubscribeRefusal::raised(context.unwrap_or_default(), message))
    }

    /// Asks the catalog what is new about what results depend on.
    pub(super) async fn recheck_live(&mut self) -> Result<(), Failed> {
        if self.live.is_empty() {
            return Ok(());
        }
        let relations: Vec<Oid> = self.live.relations();
        let client = pool::get(&self.pool).await?;
        let shared = live_settings::print(&client).await?;
        let prints = live::prints(&client, &self.publication, &relations).await?;
        drop(client);
        // The log describes a table with other policies when a row of it comes. Results depend on what they read before.
        if self.live.learn(shared, prints) {
            self.compile_anew();
        }
        Ok(())
    }
}
