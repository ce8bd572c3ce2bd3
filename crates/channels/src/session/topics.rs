//! What a session knows of its topics.

use std::{collections::HashMap, sync::Arc};

use realtime_hub::MemberId;
use tokio::time::Instant;

use super::{channel::Channel, join::Joining, waiting::Waiting};
use crate::first_generation::FirstChannel;

/// A topic that is joined, or being joined.
pub(super) enum Topic {
    Joining(Box<Joining>),
    Joined(Box<Channel>),
    /// Joined without `config`, where the first generation is served.
    First(Box<FirstChannel>),
}

impl Topic {
    /// The next moment at which something has to be done for it.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Joining(joining) => joining.deadline(),
            Self::Joined(channel) => Some(channel.deadline()),
            Self::First(channel) => channel.deadline(),
        }
    }
}

/// The topics of a session.
#[derive(Default)]
pub(super) struct Topics {
    topics: HashMap<Arc<str>, Topic>,
    /// Joins that are undecided.
    joining: usize,
}

impl Topics {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Joins that are undecided.
    pub(super) fn joining(&self) -> usize {
        self.joining
    }

    /// Puts a topic in.
    pub(super) fn insert(&mut self, name: Arc<str>, topic: Topic) {
        self.joining += usize::from(matches!(topic, Topic::Joining(_)));
        self.topics.insert(name, topic);
    }

    /// Takes a topic out.
    pub(super) fn remove(&mut self, name: &str) -> Option<Topic> {
        let topic = self.topics.remove(name)?;
        self.joining -= usize::from(matches!(topic, Topic::Joining(_)));
        Some(topic)
    }

    /// Ends all. Joins that were undecided count as such: what waits for them is not sent any more.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Topic> {
        self.topics.get_mut(name)
    }

    /// All, with their names.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Topic)> {
        self.topics.iter_mut()
    }

    /// The names of all.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.topics.keys().map(Arc::clone).collect()
    }

    /// The join that waits for a step.
    pub(super) fn joining_mut(&mut self, name: &str, step: u32) -> Option<&mut Joining> {
        match self.topics.get_mut(name) {
            Some(Topic::Joining(joining)) if joining.waits_for(step) => Some(joining),
            _ => None,
        }
    }

    /// The joined channel of a name.
    pub(super) fn channel_mut(&mut self, name: &str) -> Option<&mut Channel> {
        match self.topics.get_mut(name) {
            Some(Topic::Joined(channel)) => Some(channel),
            _ => None,
        }
    }

    /// The channel of the first generation of a name.
    pub(super) fn first_mut(&mut self, name: &str) -> Option<&mut FirstChannel> {
        match self.topics.get_mut(name) {
            Some(Topic::First(channel)) => Some(channel),
            _ => None,
        }
    }

    /// The channel that is a member of a room.
    pub(super) fn of_member(&self, member: MemberId) -> Option<Arc<str>> {
        self.topics.values().find_map(|topic| match topic {
            Topic::Joined(channel) if channel.membership.id() == member => Some(Arc::clone(&channel.topic)),
            _ => None,
        })
    }

    /// Where messages on a topic have to wait, if they must.
    pub(super) fn queue(&mut self, name: &str) -> Option<&mut Waiting> {
        match self.topics.get_mut(name) {
            Some(Topic::Joining(joining)) => Some(&mut joining.waiting),
            Some(Topic::Joined(channel)) => channel.waiting(),
            Some(Topic::First(_)) | None => None,
        }
    }

    /// The next moment at which something has to be done.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.topics.values().filter_map(Topic::deadline).min()
    }

    /// The names of those for which something has to be done now.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let is_due = |topic: &Topic| topic.deadline().is_some_and(|at| at <= now);
        self.topics.iter().filter(|(_, topic)| is_due(topic)).map(|(name, _)| Arc::clone(name)).collect()
    }
}
