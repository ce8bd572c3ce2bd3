//! The outermost level of a filter: segments with commas between them. A segment is a condition, `column=op.value`, or a
//! group, `or=(…)`.

use super::{
    condition::{Filter, FilterError, MAX_BYTES, MAX_CONDITIONS, Operator},
    group::Reader,
};
use crate::{
    path,
    quotes::{brackets, unquote},
    tree::Tree,
};

/// Parses a filter into the conditions that must all hold; empty text is no filter.
///
/// Trees are in a normal form: a conjunction stands in no conjunction, a disjunction in none, a negation in none, and each
/// has two parts at least; a single condition is negated by its own flag.
///
/// # Errors
/// [`FilterError`] for the first segment that is wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<Tree<Filter>>, FilterError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if text.len() > MAX_BYTES {
        return Err(FilterError::TooLong);
    }
    let trees: Result<Vec<_>, _> = split(text)?.into_iter().map(Segment::parse).collect();
    Ok(match Tree::and(trees?) {
        Tree::And(parts) => parts,
        tree => vec![tree],
    })
}

/// What stands between commas.
#[derive(Debug)]
enum Segment<'a> {
    /// A condition, not parsed yet.
    Condition(&'a str),
    /// A group.
    Group(Result<Tree<Filter>, FilterError>),
}

impl Segment<'_> {
    fn parse(self) -> Result<Tree<Filter>, FilterError> {
        match self {
            Self::Condition(text) => Ok(Tree::Leaf(condition(text)?)),
            Self::Group(tree) => tree,
        }
    }

    fn conditions(&self) -> usize {
        match self {
            Self::Group(Ok(tree)) => tree.leaves().len(),
            Self::Group(Err(FilterError::TooMany)) => MAX_CONDITIONS + 1,
            Self::Condition(_) | Self::Group(Err(_)) => 1,
        }
    }
}

/// Splits a filter into its segments. Where a group is wrong, it is the last one.
fn split(text: &str) -> Result<Vec<Segment<'_>>, FilterError> {
    let (mut segments, mut conditions, mut rest) = (Vec::new(), 0, text);
    loop {
        let (segment, after) = first(rest);
        conditions += segment.conditions();
        if conditions > MAX_CONDITIONS {
            return Err(FilterError::TooMany);
        }
        let failed = matches!(segment, Segment::Group(Err(_)));
        segments.push(segment);
        match after.strip_prefix(',') {
            Some(next) if !failed => rest = next,
            _ => return Ok(segments),
        }
    }
}

/// The first segment, and what follows: a comma, or nothing.
fn first(text: &str) -> (Segment<'_>, &str) {
    let mut reader = Reader::new(text.trim_start());
    if let Some(kind) = reader.opening("=(") {
        let tree = reader.outermost(kind);
        return (Segment::Group(tree), reader.rest());
    }
    let (condition, after) = text.split_at_checked(end(text)).unwrap_or((text, ""));
    (Segment::Condition(condition.trim()), after)
}

/// Where a condition ends: at a comma that is neither in parentheses nor in quotes, nor in an array or a range.
fn end(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    // What came before: only after these does a quote open a quoted run.
    let mut previous = None;
    let (mut equals, mut resume) = (None, 0);
    for (at, c) in text.char_indices() {
        if at < resume {
            continue;
        }
        if c == '=' && equals.is_none() {
            equals = Some(at);
        }
        if quoted {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
        } else {
            match c {
                '"' if matches!(previous, Some('.' | '(' | ',')) => quoted = true,
                '{' | '[' | '(' if depth == 0 && previous == Some('.') => {
                    match equals.and_then(|equals| value_in_brackets(text, equals + 1, at)) {
                        Some(end) => resume = end,
                        None if c == '(' => depth += 1,
                        None => {}
                    }
                }
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => return at,
                _ => {}
            }
        }
        previous = Some(c);
    }
    text.len()
}

/// Where a value in brackets ends that begins at `at`, if the operator between `from` and it takes one.
fn value_in_brackets(text: &str, from: usize, at: usize) -> Option<usize> {
    let operator = text.get(from..at)?;
    let operator = operator.strip_prefix("not.").unwrap_or(operator).strip_suffix('.')?;
    if !Operator::parse(operator)?.takes_brackets() {
        return None;
    }
    let end = at + brackets(text.get(at..)?)?;
    let after = text.get(end..)?.trim_start();
    (after.is_empty() || after.starts_with(',')).then_some(end)
}

fn condition(segment: &str) -> Result<Filter, FilterError> {
    if segment.is_empty() {
        return Err(FilterError::EmptySegment);
    }
    let pieces = FilterError::pieces;
    let (column, rest) = segment.split_once('=').ok_or_else(|| pieces(&[segment]))?;
    let (rest, negate) = rest.strip_prefix("not.").map_or((rest, false), |rest| (rest, true));
    let (name, value) = rest.split_once('.').ok_or_else(|| pieces(&[rest]))?;
    let operator = Operator::parse(name).ok_or_else(|| pieces(&[name, value]))?;
    let value = match operator {
        Operator::In => {
            let body = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
            format!("{{{}}}", body.ok_or(FilterError::InWithoutParentheses)?)
        }
        _ => unquote(value),
    };
    let (column, path) = path::of_column(column)?;
    Ok(Filter { column: column.into(), path, operator, value: value.into(), negate })
}
