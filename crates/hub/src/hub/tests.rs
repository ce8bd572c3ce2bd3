//! Rooms and their members.

mod limits;
mod nodes;
mod presence;

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::*;
use crate::{Audience, Membership, Outbox, Sight, Signal};

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

/// Says something in a room of this node.
fn publish(hub: &Hub, key: &RoomKey, encode: impl FnMut(Vsn) -> Option<Bytes>) -> Delivery {
    let cell = hub.room(key).filter(|cell| !cell.sheds(false));
    cell.and_then(|cell| cell.publish(&Words::default(), encode)).unwrap_or_default()
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
    drop(publish(&hub, &room, |vsn| if vsn == Vsn::V1 { None } else { tag(vsn) }));
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

#[test]
fn what_is_published_before_the_fan_out_leaves_together() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, own) = enter(&hub, &room, Vsn::V2);
    let (second, seconds) = enter(&hub, &room, Vsn::V2);
    let fan_out = sender.publish(false, tag);
    assert!(fan_out.run.is_some());
    assert!(second.publish(false, tag).run.is_none(), "the first has it to do");
    let (_late, lates) = enter(&hub, &room, Vsn::V2);
    assert!(sender.publish(false, tag).run.is_none());
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

/// protocol 67, 6: who may not see broadcasts or presence does not, until that changes.
#[test]
fn members_see_what_they_may() {
    let hub = hub();
    let room = key("t", Audience::Private, "realtime:a");
    let (speaker, _) = enter(&hub, &room, Vsn::V2);
    let (listener, outbox) = enter(&hub, &room, Vsn::V2);
    listener.set_sight(Sight { broadcasts: false, presence: true });
    drop(speaker.publish(false, tag));
    assert!(listener.publish(true, tag).run.is_some(), "its own is for the others alone");
    assert!(received(&outbox).is_empty());
    drop(speaker.track("k", Bytes::from_static(b"{}")));
    assert_eq!(received(&outbox).len(), 1, "presence goes on");
    listener.set_sight(Sight { broadcasts: true, presence: false });
    drop(speaker.untrack());
    drop(speaker.publish(false, tag));
    assert_eq!(received(&outbox), [Bytes::from_static(b"2")]);
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
        drop(hub.say_stored(&room, id, None, tag));
    }
    drop(publish(&hub, &room, tag));
    assert!(received(&outbox).is_empty());
    assert!(membership.open([Bytes::from_static(b"first")], [7, 9].into()));
    assert_eq!(received(&outbox), ["first", "2", "2"]);
    assert_eq!(counter.broadcasts.load(Ordering::Relaxed), 2);
    for (id, frames) in [(7, 0), (8, 1), (9, 0), (8, 1)] {
        drop(hub.say_stored(&room, id, None, tag));
        assert_eq!(received(&outbox).len(), frames, "{id}");
    }
    drop(publish(&hub, &room, tag));
    assert_eq!(received(&outbox).len(), 1, "what is not stored has no id");
}

/// Carries what is said to a list, as another node's.
#[derive(Debug)]
struct List {
    said: parking_lot::Mutex<Vec<String>>,
    backlog: Arc<crate::Backlog>,
}

impl crate::Bus for List {
    fn said(&self, room: &RoomKey, said: &Said<'_>, _: Option<MessageId>) {
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
fn all_rooms_of_a_tenant_can_be_told_something() {
    let hub = hub();
    let rooms =
        [("t", "a"), ("t", "b"), ("other", "a")].map(|(tenant, topic)| key(tenant, Audience::Public, topic));
    let members = rooms.clone().map(|room| enter(&hub, &room, Vsn::V2));
    hub.tell(|room| &*room.tenant == "t", |_, topic| Some(Bytes::copy_from_slice(topic.as_bytes())));
    let told: Vec<_> = members.iter().map(|(_, outbox)| received(outbox)).collect();
    assert_eq!(told, [vec![Bytes::from("a")], vec![Bytes::from("b")], vec![]]);
}
