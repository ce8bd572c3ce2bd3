//! What a session asks of its driver, and what becomes of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_changes::SubscribeRefusal;
use realtime_hub::RoomKey;
use realtime_postgres::{
    AuthorizeError, AuthorizeRequest, ConnectError, ReadVerdict, ReplayError, ReplayParams, ReplayedMessage,
    Replication, SubscribeRequest, WriteVerdict,
};

use crate::history::{Asked, Found};

/// Something that the driver has to do for its session.
#[derive(Debug)]
pub enum Effect {
    /// Close the socket with this code, after the queued frames.
    Close(u16),
    /// Queue these frames after a delay, then close the socket if a code is given.
    SendLater(Duration, Vec<Bytes>, Option<u16>),
    /// Make sure that the database can be reached; answer with [`Completion::Database`].
    Database(Ticket),
    /// Try to reach the database, for a channel that can do without it; answer with [`Completion::Database`] after a
    /// moment at the latest.
    Contact(Ticket),
    /// Subscribe to row changes; answer with [`Completion::Subscribed`].
    Subscribe(Ticket, Box<SubscribeRequest>),
    /// Ask what may be read of a private topic; answer with [`Completion::Read`].
    AuthorizeRead(Ticket, Box<AuthorizeRequest>),
    /// Ask what may be written to a private topic; answer with [`Completion::Write`].
    AuthorizeWrite(Ticket, Box<AuthorizeRequest>),
    /// Look for stored messages of a topic, named without `realtime:`; answer with [`Completion::Replayed`].
    Replay(Ticket, Box<str>, ReplayParams),
    /// Look for what was said in a room and is not kept on this node; answer with [`Completion::Recalled`].
    Recall(Ticket, RoomKey, Asked),
    /// Watch whether broadcasts from the database arrive; answer with [`Completion::ReplicationDiffers`].
    WatchReplication(Replication),
}

/// What became of an [`Effect`].
#[derive(Debug)]
pub enum Completion {
    /// Answers [`Effect::Database`] and [`Effect::Contact`].
    Database(Ticket, Result<(), ConnectError>),
    /// Answers [`Effect::Subscribe`].
    Subscribed(Ticket, Result<(), SubscribeRefusal>),
    /// Answers [`Effect::AuthorizeRead`].
    Read(Ticket, Result<ReadVerdict, AuthorizeError>),
    /// Answers [`Effect::AuthorizeWrite`].
    Write(Ticket, Result<WriteVerdict, AuthorizeError>),
    /// Answers [`Effect::Replay`].
    Replayed(Ticket, Result<Vec<ReplayedMessage>, ReplayError>),
    /// Answers [`Effect::Recall`].
    Recalled(Ticket, Result<Found, ReplayError>),
    /// Answers [`Effect::WatchReplication`]: the state has changed.
    ReplicationDiffers,
}

/// Names a step of a channel. An answer to a step that is no longer wanted is recognised by its number.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub(crate) topic: Arc<str>,
    pub(crate) step: u32,
}
