//! The configuration file: TOML, a table for each group of settings and `[[tenants]]`.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, ValueDeserializer},
};

pub use super::tenant_entry::TenantEntry;
use super::{
    found::{ConfigError, Found, Origin, secret_of_file},
    near::nearest,
    setting::{Group, Kind, Setting},
    table,
};

/// Array of tables with tenants.
const TENANTS: &str = "tenants";

/// What a file sets.
#[derive(Debug, Default)]
pub struct File {
    /// Values by variable.
    pub values: Vec<(&'static str, Found)>,
    /// Tenants.
    pub tenants: Vec<TenantEntry>,
}

/// Reads a file: what can be used of it, and everything that is wrong or unknown, with lines and columns.
pub fn read_all(path: &Path) -> (File, Vec<ConfigError>) {
    match std::fs::read_to_string(path) {
        Ok(text) => Reader { path, text: &text }.read(),
        Err(error) => {
            let problem = ConfigError::new(&path.display().to_string(), format!("cannot be read: {error}"));
            (File::default(), vec![problem])
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn read(&self) -> (File, Vec<ConfigError>) {
        let (mut file, mut problems) = (File::default(), Vec::new());
        match DeTable::parse(self.text) {
            Ok(document) => {
                for (key, value) in document.into_inner() {
                    if let Err(problem) = self.table(&mut file, &mut problems, &key, value) {
                        problems.push(problem);
                    }
                }
            }
            Err(error) => problems.push(self.toml(&error)),
        }
        (file, problems)
    }

    /// Reads a table. What is wrong with one of its keys is put to the problems.
    fn table(
        &self,
        file: &mut File,
        problems: &mut Vec<ConfigError>,
        key: &Spanned<impl AsRef<str>>,
        value: Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let name = key.get_ref().as_ref();
        if name == TENANTS {
            file.tenants = self.tenants(value)?;
            return Ok(());
        }
        let Some(group) = table::GROUPS.iter().find(|group| group.table == name) else {
            let known = table::GROUPS.iter().map(|group| group.table).chain([TENANTS]);
            return Err(self.unknown(key, "table", "", known));
        };
        let at = value.span().start;
        let DeValue::Table(settings) = value.into_inner() else {
            return Err(self.error(at, format!("{name} must be a table, written [{name}]")));
        };
        for (key, value) in settings {
            match self.setting(group, &key, &value) {
                Ok(setting) => file.values.push(setting),
                Err(problem) => problems.push(problem),
            }
        }
        Ok(())
    }

    fn setting(
        &self,
        group: &'static Group,
        key: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(&'static str, Found), ConfigError> {
        let name = key.get_ref().as_ref();
        if let Some(setting) = group.settings.iter().find(|setting| setting.key == name) {
            let value = self.value(setting, value)?;
            return Ok((setting.name, Found { value, origin: Origin::File(self.place(key.span().start)) }));
        }
        let secret = name.strip_suffix("_file").and_then(|name| {
            group.settings.iter().find(|setting| setting.key == name && setting.kind == Kind::Secret)
        });
        let Some(setting) = secret else {
            let within = format!(" in [{}]", group.table);
            return Err(self.unknown(key, "key", &within, group.settings.iter().map(|setting| setting.key)));
        };
        let DeValue::String(file) = value.get_ref() else {
            return Err(self.error(value.span().start, format!("{name} must be the path of a file")));
        };
        let place = format!("{}: {name}", self.place(key.span().start));
        let path = self.relative(&**file);
        let value = secret_of_file(&place, &path)?;
        Ok((setting.name, Found { value, origin: Origin::FileOfFile(path) }))
    }

    /// A value in the form that the environment would have.
    fn value(&self, setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        let text = match (setting.kind, value.get_ref()) {
            (Kind::Integer(_), DeValue::Integer(number)) => number.to_string(),
            (Kind::Boolean, DeValue::Boolean(boolean)) => boolean.to_string(),
            (Kind::Text | Kind::Secret | Kind::Words(_) | Kind::Json, DeValue::String(text)) => {
                text.to_string()
            }
            (Kind::Path, DeValue::String(path)) => self.relative(&**path).display().to_string(),
            (Kind::List, DeValue::Array(items)) => self.list(setting, items)?,
            (Kind::Json | Kind::Secret, DeValue::Table(_)) => self.json(value)?,
            (kind, other) => {
                let problem =
                    format!("{} must be {}, not a TOML {}", setting.key, in_file(kind), other.type_str());
                return Err(self.error(value.span().start, problem));
            }
        };
        if text.is_empty() {
            let problem = format!("{} is empty: leave it out instead", setting.key);
            return Err(self.error(value.span().start, problem));
        }
        Ok(text)
    }

    fn list(&self, setting: &Setting, items: &DeArray<'_>) -> Result<String, ConfigError> {
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) if !text.contains(',') => texts.push(text.to_string()),
                _ => {
                    let problem = format!("{} must be an array of strings without commas", setting.key);
                    return Err(self.error(item.span().start, problem));
                }
            }
        }
        Ok(texts.join(","))
    }

    fn json(&self, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        let parsed = serde_json::Value::deserialize(ValueDeserializer::from(value.clone()));
        Ok(parsed.map_err(|error| self.toml(&error))?.to_string())
    }

    fn tenants(&self, value: Spanned<DeValue<'_>>) -> Result<Vec<TenantEntry>, ConfigError> {
        let at = value.span().start;
        let DeValue::Array(entries) = value.into_inner() else {
            return Err(self.error(at, "tenants must be tables, each written [[tenants]]".to_owned()));
        };
        let mut tenants = Vec::new();
        for entry in entries {
            let place = self.place(entry.span().start);
            let mut tenant = TenantEntry::deserialize(ValueDeserializer::from(entry))
                .map_err(|error| self.toml(&error))?;
            tenant.place = place;
            tenant.resolve_files(&|path| self.relative(path))?;
            tenants.push(tenant);
        }
        Ok(tenants)
    }

    /// A path in the file is relative to the file.
    fn relative(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn unknown(
        &self,
        key: &Spanned<impl AsRef<str>>,
        what: &str,
        within: &str,
        known: impl Iterator<Item = &'static str>,
    ) -> ConfigError {
        let name = key.get_ref().as_ref();
        let near = nearest(name, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        self.error(key.span().start, format!("unknown {what} {name}{within}{near}"))
    }

    fn toml(&self, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start);
        self.error(at, error.message().to_owned())
    }

    fn error(&self, at: usize, problem: String) -> ConfigError {
        ConfigError::new(&format!("{}:", self.place(at)), problem)
    }

    /// File, line and column of a byte, in the form that editors and terminals understand.
    fn place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.path.display())
    }
}

fn in_file(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer(_) => "a whole number",
        Kind::Boolean => "true or false",
        Kind::Text | Kind::Secret | Kind::Words(_) | Kind::Path => "a string",
        Kind::List => "an array of strings",
        Kind::Json => "a table, or JSON in a string",
    }
}

#[cfg(test)]
mod tests;
