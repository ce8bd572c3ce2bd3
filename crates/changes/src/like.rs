//! LIKE patterns: `%` any run, `_` one character, backslash makes the next character plain.

/// Whether a text matches a pattern. A pattern must not end in a lone backslash: the database refuses it.
pub(crate) fn matches(text: &str, pattern: &str) -> bool {
    // On a mismatch the last `%` takes one character more; earlier ones need no second look.
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let mut next = pattern.clone();
        let matched = match next.next() {
            Some('%') => {
                retry = Some((text.clone(), next.clone()));
                pattern = next;
                continue;
            }
            None if text.as_str().is_empty() => return true,
            None => false,
            Some('_') => text.next().is_some(),
            Some('\\') => next.next().is_some_and(|plain| text.next() == Some(plain)),
            Some(plain) => text.next() == Some(plain),
        };
        if matched {
            pattern = next;
            continue;
        }
        let Some((from, after)) = &mut retry else { return false };
        if from.next().is_none() {
            return false;
        }
        (text, pattern) = (from.clone(), after.clone());
    }
}

/// Whether a pattern ends in a backslash that makes nothing plain.
pub(crate) fn ends_in_escape(pattern: &str) -> bool {
    pattern.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (text, pattern, expected) in [
            ("hello", "hel%", true),
            ("hello", "hel_", false),
            ("hello", "h_l_o", true),
            ("hello", "%l%l%", true),
            ("hello", "%l%l%l%", false),
            ("", "%", true),
            ("", "", true),
            ("a", "", false),
            ("é☃", "__", true),
            ("100%", r"100\%", true),
            ("1000", r"100\%", false),
            (r"a\b", r"a\\b", true),
            ("aXbXc", "a%b%c", true),
            ("aab", "%ab", true),
        ] {
            assert_eq!(matches(text, pattern), expected, "{text} like {pattern}");
        }
        assert!(!matches(&"a".repeat(5000), &format!("{}b", "%a".repeat(50))));
        assert!(ends_in_escape(r"a\") && !ends_in_escape(r"a\\") && !ends_in_escape("a"));
    }
}
