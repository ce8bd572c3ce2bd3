//! A join that is not decided or not answered yet (protocol 3.1, 3.5, 4; postgres_changes 1.1, 1.2, 1.8).
//!
//! It goes through [`Stage`]s, which are advanced in place. Each stage waits for the database. Nothing else on the
//! socket waits for it.

use std::sync::Arc;

use bytes::Bytes;
use realtime_changes::SubscribeRefusal;
use realtime_cluster::Interest;
use realtime_hub::{Audience, Holding, Member, Membership, Outbox, RoomKey, Sight};
use realtime_postgres::{
    AuthorizeError, ConnectError, ReadVerdict, ReplayError, ReplayParams, ReplayedMessage,
};
use realtime_protocol::{ClientMessage, JoinPayload, JoinRefusal, Ref, Vsn, encode};
use tokio::time::Instant;

use super::{
    admission::unable_to_replay,
    channel::{Channel, Welcome},
    policies::{self, Policies},
    presence::Presence,
    ready::Ready,
    replay,
    rows::{Rows, Wanted, Watching},
    tokens::Tokens,
    waiting::Waiting,
};
use crate::{
    client::{Client, sub_topic},
    effect::Effect,
    history::{self, Asked},
    token::Token,
};

/// A join message of at least this many bytes counts as memory that its socket holds.
const LARGE_JOIN: usize = 16 * 1024;

/// An admitted join: what its client asks for.
pub(super) struct Request {
    pub(super) topic: Arc<str>,
    pub(super) raw_join_ref: Ref,
    pub(super) msg_ref: Ref,
    payload: JoinPayload,
    pub(super) token: Arc<Token>,
    /// Counts the memory of its message, if that is large.
    holding: Option<Holding>,
    /// Keeps what is said in the room coming from other nodes.
    pub(super) interest: Option<Interest>,
}

impl Request {
    pub(super) fn new(
        topic: Arc<str>,
        message: &ClientMessage,
        payload: JoinPayload,
        token: Arc<Token>,
        client: &Client,
    ) -> Self {
        Self {
            interest: client.runtime.room_interest(&topic),
            topic,
            raw_join_ref: message.join_ref.clone(),
            msg_ref: message.msg_ref.clone(),
            payload,
            token,
            holding: holding(&client.outbox, message),
        }
    }

    /// The join_ref of the frames that the channel will push. It is the ref of the join if that had no join_ref.
    fn join_ref(&self) -> Ref {
        if self.raw_join_ref.is_null() { self.msg_ref.clone() } else { self.raw_join_ref.clone() }
    }

    /// Whether it asks for a private channel.
    pub(super) fn is_private(&self) -> bool {
        self.payload.private
    }

    fn wants_presence(&self, client: &Client) -> bool {
        // Streams of events do not tell who is present.
        client.vsn != Vsn::Events
            && (self.payload.presence_enabled || client.runtime.tenant().presence_enabled)
    }
}

/// What the stages have found out.
#[derive(Default)]
struct Found {
    /// The rights to read the topic.
    read: Option<ReadVerdict>,
    /// Its place in the room, if it has entered already. Messages that come meanwhile are kept.
    membership: Option<Membership>,
    /// Messages that the client has missed, oldest first.
    replayed: Vec<ReplayedMessage>,
    /// What was asked of the topic's history, and what was found of it elsewhere.
    history: Option<(Asked, history::Found)>,
    /// What it wants to watch.
    wanted: Wanted,
}

/// What a join waits for.
enum Stage {
    /// A connection to the database.
    Contact,
    /// The policies' answer about reading a private topic.
    Policies,
    /// The messages that the client has missed.
    Replay(Found),
    /// Nothing: it is decided.
    Decided(Found),
    /// The subscription to row changes; everything else is decided.
    Watch(Found, Watching),
}

/// What follows an answer.
pub(super) enum Next {
    /// The join waits for its next stage.
    Waits,
    /// The join is decided.
    Decided(Result<(), JoinRefusal>),
}

/// A join that waits for the database.
pub(super) struct Joining {
    pub(super) request: Request,
    /// The slow step that it waits for.
    step: u32,
    stage: Stage,
    /// The database was replaced meanwhile, so the policies have to be asked again.
    judge_anew: bool,
    pub(super) waiting: Waiting,
}

impl Joining {
    /// Begins a join with the first question to the database. `is_ready`: the database need not be waited for.
    pub(super) fn begin(
        request: Request,
        is_ready: bool,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> (Self, Next) {
        let at =
            |request, step, stage| Self { request, step, stage, judge_anew: false, waiting: Waiting::new() };
        if is_ready && !request.payload.private {
            let mut joining = at(request, 0, Stage::Decided(Found::default()));
            let next = joining.look_back(None, client, effects);
            return (joining, next);
        }
        let ticket = client.ticket(&request.topic);
        let (step, payload) = (ticket.step, &request.payload);
        let (stage, effect) = if payload.private {
            let question = client.question(&request.topic, &request.token, request.wants_presence(client));
            (Stage::Policies, Effect::AuthorizeRead(ticket, question))
        } else if payload.legacy || !payload.postgres_changes.is_empty() {
            (Stage::Contact, Effect::Database(ticket))
        } else {
            (Stage::Contact, Effect::Contact(ticket))
        };
        effects.push(effect);
        (at(request, step, stage), Next::Waits)
    }

    /// Whether the join waits for this step.
    pub(super) fn waits_for(&self, step: u32) -> bool {
        self.step == step
    }

    /// When the join is answered at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Watch(_, watching) => Some(watching.reply_by),
            _ => None,
        }
    }

    /// Takes the outcome of connecting to the database.
    pub(super) fn contacted(
        &mut self,
        result: Result<(), ConnectError>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Next {
        self.stage = Stage::Decided(Found::default());
        match result {
            Ok(()) => self.look_back(None, client, effects),
            Err(error) => Next::Decided(Err(JoinRefusal::Other {
                reason: error.join_reason().into(),
                code: error.code(),
            })),
        }
    }

    /// What it asks of the topic's history, if one is kept. Of a public channel it was judged when it was admitted.
    fn asked(&self, client: &Client) -> Option<Result<Asked, ReplayError>> {
        Asked::parse(&self.request.payload.replay.as_ref()?.0, client.runtime.history()?)
    }

    /// Enters the room to look for what was missed there, if the join asks for that and the topic's history is kept.
    /// Otherwise the join is decided.
    fn look_back(
        &mut self,
        read: Option<ReadVerdict>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Next {
        let mut found = Found { read, ..Found::default() };
        let Some(Ok(asked)) = self.asked(client) else {
            self.stage = Stage::Decided(found);
            return Next::Decided(Ok(()));
        };
        let membership = enter(client, &self.request.topic, read, None, true, Vec::new());
        let room = membership.room().clone();
        found.membership = Some(membership);
        found.history = Some((asked, history::Found::default()));
        let ticket = client.ticket(&self.request.topic);
        self.step = ticket.step;
        self.stage = Stage::Replay(found);
        effects.push(Effect::Recall(ticket, room, asked));
        Next::Waits
    }

    /// Takes what was found elsewhere of the topic's history.
    pub(super) fn recalled(&mut self, result: Result<history::Found, ReplayError>, client: &Client) -> Next {
        let mut found = self.take_found();
        let outcome = result
            .map(|elsewhere| {
                if let Some((_, found)) = &mut found.history {
                    *found = elsewhere;
                }
            })
            .map_err(|error| refusal_to_replay(&error, client));
        self.stage = Stage::Decided(found);
        Next::Decided(outcome)
    }

    /// Takes the policies' answer about reading. The join is decided, or goes on to look for missed messages.
    pub(super) fn judged(
        &mut self,
        result: Result<ReadVerdict, AuthorizeError>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Next {
        let topic = sub_topic(&self.request.topic).unwrap_or_default();
        let unauthorized = || JoinRefusal::Unauthorized(topic.into());
        let asked = self.asked(client).map(|asked| asked.map(|_| None));
        let replay = asked.or_else(|| {
            let replay = ReplayParams::parse(&self.request.payload.replay.as_ref()?.0)?;
            Some(replay.map(Some))
        });
        let (read, params) = match (result, replay) {
            (Err(error), _) => {
                policies::warn(client.tenant(), &self.request.token.role, &error);
                let reason = error.join_reason(topic);
                return Next::Decided(Err(JoinRefusal::Other { reason, code: error.code() }));
            }
            (Ok(read), _) if !read.may_join() => return Next::Decided(Err(unauthorized())),
            (Ok(read), Some(_)) if !read.broadcast => return Next::Decided(Err(unauthorized())),
            (Ok(_), Some(Err(error))) => return Next::Decided(Err(unable_to_replay(&error))),
            (Ok(read), replay) => (read, replay.and_then(Result::ok)),
        };
        let Some(Some(params)) = params else { return self.look_back(Some(read), client, effects) };
        let mut found = Found { read: Some(read), ..Found::default() };
        found.membership = Some(enter(client, &self.request.topic, Some(read), None, true, Vec::new()));
        let ticket = client.ticket(&self.request.topic);
        self.step = ticket.step;
        self.stage = Stage::Replay(found);
        effects.push(Effect::Replay(ticket, topic.into(), params));
        Next::Waits
    }

    /// Takes the messages that the client has missed.
    pub(super) fn replayed(
        &mut self,
        result: Result<Vec<ReplayedMessage>, ReplayError>,
        client: &Client,
    ) -> Next {
        let mut found = self.take_found();
        let outcome = result
            .map(|messages| found.replayed = messages)
            .map_err(|error| refusal_to_replay(&error, client));
        self.stage = Stage::Decided(found);
        Next::Decided(outcome)
    }

    /// Asks the database for the row changes that the join wants. True if the join has to wait for the answer.
    pub(super) fn watch(&mut self, client: &mut Client, effects: &mut Vec<Effect>) -> bool {
        let mut found = self.take_found();
        let join_ref = self.request.join_ref();
        let Request { topic, payload, token, .. } = &mut self.request;
        found.wanted = Wanted::of(topic, payload);
        let watching =
            Watching::begin(&found.wanted, topic, join_ref, payload.legacy, token, client, effects);
        match watching {
            Some(watching) => {
                self.step = watching.step();
                self.stage = Stage::Watch(found, watching);
                true
            }
            None => {
                self.stage = Stage::Decided(found);
                false
            }
        }
    }

    /// Takes the database's answer to the subscription.
    pub(super) fn watched(&mut self, outcome: Result<(), SubscribeRefusal>) {
        if let Stage::Watch(_, watching) = &mut self.stage {
            watching.answered(outcome);
        }
    }

    /// The database was replaced: asks the new one for the subscription.
    pub(super) fn database_replaced(
        &mut self,
        elsewhere: bool,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) {
        self.judge_anew |= elsewhere;
        if let Stage::Watch(_, watching) = &mut self.stage {
            watching.ask_again(&self.request.topic, &self.request.token, client, effects);
            self.step = watching.step();
        }
    }

    fn take_found(&mut self) -> Found {
        match std::mem::replace(&mut self.stage, Stage::Contact) {
            Stage::Replay(found) | Stage::Decided(found) | Stage::Watch(found, ..) => found,
            Stage::Contact | Stage::Policies => Found::default(),
        }
    }

    /// Sends the reply and enters the room (order of protocol 4.7). Returns the channel, what is left to do for it,
    /// and whether it has got everything that was said while missed messages were looked for.
    pub(super) fn joined(self, client: &mut Client) -> (Channel, Welcome, bool) {
        let join_ref = self.request.join_ref();
        let wants_presence = self.request.wants_presence(client);
        let Request { topic, raw_join_ref, msg_ref, payload, token, holding, interest } = self.request;
        let (found, rows, outcome) = match self.stage {
            Stage::Watch(found, watching) => {
                let (rows, outcome) = watching.joined();
                (found, rows, outcome)
            }
            Stage::Replay(found) | Stage::Decided(found) => (found, Rows::none(), None),
            Stage::Contact | Stage::Policies => (Found::default(), Rows::none(), None),
        };
        let Found { read, membership, replayed, history, wanted } = found;
        let response = encode::join_response(&wanted.echo, &wanted.ids);
        let mut first = vec![encode::reply_ok(client.vsn, &raw_join_ref, &msg_ref, &topic, &response)];
        replay::frames(client, &join_ref, &topic, &replayed, &mut first);
        let (membership, is_whole) = match membership {
            Some(membership) => {
                let again = match history {
                    Some(history) => replay::recalled(client, &join_ref, &membership, history, &mut first),
                    None => replay::ids(&replayed),
                };
                let is_whole = membership.open(first, again);
                (membership, is_whole)
            }
            None => {
                // A stream of row changes has nothing to do with others on its topic.
                let is_alone = client.vsn == Vsn::Events && !wanted.ids.is_empty();
                (enter(client, &topic, read, is_alone.then_some(Sight::NONE), false, first), true)
            }
        };
        let key = payload.presence_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let channel = Channel {
            topic,
            raw_join_ref,
            join_ref,
            ack: payload.ack,
            to_self: payload.to_self,
            tokens: Tokens::new(token, &client.runtime),
            membership,
            presence: Presence::new(key.into(), wants_presence),
            policies: read.map(|read| Box::new(Policies::new(read))),
            ready: Ready::Unasked,
            rows,
            _holding: holding.map(Box::new),
            _interest: interest,
        };
        let replication_ready = payload.replication_ready;
        let welcome = Welcome { wanted, outcome, replication_ready, judge_anew: self.judge_anew };
        (channel, welcome, is_whole)
    }
}

/// Enters the room of a topic; the private room if the policies allow it. `first` is sent before anything else. What it
/// sees there is what the policies say, if nothing else is given.
fn enter(
    client: &Client,
    topic: &Arc<str>,
    read: Option<ReadVerdict>,
    sight: Option<Sight>,
    hold: bool,
    first: Vec<Bytes>,
) -> Membership {
    let key = RoomKey {
        tenant: Arc::clone(client.runtime.name()),
        audience: if read.is_some() { Audience::Private } else { Audience::Public },
        topic: Arc::clone(topic),
    };
    let member = Member {
        outbox: Arc::clone(&client.outbox),
        vsn: client.vsn,
        sight: sight.unwrap_or_else(|| read.map_or(Sight::ALL, policies::sight)),
        hold,
        diffs: client.diffs.gate(),
        only: client.only.clone(),
    };
    client.runtime.hub().join(&key, member, client.runtime.hub_meter(), first)
}

/// The refusal of a join whose stored messages could not be read, which is logged.
fn refusal_to_replay(error: &ReplayError, client: &Client) -> JoinRefusal {
    if let ReplayError::Failed(detail) = error {
        let (tenant, code) = (client.tenant(), error.code());
        tracing::warn!(tenant, code, error = detail, "cannot read stored messages");
    }
    unable_to_replay(error)
}

/// Counts the memory of a join's message: it is kept in parsed form, as text for the reply, and as filters. A small
/// one is not counted.
fn holding(outbox: &Arc<Outbox>, message: &ClientMessage) -> Option<Holding> {
    let size = message.size();
    (size >= LARGE_JOIN).then(|| {
        let mut holding = Holding::new(outbox);
        holding.add(3 * size);
        holding
    })
}
