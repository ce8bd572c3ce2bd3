//! Documentation of settings: `realtime serve --help` and `docs/configuration.md`, written from the table.

use std::fmt::Write as _;

use super::{
    ignored::{IGNORED, Why},
    setting::{Kind, Setting},
    table::GROUPS,
};

/// Width of help texts, in characters.
const WIDTH: usize = 100;

/// The settings for `--help`, wrapped.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "Settings are environment variables, or keys of a TOML file (--config); docs/configuration.md has all of it.\n",
    );
    for group in GROUPS {
        let _ = write!(text, "\n{} [{}]\n", group.title, group.table);
        for setting in group.settings {
            let _ = writeln!(text, "  {} ({})", setting.name, value(setting));
            wrap(&mut text, &plain(setting.meaning), 6);
        }
    }
    text
}

fn value(setting: &Setting) -> String {
    match (setting.kind, setting.default) {
        (Kind::Secret, _) | (_, "") => setting.kind.describe(),
        (kind, default) => format!("{}; {default}", kind.describe()),
    }
}

/// A text without the marks of Markdown.
fn plain(meaning: &str) -> String {
    meaning.replace('`', "")
}

fn wrap(text: &mut String, sentence: &str, indent: usize) {
    let mut column = 0;
    for word in sentence.split(' ') {
        if column == 0 || column + 1 + word.len() > WIDTH {
            if column > 0 {
                text.push('\n');
            }
            let _ = write!(text, "{:indent$}{word}", "");
            column = indent + word.len();
        } else {
            let _ = write!(text, " {word}");
            column += 1 + word.len();
        }
    }
    text.push('\n');
}

/// How settings are given, before the tables.
const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `scripts/reference` from the table of settings in the code. -->

Every setting is an environment variable, and a key of an optional TOML file: `realtime --config FILE`, or
`REALTIME_CONFIG=FILE`. The environment overrides the file. Secrets can be in files of their own, as Docker and
Kubernetes mount them: the variable `NAME_FILE`, or the key `key_file`, names one.

`realtime check-config` prints what counts, with secrets hidden, in the form of the file, and says of each setting where
it came from. A setting that cannot be used ends the start with exit code 64 and one line; an unknown key of the file is
an error, with line and column.

Whole numbers are strict: `12ms` is an error. `true`, `1`, `false` and `0` are understood in any case and with white
space around them. Lists have commas between their items. A variable that is set to nothing counts as not set. Paths in
the file are relative to the file.

```toml
[server]
port = 4000

[auth]
metrics_jwt_secret_file = \"/run/secrets/metrics\"

[database]
host = \"db.internal\"
user = \"realtime\"
password_file = \"/run/secrets/db_password\"
ssl_mode = \"verify-full\"
ssl_ca_cert = \"ca.pem\"

[auth.claim_validators]
iss = \"https://auth.example\"

[[tenants]]
external_id = \"shop\"
default = true
jwt_secret_file = \"/run/secrets/shop\"

[[tenants]]
external_id = \"lab\"
jwks_file = \"lab-jwks.json\"
limits = { max_concurrent_users = 50 }
database = { host = \"lab.internal\", name = \"lab\" }
```
";

/// The tenants of a file, after the tables.
const TENANTS: &str = "
## Tenants `[[tenants]]`

Several tenants without a metadata database. What one leaves out of `limits` and `database` is as the settings above
have it. Where the file has tenants, the environment describes none unless `SEED_SELF_HOST` is set to true.

| key | meaning |
| --- | --- |
| `external_id` | name; the first label of the host that clients connect to |
| `default` | hosts that name no tenant mean this one; of one tenant at most |
| `jwt_secret`, `jwt_secret_file` | secret of its HS256, HS384 and HS512 tokens |
| `jwks`, `jwks_file` | JSON Web Key Set of its other tokens: a table, or JSON in a string. It needs a secret or a key set |
| `private_only` | only private channels may be joined |
| `suspend` | no connection is accepted |
| `presence_enabled` | as `TENANT_PRESENCE_ENABLED` |
| `limits` | `max_concurrent_users`, `max_channels_per_client`, `max_joins_per_second`, `max_events_per_second`, `max_presence_events_per_second`, `client_presence_max_calls`, `client_presence_window_ms`, `max_payload_size_in_kb`, `broadcast_history_seconds`, `broadcast_history_messages` |
| `database` | `host`, `port`, `name`, `user`, `password`, `password_file`, `ssl_mode`, `ssl_ca_cert`, `ip_version`, `pool_size`, `publication`, `slot_name_suffix`, `slot_durable`, `max_lag_mb`, `idle_stop_ms` |
";

/// The reference page.
#[must_use]
pub fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    for group in GROUPS {
        let _ = write!(text, "\n## {} `[{}]`\n\n", group.title, group.table);
        text.push_str("| variable | key | value | default | meaning |\n| --- | --- | --- | --- | --- |\n");
        for setting in group.settings {
            let file = if setting.kind == Kind::Secret { ", or in a file" } else { "" };
            let default = match setting.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let _ = writeln!(
                text,
                "| `{}` | `{}` | {}{file} | {default} | {} |",
                setting.name,
                setting.key,
                setting.kind.describe(),
                setting.meaning
            );
        }
    }
    text.push_str(TENANTS);
    text.push_str(
        "\n## Accepted and ignored\n\nVariables of Supabase Realtime and of older servers that mean nothing here. \
         One line at start names those that are set.\n",
    );
    for why in Why::ALL {
        let names: Vec<_> = IGNORED
            .iter()
            .filter(|(_, reason)| *reason == why)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        if !names.is_empty() {
            let _ = write!(text, "\n{}:\n{}.\n", why.describe(), names.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let written =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md"));
        assert!(written.unwrap().trim_end() == page().trim_end(), "run scripts/reference");
    }
}
