//! Rows whose filters take the database long: they wait in lanes beside the stream.

use realtime_changes::{Asked, ChannelId, SubscriptionKey};
use realtime_pgoutput::Oid;

use super::{
    State,
    judging::now,
    lanes::{Answer, Failure, Name, Row},
    waiting::Waiting,
};
use crate::Notice;

/// What a channel is told when a filter takes too long.
const TOO_SLOW: &str = "FilterTooSlow";

impl State {
    /// Puts a row into the lane of a subscription, with what has to be asked about it.
    pub(super) fn put_aside(&mut self, key: SubscriptionKey, waiting: &Waiting, asked: Option<Asked>) {
        let name = (waiting.relation.oid, key);
        if !self.aside.push(&self.pool, name, waiting, asked) {
            self.withheld_aside(name, false, "more wait for the answer than are kept");
        }
    }

    /// Takes an answer: delivers the row, or not.
    pub(super) async fn filter_answered(&mut self, Answer { name, outcome }: Answer) {
        let Some(Row { kept, then, .. }) = self.aside.pop(&self.pool, name) else { return };
        match outcome {
            Ok(false) => {}
            Ok(true) => {
                // Other changes for its channel have passed meanwhile.
                let waiting = Waiting { place: None, ..kept.waiting.again() };
                let matched = self.engine.match_one(&waiting.change(), name.1, now());
                self.route(waiting, matched).await;
            }
            Err(Failure { text, slow: true }) => self.withheld_aside(name, true, &text),
            Err(failure) => self.end(name.0, name.1, &failure),
        }
        if !then.is_empty() {
            self.flush_judged().await;
            self.release(then, true);
        }
    }

    fn withheld_aside(&mut self, name: Name, slow: bool, why: &str) {
        let Some(channel) = self.engine.channel(name.0, name.1) else { return };
        if self.aside.is_news(name, slow) {
            let table = self.known.get(&name.0).map(|known| known.name());
            let role = self.watchers.get(&channel).map(|watcher| &*watcher.request.role);
            tracing::warn!(
                code = TOO_SLOW,
                table,
                role,
                reason = why,
                "a filter takes too long; withholding rows from its channel"
            );
            let text = format!("A filter takes too long, changes are withheld: {why}");
            self.sink.notice(channel, Notice::warning(TOO_SLOW, text));
        }
    }

    /// The subscriptions of a table, or of all, begin anew: what waits in their lanes is not delivered, and told.
    pub(super) fn clear_lanes(&mut self, of: Option<Oid>) {
        self.clear_beside(of);
        let (waited, then) = self.aside.forget_all(of);
        let mut channels: Vec<ChannelId> =
            waited.iter().filter_map(|name| self.engine.channel(name.0, name.1)).collect();
        channels.sort_unstable();
        channels.dedup();
        for channel in channels {
            let text = "A filter takes too long: changes that waited for it were not delivered";
            self.sink.notice(channel, Notice::gap(TOO_SLOW, text));
        }
        self.release(then, false);
    }
}
