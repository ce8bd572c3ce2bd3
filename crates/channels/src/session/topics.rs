//! The topics of a session.

use std::{collections::HashMap, sync::Arc};

use realtime_hub::MemberId;
use tokio::time::Instant;

use super::{channel::Channel, join::Joining, waiting::Waiting};
use crate::first_generation::FirstChannel;

/// A topic that is joined, or being joined.
pub(super) enum Topic {
    Joining(Box<Joining>),
    Joined(Box<Channel>),
    /// Joined without `config`, on a server that supports the first generation.
    First(Box<FirstChannel>),
}

impl Topic {
    /// When something has to be done for the topic.
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
    /// Number of joins that are undecided.
    joining: usize,
}

impl Topics {
    /// Number of topics.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Number of joins that are undecided.
    pub(super) fn joining(&self) -> usize {
        self.joining
    }

    /// Adds a topic.
    pub(super) fn insert(&mut self, name: Arc<str>, topic: Topic) {
        self.joining += usize::from(matches!(topic, Topic::Joining(_)));
        self.topics.insert(name, topic);
    }

    /// Removes a topic.
    pub(super) fn remove(&mut self, name: &str) -> Option<Topic> {
        let topic = self.topics.remove(name)?;
        self.joining -= usize::from(matches!(topic, Topic::Joining(_)));
        Some(topic)
    }

    /// Ends all topics. Undecided joins still count, so that diffs that wait for them are not sent.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Topic> {
        self.topics.get_mut(name)
    }

    /// All topics with their names.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Topic)> {
        self.topics.iter_mut()
    }

    /// The names of all topics.
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

    /// The joined channel with a name.
    pub(super) fn channel_mut(&mut self, name: &str) -> Option<&mut Channel> {
        match self.topics.get_mut(name) {
            Some(Topic::Joined(channel)) => Some(channel),
            _ => None,
        }
    }

    /// The channel of the first generation with a name.
    pub(super) fn first_mut(&mut self, name: &str) -> Option<&mut FirstChannel> {
        match self.topics.get_mut(name) {
            Some(Topic::First(channel)) => Some(channel),
            _ => None,
        }
    }

    /// The topic of the channel that is a member of a room.
    pub(super) fn of_member(&self, member: MemberId) -> Option<Arc<str>> {
        self.topics.values().find_map(|topic| match topic {
            Topic::Joined(channel) if channel.membership.id() == member => Some(Arc::clone(&channel.topic)),
            _ => None,
        })
    }

    /// The channel that is a member of a room.
    pub(super) fn channel_of_member(&mut self, member: MemberId) -> Option<&mut Channel> {
        self.topics.values_mut().find_map(|topic| match topic {
            Topic::Joined(channel) if channel.membership.id() == member => Some(&mut **channel),
            _ => None,
        })
    }

    /// The queue for messages on a topic, if they have to wait.
    pub(super) fn queue(&mut self, name: &str) -> Option<&mut Waiting> {
        match self.topics.get_mut(name) {
            Some(Topic::Joining(joining)) => Some(&mut joining.waiting),
            Some(Topic::Joined(channel)) => channel.waiting(),
            Some(Topic::First(_)) | None => None,
        }
    }

    /// When something has to be done for one of the topics.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.topics.values().filter_map(Topic::deadline).min()
    }

    /// The names of the topics for which something has to be done now.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let is_due = |topic: &Topic| topic.deadline().is_some_and(|at| at <= now);
        self.topics.iter().filter(|(_, topic)| is_due(topic)).map(|(name, _)| Arc::clone(name)).collect()
    }
}
