//! Random filters, each as text of a filter and as SQL; and the values that they are tried on.

use super::*;

/// Columns and their types, with what their values and literals are.
pub(crate) const COLUMNS: [(&str, &str, &[&str]); 19] = [
    ("n", "int4", &["-1", "0", "1", "2", "30"]),
    ("big", "int8", &["-1", "0", "9007199254740993", "2"]),
    ("num", "numeric", &["0", "-0.0", "1.50", "1.5", "NaN", "Infinity", "12345678901234567890.1"]),
    ("f", "float8", &["0", "-0", "0.1", "1e20", "NaN", "-Infinity"]),
    ("s", "text", &["", "a", "A", "ab", "a,b", "a)b", "é", "É", "\"q\"", "a\\b", "NULL", "x.y"]),
    ("v", "varchar", &["", "a", "b", "ab", "(a"]),
    ("c", "bpchar", &["a", "a ", "ab", ""]),
    ("yes", "bool", &["t", "false"]),
    ("u", "uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12"]),
    ("at", "timestamptz", &["2024-01-02 03:04+00", "2024-01-02 05:04+02", "infinity"]),
    (
        "ints",
        "_int4",
        &["{}", "{1}", "{1,2}", "{2,1,1}", "{NULL}", "{1,NULL,3}", "{{1,2},{3,1}}", "[2:3]={1,2}"],
    ),
    (
        "texts",
        "_text",
        &["{}", "{a}", "{a,b}", "{\"a,b\",c}", "{\"NULL\",NULL}", "{\"\"}", "{é,\"}\"}", "{{a,b},{c,a}}"],
    ),
    ("nums", "_numeric", &["{}", "{1.0}", "{1,2.50}", "{2.5,NaN,NULL}"]),
    ("times", "_timestamptz", &["{}", "{\"2024-01-02 03:04+00\"}", "{\"2024-01-02 05:04+02\",infinity}"]),
    ("r", "int4range", &["empty", "[1,5)", "(1,5]", "[5,9)", "[,3]", "(,)", "[2,2]", "[9,)"]),
    ("nr", "numrange", &["empty", "[1.0,5)", "(1,5.50]", "[5,9)", "(,3]", "[2,2]"]),
    ("mr", "int4multirange", &["{}", "{[1,3),[5,7)}", "{[3,5)}", "{[1,9)}", "{(,1)}"]),
    (
        "jb",
        "jsonb",
        &[
            r#"{"k": "a", "n": 1, "l": [1, {"k": "b"}, "c"], "in": {"k": "x"}}"#,
            r#"{"k": null, "n": 1.0, "l": [], "in": {"k": null}}"#,
            r#"{"k": 1.50, "n": 2, "l": [[1, 2]], "in": 5}"#,
            r#"{"k": true, "n": "1", "l": 7, "in": {"k": {"a": [1, 2.0]}}}"#,
            r#"{"k": "é\u0041\"", "n": -1e2, "l": [null], "in": []}"#,
            r#"{"k": {"a": 1}, "n": false, "l": {"0": 1}}"#,
            r#"[1, {"k": "a"}, [2]]"#,
            r#""a""#,
            "5",
            "null",
            "{}",
        ],
    ),
    (
        "js",
        "json",
        &[
            r#"{"k": "a",  "k" : "b", "n" : 1E2, "l":[ 1 , "c" ], "in" : {"k":1.0 , "k": "x"}}"#,
            r#"{ "k": null, "n": 1.0, "l": {"k": [ 1,2 ]} }"#,
            r#"{"k": "\u0041\n", "in": {"k": false}, "l": "x"}"#,
            r#" [ {"k": 1}, 2 ] "#,
            r#""k""#,
            "7",
            "{}",
        ],
    ),
];

/// Values that are compared with what stands at a path.
const TEXTS: [&str; 9] = ["a", "b", "x", "1", "1.0", "true", "éA\"", "100", "{\"a\": 1}"];
const JSONS: [&str; 12] =
    ["1", "1.0", "2", "true", "false", "null", "\"a\"", "\"b\"", "[]", "{\"a\": 1}", "[1, 2]", "-100"];

const COMPARISONS: [(&str, &str); 6] =
    [("eq", "="), ("neq", "<>"), ("lt", "<"), ("lte", "<="), ("gt", ">"), ("gte", ">=")];
const CONTAINMENTS: [(&str, &str); 3] = [("cs", "@>"), ("cd", "<@"), ("ov", "&&")];
const OF_RANGES: [(&str, &str); 5] =
    [("sl", "<<"), ("sr", ">>"), ("nxl", "&>"), ("nxr", "&<"), ("adj", "-|-")];

pub(crate) fn pick<'a, T: ?Sized>(r: &mut StdRng, all: &[&'a T]) -> &'a T {
    all.choose(r).copied().unwrap()
}

pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A value as a filter has it: sometimes without quotes, where it needs none.
fn value(r: &mut StdRng, text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '+'));
    let array = text.starts_with('{') && !text.contains([',', '\\']);
    if (plain || array) && r.random_bool(0.5) { text.to_owned() } else { in_quotes(text) }
}

/// A condition: the column with its path, the operator with its value, and the SQL.
type Condition = (String, String, String);

fn list(r: &mut StdRng, literals: &[&str]) -> String {
    let elements: Vec<String> = (0..r.random_range(0..4))
        .map(|_| if r.random_bool(0.1) { "NULL".to_owned() } else { in_quotes(pick(r, literals)) })
        .collect();
    elements.join(",")
}

/// A condition that all types have that can be compared.
fn comparison(r: &mut StdRng, column: &str, sql: &str, type_name: &str, literals: &[&str]) -> Condition {
    let text = pick(r, literals);
    let constant = format!("{}::pg_catalog.{type_name}", literal(text));
    let (operator, sql) = match r.random_range(0..10) {
        0 => ("is.null".to_owned(), format!("{sql} is null")),
        1 => (format!("isdistinct.{}", value(r, text)), format!("{sql} is distinct from {constant}")),
        2 | 3 if !type_name.starts_with('_') => {
            let list = list(r, literals);
            let array = literal(&format!("{{{list}}}"));
            (format!("in.({list})"), format!("{sql} = any ({array}::pg_catalog.{type_name}[])"))
        }
        _ => {
            let (name, symbol) = COMPARISONS.choose(r).unwrap();
            (format!("{name}.{}", value(r, text)), format!("{sql} {symbol} {constant}"))
        }
    };
    (column.to_owned(), operator, sql)
}

fn operator(r: &mut StdRng, of: &[(&str, &str)], column: &str, type_name: &str, text: &str) -> Condition {
    let (name, symbol) = of.choose(r).unwrap();
    let constant = format!("{}::pg_catalog.{type_name}", literal(text));
    // Brackets keep their commas.
    let bare = !text.contains(['"', '\\', '=']) && r.random_bool(0.5);
    let value = if bare { text.to_owned() } else { in_quotes(text) };
    (column.to_owned(), format!("{name}.{value}"), format!("{column} {symbol} {constant}"))
}

fn path(r: &mut StdRng, column: &str) -> Condition {
    let steps: Vec<&str> =
        (0..r.random_range(1..4)).map(|_| pick(r, &["k", "k", "n", "l", "in", "0", "1", "-1"])).collect();
    let as_text = column == "js" || r.random_bool(0.5);
    let (mut name, mut sql) = (column.to_owned(), column.to_owned());
    for (at, step) in steps.iter().enumerate() {
        let arrow = if as_text && at + 1 == steps.len() { "->>" } else { "->" };
        name.push_str(arrow);
        name.push_str(step);
        sql.push_str(arrow);
        sql.push_str(&if step.parse::<i32>().is_ok() { (*step).to_owned() } else { literal(step) });
    }
    let sql = format!("({sql})");
    if !as_text {
        return comparison(r, &name, &sql, "jsonb", &JSONS);
    }
    if r.random_bool(0.2) {
        let (operator, symbol) =
            *[("like", "like"), ("ilike", "ilike"), ("match", "~"), ("imatch", "~*")].choose(r).unwrap();
        let pattern = pick(r, &["a", "x", "A", "1"]);
        return (name, format!("{operator}.{pattern}"), format!("{sql} {symbol} {}", literal(pattern)));
    }
    comparison(r, &name, &sql, "text", &TEXTS)
}

pub(crate) fn leaf(r: &mut StdRng) -> Condition {
    let (column, type_name, literals) = *COLUMNS.choose(r).unwrap();
    let text = pick(r, literals);
    match type_name {
        "json" => path(r, column),
        "jsonb" if r.random_bool(0.6) => path(r, column),
        "jsonb" if r.random_bool(0.3) => {
            let document = pick(r, &JSONS);
            operator(r, &CONTAINMENTS[..2], column, type_name, document)
        }
        "jsonb" => comparison(r, column, column, type_name, &JSONS),
        _ if type_name.starts_with('_') && r.random_bool(0.8) => {
            operator(r, &CONTAINMENTS, column, type_name, text)
        }
        _ if type_name.ends_with("range") && r.random_bool(0.8) => {
            let of: &[(&str, &str)] = if r.random_bool(0.5) { &OF_RANGES } else { &CONTAINMENTS };
            operator(r, of, column, type_name, text)
        }
        "text" if r.random_bool(0.3) => {
            let (name, symbol) =
                *[("like", "like"), ("ilike", "ilike"), ("match", "~"), ("imatch", "~*")].choose(r).unwrap();
            let pattern = pick(r, &["a%", "%b", "a_b", "^a", "É", "q"]);
            (
                column.to_owned(),
                format!("{name}.{pattern}"),
                format!("{column} {symbol} {}", literal(pattern)),
            )
        }
        "bool" if r.random_bool(0.5) => {
            let keyword = pick(r, &["true", "false", "unknown"]);
            (column.to_owned(), format!("is.{keyword}"), format!("{column} is {keyword}"))
        }
        _ => comparison(r, column, column, type_name, literals),
    }
}

/// A part of a group, and its SQL.
fn part(r: &mut StdRng, depth: u32) -> (String, String) {
    if depth == 0 || r.random_bool(0.5) {
        let (column, operator, sql) = leaf(r);
        return if r.random_bool(0.3) {
            (format!("{column}.not.{operator}"), format!("not ({sql})"))
        } else {
            (format!("{column}.{operator}"), format!("({sql})"))
        };
    }
    group(r, depth - 1, "(")
}

fn group(r: &mut StdRng, depth: u32, mark: &str) -> (String, String) {
    let parts: Vec<(String, String)> = (0..r.random_range(1..4)).map(|_| part(r, depth)).collect();
    let (texts, sqls): (Vec<String>, Vec<String>) = parts.into_iter().unzip();
    let kind = pick(r, &["or", "or", "and"]);
    let (not, sql_not) = if r.random_bool(0.25) { ("not.", "not ") } else { ("", "") };
    (
        format!("{not}{kind}{mark}{})", texts.join(",")),
        format!("{sql_not}({})", sqls.join(&format!(" {kind} "))),
    )
}

pub(crate) fn filter(r: &mut StdRng) -> (String, String) {
    let segments: Vec<(String, String)> = (0..r.random_range(1..3))
        .map(|_| {
            if r.random_bool(0.5) {
                return group(r, 2, "=(");
            }
            let (column, operator, sql) = leaf(r);
            (format!("{column}={operator}"), format!("({sql})"))
        })
        .collect();
    let (texts, sqls): (Vec<String>, Vec<String>) = segments.into_iter().unzip();
    (texts.join(","), sqls.join(" and "))
}
