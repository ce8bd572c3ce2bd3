//! What nodes write to each other about what they have kept of a room.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use realtime_hub::{Audience, Content, Kept, RoomKey, Told};
use realtime_protocol::{Encoding, UserBroadcast};
use std::sync::Arc;

use super::{Malformed, byte, bytes, long, put_bytes, text};

/// What a question about a room begins with. Questions of operators are JSON, which does not.
pub const ABOUT_A_ROOM: u8 = 1;

/// The message is a row of the database.
const STORED: u8 = 1;
/// It has a name and a body.
const USER: u8 = 2;
/// Its body is JSON.
const JSON: u8 = 4;

/// The question what a node has kept of a room.
#[must_use]
pub fn question(room: &RoomKey) -> Bytes {
    let mut out = BytesMut::with_capacity(room.tenant.len() + room.topic.len() + 16);
    out.put_u8(ABOUT_A_ROOM);
    out.put_u8((room.audience == Audience::Private).into());
    put_bytes(&mut out, room.tenant.as_bytes());
    put_bytes(&mut out, room.topic.as_bytes());
    out.freeze()
}

/// The room of a question, if it is one about a room.
///
/// # Errors
/// [`Malformed`].
pub fn asked_room(mut question: Bytes) -> Result<Option<RoomKey>, Malformed> {
    if question.first() != Some(&ABOUT_A_ROOM) {
        return Ok(None);
    }
    question.advance(1);
    let audience = if byte(&mut question)? == 1 { Audience::Private } else { Audience::Public };
    let (tenant, topic) = (text(&mut question)?.into(), text(&mut question)?.into());
    Ok(Some(RoomKey { tenant, audience, topic }))
}

/// Writes an answer.
#[must_use]
pub fn encode(told: &Told) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(told.since.is_some().into());
    out.put_u64(told.since.unwrap_or_default());
    for (at, message) in &told.messages {
        let stored = if message.is_stored() { STORED } else { 0 };
        out.put_u128(message.id());
        out.put_u64(*at);
        match message.content() {
            Content::Json(open) => {
                out.put_u8(stored);
                put_bytes(&mut out, open);
            }
            Content::User(user) => {
                let json = if user.encoding == Encoding::Json { JSON } else { 0 };
                out.put_u8(stored | USER | json);
                put_bytes(&mut out, user.event.as_bytes());
                put_bytes(&mut out, &user.body);
            }
        }
    }
    out.freeze()
}

/// Reads an answer.
///
/// # Errors
/// [`Malformed`].
pub fn decode(mut answer: Bytes) -> Result<Told, Malformed> {
    let is_heard = byte(&mut answer)? == 1;
    let since = long(&mut answer)?;
    let mut messages = Vec::new();
    while !answer.is_empty() {
        let id = answer.try_get_u128().map_err(|_| Malformed)?;
        let at = long(&mut answer)?;
        let flags = byte(&mut answer)?;
        // Copied: a slice would keep the whole answer.
        let content = if flags & USER == 0 {
            Content::Json(Bytes::copy_from_slice(&bytes(&mut answer)?))
        } else {
            let event = text(&mut answer)?;
            let encoding = if flags & JSON == 0 { Encoding::Binary } else { Encoding::Json };
            let body = Bytes::copy_from_slice(&bytes(&mut answer)?);
            Content::User(UserBroadcast { event, encoding, body })
        };
        messages.push((at, Arc::new(Kept::new(id, content, flags & STORED != 0))));
    }
    Ok(Told { since: is_heard.then_some(since), messages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back() {
        let room = RoomKey { tenant: "t".into(), audience: Audience::Private, topic: "realtime:ä".into() };
        assert_eq!(asked_room(question(&room)), Ok(Some(room.clone())));
        assert_eq!(asked_room("\"metrics\"".into()), Ok(None));
        let whole = question(&room);
        assert!((1..whole.len()).all(|cut| asked_room(whole.slice(..cut)).is_err()));

        let user = UserBroadcast { event: "e".into(), encoding: Encoding::Binary, body: "x".into() };
        let contents =
            [Content::Json("{\"a\":1".into()), Content::User(user.clone()), Content::Json("{".into())];
        let messages = contents.iter().zip(1_u128..);
        let messages =
            messages.map(|(content, id)| (id as u64, Arc::new(Kept::new(id, content.clone(), id == 2))));
        let told = Told { since: Some(7), messages: messages.collect() };
        let read = decode(encode(&told)).unwrap();
        assert_eq!(read.since, Some(7));
        for ((at, message), content) in read.messages.iter().zip(&contents) {
            assert_eq!((u128::from(*at), message.content()), (message.id(), content));
            assert_eq!(message.is_stored(), message.id() == 2);
        }
        assert_eq!(read.messages.len(), 3);
        assert_eq!(decode(encode(&Told::default())).unwrap().since, None);
        let whole = encode(&told);
        assert!(decode(whole.slice(..whole.len() - 1)).is_err());
    }
}
