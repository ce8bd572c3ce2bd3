//! Histories: a model of the shelf, and the place where kept and live messages meet.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use realtime_protocol::{Encoding, UserBroadcast, Vsn, frame};

use super::*;
use crate::{Audience, Hub, Member, Meter, Outbox, RoomKey, Said, Unlimited};

const BOUNDS: Bounds = Bounds { age_ms: 60_000, messages: 1_000, bytes: 1_000_000 };

fn key(topic: &str) -> RoomKey {
    RoomKey { tenant: "t".into(), audience: Audience::Public, topic: topic.into() }
}

fn message(id: u128, size: usize) -> Arc<Kept> {
    Arc::new(Kept::new(id, Content::Json(vec![b'x'; size].into()), false))
}

fn at(topic: &str) -> shelf::Place {
    place(&key(topic))
}

fn ids(recalled: &Recalled) -> Vec<u128> {
    recalled.messages.iter().map(|past| past.message.id()).collect()
}

const ALONE: (bool, bool) = (true, true);
const AMONG_OTHERS: (bool, bool) = (false, true);

#[derive(Debug, Clone)]
enum Act {
    Push(u8, usize),
    Wait(u64),
    RecallSince(u8, u64),
    RecallAfter(u8, usize),
    Shed(usize),
    Sweep,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_u8, 0..2_000_usize).prop_map(|(topic, size)| Act::Push(topic, size)),
        2 => (0..400_u64).prop_map(Act::Wait),
        2 => (0..3_u8, 0..1_500_u64).prop_map(|(topic, ago)| Act::RecallSince(topic, ago)),
        2 => (0..3_u8, 0..40_usize).prop_map(|(topic, nth)| Act::RecallAfter(topic, nth)),
        1 => (0..3_000_usize).prop_map(Act::Shed),
        1 => Just(Act::Sweep),
    ]
}

proptest! {
    /// resume 4: each message that was asked for, once and in order; or it is told that some are missing
    #[test]
    fn nothing_is_missing_in_silence(acts in prop::collection::vec(act(), 1..80), wide in any::<bool>()) {
        let tight = Bounds { age_ms: 1_000, messages: 5, bytes: 8_000 };
        let bounds = if wide { BOUNDS } else { tight };
        let began = 1_000_000_u64;
        let mut now = began;
        let mut shelf = Shelf::new(bounds, now);
        let mut said: Vec<(u8, u64, u128)> = Vec::new();
        let names = ["a", "b", "c"];
        for act in acts {
            match act {
                Act::Push(topic, size) => {
                    let id = said.len() as u128 + 1;
                    shelf.push(&at(names[usize::from(topic)]), message(id, size), id as u64, false, now);
                    said.push((topic, now, id));
                }
                Act::Wait(ms) => now += ms,
                Act::Shed(bytes) if !wide => shelf.shed(bytes),
                Act::Shed(_) => {}
                Act::Sweep => shelf.sweep(now),
                Act::RecallSince(topic, ago) => {
                    let since = now - ago;
                    let recalled = shelf.recall(
                        &at(names[usize::from(topic)]), Since::Time(since as i64), u64::MAX, ALONE, now,
                    );
                    let all: Vec<u128> = said.iter()
                        .filter(|(of, at, _)| *of == topic && *at >= since).map(|(_, _, id)| *id).collect();
                    let came = ids(&recalled);
                    prop_assert!(all.ends_with(&came), "{all:?} {came:?}");
                    if recalled.reaches {
                        prop_assert_eq!(&came, &all);
                    }
                    if wide && since >= began {
                        prop_assert!(recalled.reaches, "nothing was dropped");
                    }
                }
                Act::RecallAfter(topic, nth) => {
                    let of_topic: Vec<u128> =
                        said.iter().filter(|(of, ..)| *of == topic).map(|(_, _, id)| *id).collect();
                    let Some(last) = of_topic.get(nth) else { continue };
                    let recalled = shelf.recall(
                        &at(names[usize::from(topic)]), Since::Message(*last), u64::MAX, ALONE, now,
                    );
                    let came = ids(&recalled);
                    prop_assert!(of_topic.ends_with(&came));
                    if recalled.reaches {
                        prop_assert_eq!(&came[..], &of_topic[nth + 1..]);
                    } else {
                        prop_assert!(!wide, "it is kept");
                    }
                }
            }
            let figures = shelf.figures();
            prop_assert!(figures.bytes <= bounds.bytes);
            prop_assert!(figures.messages <= 3 * bounds.messages);
        }
        shelf.sweep(now + bounds.age_ms + 1);
        prop_assert_eq!(shelf.figures(), HistoryFigures::default(), "all of it is freed in time");
    }
}

#[test]
fn the_oldest_of_all_topics_goes_first() {
    let mut shelf = Shelf::new(Bounds { bytes: 2_000, ..BOUNDS }, 0);
    for n in 1..=100_000_u64 {
        shelf.push(&at(&format!("topic-{n}")), message(n.into(), 100), n, false, n / 100);
    }
    let figures = shelf.figures();
    assert!(figures.bytes <= 2_000 && figures.messages >= 3, "{figures:?}");
    let mut recall = |topic: &str| shelf.recall(&at(topic), Since::Beginning, u64::MAX, ALONE, 1_000);
    assert_eq!(ids(&recall("topic-100000")), [100_000]);
    assert!(recall("topic-1").messages.is_empty());
    assert!(!shelf.recall(&at("topic-1"), Since::Time(0), u64::MAX, ALONE, 1_000).reaches);
}

#[test]
fn what_is_larger_than_all_that_may_be_kept_costs_no_other() {
    let mut shelf = Shelf::new(BOUNDS, 0);
    shelf.push(&at("a"), message(1, 10), 1, false, 10);
    shelf.push(&at("a"), message(2, 3_000_000), 2, false, 20);
    let recalled = shelf.recall(&at("a"), Since::Time(5), u64::MAX, ALONE, 30);
    assert_eq!((ids(&recalled), recalled.reaches), (vec![1], false), "and it is told");
    shelf.push(&at("a"), message(3, 10), 3, false, 40);
    let mut after = |id| {
        let recalled = shelf.recall(&at("a"), Since::Message(id), u64::MAX, ALONE, 50);
        (ids(&recalled), recalled.reaches)
    };
    assert_eq!((after(1), after(3), after(2)), ((vec![3], false), (vec![], true), (vec![1, 3], false)));
    assert!(shelf.recall(&at("a"), Since::Time(21), u64::MAX, ALONE, 50).reaches);
}

/// Among several nodes a history reaches back to the first member, or as far as another node's does.
#[test]
fn a_node_that_came_late_takes_what_others_have() {
    let (mut old, mut new) = (Shelf::new(BOUNDS, 0), Shelf::new(BOUNDS, 0));
    let a = at("a");
    old.entered(&a, 10);
    for n in 1..=3 {
        old.push(&a, message(n.into(), 10), n, true, 10 + n);
    }
    new.push(&a, message(3, 10), 1, true, 13);
    assert_eq!(new.figures().messages, 0, "nobody is there");
    new.entered(&a, 13);
    let recall = |shelf: &mut Shelf| shelf.recall(&a, Since::Time(11), 2, AMONG_OTHERS, 20);
    assert!(!recall(&mut new).reaches && new.should_ask(&a));
    // The last one has come live, and is told again.
    new.push(&a, message(3, 10), 2, true, 14);
    let told = old.tell(&a, 1_000_000, 15);
    let number = std::cell::Cell::new(10);
    let draw = || {
        number.set(number.get() + 1);
        number.get()
    };
    new.adopt(&a, vec![Told::default(), told], draw, 15);
    assert!(!new.should_ask(&a));
    let recalled = recall(&mut new);
    assert_eq!((ids(&recalled), recalled.reaches), (vec![1, 2], true), "the third is live for this member");
    assert!(recalled.messages.iter().all(|past| past.is_in_flight));
    // What another node has told may still come live; it is not kept twice.
    new.push(&a, message(2, 10), 20, true, 16);
    assert_eq!(new.figures().messages, 3);

    new.doubt(|place| *place == a, false, 17);
    assert!(!recall(&mut new).reaches && new.should_ask(&a), "something may have been missed");
    assert!(new.recall(&a, Since::Time(17), u64::MAX, AMONG_OTHERS, 20).reaches);
    assert!(!new.recall(&a, Since::Time(17), u64::MAX, (false, false), 20).reaches, "cut off from others");
    new.left(&a, 18);
    new.sweep(18 + BOUNDS.age_ms);
    assert_eq!(new.figures().messages, 0);
    assert!(!new.recall(&a, Since::Time(20), u64::MAX, AMONG_OTHERS, 90_000).reaches, "not heard any more");
}

#[test]
fn an_answer_that_is_cut_reaches_back_less_far() {
    let mut shelf = Shelf::new(BOUNDS, 0);
    let a = at("a");
    shelf.entered(&a, 1);
    for n in 1..=4 {
        shelf.push(&a, message(n.into(), 1_000), n, true, 10 * n);
    }
    let told = shelf.tell(&a, 3_000, 50);
    assert_eq!((told.messages.len(), told.since), (2, Some(21)));
    assert_eq!(shelf.tell(&a, 100_000, 50).since, Some(1));
}

#[test]
fn bounds_and_tenants_change() {
    let histories = Histories::default();
    let tenant: Arc<str> = "t".into();
    assert!(histories.of("t").is_none());
    histories.set(&tenant, Some(BOUNDS));
    let history = histories.of("t").unwrap();
    for n in 1..=10 {
        history.with(|shelf, now| shelf.push(&at("a"), message(n, 10), histories.draw(), false, now));
    }
    histories.set(&tenant, Some(Bounds { messages: 3, ..BOUNDS }));
    assert_eq!(history.with(|shelf, _| shelf.figures().messages), 3);
    histories.spare(usize::MAX);
    assert_eq!(history.with(|shelf, _| shelf.figures()), HistoryFigures::default());
    histories.set(&tenant, None);
    assert!(histories.of("t").is_none());
}

#[test]
fn ids_are_random_uuids() {
    let histories = Histories::default();
    let (first, second) = (id_text(histories.new_id()), id_text(histories.new_id()));
    assert_ne!(first[..8], second[..8]);
    for id in [first, second] {
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
    assert_eq!(id_text(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-cdef-0123-456789abcdef");
}

fn hub_with_history() -> Arc<Hub> {
    let hub = Hub::new(1, Duration::ZERO);
    hub.set_history(&"t".into(), Some(Bounds { messages: 100_000, bytes: 100_000_000, ..BOUNDS }));
    hub
}

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(100_000_000))
}

fn texts(outbox: &Outbox) -> Vec<String> {
    let mut frames = VecDeque::new();
    outbox.take(&mut frames);
    let text = |frame| String::from_utf8_lossy(&frame::payload(frame).unwrap()).into_owned();
    frames.iter().map(text).collect()
}

/// The memory of a kept message is that of the frame that members got.
#[test]
fn what_is_kept_is_not_copied() {
    let hub = hub_with_history();
    let meter: Arc<dyn Meter> = Arc::new(Unlimited);
    let user = UserBroadcast { event: "e".into(), encoding: Encoding::Json, body: "{\"a\":[1]}".into() };
    let bytes = UserBroadcast { encoding: Encoding::Binary, ..user.clone() };
    for vsn in [Vsn::V1, Vsn::V2, Vsn::V2Text] {
        for said in
            [Said::Json(b" {\"event\":\"e\", \"payload\":{}} "), Said::User(&user), Said::User(&bytes)]
        {
            let outbox = outbox();
            let member = hub.join(&key("a"), Member::new(Arc::clone(&outbox), vsn), &meter, []);
            drop(hub.say(&key("a"), &said, None));
            let mut frames = VecDeque::new();
            outbox.take(&mut frames);
            let last = hub.recall(&key("a"), Since::Beginning).unwrap().messages.pop().unwrap();
            let content = match last.message.content() {
                Content::Json(open) => open.clone(),
                Content::User(user) => user.body.clone(),
            };
            let Some(frame) = frames.pop_back() else { continue };
            let range = frame.as_ptr_range();
            assert!(range.contains(&content.as_ptr()), "{vsn:?} {said:?}");
            drop(member);
        }
    }
}

/// With a history each message has an id, the same for all; without one, frames are as they were.
#[test]
fn messages_have_ids_where_they_are_kept() {
    let meter: Arc<dyn Meter> = Arc::new(Unlimited);
    let without = Hub::new(1, Duration::ZERO);
    let with = hub_with_history();
    for (hub, has_id) in [(without, false), (with, true)] {
        let (first, second) = (outbox(), outbox());
        let _first = hub.join(&key("a"), Member::new(Arc::clone(&first), Vsn::V2), &meter, []);
        let _second = hub.join(&key("a"), Member::new(Arc::clone(&second), Vsn::V1), &meter, []);
        drop(hub.say(&key("a"), &Said::Json(br#"{"event":"e","payload":{}}"#), None));
        drop(hub.hear(&key("a"), &Said::Json(b"{}"), Some(7)));
        let (first, second) = (texts(&first), texts(&second));
        if !has_id {
            let plain = r#"[null,null,"a","broadcast",{"event":"e","payload":{}}]"#;
            assert_eq!((&*first[0], &*first[1]), (plain, r#"[null,null,"a","broadcast",{}]"#));
            continue;
        }
        let kept: Vec<_> = hub.recall(&key("a"), Since::Beginning).unwrap().messages;
        assert_eq!(kept.len(), 2);
        let meta = format!(r#""meta":{{"id":"{}"}}"#, id_text(kept[0].message.id()));
        assert!(first[0].contains(&format!(r#""payload":{{}},{meta}}}"#)), "{}", first[0]);
        assert!(second[0].contains(&meta), "{}", second[0]);
        assert!(
            first[1].ends_with(r#"{"meta":{"id":"00000000-0000-0000-0000-000000000007"}}]"#),
            "{}",
            first[1]
        );
        let again = kept[0].message.frame(Vsn::V1, "a").unwrap();
        let again = String::from_utf8_lossy(&frame::payload(&again).unwrap()).into_owned();
        assert!(again.contains(r#","replayed":true}}"#), "{again}");
    }
}

#[test]
fn rooms_of_one_name_are_never_mixed() {
    let hub = hub_with_history();
    let private = RoomKey { audience: Audience::Private, ..key("a") };
    let other = RoomKey { tenant: "other".into(), ..key("a") };
    drop(hub.say(&private, &Said::Json(b"{}"), None));
    drop(hub.say(&other, &Said::Json(b"{}"), None));
    assert!(hub.recall(&key("a"), Since::Beginning).unwrap().messages.is_empty());
    assert_eq!(hub.recall(&private, Since::Beginning).unwrap().messages.len(), 1);
    assert!(hub.recall(&other, Since::Beginning).is_none(), "that tenant keeps none");
}

/// Kept and live meet in one place: who joins while others talk gets each message once, whether somebody was there or not.
#[test]
fn who_joins_gets_each_message_once() {
    const MESSAGES: usize = 3_000;
    let hub = hub_with_history();
    let meter: Arc<dyn Meter> = Arc::new(Unlimited);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..MESSAGES {
                drop(hub.say(&key("a"), &Said::Json(format!("{{\"n\":{n}}}").as_bytes()), None));
            }
        });
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let outbox = outbox();
                    let member = Member { hold: true, ..Member::new(Arc::clone(&outbox), Vsn::V2Text) };
                    let membership = hub.join(&key("a"), member, &meter, []);
                    std::thread::yield_now();
                    let recalled = membership.recall(Since::Beginning).unwrap();
                    assert!(recalled.reaches);
                    let first: Vec<Bytes> = recalled
                        .messages
                        .iter()
                        .map(|past| past.message.frame(Vsn::V2Text, "a").unwrap())
                        .collect();
                    assert!(membership.open(first, Box::default()));
                    drop(membership);
                    let texts = texts(&outbox);
                    let numbers: Vec<usize> = texts
                        .iter()
                        .map(|text| {
                            let rest = text.split_once("{\"n\":").unwrap().1;
                            rest.split_once(',').unwrap().0.parse().unwrap()
                        })
                        .collect();
                    assert!(numbers.iter().copied().eq(0..numbers.len()), "{numbers:?}");
                    if numbers.len() == MESSAGES {
                        return;
                    }
                }
            });
        }
    });
}

/// What another node has told and what has no room here is missing: the answer says from when on nothing is.
#[test]
fn what_has_no_room_is_not_promised() {
    let (mut old, mut new) = (Shelf::new(BOUNDS, 0), Shelf::new(Bounds { messages: 2, ..BOUNDS }, 0));
    let a = at("a");
    old.entered(&a, 10);
    for n in 1..=3 {
        old.push(&a, message(n.into(), 10), n, true, 10 + n);
    }
    new.entered(&a, 13);
    let number = std::cell::Cell::new(10);
    let draw = || number.replace(number.get() + 1);
    let mut roomy = Shelf::new(BOUNDS, 0);
    roomy.entered(&a, 13);
    let mut told = || vec![old.tell(&a, 1_000_000, 15)];
    assert_eq!(roomy.adopt(&a, told(), draw, 15), Some(10), "all of it is there");
    assert_eq!(new.adopt(&a, told(), draw, 15), Some(12), "the first was dropped");
}
