//! What a condition finds out about a value.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use bytes::Bytes;
use realtime_pgoutput::{Element, oid, parse_array};

use super::{keying::Keying, planned::Planned};
use crate::{
    elements::{self, Containment, Elements},
    filter::Operator,
    jsonb,
    like::Pattern,
    pattern,
    question::{Compare, Form, Part},
    row::Row,
    truth::Truth,
    value::Family,
};

/// A test of a value. Where one has a question, the database is asked about some values.
#[derive(Debug, Clone)]
pub(super) enum Test {
    IsNull,
    /// IS TRUE, FALSE, or UNKNOWN (`None`).
    IsBool(Option<bool>),
    Equal(Family, Vec<u8>),
    Distinct(Family, Vec<u8>),
    /// Holds if the row's value compares like one of these to the literal.
    Order(Family, Vec<u8>, &'static [Ordering]),
    /// `in`: keys, and whether NULL is among the elements.
    OneOf(Keying, HashSet<Vec<u8>>, bool),
    Like(Arc<Pattern>, Arc<Compare>),
    /// Both sides are compared in lower case while they are ASCII.
    Ilike(Arc<Pattern>, Arc<Compare>),
    /// A regular expression that is evaluated here, but on long texts.
    Match(Arc<pattern::Pattern>, Arc<Compare>),
    /// `jsonb`: documents are asked about.
    Json(JsonTest, Box<[u8]>, Arc<Compare>),
    /// Arrays: those with unusual bounds are asked about.
    Elements(Family, Containment, Arc<Elements>, Arc<Compare>),
    Ask(Arc<Compare>),
}

/// How a value of `jsonb` is compared.
#[derive(Debug, Clone, Copy)]
pub(super) enum JsonTest {
    Equal,
    NotEqual,
    Distinct,
    Order { orders: &'static [Ordering], collation_is_c: bool },
}

/// What comes of a test.
pub(super) enum Answer {
    Known(Truth),
    Ask(Part),
}

const LESS: &[Ordering] = &[Ordering::Less];
const LESS_OR_EQUAL: &[Ordering] = &[Ordering::Less, Ordering::Equal];
const GREATER: &[Ordering] = &[Ordering::Greater];
const GREATER_OR_EQUAL: &[Ordering] = &[Ordering::Greater, Ordering::Equal];

const fn orders(operator: Operator) -> Option<&'static [Ordering]> {
    match operator {
        Operator::Lt => Some(LESS),
        Operator::Lte => Some(LESS_OR_EQUAL),
        Operator::Gt => Some(GREATER),
        Operator::Gte => Some(GREATER_OR_EQUAL),
        _ => None,
    }
}

impl Test {
    /// The test, if it can be made without the database.
    pub(super) fn native(planned: &Planned, literal: &str, collation_is_c: bool) -> Option<Self> {
        let operator = planned.filter.operator;
        if operator == Operator::Is {
            return Some(match literal {
                "null" => Self::IsNull,
                "true" => Self::IsBool(Some(true)),
                "false" => Self::IsBool(Some(false)),
                _ => Self::IsBool(None),
            });
        }
        if let Some(how) = containment(operator) {
            let family = elements::family_of(planned.base_oid)?;
            let elements = Elements::of(family, literal.as_bytes())?;
            return Some(Self::Elements(family, how, Arc::new(elements), planned.compare(literal)));
        }
        match Family::of(planned.base_oid) {
            Some(family) => Self::of_family(planned, family, literal, collation_is_c),
            None if planned.base_oid == oid::JSONB => Self::json(planned, literal, collation_is_c),
            None => None,
        }
    }

    fn of_family(planned: &Planned, family: Family, literal: &str, collation_is_c: bool) -> Option<Self> {
        // A cast to text spells booleans out; a row has them as the output function writes them.
        let literal = match (family, literal) {
            (Family::Bool, "true") => "t",
            (Family::Bool, "false") => "f",
            _ => literal,
        };
        let key = || family.key(literal.as_bytes()).map(std::borrow::Cow::into_owned);
        match planned.filter.operator {
            Operator::Eq | Operator::Neq => Some(Self::Equal(family, key()?)),
            Operator::IsDistinct => Some(Self::Distinct(family, key()?)),
            Operator::In => Self::one_of(Keying::Family(family), literal),
            Operator::Like if family == Family::Text => {
                Some(Self::Like(Arc::new(Pattern::new(literal)?), planned.compare(literal)))
            }
            Operator::Ilike if family == Family::Text && literal.is_ascii() => {
                let pattern = Pattern::new(&literal.to_ascii_lowercase())?;
                Some(Self::Ilike(Arc::new(pattern), planned.compare(literal)))
            }
            Operator::Match if planned.base_oid == oid::TEXT => {
                let pattern = pattern::Pattern::new(literal)?;
                Some(Self::Match(Arc::new(pattern), planned.compare(literal)))
            }
            operator if family.is_ordered(collation_is_c) => {
                Some(Self::Order(family, literal.as_bytes().to_vec(), orders(operator)?))
            }
            _ => None,
        }
    }

    fn json(planned: &Planned, literal: &str, collation_is_c: bool) -> Option<Self> {
        let operator = planned.filter.operator;
        if let (Operator::Eq | Operator::Neq, Some(key)) = (operator, jsonb::key(literal.as_bytes())) {
            return Some(Self::OneOf(Keying::Json, HashSet::from([key.into_owned()]), false));
        }
        let test = match operator {
            Operator::In => return Self::one_of(Keying::Json, literal),
            Operator::Eq => JsonTest::Equal,
            Operator::Neq => JsonTest::NotEqual,
            Operator::IsDistinct => JsonTest::Distinct,
            operator => JsonTest::Order { orders: orders(operator)?, collation_is_c },
        };
        Some(Self::Json(test, literal.as_bytes().into(), planned.compare(literal)))
    }

    fn one_of(keying: Keying, literal: &str) -> Option<Self> {
        let (mut keys, mut null) = (HashSet::new(), false);
        for element in parse_array(literal.as_bytes(), b',')? {
            match element {
                Element::Null => null = true,
                Element::Value(value) => {
                    keys.insert(keying.key(&value)?.into_owned());
                }
                Element::Array(_) => return None,
            }
        }
        Some(Self::OneOf(keying, keys, null))
    }

    /// Whether it holds where values are equal, also if "not equal" is meant.
    pub(super) const fn is_equality(&self) -> bool {
        matches!(self, Self::Equal(..) | Self::OneOf(..))
    }

    /// The values that it holds for, if there are no others.
    pub(super) fn keys(&self) -> Option<(Keying, Vec<&[u8]>)> {
        match self {
            Self::Equal(family, key) => Some((Keying::Family(*family), vec![key])),
            Self::OneOf(keying, keys, _) => Some((*keying, keys.iter().map(Vec::as_slice).collect())),
            _ => None,
        }
    }

    /// The matrix of 1.6 for a NULL in the row. NULL stays NULL however it is negated. It is certain to be in no empty list.
    pub(super) fn on_null(&self) -> Option<bool> {
        match self {
            Self::IsNull | Self::Distinct(..) | Self::Json(JsonTest::Distinct, ..) => Some(true),
            Self::IsBool(wanted) => Some(wanted.is_none()),
            Self::OneOf(_, keys, false) if keys.is_empty() => Some(false),
            Self::Ask(compare) if compare.form == Form::Distinct => Some(true),
            Self::Ask(compare) if compare.form == Form::Array && &*compare.literal == "{}" => Some(false),
            Self::Equal(..)
            | Self::Order(..)
            | Self::OneOf(..)
            | Self::Like(..)
            | Self::Ilike(..)
            | Self::Match(..)
            | Self::Json(..)
            | Self::Elements(..)
            | Self::Ask(..) => None,
        }
    }

    /// What a text is that was taken from a column.
    pub(super) fn on_text(&self, text: &Bytes, column: usize, row: &Row<'_>) -> Answer {
        let ask =
            |compare: &Arc<Compare>| Answer::Ask(Part { compare: Arc::clone(compare), value: text.clone() });
        let or_ask = |holds: Option<bool>, compare: &Arc<Compare>| match holds {
            Some(holds) => Answer::Known(Truth::known(Some(holds))),
            None => ask(compare),
        };
        Answer::Known(Truth::known(match self {
            Self::IsNull => Some(false),
            Self::IsBool(wanted) => Some(*wanted == Some(&text[..] == b"t")),
            Self::Equal(family, key) => family.key(text).map(|value| *value == **key),
            Self::Distinct(family, key) => family.key(text).map(|value| *value != **key),
            Self::Order(family, literal, orders) => {
                family.compare(text, literal).map(|order| orders.contains(&order))
            }
            Self::OneOf(keying, keys, null) => match keying.key(text) {
                Some(value) if keys.contains(&*value) => Some(true),
                // A document is equal to no scalar.
                None if *keying != Keying::Json => None,
                _ if !null => Some(false),
                _ => None,
            },
            Self::Like(..) | Self::Ilike(..) | Self::Match(..) if !row.may_look_through(text) => {
                return self.question().map_or(Answer::Known(Truth::NULL), ask);
            }
            Self::Like(pattern, _) => std::str::from_utf8(text).ok().map(|text| pattern.matches(text)),
            Self::Ilike(pattern, question) => match std::str::from_utf8(text) {
                Ok(text) if text.is_ascii() => Some(pattern.matches(&text.to_ascii_lowercase())),
                _ => return ask(question),
            },
            Self::Match(pattern, question) => {
                let holds = std::str::from_utf8(text).ok().and_then(|text| pattern.matches(text));
                return or_ask(holds, question);
            }
            Self::Json(test, literal, question) => return or_ask(test.holds(text, literal), question),
            Self::Elements(family, how, wanted, question) => {
                let elements = row.elements(column, *family, text);
                return or_ask(elements.map(|elements| elements.holds(*how, wanted)), question);
            }
            Self::Ask(question) => return ask(question),
        }))
    }

    const fn question(&self) -> Option<&Arc<Compare>> {
        match self {
            Self::Like(_, question)
            | Self::Ilike(_, question)
            | Self::Match(_, question)
            | Self::Json(_, _, question)
            | Self::Elements(_, _, _, question)
            | Self::Ask(question) => Some(question),
            _ => None,
        }
    }
}

const fn containment(operator: Operator) -> Option<Containment> {
    match operator {
        Operator::Cs => Some(Containment::Contains),
        Operator::Cd => Some(Containment::ContainedBy),
        Operator::Ov => Some(Containment::Overlaps),
        _ => None,
    }
}

impl JsonTest {
    /// `None` if the database has to be asked.
    fn holds(self, text: &[u8], literal: &[u8]) -> Option<bool> {
        match self {
            Self::Equal => jsonb::equal(text, literal),
            Self::NotEqual | Self::Distinct => jsonb::equal(text, literal).map(|equal| !equal),
            Self::Order { orders, collation_is_c } => {
                jsonb::compare(text, literal, collation_is_c).map(|order| orders.contains(&order))
            }
        }
    }
}
