//! The payloads of `system` frames (protocol 7).

use std::borrow::Cow;

use realtime_codes::ErrorCode;

use crate::json::write_json_string;

/// What part of the server a `system` message speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Extension {
    PostgresChanges,
    System,
}

impl Extension {
    const fn as_str(self) -> &'static str {
        match self {
            Self::PostgresChanges => "postgres_changes",
            Self::System => "system",
        }
    }
}

/// What a `system` message means for its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    /// Something was missed or may have been; the channel lives on.
    Gap,
    /// Something does not work as asked for; the channel lives on.
    Warning,
    /// The channel has ended, or what it asked for was refused. Clients treat it as the channel's end (clients 1).
    Error,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Gap => "gap",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A `system` message about a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemMessage {
    extension: Extension,
    status: Status,
    /// What a program can tell notices apart by: only of [`Status::Gap`] and [`Status::Warning`].
    code: Option<&'static str>,
    message: Cow<'static, str>,
    /// How many things it speaks of: only of [`dropped`](Self::dropped).
    count: Option<u64>,
    /// Of which subscription: only of [`complete`](Self::complete) and [`begin_anew`](Self::begin_anew).
    binding: Option<u32>,
    /// How many rows it has: only of [`complete`](Self::complete).
    rows: Option<usize>,
    /// Whether the payload names the channel.
    channel: bool,
}

impl SystemMessage {
    /// Every later commit will reach the channel.
    #[must_use]
    pub const fn subscribed() -> Self {
        Self {
            extension: Extension::PostgresChanges,
            status: Status::Ok,
            code: None,
            count: None,
            binding: None,
            rows: None,
            message: Cow::Borrowed("Subscribed to PostgreSQL"),
            channel: true,
        }
    }

    /// The channel has got all row changes that it had missed (resume 2).
    #[must_use]
    pub const fn caught_up() -> Self {
        Self {
            extension: Extension::PostgresChanges,
            status: Status::Ok,
            code: None,
            count: None,
            binding: None,
            rows: None,
            message: Cow::Borrowed("Caught up"),
            channel: true,
        }
    }

    /// Broadcasts from the database will reach the channel.
    #[must_use]
    pub const fn replication_established() -> Self {
        Self {
            extension: Extension::System,
            status: Status::Ok,
            code: None,
            count: None,
            binding: None,
            rows: None,
            message: Cow::Borrowed("Replication connection established"),
            channel: true,
        }
    }

    /// The tenant's sockets are being closed (protocol 12). The only message without `channel`.
    #[must_use]
    pub const fn disconnect() -> Self {
        Self {
            extension: Extension::System,
            status: Status::Ok,
            code: None,
            count: None,
            binding: None,
            rows: None,
            message: Cow::Borrowed("Server requested disconnect"),
            channel: false,
        }
    }

    /// A subscription was refused.
    #[must_use]
    pub fn postgres_changes_error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Extension::PostgresChanges, Status::Error, None, message)
    }

    /// The channel is going to be closed.
    #[must_use]
    pub fn error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Extension::System, Status::Error, None, message)
    }

    /// Something was missed or may have been; the channel lives on (spec README, decision 18).
    #[must_use]
    pub fn gap(
        extension: Extension,
        code: impl Into<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(extension, Status::Gap, Some(code.into()), message)
    }

    /// Something does not work as asked for; the channel lives on (spec README, decision 18).
    #[must_use]
    pub fn warning(
        extension: Extension,
        code: impl Into<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(extension, Status::Warning, Some(code.into()), message)
    }

    /// The status, the code and the text of a notice: of everything that is not [`Status::Ok`]. Errors have no code.
    #[must_use]
    pub fn notice(&self) -> Option<(&'static str, &'static str, &str)> {
        let is_notice = self.status != Status::Ok;
        is_notice.then(|| (self.status.as_str(), self.code.unwrap_or_default(), &*self.message))
    }

    /// `count` messages or row changes were not delivered: there were more than `limit` per second (spec README,
    /// decision 23).
    #[must_use]
    pub fn dropped(extension: Extension, count: u64, limit: u32) -> Self {
        let (one, many) = match extension {
            Extension::PostgresChanges => ("row change was", "row changes were"),
            Extension::System => ("message was", "messages were"),
        };
        let what = if count == 1 { one } else { many };
        let text = format!("{count} {what} not delivered: the limit is {limit} per second");
        Self { count: Some(count), ..Self::warning(extension, ErrorCode::MessagesDropped, text) }
    }

    /// A live binding has all rows of its result (live 2).
    #[must_use]
    pub fn complete(id: u32, rows: usize) -> Self {
        let done = Self::new(Extension::PostgresChanges, Status::Ok, None, "Live rows are complete");
        Self { binding: Some(id), rows: Some(rows), ..done }
    }

    /// A live binding said where it was, but it is not known what it has: all rows of its result come (resume 2).
    #[must_use]
    pub fn begin_anew(id: u32) -> Self {
        let anew = Self::new(Extension::PostgresChanges, Status::Ok, None, "Live rows begin anew");
        Self { binding: Some(id), ..anew }
    }

    fn new(
        extension: Extension,
        status: Status,
        code: Option<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            extension,
            status,
            code,
            message: message.into(),
            count: None,
            binding: None,
            rows: None,
            channel: true,
        }
    }

    /// The name that it has as a server-sent event (resume 5).
    pub(crate) fn event(&self) -> &'static str {
        match self.status {
            Status::Gap => "gap",
            Status::Warning => "warning",
            Status::Error => "error",
            Status::Ok if self.rows.is_some() => "complete",
            Status::Ok if self.binding.is_some() => "anew",
            Status::Ok if *self == Self::caught_up() => "caught_up",
            Status::Ok if *self == Self::subscribed() => "subscribed",
            Status::Ok => "system",
        }
    }

    /// Appends the payload; `sub_topic` is the topic without `realtime:`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, sub_topic: &str) {
        out.extend_from_slice(b"{\"extension\":\"");
        out.extend_from_slice(self.extension.as_str().as_bytes());
        out.extend_from_slice(b"\",\"status\":\"");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        write_json_string(out, &self.message);
        if let Some(code) = self.code {
            out.extend_from_slice(b",\"code\":");
            write_json_string(out, code);
        }
        if let Some(count) = self.count {
            out.extend_from_slice(format!(",\"count\":{count}").as_bytes());
        }
        if let Some(id) = self.binding {
            // Not `ids`: clients in JavaScript take every message with this key for a row change, and fail without `data`.
            out.extend_from_slice(format!(",\"bindings\":[{id}]").as_bytes());
        }
        if let Some(rows) = self.rows {
            out.extend_from_slice(format!(",\"rows\":{rows}").as_bytes());
        }
        if self.channel {
            out.extend_from_slice(b",\"channel\":");
            write_json_string(out, sub_topic);
        }
        out.push(b'}');
    }
}
