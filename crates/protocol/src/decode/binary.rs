//! Binary frames of serializer 2.0.0 (protocol 2.3).

use bytes::{Buf, Bytes};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::message::{ClientMessage, DecodeError, Encoding, Payload, UserBroadcast};
use crate::{Ref, has_lone_surrogate};

const PUSH: u8 = 0;
const USER_BROADCAST_PUSH: u8 = 3;

pub(super) fn decode(frame: &Bytes) -> Result<ClientMessage, DecodeError> {
    let mut rest = frame.clone();
    match byte(&mut rest)? {
        PUSH => {
            let [join_ref, msg_ref, topic, event] = lengths(&mut rest)?;
            let (join_ref, msg_ref) = (reference(&mut rest, join_ref)?, reference(&mut rest, msg_ref)?);
            let (topic, event) = (text(&mut rest, topic)?, text(&mut rest, event)?);
            Ok(ClientMessage { join_ref, msg_ref, topic, event, payload: Payload::Binary(rest) })
        }
        USER_BROADCAST_PUSH => {
            let [join_ref, msg_ref, topic, event, metadata] = lengths(&mut rest)?;
            let encoding = if byte(&mut rest)? == 0 { Encoding::Binary } else { Encoding::Json };
            let (join_ref, msg_ref) = (reference(&mut rest, join_ref)?, reference(&mut rest, msg_ref)?);
            let (topic, event) = (text(&mut rest, topic)?, text(&mut rest, event)?);
            // Metadata is checked and dropped: nobody receives it.
            let metadata = take(&mut rest, metadata)?;
            if !metadata.is_empty() && serde_json::from_slice::<IgnoredAny>(&metadata).is_err() {
                return Err(DecodeError::Malformed);
            }
            // Receivers parse what is said to be JSON, and some break off over what is not.
            if encoding == Encoding::Json && !is_whole_json(&rest) {
                return Err(DecodeError::Malformed);
            }
            let user = UserBroadcast { event, encoding, body: rest };
            Ok(ClientMessage {
                join_ref,
                msg_ref,
                topic,
                event: "broadcast".into(),
                payload: Payload::UserBroadcast(user),
            })
        }
        _ => Err(DecodeError::Unexpected),
    }
}

fn byte(rest: &mut Bytes) -> Result<u8, DecodeError> {
    rest.try_get_u8().map_err(|_| DecodeError::Unexpected)
}

fn lengths<const N: usize>(rest: &mut Bytes) -> Result<[u8; N], DecodeError> {
    let mut lengths = [0; N];
    rest.try_copy_to_slice(&mut lengths).map_err(|_| DecodeError::Unexpected)?;
    Ok(lengths)
}

fn take(rest: &mut Bytes, len: u8) -> Result<Bytes, DecodeError> {
    let len = usize::from(len);
    if rest.len() < len { Err(DecodeError::Unexpected) } else { Ok(rest.split_to(len)) }
}

fn text(rest: &mut Bytes, len: u8) -> Result<Box<str>, DecodeError> {
    let bytes = take(rest, len)?;
    std::str::from_utf8(&bytes).map(Into::into).map_err(|_| DecodeError::Malformed)
}

fn reference(rest: &mut Bytes, len: u8) -> Result<Ref, DecodeError> {
    Ok(Ref::from_text(&text(rest, len)?))
}

/// Whether every receiver can read it: JSON in UTF-8, with no half characters.
fn is_whole_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok() && !has_lone_surrogate(text)
}
