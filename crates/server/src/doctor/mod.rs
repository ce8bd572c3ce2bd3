//! `realtime doctor`: what is right and wrong with settings and databases, and what mends it.

mod elsewhere;
mod secrets;
mod tenants;
mod url;

use realtime_doctor::{Code, Finding, Part, Report, Step};
pub use tenants::{MAX_TENANTS, examine, expected};
pub use url::of_url;

use crate::config::{ConfigError, Env, NearMiss, Settings};

/// What is looked at.
pub struct Asked {
    /// The settings as they were set.
    pub env: Env,
    /// The settings, or what is wrong with them.
    pub settings: Result<Settings, Vec<ConfigError>>,
    /// Variables that are nearly settings.
    pub misses: Vec<NearMiss>,
    /// Only this tenant.
    pub tenant: Option<String>,
}

/// Looks at everything. Databases are not looked at with settings that cannot be used.
pub async fn run(asked: &Asked) -> Report {
    let mut part = Part { title: "Settings".to_owned(), ..Part::default() };
    part.findings.extend(asked.misses.iter().map(missed));
    let settings = match &asked.settings {
        Ok(settings) => settings,
        Err(problems) => {
            part.findings.extend(problems.iter().map(wrong));
            return Report { parts: vec![part] };
        }
    };
    part.findings.extend(secrets::judge(&asked.env, settings));
    part.right.push("all can be used".to_owned());
    elsewhere::judge(settings, &mut part).await;
    part.findings.sort_by_key(|finding| finding.severity);
    let mut report = Report { parts: vec![part] };
    tenants::judge(settings, asked.tenant.as_deref(), &mut report).await;
    report
}

/// What is wrong with secrets and the names of variables, for those who ask about settings alone.
#[must_use]
pub fn of_settings(env: &Env, settings: &Settings, misses: &[NearMiss]) -> Vec<Finding> {
    misses.iter().map(missed).chain(secrets::judge(env, settings)).collect()
}

fn wrong(problem: &ConfigError) -> Finding {
    let mend =
        vec![Step::Do(format!("correct {}: docs/configuration.md has its type and range", problem.name))];
    Finding::new(Code::SettingWrong, problem.to_string(), mend)
}

fn missed(miss: &NearMiss) -> Finding {
    let text = format!("{} is no setting, so it has no effect: {} is probably meant", miss.name, miss.meant);
    Finding::new(
        Code::SettingUnknown,
        text,
        vec![Step::Shell(format!("export {}=\"${}\"", miss.meant, miss.name))],
    )
}
