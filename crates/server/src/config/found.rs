//! A value of a setting, where it came from, and what is wrong with it.

use std::{
    fmt::{self, Display},
    path::{Path, PathBuf},
};

/// A setting that cannot be used. Displayed as one readable line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {problem}")]
pub struct ConfigError {
    /// The variable, or the place in the configuration file.
    pub name: String,
    /// The problem. Never contains the value of a secret.
    pub problem: String,
}

impl ConfigError {
    /// An error about one variable.
    pub fn new(name: &str, problem: impl Display) -> Self {
        // Some readers show only one line.
        let problem = problem.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { name: name.to_owned(), problem }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The environment.
    Environment,
    /// A file that the variable `NAME_FILE` names.
    EnvironmentFile(PathBuf),
    /// The configuration file, at this place.
    File(String),
    /// A file that the configuration file names.
    FileOfFile(PathBuf),
    /// What a server of the first generation did.
    FirstGeneration,
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::EnvironmentFile(path) | Self::FileOfFile(path) => path.display().fmt(f),
            Self::File(place) => f.write_str(place),
            Self::FirstGeneration => f.write_str("as in the first generation"),
        }
    }
}

/// A value that was set.
#[derive(Debug, Clone)]
pub struct Found {
    /// As text, whatever type it had in the file.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// A secret in a file, without the line break at its end that editors add.
pub(super) fn secret_of_file(name: &str, path: &Path) -> Result<String, ConfigError> {
    let cannot = |problem: &dyn Display| {
        ConfigError::new(name, format!("names {}, which cannot be used: {problem}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() { Err(cannot(&"it is empty")) } else { Ok(text.to_owned()) }
}
