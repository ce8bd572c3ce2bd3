//! Bodies at random: for whom no bound of a function holds, the function is false, not true and not NULL.
//!
//! The bodies are evaluated here, over rows at random, as SQL says. `REALTIME_TEST_SEED` repeats a run.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Function, compiled};
use crate::policy::Bound;

/// Bodies at most, and how many of them are to be narrowed, by several bounds too.
const BODIES: usize = 3_000;
const BOUNDED: usize = 60;
const OF_SEVERAL: usize = 4;

/// The values of the row that a function is called with: its arguments.
type Row = [i32; 2];

/// NULL is none.
type Value = Option<i32>;

/// A table: its name, and its columns. The second is somebody.
struct Table {
    name: &'static str,
    columns: [&'static str; 3],
}

const TABLES: [Table; 2] = [
    Table { name: "members", columns: ["room", "who", "rank"] },
    Table { name: "rooms", columns: ["id", "owner", "team"] },
];
const WHO: usize = 1;

/// The rows of the tables.
type Rows = [Vec<[Value; 3]>; 2];

/// What a row is asked for.
#[derive(Debug, Clone)]
enum Demand {
    /// A column is equal to an argument.
    Argument(usize, usize),
    /// It is equal to a constant.
    Constant(usize, i32),
    IsNull(usize),
    /// It is who asks.
    Me,
    Or(Box<Demand>, Box<Demand>),
}

/// What a function returns.
#[derive(Debug, Clone)]
enum Body {
    False,
    Null,
    Exists(usize, Vec<Demand>),
    /// An argument, and the column that it is looked for in.
    In(usize, usize, usize, Vec<Demand>),
    Or(Box<Body>, Box<Body>),
    And(Box<Body>, Box<Body>),
    Not(Box<Body>),
    Coalesce(Box<Body>, bool),
    Nested(Box<Body>),
}

/// Who asks, and with what.
struct Asking<'a> {
    row: Row,
    me: Value,
    rows: &'a Rows,
}

fn or(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

fn not(value: Option<bool>) -> Option<bool> {
    value.map(|value| !value)
}

fn equal(left: Value, right: Value) -> Option<bool> {
    Some(left? == right?)
}

impl Demand {
    fn at_random(dice: &mut StdRng, depth: usize) -> Self {
        // A column that is no somebody.
        let column = |dice: &mut StdRng| 2 * dice.random_range(0..2);
        match dice.random_range(0..10) {
            0..=3 => Self::Argument(column(dice), usize::from(dice.random_bool(0.3))),
            4..=6 => Self::Me,
            7 => Self::Constant(column(dice), dice.random_range(0..3)),
            8 => Self::IsNull(column(dice)),
            _ if depth > 1 => Self::Me,
            _ => {
                let (left, right) = (Self::at_random(dice, depth + 1), Self::at_random(dice, depth + 1));
                Self::Or(Box::new(left), Box::new(right))
            }
        }
    }

    fn sql(&self, table: &Table, dice: &mut StdRng) -> String {
        let column = |at: usize| format!("t.{}", table.columns[at]);
        let equal = |left: String, right: String, dice: &mut StdRng| match dice.random_bool(0.5) {
            true => format!("{left} = {right}"),
            false => format!("{right} = {left}"),
        };
        match self {
            Self::Argument(at, argument) => {
                let name = if *argument == 0 && dice.random_bool(0.5) { "r" } else { "" };
                let argument = if name.is_empty() { format!("${}", argument + 1) } else { name.to_owned() };
                equal(column(*at), argument, dice)
            }
            Self::Constant(at, value) => equal(column(*at), value.to_string(), dice),
            Self::IsNull(at) => format!("{} is null", column(*at)),
            Self::Me => {
                let me = if dice.random_bool(0.5) { "auth.uid()" } else { "(select auth.uid())" };
                equal(column(WHO), me.to_owned(), dice)
            }
            Self::Or(left, right) => format!("({} or {})", left.sql(table, dice), right.sql(table, dice)),
        }
    }

    fn holds(&self, row: &[Value; 3], asking: &Asking<'_>) -> Option<bool> {
        match self {
            Self::Argument(at, argument) => equal(row[*at], Some(asking.row[*argument])),
            Self::Constant(at, value) => equal(row[*at], Some(*value)),
            Self::IsNull(at) => Some(row[*at].is_none()),
            Self::Me => equal(row[WHO], asking.me),
            Self::Or(left, right) => or(left.holds(row, asking), right.holds(row, asking)),
        }
    }
}

fn demands(dice: &mut StdRng) -> Vec<Demand> {
    let mut demands: Vec<Demand> = (0..dice.random_range(1..3)).map(|_| Demand::at_random(dice, 0)).collect();
    if dice.random_bool(0.5) {
        demands = vec![Demand::Argument(2 * dice.random_range(0..2), dice.random_range(0..2)), Demand::Me];
        if dice.random_bool(0.4) {
            demands.insert(dice.random_range(0..3), Demand::at_random(dice, 0));
        }
    }
    demands
}

impl Body {
    fn at_random(dice: &mut StdRng, depth: usize) -> Self {
        let inner = |dice: &mut StdRng| Box::new(Self::at_random(dice, depth + 1));
        let table = dice.random_range(0..2);
        match dice.random_range(0..if depth > 2 { 8 } else { 17 }) {
            0 => Self::False,
            1 if dice.random_bool(0.2) => Self::Null,
            1..=4 => Self::Exists(table, demands(dice)),
            5..=7 => Self::In(
                usize::from(dice.random_bool(0.3)),
                table,
                2 * dice.random_range(0..2),
                demands(dice),
            ),
            8..=12 => Self::Or(inner(dice), inner(dice)),
            13 => Self::And(inner(dice), inner(dice)),
            14 => Self::Not(inner(dice)),
            15 => Self::Coalesce(inner(dice), dice.random_bool(0.5)),
            _ => Self::Nested(inner(dice)),
        }
    }

    fn sql(&self, dice: &mut StdRng) -> String {
        let rows = |table: usize, demands: &[Demand], dice: &mut StdRng| {
            let table = &TABLES[table];
            let demands: Vec<String> = demands.iter().map(|demand| demand.sql(table, dice)).collect();
            format!("from {} t where {}", table.name, demands.join(" and "))
        };
        match self {
            Self::False => "false".to_owned(),
            Self::Null => "null::boolean".to_owned(),
            Self::Exists(table, demands) => format!("exists (select {})", rows(*table, demands, dice)),
            Self::In(argument, table, column, demands) => {
                let (column, rows) = (TABLES[*table].columns[*column], rows(*table, demands, dice));
                format!("${} in (select t.{column} {rows})", argument + 1)
            }
            Self::Or(left, right) => format!("({} or {})", left.sql(dice), right.sql(dice)),
            Self::And(left, right) => format!("({} and {})", left.sql(dice), right.sql(dice)),
            Self::Not(inner) => format!("not ({})", inner.sql(dice)),
            Self::Coalesce(inner, other) => format!("coalesce({}, {other})", inner.sql(dice)),
            Self::Nested(inner) => format!("(select {})", inner.sql(dice)),
        }
    }

    fn value(&self, asking: &Asking<'_>) -> Option<bool> {
        let rows = |table: usize, demands: &[Demand]| {
            let all =
                |row: &&[Value; 3]| demands.iter().all(|demand| demand.holds(row, asking) == Some(true));
            asking.rows[table].iter().filter(all).copied().collect::<Vec<_>>()
        };
        match self {
            Self::False => Some(false),
            Self::Null => None,
            Self::Exists(table, demands) => Some(!rows(*table, demands).is_empty()),
            Self::In(argument, table, column, demands) => {
                let found = rows(*table, demands).into_iter();
                let of_row = |row: [Value; 3]| equal(row[*column], Some(asking.row[*argument]));
                found.map(of_row).fold(Some(false), or)
            }
            Self::Or(left, right) => or(left.value(asking), right.value(asking)),
            Self::And(left, right) => not(or(not(left.value(asking)), not(right.value(asking)))),
            Self::Not(inner) => not(inner.value(asking)),
            Self::Coalesce(inner, other) => inner.value(asking).or(Some(*other)),
            Self::Nested(inner) => inner.value(asking),
        }
    }
}

/// Whether a row of a bound's table names somebody.
fn names(bound: &Bound, asking: &Asking<'_>) -> bool {
    let at = TABLES.iter().position(|table| *table.name == *bound.table()).unwrap();
    let place = |name: &str| TABLES[at].columns.iter().position(|column| *column == name).unwrap();
    let (column, owner) = (place(bound.column()), place(bound.owner()));
    let is_of_row = |row: &&[Value; 3]| match row[column] {
        Some(value) => value == asking.row[bound.argument()],
        None => bound.or_null(),
    };
    asking.rows[at].iter().filter(is_of_row).any(|row| row[owner].is_some() && row[owner] == asking.me)
}

fn rows(dice: &mut StdRng) -> Rows {
    let value = |dice: &mut StdRng| dice.random_bool(0.8).then(|| dice.random_range(0..3));
    let table = |dice: &mut StdRng| {
        (0..dice.random_range(0..5)).map(|_| [value(dice), value(dice), value(dice)]).collect()
    };
    [table(dice), table(dice)]
}

#[test]
fn a_function_is_false_for_all_who_are_not_named() {
    let seed = std::env::var("REALTIME_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("REALTIME_TEST_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut bounded, mut of_several, mut unnamed, mut seen) = (0, 0, 0, 0);
    for _ in 0..BODIES {
        if bounded >= BOUNDED && of_several >= OF_SEVERAL {
            break;
        }
        let body = Body::at_random(&mut dice, 0);
        let value = body.sql(&mut dice);
        let is_plpgsql = dice.random_bool(0.3);
        let text = if is_plpgsql { format!("begin return {value}; end") } else { format!("select {value}") };
        let language = if is_plpgsql { "plpgsql" } else { "sql" };
        let compiled = compiled(|function| Function { language: language.into(), ..function }, &text);
        let Some(bounds) = compiled.calls().first().map(|call| call.bounds()) else { continue };
        if bounds.is_empty() {
            continue;
        }
        bounded += 1;
        of_several += usize::from(bounds.len() > 1);
        for _ in 0..10 {
            let (row, rows) = ([dice.random_range(0..3), dice.random_range(0..3)], rows(&mut dice));
            // Somebody of whom the claims say nothing is named by no row.
            for me in [None, Some(0), Some(1), Some(2), Some(3)] {
                let asking = Asking { row, me, rows: &rows };
                let value = body.value(&asking);
                seen += usize::from(value == Some(true));
                if bounds.iter().any(|bound| names(bound, &asking)) {
                    continue;
                }
                unnamed += 1;
                assert_eq!(value, Some(false), "seed {seed}: {text}\n{row:?} {me:?}\n{rows:?}");
            }
        }
    }
    assert!(
        bounded >= BOUNDED && of_several >= OF_SEVERAL,
        "{bounded} were narrowed, {of_several} by several"
    );
    assert!(unnamed > 500 && seen > 100, "{unnamed} were not named, {seen} see rows");
}
