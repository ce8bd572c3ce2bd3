//! What is known of what a node that follows wants of the stream, and who waits for it.

use bytes::Bytes;
use realtime_changes::SubscribeRefusal;
use realtime_pgoutput::Oid;
use rustc_hash::FxHashMap;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

use crate::{SubscribeRequest, subscribe::Checked};

/// How soon after something has happened it is found out what is wanted.
const LOOK: Duration = Duration::from_secs(1);

/// What this node wants of the stream.
#[derive(Default)]
pub(super) struct Interest {
    /// Subscriptions that wait until their tables come.
    pub(super) waiting: Vec<Waiting>,
    pub(super) look_at: Option<Instant>,
    /// When tables were needed last.
    pub(super) needed: FxHashMap<Oid, Instant>,
    /// The owner is asked for what it has kept; its answer.
    pub(super) recall: Option<oneshot::Receiver<Option<Bytes>>>,
}

/// A subscription that waits.
pub(super) struct Waiting {
    pub(super) request: SubscribeRequest,
    pub(super) checked: Checked,
    pub(super) reply: oneshot::Sender<Result<(), SubscribeRefusal>>,
    /// The tables whose rows it needs.
    pub(super) tables: Vec<Oid>,
    pub(super) until: Instant,
    /// Whether the owner was asked for what it comes back for.
    pub(super) is_asked: bool,
}

impl Interest {
    /// Something has happened that may make a difference.
    pub(super) fn may_differ(&mut self) {
        self.look_at.get_or_insert_with(|| Instant::now() + LOOK);
    }

    /// The same, and it is urgent.
    pub(super) fn differs(&mut self) {
        self.look_at = Some(Instant::now());
    }

    /// The answer of the owner: what it has kept, if it says so. Cancel safe.
    pub(super) async fn recalled(&mut self) -> Option<Bytes> {
        let Some(recall) = &mut self.recall else { return std::future::pending().await };
        let answer = recall.await;
        self.recall = None;
        answer.ok().flatten()
    }

    /// When there is something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.look_at.into_iter().chain(self.waiting.iter().map(|waiting| waiting.until)).min()
    }
}
