use tokio::time::Duration;

use super::*;
use crate::{
    rates::Rate,
    wire::{Record, records},
};

const HEARTBEAT: Duration = Duration::from_secs(1);

fn outgoing() -> (Outgoing, Arc<str>) {
    (Outgoing::new(7, HEARTBEAT, HEARTBEAT * 6), "t".into())
}

/// Where the tests say something.
fn room(tenant: &Arc<str>) -> Scope {
    Scope::of_room(tenant, "realtime:a")
}

fn say(outgoing: &Outgoing, tenant: &Arc<str>, payload: &str) {
    outgoing.say(&room(tenant), payload.len(), |out| {
        wire::put_json(out, Audience::Public, "realtime:a", payload.as_bytes());
    });
}

async fn taken(outgoing: &Outgoing, max: usize, deliverable: bool) -> Vec<(Header, Bytes)> {
    let stream = outgoing.next().await;
    let messages = outgoing.take(&stream, max, deliverable, Instant::now());
    let marks = outgoing.marks(Some(Instant::now() - Duration::from_secs(1)), Instant::now());
    assert!(marks.iter().all(|(marked, _)| !Arc::ptr_eq(marked, &stream)), "a mark overtakes it");
    stream.published();
    let split = |mut message: Bytes| (Header::decode(&mut message).unwrap(), message);
    messages.into_iter().map(split).collect()
}

fn payloads(body: Bytes) -> Vec<Bytes> {
    let payload = |record| match record {
        Record::Json(_, payload) => payload,
        other => panic!("{other:?}"),
    };
    records(body).unwrap().into_iter().map(payload).collect()
}

#[tokio::test]
async fn idle_streams_are_forgotten_and_their_numbers_are_not() {
    let (outgoing, tenant) = outgoing();
    let other: Arc<str> = "other".into();
    let later = || Instant::now() + FORGOTTEN;
    for _ in 0..3 {
        say(&outgoing, &tenant, "{}");
        taken(&outgoing, 1_000_000, true).await;
    }
    outgoing.users(&other, 1);
    outgoing.forget_idle(later());
    assert_eq!(outgoing.streams.read().len(), 2, "what waits, or was not marked");
    taken(&outgoing, 1_000_000, true).await;
    outgoing.marks(None, Instant::now());
    outgoing.forget_idle(Instant::now());
    assert_eq!(outgoing.streams.read().len(), 2, "something was said a moment ago");
    outgoing.forget_idle(later());
    assert!(
        outgoing.existing(&room(&tenant)).is_none() && outgoing.existing(&Scope::whole(&other)).is_some(),
        "it has a user"
    );
    // Who has heard the old numbers, and who asks now, both see what is said next.
    assert_eq!(outgoing.snapshot(&room(&tenant)).as_of, 3);
    say(&outgoing, &tenant, "{}");
    let [(header, _)] = &taken(&outgoing, 1_000_000, true).await[..] else { panic!("one expected") };
    assert_eq!(header.number, 4);
}

#[tokio::test]
async fn what_gathers_leaves_as_one() {
    let (outgoing, tenant) = outgoing();
    say(&outgoing, &tenant, "{}");
    say(&outgoing, &tenant, "[1]");
    assert!(outgoing.backlog.bytes() > 0);
    let [(header, body)] = &taken(&outgoing, 1_000_000, true).await[..] else { panic!("one expected") };
    assert_eq!(*header, Header { kind: Kind::Records, node: 7, number: 1 });
    assert_eq!(payloads(body.clone()), ["{}", "[1]"]);
    assert_eq!(outgoing.backlog.bytes(), 0);
    say(&outgoing, &tenant, "{}");
    assert_eq!(taken(&outgoing, 1_000_000, true).await[0].0.number, 2);
}

#[tokio::test]
async fn what_is_too_large_goes_in_pieces() {
    let (outgoing, tenant) = outgoing();
    let large = format!("\"{}\"", "x".repeat(1000));
    say(&outgoing, &tenant, &large);
    let messages = taken(&outgoing, 300, true).await;
    let numbers: Vec<u64> = messages.iter().map(|(header, _)| header.number).collect();
    assert_eq!(numbers, (1..=messages.len() as u64).collect::<Vec<_>>());
    let (last, rest) = messages.split_last().unwrap();
    assert_eq!(last.0.kind, Kind::LastFragment);
    assert!(rest.iter().all(|(_, body)| body.len() + HEADER == 300));
    let (first, middle) = rest.split_first().unwrap();
    assert_eq!(first.0.kind, Kind::FirstFragment);
    assert!(!middle.is_empty() && middle.iter().all(|(header, _)| header.kind == Kind::Fragment));
    let body: Vec<u8> = messages.iter().flat_map(|(_, body)| body.to_vec()).collect();
    assert_eq!(payloads(body.into()), [large]);
}

/// One tenant fills the queue: what it says is lost, not what others say.
#[tokio::test]
async fn who_fills_the_queue_loses() {
    let (outgoing, loud) = outgoing();
    let quiet: Arc<str> = "quiet".into();
    let large = "x".repeat(3_000_000);
    for _ in 0..30 {
        say(&outgoing, &loud, &large);
    }
    let waiting = outgoing.backlog.bytes();
    assert!((FULL..FULL + 4_000_000).contains(&waiting), "{waiting}");
    say(&outgoing, &quiet, "{}");
    assert!(outgoing.backlog.bytes() > waiting);
    let (header, _) = taken(&outgoing, 100_000_000, true).await.remove(0);
    assert_eq!(header.number, 2, "some of it was lost");
    let (header, body) = taken(&outgoing, 100_000_000, true).await.remove(0);
    assert_eq!((header.number, payloads(body)), (1, vec![Bytes::from_static(b"{}")]));
}

#[tokio::test]
async fn what_is_lost_costs_a_number_and_marks_tell() {
    let (outgoing, tenant) = outgoing();
    assert!(outgoing.marks(None, Instant::now()).is_empty());
    let start = Instant::now();
    say(&outgoing, &tenant, "{}");
    assert!(outgoing.marks(None, Instant::now()).is_empty(), "it has something to say");
    assert_eq!(taken(&outgoing, 1000, false).await, []);
    assert_eq!(outgoing.backlog.bytes(), 0);
    let number = |marks: Vec<(Arc<Stream>, Bytes)>| {
        marks.into_iter().map(|(_, mut mark)| Header::decode(&mut mark).unwrap().number).collect::<Vec<_>>()
    };
    assert_eq!(number(outgoing.marks(None, Instant::now())), [1]);
    assert!(outgoing.marks(None, Instant::now()).is_empty());
    assert_eq!(number(outgoing.marks(Some(start), start)), [1]);
    say(&outgoing, &tenant, "{}");
    assert_eq!(taken(&outgoing, 1000, true).await[0].0.number, 2);
}

#[tokio::test]
async fn snapshots_have_what_is_so() {
    let (outgoing, tenant) = outgoing();
    let entry = |key: &str| Arc::new(Entry::remote(key, key, "{}".into()));
    let key =
        RoomKey { tenant: Arc::clone(&tenant), audience: Audience::Private, topic: "realtime:a".into() };
    for member in 0..10 {
        outgoing.present(&key, member, Some(&entry("k")));
    }
    outgoing.present(&key, 3, None);
    outgoing.present(&key, 3, None);
    outgoing.users(&tenant, 5);
    outgoing.users(&tenant, 5);
    outgoing.listen(&room(&tenant), true);
    let body = taken(&outgoing, 10_000, true).await.remove(0).1;
    assert_eq!(records(body).unwrap().len(), 11, "what changes nothing is not said");
    let body = taken(&outgoing, 10_000, true).await.remove(0).1;
    let buckets = Part::of("realtime:a").bit();
    let whole = [Record::Users(5), Record::Listens(Listens { version: 1, buckets })];
    assert_eq!(records(body).unwrap(), whole);
    let snapshot = outgoing.snapshot(&room(&tenant));
    assert_eq!(snapshot.as_of, 1);
    assert_eq!(records(snapshot.records.unwrap()).unwrap().len(), 9);
    let snapshot = outgoing.snapshot(&Scope::whole(&tenant));
    let [users, listens] = whole;
    let all = [users, listens, Record::Rates(Rates::default())];
    assert_eq!(records(snapshot.records.unwrap()).unwrap(), all);
    let empty = outgoing.snapshot(&Scope::whole(&"nobody".into()));
    assert_eq!((empty.as_of, empty.records), (0, None));
}

/// What nobody listens to is not sent. It uses up a number, which a node that was forgotten for a while is told.
#[tokio::test]
async fn what_nobody_listens_to_is_not_sent() {
    let (outgoing, tenant) = outgoing();
    let (common, bit) = (outgoing.common(&tenant), room(&tenant).part.bit());
    common.set_heard(Some(!bit));
    say(&outgoing, &tenant, "{}");
    say(&outgoing, &tenant, "{}");
    assert_eq!((outgoing.backlog.bytes(), outgoing.queue.lock().len()), (0, 0));
    assert!(outgoing.marks(None, Instant::now()).is_empty(), "nobody has to know");
    let snapshot = outgoing.snapshot(&room(&tenant));
    assert_eq!((snapshot.as_of, snapshot.unheard.is_some()), (2, true));
    // Somebody listens again.
    common.set_heard(Some(bit));
    outgoing.mark_again(&tenant, [Part::of("realtime:a"), Part::Bucket(0)].into_iter());
    let (_, mut mark) = outgoing.marks(None, Instant::now()).remove(0);
    assert_eq!(Header::decode(&mut mark).unwrap().number, 2);
    assert!(outgoing.marks(None, Instant::now()).is_empty(), "once");
    say(&outgoing, &tenant, "{}");
    common.set_heard(Some(0));
    say(&outgoing, &tenant, "[1]");
    let [(header, body)] = &taken(&outgoing, 1000, true).await[..] else { panic!("one expected") };
    assert_eq!((header.number, payloads(body.clone()).len()), (3, 2), "what waits takes it along");
    // A tenant that nobody is known of on other nodes may be anywhere.
    let other: Arc<str> = "other".into();
    say(&outgoing, &other, "{}");
    assert_eq!(outgoing.queue.lock().len(), 1);
    // What was not sent is remembered longer than its stream.
    say(&outgoing, &tenant, "{}");
    taken(&outgoing, 1000, true).await;
    outgoing.marks(None, Instant::now());
    outgoing.forget_idle(Instant::now() + FORGOTTEN);
    let snapshot = outgoing.snapshot(&room(&tenant));
    assert_eq!((snapshot.as_of, snapshot.unheard.is_some(), snapshot.records), (4, true, None));
}

/// A mark may be lost, as what it reveals the loss of.
#[tokio::test(start_paused = true)]
async fn marks_are_said_again_with_growing_pauses() {
    let (outgoing, tenant) = outgoing();
    say(&outgoing, &tenant, "{}");
    taken(&outgoing, 1000, true).await;
    let mut said = Vec::new();
    for second in 0..200 {
        if !outgoing.marks(None, Instant::now()).is_empty() {
            said.push(second);
        }
        tokio::time::advance(HEARTBEAT).await;
    }
    assert_eq!(said, [0, 1, 3, 7, 15, 31]);
}

#[tokio::test]
async fn rates_end_with_the_last_socket() {
    let (outgoing, tenant) = outgoing();
    let rates = [Rate { average: 50_000, recent: 50 }; METERS];
    let told = |outgoing: &Outgoing| {
        let state = outgoing.snapshot(&Scope::whole(&tenant)).records.unwrap();
        records(state).unwrap().into_iter().find_map(|record| match record {
            Record::Rates(rates) => Some(rates),
            _ => None,
        })
    };
    outgoing.users(&tenant, 1);
    outgoing.rates(&tenant, rates, &[100; METERS], 2);
    assert_eq!(told(&outgoing), Some(rates));
    outgoing.users(&tenant, 0);
    outgoing.still(&tenant);
    assert_eq!(told(&outgoing), Some(Rates::default()));
}
