//! `realtime check-config`: the settings in force, and where each came from.

use std::fmt::Write as _;

use super::{
    Settings,
    env::Env,
    setting::{Group, Kind, Setting},
    table,
};

/// All settings in the form of the configuration file, each with its origin as a comment. Secrets are hidden.
#[must_use]
pub fn effective(env: &Env, settings: &Settings) -> String {
    let mut text = String::new();
    for group in table::GROUPS {
        write_group(&mut text, env, settings, group);
        text.push('\n');
    }
    write_tenants(&mut text, settings);
    if !env.ignored().is_empty() {
        let _ = writeln!(text, "# set, but without meaning here: {}", env.ignored().join(", "));
    }
    text
}

/// Writes a group as a table of the file, with the origins in one column.
fn write_group(text: &mut String, env: &Env, settings: &Settings, group: &Group) {
    let _ = writeln!(text, "[{}]", group.table);
    let lines: Vec<_> =
        group.settings.iter().map(|setting| (line(env, settings, setting), origin(env, setting))).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= 48).max();
    for (line, origin) in &lines {
        let _ = writeln!(text, "{line:width$}  # {origin}", width = width.unwrap_or_default());
    }
}

/// Writes where tenants are kept, and which ones are known from the start.
fn write_tenants(text: &mut String, settings: &Settings) {
    match &settings.metadata {
        Some(metadata) => {
            let config = &metadata.config;
            let _ = writeln!(
                text,
                "# tenants are those of the metadata database {} of {}:{}, written with {}",
                config.name,
                config.host,
                config.port,
                if config.ciphers.writes_gcm() { "AES-256-GCM" } else { "AES-128-ECB" }
            );
        }
        None => text.push_str("# tenants are those of the configuration: there is no metadata database\n"),
    }
    for tenant in &settings.tenants {
        let seeded = if settings.metadata.is_some() { ", made at the start" } else { "" };
        let database = &tenant.database;
        let default = if tenant.default { ", default" } else { "" };
        let _ = writeln!(
            text,
            "# tenant {}{seeded}{default}: database {} of {}:{} as {}, TLS {}",
            tenant.external_id,
            database.name,
            database.host,
            database.port,
            database.user,
            database.route.tls.mode()
        );
    }
    if settings.tenants.is_empty() && settings.metadata.is_none() {
        text.push_str("# no tenants\n");
    }
}

fn line(env: &Env, settings: &Settings, setting: &Setting) -> String {
    let key = setting.key;
    // Its default depends on where tenants are.
    if setting.name == "SEED_SELF_HOST" {
        return format!("{key} = {}", settings.seeds);
    }
    let Some(value) = env.text(setting.name) else { return format!("# {key} =") };
    match setting.kind {
        Kind::Secret => format!("# {key} = (hidden)"),
        Kind::Integer(_) => format!("{key} = {value}"),
        Kind::Boolean => {
            format!("{key} = {}", matches!(value.trim().to_ascii_lowercase().as_str(), "true" | "1"))
        }
        Kind::List => {
            let items: Vec<_> = env.list(setting.name).iter().map(|item| quoted(item)).collect();
            format!("{key} = [{}]", items.join(", "))
        }
        Kind::Text | Kind::Words(_) | Kind::Json | Kind::Path => format!("{key} = {}", quoted(&value)),
    }
}

fn origin(env: &Env, setting: &Setting) -> String {
    match env.found(setting.name) {
        Some(found) => format!("{}, {}", setting.name, found.origin),
        None if setting.default.is_empty() => format!("{}, not set", setting.name),
        None => format!("{}, default", setting.name),
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
