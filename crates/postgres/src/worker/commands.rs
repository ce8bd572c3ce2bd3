//! What a worker does for those who ask.

use realtime_changes::SubscribeRefusal;
use tokio::time::Instant;

use super::{Worker, command::Command, running::REFRESH};
use crate::{
    SubscribeRequest,
    subscribe::{Checked, overtaken},
};

impl Worker {
    pub(super) async fn command(&mut self, command: Command) {
        self.interest.may_differ();
        match command {
            Command::Unsubscribe(channel) => {
                self.state.remove(channel);
                self.perhaps_idle();
            }
            Command::Watching(reply) => {
                let _ = reply.send(self.state.watching());
            }
            Command::Recall(recall, reply) => {
                let _ = reply.send(self.state.kept(&recall));
            }
            Command::LiveResults(reply) => {
                let _ = reply.send(self.state.live_results());
            }
            Command::Refuse(request, reply) => {
                // A later request counts.
                if request.generation.is_current() {
                    self.state.refuse(request.channel, reply);
                }
            }
            Command::EndSession(reply) => {
                self.end_by_order().await;
                let _ = reply.send(());
            }
            Command::Wait(request, reply) => {
                self.state.wait(request);
                // The caller may already be gone; the end of its channel is a command of its own.
                let _ = reply.send(());
                if let Some(running) = &mut self.running {
                    // The table may have appeared since it was missed.
                    running.refresh_at.get_or_insert(running.refreshed + REFRESH);
                    self.perhaps_idle();
                } else if !self.wants_session() {
                    self.look_later();
                }
            }
            Command::Subscribe { request, checked, reply } if self.must_wait(&request, &checked) => {
                self.wait_for_rows(request, checked, reply);
            }
            Command::Subscribe { request, checked, reply } => {
                let outcome = self.subscribe(request, checked).await;
                let subscribed = outcome.is_ok();
                // The caller may already be gone; the end of its channel is a command of its own.
                if reply.send(outcome).is_err() && subscribed {
                    tracing::debug!("channel closed before it was subscribed");
                }
            }
        }
    }

    /// Somebody may have been the last who wanted the session.
    fn perhaps_idle(&mut self) {
        if !self.wants_session() {
            self.idle_since.get_or_insert_with(Instant::now);
        }
    }

    /// Subscribes when a session runs: only then will every later commit come through it.
    pub(super) async fn subscribe(
        &mut self,
        request: SubscribeRequest,
        checked: Checked,
    ) -> Result<(), SubscribeRefusal> {
        if !request.generation.is_current() {
            return Err(overtaken());
        }
        if self.running.is_none() {
            self.resume().await.map_err(|error| SubscribeRefusal::Unavailable(error.told()))?;
        }
        self.idle_since = None;
        let channel = request.channel;
        self.state.add(request, checked).await?;
        self.tell_beginning(channel);
        Ok(())
    }
}
