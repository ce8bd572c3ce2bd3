//! What a client has missed: messages that are kept in memory and messages that are stored in the database, put together
//! (resume 4, protocol 10.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use realtime_hub::{
    Audience, Content, HistoryBounds, Kept, MessageId, Past, Recalled, RoomKey, Shown, Since, id_text,
};
use realtime_postgres::{MessageBody, ReplayError, ReplayParams, ReplayedMessage, StoredQuery, moment};
use realtime_protocol::{Encoding, Ref, UserBroadcast, Vsn, encode, frame};
use serde_json::Value;

use crate::tenant_runtime::TenantRuntime;

/// Bytes of missed messages that a client is sent when it joins: they have to fit into its outbox, beside what comes live.
const MOST_BYTES: usize = 4_000_000;

/// Ids of kept rows that the database is told, so that it does not send them: the newest.
const MOST_KNOWN: usize = 1_000;

/// How long a public channel waits for what is stored.
const PUBLIC_PATIENCE: Duration = Duration::from_secs(2);

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// From where on.
    pub since: Since,
    /// How many messages at most: the newest.
    pub limit: usize,
    /// Whether it is the client that wants no more. Otherwise more are missing.
    pub is_own_limit: bool,
}

impl Asked {
    /// A question within the bounds of the tenant's history. Without a limit, as much as there is.
    #[must_use]
    pub fn new(since: Since, limit: Option<i64>, bounds: HistoryBounds) -> Self {
        // As many as without a history, at least: so many stored ones there may be.
        let most = bounds.messages.max(StoredQuery::LIMIT);
        let named = limit.map(|limit| usize::try_from(limit).unwrap_or(0).max(1));
        let limit = named.unwrap_or(most).min(most);
        Self { since, limit, is_own_limit: named == Some(limit) }
    }

    /// Judges `config.broadcast.replay`. `None` if that is no object, which asks for nothing.
    ///
    /// # Errors
    /// [`ReplayError::InvalidParams`] for `since` that is neither a time nor an id, and for a limit that is no integer.
    #[must_use]
    pub fn parse(replay: &Value, bounds: HistoryBounds) -> Option<Result<Self, ReplayError>> {
        let mut object = replay.as_object()?.clone();
        let id =
            object.get("since").and_then(Value::as_str).and_then(|text| uuid::Uuid::try_parse(text).ok());
        if id.is_some() {
            object.insert("since".to_owned(), 0.into());
        }
        let time = object.get("since").and_then(Value::as_i64).unwrap_or_default();
        let limit = object.get("limit").and_then(Value::as_i64);
        // The rules are those of stored messages.
        let judged = ReplayParams::parse(&Value::Object(object))?;
        let since = id.map_or(Since::Time(time), |id| Since::Message(id.as_u128()));
        Some(judged.map(|_| Self::new(since, limit, bounds)))
    }

    /// The text of the notice that something is missing.
    #[must_use]
    pub fn gap(&self) -> String {
        let since = match self.since {
            Since::Beginning => "the beginning".to_owned(),
            Since::Time(at) => at.to_string(),
            Since::Message(id) => id_text(id),
        };
        format!("Messages after {since} are not kept any more")
    }
}

/// What others know of what a client has missed.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Stored messages that are not kept, oldest first.
    pub(crate) stored: Vec<ReplayedMessage>,
    /// Whether there are no more of them.
    pub(crate) is_whole: bool,
    /// Whether another node has kept everything.
    pub(crate) elsewhere: bool,
}

/// Looks for what is not kept on this node: other nodes are asked what they have kept, if this one does not reach back far
/// enough, and the database what is stored.
///
/// # Errors
/// [`ReplayError`] if the database cannot tell, for a private room.
pub async fn look(runtime: &TenantRuntime, room: &RoomKey, asked: Asked) -> Result<Found, ReplayError> {
    let hub = runtime.hub();
    let Some(bounds) = hub.history_bounds(&room.tenant) else { return Ok(Found::default()) };
    let told = match hub.recall(room, asked.since) {
        // All that there is includes what other nodes have.
        Some(recalled) if !recalled.reaches || asked.since == Since::Beginning => {
            runtime.ask_history(room).await
        }
        _ => None,
    };
    let named = if let Since::Message(id) = asked.since { Some(id) } else { None };
    let (at, rows) = hub.kept_rows(room, named);
    let now = millis(SystemTime::now());
    let oldest = now.saturating_sub(i64::try_from(bounds.age_ms).unwrap_or(i64::MAX));
    let since = match asked.since {
        Since::Beginning => Some(oldest),
        Since::Time(at) => Some(at),
        Since::Message(_) => at.and_then(|at| i64::try_from(at).ok()),
    };
    let Some(since) = since else { return Ok(Found { is_whole: true, ..Found::default() }) };
    let elsewhere = told.and_then(|told| i64::try_from(told).ok()).is_some_and(|told| since >= told);
    let private = room.audience == Audience::Private;
    // The database has no index on public messages: only so many of them are looked at as a history may hold.
    let from = if private { since } else { since.max(oldest) };
    let limit = asked.limit.min(StoredQuery::LIMIT);
    let known = rows.into_iter().rev().take(MOST_KNOWN).map(id_text).collect();
    let query = StoredQuery { since: moment(from).unwrap_or(UNIX_EPOCH), limit: limit + 1, private, known };
    let topic = room.topic.strip_prefix("realtime:").unwrap_or_default();
    let stored = runtime.ask(|database| {
        let query = query.clone();
        async move { database.stored(topic, query).await }
    });
    // A public channel can do without the database.
    let patience = if private { Duration::MAX } else { PUBLIC_PATIENCE };
    let mut stored = match tokio::time::timeout(patience, stored).await {
        Ok(Ok(stored)) => stored,
        Err(_) => return Ok(Found { elsewhere, ..Found::default() }),
        Ok(Err(error)) if private => return Err(error),
        Ok(Err(error)) => {
            let (tenant, code) = (&*room.tenant, error.code());
            tracing::warn!(tenant, code, error = ?error, "cannot read stored messages of a public channel");
            return Ok(Found { elsewhere, ..Found::default() });
        }
    };
    let is_cut = stored.len() > limit;
    if is_cut {
        stored.remove(0);
    }
    // Who asks for fewer messages than there are misses the others on purpose.
    let is_enough = !is_cut || (asked.is_own_limit && limit == asked.limit);
    Ok(Found { stored, is_whole: is_enough && from == since, elsewhere })
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A message that was missed.
#[derive(Debug, Clone)]
enum Item {
    Kept(Past),
    Stored(ReplayedMessage),
}

impl Item {
    fn at(&self) -> i64 {
        match self {
            Self::Kept(past) => i64::try_from(past.at).unwrap_or(i64::MAX),
            Self::Stored(message) => message.at_ms,
        }
    }

    fn frame(&self, vsn: Vsn, join_ref: &Ref, topic: &str) -> Option<Bytes> {
        match self {
            Self::Kept(past) => past.message.frame(vsn, topic),
            Self::Stored(message) => stored_frame(vsn, join_ref, topic, message),
        }
    }

    fn shown(&self) -> Shown {
        match self {
            Self::Kept(past) => past.message.shown(),
            Self::Stored(message) => {
                let (encoding, body) = match &message.body {
                    MessageBody::Json(json) => (Encoding::Json, json.clone()),
                    MessageBody::Binary(bytes) => (Encoding::Binary, bytes.clone()),
                };
                let event = message.event.clone().unwrap_or_default();
                let content = Content::User(UserBroadcast { event, encoding, body });
                Kept::new(id(message).unwrap_or_default(), content, true).shown()
            }
        }
    }

    fn id(&self) -> Option<MessageId> {
        match self {
            Self::Kept(past) => Some(past.message.id()),
            Self::Stored(message) => id(message),
        }
    }
}

/// The id of a stored message.
fn id(message: &ReplayedMessage) -> Option<MessageId> {
    uuid::Uuid::try_parse(&message.id).ok().map(|id| id.as_u128())
}

/// The frame of a stored message, if the serializer can carry it.
pub(crate) fn stored_frame(
    vsn: Vsn,
    join_ref: &Ref,
    topic: &str,
    message: &ReplayedMessage,
) -> Option<Bytes> {
    let meta = format!("{{\"id\":\"{}\",\"replayed\":true}}", message.id);
    match &message.body {
        MessageBody::Json(json) => {
            let event = message.event.as_deref();
            Some(encode::replayed(vsn, join_ref, topic, event, json, meta.as_bytes()))
        }
        MessageBody::Binary(bytes) => {
            let user = UserBroadcast {
                event: message.event.clone().unwrap_or_default(),
                encoding: Encoding::Binary,
                body: bytes.clone(),
            };
            encode::user_broadcast(vsn, topic, &user, Some(meta.as_bytes()))
        }
    }
}

/// What a client has missed, each message once.
#[derive(Debug, Clone, Default)]
pub struct Missed {
    /// Oldest first.
    items: Vec<Item>,
    /// Whether nothing is missing.
    is_whole: bool,
    /// Whether frames were made that nobody had asked for before.
    has_made_frames: bool,
}

impl Missed {
    /// Puts together what is kept and what is stored. Each of the two stays in its order.
    #[must_use]
    pub fn of(recalled: Recalled, found: Found, asked: Asked) -> Self {
        let reaches = (recalled.reaches || found.elsewhere) && found.is_whole;
        let kept: std::collections::HashSet<_> =
            recalled.messages.iter().map(|past| past.message.id()).collect();
        let is_new = |message: &ReplayedMessage| id(message).is_none_or(|id| !kept.contains(&id));
        let mut stored = found.stored.into_iter().filter(is_new).map(Item::Stored).peekable();
        let mut items = Vec::new();
        for past in recalled.messages.into_iter().map(Item::Kept) {
            while let Some(earlier) = stored.next_if(|stored| stored.at() <= past.at()) {
                items.push(earlier);
            }
            items.push(past);
        }
        items.extend(stored);
        let over = items.len().saturating_sub(asked.limit);
        let items = items.split_off(over);
        let is_whole = reaches && (over == 0 || asked.is_own_limit);
        Self { items, is_whole, has_made_frames: false }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The messages as they are shown over HTTP, oldest first, with their ids.
    pub fn shown(&self) -> impl DoubleEndedIterator<Item = (MessageId, Shown)> {
        self.items.iter().map(|item| (item.id().unwrap_or_default(), item.shown()))
    }

    /// Frames for a client whose outbox takes `free` bytes. What does not fit is missing: the oldest.
    pub(crate) fn frames(
        &mut self,
        vsn: Vsn,
        join_ref: &Ref,
        topic: &str,
        only: Option<&[u8]>,
        free: usize,
    ) -> Vec<Bytes> {
        let mut left = MOST_BYTES.min(free / 2);
        let mut frames = Vec::new();
        for item in self.items.iter().rev() {
            self.has_made_frames |= matches!(item, Item::Kept(past) if !past.message.has_frame(vsn));
            let Some(frame) = item.frame(vsn, join_ref, topic) else { continue };
            if only.is_some_and(|only| !frame::content(&frame).is_some_and(|text| text.starts_with(only))) {
                continue;
            }
            if frame.len() > left {
                self.is_whole = false;
                break;
            }
            left -= frame.len();
            frames.push(frame);
        }
        frames.reverse();
        frames
    }

    /// Whether frames were made that belong to kept messages from now on.
    pub(crate) fn has_made_frames(&self) -> bool {
        self.has_made_frames
    }

    /// The ids of messages that may still come live, and must not be delivered again then.
    pub(crate) fn may_come_again(&self) -> Box<[MessageId]> {
        let may = |item: &&Item| match item {
            Item::Kept(past) => past.is_in_flight,
            Item::Stored(_) => true,
        };
        self.items.iter().filter(may).filter_map(Item::id).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    const BOUNDS: HistoryBounds = HistoryBounds { age_ms: 60_000, messages: 100, bytes: 1_000_000 };

    #[test]
    fn since_is_a_time_or_an_id() {
        let asked = |replay: Value| Asked::parse(&replay, BOUNDS).unwrap();
        let of = |since, limit| Ok(Asked { since, limit, is_own_limit: limit < 100 });
        assert_eq!(asked(json!({"since": 5})), of(Since::Time(5), 100));
        assert_eq!(asked(json!({"since": 5, "limit": 3})), of(Since::Time(5), 3));
        assert_eq!(asked(json!({"since": 5, "limit": 1_000})), of(Since::Time(5), 100));
        assert_eq!(asked(json!({"since": 5, "limit": -1})), of(Since::Time(5), 1));
        let id = json!({"since": "00000000-0000-0000-0000-000000000007", "limit": null});
        assert_eq!(asked(id), of(Since::Message(7), 100));
        for bad in
            [json!({}), json!({"since": "x"}), json!({"since": 1, "limit": "x"}), json!({"since": 1.5})]
        {
            assert_eq!(asked(bad.clone()), Err(ReplayError::InvalidParams), "{bad}");
        }
        assert_eq!(Asked::parse(&json!("x"), BOUNDS), None);
        let few = HistoryBounds { messages: 3, ..BOUNDS };
        assert_eq!(Asked::new(Since::Beginning, None, few).limit, 25, "as many as are stored");
    }

    fn up_to(limit: usize) -> Asked {
        Asked { since: Since::Beginning, limit, is_own_limit: true }
    }

    fn kept(id: u128, at: u64) -> Past {
        let message = Arc::new(Kept::new(id, Content::Json("{".into()), false));
        Past { at, message, is_in_flight: false }
    }

    fn stored(id: u128, at_ms: i64) -> ReplayedMessage {
        let body = MessageBody::Json("{}".into());
        ReplayedMessage { id: id_text(id).into(), event: Some("e".into()), body, at_ms }
    }

    #[test]
    fn each_message_comes_once_and_in_order() {
        let recalled = Recalled { messages: vec![kept(2, 20), kept(4, 40), kept(5, 40)], reaches: true };
        let found = Found {
            stored: vec![stored(1, 10), stored(3, 30), stored(4, 41), stored(6, 50)],
            is_whole: true,
            elsewhere: false,
        };
        let ids = |missed: &Missed| missed.shown().map(|(id, _)| id).collect::<Vec<_>>();
        let all = Missed::of(recalled.clone(), found.clone(), up_to(100));
        assert_eq!(ids(&all), [1, 2, 3, 4, 5, 6]);
        assert!(all.is_whole());
        assert_eq!(*all.may_come_again(), [1, 3, 6], "kept ones have come");
        assert_eq!(ids(&Missed::of(recalled.clone(), found.clone(), up_to(2))), [5, 6], "the newest");
        let bound = Asked { is_own_limit: false, ..up_to(2) };
        assert!(!Missed::of(recalled.clone(), found.clone(), bound).is_whole(), "it did not ask for so few");
        let cut = Found { is_whole: false, ..found };
        assert!(!Missed::of(recalled, cut, up_to(100)).is_whole());
    }

    #[test]
    fn what_does_not_fit_into_the_outbox_is_missing() {
        let large = || {
            let body = Bytes::from(format!("{{\"x\":\"{}\"", "y".repeat(3_000_000)));
            Past { at: 1, message: Arc::new(Kept::new(9, Content::Json(body), false)), is_in_flight: false }
        };
        let recalled = Recalled { messages: vec![large(), large(), kept(1, 2)], reaches: true };
        let mut missed = Missed::of(recalled, Found { is_whole: true, ..Found::default() }, up_to(100));
        let frames = missed.frames(Vsn::V2, &Ref::null(), "realtime:a", None, 10_000_000);
        assert_eq!((frames.len(), missed.is_whole()), (2, false));
        assert!(frames[0].len() > frames[1].len(), "the oldest is left out");
    }
}
