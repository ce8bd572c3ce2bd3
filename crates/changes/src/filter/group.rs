//! Groups of conditions: `or=(…)` and `and=(…)` between commas, `or(…)` and `and(…)` in other groups. A condition in a group
//! is `column.op.value`.

use super::condition::{Filter, FilterError, MAX_CONDITIONS, MAX_DEPTH, Operator};
use crate::{
    path,
    quotes::{brackets, quoted},
    tree::Tree,
};

/// How the conditions of a group are joined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    is_or: bool,
    negate: bool,
}

/// Reads a group, from its name to its closing parenthesis.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a str,
    conditions: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { rest: text, conditions: 0 }
    }

    /// What was not read.
    pub(super) const fn rest(&self) -> &'a str {
        self.rest
    }

    /// Reads the name of a group and the mark behind it. Nothing is read if there is none.
    pub(super) fn opening(&mut self, mark: &str) -> Option<Kind> {
        let (rest, negate) = self.rest.strip_prefix("not.").map_or((self.rest, false), |rest| (rest, true));
        let (rest, is_or) = match rest.strip_prefix("or") {
            Some(rest) => (rest, true),
            None => (rest.strip_prefix("and")?, false),
        };
        self.rest = rest.strip_prefix(mark)?;
        Some(Kind { is_or, negate })
    }

    /// Reads a group that stands between commas, up to the comma or the end of the text.
    pub(super) fn outermost(&mut self, kind: Kind) -> Result<Tree<Filter>, FilterError> {
        let tree = self.group(kind, 1)?;
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            Ok(tree)
        } else {
            Err(FilterError::BehindGroup)
        }
    }

    /// Reads the conditions of a group. `depth`: how many groups it stands in, with itself.
    fn group(&mut self, kind: Kind, depth: usize) -> Result<Tree<Filter>, FilterError> {
        if depth > MAX_DEPTH {
            return Err(FilterError::TooDeep);
        }
        let mut parts = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            let inner = self.opening("(");
            parts.push(match inner {
                Some(kind) => self.group(kind, depth + 1)?,
                None => Tree::Leaf(self.condition()?),
            });
            self.rest = self.rest.trim_start();
            let mut after = self.rest.chars();
            match after.next() {
                Some(',') => self.rest = after.as_str(),
                Some(')') => {
                    self.rest = after.as_str();
                    break;
                }
                Some(_) => return Err(FilterError::BehindGroup),
                None => return Err(FilterError::Unclosed),
            }
        }
        let tree = if kind.is_or { Tree::or(parts) } else { Tree::and(parts) };
        Ok(match tree {
            tree if !kind.negate => tree,
            Tree::Leaf(filter) => Tree::Leaf(Filter { negate: !filter.negate, ..filter }),
            tree => tree.not(),
        })
    }

    fn condition(&mut self) -> Result<Filter, FilterError> {
        self.conditions += 1;
        if self.conditions > MAX_CONDITIONS {
            return Err(FilterError::TooMany);
        }
        match self.rest.chars().next() {
            None => return Err(FilterError::Unclosed),
            Some(',' | ')') => return Err(FilterError::EmptySegment),
            Some(_) => {}
        }
        let column = self.column()?;
        let negate = self.rest.strip_prefix("not.");
        self.rest = negate.unwrap_or(self.rest);
        let until = self.rest.find(['.', ',', ')']).unwrap_or(self.rest.len());
        let name = self.take(until);
        let Some(rest) = self.rest.strip_prefix('.') else {
            return Err(FilterError::pieces(&[name.trim_end()]));
        };
        self.rest = rest;
        let Some(operator) = Operator::parse(name) else {
            return Err(FilterError::pieces(&[name, self.plain()]));
        };
        let value = self.value(operator)?;
        let (column, path) = path::of_quoted_column(column)?;
        Ok(Filter { column, path, operator, value: value.into(), negate: negate.is_some() })
    }

    /// Takes some bytes that end at a character.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    /// A column with its path, up to the dot behind it. Names in quotes may have dots.
    fn column(&mut self) -> Result<&'a str, FilterError> {
        let text = self.rest;
        let mut rest = text;
        loop {
            if let Some((_, behind)) = quoted(rest) {
                rest = behind;
            }
            let until = rest.find(['.', ',', ')', '>']).unwrap_or(rest.len());
            let at = text.len() - rest.len() + until;
            rest = rest.get(until..).unwrap_or_default();
            match rest.chars().next() {
                Some('.') => {
                    let column = self.take(at);
                    self.take(1);
                    return Ok(column);
                }
                // A quoted name may follow an arrow.
                Some('>') => rest = rest.trim_start_matches('>'),
                _ => return Err(FilterError::pieces(&[text.get(..at).unwrap_or_default().trim_end()])),
            }
        }
    }

    /// A value, up to the comma or parenthesis behind it.
    fn value(&mut self, operator: Operator) -> Result<String, FilterError> {
        if operator == Operator::In {
            let body = self.list()?;
            return Ok(format!("{{{body}}}"));
        }
        let ends = |after: &str| matches!(after.trim_start().chars().next(), None | Some(',' | ')'));
        if let Some((value, after)) = quoted(self.rest)
            && ends(after)
        {
            self.rest = after;
            return Ok(value);
        }
        // An array may follow any operator, a range only those that take one: a pattern may begin with a parenthesis.
        if (operator.takes_brackets() || self.rest.starts_with('{'))
            && let Some(length) = brackets(self.rest)
            && self.rest.get(length..).is_some_and(ends)
        {
            return Ok(self.take(length).to_owned());
        }
        Ok(self.plain().to_owned())
    }

    fn plain(&mut self) -> &'a str {
        let until = self.rest.find([',', ')']).unwrap_or(self.rest.len());
        self.take(until).trim_end()
    }

    /// What stands in the parentheses of a list.
    fn list(&mut self) -> Result<&'a str, FilterError> {
        let text = self.rest.strip_prefix('(').ok_or(FilterError::InWithoutParentheses)?;
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        let mut previous = '(';
        for (at, c) in text.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' if quoted => quoted = false,
                _ if quoted => {}
                '"' if matches!(previous, '(' | ',') => quoted = true,
                '(' => depth += 1,
                ')' if depth == 0 => {
                    self.rest = text.get(at + 1..).unwrap_or_default();
                    return match self.rest.trim_start().chars().next() {
                        None | Some(',' | ')') => Ok(text.get(..at).unwrap_or_default()),
                        Some(_) => Err(FilterError::InWithoutParentheses),
                    };
                }
                ')' => depth -= 1,
                _ => {}
            }
            previous = c;
        }
        Err(FilterError::Unclosed)
    }
}
