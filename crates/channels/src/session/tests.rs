//! The session without a socket, driven step by step. What a socket is needed for is tested with the binary.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use realtime_auth::{ClaimValidators, Jwks, Keys, Verifier, sign_hs256};
use realtime_changes::SubscribeRefusal;
use realtime_hub::{Hub, Outbox, Signal};
use realtime_postgres::{
    AuthorizeError, AuthorizeRequest, ChangeSink as _, ConnectError, Notice, ReadVerdict, ReplayError,
    ReplayedMessage, SubscribeRequest, WriteVerdict,
};
use realtime_protocol::{Opcode, Vsn};
use realtime_tenants::{DatabaseSettings, Limits, Tenant};
use serde_json::{Value, json};
use tokio::time;

use super::{Session, topics::Topic};
use crate::{
    database::Database,
    effect::{Completion, Effect, Ticket},
    limits::Meters,
    routes::Routes,
    tenant_runtime::{Clock, TenantRuntime},
};

mod held;
mod history;
mod limits;
mod presence;
mod private;
mod replaced;
mod tokens;

const SECRET: &str = "of-the-tests";
const NOW: u64 = 1_000_000;

struct Fixture {
    runtime: Arc<TenantRuntime>,
    database: Database,
}

fn tenant(change: impl FnOnce(&mut Tenant)) -> Tenant {
    let database = DatabaseSettings {
        host: String::new(),
        port: 0,
        route: realtime_tls::Route::default(),
        name: String::new(),
        user: String::new(),
        password: String::new().into(),
        publication: String::new(),
        slot_name: String::new(),
        durable_slot: false,
        max_lag_bytes: 0,
        idle_stop: Duration::ZERO,
        pool_size: 1,
        policy_pool_size: None,
        queue_target: None,
    };
    let mut tenant = Tenant {
        external_id: "t".into(),
        default: true,
        jwt_secret: None,
        jwt_jwks: None,
        private_only: false,
        suspend: false,
        presence_enabled: false,
        limits: Limits::default(),
        webhooks: std::sync::Arc::default(),
        database,
    };
    change(&mut tenant);
    tenant
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Tenant)) -> Self {
        Self::with_backoff(change, Duration::ZERO)
    }

    /// With limits that close channels.
    fn closing(change: impl FnOnce(&mut Tenant)) -> Self {
        Self::made(change, Duration::ZERO, true)
    }

    fn with_backoff(change: impl FnOnce(&mut Tenant), backoff: Duration) -> Self {
        Self::made(change, backoff, false)
    }

    fn made(change: impl FnOnce(&mut Tenant), backoff: Duration, closes: bool) -> Self {
        let database = Database::default();
        database.ready.store(true, Ordering::Relaxed);
        let tenant = Arc::new(tenant(change));
        let meters = Arc::new(Meters::new(&tenant.limits).closing_channels(closes));
        let runtime = TenantRuntime::new(
            tenant,
            Verifier::new(
                Keys::new(Some(SECRET), Jwks::parse(r#"{"keys":[]}"#).ok()),
                ClaimValidators::default(),
            ),
            Hub::new(0, Duration::ZERO),
            Arc::new(Routes::new(meters)),
            Arc::new(database.clone()),
            Clock::Manual(AtomicU64::new(NOW)),
            backoff,
            Duration::from_secs(600),
        );
        Self { runtime: Arc::new(runtime), database }
    }

    fn socket(&self) -> Socket {
        self.socket_of(Vsn::V2)
    }

    fn socket_of(&self, vsn: Vsn) -> Socket {
        let token = self.runtime.verify(&token(NOW + 100_000)).unwrap();
        let session = Session::new(
            vsn,
            Arc::new(Outbox::new(realtime_hub::DEFAULT_OUTBOX_BYTES)),
            Arc::clone(&self.runtime),
            Arc::new(token),
            "{}".into(),
        );
        Socket { session, effects: Vec::new() }
    }

    fn set_time(&self, now: u64) {
        if let Clock::Manual(clock) = self.runtime.clock() {
            clock.store(now, Ordering::Relaxed);
        }
    }
}

fn token(exp: u64) -> String {
    sign_hs256(SECRET, &json!({"role": "anon", "exp": exp}).to_string())
}

struct Socket {
    session: Session,
    effects: Vec<Effect>,
}

impl Socket {
    fn send(&mut self, message: Value) -> Vec<Value> {
        self.session.receive(Opcode::Text, message.to_string().into(), &mut self.effects);
        self.frames()
    }

    fn frames(&mut self) -> Vec<Value> {
        for signal in self.session.outbox().take_signals() {
            self.session.signal(signal, &mut self.effects);
        }
        self.session.flush();
        let mut frames = VecDeque::new();
        self.session.outbox().take(&mut frames);
        frames.iter().map(decoded).collect()
    }

    fn join(&mut self, topic: &str, payload: Value) -> Vec<Value> {
        self.send(json!(["1", "1", topic, "phx_join", payload]))
    }

    /// Joins a topic and gives the reason it is refused with, `None` if it is not.
    fn refusal(&mut self, topic: &str) -> Option<String> {
        let frames = self.join(topic, json!({"config": {}}));
        frames[0][4]["response"]["reason"].as_str().map(str::to_owned)
    }

    fn ticket(&self) -> Ticket {
        self.effects
            .iter()
            .rev()
            .find_map(|effect| match effect {
                Effect::Database(ticket)
                | Effect::Contact(ticket)
                | Effect::Subscribe(ticket, _)
                | Effect::AuthorizeRead(ticket, _)
                | Effect::AuthorizeWrite(ticket, _)
                | Effect::Replay(ticket, ..) => Some(ticket.clone()),
                _ => None,
            })
            .expect("an effect with a ticket")
    }

    fn tick(&mut self) -> Vec<Value> {
        self.session.tick(&mut self.effects);
        self.frames()
    }

    fn complete(&mut self, completion: Completion) -> Vec<Value> {
        self.session.complete(completion, &mut self.effects);
        self.frames()
    }
}

/// The JSON of a server frame.
fn decoded(frame: &Bytes) -> Value {
    let header = match frame[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    serde_json::from_slice(&frame[header..]).unwrap()
}

/// protocol 38, the form: refusals that close the socket do so after the reply, back-off included.
#[test]
fn a_back_off_delays_reply_and_close_together() {
    let fixture = Fixture::with_backoff(|_| {}, Duration::from_secs(5));
    let mut socket = fixture.socket();
    assert!(socket.join("realtime:", json!({})).is_empty());
    let Some(Effect::SendLater(delay, frames, None)) = socket.effects.pop() else {
        panic!("a delayed reply")
    };
    assert_eq!((delay, frames.len()), (Duration::from_secs(5), 1));
    assert!(!socket.send(json!([null, "2", "phoenix", "heartbeat", {}])).is_empty(), "the socket goes on");
}

/// protocol 25: a socket that left all its channels is given up; one that never tried to join is not.
#[tokio::test(start_paused = true)]
async fn sockets_without_channels_are_given_up() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.send(json!([null, "1", "phoenix", "heartbeat", {}]));
    assert_eq!(socket.session.abandoned_at(), None);
    assert_eq!(socket.refusal("realtime:a"), None);
    assert_eq!(socket.session.abandoned_at(), None);
    socket.send(json!(["1", "2", "realtime:a", "phx_leave", {}]));
    let limit = Duration::from_secs(600);
    assert_eq!(socket.session.abandoned_at(), Some(time::Instant::now() + limit));
    assert!(socket.refusal("realtime:").is_some());
    assert_eq!(socket.refusal("realtime:b"), None);
    assert_eq!(socket.session.abandoned_at(), None);
}

/// Joins during shutdown (protocol 4.6, step 1)
#[test]
fn shutting_down() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.session.signal(Signal::ShutDown, &mut socket.effects);
    let reason = socket.refusal("realtime:a");
    assert_eq!(reason.as_deref(), Some("RealtimeRestarting: Realtime is restarting, please standby"));
}

/// protocol 39; 3.2: other topics go on, messages on the joining topic wait in order.
#[test]
fn joins_wait_for_the_database_and_hold_nothing_else() {
    let fixture = Fixture::new(|_| {});
    fixture.database.ready.store(false, Ordering::Relaxed);
    let mut socket = fixture.socket();
    assert!(socket.join("realtime:a", json!({"config": {"broadcast": {"ack": true}}})).is_empty());
    let ticket = socket.ticket();
    assert!(socket.send(json!(["1", "2", "realtime:a", "broadcast", {}])).is_empty());
    assert!(socket.send(json!(["3", "3", "realtime:a", "phx_join", {"config": {}}])).is_empty());
    assert_eq!(socket.send(json!([null, "4", "phoenix", "heartbeat", {}])).len(), 1);

    fixture.database.ready.store(true, Ordering::Relaxed);
    let frames = socket.complete(Completion::Database(ticket.clone(), Ok(())));
    let seen: Vec<_> =
        frames.iter().map(|frame| (frame[3].as_str().unwrap(), frame[1].as_str().unwrap())).collect();
    assert_eq!(
        seen,
        [("phx_reply", "1"), ("phx_reply", "2"), ("phx_reply", "3")],
        "nothing of the replaced one"
    );
    assert!(socket.complete(Completion::Database(ticket, Ok(()))).is_empty(), "an answer counts once");
}

#[test]
fn a_database_that_cannot_be_reached_refuses_the_join() {
    let fixture = Fixture::new(|_| {});
    fixture.database.ready.store(false, Ordering::Relaxed);
    let mut socket = fixture.socket();
    socket.join("realtime:a", watch());
    assert!(matches!(socket.effects.last(), Some(Effect::Database(_))));
    let (ticket, error) = (socket.ticket(), ConnectError::LackOfConnections(String::new()));
    let frames = socket.complete(Completion::Database(ticket, Err(error)));
    let reason = "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect";
    assert_eq!(frames[0][4]["response"]["reason"], reason);
    assert_eq!(
        socket.send(json!(["1", "2", "realtime:a", "x", {}]))[0][4]["response"]["reason"],
        "unmatched topic"
    );
}

fn watch() -> Value {
    json!({"config": {"postgres_changes": [{"schema": "public"}]}})
}

/// postgres_changes 1.8, E1; an answer to an attempt that was overtaken means nothing.
#[tokio::test(start_paused = true)]
async fn subscriptions_are_answered_once() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let first = joined_unwatched(&mut socket).await;
    let renewed = sign_hs256(SECRET, &json!({"role": "authenticated", "exp": NOW + 500}).to_string());
    assert!(
        socket.send(json!(["1", "2", "realtime:a", "access_token", {"access_token": renewed}])).is_empty()
    );
    let Some(Effect::Subscribe(second, request)) = socket.effects.pop() else { panic!("a second attempt") };
    assert_eq!(&*request.role, "authenticated");
    assert!(socket.complete(Completion::Subscribed(first, Ok(()))).is_empty());
    let frames = socket.complete(Completion::Subscribed(second, Ok(())));
    assert_eq!(messages(&frames), ["Subscribed to PostgreSQL"]);
}

fn messages(frames: &[Value]) -> Vec<&str> {
    frames.iter().filter_map(|frame| frame[4]["message"].as_str()).collect()
}

/// Joins a channel whose subscription takes too long to be waited for.
async fn joined_unwatched(socket: &mut Socket) -> Ticket {
    assert!(socket.join("realtime:a", watch()).is_empty());
    let ticket = socket.ticket();
    time::advance(Duration::from_secs(6)).await;
    socket.session.tick(&mut socket.effects);
    let frames = socket.frames();
    assert_eq!((frames.len(), &frames[0][4]["status"]), (1, &json!("ok")));
    ticket
}

/// spec README, decision 3: who is told that the join has succeeded gets every change from then on, and none before.
#[test]
fn joins_are_answered_when_they_are_watched() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    assert!(socket.join("realtime:a", watch()).is_empty());
    let Some(Effect::Subscribe(ticket, request)) = socket.effects.pop() else { panic!("a subscription") };
    // The database knows of the channel already.
    fixture.runtime.routes().notice(request.channel, Notice::Gap { code: "Test", text: "early".into() });
    assert!(socket.frames().is_empty());
    // What comes on the topic meanwhile waits; heartbeats do not.
    assert!(socket.send(json!(["1", "2", "realtime:a", "unknown", {}])).is_empty());
    assert_eq!(socket.send(json!([null, "3", "phoenix", "heartbeat", {}])).len(), 1);
    let frames = socket.complete(Completion::Subscribed(ticket, Ok(())));
    assert_eq!(frames[0][3], "phx_reply");
    assert_eq!(messages(&frames), ["early", "Subscribed to PostgreSQL"]);
    fixture.runtime.routes().notice(request.channel, Notice::Gap { code: "Test", text: "late".into() });
    assert_eq!(messages(&socket.frames()), ["late"]);
}

/// A subscription ends with its socket, whether the join was answered or not.
#[tokio::test(start_paused = true)]
async fn nothing_is_watched_for_who_is_gone() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    joined_unwatched(&mut socket).await;
    for topic in ["realtime:b", "realtime:c"] {
        assert!(socket.join(topic, watch()).is_empty());
    }
    socket.session.end();
    assert_eq!(fixture.database.unsubscribed.load(Ordering::Relaxed), 3);
}

/// postgres_changes 27: a passing trouble is told, and the subscription tried again after 5 to 10 s.
#[tokio::test(start_paused = true)]
async fn passing_troubles_are_tried_again() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:a", watch());
    let ticket = socket.ticket();
    let trouble = SubscribeRefusal::Unavailable("Too many database timeouts".into());
    let frames = socket.complete(Completion::Subscribed(ticket, Err(trouble)));
    assert_eq!(frames[0][4]["status"], "ok", "the channel is good for all else");
    assert_eq!(frames[1][4]["message"], r#"{:error, "Too many database timeouts"}"#);
    assert_eq!(frames[1][4]["status"], "error", "the answer to what the join asked for");
    socket.effects.clear();
    time::advance(Duration::from_millis(4_900)).await;
    socket.session.tick(&mut socket.effects);
    assert!(socket.effects.is_empty());
    time::advance(Duration::from_millis(5_200)).await;
    socket.session.tick(&mut socket.effects);
    assert!(matches!(socket.effects[..], [Effect::Subscribe(..)]));

    let ticket = socket.ticket();
    let refusal = SubscribeRefusal::NoTable("[]".into());
    let frames = socket.complete(Completion::Subscribed(ticket, Err(refusal)));
    let told = (&frames[0][4]["status"], &frames[0][4]["code"]);
    assert_eq!(told, (&json!("warning"), &json!("RealtimeDisabledForConfiguration")), "the channel lives on");
    socket.effects.clear();
    time::advance(Duration::from_secs(60)).await;
    socket.session.tick(&mut socket.effects);
    assert!(socket.effects.is_empty(), "what is wrong with the parameters stays wrong");
}

/// protocol 8.5, 77: tokens are verified again at their expiry.
#[tokio::test(start_paused = true)]
async fn expired_tokens_close_their_channel() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:short", json!({"config": {}, "access_token": token(NOW + 20)}));
    socket.join("realtime:long", json!({"config": {}}));
    let due = socket.session.deadline().unwrap();
    assert_eq!(due - time::Instant::now(), Duration::from_secs(20));
    time::advance(Duration::from_secs(20)).await;
    fixture.set_time(NOW + 20);
    socket.session.tick(&mut socket.effects);
    let frames = socket.frames();
    assert_eq!(frames[0][4]["message"], "Token has expired 0 seconds ago");
    assert_eq!((&frames[1][2], &frames[1][3]), (&json!("realtime:short"), &json!("phx_close")));
    assert_eq!(frames.len(), 2);
    assert_eq!(socket.session.deadline().unwrap() - time::Instant::now(), Duration::from_secs(280));
}

/// A client whose token has just expired may have another clock: its channel ends once no clock can explain it.
#[tokio::test(start_paused = true)]
async fn a_token_that_has_just_expired_lasts_for_the_skew() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let joined = socket.join("realtime:late", json!({"config": {}, "access_token": token(NOW - 3)}));
    assert_eq!(joined[0][4]["status"], "ok");
    let due = socket.session.deadline().unwrap();
    assert_eq!(due - time::Instant::now(), Duration::from_secs(2));
    time::advance(Duration::from_secs(2)).await;
    fixture.set_time(NOW + 2);
    socket.session.tick(&mut socket.effects);
    let frames = socket.frames();
    assert_eq!(frames[0][4]["message"], "Token has expired 5 seconds ago");
    assert_eq!(frames[1][3], "phx_close");
}

/// protocol 91: without a socket; with one in the integration tests.
#[tokio::test]
async fn a_disconnect_is_told_on_each_channel() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    socket.join("realtime:b", json!({"config": {}}));
    socket.session.outbox().signal(Signal::Disconnect);
    let frames = socket.frames();
    assert_eq!(frames.len(), 2);
    let told = json!({"extension": "system", "status": "ok", "message": "Server requested disconnect"});
    assert!(frames.iter().all(|frame| frame[0].is_null() && frame[3] == "system" && frame[4] == told));
    assert!(matches!(socket.effects.last(), Some(Effect::Close(1012))));
}
