use bytes::BytesMut;
use realtime_hub::{Audience, Member, Meter, Outbox, Unlimited};
use realtime_protocol::Vsn;

use super::{copies::TELL_AGAIN, *};
use crate::wire::Kind;

#[derive(Debug)]
struct Side(Arc<dyn Meter>);

impl TenantSide for Side {
    fn meter(&self) -> &Arc<dyn Meter> {
        &self.0
    }

    fn users(&self) -> u32 {
        0
    }

    fn set_users_elsewhere(&self, _: u32) {}

    fn rates(&self) -> (Rates, [u32; METERS]) {
        Default::default()
    }

    fn set_rates_elsewhere(&self, _: &[Elsewhere; METERS]) {}
}

fn said(number: u64, payload: &str) -> Bytes {
    said_by(7, number, payload)
}

fn said_by(node: u32, number: u64, payload: &str) -> Bytes {
    let mut message = BytesMut::from(&Header { kind: Kind::Records, node, number }.encode()[..]);
    wire::put_json(&mut message, Audience::Public, "realtime:a", payload.as_bytes());
    message.freeze()
}

fn heard(outbox: &Outbox) -> Vec<String> {
    let mut frames = std::collections::VecDeque::new();
    outbox.take(&mut frames);
    frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_before_what_follows_it() {
    let hub = Hub::new(1, Duration::ZERO);
    let meter: Arc<dyn Meter> = Arc::new(Unlimited);
    let incoming = Incoming::new(
        Scope::of_room(&"t".into(), "realtime:a"),
        Arc::default(),
        Arc::new(Side(Arc::clone(&meter))),
    );
    let asks = Asks::default();
    let key = RoomKey { tenant: "t".into(), audience: Audience::Public, topic: "realtime:a".into() };
    let outbox = Arc::new(Outbox::new(100_000));
    let _member = hub.join(&key, Member::new(Arc::clone(&outbox), Vsn::V2), &meter, []);
    incoming.be_ready();
    let hear = |number: u64, payload: &str| incoming.envelope(&hub, &asks, said(number, payload)).unwrap();
    assert!(!hear(1, r#"{"n":1}"#).gap);
    assert!(hear(3, r#"{"n":3}"#).gap);
    let frames = heard(&outbox);
    assert_eq!(frames.len(), 3, "{frames:?}");
    assert!(frames[0].contains(r#"{"n":1}"#) && frames[2].contains(r#"{"n":3}"#), "{frames:?}");
    assert!(frames[1].contains(r#""status":"gap""#), "{frames:?}");
    assert!(!incoming.take_owed(), "once");

    // Where much is lost it is told once a second.
    assert!(hear(5, "{}").gap && hear(7, "{}").gap);
    assert_eq!(heard(&outbox).len(), 2);
    assert!(!incoming.take_owed());
    tokio::time::advance(TELL_AGAIN).await;
    hear(8, "{}");
    assert_eq!(heard(&outbox).len(), 2, "and the one that is owed");
}

fn incoming(part: Part) -> (Arc<Hub>, Incoming, Arc<Common>) {
    let hub = Hub::new(1, Duration::ZERO);
    let common: Arc<Common> = Arc::default();
    let side = Arc::new(Side(Arc::new(Unlimited)));
    let scope = Scope { tenant: "t".into(), part };
    (hub, Incoming::new(scope, Arc::clone(&common), side), common)
}

/// A node that answers late may have said something that it sent to nobody, after members were let in here: they are told.
#[tokio::test(start_paused = true)]
async fn what_a_late_answer_may_hide_is_told() {
    for (unheard, told) in [(None, false), (Some(0), true), (Some(999), true), (Some(5_000), false)] {
        let (hub, incoming, _) = incoming(Part::Bucket(1));
        incoming.ask(7, 1);
        incoming.all_asked();
        assert!(!*incoming.ready.borrow(), "it has not answered");
        incoming.be_ready();
        tokio::time::advance(Duration::from_secs(1)).await;
        incoming.blank(&hub, 7, 1, 5, unheard);
        assert_eq!(incoming.take_owed(), told, "{unheard:?}");
        // It knows now that somebody listens.
        incoming.ask(7, 2);
        incoming.blank(&hub, 7, 2, 5, Some(0));
        assert!(!incoming.take_owed());
        tokio::time::advance(TELL_AGAIN).await;
        // A node that comes later did not know either, as long as members have been let in.
        incoming.ask(8, 3);
        incoming.blank(&hub, 8, 3, 5, unheard);
        assert_eq!(incoming.take_owed(), told, "{unheard:?}");
    }
    // Answered in time: nobody was let in before.
    let (hub, incoming, _) = incoming(Part::Bucket(1));
    incoming.ask(7, 1);
    incoming.all_asked();
    incoming.blank(&hub, 7, 1, 5, Some(0));
    assert!(*incoming.ready.borrow() && !incoming.take_owed());
}

/// Something is kept back only where it is certain that nobody listens.
#[tokio::test(start_paused = true)]
async fn where_others_listen_is_known_once_all_have_answered() {
    let (hub, incoming, common) = incoming(Part::Whole);
    let asks = Asks::default();
    let heard = || [1, 2, 3].map(|bucket| common.is_heard(Part::Bucket(bucket)));
    assert_eq!(heard(), [true; 3], "nobody was asked yet");
    incoming.ask(7, 1);
    incoming.all_asked();
    assert_eq!(heard(), [true; 3], "it has not answered");
    incoming.blank(&hub, 7, 1, 0, None);
    assert_eq!(heard(), [false; 3]);
    let listens = |version, buckets: &[u8]| {
        let buckets = buckets.iter().fold(0, |all, bucket| all | Part::Bucket(*bucket).bit());
        Listens { version, buckets }
    };
    let all = Parts { whole: true, buckets: u64::MAX };
    assert_eq!(incoming.listens(&asks, 7, all, listens(2, &[1, 2])), None);
    assert_eq!(heard(), [true, true, false]);
    incoming.listens(&asks, 7, all, listens(1, &[3]));
    assert_eq!(heard(), [true, true, false], "it came late");
    assert!(incoming.take_regained().is_empty(), "it asks about all of it");
    // A node that is not known yet may listen anywhere.
    assert!(incoming.listens(&asks, 8, all, listens(1, &[])).is_some());
    assert_eq!(heard(), [true; 3]);
    incoming.forget(&hub, 8);
    assert_eq!(heard(), [true, true, false]);
    // One that was forgotten and comes back is sent marks.
    incoming.forget(&hub, 7);
    assert_eq!(heard(), [false; 3]);
    incoming.ask(7, 9);
    let mut records = BytesMut::new();
    wire::put_listens(&mut records, listens(2, &[1, 2]));
    let told = Told {
        ask: 9,
        scope: incoming.scope.clone(),
        as_of: 0,
        unheard: None,
        offset: 0,
        last: true,
        records: records.freeze(),
    };
    incoming.told(&hub, 7, told, None).unwrap();
    assert_eq!(heard(), [true, true, false]);
    assert_eq!(incoming.take_regained().iter().collect::<Vec<_>>(), [Part::Bucket(1), Part::Bucket(2)]);
    // It asks about something else before it is heard.
    incoming.forget(&hub, 7);
    let mut second = Parts::default();
    second.add(Part::Bucket(2));
    let ask = incoming.listens(&asks, 7, second, listens(2, &[1, 2])).unwrap();
    incoming.blank(&hub, 7, ask, 0, None);
    assert_eq!(heard(), [true, true, false]);
    assert_eq!(incoming.take_regained().iter().collect::<Vec<_>>(), [Part::Bucket(1)]);
    // Without a connection others may come that are not known.
    incoming.unsettle();
    assert_eq!(heard(), [true; 3]);
    incoming.settle();
    assert_eq!(heard(), [true, true, false]);
    incoming.forget_all(&hub);
    assert_eq!(heard(), [true; 3], "nothing is known any more");
}

/// Envelopes of a time at which nobody listened here, with holes where they were not sent: no gap for those who come later.
#[tokio::test(start_paused = true)]
async fn what_came_before_the_first_member_has_no_gaps() {
    let (hub, incoming, _) = incoming(Part::of("realtime:a"));
    let asks = Asks::default();
    incoming.ask(7, 1);
    incoming.all_asked();
    let hear = |number: u64| incoming.envelope(&hub, &asks, said(number, "{}")).unwrap();
    assert!(!hear(2).gap);
    let hole = hear(5);
    assert!(!hole.gap, "nobody is there yet");
    // The state may have changed in the hole.
    incoming.blank(&hub, 7, hole.ask.unwrap(), 7, Some(0));
    assert!(*incoming.ready.borrow() && !incoming.take_owed());
    assert!(!hear(8).gap, "what was said after the answer follows it");
    assert!(hear(10).gap, "and counts");
}

/// A bucket with members that has heard two envelopes of node 7.
fn serving() -> (Arc<Hub>, Incoming, Asks) {
    let (hub, incoming, _) = incoming(Part::of("realtime:a"));
    let asks = Asks::default();
    incoming.ask(7, 1);
    incoming.all_asked();
    incoming.blank(&hub, 7, 1, 0, None);
    assert!(*incoming.ready.borrow());
    for number in 1..=2 {
        assert!(!incoming.envelope(&hub, &asks, said(number, "{}")).unwrap().gap);
    }
    (hub, incoming, asks)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_forgotten_hides_nothing_when_it_comes_back() {
    let (hub, incoming, asks) = serving();
    incoming.forget(&hub, 7);
    assert!(!incoming.envelope(&hub, &asks, said(3, "{}")).unwrap().gap, "nothing was missed");
    incoming.forget(&hub, 7);
    assert!(incoming.envelope(&hub, &asks, said(5, "{}")).unwrap().gap);
    // It says nothing, and has said something.
    tokio::time::advance(TELL_AGAIN).await;
    let limit = Duration::from_secs(2);
    for (as_of, told) in [(5, false), (6, true)] {
        incoming.forget(&hub, 7);
        incoming.ask(7, as_of);
        incoming.blank(&hub, 7, as_of, as_of, None);
        incoming.unanswered(limit, Instant::now());
        assert!(!incoming.take_owed(), "it may be under way");
        tokio::time::advance(limit).await;
        incoming.unanswered(limit, Instant::now());
        assert_eq!(incoming.take_owed(), told, "{as_of}");
    }
}

/// A node that was not heard while members were let in may have said something to them.
#[tokio::test(start_paused = true)]
async fn who_was_there_before_and_comes_later_may_have_said_something() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    for (as_of, began, told) in [
        (3, Some(later), false),
        (0, Some(now - Duration::from_secs(9)), false),
        (3, Some(now - Duration::from_secs(9)), true),
        (3, None, true),
    ] {
        let (hub, incoming, _) = serving();
        incoming.ask(8, 5);
        let scope = incoming.scope.clone();
        let answer =
            Told { ask: 5, scope, as_of, unheard: None, offset: 0, last: true, records: Bytes::new() };
        incoming.told(&hub, 8, answer, began).unwrap();
        assert_eq!(incoming.take_owed(), told, "{as_of} {began:?}");
    }
}

/// A node that was started after members were let in has said all to them: what does not come was lost, whether it is asked
/// before or forgotten meanwhile.
#[tokio::test(start_paused = true)]
async fn what_a_new_node_says_first_is_not_lost_in_silence() {
    let limit = Duration::from_secs(2);
    // The envelopes that come; whether the node is then not heard for a while; the last that it has sent.
    for (came, is_forgotten, as_of, told) in [
        (&[][..], false, 0, false),
        (&[1, 2], false, 2, false),
        (&[2], false, 2, true),
        (&[1, 3], false, 3, true),
        (&[1], false, 2, true),
        (&[1], true, 2, true),
        (&[], true, 1, true),
    ] {
        let (hub, incoming, asks) = serving();
        let began = Some(Instant::now() + Duration::from_millis(1));
        tokio::time::advance(TELL_AGAIN).await;
        incoming.ask(8, 50);
        for number in came {
            incoming.envelope(&hub, &asks, said_by(8, *number, "{}")).unwrap();
        }
        if is_forgotten {
            incoming.forget(&hub, 8);
        }
        incoming.ask(8, 51);
        let scope = incoming.scope.clone();
        let answer =
            Told { ask: 51, scope, as_of, unheard: None, offset: 0, last: true, records: Bytes::new() };
        incoming.told(&hub, 8, answer, began).unwrap();
        incoming.unanswered(limit, Instant::now());
        tokio::time::advance(limit).await;
        incoming.unanswered(limit, Instant::now());
        let is_told = incoming.take_owed() || incoming.copies.lock().told_at.is_some();
        assert_eq!(is_told, told, "{came:?} {is_forgotten} {as_of}");
    }
    // What the answer has overtaken is no loss.
    let (hub, incoming, asks) = serving();
    let began = Some(Instant::now() + Duration::from_millis(1));
    tokio::time::advance(TELL_AGAIN).await;
    incoming.ask(8, 50);
    let scope = incoming.scope.clone();
    let answer =
        Told { ask: 50, scope, as_of: 2, unheard: None, offset: 0, last: true, records: Bytes::new() };
    incoming.told(&hub, 8, answer, began).unwrap();
    incoming.unanswered(limit, Instant::now());
    for number in [1, 2, 3] {
        assert!(!incoming.envelope(&hub, &asks, said_by(8, number, "{}")).unwrap().gap, "{number}");
    }
    tokio::time::advance(limit).await;
    incoming.unanswered(limit, Instant::now());
    assert!(!incoming.take_owed());
}

/// A last word that comes late, of a node whose heartbeats are not heard any more, does not stay for ever.
#[tokio::test(start_paused = true)]
async fn strangers_are_found() {
    let (hub, incoming, asks) = serving();
    let limit = Duration::from_secs(6);
    incoming.forget(&hub, 7);
    incoming.envelope(&hub, &asks, said(3, "{}")).unwrap();
    let ask = incoming.copies.lock().nodes[&7].track.asked().unwrap();
    incoming.blank(&hub, 7, ask, 3, None);
    assert!(incoming.unanswered(Duration::ZERO, Instant::now()).is_empty(), "it has answered");
    assert!(incoming.strangers(&Set::default(), limit, Instant::now()).is_empty(), "it may be about to come");
    tokio::time::advance(limit * 2).await;
    assert_eq!(incoming.strangers(&Set::default(), limit, Instant::now()), [7]);
    assert!(incoming.strangers(&[7].into_iter().collect(), limit, Instant::now()).is_empty());
}
