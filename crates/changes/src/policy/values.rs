//! The values that the terms of a policy have for a party.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
};

use realtime_pgoutput::{Element, parse_array};

use super::names::TermId;
use crate::{truth::Truth, value::Family};

/// The values of a party's terms. What was not answered, or failed, is open: rows that it decides are asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    pub(super) all: Vec<Value>,
    /// The terms that failed.
    pub(super) failed: BTreeSet<usize>,
    /// Whether a call failed.
    pub(super) call_failed: bool,
}

/// The value of a term.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Value {
    /// Not known.
    #[default]
    Open,
    Null,
    /// A value, and what it is equal by.
    One {
        text: Box<[u8]>,
        key: Box<[u8]>,
    },
    /// The elements of an array or the rows of a set.
    Set(ValueSet),
}

/// Elements of an array or rows of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ValueSet {
    /// What they are equal by.
    pub(super) keys: HashSet<Box<[u8]>>,
    /// Whether NULL is among them.
    pub(super) has_null: bool,
}

impl ValueSet {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.has_null
    }
}

static OPEN: Value = Value::Open;

impl Values {
    /// Whether something failed. PostgreSQL may refuse the whole query then (a privilege is missing), so nothing is
    /// shown without asking it.
    pub(super) fn is_failed(&self) -> bool {
        self.call_failed || !self.failed.is_empty()
    }

    /// What a judgement means for the party.
    pub(super) fn settle(&self, truth: Truth) -> Truth {
        if self.is_failed() && truth.holds() { Truth::OPEN } else { truth }
    }

    /// About how many bytes they take.
    #[must_use]
    pub fn size(&self) -> usize {
        let of = |value: &Value| match value {
            Value::Open | Value::Null => 0,
            Value::One { text, key } => text.len() + key.len(),
            Value::Set(set) => set.keys.iter().map(|key| key.len() + 2 * size_of::<Box<[u8]>>()).sum(),
        };
        self.all.iter().map(|value| size_of::<Value>() + of(value)).sum()
    }

    pub(super) fn get(&self, term: TermId) -> &Value {
        self.all.get(term.index()).unwrap_or(&OPEN)
    }
}

/// What kind of value a term has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// One value.
    One(Family),
    /// An array, of which the elements count.
    Array(Family),
    /// The rows of a query.
    Set(Vec<Family>),
}

impl Kind {
    /// How many columns an answer has.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::One(_) | Self::Array(_) => 1,
            Self::Set(families) => families.len(),
        }
    }

    /// The value of a term by its answer: rows of columns. What does not have the form that was asked for is open.
    pub(super) fn value(&self, rows: &[Vec<Option<String>>]) -> Value {
        match self {
            Self::Set(families) => set(families, rows).map_or(Value::Open, Value::Set),
            Self::One(_) | Self::Array(_) => match rows {
                [row] => match row.as_slice() {
                    [None] => Value::Null,
                    [Some(text)] => self.of_text(text).unwrap_or(Value::Open),
                    _ => Value::Open,
                },
                _ => Value::Open,
            },
        }
    }

    fn of_text(&self, text: &str) -> Option<Value> {
        match self {
            Self::One(family) => one(*family, text),
            Self::Array(family) => {
                let (keys, has_null) = elements(*family, text.as_bytes())?;
                Some(Value::Set(ValueSet { keys: keys.into_iter().collect(), has_null }))
            }
            Self::Set(_) => None,
        }
    }
}

/// One value of a family.
pub(super) fn one(family: Family, text: &str) -> Option<Value> {
    let key = key_of_told(family, text)?;
    Some(Value::One { text: spelled(family, text).as_bytes().into(), key: key.into() })
}

/// What a value is equal by that a cast to text wrote. All that the database is asked for is written so; rows are not.
pub(super) fn key_of_told(family: Family, text: &str) -> Option<Cow<'_, [u8]>> {
    family.key(spelled(family, text).as_bytes())
}

/// A boolean as rows have it; the cast to text spells it out.
fn spelled(family: Family, text: &str) -> &str {
    match (family, text) {
        (Family::Bool, "true") => "t",
        (Family::Bool, "false") => "f",
        _ => text,
    }
}

fn set(families: &[Family], rows: &[Vec<Option<String>>]) -> Option<ValueSet> {
    let mut set = ValueSet::default();
    for row in rows {
        if row.len() != families.len() {
            return None;
        }
        let mut keys = Vec::with_capacity(row.len());
        for (family, column) in families.iter().zip(row) {
            let Some(text) = column else { continue };
            keys.push(key_of_told(*family, text)?);
        }
        if keys.len() < row.len() {
            set.has_null = true;
        } else if let [key] = keys.as_slice() {
            set.keys.insert((&**key).into());
        } else {
            set.keys.insert(joined(&keys).into());
        }
    }
    Some(set)
}

/// The keys of an array's elements, and whether NULL is among them.
pub(super) fn elements(family: Family, text: &[u8]) -> Option<(Vec<Box<[u8]>>, bool)> {
    // Other lower bounds are written before the braces.
    if text.first() != Some(&b'{') {
        return None;
    }
    let (mut keys, mut has_null) = (Vec::new(), false);
    let mut rest = vec![parse_array(text, b',')?];
    while let Some(list) = rest.pop() {
        for element in list {
            match element {
                Element::Null => has_null = true,
                Element::Value(value) => keys.push(family.key(&value)?.into_owned().into_boxed_slice()),
                Element::Array(inner) => rest.push(inner),
            }
        }
    }
    Some((keys, has_null))
}

/// One key of several: each with its length before it.
pub(super) fn joined(keys: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut all = Vec::new();
    for key in keys {
        let key = key.as_ref();
        all.extend_from_slice(&key.len().to_be_bytes());
        all.extend_from_slice(key);
    }
    all
}
