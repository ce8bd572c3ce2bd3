//! The SQL in a body in PL/pgSQL: which path it takes through its statements does not matter for what it may read.
//!
//! Only statements that are listed here are understood. What may write, what is built from texts as it runs, and what
//! catches errors is not: who catches an error may hide that a lock was held.

mod lexemes;
mod partly;

use lexemes::{Kind, Lexeme, constant, is, is_name, lexemes};
pub(super) use partly::queries_as_far;

/// Deepest nesting of blocks.
const MAX_DEPTH: usize = 40;

/// The queries of a body, in no order; expressions are queries without FROM. `None` if it is not understood.
pub(super) fn queries(body: &str) -> Option<Vec<String>> {
    let lexemes = lexemes(body)?;
    let mut reader = Reader::new(body, &lexemes, How::Wholly);
    reader.label();
    reader.block()?;
    reader.takes(";");
    (reader.at == lexemes.len()).then_some(reader.found)
}

/// The expression of a body that does no more than return it: `begin return …; end`.
pub(super) fn returned(body: &str) -> Option<&str> {
    let lexemes = lexemes(body)?;
    let (first, rest) = lexemes.split_first()?;
    let (second, rest) = rest.split_first()?;
    let end = rest.iter().position(|lexeme| lexeme.kind == Kind::Sign && lexeme.text == ";")?;
    let (value, rest) = rest.split_at_checked(end)?;
    let is_end = match rest {
        [_, end] => is(Some(end), "end"),
        [_, end, last] => is(Some(end), "end") && last.text == ";",
        _ => false,
    };
    if !is(Some(first), "begin") || !is(Some(second), "return") || !is_end {
        return None;
    }
    body.get(value.first()?.start..value.last()?.end)
}

/// How a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// All of it has to be understood, and may not catch errors.
    Wholly,
    /// What is not understood is left out: then it is not whole.
    AsFar { is_whole: bool },
}

struct Reader<'b> {
    body: &'b str,
    lexemes: &'b [Lexeme<'b>],
    at: usize,
    found: Vec<String>,
    depth: usize,
    how: How,
}

impl<'b> Reader<'b> {
    const fn new(body: &'b str, lexemes: &'b [Lexeme<'b>], how: How) -> Self {
        Self { body, lexemes, at: 0, found: Vec::new(), depth: 0, how }
    }

    fn peek(&self) -> Option<&'b Lexeme<'b>> {
        self.lexemes.get(self.at)
    }

    fn is(&self, wanted: &str) -> bool {
        is(self.peek(), wanted)
    }

    fn takes(&mut self, wanted: &str) -> bool {
        let is = self.is(wanted);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, wanted: &str) -> Option<()> {
        self.takes(wanted).then_some(())
    }

    /// What stands up to one of some words or signs, outside of brackets; and which of them it is. They are taken.
    fn up_to(&mut self, ends: &[&'static str]) -> Option<(&'b [Lexeme<'b>], &'static str)> {
        let (begun, mut depth, mut cases) = (self.at, 0usize, 0usize);
        loop {
            let lexeme = self.peek()?;
            if depth == 0
                && cases == 0
                && let Some(end) = ends.iter().find(|end| is(Some(lexeme), end))
            {
                let before = self.lexemes.get(begun..self.at)?;
                self.at += 1;
                return Some((before, *end));
            }
            match (lexeme.kind, lexeme.text) {
                (Kind::Sign, "(" | "[") => depth += 1,
                (Kind::Sign, ")" | "]") => depth = depth.checked_sub(1)?,
                (Kind::Word, word) if word.eq_ignore_ascii_case("case") => cases += 1,
                (Kind::Word, word) if word.eq_ignore_ascii_case("end") => cases = cases.checked_sub(1)?,
                (Kind::Sign, ";") => return None,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn text(&self, lexemes: &[Lexeme<'_>]) -> Option<&'b str> {
        self.body.get(lexemes.first()?.start..lexemes.last()?.end)
    }

    /// An expression is there, or nothing.
    fn expression(&mut self, lexemes: &[Lexeme<'_>]) -> Option<()> {
        if !lexemes.is_empty() {
            let text = self.text(lexemes)?;
            self.found.push(format!("select {text}"));
        }
        Some(())
    }

    fn query(&mut self, lexemes: &[Lexeme<'_>]) -> Option<()> {
        let first = lexemes.iter().find(|lexeme| lexeme.text != "(");
        if !["select", "with", "values"].iter().any(|word| is(first, word)) {
            return if self.is_as_far() && is_name(lexemes) { Some(()) } else { self.leave_out() };
        }
        let text = self.text(lexemes)?.to_owned();
        self.found.push(text);
        Some(())
    }

    /// `<<name>>`
    fn label(&mut self) {
        if self.is("<<") && is(self.lexemes.get(self.at + 2), ">>") {
            self.at += 3;
        }
    }

    /// `[declare …] begin … end`
    fn block(&mut self) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        if self.takes("declare") {
            while !self.is("begin") {
                self.declaration()?;
            }
        }
        self.expect("begin")?;
        if self.is_as_far() {
            self.statements(&["end", "exception"])?;
            if self.takes("exception") {
                self.handlers()?;
            }
        } else {
            self.statements(&["end"])?;
        }
        self.expect("end")?;
        if !self.is(";") && self.peek().is_some() {
            self.at += 1;
        }
        self.depth -= 1;
        Some(())
    }

    /// `name type := expression;`
    fn declaration(&mut self) -> Option<()> {
        let name = self.peek()?;
        if !matches!(name.kind, Kind::Word | Kind::Name) {
            return None;
        }
        if self.is_as_far() && self.declares_other()? {
            return Some(());
        }
        self.at += 1;
        let (kind, end) = self.up_to(&[";", "default", ":=", "="])?;
        let is_other = |lexeme: &Lexeme<'_>| ["cursor", "alias"].iter().any(|word| is(Some(lexeme), word));
        if kind.is_empty() || kind.iter().any(is_other) {
            return None;
        }
        if end != ";" {
            let (value, _) = self.up_to(&[";"])?;
            self.expression(value)?;
        }
        Some(())
    }

    /// Statements up to one of some words, which is not taken.
    fn statements(&mut self, ends: &[&str]) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        while !ends.iter().any(|end| self.is(end)) {
            self.statement()?;
        }
        self.depth -= 1;
        Some(())
    }

    fn statement(&mut self) -> Option<()> {
        self.label();
        let (begun, found) = (self.at, self.found.len());
        self.known_statement().or_else(|| self.skip_from(begun, found))
    }

    fn known_statement(&mut self) -> Option<()> {
        let first = self.peek()?;
        if first.kind == Kind::Name {
            return self.assignment();
        }
        if first.kind != Kind::Word {
            return None;
        }
        let word = first.text.to_ascii_lowercase();
        if self.is_of_few(&word) {
            return self.statement_of_few(&word);
        }
        match word.as_str() {
            "null" => {
                self.at += 1;
                self.expect(";")
            }
            "declare" | "begin" => {
                self.block()?;
                self.expect(";")
            }
            "if" => self.condition(),
            "case" => self.cases(),
            "loop" => {
                self.at += 1;
                self.body()
            }
            "while" => {
                self.at += 1;
                let (condition, _) = self.up_to(&["loop"])?;
                self.expression(condition)?;
                self.body()
            }
            "for" => self.for_each_row(),
            "foreach" => {
                self.up_to(&["in"])?;
                self.expect("array")?;
                let (array, _) = self.up_to(&["loop"])?;
                self.expression(array)?;
                self.body()
            }
            "exit" | "continue" => {
                let (_, end) = self.up_to(&["when", ";"])?;
                if end == "when" {
                    let (condition, _) = self.up_to(&[";"])?;
                    self.expression(condition)?;
                }
                Some(())
            }
            "raise" => {
                let (told, _) = self.up_to(&[";"])?;
                // What is told may be the result of a call.
                let is_plain = |lexeme: &Lexeme<'_>| {
                    lexeme.kind != Kind::Sign || matches!(lexeme.text, "," | "=" | "." | ":=")
                };
                told.iter().all(is_plain).then_some(())
            }
            "return" => self.returned(),
            "perform" => {
                self.at += 1;
                let (query, _) = self.up_to(&[";"])?;
                self.expression(query)
            }
            "select" | "with" | "values" => {
                let (query, _) = self.up_to(&[";"])?;
                self.query_into(query)
            }
            "execute" => self.execute(),
            _ => self.assignment(),
        }
    }

    fn assignment(&mut self) -> Option<()> {
        let (target, _) = self.up_to(&[":=", "="])?;
        // `update t set a = 1` begins like one.
        let is_target = match target {
            [_] => true,
            [_, dot, ..] => matches!(dot.text, "." | "["),
            [] => false,
        };
        let calls = |lexeme: &Lexeme<'_>| lexeme.text == "(";
        if !is_target || target.iter().any(calls) {
            return None;
        }
        let (value, _) = self.up_to(&[";"])?;
        self.expression(value)
    }

    fn condition(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let (condition, _) = self.up_to(&["then"])?;
            self.expression(condition)?;
            self.statements(&["elsif", "elseif", "else", "end"])?;
            if self.takes("elsif") || self.takes("elseif") {
                continue;
            }
            if self.takes("else") {
                self.statements(&["end"])?;
            }
            self.expect("end")?;
            self.expect("if")?;
            return self.expect(";");
        }
    }

    fn cases(&mut self) -> Option<()> {
        self.at += 1;
        let (value, _) = self.up_to(&["when"])?;
        self.expression(value)?;
        loop {
            let (condition, _) = self.up_to(&["then"])?;
            self.expression(condition)?;
            self.statements(&["when", "else", "end"])?;
            if self.takes("when") {
                continue;
            }
            if self.takes("else") {
                self.statements(&["end"])?;
            }
            self.expect("end")?;
            self.expect("case")?;
            return self.expect(";");
        }
    }

    /// What stands between `loop` and `end loop`.
    fn body(&mut self) -> Option<()> {
        self.statements(&["end"])?;
        self.expect("end")?;
        self.expect("loop")?;
        if !self.is(";") {
            self.at += 1;
        }
        self.expect(";")
    }

    /// `for x in query loop`, `for i in 1 .. 3 loop`
    fn for_each_row(&mut self) -> Option<()> {
        self.up_to(&["in"])?;
        self.takes("reverse");
        let (range, _) = self.up_to(&["loop"])?;
        match range.iter().position(|lexeme| lexeme.text == "..") {
            None => self.query(range)?,
            Some(at) => {
                let (first, last) = range.split_at_checked(at)?;
                self.expression(first)?;
                for part in last.get(1..)?.split(|lexeme| is(Some(lexeme), "by")) {
                    self.expression(part)?;
                }
            }
        }
        self.body()
    }

    fn returned(&mut self) -> Option<()> {
        self.at += 1;
        if self.takes("query") {
            let (query, _) = self.up_to(&[";"])?;
            return self.query(query);
        }
        self.takes("next");
        let (value, _) = self.up_to(&[";"])?;
        self.expression(value)
    }

    /// A query whose result goes into variables.
    fn query_into(&mut self, query: &[Lexeme<'_>]) -> Option<()> {
        let mut depth = 0usize;
        let mut into = None;
        for (at, lexeme) in query.iter().enumerate() {
            match lexeme.text {
                "(" | "[" if lexeme.kind == Kind::Sign => depth += 1,
                ")" | "]" if lexeme.kind == Kind::Sign => depth = depth.checked_sub(1)?,
                _ if depth == 0 && is(Some(lexeme), "into") => {
                    into = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let (head, rest) = query.split_at_checked(into?)?;
        let tail = rest.get(targets(rest)..)?;
        let (head, tail) = (self.text(head)?, if tail.is_empty() { "" } else { self.text(tail)? });
        self.found.push(format!("{head} {tail}"));
        Some(())
    }

    /// `execute 'select …' into x using y;`: the text has to be a constant.
    fn execute(&mut self) -> Option<()> {
        self.at += 1;
        let text = constant(self.peek()?)?;
        self.at += 1;
        let (into, end) = self.up_to(&["using", ";"])?;
        if !into.is_empty() && (!is(into.first(), "into") || targets(into) != into.len()) {
            return None;
        }
        self.found.push(text);
        if end == "using" {
            let (values, _) = self.up_to(&[";"])?;
            self.expression(values)?;
        }
        Some(())
    }
}

/// How many lexemes `into [strict] x, y.z` takes.
fn targets(rest: &[Lexeme<'_>]) -> usize {
    let mut at = 1 + usize::from(is(rest.get(1), "strict"));
    loop {
        at += 1;
        while is(rest.get(at), ".") {
            at += 2;
        }
        if !is(rest.get(at), ",") {
            return at;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_only_returns_is_told_from_others() {
        assert_eq!(returned("\n begin -- it\n RETURN exists (select 1); END; "), Some("exists (select 1)"));
        assert_eq!(returned("begin return a; end"), Some("a"));
        for body in [
            "declare a int; begin return a; end",
            "begin a := 1; return a; end",
            "begin return a; return b; end",
            "<<x>> begin return a; end",
            "begin return; end",
            "begin return a; exception when others then return true; end",
        ] {
            assert_eq!(returned(body), None, "{body}");
        }
    }

    fn found(body: &str) -> Option<Vec<String>> {
        queries(body).map(|found| {
            found.iter().map(|query| query.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        })
    }

    #[test]
    fn what_a_body_may_read_is_found() {
        for (body, expected) in [
            ("begin return true; end", &["select true"][..]),
            (
                "\nBEGIN\n  RETURN EXISTS (SELECT 1 FROM t WHERE a = b);\nEND;\n",
                &["select EXISTS (SELECT 1 FROM t WHERE a = b)"],
            ),
            ("begin return query select a from t; end", &["select a from t"]),
            (
                "declare n int := 1; r record; begin select count(*), max(x) into strict n, r.a from t where x = f(1); return n > 0; end",
                &["select 1", "select count(*), max(x) from t where x = f(1)", "select n > 0"],
            ),
            (
                "declare r t%rowtype; begin select into r * from t; return r.a; end",
                &["select * from t", "select r.a"],
            ),
            (
                "begin if a then return b; elsif c in (select d from t) then null; else x := y; x.y[1] = z; end if; return null; end",
                &[
                    "select a",
                    "select b",
                    "select c in (select d from t)",
                    "select y",
                    "select z",
                    "select null",
                ],
            ),
            (
                "begin <<l>> for r in select * from t loop continue when r.a; if b then exit l; end if; end loop l; for i in reverse 1..3 by 2 loop null; end loop; return 1; end",
                &[
                    "select * from t",
                    "select r.a",
                    "select b",
                    "select 1",
                    "select 3",
                    "select 2",
                    "select 1",
                ],
            ),
            (
                "begin case a when 1, 2 then return case when b then c end; else raise exception 'no %', a; end case; end",
                &["select a", "select 1, 2", "select case when b then c end"],
            ),
            (
                "begin execute 'select $1 = ''x'' from t' into found using a, f(b); return found; end",
                &["select $1 = 'x' from t", "select a, f(b)", "select found"],
            ),
            (
                "-- if x then\nbegin /* ; /* */ end; */ perform f(';'); while g() loop null; end loop; return $q$;$q$; end",
                &["select f(';')", "select g()", "select $q$;$q$"],
            ),
            (
                "declare begin declare a int default f(); begin return a; end; end",
                &["select f()", "select a"],
            ),
        ] {
            let expected: Vec<String> = expected.iter().map(|query| (*query).to_owned()).collect();
            assert_eq!(found(body), Some(expected), "{body}");
        }
    }

    #[test]
    fn what_is_not_listed_is_not_understood() {
        for body in [
            "",
            "beginning return true; end",
            "begin return true; end end x y",
            "begin insert into t values (1); return true; end",
            "begin update t set a = 1; return true; end",
            "begin delete from t where a = 1; return true; end",
            "begin execute 'select ' || x; return true; end",
            "begin execute format('select %I', x) into y; return true; end",
            "begin execute q into y; return true; end",
            "begin return query execute 'select 1'; end",
            "begin return true; exception when others then return false; end",
            "declare c cursor for select 1; begin open c; return true; end",
            "begin for r in c loop null; end loop; return true; end",
            "begin for r in execute 'select 1' loop null; end loop; return true; end",
            "begin get diagnostics n = row_count; return true; end",
            "begin raise notice '%', f(); return true; end",
            "begin a[f()] := 1; return true; end",
            "begin select 1; return true; end",
            "begin return 'x; end",
            "begin call p(); return true; end",
            "#variable_conflict use_variable\nbegin return true; end",
        ] {
            assert_eq!(found(body), None, "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(body in "(begin|end|if|then|loop|case|when|;|'|\\$|\\$a\\$|\\(|\\)|<<|>>|e'|\\.\\.|1|select|into|,|é| |\n|/\\*|\\*/|--|:=|execute){0,40}") {
            let _ = queries(&body);
        }
    }
}
