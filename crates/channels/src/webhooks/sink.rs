//! From the log to the queue.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use realtime_codes::ErrorCode;
use realtime_pgoutput::{Lsn, Position};
use realtime_postgres::{HandOver, LostRow, RowSink, TakenRow};
use tokio::sync::oneshot;

use super::{
    queue::{Event, Outstanding, Queue},
    state::HookState,
};

/// What the reader of a webhook hands to.
pub(super) struct Sink {
    queue: Arc<Queue>,
    state: Arc<HookState>,
    /// The transaction that comes, if something of it waits.
    transaction: Option<Coming>,
}

struct Coming {
    commit: Lsn,
    outstanding: Arc<Outstanding>,
    done: oneshot::Receiver<()>,
}

impl Sink {
    pub(super) fn new(queue: Arc<Queue>, state: Arc<HookState>) -> Self {
        Self { queue, state, transaction: None }
    }
}

impl RowSink for Sink {
    fn begins(&mut self, start: Lsn, resumed: bool) {
        if !resumed {
            tracing::warn!(
                code = ErrorCode::WebhookGap.as_str(),
                tenant = self.state.tenant(),
                webhook = self.state.name(),
                position = %start,
                "a webhook begins here: what was committed before is not posted"
            );
        }
        self.state.begins(start, resumed);
    }

    fn waits(&mut self, code: &'static str) {
        self.state.waits(code);
    }

    fn confirmed(&mut self, position: Lsn) {
        self.state.confirmed(position);
    }

    fn transaction(&mut self, commit: Lsn) {
        if self.transaction.as_ref().is_some_and(|coming| coming.commit != commit) {
            // It broke off and never came again.
            self.transaction = None;
        }
        if self.transaction.is_none() {
            let (sender, done) = oneshot::channel();
            let outstanding = Arc::new(Outstanding { _done: sender });
            self.transaction = Some(Coming { commit, outstanding, done });
        }
    }

    fn row(&mut self, row: TakenRow) {
        let Some(coming) = &self.transaction else { return };
        let event =
            Event { position: row.position, data: row.data, _transaction: Arc::clone(&coming.outstanding) };
        self.state.wait(self.queue.push(row.key, row.old_key, event));
    }

    fn lost(&mut self, position: Position, why: LostRow) {
        let code = match why {
            LostRow::TableGone => "TableGone",
            LostRow::Filter => "Filter",
            LostRow::Truncated => ErrorCode::Truncated.as_str(),
        };
        self.state.dead_letter(position, code, "it cannot be posted");
    }

    fn committed(&mut self) -> Option<HandOver> {
        let Coming { outstanding, done, .. } = self.transaction.take()?;
        if Arc::strong_count(&outstanding) == 1 {
            return None;
        }
        drop(outstanding);
        Some(Box::pin(async move {
            let _ = done.await;
        }))
    }

    fn relieve(&mut self) -> Option<BoxFuture<'_, ()>> {
        self.queue.relieve()
    }
}
