//! A room's message is compressed once per serializer, for those who take it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_hub::{Audience, Hub, Member, Membership, Meter, Outbox, RoomKey, Said, Unlimited};
use realtime_protocol::{Vsn, deflate, frame};
use tokio::time;

/// Frames of this size or more are compressed.
const FROM: usize = 500;

const MOST: usize = 10_000_000;

const PATIENCE: Duration = Duration::from_secs(60);

struct Room {
    hub: Arc<Hub>,
    key: RoomKey,
    members: Vec<(Membership, Arc<Outbox>)>,
}

impl Room {
    fn new() -> Self {
        let key = RoomKey { tenant: "t".into(), audience: Audience::Public, topic: "realtime:a".into() };
        Self { hub: Hub::new(1, Duration::ZERO), key, members: Vec::new() }
    }

    fn enter(&mut self, vsn: Vsn, packs: bool) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(MOST));
        if packs {
            outbox.pack_from(FROM);
        }
        let meter: Arc<dyn Meter> = Arc::new(Unlimited);
        let member = self.hub.join(&self.key, Member::new(Arc::clone(&outbox), vsn), &meter, []);
        self.members.push((member, Arc::clone(&outbox)));
        outbox
    }

    /// What member `from` says reaches others at once or, if it is much, a little later.
    fn say(&self, from: Option<usize>, payload: &str) {
        let said = Said::Json(payload.as_bytes());
        let delivery = match from {
            Some(from) => self.members[from].0.say(false, &said),
            None => self.hub.say(&self.key, &said, None),
        };
        drop(delivery);
    }
}

fn payload(rows: usize) -> String {
    let rows: Vec<String> = (0..rows).map(|n| format!("{{\"id\":{n},\"name\":\"row {n}\"}}")).collect();
    format!("{{\"type\":\"broadcast\",\"event\":\"e\",\"payload\":[{}]}}", rows.join(","))
}

async fn received(outbox: &Outbox, count: usize) -> Vec<Bytes> {
    let mut frames = VecDeque::new();
    time::timeout(PATIENCE, async {
        loop {
            outbox.take(&mut frames);
            if frames.len() >= count {
                return;
            }
            outbox.ready().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(frames.len(), count);
    frames.into()
}

fn is_packed(frame: &Bytes) -> bool {
    frame[0] & 0x40 != 0
}

fn content(frame: &Bytes) -> Bytes {
    let payload = frame::payload(frame).unwrap();
    if is_packed(frame) { deflate::unpack(&payload, MOST).unwrap().into() } else { payload }
}

/// One test, because it counts what the process does.
#[tokio::test]
async fn a_message_is_compressed_once_per_serializer_for_those_who_take_it() {
    let mut room = Room::new();
    let count = || deflate::packed().messages;
    let before = count();

    // Nobody takes it but the sender.
    let sender = room.enter(Vsn::V2, true);
    let plain = room.enter(Vsn::V2, false);
    room.say(Some(0), &payload(100));
    assert!(!is_packed(&received(&plain, 1).await[0]));
    assert_eq!(count() - before, 0);

    // Many do, and others do not.
    let many: Vec<_> = (0..600).map(|_| room.enter(Vsn::V2, true)).collect();
    let old = room.enter(Vsn::V1, true);
    let texts = room.enter(Vsn::V2Text, true);
    for rows in [100, 20_000] {
        let before = count();
        let text = payload(rows);
        room.say(Some(0), &text);
        let plain = received(&plain, 1).await.remove(0);
        assert!(!is_packed(&plain) && !is_packed(&received(&texts, 1).await[0]));
        let first = received(&many[0], 1).await.remove(0);
        assert!(is_packed(&first) && first.len() < plain.len() / 2);
        assert_eq!(content(&first), content(&plain));
        for outbox in &many[1..] {
            let frame = received(outbox, 1).await.remove(0);
            assert_eq!((frame.as_ptr(), frame.len()), (first.as_ptr(), first.len()), "it is shared");
        }
        let old = received(&old, 1).await.remove(0);
        assert!(is_packed(&old));
        assert!(content(&old).starts_with(b"{\"") && content(&old).len() > text.len());
        assert_eq!(count() - before, 2, "once for each of two serializers");
    }

    // The order stays, whatever is compressed and however long it takes. What is small stays as it is.
    let before = count();
    room.say(None, &payload(20_000));
    room.say(None, "{\"n\":1}");
    room.say(None, &payload(50));
    room.say(None, "{\"n\":2}");
    for outbox in [&sender, &many[599], &old] {
        let frames = received(outbox, 4).await;
        assert_eq!(frames.iter().map(is_packed).collect::<Vec<_>>(), [true, false, true, false]);
        assert!(content(&frames[0]).len() > content(&frames[2]).len());
    }
    assert_eq!(count() - before, 4);

    // Those who took it are gone.
    room.members.retain(|(_, outbox)| outbox.packs_from() == usize::MAX);
    let before = count();
    drop(many);
    let _ = received(&plain, 4).await;
    room.say(None, &payload(100));
    assert!(!is_packed(&received(&plain, 1).await[0]));
    assert_eq!(count() - before, 0);
}
