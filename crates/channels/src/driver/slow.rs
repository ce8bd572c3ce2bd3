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
