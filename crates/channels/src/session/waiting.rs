//! Messages that wait on a topic, until its join is decided or until the policies have answered.

use std::collections::VecDeque;

use realtime_protocol::ClientMessage;

use crate::client::Client;

/// Messages that wait, in order.
pub(super) type Waiting = VecDeque<ClientMessage>;

/// Adds a message to those that wait.
pub(super) fn wait(queue: &mut Waiting, message: ClientMessage, client: &mut Client) {
    // A message can be a slice of a much larger buffer.
    let message = message.compact();
    // If several tokens wait in a row, only the last one counts.
    let is_token = |message: &ClientMessage| &*message.event == "access_token";
    let replaces = is_token(&message) && queue.back().is_some_and(is_token);
    let before = if replaces { queue.pop_back() } else { None };
    client.waiting_bytes += message.size();
    client.waiting_bytes -= before.map_or(0, |before| before.size());
    queue.push_back(message);
}
