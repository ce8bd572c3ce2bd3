//! Calls of functions: which function is meant, whether it only reads, and what.

use sqlparser::ast::{Expr, Function as Call, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName};

use super::{Scanner, Type};
use crate::policy::{
    Why,
    catalog::{Function, Volatility},
    read,
    types::{self, DATE, NAME, TIMESTAMP, TIMESTAMPTZ},
};

/// Where PostgreSQL's own functions are.
pub(super) const BUILT_IN: &str = "pg_catalog";

/// Stable functions of PostgreSQL whose results depend on their arguments and on settings that stay as they are, or on
/// roles. What other stable ones look at is not known.
pub(super) const SETTLED: [&str; 24] = [
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "current_setting",
    "date_part",
    "date_trunc",
    "format",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "pg_has_role",
    "row_to_json",
    "string_agg",
    "timezone",
    "to_char",
    "to_json",
    "to_jsonb",
    "to_timestamp",
];

/// Functions whose results are the time, and their types.
const CLOCKS: [&str; 6] =
    ["now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "timeofday", "age"];

impl<'c> Scanner<'c> {
    pub(super) fn function(&mut self, call: &Call) -> Result<Type, Why> {
        let plain = !call.uses_odbc_syntax
            && matches!(call.parameters, FunctionArguments::None)
            && call.within_group.is_empty()
            && call.null_treatment.is_none()
            && call.over.is_none();
        if !plain {
            return Err(Why::not_understood("its syntax"));
        }
        if let Some(filter) = &call.filter {
            self.expression(filter)?;
        }
        match &call.args {
            FunctionArguments::None => self.keyword(&call.name),
            // `array(select …)` is read as a call.
            FunctionArguments::Subquery(query) if is_named(&call.name, "array") => {
                let columns = self.query(query)?;
                Ok(columns.first().and_then(|(_, element)| *element).and_then(types::array_of))
            }
            FunctionArguments::Subquery(_) => Err(Why::not_understood("its syntax")),
            FunctionArguments::List(list) => {
                if !list.clauses.is_empty() {
                    return Err(Why::not_understood("its syntax"));
                }
                self.call(&call.name, &list.args)
            }
        }
    }

    /// What looks like a function without brackets.
    fn keyword(&mut self, name: &ObjectName) -> Result<Type, Why> {
        let parts = types::parts(name).unwrap_or_default();
        let [name] = parts.as_slice() else { return Err(Why::not_understood("its syntax")) };
        Ok(Some(match name.as_str() {
            "current_user" | "session_user" | "user" | "current_role" | "current_catalog"
            | "current_schema" => {
                self.facts.role = true;
                NAME
            }
            "current_timestamp" => self.clock(TIMESTAMPTZ),
            "current_date" => self.clock(DATE),
            "localtimestamp" => self.clock(TIMESTAMP),
            _ => return Err(Why::not_understood("its syntax")),
        }))
    }

    fn clock(&mut self, oid: realtime_pgoutput::Oid) -> realtime_pgoutput::Oid {
        self.facts.clock = true;
        oid
    }

    /// A call with arguments, in an expression or in a FROM clause.
    pub(super) fn call(&mut self, name: &ObjectName, args: &[FunctionArg]) -> Result<Type, Why> {
        let (list, is_star) = arguments(args)?;
        let parts = types::parts(name).ok_or_else(|| Why::not_understood("its syntax"))?;
        if let [name] = parts.as_slice() {
            match name.as_str() {
                "coalesce" | "greatest" | "least" => return self.common(list),
                "nullif" => {
                    self.operators(&["="])?;
                    let kinds = self.kinds(&list)?;
                    return Ok(kinds.first().copied().flatten());
                }
                "row" => {
                    self.all(list)?;
                    return Ok(None);
                }
                _ => {}
            }
        }
        // Whether the function is given columns of the row.
        let outer = std::mem::take(&mut self.facts.own);
        let kinds = self.kinds(&list);
        let of_row = !self.facts.own.is_empty();
        self.facts.own.extend(outer);
        let kinds = kinds?;
        let (schema, name) = match parts.as_slice() {
            [name] => (self.own.is_some().then_some(BUILT_IN), name),
            [schema, name] => (Some(schema.as_str()), name),
            _ => return Err(Why::not_understood("its syntax")),
        };
        let found: Vec<&'c Function> = match self.catalog.functions(schema, name) {
            Ok(found) => found,
            Err(wanted) => return self.lacks(wanted),
        };
        self.facts.path |= self.own.is_none()
            && parts.len() == 1
            && found.iter().any(|function| *function.schema != *BUILT_IN);
        let count = if is_star { 0 } else { kinds.len() };
        let meant = meant(found, count, &kinds);
        if meant.is_empty() {
            return Err(Why::UnknownFunction((**name).into()));
        }
        for function in &meant {
            self.depends_on(function, &list)?;
            self.facts.calls |= of_row && *function.schema != *BUILT_IN;
        }
        let result = meant.first().map(|function| function.result);
        Ok(result.filter(|result| meant.iter().all(|function| function.result == *result)))
    }

    /// What stands behind a point in the body of a function and is no column that is known: it may be a function that
    /// is given the row, as in `select m.is_active from m`.
    pub(super) fn attribute(&mut self, name: &str) -> Result<Type, Why> {
        let found: Vec<&'c Function> = match self.catalog.functions(None, name) {
            Ok(found) => found,
            Err(wanted) => return self.lacks(wanted),
        };
        let of_row = |function: &&Function| {
            let least = function.arguments.len().saturating_sub(function.defaults);
            *function.schema != *BUILT_IN
                && !function.arguments.is_empty()
                && (function.variadic || least <= 1)
        };
        for function in found.into_iter().filter(of_row) {
            self.depends_on(function, &[])?;
        }
        Ok(None)
    }

    pub(super) fn kinds(&mut self, arguments: &[&Expr]) -> Result<Vec<Type>, Why> {
        arguments.iter().map(|argument| self.expression(argument)).collect()
    }

    /// What a call of a function depends on.
    fn depends_on(&mut self, function: &'c Function, arguments: &[&Expr]) -> Result<(), Why> {
        let name = &*function.name;
        if *function.schema == *BUILT_IN {
            self.facts.role |= name == "pg_has_role";
            if CLOCKS.contains(&name) && (name != "age" || arguments.len() == 1) {
                self.facts.clock = true;
                return Ok(());
            }
            match function.volatility {
                Volatility::Immutable => {}
                // Other settings may be made by another part of the policies, as they are evaluated.
                Volatility::Stable if name == "current_setting" && !is_of_request(arguments) => {
                    self.facts.reads.unwatched.get_or_insert_with(|| function.name.clone());
                }
                Volatility::Stable if SETTLED.contains(&name) => {}
                Volatility::Stable => {
                    self.facts.reads.unwatched.get_or_insert_with(|| function.name.clone());
                }
                Volatility::Volatile => return Err(Why::Volatile(function.name.clone())),
            }
            return Ok(());
        }
        // The catalog says of each that it is immutable, whatever the functions do that it is made of.
        if function.is_aggregate {
            return Err(Why::not_understood("an aggregate of users"));
        }
        if !self.seen.insert(function.oid) {
            return Ok(());
        }
        let before = self.facts.clone();
        match self.read_defaults(function).and_then(|()| self.read_body(function)) {
            Ok(()) => Ok(()),
            Err(Why::NotLoaded) => Err(Why::NotLoaded),
            Err(_) => {
                // Half of a body says nothing.
                self.facts = before;
                if function.volatility == Volatility::Volatile {
                    return Err(Why::Volatile(function.name.clone()));
                }
                self.facts.reads.unwatched.get_or_insert_with(|| function.name.clone());
                Ok(())
            }
        }
    }
}

/// Whether the argument of `current_setting` names one that the server makes for every party.
fn is_of_request(arguments: &[&Expr]) -> bool {
    let name = arguments.first().map(|name| match read::unnested(name) {
        // As the catalog prints it.
        Expr::Cast { expr, .. } => &**expr,
        other => other,
    });
    name.and_then(read::string).is_some_and(|name| name.starts_with("request."))
}

/// The functions that a call can mean: the one whose arguments are of exactly these types, or all that take so many.
pub(super) fn meant<'c>(found: Vec<&'c Function>, count: usize, kinds: &[Type]) -> Vec<&'c Function> {
    let exact: Vec<&Function> = found
        .iter()
        .copied()
        .filter(|function| {
            function.arguments.len() == count
                && function.arguments.iter().zip(kinds).all(|(wanted, kind)| *kind == Some(*wanted))
        })
        .collect();
    if exact.len() == 1 {
        return exact;
    }
    let fits = |function: &&Function| {
        let most = function.arguments.len();
        function.variadic || (most.saturating_sub(function.defaults)..=most).contains(&count)
    };
    found.into_iter().filter(fits).collect()
}

/// The arguments of a call, and whether it is one of `count(*)`.
fn arguments(args: &[FunctionArg]) -> Result<(Vec<&Expr>, bool), Why> {
    let (mut found, mut is_star) = (Vec::new(), false);
    for argument in args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression))
            | FunctionArg::Named { arg: FunctionArgExpr::Expr(expression), .. } => found.push(expression),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => is_star = true,
            FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(_)) => return Err(Why::WholeRow),
            _ => return Err(Why::not_understood("its syntax")),
        }
    }
    Ok((found, is_star))
}

fn is_named(name: &ObjectName, wanted: &str) -> bool {
    types::parts(name).is_some_and(|parts| matches!(parts.as_slice(), [name] if name == wanted))
}
