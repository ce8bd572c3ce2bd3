//! Presence as one socket sees it.

use realtime_hub::Memory;

use super::*;

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
    let fixture = Fixture::closing(|tenant| {
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

    let fixture = Fixture::closing(|tenant| tenant.limits.max_client_presence_events_per_window = Some(0));
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
    let fixture = Fixture::closing(|tenant| tenant.limits.max_presence_events_per_second = 1);
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

/// The calls above the window are merged: the last one counts when it opens, which the client is told once.
#[tokio::test(start_paused = true)]
async fn presence_calls_above_the_window_are_merged() {
    let fixture = Fixture::new(|tenant| {
        tenant.limits.max_client_presence_events_per_window = Some(2);
        tenant.limits.client_presence_window_ms = Some(1000);
    });
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {"presence": {"enabled": true, "key": "k"}}}));
    let track = |n: u32| json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {"n": n}}]);
    let joined = |frames: &[Value]| -> Vec<Value> {
        let diffs = frames.iter().filter(|frame| frame[3] == "presence_diff");
        diffs.map(|diff| diff[4]["joins"]["k"]["metas"][0]["n"].clone()).collect()
    };
    for n in 1..=2 {
        assert_eq!(joined(&socket.send(track(n))), [n]);
    }
    let frames = socket.send(track(3));
    assert_eq!((frames.len(), &frames[0][4]["status"]), (2, &json!("ok")));
    assert_eq!(
        frames[1][4],
        json!({
            "extension": "system", "status": "warning", "code": "ClientPresenceRateLimitReached", "channel": "a",
            "message": "Client presence rate limit exceeded: the last call counts later",
        })
    );
    let untrack = json!(["1", "2", "realtime:a", "presence", {"event": "untrack"}]);
    for call in [untrack.clone(), track(4), track(5)] {
        let frames = socket.send(call);
        assert_eq!((frames.len(), &frames[0][4]["status"]), (1, &json!("ok")), "told once");
    }
    time::advance(Duration::from_millis(1000)).await;
    assert!(socket.tick().is_empty(), "not yet");
    time::advance(Duration::from_millis(1)).await;
    assert!(socket.session.deadline().is_some_and(|at| at <= time::Instant::now()));
    assert_eq!(joined(&socket.tick()), [5]);
    assert!(socket.tick().is_empty(), "it counts once");
    // It was a call of the new window.
    assert_eq!(joined(&socket.send(track(6))), [6]);
    assert_eq!(socket.send(untrack).len(), 2);
    time::advance(Duration::from_millis(1001)).await;
    let frames = socket.tick();
    assert_eq!((frames.len(), &frames[0][4]["leaves"]["k"]["metas"][0]["n"]), (1, &json!(6)));
}

/// A channel that leaves takes what was merged with it.
#[tokio::test(start_paused = true)]
async fn merged_calls_end_with_their_channel() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_client_presence_events_per_window = Some(1));
    let mut socket = fixture.socket();
    let track = |n: u32| json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {"n": n}}]);
    socket.join("realtime:a", json!({"config": {"presence": {"enabled": true}}}));
    socket.send(track(1));
    socket.send(track(2));
    socket.send(json!(["1", "3", "realtime:a", "phx_leave", {}]));
    socket.join("realtime:a", json!({"config": {"presence": {"enabled": true}}}));
    time::advance(Duration::from_secs(60)).await;
    assert!(socket.tick().is_empty());
}

/// What was merged is held for the client like what is tracked, until its channel ends.
#[tokio::test(start_paused = true)]
async fn merged_calls_count_as_memory() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_client_presence_events_per_window = Some(1));
    let memory = Memory::new(100_000_000);
    let mut socket = fixture.socket();
    let token = fixture.runtime.verify(&token(NOW + 100_000)).unwrap();
    socket.session = Session::new(
        Vsn::V2,
        Outbox::counted(10_000_000, None, &memory),
        Arc::clone(&fixture.runtime),
        Arc::new(token),
        "{}".into(),
    );
    socket.join("realtime:a", json!({"config": {"presence": {"enabled": true}}}));
    let track = |bytes| {
        let payload = json!({"x": "x".repeat(bytes)});
        json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": payload}])
    };
    socket.send(track(1));
    let before = memory.used();
    // Other tests make small frames meanwhile.
    let grown = |by: usize| memory.used().abs_diff(before + by) < 300_000;
    for bytes in [1_000_000, 2_000_000] {
        socket.send(track(bytes));
        assert!(grown(bytes), "{} of {bytes}", memory.used() - before);
    }
    socket.send(json!(["1", "3", "realtime:a", "phx_leave", {}]));
    assert!(grown(0));
}

/// A tenant with too many presence events: tracks are merged until there are fewer, states are sent.
#[tokio::test(start_paused = true)]
async fn presence_of_a_tenant_above_its_limit_is_merged() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_presence_events_per_second = 1);
    let mut socket = fixture.socket();
    socket.join("realtime:a", json!({"config": {"presence": {"enabled": true, "key": "k"}}}));
    fixture.runtime.meters().presence().add(21);
    time::advance(Duration::from_secs(5)).await;
    let frames = socket.send(json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {}}]));
    assert_eq!((frames.len(), &frames[0][4]["status"]), (2, &json!("ok")));
    assert_eq!(frames[1][4]["code"], "PresenceRateLimitReached");
    let frames = fixture.socket().join("realtime:a", json!({"config": {"presence": {"enabled": true}}}));
    assert_eq!(frames.iter().map(|frame| &frame[3]).collect::<Vec<_>>(), ["phx_reply", "presence_state"]);
    for _ in 0..60 {
        time::advance(Duration::from_secs(1)).await;
        if let [diff] = &*socket.tick() {
            assert!(diff[4]["joins"]["k"].is_object(), "{diff}");
            return;
        }
    }
    panic!("it never counts");
}

/// clients 6: on a socket of serializer 1.0.0 diffs wait for the answers to its joins, a second at most.
#[tokio::test(start_paused = true)]
async fn diffs_wait_for_open_joins() {
    let fixture = Fixture::new(|_| {});
    let (mut v1, mut v2, mut other) = (fixture.socket_of(Vsn::V1), fixture.socket(), fixture.socket());
    let presence = json!({"config": {"presence": {"enabled": true}}});
    let join_v1 = |topic: &str| json!({"topic": topic, "event": "phx_join", "payload": presence, "ref": "1", "join_ref": "1"});
    v1.send(join_v1("realtime:a"));
    v2.join("realtime:a", presence.clone());
    other.join("realtime:a", json!({"config": {}}));
    let mut track = |n: u32| {
        let call = json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {"n": n}}]);
        other.send(call);
    };
    fixture.database.ready.store(false, Ordering::Relaxed);
    assert!(v1.send(join_v1("realtime:b")).is_empty());
    assert!(v2.join("realtime:b", presence.clone()).is_empty());
    let ticket = v1.ticket();
    track(1);
    assert!(v1.frames().is_empty());
    assert_eq!(v2.frames().len(), 1, "serializer 2.0.0 waits for nothing");
    let frames = v1.complete(Completion::Database(ticket, Ok(())));
    let events: Vec<_> = frames.iter().map(|frame| frame["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["phx_reply", "presence_state", "presence_diff"]);
    // One that is not answered holds them for a second.
    assert!(v1.send(join_v1("realtime:c")).is_empty());
    track(2);
    assert!(v1.frames().is_empty());
    time::advance(Duration::from_secs(1)).await;
    assert!(v1.session.deadline().is_some_and(|at| at <= time::Instant::now()));
    assert_eq!(v1.tick().len(), 1);
    track(3);
    assert_eq!(v1.frames().len(), 1);
}

/// The state comes when the client has read what waits; also again, when it has missed a large diff meanwhile.
#[tokio::test(start_paused = true)]
async fn states_wait_for_who_reads() {
    let fixture = Fixture::new(|_| {});
    let (mut reader, mut speaker) = (fixture.socket(), fixture.socket());
    let track = |n: u32, bytes: usize| {
        let payload = json!({"n": n, "x": "x".repeat(bytes)});
        json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": payload}])
    };
    speaker.join("realtime:a", json!({"config": {"presence": {"key": "k"}}}));
    speaker.send(track(1, 2_900_000));
    let outbox = Arc::clone(reader.session.outbox());
    let waits = || outbox.queue(Bytes::from(vec![b' '; 8_000_000]));
    waits().unwrap();
    let join = json!(["1", "1", "realtime:a", "phx_join", {"config": {"presence": {"enabled": true}}}]);
    reader.session.receive(Opcode::Text, join.to_string().into(), &mut reader.effects);
    let mut sent = VecDeque::new();
    outbox.take(&mut sent);
    assert_eq!(sent.len(), 2, "what waited, and the reply");
    let at = reader.session.deadline().unwrap();
    time::advance(at - time::Instant::now()).await;
    let frames = reader.tick();
    assert_eq!((&frames[0][3], &frames[0][4]["k"]["metas"][0]["n"]), (&json!("presence_state"), &json!(1)));
    time::advance(Duration::from_secs(5)).await;
    assert!(reader.tick().is_empty(), "once");

    waits().unwrap();
    speaker.send(track(2, 2_900_000));
    for signal in outbox.take_signals() {
        reader.session.signal(signal, &mut reader.effects);
    }
    time::advance(Duration::from_millis(100)).await;
    reader.session.tick(&mut reader.effects);
    outbox.take(&mut sent);
    assert_eq!(sent.len(), 3, "what waited was not read");
    time::advance(Duration::from_millis(100)).await;
    let frames = reader.tick();
    assert_eq!((&frames[0][3], &frames[0][4]["k"]["metas"][0]["n"]), (&json!("presence_state"), &json!(2)));
}

/// What has no room is refused; what was merged and has none is told.
#[tokio::test(start_paused = true)]
async fn what_has_no_room_is_refused() {
    let fixture = Fixture::new(|tenant| {
        tenant.limits.max_client_presence_events_per_window = Some(1);
        tenant.limits.client_presence_window_ms = Some(1000);
    });
    let (mut first, mut second) = (fixture.socket(), fixture.socket());
    let track = |bytes: usize| json!(["1", "2", "realtime:a", "presence", {"event": "track", "payload": {"x": "x".repeat(bytes)}}]);
    first.join("realtime:a", json!({"config": {"presence": {"key": "a"}}}));
    second.join("realtime:a", json!({"config": {"presence": {"key": "b"}}}));
    first.send(track(2_900_000));
    let frames = second.send(track(2_900_000));
    let reply = frames.iter().find(|frame| frame[3] == "phx_reply").unwrap();
    assert_eq!(reply[4]["status"], "error");
    assert!(reply[4]["response"]["reason"].as_str().unwrap().starts_with("PresenceTooLarge: "));
    let presence = fixture.runtime.meters().presence().total();
    second.send(track(2_900_000));
    time::advance(Duration::from_millis(1001)).await;
    let told = second.tick();
    assert_eq!((&told[0][4]["status"], &told[0][4]["code"]), (&json!("warning"), &json!("PresenceTooLarge")));
    assert_eq!(fixture.runtime.meters().presence().total(), presence);
}
