//! Typed reading of settings: from the environment, from files that it names, from the configuration file
//! (http_and_ops 5).

use std::{
    collections::HashMap,
    fmt::Display,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    file::{self, TenantEntry},
    first_generation,
    found::{ConfigError, Found, Origin, secret_of_file},
    ignored,
    setting::{Kind, Setting},
    table,
    whole::Whole,
};

/// All settings that were set, by variable. The table of settings has the defaults.
#[derive(Clone)]
pub struct Env {
    values: HashMap<&'static str, Found>,
    ignored: Vec<&'static str>,
    tenants: Vec<TenantEntry>,
}

impl Env {
    /// Takes settings from `lookup`: the process's environment, or a table in tests. An empty value counts as not set.
    pub fn new(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut env = Self::given(lookup);
        first_generation::translate(&mut env.values);
        env
    }

    fn given(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let found = |name| Some((name, Found { value: set(name)?, origin: Origin::Environment }));
        Self {
            values: table::all().filter_map(|(_, setting)| found(setting.name)).collect(),
            ignored: ignored::present(|name| set(name).is_some()),
            tenants: Vec::new(),
        }
    }

    /// Takes settings from `lookup`, from the files with secrets that it names, and from the configuration file.
    /// `lookup` overrides the file.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that cannot be read or that has something unknown in it.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>, config: Option<&Path>) -> Result<Self, ConfigError> {
        let (env, problems) = Self::read_all(lookup, config);
        problems.into_iter().next().map_or(Ok(env), Err)
    }

    /// The same, with everything that cannot be read.
    pub fn read_all(
        lookup: &dyn Fn(&str) -> Option<String>,
        config: Option<&Path>,
    ) -> (Self, Vec<ConfigError>) {
        let mut env = Self::given(lookup);
        let mut problems = Vec::new();
        let secrets = table::all().filter(|(_, setting)| setting.kind == Kind::Secret);
        for (_, setting) in secrets {
            let name = format!("{}_FILE", setting.name);
            let Some(path) = lookup(&name).filter(|path| !path.is_empty()) else { continue };
            if env.values.contains_key(setting.name) {
                let problem = format!("cannot be set beside {}", setting.name);
                problems.push(ConfigError::new(&name, problem));
                continue;
            }
            let path = PathBuf::from(path);
            match secret_of_file(&name, &path) {
                Ok(value) => {
                    let found = Found { value, origin: Origin::EnvironmentFile(path) };
                    env.values.insert(setting.name, found);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if let Some(path) = config {
            let (file, of_file) = file::read_all(path);
            problems.extend(of_file);
            for (name, found) in file.values {
                env.values.entry(name).or_insert(found);
            }
            env.tenants = file.tenants;
        }
        first_generation::translate(&mut env.values);
        (env, problems)
    }

    /// Variables that are set but have no meaning here, in alphabetical order.
    #[must_use]
    pub fn ignored(&self) -> &[&'static str] {
        &self.ignored
    }

    /// The tenants of the configuration file.
    #[must_use]
    pub fn tenants(&self) -> &[TenantEntry] {
        &self.tenants
    }

    /// The value that was set, with its origin.
    #[must_use]
    pub fn found(&self, name: &str) -> Option<&Found> {
        self.values.get(name)
    }

    /// An error about a setting, with the place where it was set.
    #[must_use]
    pub fn wrong(&self, name: &str, problem: impl Display) -> ConfigError {
        match self.found(name).map(|found| &found.origin) {
            Some(Origin::File(place)) => {
                let key = table::find(name).map_or("", |(_, setting)| setting.key);
                ConfigError::new(&format!("{place}: {key}"), problem)
            }
            _ => ConfigError::new(name, problem),
        }
    }

    /// The value or its default, as written. `None` if it has neither.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let default =
            || table::find(name).map(|(_, setting)| setting.default).filter(|text| !text.is_empty());
        self.found(name).map(|found| found.value.as_str()).or_else(default).map(str::to_owned)
    }

    /// The value or its default, of a setting that must have one.
    ///
    /// # Errors
    /// [`ConfigError`] if it has neither.
    pub fn required(&self, name: &str) -> Result<String, ConfigError> {
        self.text(name).ok_or_else(|| ConfigError::new(name, "has to be set"))
    }

    /// Which setting an error is about, if it is about one that was set.
    #[must_use]
    pub fn setting_of(&self, error: &ConfigError) -> Option<&'static str> {
        self.values.keys().copied().find(|name| self.wrong(name, "").name == error.name)
    }

    /// The first setting that is set and named in an error about another.
    pub(super) fn setting_in(&self, error: &ConfigError) -> Option<&'static str> {
        self.values.keys().copied().find(|name| error.problem.contains(name))
    }

    /// Forgets that a setting was set: it has its default from then on.
    pub(super) fn forget(&mut self, name: &str) {
        self.values.remove(name);
    }

    /// A whole number; `12ms` is an error.
    ///
    /// # Errors
    /// [`ConfigError`] when the value is no such number or does not fit.
    pub fn integer<T: Whole>(&self, name: &str) -> Result<T, ConfigError> {
        let value = self.required(name)?;
        let problem = || format!("must be a whole number {}, not {value:?}", T::RANGE);
        value.parse().map_err(|_| self.wrong(name, problem()))
    }

    /// A whole number of milliseconds.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn millis(&self, name: &str) -> Result<Duration, ConfigError> {
        self.integer(name).map(Duration::from_millis)
    }

    /// `true`, `1`, `false` or `0`, in any case, with white space around it.
    ///
    /// # Errors
    /// [`ConfigError`] for anything else.
    pub fn boolean(&self, name: &str) -> Result<bool, ConfigError> {
        let value = self.required(name)?;
        match value.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.wrong(name, format!("must be true, 1, false or 0, not {value:?}"))),
        }
    }

    /// Texts separated by commas, without white space around them. A value of nothing but white space has one empty
    /// item, as in the reference.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        let value = self.text(name);
        value.iter().flat_map(|value| value.split(',')).map(|item| item.trim().to_owned()).collect()
    }

    /// One of a fixed set of words; `default` when nothing is set.
    ///
    /// # Errors
    /// [`ConfigError`] for any other word.
    pub fn one_of<T: Copy>(&self, name: &str, default: T, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let Some(found) = self.found(name) else { return Ok(default) };
        let value = &found.value;
        words.iter().find(|(word, _)| word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(name, format!("must be one of {}, not {value:?}", words.join(", ")))
        })
    }
}

/// Checks whether a value is valid, for settings that nothing else has read.
pub(super) fn check(env: &Env, setting: &Setting) -> Result<(), ConfigError> {
    match setting.kind {
        _ if env.text(setting.name).is_none() => Ok(()),
        Kind::Integer(_) => env.integer::<u64>(setting.name).map(drop),
        Kind::Boolean => env.boolean(setting.name).map(drop),
        Kind::Words(words) => {
            let words: Vec<_> = words.iter().map(|word| (*word, ())).collect();
            env.one_of(setting.name, (), &words)
        }
        Kind::Text | Kind::Secret | Kind::List | Kind::Json | Kind::Path => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Env {
        Env::new(&|asked: &str| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn integers_are_strict() {
        assert_eq!(with("PORT", "12").integer("PORT"), Ok(12_u16));
        assert_eq!(with("X", "12").integer("PORT"), Ok(4000_u16));
        for bad in ["12ms", "-1", "70000", " 1", "1.5"] {
            let error = with("PORT", bad).integer::<u16>("PORT").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("PORT must be a whole number from 0 to 65535, not {bad:?}")
            );
        }
    }

    #[test]
    fn booleans_are_forgiving_about_case_and_space_only() {
        assert_eq!(with("DB_SSL", " TRUE ").boolean("DB_SSL"), Ok(true));
        assert_eq!(with("RUN_JANITOR", "0").boolean("RUN_JANITOR"), Ok(false));
        assert_eq!(with("RUN_JANITOR", "").boolean("RUN_JANITOR"), Ok(true));
        assert!(with("DB_SSL", "yes").boolean("DB_SSL").is_err());
    }

    #[test]
    fn lists_are_split_and_trimmed() {
        assert_eq!(with("DB_HOST", " a , b,").list("DB_HOST"), ["a", "b", ""]);
        assert_eq!(with("X", "").list("REGION"), Vec::<String>::new());
    }

    #[test]
    fn what_the_table_lacks_is_no_setting() {
        let error = with("X", "1").integer::<u8>("X").unwrap_err();
        assert_eq!(error.to_string(), "X has to be set");
    }

    #[test]
    fn secrets_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret with space \n").unwrap();
        let path = path.to_str().unwrap().to_owned();
        let read = |variables: &[(&str, &str)]| {
            let lookup =
                |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Env::read(&lookup, None)
        };
        let env = read(&[("DB_PASSWORD_FILE", &path)]).unwrap();
        assert_eq!(env.text("DB_PASSWORD").as_deref(), Some("s3cret with space "));
        assert_eq!(env.found("DB_PASSWORD").unwrap().origin.to_string(), path);
        let both = read(&[("DB_PASSWORD_FILE", &path), ("DB_PASSWORD", "x")]).map(drop).unwrap_err();
        assert_eq!(both.to_string(), "DB_PASSWORD_FILE cannot be set beside DB_PASSWORD");
        let none = read(&[("DB_PASSWORD_FILE", "/nowhere")]).map(drop).unwrap_err();
        assert!(
            none.to_string().starts_with("DB_PASSWORD_FILE names /nowhere, which cannot be used: "),
            "{none}"
        );
    }
}
