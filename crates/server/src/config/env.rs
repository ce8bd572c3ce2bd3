//! Typed reading of environment variables (http_and_ops 5).

use std::{fmt::Display, str::FromStr};

/// A setting that cannot be used; one readable line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {problem}")]
pub struct ConfigError {
    /// The variable.
    pub name: String,
    /// What is wrong with it. Never contains the value of a secret.
    pub problem: String,
}

impl ConfigError {
    /// An error about one variable.
    pub fn new(name: &str, problem: impl Display) -> Self {
        Self { name: name.to_owned(), problem: problem.to_string() }
    }
}

/// Where variables are read from: the process environment, or a table in tests.
pub struct Env<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Env<'a> {
    /// Reads through `lookup`.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup }
    }

    /// The value as it stands; an empty value counts as not set.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The value, or `default`.
    #[must_use]
    pub fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    /// A whole number; `12ms` is an error.
    ///
    /// # Errors
    /// [`ConfigError`] when the value is no such number or does not fit.
    pub fn integer<T: FromStr>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        match self.text(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| {
                ConfigError::new(name, format!("must be a whole number in range, not {value:?}"))
            }),
        }
    }

    /// `true`, `1`, `false` or `0`, in any case, with white space around it.
    ///
    /// # Errors
    /// [`ConfigError`] for anything else.
    pub fn boolean(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.text(name) {
            None => Ok(default),
            Some(value) => match value.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(ConfigError::new(name, format!("must be true, 1, false or 0, not {value:?}"))),
            },
        }
    }

    /// One of a fixed set of words.
    ///
    /// # Errors
    /// [`ConfigError`] for any other word.
    pub fn one_of<T: Copy>(&self, name: &str, default: T, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let Some(value) = self.text(name) else { return Ok(default) };
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            ConfigError::new(name, format!("must be one of {}, not {value:?}", words.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<R>(value: &str, read: impl FnOnce(&Env<'_>) -> R) -> R {
        let lookup = |name: &str| (name == "X").then(|| value.to_owned());
        read(&Env::new(&lookup))
    }

    #[test]
    fn integers_are_strict() {
        assert_eq!(with("12", |env| env.integer("X", 0u16)), Ok(12));
        assert_eq!(with("12", |env| env.integer("Y", 7u16)), Ok(7));
        for bad in ["12ms", "-1", "70000", " 1", "1.5"] {
            let error = with(bad, |env| env.integer("X", 0u16)).unwrap_err();
            assert_eq!(error.to_string(), format!("X must be a whole number in range, not {bad:?}"));
        }
    }

    #[test]
    fn booleans_are_forgiving_about_case_and_space_only() {
        assert_eq!(with(" TRUE ", |env| env.boolean("X", false)), Ok(true));
        assert_eq!(with("0", |env| env.boolean("X", true)), Ok(false));
        assert_eq!(with("", |env| env.boolean("X", true)), Ok(true));
        assert!(with("yes", |env| env.boolean("X", true)).is_err());
    }
}
