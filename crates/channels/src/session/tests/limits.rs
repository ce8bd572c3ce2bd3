//! What is counted, and what is too much.

use super::*;

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
    fixture.runtime.set_tenant(tenant(|tenant| tenant.limits.max_channels_per_client = 2).into());
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
    fixture.runtime.set_tenant(tenant(|tenant| tenant.limits.max_concurrent_users = 2).into());
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

/// What one socket asks for, or gets wrong, is not counted for everybody.
#[tokio::test(start_paused = true)]
async fn joins_of_one_socket_count_against_it_first() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let reason = "ClientJoinRateLimitReached: Too many joins per second";
    let mut refused = 0;
    for _ in 0..6_000 {
        refused += usize::from(socket.refusal("realtime:a").as_deref() == Some(reason));
    }
    assert_eq!(refused, 5_800);
    assert!(socket.effects.iter().all(|effect| !matches!(effect, Effect::Close(_))), "it lives");
    let joins = fixture.runtime.meters().joins();
    assert_eq!(joins.total(), 200);
    time::advance(Duration::from_secs(5)).await;
    assert!(!joins.is_triggered(), "nobody else is concerned");

    let mut wrong = fixture.socket();
    for _ in 0..100 {
        wrong.join("realtime:a", json!({"config": {}, "access_token": "bad"}));
    }
    assert_eq!(joins.total(), 200);
    time::advance(Duration::from_secs(1)).await;
    assert_eq!(socket.refusal("realtime:a"), None, "some are free again");
}

/// Above the limit as many pass in each second as it allows. The sender of one more is told the limit; nobody's channel
/// ends.
#[tokio::test(start_paused = true)]
async fn broadcasts_above_the_limit_are_not_delivered() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_events_per_second = 3);
    let (mut speaker, mut listener) = (fixture.socket(), fixture.socket());
    speaker.join("realtime:a", json!({"config": {"broadcast": {"ack": true, "self": true}}}));
    listener.join("realtime:a", json!({"config": {}}));
    fixture.runtime.meters().events().add(1000);
    time::advance(Duration::from_secs(5)).await;
    let call = json!(["1", "2", "realtime:a", "broadcast", {"event": "e"}]);
    for _ in 0..2 {
        // One was accepted and two were delivered.
        assert_eq!(speaker.send(call.clone()).len(), 2);
        assert_eq!(listener.frames().len(), 1);
        let frames = speaker.send(call.clone());
        let refused = json!({"reason": "Too many messages per second", "limit": 3});
        assert_eq!((frames.len(), &frames[0][4]), (1, &json!({"status": "error", "response": refused})));
        assert!(listener.frames().is_empty());
        time::sleep(Duration::from_millis(1001)).await;
        for socket in [&mut speaker, &mut listener] {
            let frames = socket.frames();
            assert_eq!((frames.len(), &frames[0][4]["code"]), (1, &json!("MessagesDropped")));
            assert_eq!(frames[0][4]["count"], 1);
        }
    }
}

/// A socket that goes on with ten times the limit for ten seconds is closed.
#[tokio::test(start_paused = true)]
async fn floods_end_their_socket() {
    let fixture = Fixture::new(|tenant| tenant.limits.max_events_per_second = 1);
    let mut socket = fixture.socket();
    let heartbeat = json!([null, "1", "phoenix", "heartbeat", {}]);
    for _ in 0..10 {
        for _ in 0..11 {
            assert_eq!(socket.send(heartbeat.clone()).len(), 1);
        }
        time::advance(Duration::from_secs(1)).await;
    }
    assert!(socket.effects.is_empty());
    assert!(socket.send(heartbeat.clone()).is_empty());
    assert!(matches!(socket.effects[..], [Effect::Close(1008)]));

    let fixture = Fixture::closing(|tenant| tenant.limits.max_events_per_second = 1);
    let mut socket = fixture.socket();
    for _ in 0..15 {
        for _ in 0..11 {
            assert_eq!(socket.send(heartbeat.clone()).len(), 1);
        }
        time::advance(Duration::from_secs(1)).await;
    }
}
