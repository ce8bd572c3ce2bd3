//! Conditions that only the database can evaluate, asked in one query for a row change.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use deadpool_postgres::Pool;
use realtime_changes::{Form, Part, Question, Tree, Truth};
use rustc_hash::FxHashMap;
use tokio_postgres::{error::SqlState, types::ToSql};

use crate::foreign::{self, NoAnswer};

/// How long the filters of a subscription, or of several that are asked together, may take for a row. A filter that takes
/// longer is not asked in the stream.
pub(crate) const LIMIT: Duration = Duration::from_millis(50);

/// Most comparisons of one query: each takes up to two parameters, of which the protocol allows 65,535. A question with
/// more of them is asked alone.
pub(crate) const BATCH: usize = 1000;

/// Answers to questions about a row, in their order: whether the conditions hold. `role`: whose code may run.
///
/// # Errors
/// When one of them cannot be evaluated, or they take too long together.
pub(crate) async fn ask(
    pool: &Pool,
    role: Option<&str>,
    questions: &[&Question],
) -> Result<Vec<bool>, NoAnswer> {
    let mut answers = Vec::with_capacity(questions.len());
    let mut rest = questions;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch(rest));
        answers.extend(ask_batch(pool, role, batch).await?);
        rest = later;
    }
    Ok(answers)
}

/// How many questions go into one query: one at least.
fn batch(questions: &[&Question]) -> usize {
    let mut size = 0;
    let fits = |question: &&&Question| {
        size += question.size();
        size <= BATCH
    };
    questions.iter().take_while(fits).count().max(1).min(questions.len())
}

/// Whether an error is the fault of what was asked. Else the question is put again: the server is going down, or out of
/// something.
pub(crate) fn is_about_the_question(error: &NoAnswer) -> bool {
    let class = |code: &SqlState| code.code().get(..2).unwrap_or_default().to_owned();
    error.code().is_some_and(|code| {
        *code == SqlState::QUERY_CANCELED || !matches!(&*class(code), "08" | "53" | "57" | "58")
    })
}

async fn ask_batch(pool: &Pool, role: Option<&str>, questions: &[&Question]) -> Result<Vec<bool>, NoAnswer> {
    let texts = Texts::of(questions);
    let parameters: Vec<&(dyn ToSql + Sync)> = texts.texts.iter().map(|text| text as _).collect();
    let rows = foreign::ask(pool, role, LIMIT, &texts.sql, &parameters).await?;
    let answers: Vec<Option<bool>> = match rows.first() {
        Some(row) => row.try_get(0)?,
        None => Vec::new(),
    };
    // NULL does not hold.
    Ok(answers.into_iter().map(|answer| answer == Some(true)).collect())
}

/// The query for some questions. A text that several ask about, a value of the row or a literal, goes with it once.
struct Texts<'a> {
    sql: String,
    texts: Vec<Cow<'a, str>>,
}

impl<'a> Texts<'a> {
    fn of(questions: &[&'a Question]) -> Self {
        let mut query =
            Query { texts: Vec::new(), places: FxHashMap::default(), sql: "select array[".to_owned() };
        for (at, question) in questions.iter().enumerate() {
            if at > 0 {
                query.sql.push(',');
            }
            query.condition(&question.ask.parts);
        }
        query.sql.push_str("]::pg_catalog.bool[]");
        Self { sql: query.sql, texts: query.texts }
    }
}

/// Writes a query.
struct Query<'a> {
    sql: String,
    texts: Vec<Cow<'a, str>>,
    /// Values share the memory of their row.
    places: FxHashMap<(*const u8, usize), usize>,
}

impl<'a> Query<'a> {
    /// The place of a text among the parameters.
    fn place(&mut self, bytes: &'a [u8]) -> usize {
        let texts = &mut self.texts;
        *self.places.entry((bytes.as_ptr(), bytes.len())).or_insert_with(|| {
            texts.push(String::from_utf8_lossy(bytes));
            texts.len()
        })
    }

    /// The nesting of filters is bounded.
    fn condition(&mut self, tree: &'a Tree<Part>) {
        match tree {
            Tree::Leaf(part) => self.comparison(part),
            Tree::Known(truth) if *truth == Truth::TRUE => self.sql.push_str("true"),
            Tree::Known(truth) if *truth == Truth::FALSE => self.sql.push_str("false"),
            Tree::Known(_) => self.sql.push_str("null::pg_catalog.bool"),
            Tree::And(parts) => self.joined(parts, " and ", "true"),
            Tree::Or(parts) => self.joined(parts, " or ", "false"),
            Tree::Not(inner) => {
                self.sql.push_str("(not ");
                self.condition(inner);
                self.sql.push(')');
            }
            Tree::Is(inner, value) => {
                self.sql.push('(');
                self.condition(inner);
                self.sql.push_str(match *value {
                    Truth::TRUE => " is true)",
                    Truth::FALSE => " is false)",
                    _ => " is unknown)",
                });
            }
        }
    }

    fn joined(&mut self, parts: &'a [Tree<Part>], between: &str, none: &str) {
        self.sql.push('(');
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                self.sql.push_str(between);
            }
            self.condition(part);
        }
        self.sql.push_str(if parts.is_empty() { none } else { "" });
        self.sql.push(')');
    }

    fn comparison(&mut self, part: &'a Part) {
        let compare = &*part.compare;
        let (t, op) = (&compare.type_name, &compare.operator);
        let (value, literal) = (self.place(&part.value), self.place(compare.literal.as_bytes()));
        let value = format!("${value}::pg_catalog.text::{t}");
        let literal = format!("${literal}::pg_catalog.text::{t}");
        // Writing to a string does not fail.
        let _ = match compare.form {
            Form::Scalar | Form::Regex => write!(self.sql, "({value} {op} {literal})"),
            Form::Array => write!(self.sql, "({value} {op} any ({literal}[]))"),
            Form::Distinct => write!(self.sql, "(({value} {op} {literal}) is not true)"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use realtime_changes::{Ask, Compare};

    use super::*;

    fn part(literal: &str, value: &Bytes) -> Tree<Part> {
        let compare = Compare {
            type_name: "pg_catalog.text".into(),
            operator: "operator(pg_catalog.~)".into(),
            form: Form::Regex,
            literal: literal.into(),
            runs_code: false,
        };
        Tree::Leaf(Part { compare: Arc::new(compare), value: value.clone() })
    }

    fn question(parts: Tree<Part>) -> Question {
        Question { ask: Ask { parts, runs_code: false } }
    }

    #[test]
    fn a_value_goes_with_a_query_once() {
        let value = Bytes::from_static(b"a long text");
        let (a, b) = (question(part("a", &value)), question(part("b", &value)));
        let texts = Texts::of(&[&a, &b]);
        assert_eq!(texts.texts, ["a long text", "a", "b"]);
        assert!(texts.sql.contains("($1::pg_catalog.text::pg_catalog.text operator(pg_catalog.~) $3"));
    }

    #[test]
    fn groups_are_asked_as_they_are_joined() {
        let value = Bytes::from_static(b"v");
        let known = Tree::Known(Truth::NULL);
        let or = Tree::Or(vec![part("a", &value), Tree::And(vec![known, part("b", &value).not()])]);
        let question = question(or);
        let sql = Texts::of(&[&question]).sql;
        let compare = |at| {
            format!(
                "($1::pg_catalog.text::pg_catalog.text operator(pg_catalog.~) ${at}::pg_catalog.text::pg_catalog.text)"
            )
        };
        let expected = format!(
            "select array[({} or (null::pg_catalog.bool and (not {})))]::pg_catalog.bool[]",
            compare(2),
            compare(3)
        );
        assert_eq!(sql, expected);
    }

    #[test]
    fn a_query_has_a_bounded_number_of_comparisons() {
        let value = Bytes::from_static(b"v");
        let large = question(Tree::Or((0..100).map(|n| part(&n.to_string(), &value)).collect()));
        let questions: Vec<&Question> = vec![&large; 25];
        assert_eq!(batch(&questions), 10);
        assert_eq!(batch(questions.get(20..).unwrap_or_default()), 5);
        let huge = question(Tree::Or((0..BATCH + 1).map(|n| part(&n.to_string(), &value)).collect()));
        assert_eq!(batch(&[&huge, &large]), 1);
    }
}
