use std::collections::VecDeque;

use serde_json::{Value, json};

use super::*;
use crate::{Audience, Outbox};

fn key(tenant: &str, audience: Audience, topic: &str) -> RoomKey {
    RoomKey { tenant: tenant.into(), audience, topic: topic.into() }
}

fn enter(hub: &Arc<Hub>, key: &RoomKey, vsn: Vsn) -> (Membership, Arc<Outbox>) {
    let outbox = Arc::new(Outbox::new(10_000));
    (hub.join(key.clone(), Member { outbox: Arc::clone(&outbox), vsn }, []), outbox)
}

fn received(outbox: &Outbox) -> Vec<Bytes> {
    let mut frames = VecDeque::new();
    outbox.take(&mut frames);
    frames.into()
}

/// The payloads of text frames under 126 or 64 Ki bytes.
fn payloads(outbox: &Outbox) -> Vec<Value> {
    received(outbox)
        .iter()
        .map(|frame| {
            let header = if frame[1] == 126 { 4 } else { 2 };
            let message: Value = serde_json::from_slice(&frame[header..]).unwrap();
            message.get("payload").or(message.get(4)).unwrap().clone()
        })
        .collect()
}

fn tag(vsn: Vsn) -> Option<Bytes> {
    Some(Bytes::from_static(if vsn == Vsn::V1 { b"1" } else { b"2" }))
}

/// protocol 41, 44
#[test]
fn everybody_but_the_sender_gets_one_shared_frame() {
    let hub = Hub::new(1);
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, own) = enter(&hub, &room, Vsn::V2);
    let (_other, others) = enter(&hub, &room, Vsn::V1);
    let (_third, thirds) = enter(&hub, &room, Vsn::V1);
    let mut encoded = 0;
    sender.publish(false, |vsn| {
        encoded += 1;
        tag(vsn)
    });
    assert_eq!(encoded, 1);
    assert_eq!(received(&own).len(), 0);
    let (a, b) = (received(&others), received(&thirds));
    assert_eq!(a[0].as_ptr(), b[0].as_ptr());

    sender.publish(true, tag);
    assert_eq!(received(&own), ["2"]);
    hub.publish(&room, |vsn| if vsn == Vsn::V1 { None } else { tag(vsn) });
    assert_eq!(received(&own), ["2"]);
    assert_eq!(received(&others), ["1"]);
}

/// protocol 42
#[test]
fn rooms_are_separate_by_tenant_audience_and_topic() {
    let hub = Hub::new(1);
    let (sender, _) = enter(&hub, &key("t", Audience::Public, "realtime:a"), Vsn::V1);
    let others = [
        enter(&hub, &key("u", Audience::Public, "realtime:a"), Vsn::V1),
        enter(&hub, &key("t", Audience::Private, "realtime:a"), Vsn::V1),
        enter(&hub, &key("t", Audience::Public, "realtime:b"), Vsn::V1),
    ];
    sender.publish(true, tag);
    assert!(others.iter().all(|(_, outbox)| received(outbox).is_empty()));
}

#[test]
fn empty_rooms_are_forgotten() {
    let hub = Hub::new(1);
    let room = key("t", Audience::Public, "realtime:a");
    let (first, _) = enter(&hub, &room, Vsn::V1);
    let (second, _) = enter(&hub, &room, Vsn::V1);
    drop(first);
    assert_eq!(hub.rooms(), 1);
    drop(second);
    assert_eq!(hub.rooms(), 0);
}

/// protocol 58, 69
#[test]
fn presence_is_told_to_all_and_ends_with_the_membership() {
    let hub = Hub::new(0xABCDEF);
    let room = key("t", Audience::Public, "realtime:a");
    let (tracker, own) = enter(&hub, &room, Vsn::V2);
    let (watcher, watched) = enter(&hub, &room, Vsn::V1);
    tracker.track("u", Bytes::from_static(b"{\"n\":1}"));
    let state = json!({"u":{"metas":[{"n":1,"phx_ref":"abcdef0000000000"}]}});
    let joined = json!({"joins":state,"leaves":{}});
    assert_eq!(payloads(&own), std::slice::from_ref(&joined));
    assert_eq!(payloads(&watched), [joined]);

    watcher.send_presence_state(Bytes::copy_from_slice);
    assert_eq!(serde_json::from_slice::<Value>(&received(&watched)[0]).unwrap(), state);

    drop(tracker);
    assert_eq!(payloads(&watched), [json!({"joins":{},"leaves":state})]);
}
