//! A name and a password (RFC 7617).

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};
use secrecy::{ExposeSecret as _, SecretString};

use crate::answers::text;

/// Checks a name and a password. It compares digests, so that a good guess takes as long as a bad one.
pub struct Basic {
    user: digest::Digest,
    password: digest::Digest,
}

impl Basic {
    /// Accepts this name and password.
    pub fn new(user: &SecretString, password: &SecretString) -> Self {
        Self { user: hash(user.expose_secret()), password: hash(password.expose_secret()) }
    }

    /// The name of the person, if the password is right.
    pub fn admit(&self, headers: &HeaderMap) -> Option<String> {
        let (scheme, credentials) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let credentials = String::from_utf8(BASE64_STANDARD.decode(credentials.trim()).ok()?).ok()?;
        let (user, password) = credentials.split_once(':')?;
        let same = |expected: &digest::Digest, given: &str| {
            verify_slices_are_equal(expected.as_ref(), hash(given).as_ref()).is_ok()
        };
        // Both are always compared, so that the time does not tell whether the name was right.
        let (user_is, password_is) = (same(&self.user, user), same(&self.password, password));
        (user_is & password_is).then(|| user.to_owned())
    }
}

fn hash(word: &str) -> digest::Digest {
    digest::digest(&digest::SHA256, word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_both_words_comes_in() {
        let basic = Basic::new(&"ann".to_owned().into(), &"p:w é".to_owned().into());
        let admitted = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            basic.admit(&headers)
        };
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        let good = encoded("ann:p:w é");
        assert_eq!(admitted(&format!("Basic {good}")).as_deref(), Some("ann"));
        assert_eq!(admitted(&format!("basic {good}")).as_deref(), Some("ann"));
        for bad in ["ann:", "ann:p", ":p:w é", "bob:p:w é", "ann", ""] {
            assert_eq!(admitted(&format!("Basic {}", encoded(bad))), None, "{bad}");
        }
        for bad in [&*format!("Bearer {good}"), &good, "Basic", "Basic ", "Basic !!!", "Basic /w=="] {
            assert_eq!(admitted(bad), None, "{bad}");
        }
        assert_eq!(basic.admit(&HeaderMap::new()), None);
    }
}
