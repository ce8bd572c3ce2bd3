//! Where a tenant's database sends what happens in it: row changes to channels, broadcasts to rooms.

use std::sync::Arc;

use parking_lot::Mutex;
use realtime_changes::{ChannelId, Delivery};
use realtime_hub::{Audience, FanOut, Hub, RoomKey};
use realtime_postgres::{ChangeSink, DatabaseBroadcast, MessageBody, Notice, Relief};
use realtime_protocol::{Encoding, UserBroadcast, encode};

use crate::{limits::Meters, routes::Routes};

/// The sink of one tenant's database.
#[derive(Debug)]
pub struct DatabaseSink {
    routes: Arc<Routes>,
    hub: Arc<Hub>,
    /// The tenant's `external_id`.
    tenant: Arc<str>,
    /// What was published in the transaction that is being read.
    fan_outs: Mutex<Vec<FanOut>>,
}

impl DatabaseSink {
    /// A sink for what concerns a tenant.
    #[must_use]
    pub fn new(routes: Arc<Routes>, hub: Arc<Hub>, tenant: Arc<str>) -> Self {
        Self { routes, hub, tenant, fan_outs: Mutex::default() }
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

    fn notice(&self, channel: ChannelId, notice: Notice) {
        self.routes.notice(channel, notice);
    }

    /// Publishes in the room of the topic and audience (tenant_database 4.2, 4.3). What a room cannot take is waited
    /// for, so the log is not read further meanwhile.
    fn broadcast(&self, message: DatabaseBroadcast) -> Option<Relief> {
        let events = self.meters().events();
        if events.is_triggered() {
            let tenant = &*self.tenant;
            tracing::warn!(
                tenant,
                code = "UnableToBroadcastChanges",
                "UnableToBroadcastChanges: too_many_requests"
            );
            return None;
        }
        let Ok(id) = uuid::Uuid::try_parse(&message.id) else { return None };
        events.add(1);
        let key = RoomKey {
            tenant: Arc::clone(&self.tenant),
            audience: if message.private { Audience::Private } else { Audience::Public },
            topic: format!("realtime:{}", message.topic).into(),
        };
        let (encoding, body) = match message.body {
            MessageBody::Json(json) => (Encoding::Json, json),
            MessageBody::Binary(bytes) => (Encoding::Binary, bytes),
        };
        let meta = format!("{{\"id\":\"{}\"}}", message.id);
        let user = UserBroadcast { event: message.event, encoding, body };
        let encode = |vsn| encode::user_broadcast(vsn, &key.topic, &user, Some(meta.as_bytes()));
        let fan_out = self.hub.publish_stored(&key, id.as_u128(), encode);
        self.fan_outs.lock().extend(fan_out);
        let congestion = self.hub.congestion(&key)?;
        self.run_fan_outs();
        Some(Box::pin(async move { congestion.over().await }))
    }

    fn max_broadcast_bytes(&self) -> usize {
        self.meters().max_payload_bytes()
    }

    fn committed(&self) {
        self.run_fan_outs();
    }

    fn is_limited(&self) -> bool {
        self.routes.is_limited()
    }
}
