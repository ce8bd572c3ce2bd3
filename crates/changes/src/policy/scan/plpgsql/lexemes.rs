//! The lexemes of a body in PL/pgSQL.

/// A word, a text or a sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lexeme<'b> {
    pub(super) kind: Kind,
    pub(super) text: &'b str,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word that may be a keyword.
    Word,
    /// A name in double quotes.
    Name,
    /// A text in single quotes or dollars, without escapes.
    Plain,
    /// Another text, or a number.
    Other,
    Sign,
}

/// Cuts a body into lexemes. `None` if something in it does not end.
pub(super) fn lexemes(body: &str) -> Option<Vec<Lexeme<'_>>> {
    let bytes = body.as_bytes();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(byte) = bytes.get(at) {
        let rest = body.get(at..)?;
        let (kind, length) = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                at += 1;
                continue;
            }
            b'-' if rest.starts_with("--") => {
                at += rest.find(['\n', '\r']).unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                at += comment(rest)?;
                continue;
            }
            b'\'' => (Kind::Plain, quoted(rest, '\'')?),
            b'"' => (Kind::Name, quoted(rest, '"')?),
            b'e' | b'E' if rest.get(1..2) == Some("'") => (Kind::Other, 1 + escaped(rest.get(1..)?)?),
            b'$' if dollars(rest).is_some() => (Kind::Plain, dollars(rest)?),
            b'0'..=b'9' => (Kind::Other, number(rest)),
            _ if is_of_word(rest.chars().next()?) => {
                let end = rest.find(|next: char| !is_of_word(next) && next != '$').unwrap_or(rest.len());
                (Kind::Word, end)
            }
            b':' if rest.starts_with(":=") => (Kind::Sign, 2),
            b'.' if rest.starts_with("..") => (Kind::Sign, 2),
            b'<' if rest.starts_with("<<") => (Kind::Sign, 2),
            b'>' if rest.starts_with(">>") => (Kind::Sign, 2),
            _ => (Kind::Sign, rest.chars().next()?.len_utf8()),
        };
        found.push(Lexeme { kind, text: rest.get(..length)?, start: at, end: at + length });
        at += length;
    }
    Some(found)
}

fn is_of_word(next: char) -> bool {
    next.is_alphanumeric() || next == '_'
}

/// `1..3` is two numbers.
fn number(rest: &str) -> usize {
    let digits = |from: usize| {
        rest.get(from..).map_or(0, |rest| rest.find(|next: char| !is_of_word(next)).unwrap_or(rest.len()))
    };
    let whole = digits(0);
    let is_fraction = rest.get(whole..).is_some_and(|rest| rest.starts_with('.') && !rest.starts_with(".."));
    if is_fraction { whole + 1 + digits(whole + 1) } else { whole }
}

/// The length of a comment. Comments are nested.
fn comment(rest: &str) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    loop {
        let rest = rest.get(at..)?;
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
}

/// The length of something in quotes, in which two quotes are one.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        at += rest.get(at..)?.find(quote)? + 1;
        if !rest.get(at..)?.starts_with(quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// The same where a backslash escapes.
fn escaped(rest: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        let next = rest.get(at..)?.chars().next()?;
        at += next.len_utf8();
        match next {
            '\\' => at += rest.get(at..)?.chars().next()?.len_utf8(),
            '\'' if rest.get(at..)?.starts_with('\'') => at += 1,
            '\'' => return Some(at),
            _ => {}
        }
    }
}

/// The length of a text in dollars.
fn dollars(rest: &str) -> Option<usize> {
    let end = rest.get(1..)?.find('$')? + 2;
    let tag = rest.get(..end)?;
    let name = tag.trim_matches('$');
    if name.starts_with(|next: char| next.is_ascii_digit()) || !name.chars().all(is_of_word) {
        return None;
    }
    Some(end + rest.get(end..)?.find(tag)? + tag.len())
}

/// The text that a lexeme stands for, if it is one without escapes.
pub(super) fn constant(lexeme: &Lexeme<'_>) -> Option<String> {
    if lexeme.kind != Kind::Plain {
        return None;
    }
    if let Some(inner) = lexeme.text.strip_prefix('\'') {
        let inner = inner.strip_suffix('\'')?;
        // What a backslash means depends on a setting.
        return (!inner.contains('\\')).then(|| inner.replace("''", "'"));
    }
    let tag = lexeme.text.get(..lexeme.text.get(1..)?.find('$')? + 2)?;
    Some(lexeme.text.strip_prefix(tag)?.strip_suffix(tag)?.to_owned())
}

/// Whether a lexeme is this word, in whatever case, or this sign.
pub(super) fn is(lexeme: Option<&Lexeme<'_>>, wanted: &str) -> bool {
    lexeme.is_some_and(|lexeme| match lexeme.kind {
        Kind::Word => lexeme.text.eq_ignore_ascii_case(wanted),
        Kind::Sign => lexeme.text == wanted,
        Kind::Name | Kind::Plain | Kind::Other => false,
    })
}

/// Whether some are one name: in place of a query a cursor that was declared, whose query is read there.
pub(super) fn is_name(lexemes: &[Lexeme<'_>]) -> bool {
    matches!(lexemes, [Lexeme { kind: Kind::Word | Kind::Name, .. }])
}
