//! The sink of a tenant's database: sends row changes to channels and broadcasts to rooms.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use realtime_changes::{Action, ChannelId, Delivery, Recipient};
use realtime_codes::ErrorCode;
use realtime_hub::{Audience, FanOut, Hub, RoomKey};
use realtime_pgoutput::Position;
use realtime_postgres::{ChangeSink, DatabaseBroadcast, MessageBody, Notice, Relief};
use realtime_protocol::{Encoding, UserBroadcast, encode};
use tokio::time::{Duration, Instant};

use crate::{limits::Meters, publish, routes::Routes};

/// The sink of one tenant's database.
#[derive(Debug)]
pub struct DatabaseSink {
    routes: Arc<Routes>,
    hub: Arc<Hub>,
    /// The tenant's `external_id`.
    tenant: Arc<str>,
    /// What the current transaction has published.
    fan_outs: Mutex<Vec<FanOut>>,
    limited: Limited,
}

/// Messages above the limit, which are not delivered. Logged once a second at most.
#[derive(Debug, Default)]
struct Limited(Mutex<(u64, Option<Instant>)>);

impl Limited {
    fn warn(&self, tenant: &str) {
        let mut state = self.0.lock();
        let (count, logged) = &mut *state;
        *count += 1;
        if logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            let code = ErrorCode::UnableToBroadcastChanges.as_str();
            let reason = "above max_events_per_second of the tenant";
            tracing::warn!(tenant, code, dropped = *count, reason, "{code}: too_many_requests");
            (*count, *logged) = (0, Some(Instant::now()));
        }
    }
}

impl DatabaseSink {
    /// A sink for the events of a tenant's database.
    #[must_use]
    pub fn new(routes: Arc<Routes>, hub: Arc<Hub>, tenant: Arc<str>) -> Self {
        Self { routes, hub, tenant, fan_outs: Mutex::default(), limited: Limited::default() }
    }

    fn meters(&self) -> &Meters {
        self.routes.meters()
    }

    fn run_fan_outs(&self) {
        let fan_outs = std::mem::take(&mut *self.fan_outs.lock());
        fan_outs.into_iter().for_each(FanOut::run);
    }
}

impl ChangeSink for DatabaseSink {
    fn deliver(&self, delivery: Delivery) {
        self.routes.deliver(delivery);
    }

    fn rows(&self, to: &[Recipient], rows: &[(Action, Bytes)], first: bool) {
        self.routes.rows(to, rows, first);
    }

    fn room(&self, channel: ChannelId) -> Option<bool> {
        self.routes.room(channel)
    }

    fn streams(&self) -> (usize, Option<Instant>) {
        self.routes.streams()
    }

    fn position(&self, channel: ChannelId, position: Position) -> bool {
        self.routes.position(channel, position)
    }

    fn positions(&self, position: Position, has_all: &dyn Fn(ChannelId) -> bool) {
        self.routes.positions(position, has_all);
    }

    fn notice(&self, channel: ChannelId, notice: Notice) {
        self.routes.notice(channel, notice);
    }

    fn relieve(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        self.routes.relieve()
    }

    /// Publishes in the room of the topic and audience (tenant_database 4.2, 4.3). If a room cannot keep up, the log
    /// is not read until it has.
    fn broadcast(&self, message: DatabaseBroadcast) -> Option<Relief> {
        let events = self.meters().events();
        let Ok(id) = uuid::Uuid::try_parse(&message.id) else { return None };
        let key = RoomKey {
            tenant: Arc::clone(&self.tenant),
            audience: if message.private { Audience::Private } else { Audience::Public },
            topic: format!("realtime:{}", message.topic).into(),
        };
        let closes = self.meters().closes_channels();
        if (closes && events.is_triggered()) || self.hub.sheds(&key) {
            self.limited.warn(&self.tenant);
            return None;
        }
        let size = match &message.body {
            MessageBody::Json(json) => json.len(),
            MessageBody::Binary(bytes) => bytes.len(),
        };
        let (encoding, body) = match message.body {
            MessageBody::Json(json) => (Encoding::Json, json),
            MessageBody::Binary(bytes) => (Encoding::Binary, bytes),
        };
        let meta = format!("{{\"id\":\"{}\"}}", message.id);
        let user = UserBroadcast { event: message.event, encoding, body };
        let encode = |vsn| encode::user_broadcast(vsn, &key.topic, &user, Some(meta.as_bytes()));
        let delivery = publish::stored(self.meters(), &self.hub, &key, id.as_u128(), size, &user, encode);
        self.fan_outs.lock().extend(delivery.run);
        let congestion = delivery.congestion?;
        self.run_fan_outs();
        Some(Box::pin(async move { congestion.over().await }))
    }

    fn max_broadcast_bytes(&self) -> usize {
        self.meters().max_payload_bytes()
    }

    fn committed(&self) {
        self.run_fan_outs();
    }

    fn has_room(&self, channel: ChannelId) -> bool {
        self.routes.has_room(channel)
    }

    fn is_limited(&self) -> bool {
        self.routes.is_limited()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use realtime_hub::{Member, Meter, Outbox};
    use realtime_protocol::Vsn;
    use realtime_tenants::Limits;
    use tokio::time;

    use super::*;

    fn message(private: bool, body: MessageBody) -> DatabaseBroadcast {
        DatabaseBroadcast {
            id: uuid::Uuid::nil().to_string().into(),
            topic: "a".into(),
            event: "e".into(),
            private,
            body,
            inserted_at: realtime_pgoutput::message::UnixMicros(0),
        }
    }

    /// tenant_database 42, 48; protocol 49: one room only; each counts once and per receiver; none above the limit
    #[tokio::test(start_paused = true)]
    async fn messages_are_counted_and_limited() {
        let meters = Meters::new(&Limits { max_events_per_second: 1, ..Limits::default() });
        let meters = Arc::new(meters.closing_channels(true));
        let hub = Hub::new(0, Duration::ZERO);
        let sink =
            DatabaseSink::new(Arc::new(Routes::new(Arc::clone(&meters))), Arc::clone(&hub), "t".into());
        let meter: Arc<dyn Meter> = Arc::<Meters>::clone(&meters);
        let join = |audience, vsn| {
            let key = RoomKey { tenant: "t".into(), audience, topic: "realtime:a".into() };
            let outbox = Arc::new(Outbox::new(100_000));
            (hub.join(&key, Member::new(Arc::clone(&outbox), vsn), &meter, []), outbox)
        };
        let members = [
            join(Audience::Private, Vsn::V2),
            join(Audience::Private, Vsn::V1),
            join(Audience::Public, Vsn::V2),
        ];
        let received = |expected: [usize; 3]| {
            for ((_, outbox), expected) in members.iter().zip(expected) {
                let mut frames = VecDeque::new();
                outbox.take(&mut frames);
                assert_eq!(frames.len(), expected);
            }
        };
        assert!(sink.broadcast(message(true, MessageBody::Json("{}".into()))).is_none());
        received([0, 0, 0]);
        sink.committed();
        received([1, 1, 0]);
        assert_eq!(meters.events().total(), 3);
        sink.broadcast(message(false, MessageBody::Binary("x".into())));
        sink.committed();
        received([0, 0, 1]);
        sink.broadcast(message(true, MessageBody::Binary("x".into())));
        sink.committed();
        received([1, 0, 0]);

        meters.events().add(100);
        time::advance(Duration::from_secs(5)).await;
        sink.broadcast(message(true, MessageBody::Json("{}".into())));
        sink.committed();
        received([0, 0, 0]);
    }

    /// Above the limit as many pass in each second as it allows, and the room is told of the others.
    #[tokio::test(start_paused = true)]
    async fn messages_above_the_limit_are_told() {
        let meters = Arc::new(Meters::new(&Limits { max_events_per_second: 2, ..Limits::default() }));
        let hub = Hub::new(0, Duration::ZERO);
        let sink =
            DatabaseSink::new(Arc::new(Routes::new(Arc::clone(&meters))), Arc::clone(&hub), "t".into());
        let meter: Arc<dyn Meter> = Arc::<Meters>::clone(&meters);
        let key = RoomKey { tenant: "t".into(), audience: Audience::Public, topic: "realtime:a".into() };
        let outbox = Arc::new(Outbox::new(100_000));
        let _member = hub.join(&key, Member::new(Arc::clone(&outbox), Vsn::V1), &meter, []);
        meters.events().add(1000);
        time::advance(Duration::from_secs(5)).await;
        for _ in 0..3 {
            assert!(sink.broadcast(message(false, MessageBody::Json("{}".into()))).is_none());
            sink.committed();
        }
        let mut frames = VecDeque::new();
        outbox.take(&mut frames);
        assert_eq!(frames.len(), 1, "it was counted, and its delivery");
        time::sleep(Duration::from_millis(1001)).await;
        frames.clear();
        outbox.take(&mut frames);
        let told = String::from_utf8_lossy(&frames[0]).into_owned();
        assert!(told.contains("MessagesDropped") && told.contains("\"count\":2"), "{told}");
    }

    /// What a room cannot take is waited for.
    #[tokio::test]
    async fn a_room_that_cannot_keep_up_is_waited_for() {
        let meters = Arc::new(Meters::new(&Limits { max_events_per_second: 1_000_000, ..Limits::default() }));
        let hub = Hub::new(0, Duration::ZERO);
        let sink =
            DatabaseSink::new(Arc::new(Routes::new(Arc::clone(&meters))), Arc::clone(&hub), "t".into());
        let meter: Arc<dyn Meter> = meters;
        let key = RoomKey { tenant: "t".into(), audience: Audience::Public, topic: "realtime:a".into() };
        let outbox = Arc::new(Outbox::new(100_000_000));
        let members: Vec<_> =
            (0..300).map(|_| hub.join(&key, Member::new(Arc::clone(&outbox), Vsn::V2), &meter, [])).collect();
        let large = MessageBody::Json(format!("\"{}\"", "x".repeat(1_000_000)).into());
        let relief = (0..10).find_map(|_| sink.broadcast(message(false, large.clone())));
        relief.expect("it never ends").await;
        drop(members);
    }
}
