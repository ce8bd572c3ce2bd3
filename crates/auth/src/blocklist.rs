//! Tokens that are always refused.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret as _, SecretString};

use crate::token::clean;

/// Tokens that are refused before they are verified (`API_TOKEN_BLOCKLIST`, `METRICS_TOKEN_BLOCKLIST`).
#[derive(Clone, Default)]
pub struct Blocklist(Vec<SecretString>);

impl Blocklist {
    /// Reads a list separated by commas.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let tokens = list.split(',').filter_map(canonical).filter(|token| !token.is_empty());
        Self(tokens.map(SecretString::from).collect())
    }

    /// Whether a token is on the list, in any spelling (http_and_ops 0.2). Takes the same time for all tokens.
    #[must_use]
    pub fn contains(&self, token: &str) -> bool {
        let Some(token) = canonical(token) else { return false };
        let is = |blocked: &SecretString| {
            verify_slices_are_equal(blocked.expose_secret().as_bytes(), token.as_bytes()).is_ok()
        };
        self.0.iter().fold(false, |found, blocked| is(blocked) | found)
    }
}

/// The normal form of all texts that are verified as the same token: cleaned, and without padding after the signature, which
/// is not signed. All other bytes are signed, or are the signature.
fn canonical(token: &str) -> Option<String> {
    let mut token = clean(token).ok()?;
    token.truncate(token.trim_end_matches('=').len());
    Some(token)
}

impl fmt::Debug for Blocklist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocklist({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_cleaned_first() {
        let list = Blocklist::parse("a.b.c, d.e.f ,");
        assert!(list.contains("a.b.c") && list.contains(" a.b%2Ec\n") && list.contains("d.e.f"));
        assert!(
            list.contains("a.b.c=")
                && list.contains("d.e.f%3D=")
                && Blocklist::parse("a.b.c==").contains("a.b.c")
        );
        assert!(!list.contains("a.b") && !list.contains("a.b.cc") && !list.contains(""));
        assert!(!Blocklist::parse("").contains(""));
    }
}
