//! Messages that wait on a topic until its join is decided, or until the policies have answered.

use std::collections::VecDeque;

use realtime_protocol::ClientMessage;

use crate::client::Client;

/// Messages that wait, in order.
pub(super) type Waiting = VecDeque<ClientMessage>;

/// Puts a message behind those that wait.
pub(super) fn wait(queue: &mut Waiting, message: ClientMessage, client: &mut Client) {
    // What it is a slice of may be much larger.
    let message = message.compact();
    // Of tokens that wait one behind the other only the last counts.
    let is_token = |message: &ClientMessage| &*message.event == "access_token";
    let replaces = is_token(&message) && queue.back().is_some_and(is_token);
    let before = if replaces { queue.pop_back() } else { None };
    client.waiting_bytes += message.size();
    client.waiting_bytes -= before.map_or(0, |before| before.size());
    queue.push_back(message);
}
