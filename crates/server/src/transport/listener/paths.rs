//! Paths in the form that routes expect.

use std::borrow::Cow;

use http::{
    Uri,
    uri::{Parts, PathAndQuery},
};

/// Removes empty segments of a path: `/socket//websocket` and `/api/ping/` mean the same as without. Clients make such
/// paths from a base address that ends with a slash, and the reference accepts them.
pub(super) fn straighten(uri: &mut Uri) {
    let Cow::Owned(mut path) = straight(uri.path()) else { return };
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let Ok(path) = PathAndQuery::try_from(path) else { return };
    let mut parts: Parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    // The parts of a valid address with another path always make a valid address.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

fn straight(path: &str) -> Cow<'_, str> {
    let is_straight = !path.contains("//") && (path.len() == 1 || !path.ends_with('/'));
    if is_straight || !path.starts_with('/') {
        return Cow::Borrowed(path);
    }
    let mut straight = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        straight.push('/');
        straight.push_str(segment);
    }
    if straight.is_empty() {
        straight.push('/');
    }
    Cow::Owned(straight)
}

/// Whether a path is text once it is decoded.
#[must_use]
pub fn is_text(path: &str) -> bool {
    percent_encoding::percent_decode_str(path).decode_utf8().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_mean_nothing() {
        for (path, expected) in [
            ("/", "/"),
            ("/a", "/a"),
            ("//", "/"),
            ("/a/", "/a"),
            ("//a//b///", "/a/b"),
            ("/socket//websocket?apikey=a//b&x=/", "/socket/websocket?apikey=a//b&x=/"),
            ("/a/%2f/b", "/a/%2f/b"),
            ("/?a=//", "/?a=//"),
            ("http://host:1//a/?b", "http://host:1/a?b"),
            ("*", "*"),
        ] {
            let mut uri: Uri = path.parse().unwrap();
            straighten(&mut uri);
            assert_eq!(uri.to_string(), expected.parse::<Uri>().unwrap().to_string(), "{path}");
        }
    }

    #[test]
    fn text() {
        assert!(is_text("/a%20b/%C3%BC"));
        assert!(!is_text("/a/%ff"));
    }
}
