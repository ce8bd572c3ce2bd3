//! Database errors as clients see them (postgres_changes 1.7).

use std::fmt::Write as _;

use tokio_postgres::error::DbError;

/// Names of the conditions that subscriptions can run into (PostgreSQL documentation, appendix A).
const CONDITIONS: &[(&str, &str)] = &[
    ("22000", "data_exception"),
    ("22001", "string_data_right_truncation"),
    ("22003", "numeric_value_out_of_range"),
    ("22007", "invalid_datetime_format"),
    ("22008", "datetime_field_overflow"),
    ("22009", "invalid_time_zone_displacement_value"),
    ("22015", "interval_field_overflow"),
    ("22021", "character_not_in_repertoire"),
    ("22023", "invalid_parameter_value"),
    ("22025", "invalid_escape_sequence"),
    ("22012", "division_by_zero"),
    ("2200N", "invalid_xml_content"),
    ("2201B", "invalid_regular_expression"),
    ("22P02", "invalid_text_representation"),
    ("22P03", "invalid_binary_representation"),
    ("22P05", "untranslatable_character"),
    ("2202E", "array_subscript_error"),
    ("23502", "not_null_violation"),
    ("23514", "check_violation"),
    ("42501", "insufficient_privilege"),
    ("42601", "syntax_error"),
    ("42704", "undefined_object"),
    ("42725", "ambiguous_function"),
    ("42846", "cannot_coerce"),
    ("42883", "undefined_function"),
    ("42703", "undefined_column"),
    ("42804", "datatype_mismatch"),
    ("42P01", "undefined_table"),
    ("42P17", "invalid_object_definition"),
    ("54000", "program_limit_exceeded"),
    ("54001", "statement_too_complex"),
    ("55P03", "lock_not_available"),
    ("57014", "query_canceled"),
    ("P0001", "raise_exception"),
];

/// An error as clients may know it: code and condition, never the database's words, which may quote rows (spec README,
/// decision 22).
pub(crate) fn condition_of(code: &str) -> String {
    format!("{code} {}", condition(code))
}

/// Name of an SQLSTATE's condition.
fn condition(code: &str) -> &'static str {
    CONDITIONS.iter().find(|(known, _)| *known == code).map_or("unknown_condition", |(_, name)| name)
}

/// Classes of errors whose message says what is wrong with the database, not with a value: connections, features,
/// transactions, authorization, names, resources, limits, operators, the system, configuration, the server itself.
const TELLING: &[&str] =
    &["08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "F0", "XX"];

/// Severity, code and condition of an error, and its message unless that may quote values of rows, as those that
/// policies raise or that conversions end with.
pub(crate) fn loggable(error: &DbError) -> String {
    let code = error.code().code();
    if TELLING.iter().any(|class| code.starts_with(class)) {
        return summary(error);
    }
    format!("ERROR {code} ({})", condition(code))
}

/// Severity, code, condition and message of an error.
fn summary(error: &DbError) -> String {
    let code = error.code().code();
    format!("ERROR {code} ({}) {}", condition(code), error.message())
}

/// An error in the form that clients see: severity, code, condition and message, then what else is known.
pub(crate) fn render(error: &DbError) -> String {
    let mut text = summary(error);
    let fields = [
        ("table", error.table()),
        ("column", error.column()),
        ("constraint", error.constraint()),
        ("hint", error.hint()),
    ];
    let known: Vec<_> = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    if !known.is_empty() {
        text.push('\n');
        for (name, value) in known {
            let _ = write!(text, "\n    {name}: {value}");
        }
    }
    if let Some(detail) = error.detail() {
        let _ = write!(text, "\n\n{detail}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_known() {
        assert_eq!(condition("22P02"), "invalid_text_representation");
        assert_eq!(condition("XX000"), "unknown_condition");
    }
}
