use bytes::BytesMut;
use realtime_hub::{Audience, Member, Meter, Outbox};
use realtime_protocol::Vsn;

use super::{copies::TELL_AGAIN, *};
use crate::wire::Kind;

#[derive(Debug)]
struct Side(Arc<dyn Meter>);

#[derive(Debug)]
struct Uncounted;

impl Meter for Uncounted {
    fn is_over(&self) -> bool {
        false
    }

    fn limit(&self) -> u32 {
        u32::MAX
    }

    fn delivered(&self, _: realtime_hub::Kind, _: u64) {}

    fn is_exceeded(&self) -> bool {
        false
    }
}

impl TenantSide for Side {
    fn meter(&self) -> &Arc<dyn Meter> {
        &self.0
    }

    fn users(&self) -> u32 {
        0
    }

    fn set_users_elsewhere(&self, _: u32) {}
}

fn said(number: u64, payload: &str) -> Bytes {
    let mut message = BytesMut::from(&Header { kind: Kind::Records, node: 7, number }.encode()[..]);
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
    let meter: Arc<dyn Meter> = Arc::new(Uncounted);
    let incoming = Incoming::new("t".into(), Arc::new(Side(Arc::clone(&meter))));
    let asks = Asks::default();
    let key = RoomKey { tenant: "t".into(), audience: Audience::Public, topic: "realtime:a".into() };
    let outbox = Arc::new(Outbox::new(100_000));
    let _member = hub.join(&key, Member::new(Arc::clone(&outbox), Vsn::V2), &meter, []);
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
