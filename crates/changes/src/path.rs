//! Paths into JSON columns: `data->a->0->>b`.

use crate::quotes::quoted;

/// Most steps of a JSON path: each level of a document is read once, and a row has to be read within its time.
const MAX_STEPS: usize = 16;

/// A path with more steps than anybody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("filter must not have a JSON path of more than {MAX_STEPS} steps")]
pub struct PathTooLong;

/// Where in the documents of a column a condition looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonPath {
    /// From the outermost level on.
    pub(crate) steps: Box<[Step]>,
    /// Whether it ends with `->>`: what stands there is taken as text, and JSON's null as NULL.
    pub(crate) as_text: bool,
}

/// A step into a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// The member of an object.
    Key(Box<str>),
    /// The element of an array, from the end if negative.
    Index(i32),
}

impl JsonPath {
    /// The steps, from the outermost level on.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether what stands there is taken as text.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        self.as_text
    }
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            let last = at + 1 == self.steps.len();
            f.write_str(if last && self.as_text { "->>" } else { "->" })?;
            match step {
                Step::Key(key) => f.write_str(key)?,
                Step::Index(index) => write!(f, "{index}")?,
            }
        }
        Ok(())
    }
}

/// A column and its path. What is none is a name: those may have arrows.
///
/// # Errors
/// If the path is too long.
pub(crate) fn of_column(text: &str) -> Result<(&str, Option<JsonPath>), PathTooLong> {
    let Some(at) = text.find("->").filter(|at| *at > 0) else { return Ok((text, None)) };
    let (column, arrows) = text.split_at_checked(at).unwrap_or((text, ""));
    Ok(match parse(arrows)? {
        Some(path) => (column, Some(path)),
        None => (text, None),
    })
}

/// A column that may stand in quotes, and its path.
///
/// # Errors
/// If the path is too long.
pub(crate) fn of_quoted_column(text: &str) -> Result<(Box<str>, Option<JsonPath>), PathTooLong> {
    let Some((column, arrows)) = quoted(text) else {
        let (column, path) = of_column(text)?;
        return Ok((column.into(), path));
    };
    if arrows.is_empty() {
        return Ok((column.into(), None));
    }
    Ok(match parse(arrows)? {
        Some(path) => (column.into(), Some(path)),
        None => (text.into(), None),
    })
}

/// `->a->0->>"b"`. `None` if it is no path.
fn parse(mut text: &str) -> Result<Option<JsonPath>, PathTooLong> {
    let (mut steps, mut as_text) = (Vec::new(), false);
    while !text.is_empty() {
        if as_text {
            return Ok(None);
        }
        let Some(rest) = text.strip_prefix("->") else { return Ok(None) };
        let text_follows = rest.strip_prefix('>');
        as_text = text_follows.is_some();
        let rest = text_follows.unwrap_or(rest);
        let step = match quoted(rest) {
            Some((key, after)) => {
                text = after;
                Step::Key(key.into())
            }
            None => {
                let until = rest.find("->").unwrap_or(rest.len());
                let (step, after) = rest.split_at_checked(until).unwrap_or((rest, ""));
                if step.is_empty() {
                    return Ok(None);
                }
                text = after;
                Step::of(step)
            }
        };
        if steps.len() == MAX_STEPS {
            return Err(PathTooLong);
        }
        steps.push(step);
    }
    Ok((!steps.is_empty()).then(|| JsonPath { steps: steps.into(), as_text }))
}

impl Step {
    /// A step that is not in quotes: a number is an index.
    fn of(text: &str) -> Self {
        let index = text.parse::<i32>().ok().filter(|index| index.to_string() == text);
        index.map_or_else(|| Self::Key(text.into()), Self::Index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_what_is_none_is_a_name() {
        let path = |text: &str| {
            let (column, path) = of_column(text).unwrap();
            (column.to_owned(), path.map(|path| (path.to_string(), path.steps.len(), path.as_text)))
        };
        let some = |column: &str, text: &str, steps, as_text| {
            (column.to_owned(), Some((text.to_owned(), steps, as_text)))
        };
        assert_eq!(path("data->>kind"), some("data", "->>kind", 1, true));
        assert_eq!(path("data->a->0->>b c"), some("data", "->a->0->>b c", 3, true));
        assert_eq!(path("data->-1"), some("data", "->-1", 1, false));
        assert_eq!(path("d->\"a->b\""), some("d", "->a->b", 1, false));
        for name in ["data", "data->", "->a", "data->>a->b", "data->>a->>b", "a->->b", "data->\"a\"b"] {
            assert_eq!(path(name), (name.to_owned(), None));
        }
        assert_eq!(Step::of("0"), Step::Index(0));
        for key in ["00", "+1", "-0", "1.0", "99999999999"] {
            assert_eq!(Step::of(key), Step::Key(key.into()));
        }
        let long = format!("d{}", "->a".repeat(MAX_STEPS + 1));
        assert_eq!(of_column(&long), Err(PathTooLong));
        assert_eq!(of_quoted_column("\"a.b\"->>c").unwrap().0, "a.b".into());
        assert_eq!(of_quoted_column("\"a->b\"").unwrap(), ("a->b".into(), None));
    }
}
