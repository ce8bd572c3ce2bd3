//! Agreeing on compressed messages in the handshake (permessage-deflate, RFC 7692 5 and 7.1).

use http::{HeaderMap, HeaderValue, header};

/// The extension's name.
const NAME: &str = "permessage-deflate";

/// The largest window, with which messages are compressed (RFC 7692 7.1.2.1).
const WINDOW: u8 = 15;

/// What server and client have agreed on. Messages of clients may be compressed, and none refers to an earlier one: so
/// nothing is kept between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The window that the client can read, if it has said so.
    server_window: Option<u8>,
}

impl Agreed {
    /// Accepts the first of a client's offers that can be accepted. `None`: there is none, and messages are not compressed.
    #[must_use]
    pub fn with(headers: &HeaderMap) -> Option<Self> {
        let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
        let mut offers = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        offers.find_map(accept)
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    #[must_use]
    pub fn answer(self) -> Option<HeaderValue> {
        let agreed = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        let window = self.server_window.map(|bits| format!("; server_max_window_bits={bits}"));
        HeaderValue::try_from(agreed + &window.unwrap_or_default()).ok()
    }

    /// Whether messages to the client are compressed. Compressed frames are shared, so they are made with one window; a client
    /// that can read a smaller one alone gets its messages as they are, which is always allowed (RFC 7692 6).
    #[must_use]
    pub fn packs(self) -> bool {
        self.server_window.is_none_or(|bits| bits == WINDOW)
    }
}

/// Accepts an offer: an extension with its parameters. What is unknown, wrong or said twice declines it (RFC 7692 7.1).
fn accept(offer: &str) -> Option<Agreed> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some(NAME) {
        return None;
    }
    let mut server_window = None;
    let mut seen: [Option<&str>; 4] = [None; 4];
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquote(value.trim_start())?)),
            None => (part, None),
        };
        if seen.contains(&Some(name)) {
            return None;
        }
        // There are four parameters, so a fifth is none of them or the second of its name.
        *seen.iter_mut().find(|place| place.is_none())? = Some(name);
        match (name, value) {
            (
                "server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits",
                None,
            ) => {}
            // Any window can be read.
            ("client_max_window_bits", Some(bits)) => {
                window(bits)?;
            }
            ("server_max_window_bits", Some(bits)) => server_window = Some(window(bits)?),
            _ => return None,
        }
    }
    Some(Agreed { server_window })
}

/// The value of a parameter, which may stand in quotes.
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// A window: 8 to 15, without leading zeros.
fn window(bits: &str) -> Option<u8> {
    let is_plain = !bits.starts_with('0') && bits.bytes().all(|byte| byte.is_ascii_digit());
    bits.parse().ok().filter(|bits| is_plain && (8..=WINDOW).contains(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer(offers: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(header::SEC_WEBSOCKET_EXTENSIONS, offer.parse().unwrap());
        }
        Agreed::with(&headers).map(|agreed| agreed.answer().unwrap().to_str().unwrap().to_owned())
    }

    /// What browsers and libraries offer.
    #[test]
    fn offers_are_answered_without_context_take_over() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=8",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate ; client_max_window_bits = \"15\" ;server_no_context_takeover",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(BOTH), "{offer}");
            assert!(accept(offer).unwrap().packs());
        }
    }

    #[test]
    fn windows_are_those_of_the_rfc() {
        for bits in 8..=15 {
            let agreed = accept(&format!("permessage-deflate; server_max_window_bits={bits}")).unwrap();
            assert_eq!(agreed.answer().unwrap(), format!("{BOTH}; server_max_window_bits={bits}"));
            assert_eq!(agreed.packs(), bits == 15);
        }
        for bits in ["", "7", "16", "08", "+9", "9.0", "x", "\"9", "9\"", "265", "-9"] {
            for name in ["server_max_window_bits", "client_max_window_bits"] {
                assert_eq!(accept(&format!("permessage-deflate; {name}={bits}")), None, "{bits}");
            }
        }
    }

    #[test]
    fn wrong_offers_are_declined() {
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate;",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; a; b; c; d; e",
            "permessage-deflate=1",
            "PERMESSAGE-DEFLATE",
            "x-webkit-deflate-frame",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
    }

    #[test]
    fn the_first_offer_that_can_be_accepted_is() {
        let both = Some(BOTH);
        assert_eq!(answer(&["x, permessage-deflate; unknown, permessage-deflate"]).as_deref(), both);
        assert_eq!(answer(&["x; y=\"1\"", "permessage-deflate"]).as_deref(), both);
        let small = "permessage-deflate; server_max_window_bits=9, permessage-deflate";
        assert_eq!(answer(&[small]).unwrap(), format!("{BOTH}; server_max_window_bits=9"));
        assert_eq!(answer(&[]), None);
    }
}
