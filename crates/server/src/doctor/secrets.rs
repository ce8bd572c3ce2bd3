//! Secrets that are missing, short, the same, or known to everybody.

use realtime_auth::Jwks;
use realtime_doctor::{Code, Finding, Step};
use realtime_tenants::Tenant;
use secrecy::ExposeSecret as _;

use crate::config::{Env, Settings, WELL_KNOWN};

/// HS256 is as strong as its secret only from this length on (RFC 7518, 3.2).
const SHORTEST: usize = 32;

/// Settings with secrets that sign tokens.
const SIGNING: &[&str] = &["API_JWT_SECRET", "API_JWT_SECRET_NEXT", "METRICS_JWT_SECRET"];

/// Settings with other secrets that must not be those of anything else.
const OTHERS: &[&str] =
    &["DB_PASSWORD", "DASHBOARD_PASSWORD", "SECRET_KEY_BASE", "DB_ENC_KEY", "DB_ENC_KEY_GCM"];

/// A secret by the name under which it was set.
struct Secret {
    name: String,
    value: String,
    signs: bool,
}

pub(super) fn judge(env: &Env, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.well_known_secret {
        let text = "API_JWT_SECRET is not set: tokens are verified with a secret that everybody knows";
        findings.push(Finding::new(Code::SecretMissing, text, vec![fresh("API_JWT_SECRET")]));
    }
    let secrets = secrets(env, settings);
    for Secret { name, value, signs } in &secrets {
        if WELL_KNOWN.contains(&value.as_str()) {
            let text = format!("{name} is a secret that examples use, which everybody knows");
            findings.push(Finding::new(Code::SecretWellKnown, text, vec![fresh(name)]));
        } else if *signs && value.len() < SHORTEST {
            let text = format!("{name} has {} bytes; {SHORTEST} are needed", value.len());
            findings.push(Finding::new(Code::SecretShort, text, vec![fresh(name)]));
        }
    }
    if env.text("DB_PASSWORD").as_deref() == Some("postgres") {
        let text = "DB_PASSWORD is postgres, the default";
        let mend =
            vec![Step::Do("give the role a password of its own, and set DB_PASSWORD to it".to_owned())];
        findings.push(Finding::new(Code::PasswordWellKnown, text, mend));
    }
    equal(&secrets, &mut findings);
    key_sets(env, settings, &mut findings);
    findings
}

fn fresh(name: &str) -> Step {
    Step::Shell(format!("export {name}=\"$(openssl rand -base64 48)\""))
}

fn secrets(env: &Env, settings: &Settings) -> Vec<Secret> {
    let set = |name: &&str, signs| {
        let value = env.found(name)?.value.clone();
        Some(Secret { name: (*name).to_owned(), value, signs })
    };
    let signing = SIGNING.iter().filter_map(|name| set(name, true));
    let others = OTHERS.iter().filter_map(|name| set(name, false));
    let mut all: Vec<Secret> = signing.chain(others).collect();
    // The environment's tenant has a secret of these.
    let of_file = settings.tenants.iter().filter(|tenant| {
        env.tenants().iter().any(|entry| entry.external_id.eq_ignore_ascii_case(&tenant.external_id))
    });
    for tenant in of_file {
        if let Some(secret) = &tenant.jwt_secret {
            let name = format!("jwt_secret of tenant {}", tenant.external_id);
            all.push(Secret { name, value: secret.expose_secret().to_owned(), signs: true });
        }
    }
    all
}

/// Each secret is compared with those after it.
fn equal(secrets: &[Secret], findings: &mut Vec<Finding>) {
    for (at, secret) in secrets.iter().enumerate() {
        let same = secrets.iter().skip(at + 1).find(|other| other.value == secret.value);
        if let Some(same) = same {
            let text = format!("{} and {} are the same secret", secret.name, same.name);
            findings.push(Finding::new(Code::SecretsEqual, text, vec![fresh(&same.name)]));
        }
    }
}

/// What is wrong with the key sets of tenants that settings name.
fn key_sets(env: &Env, settings: &Settings, findings: &mut Vec<Finding>) {
    for tenant in &settings.tenants {
        let of_file =
            env.tenants().iter().any(|entry| entry.external_id.eq_ignore_ascii_case(&tenant.external_id));
        let place = if of_file { "jwks of the tenant in the configuration file" } else { "API_JWT_JWKS" };
        findings.extend(key_set(tenant, place));
    }
}

/// What is wrong with a tenant's key set, if it has one. `place`: where it is set.
pub(super) fn key_set(tenant: &Tenant, place: &str) -> Option<Finding> {
    let text = tenant.jwt_jwks.as_deref()?;
    let why = match Jwks::parse(text) {
        Ok(set) if set.is_usable() => return None,
        Ok(_) => "has no key that can be used".to_owned(),
        Err(error) => format!("cannot be read: it {error}"),
    };
    let text = format!("The key set of tenant {} {why}", tenant.external_id);
    let mend = vec![Step::Do(format!("copy the key set of whoever signs the tokens to {place}"))];
    Some(Finding::new(Code::KeySetEmpty, text, mend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(pairs: &[(&str, &str)]) -> Vec<&'static str> {
        let lookup =
            |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let env = Env::new(&lookup);
        let settings = Settings::from_env(&env).unwrap();
        judge(&env, &settings).iter().map(|finding| finding.code.as_str()).collect()
    }

    const LONG: &str = "0123456789012345678901234567890123456789";
    const OTHER: &str = "abcdefghijabcdefghijabcdefghijabcdefghij";

    #[test]
    fn each_fault_of_a_secret_is_named() {
        assert_eq!(codes(&[("API_JWT_SECRET", LONG), ("DB_PASSWORD", OTHER)]), [""; 0]);
        assert_eq!(codes(&[]), ["SecretMissing", "PasswordWellKnown"]);
        let secrets = [("API_JWT_SECRET", "short"), ("DB_PASSWORD", "short")];
        assert_eq!(codes(&secrets), ["SecretShort", "SecretsEqual"]);
        assert_eq!(codes(&[("API_JWT_SECRET", WELL_KNOWN[1]), ("DB_PASSWORD", OTHER)]), ["SecretWellKnown"]);
        for jwks in [r#"{"keys":[{"kty":"new"}]}"#, r#"{"keys":[{"kty":"RSA","n":"AA"}]}"#, r#"{"keys":[]}"#]
        {
            let no_key = [("API_JWT_SECRET", LONG), ("DB_PASSWORD", OTHER), ("API_JWT_JWKS", jwks)];
            assert_eq!(codes(&no_key), ["KeySetEmpty"], "{jwks}");
        }
        let jwks = r#"{"keys":[{"kty":"new"},{"kty":"oct","k":"AAAA"}]}"#;
        let a_key = [("API_JWT_SECRET", LONG), ("DB_PASSWORD", OTHER), ("API_JWT_JWKS", jwks)];
        assert_eq!(codes(&a_key), [""; 0]);
    }

    #[test]
    fn no_secret_is_shown() {
        let lookup = |name: &str| (name == "API_JWT_SECRET").then(|| "s3cret".to_owned());
        let env = Env::new(&lookup);
        let findings = judge(&env, &Settings::from_env(&env).unwrap());
        assert!(!format!("{findings:?}").contains("s3cret"));
    }
}
