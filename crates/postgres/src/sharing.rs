//! The other nodes, as far as one database is concerned: who reads it for all, and what is handed on.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use realtime_pgoutput::{Oid, Position};

/// A future of a trait that is used as an object.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The reader of a database's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// This node, for all.
    ThisNode,
    /// This node, because it can neither follow another nor be followed.
    ForItself,
    /// Another node, which this one follows.
    AnotherNode,
}

impl Reader {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ThisNode => "this node",
            Self::ForItself => "this node, for itself",
            Self::AnotherNode => "another node",
        }
    }
}

/// The other nodes, as far as one database is concerned.
pub trait Sharing: Send + Sync + fmt::Debug {
    /// Whether they can be reached.
    fn is_connected(&self) -> bool;
    /// Whether they have not been reached for so long that they will do without this one.
    fn is_isolated(&self) -> bool;
    /// Whether there are any.
    fn has_others(&self) -> bool;
    /// Name of the advisory lock.
    fn lock_name(&self) -> String;
    /// Follows the node that owns the stream. The error is for the log.
    fn follow(&self) -> Boxed<'_, Result<Box<dyn Following>, String>>;
    /// Begins to own it, at a position. `about` is told to those who follow.
    fn own(&self, position: u64, about: Bytes) -> Box<dyn Owning>;
}

/// A stream that another node owns.
pub trait Following: Send + Sync {
    /// Everything before this position is not in it.
    fn position(&self) -> u64;
    /// What the owner said about it.
    fn about(&self) -> Bytes;
    /// What comes next. Cancel safe. After an error there is nothing.
    fn next(&mut self) -> Boxed<'_, Result<Carried, String>>;
    /// Whether the owner can leave out rows that this node does not want.
    fn can_leave_out(&self) -> bool;
    /// Says rows of which relations this node wants and of which not, from where [`Carried::Granted`] comes. Rows of others
    /// come. False: it cannot be said before the last words were granted.
    fn want(&mut self, wanted: Vec<Oid>, unwanted: Vec<Oid>) -> bool;
    /// Asks the owner for rows that it has kept. `None`: it cannot be asked.
    fn recall(&self, recall: &Recall) -> Option<Boxed<'static, Result<Bytes, String>>>;
    /// Everything before this position was handed over.
    fn confirm(&self, position: u64);
}

/// A stream that this node owns.
pub trait Owning: Send + Sync {
    /// The next event, for all who follow.
    fn carry(&self, place: Place, event: Bytes);
    /// A wait for those who are too far behind. Cancel safe.
    fn room(&self) -> Boxed<'_, ()>;
    /// Whether somebody follows.
    fn has_followers(&self) -> bool;
    /// Whether every node follows that has subscribers, as far as is known.
    fn has_all(&self) -> bool;
    /// Up to which position all have taken everything, this node having come as far as `own`.
    fn confirmed(&self, own: u64) -> u64;
}

/// What is asked of the journal of the node that reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recall {
    /// Rows of these tables,
    pub tables: Vec<Oid>,
    /// after this place.
    pub after: Position,
}

/// What comes from the owner of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// An event.
    Event(Bytes),
    /// In its place so many rows of a relation that this node does not want.
    Skipped {
        /// The relation.
        relation: Oid,
        /// How many.
        rows: u32,
    },
    /// From here on comes what this node has said that it wants.
    Granted,
}

/// What an event is to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It begins a transaction.
    Begin,
    /// It is part of a transaction.
    Within,
    /// It is part of a transaction, and a row of a relation.
    Row(Oid),
    /// It is of a transaction, and nodes that follow later need the last event of this key.
    Needed(u64),
    /// Everything before this position was in the stream.
    End(u64),
}
