//! The session without a socket, driven step by step. What a socket is needed for is tested with the binary.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures_util::future::BoxFuture;
use realtime_auth::{ClaimValidators, Jwks, Keys, Verifier, sign_hs256};
use realtime_changes::{ChannelId, SubscribeRefusal};
use realtime_hub::Hub;
use realtime_postgres::{DatabaseConfig, SubscribeRequest};
use realtime_tenants::{DatabaseSettings, Limits, Tenant};
use serde_json::{Value, json};
use tokio::time;

use super::*;
use crate::{
    limits::Meters,
    routes::Routes,
    tenant_runtime::{Clock, Database},
};

mod private;
mod replaced;

const SECRET: &str = "of-the-tests";
const NOW: u64 = 1_000_000;

/// A database whose answers the test gives itself, as completions.
struct Scripted {
    ready: AtomicBool,
    replicating: AtomicBool,
    gaps: AtomicU64,
}

impl Database for Arc<Scripted> {
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(std::future::pending())
    }

    fn subscribe(&self, _: SubscribeRequest) -> BoxFuture<'_, Result<(), SubscribeRefusal>> {
        Box::pin(std::future::pending())
    }

    fn unsubscribe(&self, _: ChannelId) {}

    fn authorize_read(&self, _: AuthorizeRequest) -> BoxFuture<'_, Result<ReadVerdict, AuthorizeError>> {
        Box::pin(std::future::pending())
    }

    fn authorize_write(&self, _: AuthorizeRequest) -> BoxFuture<'_, Result<WriteVerdict, AuthorizeError>> {
        Box::pin(std::future::pending())
    }

    fn replay(
        &self,
        _: Box<str>,
        _: ReplayParams,
    ) -> BoxFuture<'_, Result<Vec<ReplayedMessage>, ReplayError>> {
        Box::pin(std::future::pending())
    }

    fn attend(&self) -> Option<Attendance> {
        None
    }

    fn replication(&self) -> Replication {
        Replication::new(self.replicating.load(Ordering::Relaxed), self.gaps.load(Ordering::Relaxed))
    }

    fn replication_differs(&self, _: Replication) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn succeed(&self, _: DatabaseConfig, _: bool) -> Arc<dyn Database> {
        Arc::new(Self::clone(self))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

struct Fixture {
    runtime: Arc<TenantRuntime>,
    database: Arc<Scripted>,
}

fn tenant(change: impl FnOnce(&mut Tenant)) -> Tenant {
    let database = DatabaseSettings {
        host: String::new(),
        port: 0,
        name: String::new(),
        user: String::new(),
        password: String::new().into(),
        publication: String::new(),
        slot_name: String::new(),
        durable_slot: false,
        max_lag_bytes: 0,
        idle_stop: Duration::ZERO,
        pool_size: 1,
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
        database,
    };
    change(&mut tenant);
    tenant
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Tenant)) -> Self {
        Self::with_backoff(change, Duration::ZERO)
    }

    fn with_backoff(change: impl FnOnce(&mut Tenant), backoff: Duration) -> Self {
        let database = Arc::new(Scripted {
            ready: AtomicBool::new(true),
            replicating: AtomicBool::new(false),
            gaps: AtomicU64::new(0),
        });
        let tenant = Arc::new(tenant(change));
        let meters = Arc::new(Meters::new(&tenant.limits));
        let runtime = TenantRuntime::new(
            tenant,
            Verifier::new(
                Keys::new(Some(SECRET), Jwks::parse(r#"{"keys":[]}"#).ok()),
                ClaimValidators::default(),
            ),
            Hub::new(0, Duration::ZERO),
            Arc::new(Routes::new(meters)),
            Arc::new(Arc::clone(&database)),
            Clock::Manual(AtomicU64::new(NOW)),
            backoff,
            Duration::from_secs(600),
        );
        Self { runtime: Arc::new(runtime), database }
    }

    fn socket(&self) -> Socket {
        let token = self.runtime.verify(&token(NOW + 100_000)).unwrap();
        let session = Session::new(
            Vsn::V2,
            Arc::new(Outbox::new(1_000_000)),
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
                | Effect::Subscribe(ticket, _)
                | Effect::AuthorizeRead(ticket, _)
                | Effect::AuthorizeWrite(ticket, _)
                | Effect::Replay(ticket, ..) => Some(ticket.clone()),
                _ => None,
            })
            .expect("an effect with a ticket")
    }

    fn complete(&mut self, completion: Completion) -> Vec<Value> {
        self.session.complete(completion, &mut self.effects);
        self.frames()
    }
}

/// The JSON of a server frame of any length under 64 KiB.
fn decoded(frame: &Bytes) -> Value {
    let header = if frame[1] == 126 { 4 } else { 2 };
    serde_json::from_slice(&frame[header..]).unwrap()
}

/// protocol 27, the public half
#[test]
fn private_only_tenants() {
    let fixture = Fixture::new(|tenant| tenant.private_only = true);
    let reason = fixture.socket().refusal("realtime:a");
    assert_eq!(reason.as_deref(), Some("PrivateOnly: This project only allows private channels"));
}

/// protocol 35
#[test]
fn the_limit_of_channels() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_channels_per_client = 1);
    let mut socket = fixture.socket();
    assert_eq!(socket.refusal("realtime:a"), None);
    assert_eq!(socket.refusal("realtime:b").as_deref(), Some("ChannelRateLimitReached: Too many channels"));
    assert_eq!(
        socket.send(json!(["1", "2", "realtime:a", "phx_leave", {}])).len(),
        2,
        "the first is unaffected"
    );
    assert_eq!(socket.refusal("realtime:a"), None);
    fixture.runtime.set_tenant(Arc::new(tenant(|tenant| tenant.limits.max_channels_per_client = 2)));
    assert_eq!(socket.refusal("realtime:b"), None);
}

/// protocol 36
#[test]
fn the_limit_of_users() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_concurrent_users = 1);
    let (mut a, mut b) = (fixture.socket(), fixture.socket());
    assert_eq!((a.refusal("realtime:a"), a.refusal("realtime:b")), (None, None));
    let reason = "ConnectionRateLimitReached: Too many connected users";
    assert_eq!(b.refusal("realtime:a").as_deref(), Some(reason));
    fixture.runtime.set_tenant(Arc::new(tenant(|tenant| tenant.limits.max_concurrent_users = 2)));
    assert_eq!(b.refusal("realtime:a"), None);
    assert_eq!(fixture.runtime.users().count(), 2);
    a.session.end();
    assert_eq!(fixture.runtime.users().count(), 1, "the place is freed when the socket ends");
}

/// A join that is refused does not count its socket as a user.
#[test]
fn refused_joins_are_no_users() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    assert!(socket.refusal("realtime:").is_some());
    socket.join("realtime:a", json!({"config": {}, "access_token": "potato"}));
    assert_eq!(fixture.runtime.users().count(), 0);
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
    assert_eq!(seen, [("phx_reply", "1"), ("phx_reply", "2"), ("phx_reply", "3"), ("phx_close", "1")]);
    assert!(socket.complete(Completion::Database(ticket, Ok(()))).is_empty(), "an answer counts once");
}

#[test]
fn a_database_that_cannot_be_reached_refuses_the_join() {
    let fixture = Fixture::new(|_| {});
    fixture.database.ready.store(false, Ordering::Relaxed);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    let (ticket, error) = (socket.ticket(), ConnectError::LackOfConnections(String::new()));
    let frames = socket.complete(Completion::Database(ticket, Err(error)));
    let reason = "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect";
    assert_eq!(frames[0][4]["response"]["reason"], reason);
    assert_eq!(
        socket.send(json!(["1", "2", "realtime:a", "x", {}]))[0][4]["response"]["reason"],
        "unmatched topic"
    );
}

/// What waits for joins is bounded: the socket is not read further.
#[test]
fn waiting_messages_are_bounded() {
    let fixture = Fixture::new(|_| {});
    fixture.database.ready.store(false, Ordering::Relaxed);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    let ticket = socket.ticket();
    for _ in 0..3 {
        assert!(socket.session.wants_input());
        socket.send(json!(["1", "2", "realtime:a", "broadcast", {"x": "x".repeat(400_000)}]));
    }
    assert!(!socket.session.wants_input());
    fixture.database.ready.store(true, Ordering::Relaxed);
    socket.complete(Completion::Database(ticket, Ok(())));
    assert!(socket.session.wants_input());
}

fn watch() -> Value {
    json!({"config": {"postgres_changes": [{"schema": "public"}]}})
}

/// postgres_changes 1.8, E1; an answer to an attempt that was overtaken means nothing.
#[test]
fn subscriptions_are_answered_once() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    assert_eq!(socket.join("realtime:a", watch()).len(), 1);
    let first = socket.ticket();
    let renewed = sign_hs256(SECRET, &json!({"role": "authenticated", "exp": NOW + 500}).to_string());
    assert!(
        socket.send(json!(["1", "2", "realtime:a", "access_token", {"access_token": renewed}])).is_empty()
    );
    let Some(Effect::Subscribe(second, request)) = socket.effects.pop() else { panic!("a second attempt") };
    assert_eq!(&*request.role, "authenticated");
    assert!(socket.complete(Completion::Subscribed(first, Ok(()))).is_empty());
    let frames = socket.complete(Completion::Subscribed(second, Ok(())));
    let messages: Vec<_> = frames.iter().map(|frame| frame[4]["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["Subscribed to PostgreSQL"]);
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
    assert_eq!(frames[0][4]["message"], r#"{:error, "Too many database timeouts"}"#);
    socket.effects.clear();
    time::advance(Duration::from_millis(4_900)).await;
    socket.session.tick(&mut socket.effects);
    assert!(socket.effects.is_empty());
    time::advance(Duration::from_millis(5_200)).await;
    socket.session.tick(&mut socket.effects);
    assert!(matches!(socket.effects[..], [Effect::Subscribe(..)]));

    let ticket = socket.ticket();
    let refusal = SubscribeRefusal::NoTable("[]".into());
    socket.complete(Completion::Subscribed(ticket, Err(refusal)));
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

/// protocol 46: the size rule
#[test]
fn broadcasts_over_the_limit() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_payload_size_in_kb = 1);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {"broadcast": {"ack": true, "self": true}}}));
    let frames = socket.send(json!(["1", "2", "realtime:a", "broadcast", {"payload": "x".repeat(1500)}]));
    assert_eq!(frames.len(), 1, "it is not delivered");
    assert_eq!(frames[0][4], json!({"status": "error", "response": "payload_size_exceeded"}));
    assert_eq!(
        socket.send(json!(["1", "3", "realtime:a", "broadcast", {"payload": "x".repeat(1400)}])).len(),
        2
    );
}

/// protocol 63, 65
#[test]
fn presence_payloads_that_cannot_be_tracked() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_payload_size_in_kb = 1);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    let mut track = |payload: Value| {
        socket.send(json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": payload}]))
    };
    let refused = json!({"status": "error", "response": {"reason": "Presence track payload must be a map"}});
    assert_eq!(track(json!("text"))[0][4], refused);
    assert_eq!(track(Value::Null)[0][4], refused);
    assert_eq!(track(json!({"n": 1})).len(), 2, "diff and reply");
    let frames = track(json!({"n": "x".repeat(2000)}));
    assert_eq!(frames[0][4]["message"], "Track message size exceeded");
    assert_eq!(frames.last().unwrap()[3], "phx_close");
}

/// protocol 24, 49: accepted, delivered and unknown events are counted.
#[tokio::test]
async fn what_counts_as_events_and_joins() {
    let fixture = Fixture::new(|_| {});
    let to_self = json!({"config": {"broadcast": {"self": true}}});
    let (mut a, mut b) = (fixture.socket(), fixture.socket());
    a.join("realtime:a", to_self.clone());
    b.join("realtime:a", to_self);
    for _ in 0..5 {
        assert_eq!(a.send(json!(["1", null, "realtime:a", "broadcast", {}])).len(), 1);
        assert_eq!(b.frames().len(), 1);
    }
    let meters = fixture.runtime.meters();
    assert_eq!((meters.events().total(), meters.joins().total()), (15, 2));
    assert!(a.send(json!(["1", "2", "realtime:a", "foo", {}])).is_empty());
    assert_eq!((meters.events().total(), meters.db_events().total()), (16, 0));
}

/// protocol 68
#[tokio::test]
async fn what_counts_as_presence_events() {
    let fixture = Fixture::new(|_| {});
    let present = json!({"config": {"presence": {"enabled": true}}});
    let (mut a, mut b) = (fixture.socket(), fixture.socket());
    let track = json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {"n": 1}}]);
    a.join("realtime:a", present.clone());
    a.send(track.clone());
    b.join("realtime:a", present);
    b.send(track.clone());
    assert_eq!(fixture.runtime.meters().presence().total(), 7);
    b.send(track);
    b.send(json!(["1", "3", "realtime:a", "presence", {"event": "untrack"}]));
    assert_eq!(fixture.runtime.meters().presence().total(), 9, "an untrack counts as its two diffs");
    assert_eq!(fixture.runtime.meters().events().total(), 0);
}

/// protocol 64: a tenant's own window; zero means the default.
#[tokio::test(start_paused = true)]
async fn presence_calls_within_a_window() {
    let fixture = Fixture::new(|tenant| {
        tenant.limits.max_client_presence_events_per_window = Some(2);
        tenant.limits.client_presence_window_ms = Some(1000);
    });
    let call = json!(["1", "2", "realtime:a", "presence", {"event": "untrack"}]);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    for _ in 0..2 {
        socket.send(call.clone());
        socket.send(call.clone());
        time::advance(Duration::from_millis(1001)).await;
    }
    socket.send(call.clone());
    socket.send(call.clone());
    let frames = socket.send(call.clone());
    assert_eq!(frames[0][4]["message"], "Client presence rate limit exceeded");
    assert_eq!((frames.len(), &frames[1][3]), (2, &json!("phx_close")), "no reply");

    let fixture = Fixture::new(|tenant| tenant.limits.max_client_presence_events_per_window = Some(0));
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    for _ in 0..5 {
        assert_eq!(socket.send(call.clone())[0][4]["status"], "ok");
    }
    assert_eq!(socket.send(call)[0][3], "system");
}

/// protocol 5.4: a tenant with too many presence events stops who tracks and who wants the state.
#[tokio::test(start_paused = true)]
async fn presence_of_a_tenant_is_limited() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_presence_events_per_second = 1);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    fixture.runtime.meters().presence().add(11);
    time::advance(Duration::from_secs(5)).await;
    let frames = socket.send(json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {}}]));
    assert_eq!(frames[0][4]["message"], "Too many presence messages per second");
    assert_eq!((frames.len(), &frames[1][3]), (2, &json!("phx_close")));
    let frames = socket.join("realtime:a", json!({"config": {"presence": {"enabled": true}}}));
    let events: Vec<_> = frames.iter().map(|frame| frame[3].as_str().unwrap()).collect();
    assert_eq!(events, ["phx_reply", "system", "phx_close"]);
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
