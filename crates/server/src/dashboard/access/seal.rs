//! Keeps other sites from acting in the name of a person who is logged in.
//!
//! Browsers send credentials along with any request. So each form carries a seal, made from a secret cookie that other
//! sites can neither read nor set. Browsers also tell which site a request comes from.

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret as _, SecretString};

use crate::answers::text;

/// The cookie.
const COOKIE: &str = "realtime_dashboard";

/// Makes and checks seals.
pub struct Seals(hmac::Key);

impl Seals {
    /// Makes seals with a secret.
    pub fn new(secret: &SecretString) -> Self {
        // A key of its own, because the secret may serve other purposes too.
        let base = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let derived = hmac::sign(&base, b"realtime dashboard forms");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// The seal of a cookie for a person.
    pub fn seal(&self, cookie: &str, who: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, message(cookie, who).as_bytes()))
    }

    /// Whether a seal is that of the cookie.
    pub fn is_right(&self, cookie: &str, who: &str, seal: &str) -> bool {
        let Ok(seal) = BASE64_URL_SAFE_NO_PAD.decode(seal) else { return false };
        hmac::verify(&self.0, message(cookie, who).as_bytes(), &seal).is_ok()
    }
}

/// Cookies have no line breaks, so no two pairs make the same message.
fn message(cookie: &str, who: &str) -> String {
    format!("{cookie}\n{who}")
}

/// The request's dashboard cookie.
pub fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
        .filter(|value| value.len() == 43)
}

/// A new cookie, and the header that sets it.
pub fn new_cookie(base: &str, secure: bool) -> (String, Option<HeaderValue>) {
    let value = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let secure = if secure { "; Secure" } else { "" };
    let header = format!("{COOKIE}={value}; Path={base}; HttpOnly; SameSite=Strict{secure}");
    (value, HeaderValue::from_str(&header).ok())
}

/// Whether a request comes from one of our own pages. False if the browser does not tell.
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    // Browsers do not send it over plain HTTP. If it is there, no proxy can have made it wrong.
    if let Some(site) = text(headers, "sec-fetch-site") {
        return site == "same-origin";
    }
    let (Some(origin), Some(host)) = (text(headers, header::ORIGIN), text(headers, header::HOST)) else {
        return false;
    };
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_belong_to_a_cookie_a_person_and_a_secret() {
        let seals = Seals::new(&"secret".to_owned().into());
        let seal = seals.seal("cookie", "ann");
        assert!(seals.is_right("cookie", "ann", &seal));
        assert!(
            Seals::new(&"secret".to_owned().into()).is_right("cookie", "ann", &seal),
            "on other nodes too"
        );
        assert!(!seals.is_right("cookie2", "ann", &seal));
        assert!(!seals.is_right("cookie", "bob", &seal));
        assert!(!seals.is_right("cookie", "ann", ""));
        assert!(!seals.is_right("cookie", "ann", "!"));
        assert!(!Seals::new(&"other".to_owned().into()).is_right("cookie", "ann", &seal));
    }

    #[test]
    fn cookies_come_back() {
        let (value, set) = new_cookie("/admin/dashboard", true);
        let set = set.unwrap().to_str().unwrap().to_owned();
        assert!(set.contains("; Path=/admin/dashboard; HttpOnly; SameSite=Strict; Secure"), "{set}");
        let mut headers = HeaderMap::new();
        let pair = set.split(';').next().unwrap();
        headers.insert(header::COOKIE, format!("a=b; {pair}; c=d").parse().unwrap());
        assert_eq!(cookie(&headers), Some(&*value));
        headers.insert(header::COOKIE, "realtime_dashboard=short".parse().unwrap());
        assert_eq!(cookie(&headers), None);
    }

    #[test]
    fn where_requests_come_from() {
        let from = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_same_origin(&pairs.collect::<HeaderMap>())
        };
        assert!(from(&[("sec-fetch-site", "same-origin")]));
        assert!(from(&[("origin", "https://a.example"), ("host", "A.example")]));
        assert!(from(&[("origin", "http://a:4000"), ("host", "a:4000")]));
        for bad in [
            &[][..],
            &[("host", "a")],
            &[("origin", "null"), ("host", "null")],
            &[("origin", "https://b"), ("host", "a")],
            &[("origin", "http://a:4000"), ("host", "a")],
            &[("sec-fetch-site", "same-site"), ("origin", "https://a"), ("host", "a")],
            &[("sec-fetch-site", "none"), ("origin", "https://a"), ("host", "a")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://a"), ("host", "a")],
        ] {
            assert!(!from(bad), "{bad:?}");
        }
    }
}
