//! Compiled filters and their evaluation, in SQL's three-valued logic (postgres_changes 1.6).

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use bytes::Bytes;
use realtime_pgoutput::{Element, parse_array};

use crate::{
    catalog::Comparison,
    cell::Cell,
    filter::{Filter, Operator},
    like::Pattern,
    pattern,
    value::Family,
};

/// How an operator stands between a value and a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `value operator literal`.
    Scalar,
    /// The literal is an array: `value operator any (literal)`.
    Array,
    /// The literal is a regular expression.
    Regex,
    /// The operator is the equality whose opposite is meant; NULL is a value like others.
    Distinct,
}

/// A condition whose literal the database has not seen yet.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) column: usize,
    pub(crate) filter: Filter,
    pub(crate) cast_type: Box<str>,
    pub(crate) base_oid: u32,
    pub(crate) comparison: Comparison,
    /// The SQL operator with its schema, and how it is used. `None` for `is`.
    pub(crate) sql: Option<(Box<str>, Form)>,
    /// The literal is known to be in canonical form: the database need not be asked.
    pub(crate) settled: bool,
}

/// What the database is asked about values of rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask {
    /// Type to cast both sides to, quoted.
    pub type_name: Box<str>,
    /// SQL operator with its schema.
    pub operator: Box<str>,
    /// How it is used.
    pub form: Form,
    /// The filter's literal.
    pub literal: Box<str>,
    /// Whether the casts can run code of an application.
    pub runs_code: bool,
}

/// Something only the database can answer: whether a row's value is to a literal as a filter wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub ask: Arc<Ask>,
    /// The row's value. It shares the memory of the row.
    pub value: Bytes,
    /// Whether the answer has to be negated.
    pub negate: bool,
}

impl Question {
    /// Whether an answer of the database (`None` for NULL) means that the condition holds.
    #[must_use]
    pub fn holds(&self, answer: Option<bool>) -> bool {
        answer.is_some_and(|answer| answer != self.negate)
    }
}

/// All conditions of one subscription on one table.
#[derive(Debug, Clone, Default)]
pub struct Predicate {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Condition {
    column: usize,
    test: Test,
    negate: bool,
}

#[derive(Debug, Clone)]
enum Test {
    IsNull,
    /// IS TRUE, FALSE, or UNKNOWN (`None`).
    IsBool(Option<bool>),
    Equal(Family, Vec<u8>),
    Distinct(Family, Vec<u8>),
    /// Holds if the row's value compares like one of these to the literal.
    Order(Family, Vec<u8>, &'static [Ordering]),
    /// `in`: keys, and whether NULL is among the elements.
    OneOf(Family, HashSet<Vec<u8>>, bool),
    Like(Arc<Pattern>),
    /// Both sides are compared in lower case while they are ASCII.
    Ilike(Arc<Pattern>, Arc<Ask>),
    /// A regular expression that is evaluated here, but on long texts.
    Match(Arc<pattern::Pattern>, Arc<Ask>),
    Ask(Arc<Ask>),
}

/// Outcome of a condition.
enum Truth {
    Known(Option<bool>),
    Ask(Question),
}

/// Outcome of a predicate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Holds,
    Fails,
    /// Holds if all of these do.
    Depends(Vec<Question>),
}

/// A condition that the hash index can serve: any of these keys in this column.
pub(crate) struct IndexKeys<'a> {
    pub(crate) column: usize,
    pub(crate) family: Family,
    pub(crate) keys: Vec<&'a [u8]>,
}

impl Planned {
    /// The condition, with its literal in canonical form.
    pub(crate) fn compile(&self, literal: &str, collation_is_c: bool) -> CompiledCondition {
        let test = self.native(literal, collation_is_c).unwrap_or_else(|| Test::Ask(self.ask(literal)));
        // NULL stays NULL when negated, so "not equal" is the negation of "equal".
        let opposite = self.filter.operator == Operator::Neq && matches!(test, Test::Equal(..));
        CompiledCondition(Condition { column: self.column, test, negate: self.filter.negate != opposite })
    }

    fn ask(&self, literal: &str) -> Arc<Ask> {
        let (operator, form) = self.sql.clone().unwrap_or_else(|| (Box::default(), Form::Scalar));
        Arc::new(Ask {
            type_name: self.comparison.type_name.clone(),
            operator,
            form,
            literal: literal.into(),
            runs_code: self.comparison.runs_code,
        })
    }

    /// The test, if it can be made without the database.
    fn native(&self, literal: &str, collation_is_c: bool) -> Option<Test> {
        use Ordering::{Equal, Greater, Less};
        let operator = self.filter.operator;
        if operator == Operator::Is {
            return Some(match literal {
                "null" => Test::IsNull,
                "true" => Test::IsBool(Some(true)),
                "false" => Test::IsBool(Some(false)),
                _ => Test::IsBool(None),
            });
        }
        let family = Family::of(self.base_oid)?;
        // A cast to text spells booleans out; a row has them as the output function writes them.
        let literal = match (family, literal) {
            (Family::Bool, "true") => "t",
            (Family::Bool, "false") => "f",
            _ => literal,
        };
        let key = || family.key(literal.as_bytes()).map(std::borrow::Cow::into_owned);
        let order = |orders| {
            family
                .is_ordered(collation_is_c)
                .then(|| Test::Order(family, literal.as_bytes().to_vec(), orders))
        };
        match operator {
            Operator::Eq | Operator::Neq => Some(Test::Equal(family, key()?)),
            Operator::IsDistinct => Some(Test::Distinct(family, key()?)),
            Operator::Lt => order(&[Less]),
            Operator::Lte => order(&[Less, Equal]),
            Operator::Gt => order(&[Greater]),
            Operator::Gte => order(&[Greater, Equal]),
            Operator::In => {
                let (mut keys, mut null) = (HashSet::new(), false);
                for element in parse_array(literal.as_bytes(), b',')? {
                    match element {
                        Element::Null => null = true,
                        Element::Value(value) => {
                            keys.insert(family.key(&value)?.into_owned());
                        }
                        Element::Array(_) => return None,
                    }
                }
                Some(Test::OneOf(family, keys, null))
            }
            Operator::Like if family == Family::Text => Some(Test::Like(Arc::new(Pattern::new(literal)?))),
            Operator::Ilike if family == Family::Text && literal.is_ascii() => {
                let pattern = Pattern::new(&literal.to_ascii_lowercase())?;
                Some(Test::Ilike(Arc::new(pattern), self.ask(literal)))
            }
            Operator::Match if self.base_oid == TEXT => {
                let pattern = pattern::Pattern::new(literal)?;
                Some(Test::Match(Arc::new(pattern), self.ask(literal)))
            }
            _ => None,
        }
    }
}

/// The type `text`.
const TEXT: u32 = 25;

/// A compiled condition, opaque outside of this module.
pub(crate) struct CompiledCondition(Condition);

impl Predicate {
    /// All conditions must hold.
    pub(crate) fn new(conditions: impl IntoIterator<Item = CompiledCondition>) -> Self {
        Self { conditions: conditions.into_iter().map(|condition| condition.0).collect() }
    }

    /// The cheapest way to find the predicate from a row's values, if there is one.
    pub(crate) fn index_keys(&self) -> Option<IndexKeys<'_>> {
        self.conditions.iter().filter(|condition| !condition.negate).find_map(|condition| {
            let column = condition.column;
            match &condition.test {
                Test::Equal(family, key) => Some(IndexKeys { column, family: *family, keys: vec![key] }),
                Test::OneOf(family, keys, _) => Some(IndexKeys {
                    column,
                    family: *family,
                    keys: keys.iter().map(Vec::as_slice).collect(),
                }),
                _ => None,
            }
        })
    }

    /// Evaluates the conditions on a row. A column that the change does not carry makes the whole filter fail.
    pub(crate) fn evaluate<'a>(&self, cell: impl Fn(usize) -> Cell<'a>) -> Outcome {
        let mut questions = Vec::new();
        for condition in &self.conditions {
            let truth = match cell(condition.column) {
                Cell::Missing => return Outcome::Fails,
                Cell::Null => Truth::Known(condition.test.on_null()),
                Cell::Text(text) => condition.test.on_text(text, condition.negate),
            };
            match truth {
                Truth::Known(Some(holds)) if holds != condition.negate => {}
                Truth::Known(_) => return Outcome::Fails,
                Truth::Ask(question) => questions.push(question),
            }
        }
        if questions.is_empty() { Outcome::Holds } else { Outcome::Depends(questions) }
    }
}

impl Test {
    /// The matrix of 1.6 for a NULL in the row. NULL stays NULL however it is negated.
    fn on_null(&self) -> Option<bool> {
        match self {
            Self::IsNull => Some(true),
            Self::IsBool(wanted) => Some(wanted.is_none()),
            Self::Distinct(..) => Some(true),
            Self::Ask(ask) if ask.form == Form::Distinct => Some(true),
            Self::Equal(..)
            | Self::Order(..)
            | Self::OneOf(..)
            | Self::Like(_)
            | Self::Ilike(..)
            | Self::Match(..)
            | Self::Ask(..) => None,
        }
    }

    fn on_text(&self, text: &Bytes, negate: bool) -> Truth {
        let ask = |ask: &Arc<Ask>| Truth::Ask(Question { ask: Arc::clone(ask), value: text.clone(), negate });
        Truth::Known(match self {
            Self::IsNull => Some(false),
            Self::IsBool(wanted) => Some(*wanted == Some(&text[..] == b"t")),
            Self::Equal(family, key) => family.key(text).map(|value| *value == **key),
            Self::Distinct(family, key) => family.key(text).map(|value| *value != **key),
            Self::Order(family, literal, orders) => {
                family.compare(text, literal).map(|order| orders.contains(&order))
            }
            Self::OneOf(family, keys, null) => match family.key(text) {
                Some(value) if keys.contains(&*value) => Some(true),
                Some(_) if !null => Some(false),
                _ => None,
            },
            Self::Like(pattern) => std::str::from_utf8(text).ok().map(|text| pattern.matches(text)),
            Self::Ilike(pattern, question) => match std::str::from_utf8(text) {
                Ok(text) if text.is_ascii() => Some(pattern.matches(&text.to_ascii_lowercase())),
                _ => return ask(question),
            },
            Self::Match(pattern, question) => {
                match std::str::from_utf8(text).ok().and_then(|text| pattern.matches(text)) {
                    Some(holds) => Some(holds),
                    None => return ask(question),
                }
            }
            Self::Ask(question) => return ask(question),
        })
    }
}
