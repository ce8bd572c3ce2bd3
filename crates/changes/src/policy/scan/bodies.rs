//! The bodies of functions: what they read.

use sqlparser::ast::Statement;

use super::{Frame, Scanner, plpgsql};
use crate::policy::{Why, catalog::Function, parse};

impl<'c> Scanner<'c> {
    /// Looks into a function. An error means that the body is not understood, or does more than read.
    pub(super) fn read_body(&mut self, function: &'c Function) -> Result<(), Why> {
        let statements = match &*function.language {
            "sql" => queries(&function.body),
            "plpgsql" => plpgsql::queries(&function.body).and_then(|all| parsed(&all)),
            // A function in C that says it is immutable is one of an extension.
            "c" | "internal" if function.volatility == crate::policy::Volatility::Immutable => return Ok(()),
            _ => None,
        };
        let statements = statements.ok_or_else(|| Why::not_understood("its body"))?;
        self.all_queries(&statements, "its body")
    }

    /// Looks at what stands for arguments that are not given.
    pub(super) fn read_defaults(&mut self, function: &'c Function) -> Result<(), Why> {
        if function.defaults == 0 {
            return Ok(());
        }
        let statements = parse::statements(&format!("select {}", function.default_values));
        let statements = statements.ok_or_else(|| Why::not_understood("its arguments"))?;
        self.all_queries(&statements, "its arguments")
    }

    /// Looks at queries that are planned by themselves.
    fn all_queries(&mut self, statements: &[Statement], what: &str) -> Result<(), Why> {
        let within = std::mem::take(&mut self.within);
        let found = self.elsewhere(|scanner| {
            scanner.frames.push(Frame::default());
            for statement in statements {
                let Statement::Query(query) = statement else { return Err(Why::not_understood(what)) };
                scanner.query(query)?;
            }
            Ok(())
        });
        self.within = within;
        found
    }

    /// Looks at something that is not the policy's own text: its columns are none of the row, its collations none of
    /// the comparison.
    pub(super) fn elsewhere(&mut self, look: impl FnOnce(&mut Self) -> Result<(), Why>) -> Result<(), Why> {
        let own = self.own.take();
        let frames = std::mem::take(&mut self.frames);
        let loose = self.facts.loose;
        let found = look(self);
        self.facts.loose = loose;
        self.frames = frames;
        self.own = own;
        found
    }
}

/// The statements of a body in SQL. What `pg_get_function_sqlbody` prints is one of two forms.
pub(super) fn queries(body: &str) -> Option<Vec<Statement>> {
    let body = body.trim();
    if let Some(value) = without_word(body, "return") {
        return parse::statements(&format!("select {value}"));
    }
    let block = without_word(body, "begin").and_then(|block| without_word(block, "atomic"));
    match block {
        Some(block) => parse::statements(without_last_word(block.trim_end_matches(';'), "end")?),
        None => parse::statements(body),
    }
}

/// The statements of some texts that have one each.
fn parsed(texts: &[String]) -> Option<Vec<Statement>> {
    let one = |text: &String| match parse::statements(text)?.as_mut_slice() {
        [statement] => Some(statement.clone()),
        _ => None,
    };
    texts.iter().map(one).collect()
}

/// The text behind a word that it begins with.
fn without_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let head = text.get(..word.len())?;
    let rest = text.get(word.len()..)?;
    let ends = rest.chars().next().is_none_or(|next| !next.is_alphanumeric() && next != '_');
    (head.eq_ignore_ascii_case(word) && ends).then(|| rest.trim_start())
}

/// The text before a word that it ends with.
fn without_last_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let text = text.trim_end();
    let at = text.len().checked_sub(word.len())?;
    let (rest, tail) = (text.get(..at)?, text.get(at..)?);
    let begins = rest.chars().next_back().is_none_or(|last| last == ';' || last.is_whitespace());
    (tail.eq_ignore_ascii_case(word) && begins).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_bodies_are_read() {
        let is_query = |found: Option<Vec<Statement>>| {
            found.is_some_and(|all| {
                !all.is_empty() && all.iter().all(|one| matches!(one, Statement::Query(_)))
            })
        };
        for body in ["select 1", " select 1; ", "RETURN true", "BEGIN ATOMIC\n SELECT 1;\nEND"] {
            assert!(is_query(queries(body)), "{body}");
        }
        for body in ["delete from t", "", "select 1; drop table t"] {
            assert!(!is_query(queries(body)), "{body}");
        }
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(is_query(parsed(&texts(&["select true", "select a from t where b"]))));
        assert!(!is_query(parsed(&texts(&["select true; select false"]))));
        assert!(!is_query(parsed(&texts(&["delete from t"]))));
    }
}
