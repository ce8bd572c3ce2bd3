//! The description of a setting: its names, type, default and meaning.

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number of some unit; empty if it counts things.
    Integer(&'static str),
    /// `true`, `1`, `false` or `0`.
    Boolean,
    /// Any text.
    Text,
    /// Text that is never shown. Can be read from a file too, which `NAME_FILE` or `key_file` names.
    Secret,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Texts; in the environment they are separated by commas.
    List,
    /// A JSON object; in the file it may be a table.
    Json,
    /// The path of a file.
    Path,
}

impl Kind {
    /// The type in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Integer("") => "whole number".to_owned(),
            Self::Integer(unit) => format!("whole number of {unit}"),
            Self::Boolean => "true, 1, false or 0".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Secret => "secret".to_owned(),
            Self::Words(words) => words.join(", "),
            Self::List => "list".to_owned(),
            Self::Json => "JSON object".to_owned(),
            Self::Path => "path".to_owned(),
        }
    }
}

/// A setting: one line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Environment variable.
    pub name: &'static str,
    /// Key in the configuration file, within its group's table.
    pub key: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// The default, written as in the environment; empty for none.
    pub default: &'static str,
    /// What it does: a sentence without its full stop.
    pub meaning: &'static str,
}

/// Settings that belong together: a table of the configuration file and a section of the reference.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Name of the table.
    pub table: &'static str,
    /// Heading.
    pub title: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

pub(super) const fn integer(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    unit: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, key, kind: Kind::Integer(unit), default, meaning }
}

pub(super) const fn boolean(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, key, kind: Kind::Boolean, default, meaning }
}

pub(super) const fn text(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, key, kind: Kind::Text, default, meaning }
}

pub(super) const fn secret(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, key, kind: Kind::Secret, default, meaning }
}

pub(super) const fn words(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    words: &'static [&'static str],
    meaning: &'static str,
) -> Setting {
    Setting { name, key, kind: Kind::Words(words), default, meaning }
}

#[allow(dead_code, reason = "a kind that the reference has, whether the table has one just now or not")]
pub(super) const fn list(name: &'static str, key: &'static str, meaning: &'static str) -> Setting {
    Setting { name, key, kind: Kind::List, default: "", meaning }
}

pub(super) const fn json(
    name: &'static str,
    key: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, key, kind: Kind::Json, default, meaning }
}

pub(super) const fn path(name: &'static str, key: &'static str, meaning: &'static str) -> Setting {
    Setting { name, key, kind: Kind::Path, default: "", meaning }
}
