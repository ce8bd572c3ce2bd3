//! Presence as one socket sees it.

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
