//! JSON envelopes. Only the envelope is parsed; the payload stays text.

use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Ref;
use crate::message::{ClientMessage, DecodeError, MAX_NAME, MAX_REF, Payload};

/// The five parts of a message, borrowed from its text.
struct Envelope<'a> {
    join_ref: Option<&'a RawValue>,
    msg_ref: &'a RawValue,
    topic: Box<str>,
    event: Box<str>,
    payload: &'a RawValue,
}

/// `[join_ref, ref, topic, event, payload, …]`; what follows the fifth element is ignored.
struct V2<'a>(Envelope<'a>);
/// `{topic, event, payload, ref}` and perhaps `join_ref`; of repeated keys the last one counts.
struct V1<'a>(Envelope<'a>);

pub(super) fn decode_v1(frame: &Bytes) -> Result<ClientMessage, DecodeError> {
    match serde_json::from_slice::<V1<'_>>(frame) {
        Ok(V1(envelope)) => message(frame, &envelope),
        Err(_) if !frame.trim_ascii_start().starts_with(b"{") && is_json(frame) => {
            Err(DecodeError::Unexpected)
        }
        Err(_) => Err(DecodeError::Malformed),
    }
}

pub(super) fn decode_v2(frame: &Bytes) -> Result<ClientMessage, DecodeError> {
    let V2(envelope) = serde_json::from_slice(frame).map_err(|_| DecodeError::Malformed)?;
    message(frame, &envelope)
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

fn message(frame: &Bytes, envelope: &Envelope<'_>) -> Result<ClientMessage, DecodeError> {
    let refs = [envelope.join_ref, Some(envelope.msg_ref)];
    let too_long = refs.into_iter().flatten().any(|token| token.get().len() > MAX_REF)
        || envelope.topic.len() > MAX_NAME
        || envelope.event.len() > MAX_NAME;
    if too_long {
        return Err(DecodeError::TooLong);
    }
    Ok(ClientMessage {
        join_ref: envelope.join_ref.map_or_else(Ref::null, |token| Ref::from_json(token.get())),
        msg_ref: Ref::from_json(envelope.msg_ref.get()),
        topic: envelope.topic.clone(),
        event: envelope.event.clone(),
        payload: Payload::Json(frame.slice_ref(envelope.payload.get().as_bytes())),
    })
}

impl<'de> Deserialize<'de> for V2<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = V2<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of five elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<V2<'de>, A::Error> {
                fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(
                    seq: &mut A,
                    at: usize,
                ) -> Result<T, A::Error> {
                    seq.next_element()?.ok_or_else(|| de::Error::invalid_length(at, &"five elements"))
                }
                let envelope = Envelope {
                    join_ref: Some(next(&mut seq, 0)?),
                    msg_ref: next(&mut seq, 1)?,
                    topic: next(&mut seq, 2)?,
                    event: next(&mut seq, 3)?,
                    payload: next(&mut seq, 4)?,
                };
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(V2(envelope))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

impl<'de> Deserialize<'de> for V1<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = V1<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with topic, event, payload and ref")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V1<'de>, A::Error> {
                let (mut join_ref, mut msg_ref, mut topic, mut event, mut payload) =
                    (None, None, None, None, None);
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*key {
                        "join_ref" => join_ref = Some(map.next_value()?),
                        "ref" => msg_ref = Some(map.next_value()?),
                        "topic" => topic = Some(map.next_value()?),
                        "event" => event = Some(map.next_value()?),
                        "payload" => payload = Some(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(V1(Envelope {
                    join_ref,
                    msg_ref: msg_ref.ok_or_else(|| de::Error::missing_field("ref"))?,
                    topic: topic.ok_or_else(|| de::Error::missing_field("topic"))?,
                    event: event.ok_or_else(|| de::Error::missing_field("event"))?,
                    payload: payload.ok_or_else(|| de::Error::missing_field("payload"))?,
                }))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
