//! Who joined which topic. It is found from a row without writing the topic's text.
//!
//! A joined topic is a plain string that is never interpreted. It is entered under its whole text, for changes of schemas
//! and tables, and once for each way in which it can be read as a column's value: `realtime:a:b=eq.c=eq.d` is value
//! `c=eq.d` of `a:b` as well as value `d` of `a:b=eq.c`. A row looks up the columns that somebody watches, and no others.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use unicode_segmentation::UnicodeSegmentation as _;

/// Values of this many characters and longer have no topic (legacy 2.2).
const MAX_VALUE: usize = 100;

/// What every topic begins with.
pub(crate) const PREFIX: &str = "realtime:";

/// The members of one topic, each under a number of its own.
pub type Members<M> = FxHashMap<u64, M>;

/// The topics of each value of a column.
type Values = HashMap<Box<str>, Vec<Arc<str>>>;

/// Who joined which topic.
#[derive(Debug)]
pub struct TopicIndex<M> {
    topics: HashMap<Arc<str>, Members<M>>,
    /// By `schema:table:column` and value.
    columns: HashMap<Box<str>, Values>,
    /// `.eq.` means the same as `=eq.`.
    dotted: bool,
    next: u64,
    /// Changes whenever a column begins or ceases to be watched.
    generation: u64,
}

impl<M> TopicIndex<M> {
    /// An index without members.
    #[must_use]
    pub fn new(dotted: bool) -> Self {
        Self { topics: HashMap::new(), columns: HashMap::new(), dotted, next: 0, generation: 1 }
    }

    /// Enters a member into a topic; returns the number to remove it by.
    pub fn insert(&mut self, topic: &Arc<str>, member: M) -> u64 {
        let id = self.next;
        self.next += 1;
        match self.topics.entry(Arc::clone(topic)) {
            Entry::Occupied(entry) => {
                entry.into_mut().insert(id, member);
            }
            Entry::Vacant(entry) => {
                entry.insert(Members::default()).insert(id, member);
                self.enter_columns(topic);
            }
        }
        id
    }

    /// Removes a member. Idempotent.
    pub fn remove(&mut self, topic: &str, id: u64) {
        let Some(members) = self.topics.get_mut(topic) else { return };
        members.remove(&id);
        if members.is_empty() {
            self.topics.remove(topic);
            self.leave_columns(topic);
        }
    }

    /// Number of topics that somebody joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether nobody joined anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Who joined a topic.
    #[must_use]
    pub fn topic(&self, topic: &str) -> Option<(&Arc<str>, &Members<M>)> {
        self.topics.get_key_value(topic)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether some value of a column, `schema:table:column`, is watched.
    pub(crate) fn watches(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// The topics of a column's value.
    pub(crate) fn value<'a>(
        &'a self,
        column: &str,
        value: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Members<M>)> {
        let topics = self.columns.get(column).and_then(|values| values.get(value));
        topics.into_iter().flatten().filter_map(|topic| self.topic(topic))
    }

    fn enter_columns(&mut self, topic: &Arc<str>) {
        for (column, value) in splits(topic, self.dotted) {
            let values = match self.columns.get_mut(column) {
                Some(values) => values,
                None => {
                    self.generation += 1;
                    self.columns.entry(column.into()).or_default()
                }
            };
            values.entry(value.into()).or_default().push(Arc::clone(topic));
        }
    }

    fn leave_columns(&mut self, topic: &str) {
        for (column, value) in splits(topic, self.dotted) {
            let Some(values) = self.columns.get_mut(column) else { continue };
            if let Some(topics) = values.get_mut(value) {
                topics.retain(|known| **known != *topic);
                if topics.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.columns.remove(column);
                self.generation += 1;
            }
        }
    }
}

/// Every way in which a topic can be that of a column's value: the column and the value.
fn splits(topic: &str, dotted: bool) -> impl Iterator<Item = (&str, &str)> {
    let rest = topic.strip_prefix(PREFIX).unwrap_or_default();
    let marks = rest.match_indices("eq.").filter_map(move |(at, mark)| {
        let column = rest.get(..at)?;
        let column = column.strip_suffix('=').or_else(|| column.strip_suffix('.').filter(|_| dotted))?;
        Some((column, rest.get(at + mark.len()..)?))
    });
    marks.filter(|(_, value)| has_topic(value))
}

/// Whether a value is short enough to have a topic.
pub(crate) fn has_topic(value: &str) -> bool {
    value.len() < MAX_VALUE || value.graphemes(true).nth(MAX_VALUE - 1).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(topics: &[&str]) -> (TopicIndex<()>, Vec<u64>) {
        let mut index = TopicIndex::new(true);
        let ids = topics.iter().map(|topic| index.insert(&(*topic).into(), ())).collect();
        (index, ids)
    }

    fn found(index: &TopicIndex<()>, column: &str, value: &str) -> Vec<String> {
        let mut topics: Vec<_> = index.value(column, value).map(|(topic, _)| topic.to_string()).collect();
        topics.sort();
        topics
    }

    #[test]
    fn topics_come_and_go() {
        let (mut index, ids) =
            index(&["realtime:*", "realtime:public:users:id=eq.1", "realtime:public:users:id=eq.1"]);
        assert_eq!(index.len(), 2);
        assert_eq!(index.topic("realtime:*").unwrap().1.len(), 1);
        assert!(index.topic("realtime:public").is_none());
        let generation = index.generation();
        index.remove("realtime:public:users:id=eq.1", ids[1]);
        index.remove("realtime:public:users:id=eq.1", ids[1]);
        assert_eq!(found(&index, "public:users:id", "1"), ["realtime:public:users:id=eq.1"]);
        assert!(index.watches("public:users:id") && index.generation() == generation);
        index.remove("realtime:public:users:id=eq.1", ids[2]);
        assert!(!index.watches("public:users:id") && index.generation() > generation);
        index.remove("realtime:*", ids[0]);
        assert!(index.is_empty());
    }

    #[test]
    fn a_topic_may_be_read_in_several_ways() {
        let (index, _) = index(&["realtime:a:b=eq.c=eq.d"]);
        assert_eq!(found(&index, "a:b", "c=eq.d").len(), 1);
        assert_eq!(found(&index, "a:b=eq.c", "d").len(), 1);
        assert!(found(&index, "a:b", "d").is_empty());
    }

    #[test]
    fn the_dotted_form_is_the_same_value() {
        let (index, _) = index(&["realtime:public:users:id.eq.99", "realtime:public:users:id=eq.99"]);
        assert_eq!(found(&index, "public:users:id", "99").len(), 2);
        let mut strict = TopicIndex::new(false);
        strict.insert(&"realtime:public:users:id.eq.99".into(), ());
        assert!(!strict.watches("public:users:id"));
    }

    /// legacy 24
    #[test]
    fn long_values_have_no_topic() {
        for (value, short) in [
            ("a".repeat(99), true),
            ("a".repeat(100), false),
            ("e\u{301}".repeat(99), true),
            ("é".repeat(100), false),
        ] {
            assert_eq!(has_topic(&value), short);
            let (index, _) = index(&[&format!("realtime:s:t:c=eq.{value}")]);
            assert_eq!(index.watches("s:t:c"), short);
        }
    }
}
