//! Messages to clients, as finished WebSocket frames (protocol 2.4, 2.6) or server-sent events (resume 5).
//!
//! `payload`, `response`, `state`, `diff` and `data` are JSON text and pass through untouched. Serializer
//! 1.0.0 never carries a join_ref.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{Encoding, Ref, SystemMessage, UserBroadcast, Vsn, events, frame::Builder, write_json_string};

const USER_BROADCAST: u8 = 4;

/// What replies to server-sent events begin with, behind the mark of a comment.
pub const REPLY: &[u8] = b"reply ";

/// Room for an envelope beside topic and payload.
const ENVELOPE: usize = 96;

/// `phx_reply` with status `ok`.
#[must_use]
pub fn reply_ok(vsn: Vsn, join_ref: &Ref, msg_ref: &Ref, topic: &str, response: &[u8]) -> Bytes {
    reply(vsn, join_ref, msg_ref, topic, "ok", response)
}

/// `phx_reply` with status `error` and a reason.
#[must_use]
pub fn reply_error(vsn: Vsn, join_ref: &Ref, msg_ref: &Ref, topic: &str, reason: &str) -> Bytes {
    let mut response = b"{\"reason\":".to_vec();
    write_json_string(&mut response, reason);
    response.push(b'}');
    reply(vsn, join_ref, msg_ref, topic, "error", &response)
}

/// `phx_reply` with any status.
#[must_use]
pub fn reply(vsn: Vsn, join_ref: &Ref, msg_ref: &Ref, topic: &str, status: &str, response: &[u8]) -> Bytes {
    let write = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"{\"status\":\"");
        out.extend_from_slice(status.as_bytes());
        out.extend_from_slice(b"\",\"response\":");
        out.extend_from_slice(response);
        out.push(b'}');
    };
    if vsn == Vsn::Events {
        // The answer to a stream's join is its HTTP status. The transport reads it here.
        let mut comment = REPLY.to_vec();
        write(&mut comment);
        return events::comment(&comment);
    }
    message(vsn, join_ref, msg_ref, topic, "phx_reply", response.len() + 40, write)
}

/// `phx_close`: the channel ended. Its ref is the join_ref of the join, null if that had none.
#[must_use]
pub fn close(vsn: Vsn, join_ref: &Ref, topic: &str) -> Bytes {
    if vsn == Vsn::Events {
        return events::comment(b"closed");
    }
    message(vsn, join_ref, join_ref, topic, "phx_close", 2, |out| out.extend_from_slice(b"{}"))
}

/// `phx_error`: the channel broke; clients join it again. Its ref as that of [`close`].
#[must_use]
pub fn error(vsn: Vsn, join_ref: &Ref, topic: &str) -> Bytes {
    if vsn == Vsn::Events {
        return events::comment(b"closed");
    }
    message(vsn, join_ref, join_ref, topic, "phx_error", 2, |out| out.extend_from_slice(b"{}"))
}

/// `system`, pushed by a channel.
#[must_use]
pub fn system(vsn: Vsn, join_ref: &Ref, topic: &str, system: &SystemMessage) -> Bytes {
    let sub_topic = topic.strip_prefix("realtime:").unwrap_or(topic);
    if vsn == Vsn::Events {
        return events::event_of(system.event(), None, 200, |out| system.write(out, sub_topic));
    }
    message(vsn, join_ref, &Ref::null(), topic, "system", 200, |out| system.write(out, sub_topic))
}

/// `presence_state`, pushed by a channel.
#[must_use]
pub fn presence_state(vsn: Vsn, join_ref: &Ref, topic: &str, state: &[u8]) -> Bytes {
    raw(vsn, join_ref, topic, "presence_state", state)
}

/// `presence_diff`, for all members of a room.
#[must_use]
pub fn presence_diff(vsn: Vsn, topic: &str, diff: &[u8]) -> Bytes {
    raw(vsn, &Ref::null(), topic, "presence_diff", diff)
}

/// `broadcast` that came as text: the payload goes on as it is.
#[must_use]
pub fn broadcast(vsn: Vsn, topic: &str, payload: &[u8]) -> Bytes {
    if vsn == Vsn::Events {
        return events::of_broadcast(payload, None);
    }
    raw(vsn, &Ref::null(), topic, "broadcast", payload)
}

/// The text of an object without its closing brace, so that a member can be added. `None` for what is no object.
#[must_use]
pub fn open_object(object: &[u8]) -> Option<&[u8]> {
    let open = object.trim_ascii().strip_suffix(b"}")?.trim_ascii_end();
    open.starts_with(b"{").then_some(open)
}

/// The text of an object with its `meta` as the last member: of two members of one name readers take the last. `open` is
/// the object [without its closing brace](open_object).
#[must_use]
pub fn with_meta(open: &[u8], meta: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(open.len() + meta.len() + 10);
    put_with_meta(&mut out, open, meta);
    out
}

fn put_with_meta(out: &mut Vec<u8>, open: &[u8], meta: &[u8]) {
    out.extend_from_slice(open);
    out.extend_from_slice(if open.ends_with(b"{") { b"\"meta\":" } else { b",\"meta\":" });
    out.extend_from_slice(meta);
    out.push(b'}');
}

/// `broadcast` that came as text, with a `meta` of ours: `open` is its payload [without the closing brace](open_object).
#[must_use]
pub fn broadcast_with_meta(vsn: Vsn, topic: &str, open: &[u8], meta: &[u8]) -> Bytes {
    if vsn == Vsn::Events {
        return events::of_broadcast(&with_meta(open, meta), Some(meta));
    }
    let write = |out: &mut Vec<u8>| put_with_meta(out, open, meta);
    message(vsn, &Ref::null(), &Ref::null(), topic, "broadcast", open.len() + meta.len() + 10, write)
}

/// The same bytes as `body`, as a part of a frame that carries them before a `meta` of this length, or at its end. `None` if
/// the frame does not carry them so.
#[must_use]
pub fn part_of(frame: &Bytes, body: &[u8], meta_len: usize) -> Option<Bytes> {
    // Behind the body: nothing in a binary frame; otherwise `"meta":`, perhaps a comma, two braces or a bracket.
    [0, meta_len + 10, meta_len + 9].into_iter().find_map(|tail| {
        let end = frame.len().checked_sub(tail)?;
        let start = end.checked_sub(body.len())?;
        (frame.get(start..end)? == body).then(|| frame.slice(start..end))
    })
}

/// The payload of a user broadcast as text. `None` for bytes and for what is no JSON.
#[must_use]
pub fn user_text(user: &UserBroadcast, meta: &[u8]) -> Option<Vec<u8>> {
    if !is_text(user) {
        return None;
    }
    let mut out = Vec::with_capacity(user.body.len() + user.event.len() + meta.len() + 64);
    put_stored(&mut out, Some(&*user.event), &user.body, Some(meta));
    Some(out)
}

/// A kept user broadcast that is sent to a channel that has missed it: JSON as text to all (table 2.4).
#[must_use]
pub fn replayed_user(vsn: Vsn, topic: &str, user: &UserBroadcast, meta: &[u8]) -> Option<Bytes> {
    if is_text(user) {
        return Some(stored(vsn, &Ref::null(), topic, Some(&*user.event), &user.body, Some(meta)));
    }
    if vsn == Vsn::V2 { binary_user_broadcast(topic, user, meta) } else { None }
}

/// Whether text can carry it. What claims to be JSON and is not could close our object and forge the rest of the frame.
fn is_text(user: &UserBroadcast) -> bool {
    user.encoding == Encoding::Json && serde_json::from_slice::<&RawValue>(&user.body).is_ok()
}

/// A stored JSON message that is sent to a channel that has missed it, as text to both serializers (table 2.4).
/// `payload` and `meta` are JSON text that need not be checked; a row may have no event.
#[must_use]
pub fn replayed(
    vsn: Vsn,
    join_ref: &Ref,
    topic: &str,
    event: Option<&str>,
    payload: &[u8],
    meta: &[u8],
) -> Bytes {
    stored(vsn, join_ref, topic, event, payload, Some(meta))
}

/// A message with a name, as text.
fn stored(
    vsn: Vsn,
    join_ref: &Ref,
    topic: &str,
    event: Option<&str>,
    payload: &[u8],
    meta: Option<&[u8]>,
) -> Bytes {
    let len = payload.len() + event.map_or(4, str::len) + meta.map_or(0, <[u8]>::len) + 64;
    let write = |out: &mut Vec<u8>| put_stored(out, event, payload, meta);
    if vsn == Vsn::Events {
        let id = meta.and_then(events::id_in);
        let id = id.as_ref().map(|id| id as &dyn std::fmt::Display);
        return events::event_of(events::broadcast_name(event), id, len, write);
    }
    message(vsn, join_ref, &Ref::null(), topic, "broadcast", len, write)
}

fn put_stored(out: &mut Vec<u8>, event: Option<&str>, payload: &[u8], meta: Option<&[u8]>) {
    out.extend_from_slice(b"{\"type\":\"broadcast\",\"event\":");
    match event {
        Some(event) => write_json_string(out, event),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(payload);
    if let Some(meta) = meta {
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(meta);
    }
    out.push(b'}');
}

/// A user broadcast: a binary frame for serializer 2.0.0, text for the others (table 2.4). `meta` is the JSON
/// text of an object.
///
/// `None` when the receiver cannot get it: as text bytes and what is no JSON, for 2.0.0 those on a topic or
/// event over 255 bytes.
#[must_use]
pub fn user_broadcast(vsn: Vsn, topic: &str, user: &UserBroadcast, meta: Option<&[u8]>) -> Option<Bytes> {
    if vsn == Vsn::V2
        && let Some(frame) = binary_user_broadcast(topic, user, meta.unwrap_or_default())
    {
        return Some(frame);
    }
    // Text carries JSON only; it serves names that are too long for a binary frame too (protocol 15.5).
    if !is_text(user) {
        return None;
    }
    Some(stored(vsn, &Ref::null(), topic, Some(&*user.event), &user.body, meta))
}

fn binary_user_broadcast(topic: &str, user: &UserBroadcast, meta: &[u8]) -> Option<Bytes> {
    let lengths = [topic.len(), user.event.len(), meta.len()].map(u8::try_from);
    let [Ok(topic_len), Ok(event_len), Ok(meta_len)] = lengths else { return None };
    let encoding = u8::from(user.encoding == Encoding::Json);
    let mut frame = Builder::new(5 + topic.len() + user.event.len() + meta.len() + user.body.len());
    let out = frame.out();
    out.extend_from_slice(&[USER_BROADCAST, topic_len, event_len, meta_len, encoding]);
    for part in [topic.as_bytes(), user.event.as_bytes(), meta, &user.body] {
        out.extend_from_slice(part);
    }
    Some(frame.binary())
}

/// `postgres_changes` (protocol 11.1).
#[must_use]
pub fn postgres_changes(vsn: Vsn, topic: &str, ids: &[u32], data: &[u8]) -> Bytes {
    message(
        vsn,
        &Ref::null(),
        &Ref::null(),
        topic,
        "postgres_changes",
        data.len() + 11 * ids.len() + 20,
        |out| {
            out.extend_from_slice(b"{\"ids\":[");
            for (i, id) in ids.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_number(out, *id);
            }
            out.extend_from_slice(b"],\"data\":");
            out.extend_from_slice(data);
            out.push(b'}');
        },
    )
}

/// A number in decimal digits.
fn write_number(out: &mut Vec<u8>, number: u32) {
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, &number);
}

/// A row change for a channel that was joined without `config`: the event is the action (protocol 11.2).
#[must_use]
pub fn legacy_change(vsn: Vsn, topic: &str, action: &str, data: &[u8]) -> Bytes {
    raw(vsn, &Ref::null(), topic, action, data)
}

/// A row change for a stream of events: its data without the ids of subscriptions, of which a stream has one.
#[must_use]
pub fn change_event(action: &str, position: Option<&dyn std::fmt::Display>, data: &[u8]) -> Bytes {
    events::event(action, position, data)
}

/// The response to a successful join: each subscription as the client wrote it, and its id (protocol 4.5).
#[must_use]
pub fn join_response(subscriptions: &[impl AsRef<str>], ids: &[u32]) -> Vec<u8> {
    let mut out = b"{\"postgres_changes\":[".to_vec();
    for (i, (text, id)) in subscriptions.iter().zip(ids).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        // In front of the closing brace: of two members of one name readers take the last, which is ours.
        let body = text.as_ref().trim_end().strip_suffix('}').unwrap_or("{").trim_end();
        out.extend_from_slice(body.as_bytes());
        if body.trim_start() != "{" {
            out.push(b',');
        }
        out.extend_from_slice(format!("\"id\":{id}}}").as_bytes());
    }
    out.extend_from_slice(b"]}");
    out
}

fn raw(vsn: Vsn, join_ref: &Ref, topic: &str, event: &str, payload: &[u8]) -> Bytes {
    message(vsn, join_ref, &Ref::null(), topic, event, payload.len(), |out| out.extend_from_slice(payload))
}

fn message(
    vsn: Vsn,
    join_ref: &Ref,
    msg_ref: &Ref,
    topic: &str,
    event: &str,
    payload_len: usize,
    payload: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut frame = Builder::new(payload_len + topic.len() + ENVELOPE);
    let out = frame.out();
    match vsn {
        Vsn::V1 => {
            out.extend_from_slice(b"{\"topic\":");
            write_json_string(out, topic);
            out.extend_from_slice(b",\"event\":");
            write_json_string(out, event);
            out.extend_from_slice(b",\"ref\":");
            out.extend_from_slice(msg_ref.as_json().as_bytes());
            out.extend_from_slice(b",\"payload\":");
            payload(out);
            out.push(b'}');
        }
        Vsn::Events => return events::event_of(event, None, payload_len, payload),
        Vsn::V2 | Vsn::V2Text => {
            out.push(b'[');
            out.extend_from_slice(join_ref.as_json().as_bytes());
            out.push(b',');
            out.extend_from_slice(msg_ref.as_json().as_bytes());
            out.push(b',');
            write_json_string(out, topic);
            out.push(b',');
            write_json_string(out, event);
            out.push(b',');
            payload(out);
            out.push(b']');
        }
    }
    frame.text()
}

#[cfg(test)]
mod tests;
