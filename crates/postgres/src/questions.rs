//! Conditions that only the database can evaluate, asked in one query for a row change.

use std::{borrow::Cow, time::Duration};

use deadpool_postgres::Pool;
use realtime_changes::{Form, Question};
use rustc_hash::FxHashMap;
use tokio_postgres::{error::SqlState, types::ToSql};

use crate::foreign::{self, NoAnswer};

/// How long the filters of a subscription, or of several that are asked together, may take for a row. A filter that takes
/// longer is not asked in the stream.
pub(crate) const LIMIT: Duration = Duration::from_millis(50);

/// Most questions of one query: each takes up to two parameters, of which the protocol allows 65,535.
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
    for batch in questions.chunks(BATCH) {
        answers.extend(ask_batch(pool, role, batch).await?);
    }
    Ok(answers)
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
    Ok(questions.iter().zip(answers).map(|(question, answer)| question.holds(answer)).collect())
}

/// The query for some questions. A text that several ask about, a value of the row or a literal, goes with it once.
struct Texts<'a> {
    sql: String,
    texts: Vec<Cow<'a, str>>,
}

impl<'a> Texts<'a> {
    fn of(questions: &[&'a Question]) -> Self {
        let mut texts = Vec::new();
        // Values share the memory of their row.
        let mut places: FxHashMap<(*const u8, usize), usize> = FxHashMap::default();
        let mut place = |bytes: &'a [u8]| {
            *places.entry((bytes.as_ptr(), bytes.len())).or_insert_with(|| {
                texts.push(String::from_utf8_lossy(bytes));
                texts.len()
            })
        };
        let mut sql = String::from("select array[");
        for (at, question) in questions.iter().enumerate() {
            let ask = &*question.ask;
            let (t, op) = (&ask.type_name, &ask.operator);
            let (value, literal) = (place(&question.value), place(ask.literal.as_bytes()));
            let separator = if at > 0 { "," } else { "" };
            let value = format!("${value}::pg_catalog.text::{t}");
            let literal = format!("${literal}::pg_catalog.text::{t}");
            sql.push_str(&match ask.form {
                Form::Scalar | Form::Regex => format!("{separator}({value} {op} {literal})"),
                Form::Array => format!("{separator}({value} {op} any ({literal}[]))"),
                Form::Distinct => format!("{separator}(({value} {op} {literal}) is not true)"),
            });
        }
        sql.push_str("]::pg_catalog.bool[]");
        Self { sql, texts }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use realtime_changes::Ask;

    use super::*;

    #[test]
    fn a_value_goes_with_a_query_once() {
        let value = Bytes::from_static(b"a long text");
        let ask = |literal: &str| Question {
            ask: Arc::new(Ask {
                type_name: "pg_catalog.text".into(),
                operator: "operator(pg_catalog.~)".into(),
                form: Form::Regex,
                literal: literal.into(),
                runs_code: false,
            }),
            value: value.clone(),
            negate: false,
        };
        let (a, b) = (ask("a"), ask("b"));
        let texts = Texts::of(&[&a, &b]);
        assert_eq!(texts.texts, ["a long text", "a", "b"]);
        assert!(texts.sql.contains("($1::pg_catalog.text::pg_catalog.text operator(pg_catalog.~) $3"));
    }
}
