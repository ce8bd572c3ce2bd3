//! Regular expressions that mean the same here as in PostgreSQL: those made of plain characters, `.`, simple brackets,
//! groups, alternatives, quantifiers and the two anchors. Whether such an expression matches somewhere in a text depends
//! on no locale, no option and no preference among matches. All others are left to the database.
//!
//! They are evaluated in time that is linear in the text, with a factor that is at most the size of the expression.

use std::fmt::Write as _;

use regex::Regex;

/// Largest expression, in atoms with repetitions written out.
const MAX_SIZE: usize = 200;

/// Most that is done for a text in the worst case, as its bytes times the size of the expression: some milliseconds.
const MAX_STEPS: usize = 500_000;

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 8;

/// Memory of an expression in bytes, and of what it learns while it is used.
const MAX_MEMORY: usize = 256 * 1024;

/// An expression that is evaluated here.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    regex: Regex,
    size: usize,
}

impl Pattern {
    /// Compiles an expression that the database has accepted. `None` if it is left to the database.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let mut reader = Reader { rest: pattern.chars().peekable(), out: String::new() };
        let size = reader.alternatives(0)?;
        if reader.rest.next().is_some() || size > MAX_SIZE {
            return None;
        }
        let mut builder = regex::RegexBuilder::new(&reader.out);
        let regex = builder.size_limit(MAX_MEMORY).dfa_size_limit(MAX_MEMORY).build().ok()?;
        Some(Self { regex, size })
    }

    /// Whether a text has a match. `None` if it is so long that the database should be asked.
    pub(crate) fn matches(&self, text: &str) -> Option<bool> {
        (text.len().saturating_mul(self.size) <= MAX_STEPS).then(|| self.regex.is_match(text))
    }
}

/// Reads an expression and writes it for the library.
struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    out: String,
}

impl Reader<'_> {
    /// Branches between `|`, up to the end or a `)`; their size.
    fn alternatives(&mut self, depth: usize) -> Option<usize> {
        let mut size = self.branch(depth)?;
        while self.rest.next_if_eq(&'|').is_some() {
            self.out.push('|');
            size += self.branch(depth)?;
        }
        Some(size)
    }

    /// Atoms and anchors in a row, at least one.
    fn branch(&mut self, depth: usize) -> Option<usize> {
        let mut size = 0;
        while let Some(c) = self.rest.peek().copied() {
            size += match c {
                '|' | ')' => break,
                '^' | '$' => {
                    self.rest.next();
                    self.out.push_str(if c == '^' { r"\A" } else { r"\z" });
                    // A quantifier after an anchor is an error, or means something else.
                    if matches!(self.rest.peek(), Some('*' | '+' | '?' | '{')) {
                        return None;
                    }
                    1
                }
                _ => {
                    let atom = self.atom(depth)?;
                    atom.checked_mul(self.quantifier()?)?
                }
            };
            if size > MAX_SIZE {
                return None;
            }
        }
        (size > 0).then_some(size)
    }

    fn atom(&mut self, depth: usize) -> Option<usize> {
        match self.rest.next()? {
            '(' => {
                if depth >= MAX_DEPTH {
                    return None;
                }
                if self.rest.next_if_eq(&'?').is_some() {
                    self.rest.next_if_eq(&':')?;
                }
                self.out.push_str("(?:");
                let size = self.alternatives(depth + 1)?;
                self.rest.next_if_eq(&')')?;
                self.out.push(')');
                Some(size)
            }
            '[' => self.bracket(),
            '.' => {
                self.out.push_str("(?s:.)");
                Some(1)
            }
            '\\' => {
                let c = self.rest.next().filter(char::is_ascii_punctuation)?;
                self.plain(c);
                Some(1)
            }
            '*' | '+' | '?' | '{' | '}' | ']' => None,
            c => {
                self.plain(c);
                Some(1)
            }
        }
    }

    fn plain(&mut self, c: char) {
        self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }

    /// How often the atom before it is repeated at most, where that is written; it is larger then.
    fn quantifier(&mut self) -> Option<usize> {
        let times = match self.rest.peek() {
            Some(c @ ('*' | '+' | '?')) => {
                self.out.push(*c);
                self.rest.next();
                1
            }
            Some('{') => {
                self.rest.next();
                self.bounds()?
            }
            _ => return Some(1),
        };
        // Which match is preferred makes no difference to whether there is one.
        self.rest.next_if_eq(&'?');
        let again = matches!(self.rest.peek(), Some('*' | '+' | '?' | '{'));
        (!again).then_some(times)
    }

    /// `m}`, `m,}` or `m,n}`.
    fn bounds(&mut self) -> Option<usize> {
        let least = self.number()?;
        let mut most = least;
        let _ = write!(self.out, "{{{least}");
        if self.rest.next_if_eq(&',').is_some() {
            self.out.push(',');
            if self.rest.peek() != Some(&'}') {
                most = self.number()?;
                let _ = write!(self.out, "{most}");
            }
        }
        self.rest.next_if_eq(&'}')?;
        self.out.push('}');
        (least <= most).then_some(most.max(1))
    }

    fn number(&mut self) -> Option<usize> {
        let mut digits = String::new();
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        digits.parse().ok().filter(|number| *number <= MAX_SIZE)
    }

    /// Letters, digits and ranges of them, `_`, blanks and the like: nothing that has a meaning of its own in brackets.
    fn bracket(&mut self) -> Option<usize> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let simple = |c: &char| c.is_ascii_alphanumeric() || "_ .,:;@#%!/+*?$(){}|".contains(*c);
        let mut empty = true;
        while self.rest.next_if_eq(&']').is_none() {
            let from = self.rest.next().filter(simple)?;
            self.plain(from);
            empty = false;
            if self.rest.next_if_eq(&'-').is_some() {
                let to = self.rest.next().filter(char::is_ascii_alphanumeric)?;
                let alike = [char::is_ascii_digit, char::is_ascii_lowercase, char::is_ascii_uppercase]
                    .iter()
                    .any(|kind| kind(&from) && kind(&to));
                if !alike || to < from {
                    return None;
                }
                self.out.push('-');
                self.plain(to);
            }
        }
        self.out.push(']');
        (!empty).then_some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evaluated_here_and_what_is_not() {
        for (pattern, text, expected) in [
            ("^hel", "hello", true),
            ("^hel", "a hello", false),
            ("lo$", "hello", true),
            ("lo$", "hello\n", false),
            ("a.c", "a\nc", true),
            ("a{2,3}b", "xaab", true),
            ("(ab|cd)+e", "xababe", true),
            ("[^a-c]z", "bz", false),
            (r"a\.b", "a.b", true),
            (r"a\.b", "axb", false),
            ("é+?x", "éx", true),
            ("[a-c_]+$", "x_ab", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(text), Some(expected), "{pattern} on {text}");
        }
        for pattern in [
            "",
            "a|",
            "|a",
            "()",
            "a**",
            "*a",
            "^*",
            r"\d",
            r"\w+",
            r"(a)\1",
            "(?=a)",
            "(?i)a",
            "***=a",
            "***:a",
            "[[:alpha:]]",
            "[]a]",
            "[a-Z]",
            "[z-a]",
            "[é]",
            r"[\d]",
            "a{",
            "a{1",
            "a{,2}",
            "a{2,1}",
            "a{999}",
            "]",
            "(((((((((a)))))))))",
            "(a{100}){100}",
            "a)",
            "(a",
            "[a",
            r"a\",
            "[]",
        ] {
            assert!(Pattern::new(pattern).is_none(), "{pattern}");
        }
        let long = "a".repeat(MAX_STEPS);
        assert_eq!(Pattern::new("ab").unwrap().matches(&long), None);
    }
}
