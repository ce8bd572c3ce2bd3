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
mod tests;
