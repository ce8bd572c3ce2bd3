//! Frames of messages that a joining channel has missed (protocol 10.1).

use bytes::Bytes;
use realtime_hub::MessageId;
use realtime_postgres::{MessageBody, ReplayedMessage};
use realtime_protocol::{Encoding, Ref, UserBroadcast, Vsn, encode};

/// A frame for each message that the serializer can carry.
pub(super) fn frames(
    vsn: Vsn,
    join_ref: &Ref,
    topic: &str,
    messages: &[ReplayedMessage],
) -> impl Iterator<Item = Bytes> {
    messages.iter().filter_map(move |message| {
        let meta = format!("{{\"id\":\"{}\",\"replayed\":true}}", message.id);
        match &message.body {
            MessageBody::Json(json) => {
                let event = message.event.as_deref();
                Some(encode::replayed(vsn, join_ref, topic, event, json, meta.as_bytes()))
            }
            MessageBody::Binary(bytes) => {
                let user = UserBroadcast {
                    event: message.event.clone().unwrap_or_default(),
                    encoding: Encoding::Binary,
                    body: bytes.clone(),
                };
                encode::user_broadcast(vsn, topic, &user, Some(meta.as_bytes()))
            }
        }
    })
}

/// The ids of messages that must not be delivered again.
pub(super) fn ids(messages: &[ReplayedMessage]) -> Box<[MessageId]> {
    let id = |message: &ReplayedMessage| uuid::Uuid::try_parse(&message.id).ok().map(|id| id.as_u128());
    messages.iter().filter_map(id).collect()
}
