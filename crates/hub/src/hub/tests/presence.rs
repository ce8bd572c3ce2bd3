//! Who is present, and how members are told.

use super::*;

/// protocol 58, 69
#[test]
fn presence_is_told_to_all_and_ends_with_the_membership() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (tracker, own) = enter(&hub, &room, Vsn::V2);
    let (watcher, watched) = enter(&hub, &room, Vsn::V1);
    drop(tracker.track("u", Bytes::from_static(b"{\"n\":1}")));
    let state = json!({"u":{"metas":[{"n":1,"phx_ref":"0abcdef000000000"}]}});
    let joined = json!({"joins":state,"leaves":{}});
    assert_eq!(payloads(&own), std::slice::from_ref(&joined));
    assert_eq!(payloads(&watched), [joined]);

    assert!(watcher.send_presence_state(Bytes::copy_from_slice));
    assert_eq!(serde_json::from_slice::<Value>(&received(&watched)[0]).unwrap(), state);

    drop(tracker);
    assert_eq!(payloads(&watched), [json!({"joins":{},"leaves":state})]);
}

/// What waits to be fanned out while a member is sent the presence state reaches it too, but for diffs.
#[test]
fn broadcasts_that_wait_are_not_skipped_by_the_presence_state() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, _own) = enter(&hub, &room, Vsn::V2);
    let (other, others) = enter(&hub, &room, Vsn::V2);
    let fan_out = sender.publish(false, tag);
    let tracked = sender.track("k", Bytes::from_static(b"{}"));
    assert!(other.send_presence_state(|_| Bytes::from_static(b"state")));
    drop((fan_out, tracked));
    let frames = received(&others);
    assert_eq!(frames[..2], ["state", "2"]);
    assert_eq!(frames.len(), 3, "nobody had been announced");
    let fan_out = sender.publish(false, tag);
    drop(sender.track("k", Bytes::from_static(b"{\"x\":1}")));
    assert!(other.send_presence_state(|_| Bytes::from_static(b"state")));
    drop(fan_out);
    let frames = received(&others);
    assert_eq!(frames[..2], ["state", "2"]);
}

/// clients 6: diffs wait while joins of their socket do; broadcasts do not.
#[test]
fn diffs_wait_for_a_shut_gate() {
    let _alone = crate::memory::tests::ALONE.lock();
    let (hub, counter) = (hub(), Arc::new(Counter::default()));
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, _own) = enter_counted(&hub, &room, Vsn::V2, &counter);
    let (gate, outbox) = (Arc::new(crate::DiffGate::default()), Arc::new(Outbox::new(10_000_000)));
    let member = Member { diffs: Some(Arc::clone(&gate)), ..Member::new(Arc::clone(&outbox), Vsn::V1) };
    let meter: Arc<dyn Meter> = Arc::<Counter>::clone(&counter);
    let _member = hub.join(&room, member, &meter, []);
    let track = |n: usize| drop(sender.track("k", format!("{{\"n\":{n}}}").into()));
    gate.shut();
    track(1);
    drop(sender.publish(false, tag));
    track(2);
    assert_eq!(received(&outbox), ["1"]);
    gate.open(&outbox);
    let diffs: Vec<_> =
        payloads(&outbox).iter().map(|diff| diff["joins"]["k"]["metas"][0]["n"].clone()).collect();
    assert_eq!(diffs, [json!(1), json!(2)]);
    assert_eq!(counter.diffs.load(Ordering::Relaxed), 4);
    track(3);
    assert_eq!(received(&outbox).len(), 1, "an open gate keeps nothing");
    gate.shut();
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(1_000_000));
    drop(sender.track("k", large.into()));
    assert_eq!(received(&outbox).len(), 1, "what is kept is bounded");
}

/// A rush of changes becomes one diff; the first of it is told at once.
#[tokio::test(start_paused = true)]
async fn presence_is_announced_in_intervals() {
    let hub = Hub::new(1, Duration::from_millis(50));
    let room = key("t", Audience::Public, "realtime:a");
    let (watcher, watched) = enter(&hub, &room, Vsn::V2);
    let members: Vec<_> = (0..10).map(|_| enter(&hub, &room, Vsn::V2).0).collect();
    for member in &members {
        drop(member.track("k", Bytes::from_static(b"{}")));
    }
    let joins = |payload: &Value| payload["joins"]["k"]["metas"].as_array().map_or(0, Vec::len);
    assert_eq!(payloads(&watched).iter().map(joins).collect::<Vec<_>>(), [1]);
    let sent = watcher.send_presence_state(|state| {
        let state: Value = serde_json::from_slice(state).unwrap();
        assert_eq!(state["k"]["metas"].as_array().unwrap().len(), 1, "what was announced");
        Bytes::new()
    });
    assert!(sent);
    received(&watched);
    tokio::time::sleep(Duration::from_millis(51)).await;
    assert_eq!(payloads(&watched).iter().map(joins).collect::<Vec<_>>(), [9]);
    drop(members);
    tokio::time::sleep(Duration::from_millis(51)).await;
    let told = payloads(&watched);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["leaves"]["k"]["metas"].as_array().unwrap().len(), 10);
}

/// A room is there while somebody is present in it on another node; who comes to it finds them.
#[test]
fn others_are_present_too() {
    let hub = hub();
    let room = key("t", Audience::Public, "a");
    let meter: Arc<dyn Meter> = Arc::new(Counter::default());
    let set = |member, key: Option<&str>| {
        let origin = Origin { node: 7, member };
        let entry = key.map(|key| Entry::remote(key, key, format!("{{\"phx_ref\":\"{key}\"}}").into()));
        drop(hub.set_presence(&room, &meter, origin, entry));
    };
    set(1, None);
    assert_eq!(hub.rooms(), 0);
    set(1, Some("x"));
    set(2, Some("y"));
    assert_eq!(hub.rooms(), 1);
    let (member, outbox) = enter(&hub, &room, Vsn::V2);
    assert!(member.send_presence_state(Bytes::copy_from_slice));
    let state: Value = serde_json::from_slice(&received(&outbox)[0]).unwrap();
    assert_eq!(state, json!({"x": {"metas": [{"phx_ref": "x"}]}, "y": {"metas": [{"phx_ref": "y"}]}}));
    set(1, Some("x"));
    assert!(received(&outbox).is_empty(), "nothing has changed");
    set(1, None);
    let diff = payloads(&outbox).remove(0);
    assert_eq!(diff, json!({"joins": {}, "leaves": {"x": {"metas": [{"phx_ref": "x"}]}}}));
    drop(member);
    assert_eq!(hub.rooms(), 1, "somebody is there");
    set(2, None);
    assert_eq!(hub.rooms(), 0);
}

/// A diff that waits in the gate is in the state that follows it: nobody joins twice. What waits for a channel that
/// leaves is dropped.
#[test]
fn the_state_replaces_diffs_that_wait() {
    let (hub, counter) = (hub(), Arc::new(Counter::default()));
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, _own) = enter_counted(&hub, &room, Vsn::V2, &counter);
    let (gate, outbox) = (Arc::new(crate::DiffGate::default()), Arc::new(Outbox::new(10_000_000)));
    let enter_gated = || {
        let member = Member { diffs: Some(Arc::clone(&gate)), ..Member::new(Arc::clone(&outbox), Vsn::V1) };
        let meter: Arc<dyn Meter> = Arc::<Counter>::clone(&counter);
        hub.join(&room, member, &meter, [])
    };
    let (first, second) = (enter_gated(), enter_gated());
    gate.shut();
    drop(sender.track("k", Bytes::from_static(b"{\"n\":1}")));
    assert!(first.send_presence_state(Bytes::copy_from_slice));
    drop(sender.track("k", Bytes::from_static(b"{\"n\":2}")));
    drop(second);
    gate.open(&outbox);
    let frames: Vec<_> =
        received(&outbox).iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect();
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert!(frames[0].contains("\"n\":1") && frames[1].contains("\"n\":2"), "{frames:?}");
}

/// A state waits until the outbox has room for it; diffs that come before are in it.
#[expect(clippy::await_holding_lock, reason = "its runtime has one thread")]
#[tokio::test(start_paused = true)]
async fn a_state_waits_for_room_in_the_outbox() {
    let _alone = crate::memory::tests::ALONE.lock();
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (speaker, _own) = enter(&hub, &room, Vsn::V2);
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(3_000_000));
    drop(speaker.track("k", large.into()));
    let outbox = Arc::new(Outbox::new(crate::DEFAULT_OUTBOX_BYTES));
    let meter: Arc<dyn Meter> = Arc::new(Counter::default());
    let member = hub.join(&room, Member::new(Arc::clone(&outbox), Vsn::V2), &meter, []);
    outbox.queue(Bytes::from(vec![b'x'; 4_000_000])).unwrap();
    assert!(!member.send_presence_state(Bytes::copy_from_slice), "it waits");
    tokio::time::advance(Duration::from_secs(2)).await;
    let (other, _others) = enter(&hub, &room, Vsn::V2);
    drop(other.track("o", Bytes::from_static(b"{}")));
    assert_eq!(received(&outbox).len(), 1, "no diff before the state");
    assert!(member.send_presence_state(Bytes::copy_from_slice));
    let state: Value = serde_json::from_slice(&received(&outbox)[0]).unwrap();
    assert_eq!(state.as_object().map(|keys| keys.len()), Some(2));
    tokio::time::advance(Duration::from_millis(50)).await;
    drop(other);
    assert_eq!(payloads(&outbox)[0]["leaves"]["o"]["metas"].as_array().map(Vec::len), Some(1));
}

/// After a large diff the next waits, so that members can read; what there is to tell comes in portions.
#[expect(clippy::await_holding_lock, reason = "its runtime has one thread")]
#[tokio::test(start_paused = true)]
async fn large_diffs_have_a_rate() {
    let _alone = crate::memory::tests::ALONE.lock();
    let hub = Hub::new(1, Duration::from_millis(50));
    let room = key("t", Audience::Public, "realtime:a");
    let watched = Arc::new(Outbox::new(crate::DEFAULT_OUTBOX_BYTES));
    let meter: Arc<dyn Meter> = Arc::new(Counter::default());
    let _watcher = hub.join(&room, Member::new(Arc::clone(&watched), Vsn::V2), &meter, []);
    let members: Vec<_> = (0..10).map(|_| enter(&hub, &room, Vsn::V2)).collect();
    let large = |n: usize| Bytes::from(format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(400_000)));
    let (mut frames, mut bytes) = (0, 0);
    let mut read = async |watched: &Outbox, millis: u64| {
        for _ in 0..millis / 10 {
            for frame in received(watched) {
                assert!(frame.len() <= 1_000_000, "{}", frame.len());
                (frames, bytes) = (frames + 1, bytes + frame.len());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (frames, bytes)
    };
    for (n, (member, _)) in members.iter().enumerate() {
        drop(member.track("k", large(n)));
    }
    let (_, bytes) = read(&watched, 1_000).await;
    assert!((1_200_000..3_000_000).contains(&bytes), "two megabytes a second: {bytes}");
    let (_, bytes) = read(&watched, 5_000).await;
    assert!(bytes > 4_000_000, "{bytes}");
    // Who leaves and comes again does not begin anew.
    members.iter().for_each(|(member, _)| drop(member.untrack()));
    let (before, _) = read(&watched, 10_000).await;
    let (member, _) = &members[0];
    for n in 0..5 {
        drop(member.track("k", large(n)));
        drop(member.untrack());
        drop(member.publish(false, tag));
    }
    let (after, _) = read(&watched, 10).await;
    assert_eq!(after - before, 5 + 1, "broadcasts, and one diff");
}

/// Whose entry is hidden is told so.
#[expect(clippy::await_holding_lock, reason = "its runtime has one thread")]
#[tokio::test(start_paused = true)]
async fn who_is_hidden_is_told() {
    let _alone = crate::memory::tests::ALONE.lock();
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let large = |bytes: usize| Bytes::from(format!("{{\"x\":\"{}\"}}", "x".repeat(bytes)));
    let (first, outbox) = enter(&hub, &room, Vsn::V2);
    let (second, others) = enter(&hub, &room, Vsn::V2);
    let (third, _) = enter(&hub, &room, Vsn::V2);
    drop(first.track("a", large(2_900_000)));
    assert!(matches!(second.track("b", large(2_900_000)), crate::Tracked::NoRoom));
    drop(second.track("b", large(2_000_000)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(outbox.take_signals(), []);
    drop(third.track("c", large(200_000)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(outbox.take_signals(), [Signal::PresenceHidden(first.id())]);
    assert_eq!(others.take_signals(), []);
}

/// Who has no room for a large diff gets none, and is sent the state again when it has read what waits. Small diffs, and who
/// was never sent a state, are served as ever.
#[expect(clippy::await_holding_lock, reason = "its runtime has one thread")]
#[tokio::test(start_paused = true)]
async fn who_is_behind_is_sent_the_state_again() {
    let _alone = crate::memory::tests::ALONE.lock();
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (speaker, _own) = enter(&hub, &room, Vsn::V2);
    let outbox = Arc::new(Outbox::new(crate::DEFAULT_OUTBOX_BYTES));
    let meter: Arc<dyn Meter> = Arc::new(Counter::default());
    let member = hub.join(&room, Member::new(Arc::clone(&outbox), Vsn::V2), &meter, []);
    assert!(member.send_presence_state(Bytes::copy_from_slice));
    received(&outbox);
    let object =
        |n: usize, bytes: usize| Bytes::from(format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(bytes)));
    let waits = || outbox.queue(Bytes::from(vec![b'x'; 8_000_000]));
    waits().unwrap();
    drop(speaker.track("k", object(1, 10)));
    assert_eq!(received(&outbox).len(), 2, "a small one is sent");
    waits().unwrap();
    drop(speaker.track("k", object(2, 2_500_000)));
    assert_eq!(outbox.take_signals(), [Signal::PresenceBehind(member.id())]);
    assert!(!outbox.is_closed());
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(speaker.track("k", object(3, 10)));
    assert_eq!((received(&outbox).len(), outbox.take_signals()), (1, vec![]), "nothing before the state");
    assert!(member.send_presence_state(Bytes::copy_from_slice));
    let state: Value = serde_json::from_slice(&received(&outbox)[0]).unwrap();
    assert_eq!(state["k"]["metas"][0]["n"], 3);
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(speaker.track("k", object(4, 10)));
    assert_eq!(payloads(&outbox)[0]["joins"]["k"]["metas"][0]["n"], 4);
}
