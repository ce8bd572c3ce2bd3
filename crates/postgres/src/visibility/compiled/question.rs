//! The block of SQL that asks for the values of parties.

use crate::quote::quoted;

/// Rows of one answer at most. More are not kept: rows that they decide are asked about.
pub(super) const MAX_ROWS: usize = 100_000;

/// What stands in place of an answer that failed.
pub(super) const FAILED: &str = "!";

/// What stands in place of an answer that has too many rows.
pub(super) const TOO_LARGE: &str = "+";

/// What stands in place of the answers of a party that has taken most of the time, when that was over.
pub(super) const SLOW: &str = "slow";

/// What stands in place of the answers of a party that was being asked when the time was over.
pub(super) const LATE: &str = "late";

/// What stands in place of the answers of a party that has met a lock.
pub(super) const LOCKED: &str = "locked";

/// The block that runs some queries for every party of the setting `realtime.check` and leaves the answers in
/// `realtime.verdicts`: by party, by query, a JSON array of rows. All columns are texts. The session has taken on the
/// role of the parties.
///
/// Each party is asked in a subtransaction that ends with an error: nothing of one party is there for the next. Each
/// query is in one of its own, so that one that raises fails no other. `shares_plans`: a query is planned once for all
/// parties, not for each.
///
/// When the time is over, or a party meets a lock, nobody more is asked, and a text stands in place of the answers of the
/// party that was being asked. A time limit stops a statement once: so it is also looked whether somebody has caught that and
/// gone on.
pub(super) fn question(queries: &[(&str, usize)], shares_plans: bool) -> String {
    let asked: String = queries.iter().map(|(query, width)| one(query, *width, shares_plans)).collect();
    // Long because it is one text.
    let body = format!(
        "
#variable_conflict use_column
declare
    parties pg_catalog.jsonb := pg_catalog.current_setting('realtime.check')::pg_catalog.jsonb;
    party pg_catalog.jsonb;
    answer pg_catalog.jsonb;
    answers pg_catalog.jsonb;
    everything pg_catalog.jsonb[] := '{{}}';
    patience pg_catalog.interval := pg_catalog.current_setting('statement_timeout')::pg_catalog.interval;
    begun pg_catalog.timestamptz;
    present pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    is_done pg_catalog.bool;
    is_over pg_catalog.bool := false;
    is_locked pg_catalog.bool := false;
    ignored pg_catalog.text;
begin
    ignored := pg_catalog.set_config('realtime.check', '', true);
    for at in 0 .. pg_catalog.jsonb_array_length(parties) operator(pg_catalog.-) 1 loop
        party := parties operator(pg_catalog.->) at;
        is_done := false;
        answers := '[]';
        begun := present;
        begin
            ignored := pg_catalog.set_config('request.jwt.claims', party operator(pg_catalog.->>) 'claims', true);
            ignored := pg_catalog.set_config('request.jwt.claim.sub', party operator(pg_catalog.->>) 'sub', true);
            ignored := pg_catalog.set_config('request.jwt.claim.role', party operator(pg_catalog.->>) 'role', true);
            ignored := pg_catalog.set_config('realtime.rows', party operator(pg_catalog.->>) 'rows', true);{asked}
            is_done := true;
            raise exception 'undo';
        exception
            when lock_not_available then
                is_locked := true;
            when query_canceled then
                is_over := true;
            when assert_failure or others then
                if not is_done then
                    answers := null;
                end if;
        end;
        present := pg_catalog.clock_timestamp();
        if is_over or patience operator(pg_catalog.>) '0' and present operator(pg_catalog.>=)
            (pg_catalog.statement_timestamp() operator(pg_catalog.+) patience) then
            is_over := true;
            answers := pg_catalog.to_jsonb(case
                when (present operator(pg_catalog.-) begun) operator(pg_catalog.>=)
                    (patience operator(pg_catalog./) 2::pg_catalog.float8) then '{SLOW}'::pg_catalog.text
                else '{LATE}' end);
        elsif is_locked then
            answers := pg_catalog.to_jsonb('{LOCKED}'::pg_catalog.text);
        end if;
        everything := pg_catalog.array_append(everything, answers);
        exit when is_over or is_locked;
    end loop;
    ignored := pg_catalog.set_config('realtime.verdicts', pg_catalog.to_jsonb(everything)::pg_catalog.text, true);
end
"
    );
    // Anyone can choose names; none may end the quotation.
    let mut tag = String::from("$realtime$");
    while body.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("do {tag}{body}{tag}")
}

/// A value of a row in a query, with what it is cast to and called. `None` if it is no text.
pub(crate) fn literal(value: Option<&[u8]>, cast: &str) -> Option<String> {
    let Some(value) = value else { return Some(format!("null{cast}")) };
    Some(format!("{}{cast}", text(std::str::from_utf8(value).ok()?)))
}

/// A text as a constant, whatever `standard_conforming_strings` says.
pub(super) fn text(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// The query for a condition over one row that is called as the table and has these columns.
pub(crate) fn call(condition: &str, columns: &[String], table: &str) -> String {
    format!("select ({condition})::pg_catalog.text from (select {}) as {}", columns.join(", "), quoted(table))
}

/// The column that numbers the rows of [`call_of_many`]. No column of the table may be called so.
pub(crate) const NUMBER: &str = "realtime_number";

/// Several rows, each with these columns, and with their numbers from 0 on.
pub(super) fn numbered(rows: &[Vec<String>]) -> String {
    let row = |(at, columns): (usize, &Vec<String>)| {
        format!("select '{at}'::pg_catalog.text as {NUMBER}, {}", columns.join(", "))
    };
    let rows: Vec<String> = rows.iter().enumerate().map(row).collect();
    rows.join(" union all ")
}

/// The query for a condition over several rows: their numbers, and the answers.
pub(crate) fn call_of_many(condition: &str, rows: &[Vec<String>], table: &str) -> String {
    let (rows, table) = (numbered(rows), quoted(table));
    format!("select {NUMBER}, ({condition})::pg_catalog.text from ({rows}) as {table}")
}

/// The same over those of the rows that the party is asked for.
pub(crate) fn call_of_each(condition: &str, rows: &[Vec<String>], table: &str) -> String {
    format!(
        "{} where {NUMBER} operator(pg_catalog.=)
            any (pg_catalog.current_setting('realtime.rows')::pg_catalog.text[])",
        call_of_many(condition, rows, table)
    )
}

/// One query. Its text is its own: what it is joined with is outside of it.
fn one(query: &str, width: usize, shares_plans: bool) -> String {
    let columns: Vec<String> = (0..width).map(|at| format!("c{at}")).collect();
    let picked: Vec<String> = columns.iter().map(|column| format!("given.{column}")).collect();
    let (columns, picked) = (columns.join(", "), picked.join(", "));
    let select = format!(
        "select case when pg_catalog.count(*) operator(pg_catalog.>) {MAX_ROWS}
                        then pg_catalog.to_jsonb('{TOO_LARGE}'::pg_catalog.text)
                        else coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array({picked})), '[]') end"
    );
    let from = format!(
        "from (select * from ({query}) as given ({columns}) limit {MAX_ROWS} operator(pg_catalog.+) 1) as given"
    );
    // A statement without parameters is planned once, whatever the settings say.
    let asked = match shares_plans {
        true => format!("{select} into answer {from};"),
        false => format!("execute {} into answer;", text(&format!("{select} {from}"))),
    };
    format!(
        "
            begin
                {asked}
            exception
                when lock_not_available then
                    raise;
                when assert_failure or others then
                    answer := pg_catalog.to_jsonb('{FAILED}'::pg_catalog.text);
            end;
            answers := answers operator(pg_catalog.||) pg_catalog.jsonb_build_array(answer);"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_values() {
        let literal = |text: &str| literal(Some(text.as_bytes()), "::text as a").unwrap();
        assert_eq!(literal("it's"), "'it''s'::text as a");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'::text as a");
        assert_eq!(super::literal(None, "::text as a").unwrap(), "null::text as a");
        assert_eq!(super::literal(Some(&[0xff]), "::text as a"), None);
    }

    #[test]
    fn a_query_cannot_end_the_quotation() {
        let text = question(&[("select '$realtime$; drop table x'", 1)], true);
        assert!(text.starts_with("do $_realtime$") && text.ends_with("$_realtime$"));
        assert_eq!(text.matches("$_realtime$").count(), 2);
    }
}
