//! Subscriptions as the engine holds them.

use std::sync::Arc;

use crate::{EventFilter, Predicate, RoleAccess};

/// One joined channel of one socket; numbers are given out by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// One attachment of a subscription to a table; numbers are given out by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey(pub u64);

/// A subscription bound to a table.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Who gets the changes.
    pub channel: ChannelId,
    /// Id of the subscription as the client knows it.
    pub id: u32,
    /// Which changes.
    pub event: EventFilter,
    /// Which rows.
    pub predicate: Predicate,
    /// What the role may see.
    pub access: Arc<RoleAccess>,
    /// Claims of the token, as JSON: with the role, what row-level security decides by.
    pub claims: Arc<str>,
    /// Columns to send beside the primary key; `None` for all.
    pub select: Option<Vec<usize>>,
}
