//! Rows of live results: who has them when a transaction has passed.

use std::sync::Arc;

use realtime_changes::Action;
use realtime_pgoutput::{
    Oid,
    message::{OldTuple, Tuple},
};

use super::{State, judging::now, rows::MAX_CALLS};
use crate::failpoints::{self, Point};

impl State {
    /// A row of a table has changed: live results may have it, or depend on it.
    pub(super) fn touch_live(
        &mut self,
        action: Action,
        oid: Oid,
        new: Option<&Tuple>,
        old: Option<&OldTuple>,
    ) {
        self.live.tell_parties(&mut self.engine);
        if !self.live.may_concern(oid, &self.engine) {
            return;
        }
        let known = self.known.get(&oid).map(|known| &known.relation);
        match known.or_else(|| self.judging.relations.get(&oid)) {
            Some(relation) => self.live.touch(oid, relation, action, (new, old)),
            None => self.live.touch_all(oid),
        }
    }

    /// All rows of a table may have changed.
    pub(super) fn touch_all_live(&mut self, oid: Oid) {
        self.live.tell_parties(&mut self.engine);
        if self.live.may_concern(oid, &self.engine) {
            self.live.touch_all(oid);
        }
    }

    /// Live results take what the transaction that is being read has changed: all of it has passed.
    pub(in crate::worker) async fn commit_live(&mut self) {
        let Some(transaction) = self.transaction else { return };
        if failpoints::reach(Point::LiveLooked).await {
            self.live.forget_touched();
        }
        for oid in self.live.ends(&mut self.engine) {
            self.ready(oid).await;
        }
        let mut commit = self.live.look(transaction.xid, transaction.commit_time, &self.engine);
        for oid in commit.judged_tables() {
            let Some(relation) = self.known.get(&oid).map(|known| Arc::clone(&known.relation)) else {
                continue;
            };
            for _ in 0..MAX_CALLS {
                commit.judged = 0;
                let needs = self.live.judge(&mut commit, (oid, &relation), &self.engine, now());
                if needs.is_empty() || !self.answer_calls(oid, needs).await {
                    break;
                }
            }
            self.count_judged(oid, commit.judged);
        }
        self.live.take(commit);
    }
}
