//! Frames of messages that a joining channel has missed (protocol 10.1).

use bytes::Bytes;
use realtime_codes::ErrorCode;
use realtime_hub::{Membership, MessageId};
use realtime_postgres::ReplayedMessage;
use realtime_protocol::{Extension, Ref, SystemMessage, encode};

use crate::{
    client::Client,
    history::{Asked, Found, Missed, stored_frame},
};

/// What a client is told that does not get all stored messages that it asked for.
const LEFT_OUT: &str = "Older messages are left out: all of them are more than a client can be sent at once";

/// Appends a frame for each message that the serializer can carry, oldest first. What does not fit into the outbox is left out,
/// the oldest, which is told before.
pub(super) fn frames(
    client: &Client,
    join_ref: &Ref,
    topic: &str,
    messages: &[ReplayedMessage],
    first: &mut Vec<Bytes>,
) {
    // A quarter is for what comes live meanwhile.
    let mut left = client.outbox.free() / 4 * 3;
    let mut frames = Vec::new();
    let all = messages.iter().rev();
    for frame in all.filter_map(|message| stored_frame(client.vsn, join_ref, topic, message)) {
        if frame.len() > left {
            let told = SystemMessage::gap(Extension::System, ErrorCode::MessagesNotKept, LEFT_OUT);
            client.runtime.counters().notices.told(&told, 1);
            first.push(encode::system(client.vsn, join_ref, topic, &told));
            break;
        }
        left -= frame.len();
        frames.push(frame);
    }
    first.extend(frames.into_iter().rev());
}

/// Appends what the channel has missed to the frames that it gets first, and before it that something is missing, if so.
/// Returns the ids of messages that must not be delivered again.
pub(super) fn recalled(
    client: &Client,
    join_ref: &Ref,
    membership: &Membership,
    (asked, found): (Asked, Found),
    first: &mut Vec<Bytes>,
) -> Box<[MessageId]> {
    let room = membership.room();
    // Here what is kept and what comes live meet: what was said before the channel entered the room is recalled, all that
    // was said since then is held for it.
    let recalled = membership.recall(asked.since).unwrap_or_default();
    let mut missed = Missed::of(recalled, found, asked);
    let free = client.outbox.free();
    let frames = missed.frames(client.vsn, join_ref, &room.topic, client.only.as_deref(), free);
    if missed.has_made_frames() {
        client.runtime.hub().recount_history(room);
    }
    client.runtime.counters().messages_replayed.add(frames.len() as u64);
    if !missed.is_whole() {
        let told = SystemMessage::gap(Extension::System, ErrorCode::MessagesNotKept, asked.gap());
        client.runtime.counters().notices.told(&told, 1);
        first.push(encode::system(client.vsn, join_ref, &room.topic, &told));
    }
    first.extend(frames);
    missed.may_come_again()
}

/// The ids of messages that must not be delivered again.
pub(super) fn ids(messages: &[ReplayedMessage]) -> Box<[MessageId]> {
    let id = |message: &ReplayedMessage| uuid::Uuid::try_parse(&message.id).ok().map(|id| id.as_u128());
    messages.iter().filter_map(id).collect()
}
