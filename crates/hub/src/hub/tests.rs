use std::collections::VecDeque;

use serde_json::{Value, json};

use super::*;
use crate::{Audience, Kind, Outbox, Sight, Signal};

fn key(tenant: &str, audience: Audience, topic: &str) -> RoomKey {
    RoomKey { tenant: tenant.into(), audience, topic: topic.into() }
}

/// Counts, and is exceeded when told so.
#[derive(Debug, Default)]
struct Counter {
    broadcasts: AtomicU64,
    diffs: AtomicU64,
    exceeded: std::sync::atomic::AtomicBool,
    over: std::sync::atomic::AtomicBool,
}

impl Meter for Counter {
    fn delivered(&self, kind: Kind, count: u64) {
        let counter = match kind {
            Kind::Broadcast => &self.broadcasts,
            Kind::Presence => &self.diffs,
            Kind::Notice => panic!("notices are not counted"),
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn limit(&self) -> u32 {
        7
    }
}

fn hub() -> Arc<Hub> {
    Hub::new(0xABCDEF, Duration::ZERO)
}

fn enter(hub: &Arc<Hub>, key: &RoomKey, vsn: Vsn) -> (Membership, Arc<Outbox>) {
    enter_counted(hub, key, vsn, &Arc::new(Counter::default()))
}

fn enter_counted(
    hub: &Arc<Hub>,
    key: &RoomKey,
    vsn: Vsn,
    counter: &Arc<Counter>,
) -> (Membership, Arc<Outbox>) {
    let outbox = Arc::new(Outbox::new(10_000));
    let meter: Arc<dyn Meter> = Arc::<Counter>::clone(counter);
    (hub.join(key, Member::new(Arc::clone(&outbox), vsn), &meter, []), outbox)
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
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, own) = enter(&hub, &room, Vsn::V2);
    let (_other, others) = enter(&hub, &room, Vsn::V1);
    let (_third, thirds) = enter(&hub, &room, Vsn::V1);
    let mut encoded = 0;
    drop(sender.publish(false, |vsn| {
        encoded += 1;
        tag(vsn)
    }));
    assert_eq!(encoded, 1);
    assert_eq!(received(&own).len(), 0);
    let (a, b) = (received(&others), received(&thirds));
    assert_eq!(a[0].as_ptr(), b[0].as_ptr());

    drop(sender.publish(true, tag));
    assert_eq!(received(&own), ["2"]);
    drop(hub.publish(&room, |vsn| if vsn == Vsn::V1 { None } else { tag(vsn) }));
    assert_eq!(received(&own), ["2"]);
    assert_eq!(received(&others), ["1"]);
}

/// protocol 42; tenant_database 23, 24
#[test]
fn rooms_are_separate_by_tenant_audience_and_topic() {
    let hub = hub();
    let (sender, _) = enter(&hub, &key("t", Audience::Public, "realtime:a"), Vsn::V1);
    let others = [
        enter(&hub, &key("u", Audience::Public, "realtime:a"), Vsn::V1),
        enter(&hub, &key("t", Audience::Private, "realtime:a"), Vsn::V1),
        enter(&hub, &key("t", Audience::Public, "realtime:b"), Vsn::V1),
    ];
    drop(sender.publish(true, tag));
    assert!(others.iter().all(|(_, outbox)| received(outbox).is_empty()));
}

#[test]
fn empty_rooms_are_forgotten() {
    let hub = hub();
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
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (tracker, own) = enter(&hub, &room, Vsn::V2);
    let (watcher, watched) = enter(&hub, &room, Vsn::V1);
    drop(tracker.track("u", Bytes::from_static(b"{\"n\":1}")));
    let state = json!({"u":{"metas":[{"n":1,"phx_ref":"0abcdef000000000"}]}});
    let joined = json!({"joins":state,"leaves":{}});
    assert_eq!(payloads(&own), std::slice::from_ref(&joined));
    assert_eq!(payloads(&watched), [joined]);

    watcher.send_presence_state(Bytes::copy_from_slice);
    assert_eq!(serde_json::from_slice::<Value>(&received(&watched)[0]).unwrap(), state);

    drop(tracker);
    assert_eq!(payloads(&watched), [json!({"joins":{},"leaves":state})]);
}

/// protocol 49
#[test]
fn deliveries_are_counted() {
    let (hub, counter) = (hub(), Arc::new(Counter::default()));
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, _own) = enter_counted(&hub, &room, Vsn::V2, &counter);
    let (_other, _others) = enter_counted(&hub, &room, Vsn::V1, &counter);
    for _ in 0..5 {
        drop(sender.publish(true, tag));
    }
    assert_eq!(counter.broadcasts.load(Ordering::Relaxed), 10);
    drop(sender.track("k", Bytes::from_static(b"{}")));
    assert_eq!(counter.diffs.load(Ordering::Relaxed), 2);
}

/// protocol 48
#[test]
fn those_who_receive_too_much_are_told_to_stop() {
    let (hub, counter) = (hub(), Arc::new(Counter::default()));
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, own) = enter_counted(&hub, &room, Vsn::V2, &counter);
    let (other, others) = enter_counted(&hub, &room, Vsn::V2, &counter);
    counter.exceeded.store(true, Ordering::Relaxed);
    drop(sender.track("k", Bytes::from_static(b"{}")));
    assert_eq!(others.take_signals(), [], "presence is exempt");
    received(&others);
    drop(sender.publish(false, tag));
    assert_eq!(received(&others), ["2"], "the frame still comes");
    assert_eq!(others.take_signals(), [Signal::TooManyEvents(other.id())]);
    assert_eq!(own.take_signals(), []);
}

/// Whatever way it comes: what is over the limit is not delivered, and everybody is told of it once a second.
#[tokio::test(start_paused = true)]
async fn what_is_over_the_limit_is_counted_and_told() {
    let (hub, counter) = (hub(), Arc::new(Counter::default()));
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, own) = enter_counted(&hub, &room, Vsn::V2, &counter);
    let (_other, others) = enter_counted(&hub, &room, Vsn::V1, &counter);
    counter.over.store(true, Ordering::Relaxed);
    let list = carry(&hub);
    assert!(sender.sheds());
    assert!(hub.hear(&room, &Said::Json(b"{}")).is_none(), "from another node");
    assert!(hub.say(&room, &Said::Json(b"{}")).is_none(), "over HTTP");
    assert!(hub.publish_stored(&room, 1, tag).is_none(), "from the database");
    assert!(received(&others).is_empty());
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    let told = json!({
        "extension": "system", "status": "warning", "code": "MessagesDropped", "channel": "a",
        "message": "4 messages were not delivered: the limit is 7 per second", "count": 4,
    });
    assert_eq!((payloads(&own), payloads(&others)), (vec![told.clone()], vec![told]));
    for _ in 0..30 {
        let _ = sender.sheds();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    counter.over.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counts: Vec<_> = payloads(&others).iter().map(|told| told["count"].as_u64().unwrap()).collect();
    assert!(counts.len() <= 3 && counts.iter().sum::<u64>() == 30, "{counts:?}");
    assert!(!sender.sheds());
    let carried = list.said.lock().clone();
    assert_eq!(carried[0], "realtime:a dropped 2", "what was said here");
    hub.missed(&room, 5);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(payloads(&own).last().unwrap()["count"], 5, "what another node did not deliver");
    assert_eq!(list.said.lock().len(), carried.len());
    assert_eq!(counter.broadcasts.load(Ordering::Relaxed), 0);
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
    other.send_presence_state(|_| Bytes::from_static(b"state"));
    drop((fan_out, tracked));
    let frames = received(&others);
    assert_eq!(frames[..2], ["state", "2"]);
    assert_eq!(frames.len(), 3, "nobody had been announced");
    let fan_out = sender.publish(false, tag);
    drop(sender.track("k", Bytes::from_static(b"{\"x\":1}")));
    other.send_presence_state(|_| Bytes::from_static(b"state"));
    drop(fan_out);
    let frames = received(&others);
    assert_eq!(frames[..2], ["state", "2"]);
}

/// clients 6: diffs wait while joins of their socket do; broadcasts do not.
#[test]
fn diffs_wait_for_a_shut_gate() {
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
    first.send_presence_state(Bytes::copy_from_slice);
    drop(sender.track("k", Bytes::from_static(b"{\"n\":2}")));
    drop(second);
    gate.open(&outbox);
    let frames: Vec<_> =
        received(&outbox).iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect();
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert!(frames[0].contains("\"n\":1") && frames[1].contains("\"n\":2"), "{frames:?}");
}

#[test]
fn what_is_published_before_the_fan_out_leaves_together() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, own) = enter(&hub, &room, Vsn::V2);
    let (second, seconds) = enter(&hub, &room, Vsn::V2);
    let fan_out = sender.publish(false, tag);
    assert!(fan_out.is_some());
    assert!(second.publish(false, tag).is_none(), "the first has it to do");
    let (_late, lates) = enter(&hub, &room, Vsn::V2);
    assert!(sender.publish(false, tag).is_none());
    assert!(received(&seconds).is_empty());
    drop(fan_out);
    assert_eq!((received(&own).len(), received(&seconds).len(), received(&lates).len()), (1, 2, 1));
}

/// A room larger than one task serves in a go, with members that come and leave meanwhile.
#[tokio::test]
async fn large_rooms_are_served_in_slices() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let mut members: Vec<_> = (0..1000).map(|_| enter(&hub, &room, Vsn::V2)).collect();
    let (sender, _) = enter(&hub, &room, Vsn::V2);
    for _ in 0..3 {
        drop(sender.publish(false, tag));
    }
    let (gone, _) = members.remove(999);
    drop(gone);
    let (_late, lates) = enter(&hub, &room, Vsn::V2);
    let frames = |outbox: &Outbox| received(outbox).len();
    let mut counts = vec![0; members.len()];
    while counts.iter().any(|count| *count < 3) {
        tokio::task::yield_now().await;
        for (count, (_, outbox)) in counts.iter_mut().zip(&members) {
            *count += frames(outbox);
        }
    }
    assert!(counts.iter().all(|count| *count == 3));
    assert_eq!(frames(&lates), 0, "what was published before it came is not for it");
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
    watcher.send_presence_state(|state| {
        let state: Value = serde_json::from_slice(state).unwrap();
        assert_eq!(state["k"]["metas"].as_array().unwrap().len(), 1, "what was announced");
        Bytes::new()
    });
    received(&watched);
    tokio::time::sleep(Duration::from_millis(51)).await;
    assert_eq!(payloads(&watched).iter().map(joins).collect::<Vec<_>>(), [9]);
    drop(members);
    tokio::time::sleep(Duration::from_millis(51)).await;
    let told = payloads(&watched);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["leaves"]["k"]["metas"].as_array().unwrap().len(), 10);
}

/// What waits for a pass is bounded: publishers are told to wait, and told when it is over.
#[tokio::test]
async fn rooms_that_cannot_keep_up_hold_their_publishers() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, _) = enter(&hub, &room, Vsn::V2);
    let (_other, _) = enter(&hub, &room, Vsn::V2);
    let fan_out = sender.publish(false, |_| Some(vec![0; 3_000_000].into()));
    assert!(sender.congestion().is_none());
    drop(sender.publish(false, |_| Some(vec![0; 3_000_000].into())));
    let congestion = sender.congestion().unwrap();
    assert!(!congestion.is_over() && hub.congestion(&room).is_some());
    let waiting = tokio::spawn(async move { congestion.over().await });
    tokio::task::yield_now().await;
    drop(fan_out);
    waiting.await.unwrap();
    assert!(sender.congestion().is_none());
}

/// protocol 67, 6: who may not see broadcasts or presence does not, until that changes.
#[test]
fn members_see_what_they_may() {
    let hub = hub();
    let room = key("t", Audience::Private, "realtime:a");
    let (speaker, _) = enter(&hub, &room, Vsn::V2);
    let (listener, outbox) = enter(&hub, &room, Vsn::V2);
    listener.set_sight(Sight { broadcasts: false, presence: true });
    drop(speaker.publish(false, tag));
    assert!(listener.publish(true, tag).is_some(), "its own is for the others alone");
    assert!(received(&outbox).is_empty());
    drop(speaker.track("k", Bytes::from_static(b"{}")));
    assert_eq!(received(&outbox).len(), 1, "presence goes on");
    listener.set_sight(Sight { broadcasts: true, presence: false });
    drop(speaker.untrack());
    drop(speaker.publish(false, tag));
    assert_eq!(received(&outbox), [Bytes::from_static(b"2")]);
}

/// A channel that is held for too long has a gap, and is told.
#[test]
fn what_is_held_is_bounded() {
    let hub = hub();
    let room = key("t", Audience::Private, "realtime:a");
    let outbox = Arc::new(Outbox::new(100_000));
    let member = Member { hold: true, ..Member::new(Arc::clone(&outbox), Vsn::V2) };
    let meter: Arc<dyn Meter> = Arc::new(Counter::default());
    let membership = hub.join(&room, member, &meter, []);
    for _ in 0..4_097 {
        drop(hub.publish(&room, tag));
    }
    assert!(!membership.open([], Box::default()));
    drop(hub.publish(&room, tag));
    assert_eq!(received(&outbox).len(), 4_097);
}

/// protocol 10.1: a stored message that was replayed does not come again
#[test]
fn replayed_messages_come_once() {
    let hub = hub();
    let room = key("t", Audience::Private, "realtime:a");
    let outbox = Arc::new(Outbox::new(10_000));
    let member = Member { hold: true, ..Member::new(Arc::clone(&outbox), Vsn::V2) };
    let counter = Arc::new(Counter::default());
    let meter: Arc<dyn Meter> = Arc::<Counter>::clone(&counter);
    let membership = hub.join(&room, member, &meter, []);
    // Said while stored messages are being read: one is among them, one is not, one is not stored at all.
    for id in [7, 6] {
        drop(hub.publish_stored(&room, id, tag));
    }
    drop(hub.publish(&room, tag));
    assert!(received(&outbox).is_empty());
    assert!(membership.open([Bytes::from_static(b"first")], [7, 9].into()));
    assert_eq!(received(&outbox), ["first", "2", "2"]);
    assert_eq!(counter.broadcasts.load(Ordering::Relaxed), 2);
    for (id, frames) in [(7, 0), (8, 1), (9, 0), (8, 1)] {
        drop(hub.publish_stored(&room, id, tag));
        assert_eq!(received(&outbox).len(), frames, "{id}");
    }
    drop(hub.publish(&room, tag));
    assert_eq!(received(&outbox).len(), 1, "what is not stored has no id");
}

/// Carries what is said to a list, as another node's.
#[derive(Debug)]
struct List {
    said: parking_lot::Mutex<Vec<String>>,
    backlog: Arc<crate::Backlog>,
}

impl crate::Bus for List {
    fn said(&self, room: &RoomKey, said: &Said<'_>) {
        let Said::Json(payload) = said else { return };
        self.said.lock().push(format!("{} {}", room.topic, String::from_utf8_lossy(payload)));
    }

    fn dropped(&self, room: &RoomKey, count: u64) {
        self.said.lock().push(format!("{} dropped {count}", room.topic));
    }

    fn presence(&self, room: &RoomKey, member: crate::MemberId, entry: Option<&Arc<Entry>>) {
        self.said.lock().push(format!("{} {member} {:?}", room.topic, entry.map(|entry| entry.key())));
    }

    fn backlog(&self) -> &Arc<crate::Backlog> {
        &self.backlog
    }
}

fn carry(hub: &Arc<Hub>) -> Arc<List> {
    let list = Arc::new(List { said: Mutex::default(), backlog: Arc::new(crate::Backlog::new(10)) });
    let bus: Arc<dyn crate::Bus> = Arc::<List>::clone(&list);
    hub.set_bus(bus);
    list
}

#[test]
fn what_happens_here_is_carried_to_others_and_what_they_tell_is_not() {
    let hub = hub();
    let list = Arc::new(List { said: Mutex::default(), backlog: Arc::new(crate::Backlog::new(10)) });
    hub.set_bus(Arc::<List>::clone(&list));
    let room = key("t", Audience::Public, "a");
    let (alone, outbox) = enter(&hub, &room, Vsn::V2);
    drop(alone.say(false, &Said::Json(b"1")));
    drop(hub.say(&room, &Said::Json(b"2")));
    drop(hub.hear(&room, &Said::Json(b"3")));
    assert_eq!(received(&outbox).len(), 2);
    drop(alone.track("k", Bytes::from_static(b"{}")));
    assert!(alone.track("k", Bytes::from_static(b"{}")).is_none());
    drop(alone.untrack());
    drop(alone.untrack());
    drop(alone.track("k", Bytes::from_static(b"{}")));
    drop(alone);
    let expected = ["a 1", "a 2", "a 0 Some(\"k\")", "a 0 None", "a 0 Some(\"k\")", "a 0 None"];
    assert_eq!(*list.said.lock(), expected);

    assert!(hub.congestion(&room).is_none());
    list.backlog.add(11);
    let jam = hub.congestion(&room).expect("too much waits");
    assert!(!jam.is_over());
    list.backlog.take(1);
    assert!(jam.is_over());
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
    member.send_presence_state(Bytes::copy_from_slice);
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

#[test]
fn all_rooms_of_a_tenant_can_be_told_something() {
    let hub = hub();
    let rooms =
        [("t", "a"), ("t", "b"), ("other", "a")].map(|(tenant, topic)| key(tenant, Audience::Public, topic));
    let members = rooms.clone().map(|room| enter(&hub, &room, Vsn::V2));
    hub.tell(|room| &*room.tenant == "t", |_, topic| Some(Bytes::copy_from_slice(topic.as_bytes())));
    let told: Vec<_> = members.iter().map(|(_, outbox)| received(outbox)).collect();
    assert_eq!(told, [vec![Bytes::from("a")], vec![Bytes::from("b")], vec![]]);
}
