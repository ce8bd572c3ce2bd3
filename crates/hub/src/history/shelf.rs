//! The kept messages of a tenant, in bounds of time, number and bytes. Pure: it is told the time.
//!
//! A history reaches back to a moment if nothing that was said since then is missing in it. For each topic there are two
//! things that limit that:
//!
//! - `gone`: the time of the newest message that was dropped. A topic that is not on the shelf has that of the whole shelf.
//! - `heard_since`: among several nodes, since when all that is said in the topic is heard here. A node that has had no
//!   member there for a while hears only what is said on itself. A node on its own hears everything.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::kept::Kept;
use crate::key::{Audience, MessageId};

/// A room of the tenant.
pub(crate) type Place = (Audience, Arc<str>);

/// Topics without messages and without members that are remembered. Others only reach back less far.
const MAX_VACANT: usize = 10_000;

/// How long a message that came from another node's history may still come live, in milliseconds.
const IN_FLIGHT_MS: u64 = 10_000;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For how long, in milliseconds.
    pub age_ms: u64,
    /// Messages of a topic.
    pub messages: usize,
    /// Bytes of all topics of the tenant.
    pub bytes: usize,
}

/// What a tenant's history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryFigures {
    /// Messages.
    pub messages: usize,
    /// Bytes, those that belong to a message beside its text included.
    pub bytes: usize,
}

/// From where on a client wants messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// All that there are.
    Beginning,
    /// Those of this moment and later, in milliseconds of Unix time.
    Time(i64),
    /// Those after this message.
    Message(MessageId),
}

/// A kept message with its time.
#[derive(Debug, Clone)]
pub struct Past {
    /// When it was said, in milliseconds of Unix time by the clock of the node that heard it.
    pub at: u64,
    /// The message.
    pub message: Arc<Kept>,
    /// Whether it may still come live: it was another node that kept it.
    pub is_in_flight: bool,
}

/// What a history has for somebody.
#[derive(Debug, Clone, Default)]
pub struct Recalled {
    /// The messages, oldest first.
    pub messages: Vec<Past>,
    /// Whether nothing is missing.
    pub reaches: bool,
}

/// What another node has kept of a topic.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Since when nothing is missing, if that node hears the topic.
    pub since: Option<u64>,
    /// Messages with their times, oldest first.
    pub messages: Vec<(u64, Arc<Kept>)>,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    number: u64,
    id: MessageId,
    message: Arc<Kept>,
    /// What is counted for it.
    bytes: usize,
    /// Taken from another node.
    is_adopted: bool,
}

#[derive(Debug, Default)]
struct Topic {
    /// Oldest first.
    messages: VecDeque<Entry>,
    /// Time of the newest that was dropped; 0 if none was.
    gone: u64,
    /// Time of the newest that was too large to be kept: it is missing between others.
    hole: Option<u64>,
    heard_since: Option<u64>,
    /// Since when nobody is in the room. `None` also if nobody ever was.
    left: Option<u64>,
    /// Whether other nodes have told what they have.
    asked: bool,
    /// Until when a message may come that another node has told already.
    doubles_until: u64,
}

impl Topic {
    fn has(&self, id: MessageId) -> bool {
        self.messages.iter().any(|entry| entry.id == id)
    }

    /// Whether nothing since a moment is missing.
    fn reaches(&self, since: u64, alone: Option<u64>) -> bool {
        let heard = alone.or(self.heard_since);
        since > self.gone && heard.is_some_and(|heard| since >= heard)
    }
}

/// The kept messages of a tenant.
#[derive(Debug)]
pub(crate) struct Shelf {
    bounds: Bounds,
    began: u64,
    /// Time of the newest message that was dropped of a topic that is not here any more.
    gone: u64,
    topics: HashMap<Place, Topic>,
    /// All messages, oldest first.
    order: BTreeMap<(u64, u64), Place>,
    bytes: usize,
}

impl Shelf {
    pub(crate) fn new(bounds: Bounds, now: u64) -> Self {
        Self { bounds, began: now, gone: 0, topics: HashMap::new(), order: BTreeMap::new(), bytes: 0 }
    }

    pub(crate) fn set_bounds(&mut self, bounds: Bounds, now: u64) {
        self.bounds = bounds;
        self.expire(now);
        let full: Vec<Place> = self
            .topics
            .iter()
            .filter(|(_, topic)| topic.messages.len() > bounds.messages)
            .map(|(place, _)| place.clone())
            .collect();
        full.iter().for_each(|place| self.trim_topic(place));
        self.trim();
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(crate) fn figures(&self) -> HistoryFigures {
        HistoryFigures { messages: self.order.len(), bytes: self.bytes }
    }

    /// Keeps a message. `if_known`: only of a topic that this node listens to.
    pub(crate) fn push(&mut self, place: &Place, message: Arc<Kept>, number: u64, if_known: bool, now: u64) {
        self.expire(now);
        if if_known && self.topics.get(place).is_none_or(|topic| topic.heard_since.is_none()) {
            return;
        }
        let most = self.bounds.bytes;
        let topic = self.topic(place);
        if now < topic.doubles_until && topic.has(message.id()) {
            return;
        }
        // A clock that goes back does not change the order.
        let at = topic.messages.back().map_or(now, |last| last.at.max(now));
        let entry = Entry::new(at, number, message, place, false);
        if entry.bytes > most {
            // All others would be dropped for it, and then itself.
            (topic.gone, topic.hole) = (at, Some(at));
            return;
        }
        self.insert(place, entry);
        self.trim_topic(place);
        self.trim();
    }

    /// What there is for somebody: messages below the number `before`, or of other nodes. `alone`: there are no other
    /// nodes. `hears`: if there are, they are heard.
    pub(crate) fn recall(
        &mut self,
        place: &Place,
        since: Since,
        before: u64,
        (alone, hears): (bool, bool),
        now: u64,
    ) -> Recalled {
        self.expire(now);
        let alone = alone.then_some(self.began);
        let Some(topic) = self.topics.get(place) else {
            let reaches = match since {
                Since::Beginning => hears,
                Since::Time(at) => {
                    let at = u64::try_from(at).unwrap_or(0);
                    at <= now && at > self.gone && alone.is_some_and(|began| at >= began)
                }
                Since::Message(_) => false,
            };
            return Recalled { messages: Vec::new(), reaches };
        };
        let found = |id| topic.messages.iter().position(|entry| entry.id == id);
        let (skip, from, reaches) = match since {
            Since::Beginning => (0, 0, true),
            Since::Time(at) => {
                let at = u64::try_from(at).unwrap_or(0);
                (0, at, at <= now && topic.reaches(at, alone))
            }
            Since::Message(id) => match found(id) {
                Some(place) => {
                    let at = topic.messages.get(place).map_or(0, |entry| entry.at);
                    let heard = alone.or(topic.heard_since).is_some_and(|heard| at >= heard);
                    (place + 1, 0, heard && topic.hole.is_none_or(|hole| at > hole))
                }
                None => (0, 0, false),
            },
        };
        let missed = |entry: &&Entry| entry.at >= from && (entry.is_adopted || entry.number < before);
        let past = |entry: &Entry| Past {
            at: entry.at,
            message: Arc::clone(&entry.message),
            is_in_flight: entry.is_adopted && entry.at + IN_FLIGHT_MS > now,
        };
        let messages = topic.messages.iter().skip(skip).filter(missed).map(past).collect();
        Recalled { messages, reaches: reaches && hears }
    }

    /// The time of a message, and the ids of all of its topic that are rows of the database.
    pub(crate) fn rows(&self, place: &Place, of: Option<MessageId>) -> (Option<u64>, Vec<MessageId>) {
        let Some(topic) = self.topics.get(place) else { return (None, Vec::new()) };
        let at = of.and_then(|id| topic.messages.iter().find(|entry| entry.id == id)).map(|entry| entry.at);
        let rows = topic.messages.iter().filter(|entry| entry.message.is_stored()).map(|entry| entry.id);
        (at, rows.collect())
    }

    /// What other nodes are told: the newest messages of at most this many bytes.
    pub(crate) fn tell(&mut self, place: &Place, most: usize, now: u64) -> Told {
        self.expire(now);
        let Some(topic) = self.topics.get(place) else { return Told::default() };
        let mut bytes = 0;
        let newest = topic.messages.iter().rev().take_while(|entry| {
            bytes += entry.bytes;
            bytes <= most
        });
        let count = newest.count();
        let left_out = topic.messages.len() - count;
        let gone = left_out.checked_sub(1).and_then(|last| topic.messages.get(last)).map(|entry| entry.at);
        let gone = gone.unwrap_or(0).max(topic.gone);
        let since = topic.heard_since.map(|heard| heard.max(if gone == 0 { 0 } else { gone + 1 }));
        let messages =
            topic.messages.iter().skip(left_out).map(|entry| (entry.at, Arc::clone(&entry.message)));
        Told { since, messages: messages.collect() }
    }

    /// Takes what other nodes have kept. `draw` numbers messages. Returns since when nothing of it is missing here: not all of
    /// it may have room.
    pub(crate) fn adopt(
        &mut self,
        place: &Place,
        told: Vec<Told>,
        draw: impl Fn() -> u64,
        now: u64,
    ) -> Option<u64> {
        let horizon = now.saturating_sub(self.bounds.age_ms);
        let reach = told.iter().filter_map(|told| told.since).min();
        let topic = self.topic(place);
        topic.asked = true;
        topic.doubles_until = now + IN_FLIGHT_MS;
        if let (Some(reach), Some(heard)) = (reach, &mut topic.heard_since) {
            *heard = reach.min(*heard);
        }
        let mut known: HashSet<MessageId> = topic.messages.iter().map(|entry| entry.id).collect();
        let mut all = Vec::new();
        for (at, message) in told.into_iter().flat_map(|told| told.messages) {
            all.push((at, message.id()));
            // A clock far ahead must not keep a message for ever.
            let at = at.min(now);
            if at > horizon && known.insert(message.id()) {
                self.insert(place, Entry::new(at, draw(), message, place, true));
            }
        }
        self.trim_topic(place);
        self.trim();
        let here = self.topics.get(place).into_iter().flat_map(|topic| &topic.messages);
        let here: HashSet<MessageId> = here.map(|entry| entry.id).collect();
        let lost = all.iter().filter(|(_, id)| !here.contains(id)).map(|(at, _)| at.saturating_add(1)).max();
        reach.map(|reach| reach.max(lost.unwrap_or(0)))
    }

    /// Whether other nodes should be asked about a topic: they have not told what they have, or more was said there that is
    /// not heard here.
    pub(crate) fn should_ask(&self, place: &Place) -> bool {
        self.topics.get(place).is_none_or(|topic| !topic.asked || topic.heard_since.is_none())
    }

    /// Somebody has entered a room, and hears all that is said there.
    pub(crate) fn entered(&mut self, place: &Place, now: u64) {
        let topic = self.topic(place);
        topic.left = None;
        if topic.heard_since.is_none() {
            (topic.heard_since, topic.asked) = (Some(now), false);
        }
    }

    /// Nobody is in the room any more.
    pub(crate) fn left(&mut self, place: &Place, now: u64) {
        let crowded = self.topics.len() > MAX_VACANT;
        let Some(topic) = self.topics.get_mut(place) else { return };
        topic.left = Some(now);
        if crowded && topic.messages.is_empty() {
            self.forget(place);
        }
    }

    /// Something may have been missed in these topics; `ended`: they are not heard any more.
    pub(crate) fn doubt(&mut self, of: impl Fn(&Place) -> bool, ended: bool, now: u64) {
        for (_, topic) in self.topics.iter_mut().filter(|(place, _)| of(place)) {
            topic.asked = false;
            topic.heard_since = if ended { None } else { topic.heard_since.map(|_| now) };
        }
    }

    /// Counts frames that were made of a topic's messages.
    pub(crate) fn recount(&mut self, place: &Place) {
        let Some(topic) = self.topics.get_mut(place) else { return };
        for entry in &mut topic.messages {
            let size = entry.message.size(&place.1);
            self.bytes = self.bytes + size - entry.bytes;
            entry.bytes = size;
        }
        self.trim();
    }

    /// Drops what is too old, and topics that say nothing.
    pub(crate) fn sweep(&mut self, now: u64) {
        self.expire(now);
        let age = self.bounds.age_ms;
        let vacant: Vec<Place> = self
            .topics
            .iter()
            .filter(|(_, topic)| {
                let is_heard = topic.heard_since.is_some();
                let is_over = topic.left.map_or(!is_heard, |left| left.saturating_add(age) <= now);
                topic.messages.is_empty() && is_over
            })
            .map(|(place, _)| place.clone())
            .collect();
        vacant.iter().for_each(|place| self.forget(place));
        self.topics.shrink_to(2 * self.topics.len());
    }

    /// Drops the oldest messages, of about this many bytes.
    pub(crate) fn shed(&mut self, bytes: usize) {
        let left = self.bytes.saturating_sub(bytes);
        while self.bytes > left && self.drop_oldest() {}
    }

    fn topic(&mut self, place: &Place) -> &mut Topic {
        let gone = self.gone;
        self.topics.entry(place.clone()).or_insert_with(|| Topic { gone, ..Topic::default() })
    }

    fn forget(&mut self, place: &Place) {
        if let Some(topic) = self.topics.remove(place) {
            self.gone = self.gone.max(topic.gone);
        }
    }

    fn insert(&mut self, place: &Place, entry: Entry) {
        self.order.insert((entry.at, entry.number), place.clone());
        self.bytes += entry.bytes;
        let topic = self.topic(place);
        let behind =
            topic.messages.partition_point(|other| (other.at, other.number) < (entry.at, entry.number));
        topic.messages.insert(behind, entry);
    }

    fn expire(&mut self, now: u64) {
        let horizon = now.saturating_sub(self.bounds.age_ms);
        while self.order.first_key_value().is_some_and(|((at, _), _)| *at <= horizon) {
            self.drop_oldest();
        }
    }

    fn trim(&mut self) {
        while self.bytes > self.bounds.bytes && self.drop_oldest() {}
    }

    fn trim_topic(&mut self, place: &Place) {
        while self.topics.get(place).is_some_and(|topic| topic.messages.len() > self.bounds.messages) {
            self.drop_first(place);
        }
    }

    /// Drops the oldest message of all. False if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(place) = self.order.first_key_value().map(|(_, place)| place.clone()) else { return false };
        self.drop_first(&place)
    }

    /// Drops the oldest message of a topic. False if there is none.
    fn drop_first(&mut self, place: &Place) -> bool {
        let Some(topic) = self.topics.get_mut(place) else { return false };
        let Some(entry) = topic.messages.pop_front() else { return false };
        topic.gone = topic.gone.max(entry.at);
        if topic.messages.capacity() > 64 && topic.messages.len() < topic.messages.capacity() / 4 {
            topic.messages.shrink_to(2 * topic.messages.len());
        }
        self.order.remove(&(entry.at, entry.number));
        self.bytes -= entry.bytes;
        // Nobody listens to it for its own sake: what was dropped is remembered for all such topics together.
        if topic.messages.is_empty() && topic.heard_since.is_none() {
            self.forget(place);
        }
        true
    }
}

impl Entry {
    fn new(at: u64, number: u64, message: Arc<Kept>, place: &Place, is_adopted: bool) -> Self {
        let (id, bytes) = (message.id(), message.size(&place.1));
        Self { at, number, id, message, bytes, is_adopted }
    }
}
