//! The slow steps of a session: those that run, and those that wait for their turn.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::steps::Step;
use crate::effect::Completion;

/// Slow steps of a session that run at once; further ones wait. One client must not take all connections to the
/// database.
const MAX_STEPS: usize = 32;

/// Slow steps. Takes no memory of its own while there are none, as of an idle socket.
#[derive(Default)]
pub(super) struct Slow(Option<Box<Running>>);

#[derive(Default)]
struct Running {
    /// Slow steps, and the watch over broadcasts from the database.
    running: FuturesUnordered<Step>,
    /// How many of them are slow steps.
    steps: usize,
    /// Those that wait for their turn, in order.
    waiting: VecDeque<Step>,
}

impl Slow {
    /// Runs a step now, or when other steps have ended.
    pub(super) fn begin(&mut self, step: Step) {
        let slow = self.0.get_or_insert_default();
        if slow.steps < MAX_STEPS {
            slow.start(step);
        } else {
            slow.waiting.push_back(step);
        }
    }

    /// Runs what may last as long as the session, beside the steps.
    pub(super) fn watch(&mut self, watch: Step) {
        self.0.get_or_insert_default().running.push(watch);
    }

    /// Ready when a step has ended; then one that waits has begun. Pending for ever if there is none.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        let Some(slow) = &mut self.0 else { return Poll::Pending };
        let Poll::Ready(Some(completion)) = slow.running.poll_next_unpin(cx) else { return Poll::Pending };
        slow.ended(&completion);
        if slow.running.is_empty() {
            self.0 = None;
        }
        Poll::Ready(completion)
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

impl Running {
    fn start(&mut self, step: Step) {
        self.steps += 1;
        self.running.push(step);
    }

    fn ended(&mut self, completion: &Completion) {
        if matches!(completion, Completion::ReplicationDiffers) {
            return;
        }
        self.steps -= 1;
        if let Some(step) = self.waiting.pop_front() {
            self.start(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::effect::Ticket;

    /// A step that ends when it is told.
    fn step() -> (oneshot::Sender<()>, Step) {
        let (end, ended) = oneshot::channel::<()>();
        let ticket = Ticket { topic: "t".into(), step: 0 };
        (end, ended.map(|_| Completion::Database(ticket, Ok(()))).boxed())
    }

    #[test]
    fn some_run_at_once_and_nothing_is_kept_of_what_has_ended() {
        let mut slow = Slow::default();
        let (ends, steps): (Vec<_>, Vec<_>) = (0..MAX_STEPS + 2).map(|_| step()).unzip();
        steps.into_iter().for_each(|step| slow.begin(step));
        let ended = |slow: &mut Slow| {
            let mut cx = Context::from_waker(Waker::noop());
            std::iter::from_fn(|| slow.poll(&mut cx).is_ready().then_some(())).count()
        };
        assert_eq!(ended(&mut slow), 0);
        let mut ends = ends.into_iter().rev();
        // The last ones wait for a place, whether they could end or not.
        ends.by_ref().take(2).for_each(drop);
        assert_eq!(ended(&mut slow), 0);
        drop(ends.next());
        assert_eq!(ended(&mut slow), 3, "one that ran, and both that waited, one after the other");
        drop(ends);
        assert_eq!(ended(&mut slow), MAX_STEPS - 1);
        assert!(slow.0.is_none());
    }
}
