//! Bodies that are read as far as they are understood, for whoever wants to know what they name.

use super::{How, Reader, is, lexemes::lexemes};

/// Statements that others stand in: what is not understood of their frame ends the reading.
const FRAMES: [&str; 8] = ["if", "case", "loop", "while", "for", "foreach", "declare", "begin"];

/// The queries of a body as far as it is understood, in no order, and whether these are all. `None` if nothing can be said.
pub(in crate::policy::scan) fn queries_as_far(body: &str) -> Option<(Vec<String>, bool)> {
    let lexemes = lexemes(body)?;
    let mut reader = Reader::new(body, &lexemes, How::AsFar { is_whole: true });
    while reader.takes("#") {
        // An option of the compiler, and its value.
        reader.at += 2;
    }
    reader.label();
    reader.block()?;
    reader.takes(";");
    let is_whole = reader.at == lexemes.len() && reader.how == How::AsFar { is_whole: true };
    Some((reader.found, is_whole))
}

impl<'b> Reader<'b> {
    /// Something is not understood. `None` where all has to be.
    pub(super) fn leave_out(&mut self) -> Option<()> {
        match &mut self.how {
            How::Wholly => None,
            How::AsFar { is_whole } => {
                *is_whole = false;
                Some(())
            }
        }
    }

    pub(super) fn is_as_far(&self) -> bool {
        self.how != How::Wholly
    }

    /// Goes on behind a statement that is not understood and that no others stand in.
    pub(super) fn skip_from(&mut self, begun: usize, found: usize) -> Option<()> {
        let is_frame = FRAMES.iter().any(|frame| is(self.lexemes.get(begun), frame));
        if is_frame {
            return None;
        }
        self.leave_out()?;
        self.at = begun;
        self.found.truncate(found);
        self.up_to(&[";"]).map(drop)
    }

    /// Whether a statement that begins with a word is one that is understood only here.
    pub(super) fn is_of_few(&self, word: &str) -> bool {
        let next = self.lexemes.get(self.at + 1);
        self.is_as_far()
            && ["get", "fetch", "move", "close", "open", "raise", "assert"].contains(&word)
            && ![":=", "=", ".", "["].iter().any(|sign| is(next, sign))
    }

    /// Such a statement.
    pub(super) fn statement_of_few(&mut self, word: &str) -> Option<()> {
        match word {
            "open" => self.open(),
            "raise" => self.raise(),
            "assert" => self.asserted(),
            _ => self.up_to(&[";"]).map(drop),
        }
    }

    /// `open c for query;`
    fn open(&mut self) -> Option<()> {
        let (all, _) = self.up_to(&[";"])?;
        match all.iter().position(|lexeme| is(Some(lexeme), "for")) {
            Some(at) => self.query(all.get(at + 1..)?),
            // The arguments of a cursor may be anything.
            None if all.len() > 2 => self.leave_out(),
            None => Some(()),
        }
    }

    /// `raise level 'text', a, b using hint = c;`
    fn raise(&mut self) -> Option<()> {
        let (all, _) = self.up_to(&[";"])?;
        let end = all.iter().position(|lexeme| is(Some(lexeme), "using")).unwrap_or(all.len());
        let (told, options) = all.split_at_checked(end)?;
        if let Some(at) = told.iter().position(|lexeme| lexeme.text == ",") {
            self.expression(told.get(at + 1..)?)?;
        }
        match options.iter().any(|lexeme| lexeme.text == "(") {
            true => self.leave_out(),
            false => Some(()),
        }
    }

    fn asserted(&mut self) -> Option<()> {
        self.at += 1;
        let (all, _) = self.up_to(&[";"])?;
        self.expression(all)
    }

    /// A declaration of a cursor or of another name: `Some` if it is one, and was read.
    pub(super) fn declares_other(&mut self) -> Option<bool> {
        let begun = self.at;
        let (all, _) = self.up_to(&[";"])?;
        let place = |word: &str| all.iter().position(|lexeme| is(Some(lexeme), word));
        if is(all.get(1), "alias") {
            return Some(true);
        }
        let end = place("for").or_else(|| place("is"));
        let head = all.get(..end.unwrap_or(0))?;
        if let Some(end) = end
            && head.iter().any(|lexeme| is(Some(lexeme), "cursor"))
        {
            self.query(all.get(end + 1..)?)?;
            return Some(true);
        }
        self.at = begun;
        Some(false)
    }

    /// `exception when … then …`, up to `end`.
    pub(super) fn handlers(&mut self) -> Option<()> {
        while self.takes("when") {
            self.up_to(&["then"])?;
            self.statements(&["when", "end"])?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Option<(Vec<String>, bool)> {
        queries_as_far(body).map(|(found, is_whole)| {
            let plain = |query: &String| query.split_whitespace().collect::<Vec<_>>().join(" ");
            (found.iter().map(plain).collect(), is_whole)
        })
    }

    #[test]
    fn bodies_are_read_as_far_as_they_are_understood() {
        for (body, expected, is_whole) in [
            ("begin return exists (select from t); end", &["select exists (select from t)"][..], true),
            (
                "#variable_conflict use_column\nbegin return query select * from t; end",
                &["select * from t"],
                true,
            ),
            (
                "begin return a(); exception when others then return b(); when no_data_found or too_many_rows then null; end",
                &["select a()", "select b()"],
                true,
            ),
            (
                "declare c cursor (a int) for select x from t where x = a; d alias for $1; n int = 1; begin open c(1); fetch c into n; close c; for r in c loop null; end loop; return n; end",
                &["select x from t where x = a", "select 1", "select n"],
                false,
            ),
            (
                "declare c refcursor; begin open c for select 1 from t; get diagnostics n = row_count; return n; end",
                &["select 1 from t", "select n"],
                true,
            ),
            (
                "begin raise notice 'x % %', f(1), 2 using hint = 'y'; assert g(); return 1; end",
                &["select f(1), 2", "select g()", "select 1"],
                true,
            ),
            (
                "begin execute format('select %I', x) into y; return y in (select a from t); end",
                &["select y in (select a from t)"],
                false,
            ),
            (
                "begin for r in execute 'select 1' || x loop perform f(); end loop; return query execute x; end",
                &["select f()"],
                false,
            ),
            ("begin insert into t values (1); return h(); end", &["select h()"], false),
            ("begin if a then delete from t; end if; return true; end", &["select a", "select true"], false),
        ] {
            let expected: Vec<String> = expected.iter().map(|query| (*query).to_owned()).collect();
            assert_eq!(found(body), Some((expected, is_whole)), "{body}");
        }
        for body in ["", "begin return 'x; end", "begin if a return b; end", "begin for x; end loop; end"] {
            assert_eq!(found(body), None, "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(body in "(begin|end|if|then|loop|case|when|exception|cursor|for|is|open|raise|using|assert|;|'|\\$a\\$|\\(|\\)|<<|>>|#|1|select|into|,|é| |\n|:=|execute|declare){0,40}") {
            let _ = queries_as_far(&body);
        }
    }
}
