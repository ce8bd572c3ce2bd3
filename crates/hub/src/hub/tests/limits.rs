//! What is counted, held back, shed and waited for.

use super::*;

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
    assert!(hub.hear(&room, &Said::Json(b"{}"), None).run.is_none(), "from another node");
    assert!(hub.say(&room, &Said::Json(b"{}"), None).run.is_none(), "over HTTP");
    assert!(hub.say_stored(&room, 1, None, tag).run.is_none(), "from the database");
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

/// What waits for a pass is bounded: publishers are told to wait, and told when it is over.
#[tokio::test]
async fn rooms_that_cannot_keep_up_hold_their_publishers() {
    let hub = hub();
    let room = key("t", Audience::Public, "realtime:a");
    let (sender, _) = enter(&hub, &room, Vsn::V2);
    let (_other, _) = enter(&hub, &room, Vsn::V2);
    let first = sender.publish(false, |_| Some(vec![0; 3_000_000].into()));
    assert!(first.congestion.is_none());
    let second = sender.publish(false, |_| Some(vec![0; 3_000_000].into()));
    assert!(second.run.is_none());
    let congestion = second.congestion.unwrap();
    assert!(!congestion.is_over() && publish(&hub, &room, tag).congestion.is_some());
    let waiting = tokio::spawn(async move { congestion.over().await });
    tokio::task::yield_now().await;
    drop(first);
    waiting.await.unwrap();
    assert!(sender.publish(false, tag).congestion.is_none());
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
        drop(publish(&hub, &room, tag));
    }
    assert!(!membership.open([], Box::default()));
    drop(publish(&hub, &room, tag));
    assert_eq!(received(&outbox).len(), 4_097);
}
