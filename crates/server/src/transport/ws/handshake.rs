//! The upgrade request (RFC 6455 4.2, protocol 1.7).

use http::{HeaderMap, HeaderValue, Method, header};

/// The subprotocol that clients offer: Phoenix channels.
const SUBPROTOCOLS: [&str; 1] = ["phoenix"];

/// Why a request is not a valid upgrade. The text is the body of the 400 answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnUpgrade {
    /// The method is not GET. Answered with an empty body.
    #[error("")]
    Method,
    /// A header does not contain what it must.
    #[error("'{name}' header must contain '{expected}', got {got:?}")]
    Header {
        /// Header name.
        name: &'static str,
        /// The token that is missing.
        expected: &'static str,
        /// The values that were sent.
        got: Vec<String>,
    },
    /// `Sec-WebSocket-Key` is missing.
    #[error("'sec-websocket-key' header is missing")]
    Key,
}

/// The value of `Sec-WebSocket-Accept` for a valid upgrade request.
///
/// # Errors
/// [`NotAnUpgrade`] names the first thing that is missing.
pub fn accept(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, NotAnUpgrade> {
    if method != Method::GET {
        return Err(NotAnUpgrade::Method);
    }
    must_contain(headers, &header::CONNECTION, "connection", "upgrade")?;
    must_contain(headers, &header::UPGRADE, "upgrade", "websocket")?;
    must_contain(headers, &header::SEC_WEBSOCKET_VERSION, "sec-websocket-version", "13")?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(NotAnUpgrade::Key)?;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    HeaderValue::try_from(accept).map_err(|_| NotAnUpgrade::Key)
}

/// The subprotocol to agree on: the first one offered that is known. A browser ends the connection if it offered
/// subprotocols and the server chooses none, or one that was not offered.
#[must_use]
pub fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let chosen = offered.find_map(|name| SUBPROTOCOLS.into_iter().find(|known| *known == name.trim()));
    chosen.map(HeaderValue::from_static)
}

/// Checks that a comma-separated header contains a token, in any case.
fn must_contain(
    headers: &HeaderMap,
    name: &header::HeaderName,
    shown: &'static str,
    expected: &'static str,
) -> Result<(), NotAnUpgrade> {
    let got: Vec<String> = headers
        .get_all(name)
        .iter()
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .map(|v| v.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    if got.iter().any(|value| value.eq_ignore_ascii_case(expected)) {
        return Ok(());
    }
    Err(NotAnUpgrade::Header { name: shown, expected, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> HeaderMap {
        let pairs = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect()
    }

    /// The example of RFC 6455 1.3.
    #[test]
    fn accepts_the_rfcs_example() {
        assert_eq!(accept(&Method::GET, &request()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_known_subprotocol_is_chosen() {
        let chosen = |offers: &[&str]| {
            let mut headers = request();
            for offer in offers {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
            }
            subprotocol(&headers).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&["soap"]), None);
        assert_eq!(chosen(&["Phoenix", ""]), None, "names are compared as they are");
        assert_eq!(chosen(&["phoenix"]).as_deref(), Some("phoenix"));
        assert_eq!(chosen(&["soap , phoenix,x"]).as_deref(), Some("phoenix"));
        assert_eq!(chosen(&["soap", "phoenix"]).as_deref(), Some("phoenix"));
    }

    #[test]
    fn names_what_is_missing() {
        assert_eq!(accept(&Method::POST, &request()), Err(NotAnUpgrade::Method));
        for (name, text) in [
            ("connection", "'connection' header must contain 'upgrade', got []"),
            ("upgrade", "'upgrade' header must contain 'websocket', got []"),
            ("sec-websocket-version", "'sec-websocket-version' header must contain '13', got []"),
            ("sec-websocket-key", "'sec-websocket-key' header is missing"),
        ] {
            let mut headers = request();
            headers.remove(name);
            assert_eq!(accept(&Method::GET, &headers).unwrap_err().to_string(), text);
        }
    }
}
