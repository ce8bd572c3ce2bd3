//! New tokens of joined channels: what is judged, what ends, what goes on meanwhile.

use super::*;

const EXPIRED: &str =
    "The token expired before the database had judged the new one: messages may have been missed";

impl Socket {
    fn renew_with(&mut self, claims: Value) -> Vec<Value> {
        let token = sign_hs256(SECRET, &claims.to_string());
        self.send(json!(["1", "9", "realtime:a", "access_token", {"access_token": token}]))
    }

    /// The one question for rows that is out.
    fn rows_question(&mut self) -> (Ticket, SubscribeRequest) {
        match self.effects.drain(..).next() {
            Some(Effect::Subscribe(ticket, request)) => (ticket, *request),
            other => panic!("not a subscription: {other:?}"),
        }
    }

    /// Joins a channel that watches the database, and returns what it watches with.
    fn watching(&mut self, access_token: &str) -> SubscribeRequest {
        let mut payload = watch();
        payload["access_token"] = json!(access_token);
        self.join("realtime:a", payload);
        let (ticket, request) = self.rows_question();
        assert_eq!(self.complete(Completion::Subscribed(ticket, Ok(()))).len(), 2);
        request
    }
}

fn refused() -> SubscribeRefusal {
    SubscribeRefusal::raised("[]".into(), "invalid column for filter salary")
}

/// A token that the database refuses ends what was watched with the former one; the channel lives on, and the next token
/// may watch again.
#[test]
fn a_refused_token_ends_what_was_watched() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let first = socket.watching(&token(NOW + 100));
    assert!(socket.renew_with(json!({"role": "other", "exp": NOW + 500})).is_empty());
    let (ticket, second) = socket.rows_question();
    assert_eq!((second.channel, &*second.role), (first.channel, "other"));
    assert!(!first.generation.is_current() && second.generation.is_current());
    let told = socket.complete(Completion::Subscribed(ticket, Err(refused())));
    assert_eq!((told.len(), &told[0][4]["status"]), (1, &json!("warning")));
    assert!(told[0][4]["message"].as_str().unwrap().ends_with("invalid column for filter salary"));
    assert!(fixture.runtime.routes().is_empty(), "no row finds its way any more");
    assert!(!second.generation.is_current());
    assert_eq!(fixture.database.unsubscribed.load(Ordering::Relaxed), 1);

    socket.renew_with(json!({"role": "third", "exp": NOW + 500}));
    let (ticket, third) = socket.rows_question();
    assert_ne!(third.channel, first.channel, "what is still on its way to the former one cannot come");
    assert_eq!(
        messages(&socket.complete(Completion::Subscribed(ticket, Ok(())))),
        ["Subscribed to PostgreSQL"]
    );
    assert_eq!(fixture.runtime.routes().len(), 1);
}

/// Of many tokens a few are judged at once, then one at a time: the last one. What else the client says goes on.
#[tokio::test(start_paused = true)]
async fn only_the_last_token_that_waits_is_judged() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.watching(&token(NOW + 10_000));
    for n in 0..3_000 {
        assert!(socket.renew_with(json!({"role": "ann", "exp": NOW + 5_000})).is_empty());
        assert!(socket.renew_with(json!({"role": format!("bob{n}"), "exp": NOW + 5_000})).is_empty());
    }
    assert!(socket.effects.len() < 10, "{}", socket.effects.len());
    assert_eq!(socket.session.waiting_bytes(), 0);
    assert_eq!(socket.send(json!([null, "h", "phoenix", "heartbeat", {}])).len(), 1);
    socket.effects.clear();
    let due = socket.session.deadline().unwrap();
    assert!(due <= time::Instant::now() + Duration::from_secs(2));
    time::advance(Duration::from_secs(2)).await;
    socket.tick();
    let (ticket, request) = socket.rows_question();
    assert_eq!((&*request.role, socket.effects.len()), ("bob2999", 0));
    assert_eq!(
        messages(&socket.complete(Completion::Subscribed(ticket, Ok(())))),
        ["Subscribed to PostgreSQL"]
    );
    time::advance(Duration::from_secs(60)).await;
    socket.tick();
    assert!(socket.effects.is_empty(), "nothing waits any more");
}

/// The former token sees rows while the next one is judged, but no longer than it lasts.
#[tokio::test(start_paused = true)]
async fn a_former_token_sees_nothing_past_its_expiry() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let first = socket.watching(&token(NOW + 6));
    socket.renew_with(json!({"role": "other", "exp": NOW + 500}));
    let (void, second) = socket.rows_question();
    time::advance(Duration::from_secs(5)).await;
    fixture.set_time(NOW + 5);
    assert!(socket.tick().is_empty());
    assert!(second.generation.is_current());
    time::advance(Duration::from_secs(1)).await;
    fixture.set_time(NOW + 6);
    assert_eq!(messages(&socket.tick()), [EXPIRED]);
    assert!(!second.generation.is_current());
    let (ticket, third) = socket.rows_question();
    assert_ne!(third.channel, first.channel);
    assert_eq!(fixture.runtime.routes().len(), 1);
    assert!(socket.complete(Completion::Subscribed(void, Ok(()))).is_empty());
    assert_eq!(
        messages(&socket.complete(Completion::Subscribed(ticket, Ok(())))),
        ["Subscribed to PostgreSQL"]
    );
}

/// A former token sees nothing past its expiry, even if the database does not answer, or if another one has taken its place.
#[tokio::test(start_paused = true)]
async fn a_former_token_sees_nothing_past_its_expiry_in_trouble() {
    for replaced in [false, true] {
        let fixture = Fixture::new(|_| {});
        let mut socket = fixture.socket();
        socket.watching(&token(NOW + 6));
        socket.renew_with(json!({"role": "other", "exp": NOW + 500}));
        let (ticket, request) = socket.rows_question();
        if replaced {
            socket.session.outbox().signal(Signal::DatabaseReplaced { elsewhere: false });
            assert_eq!(socket.frames().len(), 1);
        } else {
            let trouble = SubscribeRefusal::Unavailable("x".into());
            let told = socket.complete(Completion::Subscribed(ticket, Err(trouble)));
            assert_eq!((told.len(), &told[0][4]["status"]), (1, &json!("warning")));
        }
        time::advance(Duration::from_secs(6)).await;
        fixture.set_time(NOW + 6);
        let told = socket.tick();
        assert!(messages(&told).contains(&EXPIRED), "{told:?}");
        assert!(!request.generation.is_current());
        time::advance(Duration::from_secs(10)).await;
        socket.tick();
        assert_eq!(&*socket.rows_question().1.role, "other");
    }
}

/// A token that expires while another one waits for its turn gives way to that one.
#[tokio::test(start_paused = true)]
async fn a_token_that_waits_takes_the_place_of_one_that_expires() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.watching(&token(NOW + 1));
    for n in 0..5 {
        socket.renew_with(json!({"role": format!("r{n}"), "exp": NOW + 1}));
    }
    socket.renew_with(json!({"role": "last", "exp": NOW + 500}));
    socket.effects.clear();
    time::advance(Duration::from_secs(1)).await;
    fixture.set_time(NOW + 1);
    let told = socket.tick();
    assert!(told.iter().all(|frame| frame[3] != "phx_close"), "{told:?}");
    assert!(
        socket
            .effects
            .iter()
            .all(|effect| matches!(effect, Effect::Subscribe(_, request) if &*request.role == "last"))
    );
    assert!(!socket.effects.is_empty());
}

/// A join whose token expires while the database is asked is refused: nothing comes that was kept for it.
#[tokio::test(start_paused = true)]
async fn a_join_whose_token_expires_meanwhile_is_refused() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let mut payload = watch();
    payload["access_token"] = json!(token(NOW + 2));
    socket.join("realtime:a", payload.clone());
    let (ticket, request) = socket.rows_question();
    fixture.set_time(NOW + 7);
    let frames = socket.complete(Completion::Subscribed(ticket, Ok(())));
    let reason = "InvalidJWTToken: Token has expired 5 seconds ago";
    assert_eq!((frames.len(), &frames[0][4]["response"]["reason"]), (1, &json!(reason)));
    assert!(!request.generation.is_current() && fixture.runtime.routes().is_empty());

    fixture.set_time(NOW);
    fixture.database.ready.store(false, Ordering::Relaxed);
    socket.join("realtime:a", payload);
    let ticket = socket.ticket();
    fixture.set_time(NOW + 7);
    let frames = socket.complete(Completion::Database(ticket, Ok(())));
    assert_eq!(frames[0][4]["response"]["reason"], reason);
}

/// A private channel whose former token expires hears nothing until the policies have judged the next one.
#[tokio::test(start_paused = true)]
async fn a_private_channel_is_deaf_once_its_former_token_has_expired() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let read = ReadVerdict { broadcast: true, presence: None };
    let private = json!({"config": {"private": true}, "access_token": token(NOW + 6)});
    socket.join("realtime:a", private);
    let ticket = socket.ticket();
    socket.complete(Completion::Read(ticket, Ok(read)));
    let mut speaker = fixture.socket();
    speaker.join("realtime:a", json!({"config": {"private": true}}));
    let ticket = speaker.ticket();
    speaker.complete(Completion::Read(ticket, Ok(read)));
    speaker.send(json!(["1", "2", "realtime:a", "broadcast", {"event": "e", "n": 1}]));
    let ticket = speaker.ticket();
    let write = WriteVerdict { broadcast: true, presence: true };
    speaker.complete(Completion::Write(ticket, Ok(write)));
    assert_eq!(socket.frames().len(), 1);

    socket.renew_with(json!({"role": "other", "exp": NOW + 500}));
    let ticket = socket.ticket();
    speaker.send(json!(["1", "3", "realtime:a", "broadcast", {"event": "e", "n": 2}]));
    assert_eq!(socket.frames().len(), 1, "the former token still lasts");
    time::advance(Duration::from_secs(6)).await;
    fixture.set_time(NOW + 6);
    assert_eq!(messages(&socket.tick()), [EXPIRED]);
    speaker.send(json!(["1", "4", "realtime:a", "broadcast", {"event": "e", "n": 3}]));
    assert!(socket.frames().is_empty());
    assert!(socket.complete(Completion::Read(ticket, Ok(read))).is_empty());
    speaker.send(json!(["1", "5", "realtime:a", "broadcast", {"event": "e", "n": 4}]));
    assert_eq!(socket.frames()[0][4]["n"], 4);
}

/// Who cannot be judged again and again does not make the database work each time.
#[tokio::test(start_paused = true)]
async fn failing_questions_are_put_now_and_then() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let read = ReadVerdict { broadcast: true, presence: None };
    socket.join("realtime:a", json!({"config": {"private": true}}));
    let ticket = socket.ticket();
    socket.complete(Completion::Read(ticket, Ok(read)));
    socket.effects.clear();
    let mut asked = 0;
    for n in 0..1_000 {
        socket.send(json!(["1", "2", "realtime:a", "broadcast", {"event": "e", "n": n}]));
        if let Some(Effect::AuthorizeWrite(ticket, _)) = socket.effects.pop() {
            asked += 1;
            let error = AuthorizeError::RlsPolicy("x".into());
            assert!(socket.complete(Completion::Write(ticket, Err(error))).is_empty());
        }
    }
    assert_eq!(asked, 5);
    time::advance(Duration::from_secs(2)).await;
    socket.send(json!(["1", "2", "realtime:a", "broadcast", {"event": "e"}]));
    assert!(matches!(socket.effects[..], [Effect::AuthorizeWrite(..)]));
}

/// What waits on a topic is moved once, though each answer makes it wait again; of tokens in a row the last one stays.
#[test]
fn what_waits_is_not_moved_for_each_answer() {
    let fixture = Fixture::new(|tenant| {
        // A socket may ask for so many joins at once.
        (tenant.limits.max_channels_per_client, tenant.limits.max_joins_per_second) = (1_000, 1_000);
    });
    let mut socket = fixture.socket();
    let private = json!({"config": {"private": true}});
    socket.join("realtime:a", private.clone());
    let first = socket.ticket();
    for n in 0..500 {
        socket.send(json!([n.to_string(), n.to_string(), "realtime:a", "phx_join", private]));
        for role in ["ann", "bob"] {
            socket.renew_with(json!({"role": role, "exp": NOW + 500}));
        }
    }
    let Some(Topic::Joining(joining)) = socket.session.topics.get_mut("realtime:a") else {
        panic!("joining")
    };
    assert_eq!(joining.waiting.len(), 1_000);
    let mut ticket = first;
    let denied = ReadVerdict { broadcast: false, presence: None };
    for left in (0..500).rev() {
        socket.complete(Completion::Read(ticket, Ok(denied)));
        let Some(Topic::Joining(joining)) = socket.session.topics.get_mut("realtime:a") else {
            panic!("joining")
        };
        assert_eq!(joining.waiting.len(), left * 2 + 1);
        ticket = socket.ticket();
    }
    socket.complete(Completion::Read(ticket, Ok(denied)));
    assert_eq!((socket.session.waiting_bytes(), socket.session.topics.len()), (0, 0));
}

/// A text that is too long for a token ends the channel, as one that is none: nothing is kept of it until it is judged.
#[test]
fn a_token_has_a_length() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {}}));
    for n in 1..20 {
        assert!(socket.renew_with(json!({"role": "anon", "exp": NOW + 500 + n})).is_empty());
    }
    let long = "x".repeat(70_000);
    let told = socket.send(json!(["1", "9", "realtime:a", "access_token", {"access_token": long}]));
    assert_eq!(told[0][4]["message"], "The token provided is not a valid JWT", "{told:?}");
    assert_eq!(told[1][3], "phx_close", "{told:?}");
}
