//! Private channels: what is asked, what waits, what is let through.

use realtime_postgres::MessageBody;
use realtime_protocol::encode;

use super::*;

const BOTH: ReadVerdict = ReadVerdict { broadcast: true, presence: Some(true) };
const WRITER: WriteVerdict = WriteVerdict { broadcast: true, presence: true };
const READER: WriteVerdict = WriteVerdict { broadcast: false, presence: false };
const DENIED: &str = "Unauthorized: You do not have permissions to read from this Channel topic: a";

fn config(broadcast: Value, presence: bool) -> Value {
    json!({"config": {"private": true, "broadcast": broadcast, "presence": {"enabled": presence, "key": "k"}}})
}

impl Socket {
    /// The question that is out, which must be the only effect.
    fn read_question(&mut self) -> (Ticket, AuthorizeRequest) {
        match self.effects.drain(..).next() {
            Some(Effect::AuthorizeRead(ticket, request)) => (ticket, *request),
            other => panic!("not a question: {other:?}"),
        }
    }

    fn write_question(&mut self) -> Ticket {
        match self.effects.drain(..).next() {
            Some(Effect::AuthorizeWrite(ticket, _)) => ticket,
            other => panic!("not a question: {other:?}"),
        }
    }

    fn join_private(&mut self, broadcast: Value, read: ReadVerdict) -> Vec<Value> {
        assert!(self.join("realtime:a", config(broadcast, read.presence.is_some())).is_empty());
        let (ticket, _) = self.read_question();
        self.complete(Completion::Read(ticket, Ok(read)))
    }

    fn broadcast(&mut self, n: u32) -> Vec<Value> {
        self.send(json!(["1", n.to_string(), "realtime:a", "broadcast", {"event": "e", "n": n}]))
    }

    fn track(&mut self) -> Vec<Value> {
        let payload = json!({"event": "track", "payload": {"n": 1}});
        self.send(json!(["1", "t", "realtime:a", "presence", payload]))
    }

    fn renew(&mut self, role: &str) -> Vec<Value> {
        let token = sign_hs256(SECRET, &json!({"role": role, "exp": NOW + 500}).to_string());
        self.send(json!(["1", "9", "realtime:a", "access_token", {"access_token": token}]))
    }
}

fn events(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame[3].as_str().unwrap()).collect()
}

fn reason(frames: &[Value]) -> &str {
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames[0][4]["response"]["reason"].as_str().unwrap()
}

/// protocol 53, 55; tenant_database 21
#[test]
fn joins_are_decided_by_the_policies() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:a", config(json!({}), true));
    assert!(socket.broadcast(2).is_empty(), "what follows waits");
    let (ticket, request) = socket.read_question();
    assert_eq!(
        (&*request.role, &*request.topic, &*request.headers, request.presence),
        ("anon", "a", "{}", true)
    );
    let none = ReadVerdict { broadcast: false, presence: Some(false) };
    let frames = socket.complete(Completion::Read(ticket, Ok(none)));
    assert_eq!((frames[0][4]["response"]["reason"].as_str(), frames.len()), (Some(DENIED), 2));
    assert_eq!(frames[1][4]["response"]["reason"], "unmatched topic");

    for (error, told) in [
        (AuthorizeError::RlsPolicy("x".into()), DENIED),
        (
            AuthorizeError::IncreaseConnectionPool,
            "IncreaseConnectionPool: Please increase your connection pool size",
        ),
        (AuthorizeError::QueryCanceled("ERROR 57014".into()), "QueryCanceled: ERROR 57014"),
        (
            ConnectError::Unreachable("x".into()).into(),
            "UnableToConnectToProject: Realtime was unable to connect to the project database",
        ),
    ] {
        socket.join("realtime:a", config(json!({}), false));
        let (ticket, request) = socket.read_question();
        assert!(!request.presence, "nobody wants it");
        assert_eq!(reason(&socket.complete(Completion::Read(ticket, Err(error)))), told);
    }
    assert_eq!(fixture.runtime.users().count(), 0);
    assert_eq!(events(&socket.join_private(json!({}), BOTH)), ["phx_reply", "presence_state"]);
}

/// protocol 51, 56; tenant_database 22: one question, whatever the answer
#[test]
fn the_first_broadcast_asks() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join_private(json!({"ack": true, "self": true}), BOTH);
    for n in 2..5 {
        assert!(socket.broadcast(n).is_empty());
    }
    let ticket = socket.write_question();
    assert!(!socket.send(json!([null, "h", "phoenix", "heartbeat", {}])).is_empty(), "others go on");
    let frames = socket.complete(Completion::Write(ticket.clone(), Ok(WRITER)));
    let numbers: Vec<_> =
        frames.iter().filter(|frame| frame[3] == "broadcast").map(|frame| frame[4]["n"].as_u64()).collect();
    assert_eq!((numbers, frames.len()), (vec![Some(2), Some(3), Some(4)], 6));
    assert_eq!(events(&socket.broadcast(5)), ["broadcast", "phx_reply"]);
    assert!(socket.complete(Completion::Write(ticket, Ok(READER))).is_empty(), "an answer counts once");
    assert_eq!(events(&socket.broadcast(6)), ["broadcast", "phx_reply"]);
    assert!(socket.effects.is_empty());
    assert!(socket.session.wants_input() && socket.session.waiting_bytes() == 0);
}

/// protocol 52; tenant_database 20, 22: not delivered, not counted; told to those who want an answer
#[test]
fn denied_broadcasts() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join_private(json!({"ack": true, "self": true}), BOTH);
    let told = json!({"status": "error", "response": {"reason": "unauthorized"}});
    socket.broadcast(2);
    let ticket = socket.write_question();
    let frames = socket.complete(Completion::Write(ticket, Ok(READER)));
    assert_eq!((frames.len(), &frames[0][4], &frames[0][1]), (1, &told, &json!("2")));
    for n in 0..100 {
        assert_eq!(socket.broadcast(n)[0][4], told);
    }
    assert!(socket.effects.is_empty());
    assert_eq!(fixture.runtime.meters().events().total(), 0);

    let mut silent = fixture.socket();
    silent.join_private(json!({"self": true}), BOTH);
    silent.broadcast(2);
    let ticket = silent.write_question();
    assert!(silent.complete(Completion::Write(ticket, Ok(READER))).is_empty());
}

/// protocol 50; tenant_database 25: what cannot be judged is dropped, and the next asks anew
#[test]
fn broadcasts_that_cannot_be_judged() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join_private(json!({"ack": true, "self": true}), BOTH);
    socket.broadcast(2);
    socket.broadcast(3);
    socket.send(json!(["1", "4", "realtime:a", "presence", {"event": "untrack"}]));
    let ticket = socket.write_question();
    let error = ConnectError::Unreachable("x".into());
    let frames = socket.complete(Completion::Write(ticket, Err(error.into())));
    assert_eq!((events(&frames), &frames[0][1]), (vec!["phx_reply"], &json!("4")), "the untrack");
    socket.broadcast(5);
    let ticket = socket.write_question();
    assert_eq!(events(&socket.complete(Completion::Write(ticket, Ok(WRITER)))), ["broadcast", "phx_reply"]);
}

/// What waits for an answer is bounded, and goes with its channel.
#[test]
fn waiting_pushes_are_bounded_and_freed() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join_private(json!({}), BOTH);
    for _ in 0..3 {
        assert!(socket.session.wants_input());
        socket.send(json!(["1", "2", "realtime:a", "broadcast", {"x": "x".repeat(400_000)}]));
    }
    assert!(!socket.session.wants_input());
    socket.send(json!(["5", "5", "realtime:a", "phx_join", {"config": {}}]));
    let member = socket.session.topics.channel_mut("realtime:a").unwrap().membership.id();
    socket.session.outbox().signal(Signal::TooManyEvents(member));
    let frames = socket.frames();
    assert_eq!(&events(&frames)[..2], ["system", "phx_close"]);
    assert_eq!(frames.last().unwrap()[4]["status"], "ok", "a join that waited is taken");
    assert!(socket.session.wants_input() && socket.session.waiting_bytes() == 0);
}

/// protocol 57, 66, 67; tenant_database 30, 31
#[test]
fn presence_is_judged_by_itself() {
    let fixture = Fixture::new(|_| {});
    let (mut presence_only, mut reader, mut blind) = (fixture.socket(), fixture.socket(), fixture.socket());
    let only = ReadVerdict { broadcast: false, presence: Some(true) };
    assert_eq!(
        events(&presence_only.join_private(json!({"self": true}), only)),
        ["phx_reply", "presence_state"]
    );
    reader.join_private(json!({}), BOTH);
    let broadcasts = ReadVerdict { broadcast: true, presence: Some(false) };
    assert_eq!(events(&blind.join_private(json!({}), broadcasts)), ["phx_reply"], "no state");

    presence_only.track();
    let ticket = presence_only.write_question();
    let write = WriteVerdict { broadcast: false, presence: true };
    let frames = presence_only.complete(Completion::Write(ticket, Ok(write)));
    assert_eq!(events(&frames), ["phx_reply", "presence_diff"]);
    assert_eq!((events(&reader.frames()), blind.frames().len()), (vec!["presence_diff"], 0));
    assert!(presence_only.broadcast(2).is_empty());

    reader.track();
    let ticket = reader.write_question();
    let frames = reader.complete(Completion::Write(ticket, Ok(READER)));
    assert_eq!((frames.len(), &frames[0][4]), (1, &json!({"status": "error", "response": {}})));
    reader.send(json!(["1", "u", "realtime:a", "presence", {"event": "untrack"}]));

    blind.broadcast(3);
    let ticket = blind.write_question();
    blind.complete(Completion::Write(ticket, Ok(WRITER)));
    assert_eq!((events(&reader.frames()), presence_only.frames().len()), (vec!["broadcast"], 0));
}

/// protocol 15.3, 67: whoever joins without presence is judged by its first track, reads before writes
#[test]
fn the_first_track_asks_for_both() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let read = ReadVerdict { broadcast: true, presence: None };
    assert_eq!(events(&socket.join_private(json!({}), read)), ["phx_reply"]);
    socket.broadcast(2);
    let ticket = socket.write_question();
    socket.complete(Completion::Write(ticket, Ok(WRITER)));
    assert!(socket.track().is_empty());
    let (ticket, request) = socket.read_question();
    assert!(request.presence);
    // What the first answer said of broadcasts stands until the token changes.
    let read = ReadVerdict { broadcast: false, presence: Some(true) };
    let frames = socket.complete(Completion::Read(ticket, Ok(read)));
    assert_eq!(events(&frames), ["phx_reply", "presence_diff"]);
    assert_eq!(frames[0][4]["status"], "ok");

    let mut other = fixture.socket();
    other.join_private(json!({"self": true}), ReadVerdict { broadcast: true, presence: None });
    other.track();
    let (ticket, _) = other.read_question();
    let frames = other.complete(Completion::Read(ticket, Err(AuthorizeError::RlsPolicy("x".into()))));
    assert_eq!((frames.len(), &frames[0][4]["status"]), (1, &json!("error")));
    other.track();
    assert!(matches!(other.effects[..], [Effect::AuthorizeRead(..)]), "asked anew");
}

/// protocol 70, 71, 72, 73; tenant_database 26, 27, 29
#[test]
fn new_tokens_are_judged() {
    let fixture = Fixture::new(|_| {});
    let refresh = |before: ReadVerdict, result: Result<ReadVerdict, AuthorizeError>| {
        let mut socket = fixture.socket();
        socket.join_private(json!({"self": true}), before);
        socket.broadcast(2);
        let ticket = socket.write_question();
        socket.complete(Completion::Write(ticket, Ok(WRITER)));
        assert!(socket.renew("other").is_empty());
        assert!(socket.broadcast(3).is_empty(), "nothing is sent on the old verdict");
        let (ticket, request) = socket.read_question();
        assert_eq!(&*request.role, "other");
        let frames = socket.complete(Completion::Read(ticket, result));
        (socket, frames)
    };
    let (mut socket, frames) = refresh(BOTH, Ok(BOTH));
    assert!(frames.is_empty());
    let ticket = socket.write_question();
    assert!(socket.complete(Completion::Write(ticket, Ok(READER))).is_empty(), "writes are judged anew");

    let none = ReadVerdict { broadcast: false, presence: Some(false) };
    let no_longer = "You no longer have permission to read from this Channel topic: a";
    for (result, text) in [
        (Ok(none), "You do not have permissions to read from this Channel topic: a"),
        (Ok(ReadVerdict { presence: Some(false), ..BOTH }), no_longer),
        (Ok(ReadVerdict { broadcast: false, ..BOTH }), no_longer),
        (
            Err(AuthorizeError::RlsPolicy("x".into())),
            "You do not have permissions to read from this Channel topic: a",
        ),
        (Err(AuthorizeError::QueryCanceled("x".into())), "Query was cancelled, please try again"),
        (
            Err(ConnectError::Unreachable("x".into()).into()),
            "Realtime was unable to connect to the project database",
        ),
    ] {
        let (_, frames) = refresh(BOTH, result);
        let told = json!({"extension": "system", "status": "error", "message": text, "channel": "a"});
        assert_eq!((&frames[0][3], &frames[0][4]), (&json!("system"), &told));
        assert_eq!(&events(&frames)[1..], ["phx_close", "phx_reply"], "what waited is answered");
    }

    let only = ReadVerdict { broadcast: false, presence: Some(true) };
    let (mut socket, frames) = refresh(only, Ok(BOTH));
    assert!(frames.is_empty());
    let ticket = socket.write_question();
    let frames = socket.complete(Completion::Write(ticket, Ok(WRITER)));
    assert_eq!(events(&frames), ["broadcast"], "a gain counts");
}

/// protocol 78: a token of a key that is not known
#[test]
fn tokens_of_unknown_keys() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join_private(json!({}), BOTH);
    // Header `{"alg":"RS256","kid":"k1"}`, claims `{"role":"anon","exp":9999999999}`, no signature worth the name.
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.eyJyb2xlIjoiYW5vbiIsImV4cCI6OTk5OTk5OTk5OX0.AAAA";
    let frames = socket.send(json!(["1", "9", "realtime:a", "access_token", {"access_token": token}]));
    let text =
        "Failed to generate JWT signer for key ID (kid) \"k1\", check your JWT secret or JWKS configuration";
    assert_eq!((&frames[0][3], &frames[0][4]["message"]), (&json!("system"), &json!(text)));
    assert_eq!(events(&frames)[1..], ["phx_close"]);
}

/// tenant_database 19
#[test]
fn private_channels_need_a_topic() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let frames = socket.join("realtime:", config(json!({}), false));
    assert_eq!(reason(&frames), "TopicNameRequired: You must provide a topic name");
    assert!(socket.effects.is_empty());
}

/// protocol 71, 76: a token that is already used is no change, nor are keys
#[test]
fn tokens_that_change_nothing() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join_private(json!({}), BOTH);
    let same = token(NOW + 100_000);
    for token in [json!("sb_publishable_x"), json!(same), Value::Null] {
        socket.send(json!(["1", "9", "realtime:a", "access_token", {"access_token": token}]));
    }
    assert!(socket.effects.is_empty());
}

fn replayed(id: u128, event: Option<&str>, body: MessageBody) -> ReplayedMessage {
    let id = uuid::Uuid::from_u128(id).to_string().into();
    ReplayedMessage { id, event: event.map(Into::into), body, at_ms: 0 }
}

/// protocol 79, 80; tenant_database 66
#[test]
fn missed_messages_follow_the_reply() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let replay = |replay: Value| config(json!({ "replay": replay }), false);
    let read = ReadVerdict { broadcast: true, presence: None };
    socket.join("realtime:a", replay(json!({"since": 1})));
    let (ticket, _) = socket.read_question();
    assert!(socket.complete(Completion::Read(ticket, Ok(read))).is_empty());
    let Some(Effect::Replay(ticket, topic, _)) = socket.effects.pop() else { panic!("a replay") };
    assert_eq!(&*topic, "a");
    // Said while stored messages are being read: kept, unless they turn out to be among them.
    let key = realtime_hub::RoomKey {
        tenant: "t".into(),
        audience: realtime_hub::Audience::Private,
        topic: "realtime:a".into(),
    };
    let hub = Arc::clone(fixture.runtime.hub());
    let publish =
        |id| drop(hub.say_stored(&key, id, None, |vsn| Some(encode::broadcast(vsn, "realtime:a", b"{}"))));
    publish(2);
    publish(4);
    assert!(socket.frames().is_empty());
    let messages = vec![
        replayed(1, Some("e"), MessageBody::Json("{\"n\": 1}".into())),
        replayed(2, None, MessageBody::Json("null".into())),
    ];
    let frames = socket.complete(Completion::Replayed(ticket, Ok(messages)));
    let payload = json!({"type": "broadcast", "event": "e", "payload": {"n": 1},
        "meta": {"id": "00000000-0000-0000-0000-000000000001", "replayed": true}});
    assert_eq!(frames[0][3], "phx_reply");
    assert_eq!(frames[1], json!(["1", null, "realtime:a", "broadcast", payload]));
    assert_eq!((frames.len(), &frames[2][4]["event"]), (4, &Value::Null));
    assert_eq!(frames[3][4], json!({}), "what came meanwhile");

    // What was replayed does not come again; nor is anything counted for it.
    for (id, expected) in [(1, 0), (3, 1)] {
        publish(id);
        assert_eq!(socket.frames().len(), expected, "{id}");
    }
    assert_eq!(fixture.runtime.meters().events().total(), 2);
}

/// What all stored messages take may be more than an outbox: the newest come, and the gap is told.
#[test]
fn missed_messages_that_do_not_fit_are_left_out() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:a", config(json!({"replay": {"since": 1}}), false));
    let (ticket, _) = socket.read_question();
    socket.complete(Completion::Read(ticket, Ok(ReadVerdict { broadcast: true, presence: None })));
    let Some(Effect::Replay(ticket, ..)) = socket.effects.pop() else { panic!("a replay") };
    let body = |n: u32| MessageBody::Json(json!({"n": n, "x": "x".repeat(2_000_000)}).to_string().into());
    let messages = (1..=25).map(|n| replayed(n.into(), Some("e"), body(n))).collect();
    let frames = socket.complete(Completion::Replayed(ticket, Ok(messages)));
    assert!(!socket.session.outbox().is_closed());
    assert_eq!(frames[0][3], "phx_reply");
    assert_eq!((&frames[1][4]["status"], &frames[1][4]["code"]), (&json!("gap"), &json!("MessagesNotKept")));
    let came: Vec<_> = frames[2..].iter().map(|frame| frame[4]["payload"]["n"].clone()).collect();
    assert_eq!(came, [23, 24, 25]);
}

/// protocol 80; tenant_database 63, 67
#[test]
fn replays_that_are_refused() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let payload = |replay: Value| config(json!({ "replay": replay }), true);
    let mut ask = |replay: Value, read: ReadVerdict| {
        socket.join("realtime:a", payload(replay));
        let (ticket, _) = socket.read_question();
        let frames = socket.complete(Completion::Read(ticket, Ok(read)));
        (frames, socket.effects.drain(..).next())
    };
    for replay in [json!({}), json!({"since": "x"}), json!({"since": 1, "limit": "x"})] {
        let (frames, _) = ask(replay, BOTH);
        assert_eq!(reason(&frames), "UnableToReplayMessages: Replay params are not valid");
    }
    let only = ReadVerdict { broadcast: false, presence: Some(true) };
    assert_eq!(reason(&ask(json!({"since": 1}), only).0), DENIED);
    let (frames, Some(Effect::Replay(ticket, ..))) = ask(json!({"since": 1}), BOTH) else {
        panic!("a replay")
    };
    assert!(frames.is_empty());
    let (frames, _) =
        (socket.complete(Completion::Replayed(ticket, Err(ReplayError::Failed("x".into())))), ());
    assert_eq!(reason(&frames), "UnableToReplayMessages: Realtime was unable to replay messages");
    let public = json!({"config": {"broadcast": {"replay": {"since": 1}}}});
    let frames = socket.join("realtime:a", public);
    assert_eq!(reason(&frames), "UnableToReplayMessages: Replay is not allowed for public channels");
    socket.join("realtime:a", payload(json!("text")));
    let (ticket, _) = socket.read_question();
    let frames = socket.complete(Completion::Read(ticket, Ok(BOTH)));
    assert_eq!(events(&frames), ["phx_reply", "presence_state"], "what is no object asks for nothing");
}

/// protocol 83
#[tokio::test(start_paused = true)]
async fn who_asks_is_told_that_broadcasts_arrive() {
    let fixture = Fixture::new(|_| {});
    let ready = json!({"config": {"broadcast": {"replication_ready": true}}});
    let told = json!({"extension": "system", "status": "ok", "message": "Replication connection established",
        "channel": "a"});
    let (mut early, mut never) = (fixture.socket(), fixture.socket());
    assert_eq!(early.join("realtime:a", ready.clone()).len(), 1);
    assert!(matches!(early.effects[..], [Effect::WatchReplication(_)]));
    early.join("realtime:b", ready.clone());
    assert_eq!(early.effects.len(), 1, "one is enough");
    never.join("realtime:a", ready.clone());

    fixture.database.replicating.store(true, Ordering::Relaxed);
    let frames = early.complete(Completion::ReplicationDiffers);
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().any(|frame| frame[4] == told && frame[0] == "1"));
    assert!(early.complete(Completion::ReplicationDiffers).is_empty(), "told once");
    assert_eq!(early.effects.len(), 3, "watched on");
    let mut late = fixture.socket();
    let frames = late.join("realtime:a", ready);
    assert_eq!((frames.len(), &frames[1][4]), (2, &told));
    assert_eq!(late.join("realtime:c", json!({"config": {}})).len(), 1, "nobody else is told");

    time::advance(Duration::from_secs(60)).await;
    never.session.tick(&mut never.effects);
    let frames = never.frames();
    assert_eq!(frames[0][4]["message"], "Replication connection was not established in time");
    assert_eq!(events(&frames), ["system", "phx_close"]);
    early.session.tick(&mut early.effects);
    assert!(early.frames().is_empty());
}

/// spec README, decision 2: a gap is told, then that it is over, by those who asked alone
#[test]
fn gaps_are_told_to_those_who_asked() {
    let fixture = Fixture::new(|_| {});
    let (replicating, gaps) = (&fixture.database.replicating, &fixture.database.gaps);
    replicating.store(true, Ordering::Relaxed);
    let mut socket = fixture.socket();
    assert_eq!(
        socket.join("realtime:a", json!({"config": {"broadcast": {"replication_ready": true}}})).len(),
        2
    );
    socket.join("realtime:b", json!({"config": {}}));
    let differs = |socket: &mut Socket| {
        let frames = socket.complete(Completion::ReplicationDiffers);
        assert!(frames.iter().all(|frame| frame[2] == "realtime:a"));
        frames.iter().map(|frame| frame[4]["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // A permanent slot goes on where it ended: nothing is missing.
    replicating.store(false, Ordering::Relaxed);
    assert!(differs(&mut socket).is_empty());
    replicating.store(true, Ordering::Relaxed);
    assert!(differs(&mut socket).is_empty());

    replicating.store(false, Ordering::Relaxed);
    gaps.store(1, Ordering::Relaxed);
    assert_eq!(differs(&mut socket), ["gap"]);
    assert!(differs(&mut socket).is_empty());
    replicating.store(true, Ordering::Relaxed);
    assert_eq!(differs(&mut socket), ["ok"]);
    gaps.store(3, Ordering::Relaxed);
    assert_eq!(differs(&mut socket), ["gap", "ok"], "too quick to be seen in between");
}
