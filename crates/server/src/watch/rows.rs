//! The rows as a client keeps them, with marks for what has just happened to them. Pure: time is given.

use std::cmp::Ordering;

use realtime_changes::OrderBy;
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::frames::{Change, Record};

/// How long a row is marked after it has entered or changed, and is seen after it has left.
pub(super) const MARKED: Duration = Duration::from_millis(1_500);

/// What has just happened to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing.
    None,
    /// It has entered.
    Entered,
    /// These of its columns have changed.
    Changed(Vec<String>),
    /// It has left, and is seen a moment longer.
    Left,
}

/// A row.
#[derive(Debug)]
pub(super) struct Row {
    pub record: Record,
    pub mark: Mark,
    /// When the mark was made.
    since: Instant,
}

impl Row {
    fn new(record: Record, mark: Mark, now: Instant) -> Self {
        Self { record, mark, since: now }
    }

    fn has_left(&self) -> bool {
        self.mark == Mark::Left
    }

    /// Whether all columns of a key have these values.
    fn is(&self, key: &Record) -> bool {
        !key.is_empty() && has(&self.record, key)
    }
}

/// The rows of a result.
#[derive(Debug)]
pub(super) struct Rows {
    order: Vec<OrderBy>,
    columns: Vec<String>,
    rows: Vec<Row>,
    /// Rows of a join that are not all there yet. Those of before are shown until then.
    coming: Option<Vec<Record>>,
}

impl Rows {
    pub(super) const fn new(order: Vec<OrderBy>) -> Self {
        Self { order, columns: Vec::new(), rows: Vec::new(), coming: None }
    }

    /// The names of the columns.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// All rows, those that have just left included.
    pub(super) fn all(&self) -> &[Row] {
        &self.rows
    }

    /// How many rows there are, those that have left excepted.
    pub(super) fn count(&self) -> usize {
        self.rows.iter().filter(|row| !row.has_left()).count()
    }

    /// The channel is joined: all rows come again.
    pub(super) fn joined(&mut self) {
        self.coming = Some(Vec::new());
    }

    /// A row has entered, changed or left.
    pub(super) fn change(&mut self, change: Change, now: Instant) {
        let names: Vec<&str> = change.columns().collect();
        if !names.is_empty() && self.columns != names {
            self.columns = names.into_iter().map(str::to_owned).collect();
        }
        let key = change.old_record.unwrap_or_default();
        match (change.record, &mut self.coming) {
            (Some(record), Some(coming)) => coming.push(record),
            (Some(record), None) => self.put(record, &key, now),
            (None, Some(coming)) => coming.retain(|record| key.is_empty() || !has(record, &key)),
            (None, None) => {
                if let Some(row) = self.rows.iter_mut().find(|row| !row.has_left() && row.is(&key)) {
                    (row.mark, row.since) = (Mark::Left, now);
                }
            }
        }
    }

    /// All rows have come. What is not among them has left meanwhile.
    pub(super) fn complete(&mut self, now: Instant) {
        let Some(coming) = self.coming.take() else { return };
        let is_first = self.rows.is_empty();
        let mut before = std::mem::take(&mut self.rows);
        self.rows = coming
            .into_iter()
            .map(|record| {
                let known = before.iter().position(|row| !row.has_left() && same(&row.record, &record));
                known.map(|place| before.swap_remove(place)).unwrap_or_else(|| {
                    Row::new(record, if is_first { Mark::None } else { Mark::Entered }, now)
                })
            })
            .collect();
        for mut row in before {
            if !row.has_left() {
                (row.mark, row.since) = (Mark::Left, now);
            }
            self.insert(row);
        }
    }

    /// Takes marks away that were seen long enough. Returns whether there are others.
    pub(super) fn fade(&mut self, now: Instant) -> bool {
        let is_old = |row: &Row| now.duration_since(row.since) >= MARKED;
        self.rows.retain(|row| !(row.has_left() && is_old(row)));
        for row in &mut self.rows {
            if is_old(row) {
                row.mark = Mark::None;
            }
        }
        self.rows.iter().any(|row| row.mark != Mark::None)
    }

    fn put(&mut self, record: Record, key: &Record, now: Instant) {
        let known = self.rows.iter().position(|row| !row.has_left() && row.is(key));
        let Some(place) = known else {
            // It may have left a moment ago.
            self.rows.retain(|row| !(row.has_left() && same(&row.record, &record)));
            return self.insert(Row::new(record, Mark::Entered, now));
        };
        let before = self.rows.remove(place);
        let changed = record.columns().filter(|(name, value)| before.record.get(name) != Some(value));
        let mark = Mark::Changed(changed.map(|(name, _)| name.to_owned()).collect());
        let row = Row::new(record, mark, now);
        if self.compare(&before.record, &row.record) == Ordering::Equal {
            self.rows.insert(place, row);
        } else {
            self.insert(row);
        }
    }

    /// Puts a row behind all that the order does not put behind it.
    fn insert(&mut self, row: Row) {
        let place = self.rows.iter().rposition(|other| self.compare(&other.record, &row.record).is_le());
        self.rows.insert(place.map_or(0, |place| place + 1), row);
    }

    fn compare(&self, a: &Record, b: &Record) -> Ordering {
        let by = |by: &OrderBy| {
            let value = |record: &Record| {
                let raw = record.get(&by.column)?;
                serde_json::from_str::<Value>(raw).ok().filter(|value| !value.is_null())
            };
            let nulls_first = by.nulls_first.unwrap_or(by.descending);
            match (value(a), value(b)) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => {
                    if nulls_first {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
                (Some(_), None) => {
                    if nulls_first {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
                (Some(a), Some(b)) if by.descending => compare(&b, &a),
                (Some(a), Some(b)) => compare(&a, &b),
            }
        };
        self.order.iter().map(by).find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
    }
}

/// Compares values of a column. Texts go by their characters, whatever the collation of the database says.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
        },
        (a, b) => a.to_string().cmp(&b.to_string()),
    }
}

fn has(record: &Record, key: &Record) -> bool {
    key.columns().all(|(name, value)| record.get(name) == Some(value))
}

fn same(a: &Record, b: &Record) -> bool {
    a.len() == b.len() && has(a, b)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A change as the server sends it: a record, or the key of what has left.
    pub(in crate::watch) fn change(record: &Value, old: &Value) -> Change {
        let kind = if record.is_null() {
            "DELETE"
        } else if old.is_null() {
            "INSERT"
        } else {
            "UPDATE"
        };
        let columns = json!([{"name": "id", "type": "int4"}, {"name": "task", "type": "text"}]);
        let data = json!({"type": kind, "columns": columns, "record": record, "old_record": old});
        serde_json::from_str(&data.to_string()).unwrap()
    }

    fn rows(order: &str) -> Rows {
        let binding = json!({"schema": "public", "table": "t", "live": true, "order": order});
        let spec = realtime_changes::SubscriptionSpec::parse(binding.as_object().unwrap()).unwrap();
        Rows::new(spec.live.unwrap().order)
    }

    fn seen(rows: &Rows) -> Vec<String> {
        let sign = |mark: &Mark| match mark {
            Mark::None => "",
            Mark::Entered => "+",
            Mark::Changed(_) => "~",
            Mark::Left => "-",
        };
        rows.all().iter().map(|row| format!("{}{}", sign(&row.mark), row.record.get("id").unwrap())).collect()
    }

    fn row(id: i32, task: &str) -> Value {
        json!({"id": id, "task": task})
    }

    #[test]
    fn rows_enter_change_and_leave() {
        let (mut rows, now) = (rows("task.desc,id"), Instant::now());
        rows.joined();
        rows.change(change(&row(1, "b"), &Value::Null), now);
        rows.change(change(&row(2, "a"), &Value::Null), now);
        assert_eq!(seen(&rows), [""; 0], "not before all have come");
        rows.complete(now);
        assert_eq!(seen(&rows), ["1", "2"]);
        rows.change(change(&row(3, "b"), &Value::Null), now);
        rows.change(change(&row(2, "c"), &json!({"id": 2})), now);
        rows.change(change(&Value::Null, &json!({"id": 1})), now);
        assert_eq!((seen(&rows), rows.count()), (vec!["~2".into(), "-1".into(), "+3".into()], 2));
        assert_eq!(rows.all()[0].mark, Mark::Changed(vec!["task".to_owned()]));
        assert!(rows.fade(now), "marks are seen for a while");
        assert!(!rows.fade(now + MARKED));
        assert_eq!(seen(&rows), ["2", "3"]);
    }

    #[test]
    fn after_a_new_join_only_differences_are_marked() {
        let (mut rows, now) = (rows("id"), Instant::now());
        for tasks in [["a", "b"], ["a", "c"]] {
            rows.joined();
            rows.change(change(&row(1, tasks[0]), &Value::Null), now);
            rows.change(change(&row(2, tasks[1]), &Value::Null), now);
            rows.complete(now);
        }
        assert_eq!(seen(&rows), ["1", "+2", "-2"]);
        assert_eq!(rows.count(), 2);
    }

    #[test]
    fn a_row_that_comes_back_is_there_once() {
        let (mut rows, now) = (rows("id.desc.nullsfirst"), Instant::now());
        rows.change(change(&row(1, "a"), &Value::Null), now);
        rows.change(change(&row(10, "a"), &Value::Null), now);
        rows.change(change(&Value::Null, &json!({"id": 1})), now);
        rows.change(change(&row(1, "a"), &Value::Null), now);
        rows.change(change(&json!({"id": null, "task": "b"}), &Value::Null), now);
        assert_eq!(seen(&rows), ["+null", "+10", "+1"]);
        rows.change(change(&Value::Null, &json!({"id": 77})), now);
        assert_eq!(rows.count(), 3);
    }
}
