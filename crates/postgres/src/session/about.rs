//! What the owner of a stream tells those that follow: the publications that it reads.

use bytes::Bytes;

pub(super) fn about(publications: &[String]) -> Bytes {
    serde_json::to_vec(publications).unwrap_or_default().into()
}

pub(super) fn publications_of(about: &[u8]) -> Vec<String> {
    serde_json::from_slice(about).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_are_told() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(publications_of(&about(&names)), names);
    }
}
