//! Draws rows as a table of texts that fits the terminal. Pure.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::rows::{Mark, Row, Rows};

/// Longest value that is measured; a terminal has no room for more.
const LONGEST_VALUE: usize = 200;

/// A column is not made narrower than this while others are wider.
const NARROW: usize = 8;

/// Lines that are no rows: the state, and the names of the columns.
const HEAD: usize = 2;

/// Looks, as terminals know them.
mod look {
    pub(super) const BOLD: &str = "1";
    pub(super) const DIM: &str = "2";
    pub(super) const UNDERLINED: &str = "4";
    pub(super) const ENTERED: &str = "32";
    pub(super) const CHANGED: &str = "33";
    pub(super) const LEFT: &str = "31;9";
    pub(super) const GOOD: &str = "32";
    pub(super) const WAITING: &str = "33";
}

/// What is known of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The rows are not all there.
    Connecting,
    /// The rows are those of the database.
    Live,
    /// There is no connection; the next attempt comes after a pause.
    Lost { why: String, pause: Duration },
}

/// How much room there is, and what may be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canvas {
    pub width: usize,
    pub height: usize,
    pub colours: bool,
}

impl Canvas {
    fn paint(self, text: &str, look: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{look}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The lines to show.
pub(super) fn lines(title: &str, rows: &Rows, state: &State, notice: &str, canvas: Canvas) -> Vec<String> {
    let count = rows.count();
    let (sign, look, text) = match state {
        State::Connecting => ("○", look::WAITING, "connecting".to_owned()),
        State::Live => ("●", look::GOOD, "live".to_owned()),
        State::Lost { why, pause } => {
            let text = format!("connecting again after {:.1} s: {}", pause.as_secs_f64(), plain(why));
            ("○", look::WAITING, text)
        }
    };
    let counted = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    let (title, text) =
        (plain(title), cut(&text, canvas.width.saturating_sub(title.width() + counted.width() + 6)));
    let head =
        format!("{}  {counted}  {} {text}", canvas.paint(&title, look::BOLD), canvas.paint(sign, look));
    let mut lines = vec![head];
    let foot = usize::from(!notice.is_empty());
    let room = canvas.height.saturating_sub(HEAD + foot);
    let is_cut = rows.all().len() > room;
    let shown = &rows.all()[..if is_cut { room.saturating_sub(1) } else { rows.all().len() }];
    lines.extend(table(rows.columns(), shown, canvas));
    if is_cut {
        let more = format!("  … {} more", rows.all().len() - shown.len());
        lines.push(canvas.paint(&more, look::DIM));
    }
    if !notice.is_empty() {
        lines.push(canvas.paint(&cut(&plain(notice), canvas.width), look::WAITING));
    }
    lines
}

fn table(columns: &[String], rows: &[Row], canvas: Canvas) -> Vec<String> {
    if columns.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = columns.iter().map(|name| plain(name)).collect();
    let cells: Vec<Vec<Cell>> =
        rows.iter().map(|row| columns.iter().map(|column| Cell::of(row, column)).collect()).collect();
    let widest = |place: usize| {
        let widths = cells.iter().filter_map(|row| row.get(place)).map(|cell| cell.text.width());
        widths.chain([names.get(place).map_or(0, |name| name.width())]).max().unwrap_or(0)
    };
    // Two characters for the mark, and two between columns.
    let widths = fit((0..columns.len()).map(widest).collect(), canvas.width.saturating_sub(2), 2);
    let header: Vec<String> =
        names.iter().zip(&widths).map(|(name, width)| padded(name, *width, false)).collect();
    let mut lines = vec![format!("  {}", canvas.paint(header.join("  ").trim_end(), look::UNDERLINED))];
    for (row, cells) in rows.iter().zip(&cells) {
        let (sign, whole) = match row.mark {
            Mark::None => (" ", None),
            Mark::Entered => ("+", Some(look::ENTERED)),
            Mark::Changed(_) => ("~", None),
            Mark::Left => ("-", Some(look::LEFT)),
        };
        let shown = cells.iter().zip(columns).zip(&widths).map(|((cell, column), width)| {
            let text = padded(&cell.text, *width, cell.is_number);
            let is_changed = matches!(&row.mark, Mark::Changed(changed) if changed.contains(column));
            match whole {
                Some(look) => canvas.paint(&text, look),
                None if is_changed => canvas.paint(&text, look::CHANGED),
                None if cell.is_null => canvas.paint(&text, look::DIM),
                None => text,
            }
        });
        let look =
            if matches!(row.mark, Mark::Changed(_)) { look::CHANGED } else { whole.unwrap_or(look::DIM) };
        let shown = shown.collect::<Vec<_>>().join("  ");
        lines.push(format!("{} {}", canvas.paint(sign, look), shown.trim_end()));
    }
    lines
}

/// A value as it is shown.
struct Cell {
    text: String,
    is_null: bool,
    is_number: bool,
}

impl Cell {
    fn of(row: &Row, column: &str) -> Self {
        let raw = row.record.get(column).unwrap_or_default();
        let text = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
        Self {
            text: plain(&text),
            is_null: raw == "null" || raw.is_empty(),
            is_number: raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()),
        }
    }
}

/// Makes the widest columns narrower until all fit.
fn fit(mut widths: Vec<usize>, room: usize, gap: usize) -> Vec<usize> {
    let gaps = gap * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROW => *widest -= 1,
            _ => break,
        }
    }
    // The columns at the end are cut off where even that is too much.
    let mut left = room;
    for width in &mut widths {
        *width = (*width).min(left);
        left = left.saturating_sub(*width + gap);
    }
    widths
}

fn padded(text: &str, width: usize, to_the_right: bool) -> String {
    let text = cut(text, width);
    let space = " ".repeat(width.saturating_sub(text.width()));
    if to_the_right { space + &text } else { text + &space }
}

/// At most this many columns of the terminal.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut cut, mut used) = (String::new(), 1);
    for character in text.chars() {
        used += character.width().unwrap_or(0);
        if used > width {
            break;
        }
        cut.push(character);
    }
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// A text that does nothing to the terminal: values are those of strangers.
fn plain(text: &str) -> String {
    let harmless = |character: char| match character {
        '\n' => '⏎',
        '\t' => ' ',
        // Those that turn the direction of texts.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        other if other.is_control() => '\u{fffd}',
        other => other,
    };
    text.chars().take(LONGEST_VALUE).map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use serde_json::{Value, json};

    use super::{super::rows::tests::change, *};

    const CANVAS: Canvas = Canvas { width: 40, height: 10, colours: false };

    fn lost(why: &str) -> State {
        State::Lost { why: why.to_owned(), pause: Duration::from_secs(1) }
    }

    fn rows(tasks: &[&str]) -> Rows {
        let (mut rows, now) = (Rows::new(Vec::new()), Instant::now());
        rows.joined();
        for (id, task) in tasks.iter().enumerate() {
            rows.change(change(&json!({"id": id + 1, "task": task}), &Value::Null), now);
        }
        rows.complete(now);
        rows
    }

    #[test]
    fn a_table_with_marks() {
        let (mut rows, now) = (rows(&["Say hello", "日本"]), Instant::now());
        rows.change(change(&json!({"id": 3, "task": null}), &Value::Null), now);
        rows.change(change(&json!({"id": 2, "task": "é"}), &json!({"id": 2})), now);
        rows.change(change(&Value::Null, &json!({"id": 1})), now);
        let drawn = lines("public.todos", &rows, &State::Live, "", CANVAS);
        let expected =
            ["public.todos  2 rows  ● live", "  id  task", "-  1  Say hello", "~  2  é", "+  3  null"];
        assert_eq!(drawn, expected);
        let coloured = lines("public.todos", &rows, &State::Live, "", Canvas { colours: true, ..CANVAS });
        assert!(coloured[2].contains("\x1b[31;9m") && coloured[3].contains("\x1b[33mé"), "{coloured:?}");
    }

    #[test]
    fn values_do_nothing_to_the_terminal() {
        let rows = rows(&["\x1b[2J\x07\u{202e}x\r\ny"]);
        let drawn = lines("t", &rows, &lost("\x1b]0;x"), "\x1bc", CANVAS).join("\n");
        assert!(!drawn.contains(['\x1b', '\x07', '\u{202e}', '\r']), "{drawn:?}");
        assert!(drawn.contains("x\u{fffd}⏎y"), "{drawn:?}");
    }

    #[test]
    fn it_fits_the_terminal() {
        let rows = rows(&[&"w".repeat(300), "b", "c", "d", "e"]);
        let small = Canvas { width: 20, height: 5, colours: false };
        let drawn = lines("public.a_long_name", &rows, &lost("no network"), "told", small);
        assert_eq!(drawn.len(), 5);
        assert!(drawn[1..].iter().all(|line| line.width() <= 20), "{drawn:?}");
        assert_eq!(&drawn[2..], ["   1  wwwwwwwwwwwww…", "  … 4 more", "told"]);
        assert!(
            !lines("t", &rows, &State::Live, "", Canvas { width: 0, height: 0, colours: true }).is_empty()
        );
    }
}
