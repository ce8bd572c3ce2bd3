//! From what a client asked to what can be evaluated, for one table and one role (postgres_changes 1.6, 1.7).

mod sought;

use std::convert::Infallible;

use realtime_pgoutput::{oid, parse_array};
pub use sought::Sought;

use crate::{
    Column, RoleAccess, SubscriptionSpec, Table,
    catalog::Comparison,
    filter::{Filter, Operator},
    literal,
    path::JsonPath,
    predicate::{Condition, Planned, Predicate},
    question::Form,
    row::Operand,
    tree::Tree,
    value::Family,
};

/// Most elements of an `in` list; duplicates count.
const MAX_IN: usize = 100;

/// A subscription bound to a table. The database has to check its literals before it can be evaluated.
#[derive(Debug, Clone)]
pub struct Plan {
    conditions: Tree<Planned>,
    select: Option<Vec<usize>>,
}

/// A literal that the database must accept, together with the operator it is used with, and give back in its
/// canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiteralCheck<'a> {
    /// Type to cast to, quoted.
    pub cast_type: &'a str,
    /// SQL operator between the column and the literal, with its schema.
    pub operator: &'a str,
    /// The literal.
    pub literal: &'a str,
    /// How the two are used.
    pub form: Form,
    /// The operator as clients write it.
    pub name: &'static str,
    /// Whether the cast can run code of an application.
    pub runs_code: bool,
}

/// Binds a subscription to a table as a role sees it.
///
/// # Errors
/// The message of the exception that the client is told.
pub fn plan(spec: &SubscriptionSpec, table: &Table, access: &RoleAccess) -> Result<Plan, String> {
    let trees: Result<Vec<_>, _> =
        spec.filters.iter().map(|tree| tree.try_map(&mut |filter| bind(filter, table, access))).collect();
    let conditions = Tree::and(trees?);
    let select = spec.select.as_ref().map(|names| {
        let column = |name: &str| {
            let column = table.column(name).filter(|column| access.reads(*column));
            column.ok_or_else(|| format!("invalid column for select {name}"))
        };
        names.iter().map(|name| column(name)).collect::<Result<Vec<_>, _>>()
    });
    Ok(Plan { conditions, select: select.transpose()? })
}

fn not_in_log(column: &Column) -> String {
    format!(
        "column {} of the filter is not in the log: it is generated, or not in the column list of the publication",
        column.name
    )
}

fn bind(filter: &Filter, table: &Table, access: &RoleAccess) -> Result<Planned, String> {
    let (index, path) = locate(filter, table, access)?;
    let column = table.columns.get(index).ok_or_else(|| invalid(filter))?;
    if !column.in_log {
        return Err(not_in_log(column));
    }
    let operand = Operand {
        column: index,
        path: path.cloned().map(Into::into),
        is_jsonb: column.base_oid == oid::JSONB,
    };
    let inside = path.map(|path| inside(filter, path, column)).transpose()?;
    let column = inside.as_ref().unwrap_or(column);
    check_operator(filter, column)?;
    let sql = match sql(filter.operator) {
        None => None,
        Some((symbol, form)) => {
            let operator = column.comparison.operator(symbol);
            let missing = || format!("operator {symbol} does not exist for type {}", column.sql_type);
            Some((operator.ok_or_else(missing)?.into(), form))
        }
    };
    let mut filter = filter.clone();
    // The reference compares bytea by its bare hexadecimal digits; both spellings mean the bytes here.
    if column.base_oid == oid::BYTEA && filter.operator != Operator::In && is_hex(&filter.value) {
        filter.value = format!("\\x{}", filter.value).into();
    }
    Ok(Planned {
        operand,
        settled: literal::is_canonical(&filter, column),
        filter,
        cast_type: column.cast_type.clone(),
        base_oid: column.base_oid,
        comparison: column.comparison.clone(),
        sql,
    })
}

fn invalid(filter: &Filter) -> String {
    format!("invalid column for filter {}", filter.column_text())
}

/// The column that a condition means, and what of its documents. A column may have the name of a path.
fn locate<'f>(
    filter: &'f Filter,
    table: &Table,
    access: &RoleAccess,
) -> Result<(usize, Option<&'f JsonPath>), String> {
    let readable = |name: &str| table.column(name).filter(|column| access.reads(*column));
    if let Some(path) = &filter.path {
        let inside = || readable(&filter.column).map(|column| (column, Some(path)));
        let whole = readable(&filter.column_text()).map(|column| (column, None));
        return whole.or_else(inside).ok_or_else(|| invalid(filter));
    }
    readable(&filter.column).map(|column| (column, None)).ok_or_else(|| invalid(filter))
}

/// What stands at a path in a column, as if it were a column.
fn inside(filter: &Filter, path: &JsonPath, column: &Column) -> Result<Column, String> {
    let (oid, type_name) = match (column.base_oid, path.as_text) {
        (oid::JSON | oid::JSONB, true) => (oid::TEXT, "text"),
        (oid::JSON, false) => (oid::JSON, "json"),
        (oid::JSONB, false) => (oid::JSONB, "jsonb"),
        _ => {
            return Err(format!(
                "a path of a filter requires a json or jsonb column, got {} for {}",
                column.sql_type, column.name
            ));
        }
    };
    Ok(Column {
        name: filter.column_text().into(),
        type_oid: oid,
        base_oid: oid,
        type_name: type_name.into(),
        sql_type: type_name.into(),
        cast_type: format!("pg_catalog.{type_name}").into(),
        comparison: Comparison::built_in(type_name),
        in_log: true,
    })
}

/// The SQL operator that stands for a filter's, and how it is used. `None` for `is`.
const fn sql(operator: Operator) -> Option<(&'static str, Form)> {
    Some(match operator {
        Operator::Eq => ("=", Form::Scalar),
        Operator::Neq => ("<>", Form::Scalar),
        Operator::Lt => ("<", Form::Scalar),
        Operator::Lte => ("<=", Form::Scalar),
        Operator::Gt => (">", Form::Scalar),
        Operator::Gte => (">=", Form::Scalar),
        Operator::IsDistinct => ("=", Form::Distinct),
        Operator::Like => ("~~", Form::Scalar),
        Operator::Ilike => ("~~*", Form::Scalar),
        Operator::Match => ("~", Form::Regex),
        Operator::Imatch => ("~*", Form::Regex),
        Operator::In => ("=", Form::Array),
        Operator::Cs => ("@>", Form::Scalar),
        Operator::Cd => ("<@", Form::Scalar),
        Operator::Ov => ("&&", Form::Scalar),
        Operator::Sl => ("<<", Form::Scalar),
        Operator::Sr => (">>", Form::Scalar),
        Operator::Nxl => ("&>", Form::Scalar),
        Operator::Nxr => ("&<", Form::Scalar),
        Operator::Adj => ("-|-", Form::Scalar),
        Operator::Is => return None,
    })
}

/// The built-in ranges and multiranges.
const RANGES: [u32; 12] = [3904, 3906, 3908, 3910, 3912, 3926, 4451, 4532, 4533, 4534, 4535, 4536];

fn is_hex(text: &str) -> bool {
    text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the reference checks before the literal itself.
fn check_operator(filter: &Filter, column: &Column) -> Result<(), String> {
    let operator_name = filter.operator.as_str();
    let type_name = &*column.type_name;
    let fits = match filter.operator {
        Operator::Is => match &*filter.value {
            "null" => true,
            keyword @ ("true" | "false" | "unknown") => {
                if column.base_oid == oid::BOOL {
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
        Operator::Match | Operator::Imatch => {
            if has_back_reference(&filter.value) {
                return Err(format!("back-references are not supported by {operator_name} filters"));
            }
            matches!(type_name, "text" | "citext")
        }
        Operator::In => {
            let elements = parse_array(filter.value.as_bytes(), b',').map_or(0, |elements| elements.len());
            if elements > MAX_IN {
                return Err(format!("too many values for `in` filter. Maximum {MAX_IN}"));
            }
            true
        }
        // Integers have operators of the same names that are no comparisons.
        operator if operator.is_of_ranges() => {
            if column.base_oid < oid::FIRST_NORMAL && !RANGES.contains(&column.base_oid) {
                return Err(format!(
                    "operator {operator_name} requires a range column type, got {}",
                    column.sql_type
                ));
            }
            true
        }
        Operator::Cs | Operator::Cd | Operator::Ov => {
            if Family::of(column.base_oid).is_some() {
                return Err(format!(
                    "operator {operator_name} requires an array, range or jsonb column type, got {}",
                    column.sql_type
                ));
            }
            true
        }
        _ => true,
    };
    if fits {
        return Ok(());
    }
    Err(format!("operator {operator_name} requires a text-compatible column type, got {}", column.sql_type))
}

/// Whether a regular expression refers to what a group of it has matched: only that can take more than polynomial time.
fn has_back_reference(pattern: &str) -> bool {
    // What begins so is a plain text.
    if pattern.starts_with("***=") {
        return false;
    }
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.next().is_some_and(|next| matches!(next, '1'..='9')) {
            return true;
        }
    }
    false
}

impl Plan {
    /// The literals that the database must check, in the order of the conditions that have one. Those that are
    /// certain to be accepted as they stand are not among them.
    #[must_use]
    pub fn checks(&self) -> Vec<LiteralCheck<'_>> {
        self.conditions
            .leaves()
            .into_iter()
            .filter(|planned| !planned.settled)
            .filter_map(|planned| {
                let (operator, form) = planned.sql.as_ref()?;
                Some(LiteralCheck {
                    cast_type: &planned.cast_type,
                    operator,
                    literal: &planned.filter.value,
                    form: *form,
                    name: planned.filter.operator.as_str(),
                    runs_code: planned.comparison.runs_code,
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
        let compiled = self.conditions.try_map(&mut |planned| {
            let asked = planned.sql.is_some() && !planned.settled;
            let literal = if asked { literals.next() } else { None };
            let literal = literal.map_or(&*planned.filter.value, String::as_str);
            Ok::<_, Infallible>(Condition::new(planned, literal, collation_is_c))
        });
        let Ok(tree) = compiled;
        Predicate::new(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_references_are_found() {
        for (pattern, expected) in [
            (r"^(.*)\1$", true),
            (r"(a)(b)\\\2", true),
            (r"a\\1", false),
            (r"\d+1", false),
            (r"(a)1", false),
            (r"***=(a)\1", false),
            (r"***:(a)\1", true),
            (r"a\", false),
        ] {
            assert_eq!(has_back_reference(pattern), expected, "{pattern}");
        }
    }
}
