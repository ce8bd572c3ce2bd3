//! Conditions that only the database can evaluate, asked in one query for a row change.

use realtime_changes::Question;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

/// Most questions of one query: each takes two parameters, of which the protocol allows 65,535.
const BATCH: usize = 1000;

/// Answers to questions, in their order: whether the condition holds, or why it cannot be evaluated.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn ask(
    client: &Client,
    questions: &[&Question],
) -> Result<Vec<Result<bool, tokio_postgres::Error>>, tokio_postgres::Error> {
    let mut answers = Vec::with_capacity(questions.len());
    for batch in questions.chunks(BATCH) {
        match ask_batch(client, batch).await {
            Ok(batch) => answers.extend(batch.into_iter().map(Ok)),
            Err(error) if error.as_db_error().is_none() => return Err(error),
            // One of them fails for all: alone each fails for itself.
            Err(_) => {
                for question in batch {
                    match ask_batch(client, &[question]).await {
                        Err(error) if error.as_db_error().is_none() => return Err(error),
                        answer => answers.push(answer.map(|answers| answers.contains(&true))),
                    }
                }
            }
        }
    }
    Ok(answers)
}

async fn ask_batch(client: &Client, questions: &[&Question]) -> Result<Vec<bool>, tokio_postgres::Error> {
    let texts: Vec<(String, &str)> = questions
        .iter()
        .map(|question| (String::from_utf8_lossy(&question.value).into_owned(), &*question.literal))
        .collect();
    let mut sql = String::from("select array[");
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(texts.len() * 2);
    for (i, (question, (value, literal))) in questions.iter().zip(&texts).enumerate() {
        let (t, op) = (&question.cast_type, question.operator);
        let (left, right) = (2 * i + 1, 2 * i + 2);
        let separator = if i > 0 { "," } else { "" };
        let literal_of =
            if op == "= ANY" { format!("(${right}::text::{t}[])") } else { format!("${right}::text::{t}") };
        sql.push_str(&format!("{separator}(${left}::text::{t} {op} {literal_of})"));
        parameters.push((value, Type::TEXT));
        parameters.push((literal, Type::TEXT));
    }
    sql.push_str("]::boolean[]");
    let rows = client.query_typed(&sql, &parameters).await?;
    let answers: Vec<Option<bool>> = match rows.first() {
        Some(row) => row.try_get(0)?,
        None => Vec::new(),
    };
    Ok(questions.iter().zip(answers).map(|(question, answer)| question.holds(answer)).collect())
}
