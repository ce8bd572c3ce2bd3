//! The payloads of `system` frames (protocol 7).

use std::borrow::Cow;

use crate::write_json_string;

/// A `system` message about a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemMessage {
    extension: &'static str,
    ok: bool,
    message: Cow<'static, str>,
    /// Whether the payload names the channel.
    channel: bool,
}

impl SystemMessage {
    /// Every later commit will reach the channel.
    #[must_use]
    pub const fn subscribed() -> Self {
        Self {
            extension: "postgres_changes",
            ok: true,
            message: Cow::Borrowed("Subscribed to PostgreSQL"),
            channel: true,
        }
    }

    /// Broadcasts from the database will reach the channel.
    #[must_use]
    pub const fn replication_established() -> Self {
        Self {
            extension: "system",
            ok: true,
            message: Cow::Borrowed("Replication connection established"),
            channel: true,
        }
    }

    /// The tenant's sockets are being closed (protocol 12). The only message without `channel`.
    #[must_use]
    pub const fn disconnect() -> Self {
        Self {
            extension: "system",
            ok: true,
            message: Cow::Borrowed("Server requested disconnect"),
            channel: false,
        }
    }

    /// A subscription was refused, or changes may have been missed.
    #[must_use]
    pub fn postgres_changes_error(message: impl Into<Cow<'static, str>>) -> Self {
        Self { extension: "postgres_changes", ok: false, message: message.into(), channel: true }
    }

    /// The channel is going to be closed.
    #[must_use]
    pub fn error(message: impl Into<Cow<'static, str>>) -> Self {
        Self { extension: "system", ok: false, message: message.into(), channel: true }
    }

    /// Appends the payload; `sub_topic` is the topic without `realtime:`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, sub_topic: &str) {
        out.extend_from_slice(b"{\"extension\":\"");
        out.extend_from_slice(self.extension.as_bytes());
        out.extend_from_slice(if self.ok {
            b"\",\"status\":\"ok\",\"message\":"
        } else {
            b"\",\"status\":\"error\",\"message\":"
        });
        write_json_string(out, &self.message);
        if self.channel {
            out.extend_from_slice(b",\"channel\":");
            write_json_string(out, sub_topic);
        }
        out.push(b'}');
    }
}
