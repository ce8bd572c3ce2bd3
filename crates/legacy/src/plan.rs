//! The plan of a table: its topics, how its columns are described, which of its changes may be broadcast.

use std::{borrow::Cow, sync::Arc};

use realtime_pgoutput::{
    Oid,
    message::{Relation, Tuple, Value},
};

use crate::{
    Event, Members, Profile, Restrictions, TopicIndex, describe,
    index::{PREFIX, has_topic},
    time,
};

/// `timestamp` and `timestamptz`.
const TIMESTAMPS: [&str; 2] = ["timestamp", "timestamptz"];

/// The plan of a table, until the walsender describes it again.
#[derive(Debug)]
pub struct Plan {
    relation: Arc<Relation>,
    schema_topic: Box<str>,
    table_topic: Box<str>,
    columns: Vec<Column>,
    /// Its columns as JSON.
    columns_json: Vec<u8>,
    /// What may be broadcast, by event.
    allowed: [Allowed; Event::ALL.len()],
    /// The columns with a value that somebody watches.
    watched: Vec<usize>,
    /// The index's generation when that was looked up. 0: never.
    generation: u64,
}

#[derive(Debug)]
struct Column {
    /// `schema:table:column`, as the index knows it.
    key: Box<str>,
    /// Its name as JSON, with a colon.
    member: Vec<u8>,
    /// Its values are written in the form of ISO 8601.
    iso: bool,
}

#[derive(Debug, Clone, Default)]
struct Allowed {
    schema: bool,
    everything: bool,
    table: bool,
    columns: Vec<bool>,
}

impl Plan {
    /// The plan of a table as the walsender describes it; `type_name` knows the types.
    #[must_use]
    pub fn new<'a>(
        relation: Arc<Relation>,
        profile: &Profile,
        restrictions: &Restrictions,
        type_name: impl Fn(Oid) -> Option<&'a str>,
    ) -> Self {
        let (schema, table) = (&*relation.schema, &*relation.name);
        let columns = relation.columns.iter().map(|column| Column {
            key: format!("{schema}:{table}:{}", column.name).into(),
            member: describe::member(&column.name),
            iso: profile.iso_timestamps
                && type_name(column.type_oid).is_some_and(|name| TIMESTAMPS.contains(&name)),
        });
        let allowed = Event::ALL.map(|event| Allowed {
            schema: restrictions.schema(schema, event),
            everything: restrictions.everything(event),
            table: restrictions.table(schema, table, event),
            columns: relation
                .columns
                .iter()
                .map(|column| restrictions.column(schema, table, &column.name, event))
                .collect(),
        });
        Self {
            schema_topic: format!("{PREFIX}{schema}").into(),
            table_topic: format!("{PREFIX}{schema}:{table}").into(),
            columns: columns.collect(),
            columns_json: describe::columns(&relation, type_name),
            allowed,
            watched: Vec::new(),
            generation: 0,
            relation,
        }
    }

    /// The table.
    #[must_use]
    pub fn relation(&self) -> &Relation {
        &self.relation
    }

    pub(crate) fn columns_json(&self) -> &[u8] {
        &self.columns_json
    }

    /// The text of a value as clients get it, and its column's name as JSON with a colon. `None` for the text: NULL.
    pub(crate) fn value<'a>(
        &'a self,
        at: usize,
        value: &'a Value,
    ) -> Option<(&'a [u8], Option<Cow<'a, str>>)> {
        let column = self.columns.get(at)?;
        let text = match value {
            Value::Null => None,
            Value::Unchanged => Some(Cow::Borrowed(describe::UNCHANGED)),
            Value::Text(bytes) | Value::Binary(bytes) => Some(column.text(bytes)),
        };
        Some((&column.member, text))
    }

    /// Looks up which columns are watched, if that may have changed since the last time.
    pub fn refresh<M>(&mut self, index: &TopicIndex<M>) {
        if self.generation != index.generation() {
            self.generation = index.generation();
            let watched = self.columns.iter().enumerate().filter(|(_, column)| index.watches(&column.key));
            self.watched = watched.map(|(at, _)| at).collect();
        }
    }

    /// Calls `give` for every topic of a change that somebody joined, in the order of legacy 2.2. `row` is the new row, the
    /// old one of a DELETE, and nothing of a TRUNCATE. [Refresh](Self::refresh) before.
    pub fn topics<M>(
        &self,
        index: &TopicIndex<M>,
        event: Event,
        row: Option<&Tuple>,
        mut give: impl FnMut(&Arc<str>, &Members<M>),
    ) {
        let allowed = &self.allowed[event as usize];
        let whole = [
            (allowed.schema, &*self.schema_topic),
            (allowed.everything, "realtime:*"),
            (allowed.table, &*self.table_topic),
        ];
        for (_, topic) in whole.into_iter().filter(|(allowed, _)| *allowed) {
            if let Some((topic, members)) = index.topic(topic) {
                give(topic, members);
            }
        }
        let Some(row) = row else { return };
        for &at in &self.watched {
            let (Some(Value::Text(bytes)), Some(column)) = (row.get(at), self.columns.get(at)) else {
                continue;
            };
            if !allowed.columns.get(at).copied().unwrap_or(false) {
                continue;
            }
            let text = column.text(bytes);
            if has_topic(&text) {
                for (topic, members) in index.value(&column.key, &text) {
                    give(topic, members);
                }
            }
        }
    }
}

impl Column {
    fn text<'a>(&self, bytes: &'a [u8]) -> Cow<'a, str> {
        let text = String::from_utf8_lossy(bytes);
        match text {
            Cow::Borrowed(text) if self.iso => time::iso(text),
            text => text,
        }
    }
}

#[cfg(test)]
mod tests;
