//! `ref` and `join_ref`.

/// A message reference: null, or the JSON token that the client sent, which is echoed to the letter.
///
/// The official clients send strings; numbers are echoed as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ref(Option<Box<str>>);

impl Ref {
    /// The null reference.
    #[must_use]
    pub const fn null() -> Self {
        Self(None)
    }

    /// A reference from its JSON token.
    pub(crate) fn from_json(token: &str) -> Self {
        Self((token != "null").then(|| token.into()))
    }

    /// A reference from a binary frame, where it is a string; an empty one is not null (protocol 2.3).
    pub(crate) fn from_text(text: &str) -> Self {
        let mut token = Vec::with_capacity(text.len() + 2);
        crate::write_json_string(&mut token, text);
        Self(String::from_utf8(token).ok().map(String::into_boxed_str))
    }

    /// Whether it is null.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// Its JSON token.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.as_deref().unwrap_or("null")
    }
}
