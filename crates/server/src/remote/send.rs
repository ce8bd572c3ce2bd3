//! `realtime send`: one message to a topic.

use reqwest::Method;
use serde_json::Value;

use super::ask::{address, ask};
use crate::cli::SendArgs;

/// Sends the message.
///
/// # Errors
/// In words for people.
pub async fn send(args: &SendArgs, token: &str) -> Result<(), String> {
    let payload: Value =
        serde_json::from_str(&args.payload).map_err(|error| format!("The payload must be JSON: {error}"))?;
    let path = ["api", "broadcast", &args.topic, "events", &args.event];
    let mut address = address(&args.url, true, &path)?;
    if args.private {
        address.query_pairs_mut().append_pair("private", "true");
    }
    ask(Method::POST, address, token, Some(&payload)).await.map(drop)
}
