//! A row as filters see it. What is taken out of documents and arrays is taken once, however many conditions look at it:
//! all of them together read a column once, and of its documents each level that a path leads through.

use std::{
    cell::{Cell as Shared, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde_json::value::RawValue;

use crate::{
    cell::Cell,
    elements::Elements,
    path::{JsonPath, Step},
    value::Family,
};

/// Bytes of text that the patterns of one subscription look through in a row, give or take one value: a millisecond or two.
/// The database is asked about the others, within its own limit.
const MAX_LOOKED_THROUGH: usize = 2_000_000;

/// What a condition looks at: a column, or something in its documents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Operand {
    pub(crate) column: usize,
    pub(crate) path: Option<Arc<JsonPath>>,
    /// Whether the column is `jsonb`.
    pub(crate) is_jsonb: bool,
}

/// What an operand is in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got<'r> {
    /// The change does not carry it.
    Missing,
    Null,
    /// The text of a column.
    Whole(&'r Bytes),
    /// A text that was found in one.
    Part(Bytes),
}

impl Got<'_> {
    pub(crate) fn text(&self) -> Option<&Bytes> {
        match self {
            Self::Missing | Self::Null => None,
            Self::Whole(text) => Some(text),
            Self::Part(text) => Some(text),
        }
    }
}

/// A row as filters see it.
pub(crate) struct Row<'r> {
    cell: &'r dyn Fn(usize) -> Cell<'r>,
    taken: RefCell<FxHashMap<usize, Taken<'r>>>,
    looked_through: Shared<usize>,
}

/// What was taken out of a column.
#[derive(Default)]
struct Taken<'r> {
    documents: Option<Documents<'r>>,
    /// `None` in it: they cannot be told here.
    elements: Option<Option<Rc<Elements>>>,
}

/// The documents of a column, by the paths that lead to them. Clients choose paths and keys: hashes must not be theirs to
/// foresee.
struct Documents<'r> {
    text: &'r str,
    levels: HashMap<&'r [Step], Level<'r>>,
    found: HashMap<&'r JsonPath, Got<'r>>,
}

/// One level of a document.
enum Level<'r> {
    Object(HashMap<String, &'r RawValue>),
    Array(Vec<&'r RawValue>),
    Scalar,
    /// PostgreSQL raises when it reads this.
    Broken,
}

impl<'r> Row<'r> {
    pub(crate) fn new(cell: &'r dyn Fn(usize) -> Cell<'r>) -> Self {
        Self { cell, taken: RefCell::default(), looked_through: Shared::new(0) }
    }

    /// The conditions of another subscription follow.
    pub(crate) fn begin(&self) {
        self.looked_through.set(0);
    }

    /// Whether the conditions may look through a text.
    pub(crate) fn may_look_through(&self, text: &[u8]) -> bool {
        let so_far = self.looked_through.get();
        self.looked_through.set(so_far.saturating_add(text.len()));
        so_far < MAX_LOOKED_THROUGH
    }

    /// What an operand is.
    pub(crate) fn take(&self, operand: &'r Operand) -> Got<'r> {
        match (self.cell)(operand.column) {
            Cell::Missing => Got::Missing,
            Cell::Null => Got::Null,
            Cell::Text(text) => match &operand.path {
                None => Got::Whole(text),
                Some(path) => self.in_document(operand, text, path),
            },
        }
    }

    fn in_document(&self, operand: &Operand, column: &'r Bytes, path: &'r JsonPath) -> Got<'r> {
        let mut taken = self.taken.borrow_mut();
        let documents = taken.entry(operand.column).or_default().documents.get_or_insert_with(|| Documents {
            // What is no text is no document either.
            text: std::str::from_utf8(column).unwrap_or_default(),
            levels: HashMap::new(),
            found: HashMap::new(),
        });
        if let Some(got) = documents.found.get(path) {
            return got.clone();
        }
        let got = match documents.find(path, operand.is_jsonb) {
            None => Got::Null,
            Some(json) if path.as_text => text_of(json),
            Some(json) => Got::Part(Bytes::copy_from_slice(json.as_bytes())),
        };
        documents.found.insert(path, got.clone());
        got
    }

    /// The elements of an array column whose text is known. `None` if the database has to be asked.
    pub(crate) fn elements(&self, column: usize, family: Family, text: &[u8]) -> Option<Rc<Elements>> {
        let mut taken = self.taken.borrow_mut();
        let elements = &mut taken.entry(column).or_default().elements;
        elements.get_or_insert_with(|| Elements::of(family, text).map(Rc::new)).clone()
    }

    #[cfg(test)]
    fn levels(&self, column: usize) -> usize {
        let taken = self.taken.borrow();
        let documents = taken.get(&column).and_then(|taken| taken.documents.as_ref());
        documents.map_or(0, |documents| documents.levels.len())
    }
}

impl<'r> Documents<'r> {
    fn find(&mut self, path: &'r JsonPath, is_jsonb: bool) -> Option<&'r str> {
        let mut json = self.text.trim();
        for (at, step) in path.steps.iter().enumerate() {
            let steps = path.steps.get(..at).unwrap_or_default();
            let level = self.levels.entry(steps).or_insert_with(|| Level::of(json));
            json = match (level, step) {
                (Level::Object(members), Step::Key(key)) => members.get(&**key)?.get(),
                (Level::Array(elements), Step::Index(index)) => {
                    let at = match usize::try_from(*index) {
                        Ok(at) => at,
                        Err(_) => elements.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
                    };
                    elements.get(at)?.get()
                }
                // To jsonb a scalar is an array of one element.
                (Level::Scalar, Step::Index(0 | -1)) if is_jsonb => json,
                _ => return None,
            };
        }
        Some(json)
    }
}

impl<'r> Level<'r> {
    fn of(json: &'r str) -> Self {
        match json.as_bytes().first() {
            // Of equal keys the last one counts.
            Some(b'{') => serde_json::from_str(json).map_or(Self::Broken, Self::Object),
            Some(b'[') => serde_json::from_str(json).map_or(Self::Broken, Self::Array),
            _ => Self::Scalar,
        }
    }
}

/// What `->>` makes of a value. A string that no text of PostgreSQL can hold makes it raise, and here equals nothing.
fn text_of<'r>(json: &str) -> Got<'r> {
    match json.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(text) if !text.contains('\0') => Got::Part(text.into()),
            _ => Got::Null,
        },
        Some(b'n') | None => Got::Null,
        Some(_) => Got::Part(Bytes::copy_from_slice(json.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path;

    fn operand(text: &str) -> Operand {
        let (_, path) = path::of_column(text).unwrap();
        Operand { column: 0, path: path.map(Arc::new), is_jsonb: true }
    }

    #[test]
    fn paths_lead_into_documents() {
        let json = Bytes::from_static(
            br#"{"a": {"b": "x\u0041", "n": 1.50, "o": {"k": [1, 2]}, "z": null}, "t": true, "t": false, "0": 7, "l": [1, [2], {"m": 3}]}"#,
        );
        let cell = |_| Cell::Text(&json);
        let text = |text: &str| Got::Part(text.to_owned().into());
        for (path, expected) in [
            ("d->a->>b", text("xA")),
            ("d->a->b", text(r#""x\u0041""#)),
            ("d->a->>n", text("1.50")),
            ("d->a->o", text(r#"{"k": [1, 2]}"#)),
            ("d->a->>z", Got::Null),
            ("d->a->z", text("null")),
            ("d->a->z->y", Got::Null),
            ("d->>t", text("false")),
            ("d->x", Got::Null),
            ("d->0", Got::Null),
            ("d->\"0\"", text("7")),
            ("d->l->-1->m", text("3")),
            ("d->l->1->0", text("2")),
            ("d->l->0->0", text("1")),
            ("d->l->-4", Got::Null),
            ("d->l->3", Got::Null),
            ("d->l->m", Got::Null),
        ] {
            let operand = operand(path);
            let cell = |at| cell(at);
            assert_eq!(Row::new(&cell).take(&operand), expected, "{path}");
        }
        let broken = Bytes::from_static(br#"{"a": "\u0000", "b": "\ud800"}"#);
        let cell = |_| Cell::Text(&broken);
        for path in ["d->>a", "d->>b"] {
            let operand = operand(path);
            let cell = |at| cell(at);
            assert_eq!(Row::new(&cell).take(&operand), Got::Null, "{path}");
        }
    }

    /// However many paths there are, a document is read once, and each level below it that they lead through.
    #[test]
    fn documents_are_read_once() {
        let members: Vec<String> = (0..1000).map(|n| format!("\"k{n}\": {{\"v\": {n}}}")).collect();
        let json = Bytes::from(format!("{{\"a\": {{{}}}}}", members.join(",")));
        let cell = |_| Cell::Text(&json);
        let operands: Vec<Operand> =
            (0..10_000).map(|n| operand(&format!("d->a->k{}->>v", n % 1000))).collect();
        let row = Row::new(&cell);
        for (n, operand) in operands.iter().enumerate() {
            assert_eq!(row.take(operand), Got::Part((n % 1000).to_string().into()));
        }
        assert_eq!(row.levels(0), 2 + 1000);
    }

    #[test]
    fn arrays_are_read_once() {
        let cell = |_| Cell::Missing;
        let row = Row::new(&cell);
        let first = row.elements(0, Family::Integer, b"{1,2}").unwrap();
        assert!(Rc::ptr_eq(&first, &row.elements(0, Family::Integer, b"{1,2}").unwrap()));
        assert_eq!(row.elements(1, Family::Integer, b"[0:0]={1}"), None);
    }

    #[test]
    fn what_patterns_look_through_is_limited() {
        let cell = |_| Cell::Missing;
        let row = Row::new(&cell);
        let text = vec![0; MAX_LOOKED_THROUGH];
        assert!(row.may_look_through(&text) && !row.may_look_through(b"a"));
        row.begin();
        assert!(row.may_look_through(b"a"));
    }
}
