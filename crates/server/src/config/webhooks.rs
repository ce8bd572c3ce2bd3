//! Files with webhooks (`WEBHOOKS_FILE`, `webhooks_file`).

use std::path::Path;

use realtime_webhooks::Webhook;
use serde_json::Value;

/// The webhooks of a file: a list in JSON.
///
/// # Errors
/// What is wrong with it.
pub fn read_webhooks(path: &Path) -> Result<Vec<Webhook>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let list: Value = serde_json::from_str(&text).map_err(|error| format!("{shown} is no JSON: {error}"))?;
    realtime_webhooks::parse(&list).map_err(|error| format!("{shown}: {error}"))
}
