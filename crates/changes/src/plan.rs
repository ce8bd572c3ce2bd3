//! From what a client asked to what can be evaluated, for one table and one role (postgres_changes 1.6, 1.7).

use realtime_pgoutput::parse_array;

use crate::{
    Column, RoleAccess, SubscriptionSpec, Table,
    filter::{Filter, Operator},
    literal,
    predicate::Predicate,
};

/// Most elements of an `in` list; duplicates count.
const MAX_IN: usize = 100;

/// A subscription bound to a table. The database has to check its literals before it can be evaluated.
#[derive(Debug, Clone)]
pub struct Plan {
    conditions: Vec<Planned>,
    select: Option<Vec<usize>>,
}

/// A condition whose literal the database has not seen yet.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) column: usize,
    pub(crate) filter: Filter,
    pub(crate) cast_type: Box<str>,
    pub(crate) base_oid: u32,
    /// The literal is known to be in canonical form: the database need not be asked.
    settled: bool,
}

/// How the database checks a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiteralKind {
    /// A value of the column's type.
    Scalar,
    /// An array of them.
    Array,
    /// A regular expression.
    Regex,
}

/// A literal that the database must accept, together with the operator it is used with, and give back in its
/// canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiteralCheck<'a> {
    /// Type to cast to, quoted.
    pub cast_type: &'a str,
    /// SQL operator between the column and the literal.
    pub operator: &'static str,
    /// The literal.
    pub literal: &'a str,
    /// How it is used.
    pub kind: LiteralKind,
}

/// Binds a subscription to a table as a role sees it.
///
/// # Errors
/// The message of the exception that the client is told.
pub fn plan(spec: &SubscriptionSpec, table: &Table, access: &RoleAccess) -> Result<Plan, String> {
    let conditions: Result<Vec<_>, _> =
        spec.filters.iter().map(|filter| bind(filter, table, access)).collect();
    let conditions = conditions?;
    let select = spec.select.as_ref().map(|names| {
        let column = |name: &str| {
            let column = table.column(name).filter(|column| access.reads(*column));
            column.ok_or_else(|| format!("invalid column for select {name}"))
        };
        names.iter().map(|name| column(name)).collect::<Result<Vec<_>, _>>()
    });
    Ok(Plan { conditions, select: select.transpose()? })
}

fn bind(filter: &Filter, table: &Table, access: &RoleAccess) -> Result<Planned, String> {
    let invalid = || format!("invalid column for filter {}", filter.column);
    let index = table.column(&filter.column).filter(|column| access.reads(*column)).ok_or_else(invalid)?;
    let column = table.columns.get(index).ok_or_else(invalid)?;
    check_operator(filter, column)?;
    let mut filter = filter.clone();
    // The reference compares bytea by its bare hexadecimal digits; both spellings mean the bytes here.
    if column.base_oid == BYTEA && filter.operator != Operator::In && is_hex(&filter.value) {
        filter.value = format!("\\x{}", filter.value).into();
    }
    Ok(Planned {
        column: index,
        settled: literal::is_canonical(&filter, column),
        filter,
        cast_type: column.cast_type.clone(),
        base_oid: column.base_oid,
    })
}

const BOOL: u32 = 16;
const BYTEA: u32 = 17;

fn is_hex(text: &str) -> bool {
    text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the reference checks before the literal itself.
fn check_operator(filter: &Filter, column: &Column) -> Result<(), String> {
    let operator = filter.operator.as_str();
    let type_name = &*column.type_name;
    let fits = match filter.operator {
        Operator::Is => match &*filter.value {
            "null" => true,
            keyword @ ("true" | "false" | "unknown") => {
                if column.base_oid == BOOL {
                    return Ok(());
                }
                return Err(format!(
                    "is {keyword} filter requires a boolean column, got {}",
                    column.sql_type
                ));
            }
            _ => return Err("invalid value for is filter: must be null, true, false, or unknown".to_owned()),
        },
        Operator::Like => matches!(type_name, "text" | "bpchar" | "name" | "bytea" | "citext"),
        // The reference lets it pass on bytea and then fails on every row.
        Operator::Ilike => matches!(type_name, "text" | "bpchar" | "name" | "citext"),
        Operator::Match | Operator::Imatch => matches!(type_name, "text" | "citext"),
        Operator::In => {
            let elements = parse_array(filter.value.as_bytes(), b',').map_or(0, |elements| elements.len());
            if elements > MAX_IN {
                return Err(format!("too many values for `in` filter. Maximum {MAX_IN}"));
            }
            true
        }
        _ => true,
    };
    if fits {
        return Ok(());
    }
    Err(format!("operator {operator} requires a text-compatible column type, got {}", column.sql_type))
}

impl Planned {
    /// The SQL operator that stands for the condition's, and how its literal is used. `None` for `is`.
    pub(crate) const fn sql(&self) -> Option<(&'static str, LiteralKind)> {
        Some(match self.filter.operator {
            Operator::Eq => ("=", LiteralKind::Scalar),
            Operator::Neq => ("<>", LiteralKind::Scalar),
            Operator::Lt => ("<", LiteralKind::Scalar),
            Operator::Lte => ("<=", LiteralKind::Scalar),
            Operator::Gt => (">", LiteralKind::Scalar),
            Operator::Gte => (">=", LiteralKind::Scalar),
            Operator::IsDistinct => ("IS DISTINCT FROM", LiteralKind::Scalar),
            Operator::Like => ("LIKE", LiteralKind::Scalar),
            Operator::Ilike => ("ILIKE", LiteralKind::Scalar),
            Operator::Match => ("~", LiteralKind::Regex),
            Operator::Imatch => ("~*", LiteralKind::Regex),
            Operator::In => ("= ANY", LiteralKind::Array),
            Operator::Is => return None,
        })
    }
}

impl Plan {
    /// The literals that the database must check, in the order of the conditions that have one. Those that are
    /// certain to be accepted as they stand are not among them.
    #[must_use]
    pub fn checks(&self) -> Vec<LiteralCheck<'_>> {
        self.conditions
            .iter()
            .filter(|planned| !planned.settled)
            .filter_map(|planned| {
                let (operator, kind) = planned.sql()?;
                Some(LiteralCheck {
                    cast_type: &planned.cast_type,
                    operator,
                    literal: &planned.filter.value,
                    kind,
                })
            })
            .collect()
    }

    /// The columns to send beside the primary key; `None` for all.
    #[must_use]
    pub fn select(&self) -> Option<&[usize]> {
        self.select.as_deref()
    }

    /// The predicate, given the canonical form of each checked literal in order. `collation_is_c`: whether the
    /// database orders text by its bytes.
    #[must_use]
    pub fn compile(&self, canonical: &[String], collation_is_c: bool) -> Predicate {
        let mut literals = canonical.iter();
        Predicate::new(self.conditions.iter().map(|planned| {
            let asked = planned.sql().is_some() && !planned.settled;
            let literal = if asked { literals.next() } else { None };
            planned.compile(literal.map_or(&planned.filter.value, |literal| literal.as_str()), collation_is_c)
        }))
    }
}
