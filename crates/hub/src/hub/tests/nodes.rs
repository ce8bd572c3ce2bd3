//! What other nodes are told.

use super::*;
use crate::Tracked;

#[test]
fn what_happens_here_is_carried_to_others_and_what_they_tell_is_not() {
    let hub = hub();
    let list = Arc::new(List { said: Mutex::default(), backlog: Arc::new(crate::Backlog::new(10)) });
    hub.set_bus(Arc::<List>::clone(&list));
    let room = key("t", Audience::Public, "a");
    let (alone, outbox) = enter(&hub, &room, Vsn::V2);
    drop(alone.say(false, &Said::Json(b"1")));
    drop(hub.say(&room, &Said::Json(b"2"), None));
    drop(hub.hear(&room, &Said::Json(b"3"), None));
    assert_eq!(received(&outbox).len(), 2);
    drop(alone.track("k", Bytes::from_static(b"{}")));
    assert!(matches!(alone.track("k", Bytes::from_static(b"{}")), Tracked::Same));
    drop(alone.untrack());
    drop(alone.untrack());
    drop(alone.track("k", Bytes::from_static(b"{}")));
    drop(alone);
    let expected = ["a 1", "a 2", "a 0 Some(\"k\")", "a 0 None", "a 0 Some(\"k\")", "a 0 None"];
    assert_eq!(*list.said.lock(), expected);

    assert!(hub.say_stored(&room, 1, None, tag).congestion.is_none());
    list.backlog.add(11);
    let jam = hub.say_stored(&room, 2, None, tag).congestion.expect("too much waits");
    assert!(!jam.is_over());
    list.backlog.take(1);
    assert!(jam.is_over());
}
