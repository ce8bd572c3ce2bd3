//! LIKE patterns: `%` any run, `_` one character, backslash makes the next character plain.
//!
//! A text is looked through once, whatever the pattern: between two `%` stands a run of fixed length, and the first
//! place where it fits is as good as any. A run of plain characters is found as texts find each other; one with `_` in
//! it by an automaton whose states are bits.

/// Longest run with `_` in it between two `%`, in characters: as many bits are moved for each character of a text.
const MAX_WILD: usize = 256;

/// Words of the automaton.
const WORDS: usize = MAX_WILD / 64;

/// A pattern that can be matched in linear time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// What a text begins with.
    prefix: Run,
    /// What follows a `%`: runs in their order, and what a text ends with. `None`: there is no `%`.
    rest: Option<(Vec<Search>, Run)>,
}

/// Characters in a row; `None` stands for any.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Run {
    Plain(Box<str>),
    Wild(Box<[Option<char>]>),
}

/// A run that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    Plain(Box<str>),
    Wild(Automaton),
}

/// Finds a run with `_` in it: bit `n` is set when the first `n + 1` characters of the run have just been read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Automaton {
    length: usize,
    /// For each plain character, in order: the places that it fits.
    fits: Box<[(char, [u64; WORDS])]>,
    /// The places of `_`.
    any: [u64; WORDS],
}

impl Pattern {
    /// Compiles a pattern. `None` if it ends in a lone backslash, which the database refuses, or would take too long.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let mut runs = Vec::new();
        let mut run = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => runs.push(std::mem::take(&mut run)),
                '_' => run.push(None),
                '\\' => run.push(Some(chars.next()?)),
                c => run.push(Some(c)),
            }
        }
        let last = Run::new(run);
        let mut runs = runs.into_iter();
        let Some(first) = runs.next() else { return Some(Self { prefix: last, rest: None }) };
        let middle = runs.filter(|run| !run.is_empty()).map(|run| Search::new(Run::new(run)));
        Some(Self { prefix: Run::new(first), rest: Some((middle.collect::<Option<_>>()?, last)) })
    }

    /// Whether a text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(text) = self.prefix.strip_start(text) else { return false };
        let Some((middle, last)) = &self.rest else { return text.is_empty() };
        let Some(mut text) = last.strip_end(text) else { return false };
        for run in middle {
            match run.after(text) {
                Some(after) => text = after,
                None => return false,
            }
        }
        true
    }
}

impl Run {
    fn new(run: Vec<Option<char>>) -> Self {
        match run.iter().copied().collect::<Option<String>>() {
            Some(text) => Self::Plain(text.into()),
            None => Self::Wild(run.into()),
        }
    }

    /// What follows the run at the start of a text.
    fn strip_start<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Plain(plain) => text.strip_prefix(&**plain),
            Self::Wild(run) => {
                let mut chars = text.chars();
                let fits = run.iter().all(|wanted| chars.next().is_some_and(|c| is_fit(*wanted, c)));
                fits.then_some(chars.as_str())
            }
        }
    }

    /// What precedes the run at the end of a text.
    fn strip_end<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Plain(plain) => text.strip_suffix(&**plain),
            Self::Wild(run) => {
                let mut chars = text.chars();
                let fits =
                    run.iter().rev().all(|wanted| chars.next_back().is_some_and(|c| is_fit(*wanted, c)));
                fits.then_some(chars.as_str())
            }
        }
    }
}

fn is_fit(wanted: Option<char>, c: char) -> bool {
    wanted.is_none_or(|wanted| wanted == c)
}

impl Search {
    fn new(run: Run) -> Option<Self> {
        match run {
            Run::Plain(plain) => Some(Self::Plain(plain)),
            Run::Wild(run) => Automaton::new(&run).map(Self::Wild),
        }
    }

    /// What follows the first place of the run in a text.
    fn after<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Plain(plain) => text.find(&**plain).and_then(|at| text.get(at + plain.len()..)),
            Self::Wild(automaton) => automaton.after(text),
        }
    }
}

impl Automaton {
    fn new(run: &[Option<char>]) -> Option<Self> {
        if run.len() > MAX_WILD {
            return None;
        }
        let set = |words: &mut [u64; WORDS], at: usize| {
            if let Some(word) = words.get_mut(at / 64) {
                *word |= 1 << (at % 64);
            }
        };
        let mut any = [0; WORDS];
        let mut fits = std::collections::BTreeMap::new();
        for (at, wanted) in run.iter().enumerate() {
            match wanted {
                None => set(&mut any, at),
                Some(c) => set(fits.entry(*c).or_insert([0; WORDS]), at),
            }
        }
        Some(Self { length: run.len(), fits: fits.into_iter().collect(), any })
    }

    fn after<'a>(&self, text: &'a str) -> Option<&'a str> {
        let last = self.length.checked_sub(1)?;
        let mut state = [0u64; WORDS];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let known = self.fits.binary_search_by_key(&c, |(known, _)| *known);
            let fits = known.ok().and_then(|at| self.fits.get(at)).map_or([0; WORDS], |(_, fits)| *fits);
            let mut carry = 1;
            for ((word, fit), any) in state.iter_mut().zip(fits).zip(self.any) {
                let moved = (*word << 1) | carry;
                carry = *word >> 63;
                *word = moved & (fit | any);
            }
            if state.get(last / 64).is_some_and(|word| word & (1 << (last % 64)) != 0) {
                return Some(chars.as_str());
            }
        }
        None
    }
}

/// Whether a pattern ends in a backslash that makes nothing plain.
pub(crate) fn ends_in_escape(pattern: &str) -> bool {
    pattern.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(text: &str, pattern: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(text)
    }

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
            ("ab", "ab%ab", false),
            ("abab", "ab%ab", true),
            ("xaéby", "%a_b%", true),
            ("aab", "%a_%b", true),
            ("ab", "%a_%b", false),
        ] {
            assert_eq!(matches(text, pattern), expected, "{text} like {pattern}");
        }
        assert!(!matches(&"a".repeat(5000), &format!("{}b", "%a".repeat(50))));
        assert!(ends_in_escape(r"a\") && !ends_in_escape(r"a\\") && !ends_in_escape("a"));
        assert_eq!(Pattern::new(r"a\"), None);
    }

    /// What compares every character of the pattern at every place of the text takes minutes.
    #[test]
    fn long_patterns_and_texts_take_linear_time() {
        let text = "a".repeat(1_000_000);
        assert!(!matches(&text, &format!("%{}b%", "a".repeat(60_000))));
        assert!(!matches(&text, &format!("%{}_b%", "a".repeat(200))));
        assert!(matches(&text, &format!("%{}%_{}", "a".repeat(400_000), "a".repeat(400_000))));
        assert_eq!(Pattern::new(&format!("%{}_%", "a".repeat(MAX_WILD))), None, "asked of the database");
        assert!(Pattern::new(&format!("{}_%", "a".repeat(MAX_WILD))).is_some(), "the start is at one place");
    }

    /// The meaning of a pattern, as plainly as it can be said.
    fn plainly(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|at| plainly(&text[at..], rest)),
            ['_', rest @ ..] => !text.is_empty() && plainly(&text[1..], rest),
            ['\\', plain, rest @ ..] | [plain, rest @ ..] => {
                text.first() == Some(plain) && plainly(&text[1..], rest)
            }
        }
    }

    proptest! {
        #[test]
        fn means_what_it_says(text in "[abé]{0,12}", pattern in "([abé%_]|\\\\[a%_]){0,9}") {
            let (plain_text, plain_pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
            prop_assert_eq!(matches(&text, &pattern), plainly(&plain_text, &plain_pattern));
        }

        #[test]
        fn long_runs_mean_what_they_say(before in "[ab]{0,90}", run in "[ab]{60,140}", wild in 0usize..60) {
            let mut pattern: Vec<char> = run.chars().collect();
            pattern[wild] = '_';
            let pattern: String = pattern.into_iter().collect();
            let text = format!("{before}{run}b");
            let mut found = matches(&text, &format!("%{}%", pattern));
            prop_assert!(found);
            found = matches(&before, &format!("%{}%", pattern));
            prop_assert!(!found || before.len() >= run.len());
        }
    }
}
