//! Everything that is wrong with the settings, at once.

use super::{ConfigError, Env, Settings};

/// The settings, or everything that is wrong with them: after each error the setting that it is about counts as not set,
/// and the rest is read again. `found`: what could not be read in the first place.
///
/// # Errors
/// All problems, in the order in which they were found.
pub fn check(mut env: Env, mut found: Vec<ConfigError>) -> Result<Settings, Vec<ConfigError>> {
    // With what each was called.
    let mut forgotten: Vec<(&'static str, String)> = Vec::new();
    loop {
        match Settings::from_env(&env) {
            Ok(settings) if found.is_empty() => return Ok(settings),
            Ok(_) => return Err(found),
            Err(error) => {
                // What lacks a setting that was forgotten is no error of its own, nor is that this is lacking.
                let follows = forgotten
                    .iter()
                    .any(|(setting, name)| error.problem.contains(setting) || error.name == *name);
                let setting = env.setting_of(&error).or_else(|| env.setting_in(&error));
                let name = error.name.clone();
                if !follows {
                    found.push(error);
                }
                let Some(setting) = setting else { return Err(found) };
                env.forget(setting);
                forgotten.push((setting, name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        let lookup =
            |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let checked = check(Env::new(&lookup), Vec::new());
        checked.map(drop).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        assert_eq!(
            problems(&[
                ("PORT", "70000"),
                ("DB_SSL", "yes"),
                ("LOG_LEVEL", "loud"),
                ("SLOT_NAME_SUFFIX", "X")
            ])
            .len(),
            4
        );
    }

    #[test]
    fn what_follows_from_an_error_is_not_told() {
        let problems = problems(&[("TLS_CERT_FILE", "/nowhere"), ("TLS_KEY_FILE", "/nowhere")]);
        assert!(
            problems.len() == 1 && problems[0].starts_with("TLS_CERT_FILE cannot be used"),
            "{problems:?}"
        );
    }

    #[test]
    fn nor_is_that_a_wrong_one_is_lacking() {
        let pairs = [
            ("NATS_URL", "nats://localhost:1"),
            ("NATS_TLS_CERT_FILE", "/nowhere"),
            ("NATS_TLS_KEY_FILE", "/nowhere"),
            ("LOG_LEVEL", "loud"),
        ];
        let problems = problems(&pairs);
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
