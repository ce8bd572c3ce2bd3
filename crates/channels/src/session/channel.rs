//! A joined channel of a socket: its parts, and what happens between them. Each part has its own state.

use std::sync::Arc;

use realtime_changes::SubscribeRefusal;
use realtime_cluster::Interest;
use realtime_codes::ErrorCode;
use realtime_hub::{Holding, Membership};
use realtime_protocol::{Ref, SystemMessage, encode};
use tokio::time::Instant;

use super::{
    policies::{Policies, Question},
    presence::Presence,
    ready::{Ready, Replicating},
    rows::{Rows, Wanted},
    stop::{Stop, TOO_MANY_PRESENCE},
    tokens::Tokens,
    waiting::Waiting,
};
use crate::{client::Client, effect::Effect};

mod database;
mod messages;
mod rights;

/// A joined channel. Dropping it leaves its room and ends what it watches in the database.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) topic: Arc<str>,
    /// The join message's join_ref, null if it had none: `phx_close` and `phx_error` carry it.
    pub(super) raw_join_ref: Ref,
    /// The join_ref of the frames that the channel pushes. It is the ref of the join if that had no join_ref.
    pub(super) join_ref: Ref,
    /// Whether its broadcasts are answered.
    pub(super) ack: bool,
    /// Whether it gets its own broadcasts.
    pub(super) to_self: bool,
    pub(super) tokens: Tokens,
    pub(super) membership: Membership,
    pub(super) presence: Presence,
    /// Its permissions. `None` for public channels, which need none.
    pub(super) policies: Option<Box<Policies>>,
    /// What the client was told about broadcasts from the database.
    pub(super) ready: Ready,
    pub(super) rows: Rows,
    /// Counts the memory of a large join. Boxed: few are large.
    pub(super) _holding: Option<Box<Holding>>,
    /// Keeps what is said in the room coming from other nodes.
    pub(super) _interest: Option<Interest>,
}

/// What is left to do for a channel after its join was answered.
pub(super) struct Welcome {
    pub(super) wanted: Wanted,
    /// The outcome of the subscription that the join asked for, if it is known.
    pub(super) outcome: Option<Result<(), SubscribeRefusal>>,
    /// Whether the client wants to know that broadcasts from the database arrive.
    pub(super) replication_ready: bool,
    /// Whether the policies have to be asked again.
    pub(super) judge_anew: bool,
}

impl Channel {
    /// The queue for messages on the topic, if they have to wait.
    pub(super) fn waiting(&mut self) -> Option<&mut Waiting> {
        self.policies.as_mut().filter(|policies| policies.is_asking()).map(|policies| &mut policies.waiting)
    }

    /// Whether the policies have yet to answer.
    fn is_asking(&self) -> bool {
        self.policies.as_ref().is_some_and(|policies| policies.is_asking())
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let others = [self.rows.deadline(), self.ready.deadline(), self.presence.deadline()];
        others.into_iter().flatten().fold(self.tokens.deadline(self.is_asking()), Instant::min)
    }

    fn system(&self, client: &Client, message: &SystemMessage) {
        client.system(&self.join_ref, &self.topic, message);
    }

    fn answer(&self, client: &Client, msg_ref: &Ref, status: &str, response: &[u8]) {
        client.send(encode::reply(client.vsn, &self.join_ref, msg_ref, &self.topic, status, response));
    }

    /// Tells the client the outcome of everything that the join asked for, after the join was answered (order of
    /// protocol 4.7).
    pub(super) fn welcome(
        &mut self,
        welcome: Welcome,
        replicating: &mut Replicating,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if self.rows.is_watching() {
            self.rows.open();
            if let Some(outcome) = welcome.outcome {
                self.tell_subscription(self.rows.step(), outcome, client);
            }
        } else {
            self.refuse_watch(&welcome.wanted, client);
        }
        if welcome.replication_ready {
            self.ready = Ready::asked();
            // The watch begins first, so that it sees what changes meanwhile.
            replicating.watch(client, effects);
            self.tell_replication(client);
        }
        if welcome.judge_anew {
            self.ask(Question::Refresh, None, client, effects)?;
        }
        let sees_presence =
            self.policies.as_ref().is_none_or(|policies| policies.read.presence == Some(true));
        if self.presence.wanted && sees_presence { self.presence_state(client) } else { Ok(()) }
    }

    /// Tells the client why nothing is watched.
    fn refuse_watch(&self, wanted: &Wanted, client: &Client) {
        if let Err(error) = wanted.specs() {
            // The text repeats what the client sent. Nobody else may see it.
            let tenant = client.tenant();
            let code = ErrorCode::RealtimeDisabledForConfiguration.as_str();
            let role = &*self.tokens.in_use().role;
            let reason = "its parameters cannot be used; the client is told which";
            tracing::warn!(tenant, code, role, reason, "subscription refused");
            self.system(client, &SystemMessage::postgres_changes_error(error.to_string()));
        }
    }

    /// Sends who is present (protocol 5.5); a little later if too much waits for the client.
    fn presence_state(&mut self, client: &Client) -> Result<(), Stop> {
        let meters = client.runtime.meters();
        if meters.closes_channels() && client.runtime.too_many_presence_events() {
            return Err(TOO_MANY_PRESENCE.into());
        }
        let (vsn, join_ref, topic) = (client.vsn, &self.join_ref, &self.topic);
        let encode = |state: &[u8]| encode::presence_state(vsn, join_ref, topic, state);
        let sent = self.membership.send_presence_state(encode);
        self.presence.state_sent(sent);
        if sent {
            meters.presence().add(1);
        }
        Ok(())
    }

    /// Does everything that is due: verifies tokens, tries subscriptions again.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        if let Some(text) = self.tokens.recheck(now, &client.runtime)? {
            self.use_token(&text, client, effects)?;
        }
        if self.tokens.former_expires(now, &client.runtime) {
            self.former_expired(client, effects);
        }
        self.renew(client, effects)?;
        if self.rows.deadline().is_some_and(|at| at <= now) {
            self.subscribe(client, effects);
        }
        if self.ready.deadline().is_some_and(|by| by <= now) {
            return Err("Replication connection was not established in time".into());
        }
        if let Some(tracked) = self.presence.take_merged(now, &client.runtime) {
            self.apply_merged(tracked, client);
        }
        if self.presence.owes_state(now) { self.presence_state(client) } else { Ok(()) }
    }
}
