//! Who may administer tenants (http_and_ops 1.1).

use realtime_auth::{Blocklist, ClaimValidators, Keys, Verifier};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, MutexGuard};

use crate::config::AdminSettings;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Everything.
    Administer,
    /// Only to ask whether a tenant exists. Self-hosted servers sign clients' tokens with the secret of
    /// administrators, and their containers check their health with the token that is in every browser (spec README,
    /// decision 9).
    Probe,
}

/// Who may administer tenants, and the order of their changes.
#[derive(Debug)]
pub struct Admin {
    verifiers: Vec<Verifier>,
    blocklist: Blocklist,
    /// Held while a tenant is changed and until its runtime has followed, so that runtimes follow in the order of the
    /// changes.
    changing: Mutex<()>,
}

impl Admin {
    /// Takes secrets and blocklist from the settings.
    #[must_use]
    pub fn new(settings: &AdminSettings, validators: &ClaimValidators) -> Self {
        let verifier = |secret: &secrecy::SecretString| {
            Verifier::new(Keys::new(Some(secret.expose_secret()), None), validators.clone())
        };
        Self {
            verifiers: settings.secrets.iter().map(verifier).collect(),
            blocklist: settings.blocklist.clone(),
            changing: Mutex::new(()),
        }
    }

    /// What a token allows at a Unix second; `None`: nothing. No claim is needed, but the role of a client takes the
    /// rights away ([`is_of_operator`]).
    #[must_use]
    pub fn right(&self, token: &str, now: u64) -> Option<Right> {
        if self.blocklist.contains(token) {
            return None;
        }
        let claims = self.verifiers.iter().find_map(|verifier| verifier.verify_any(token, now).ok())?;
        Some(if is_of_operator(&claims) { Right::Administer } else { Right::Probe })
    }

    /// Waits for the turn to change a tenant.
    pub async fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }
}

/// Whether a token is an operator's: it has no role, or that of services. If one secret signs the tokens of operators
/// and clients, every other role is a client's, whatever its name and type (spec README, decision 9).
#[must_use]
pub fn is_of_operator(claims: &Map<String, Value>) -> bool {
    claims.get("role").is_none_or(|role| role == "service_role")
}

#[cfg(test)]
mod tests {
    use realtime_auth::sign_hs256;
    use secrecy::SecretString;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn admin(secrets: &[&str], blocked: &str) -> Admin {
        let secrets = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
        let settings = AdminSettings { secrets, blocklist: Blocklist::parse(blocked) };
        Admin::new(&settings, &ClaimValidators::default())
    }

    fn right(admin: &Admin, secret: &str, claims: &str) -> Option<Right> {
        admin.right(&sign_hs256(secret, claims), NOW)
    }

    /// http_and_ops 2, 3, 4, 6
    #[test]
    fn any_of_the_secrets_and_no_claims() {
        assert_eq!(right(&admin(&[], ""), "", "{}"), None);
        let both = admin(&["now", "next"], "");
        assert_eq!(right(&both, "now", "{}"), Some(Right::Administer));
        assert_eq!(right(&both, "next", r#"{"exp":1000001}"#), Some(Right::Administer));
        assert_eq!(right(&both, "other", "{}"), None);
        assert_eq!(right(&both, "now", r#"{"exp":999995}"#), None);
        assert_eq!(both.right("potato", NOW), None);
        let token = sign_hs256("now", "{}");
        let blocking = admin(&["now"], &format!("x,{token}"));
        assert_eq!(blocking.right(&token, NOW), None);
        for otherwise in [token.replace('.', "%2e"), format!("{token}="), format!(" {token}%3d")] {
            assert_eq!(blocking.right(&otherwise, NOW), None, "the same token, written otherwise");
            assert_eq!(both.right(&otherwise, NOW), Some(Right::Administer), "{otherwise}");
        }
    }

    /// spec README, decision 9
    #[test]
    fn tokens_of_clients_are_no_administrators() {
        let admin = admin(&["now"], "");
        for role in [
            r#""anon""#,
            r#""authenticated""#,
            r#""Authenticated""#,
            r#""staff""#,
            r#""""#,
            r#"" service_role""#,
            r#""SERVICE_ROLE""#,
            r#"["authenticated"]"#,
            r#"["service_role"]"#,
            r#"{"service_role":true}"#,
            "null",
            "true",
            "0",
        ] {
            assert_eq!(right(&admin, "now", &format!(r#"{{"role":{role}}}"#)), Some(Right::Probe), "{role}");
        }
        assert_eq!(right(&admin, "now", r#"{"role":"service_role"}"#), Some(Right::Administer));
    }
}
