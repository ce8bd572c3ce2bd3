//! Messages as server-sent events (resume 5; the HTML standard, 9.2), each in a finished chunk of an HTTP body.
//!
//! `data` is JSON on one line: a line break between its parts means no more than a space, and none can be within a string.
//! What a client chooses is never a line of its own, and never looks like what the server says.

use std::fmt::{Display, Write as _};

use bytes::Bytes;

use crate::{frame::Builder, join::members};

/// Room for the names of the fields, and for an id.
const FIELDS: usize = 96;

/// The event of a broadcast that has no name of its own, or one of [`RESERVED`].
const UNNAMED: &str = "broadcast";

/// Events of the server itself, and of the browser's `EventSource`.
const RESERVED: [&str; 8] =
    ["open", "error", "gap", "warning", "subscribed", "caught_up", "complete", "system"];

/// An event. `id` is what a client sends as `Last-Event-ID` when it comes back.
#[must_use]
pub fn event(name: &str, id: Option<&dyn Display>, data: &[u8]) -> Bytes {
    event_of(name, id, data.len(), |out| out.extend_from_slice(data))
}

/// An event with data of about `len` bytes that are written by `data`.
pub(crate) fn event_of(
    name: &str,
    id: Option<&dyn Display>,
    len: usize,
    data: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut frame = Builder::new(FIELDS + name.len() + len);
    let out = frame.out();
    if !name.is_empty() {
        line(out, "event: ", |out| out.extend_from_slice(name.as_bytes()));
    }
    if let Some(id) = id {
        line(out, "id: ", |out| push(out, id));
    }
    line(out, "data: ", data);
    out.push(b'\n');
    frame.chunk()
}

/// Tells a client where it is, without an event.
#[must_use]
pub fn position(id: &dyn Display) -> Bytes {
    block("id: ", |out| push(out, id))
}

/// Tells a client how long to wait, in milliseconds, before it comes back.
#[must_use]
pub fn retry(millis: u64) -> Bytes {
    block("retry: ", |out| push(out, &millis))
}

/// A comment, which clients leave out.
#[must_use]
pub fn comment(text: &[u8]) -> Bytes {
    block(": ", |out| out.extend_from_slice(text))
}

/// The event of a broadcast that came as JSON text; its id is that of our `meta`, if it has one.
pub(crate) fn of_broadcast(payload: &[u8], meta: Option<&[u8]>) -> Bytes {
    let name: Option<String> =
        members(payload, ["event"]).and_then(|[event]| serde_json::from_str(event?.get()).ok());
    let id = meta.and_then(id_in);
    event(broadcast_name(name.as_deref()), id.as_ref().map(|id| id as &dyn Display), payload)
}

/// The name by which a broadcast is told.
pub(crate) fn broadcast_name(event: Option<&str>) -> &str {
    event.filter(|event| !RESERVED.contains(event)).unwrap_or(UNNAMED)
}

/// The id in the `meta` of a message.
pub(crate) fn id_in(meta: &[u8]) -> Option<String> {
    let [id] = members(meta, ["id"])?;
    serde_json::from_str(id?.get()).ok()
}

/// What the `event` line of broadcasts with this name begins with, for [`crate::frame::content`] of their chunks.
#[must_use]
pub fn line_of(event: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let name = broadcast_name(Some(event));
    if !name.is_empty() {
        line(&mut out, "event: ", |out| out.extend_from_slice(name.as_bytes()));
    }
    out
}

fn block(field: &str, content: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut frame = Builder::new(FIELDS);
    let out = frame.out();
    line(out, field, content);
    out.push(b'\n');
    frame.chunk()
}

/// One line, whatever its content is.
fn line(out: &mut Vec<u8>, field: &str, content: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(field.as_bytes());
    let start = out.len();
    content(out);
    for byte in out.get_mut(start..).unwrap_or_default() {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

fn push(out: &mut Vec<u8>, shown: &dyn Display) {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write!(text, "{shown}");
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::content;

    fn text(chunk: &Bytes) -> String {
        String::from_utf8(content(chunk).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn events_are_lines() {
        let change = event("INSERT", Some(&"16/B374D848:3"), br#"{"a":1}"#);
        assert_eq!(text(&change), "event: INSERT\nid: 16/B374D848:3\ndata: {\"a\":1}\n\n");
        assert_eq!(text(&position(&"0/1:0")), "id: 0/1:0\n\n");
        assert_eq!(text(&comment(b"")), ": \n\n");
        assert_eq!(text(&retry(1_500)), "retry: 1500\n\n");
    }

    /// Nothing that a client sends begins a line of its own.
    #[test]
    fn contents_stay_on_their_lines() {
        let forged = of_broadcast(b"{\"event\":\"a\\nid: 0/9:9\\r\\n\\ndata: x\",\r\n\"payload\":{}}", None);
        let text = text(&forged);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("event: a id: 0/9:9   data: x\ndata: {\"event\""), "{text}");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let value: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(value["event"], "a\nid: 0/9:9\r\n\ndata: x");
    }

    /// A client cannot say what only the server says.
    #[test]
    fn broadcasts_never_look_like_notices() {
        for name in RESERVED {
            let said = of_broadcast(format!(r#"{{"event":"{name}","payload":{{}}}}"#).as_bytes(), None);
            assert!(text(&said).starts_with("event: broadcast\ndata: "), "{name}");
            assert_eq!(line_of(name), b"event: broadcast\n");
        }
        for unnamed in [r#"{"payload":{}}"#, r#"{"event":5}"#, r#"{"event":null}"#] {
            assert!(
                text(&of_broadcast(unnamed.as_bytes(), None)).starts_with("event: broadcast\n"),
                "{unnamed}"
            );
        }
        assert!(text(&of_broadcast(br#"{"event":"move"}"#, None)).as_bytes().starts_with(&line_of("move")));
        assert!(
            text(&of_broadcast(br#"{"event":""}"#, None)).starts_with("data: "),
            "the default event of browsers"
        );
    }
}
