//! Why a part of a policy is asked of the database instead of being compiled, in words that help whoever wrote it.

/// Why a part of a policy is not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It is larger, or deeper, than any policy that people write.
    #[error("it is too large or nested too deeply")]
    TooLarge,
    /// Syntax that the compiler does not know.
    #[error("{0}")]
    NotUnderstood(Box<str>),
    /// A volatile function that does more than return what a query finds, or whose body cannot be read.
    #[error(
        "{0}() is volatile, and its body is not a single query: write it as one query and declare it STABLE, and it will be compiled"
    )]
    Volatile(Box<str>),
    /// A function that the catalog does not have, or several between which the types do not decide.
    #[error("which function {0}() is meant cannot be told")]
    UnknownFunction(Box<str>),
    /// The clock decides, in a way that a kept answer would not follow.
    #[error(
        "its answer changes with the clock: compare a column of type timestamptz with now() directly, and it will be compiled"
    )]
    Clock,
    /// A collation for which texts can be equal whose bytes differ.
    #[error("it compares texts by a collation that is not deterministic")]
    Collation,
    /// The order of texts is the locale's.
    #[error("the order of texts depends on the locale: use COLLATE \"C\", and it will be compiled")]
    TextOrder,
    /// A type whose values are not compared here.
    #[error("values of this type are compared by the database only")]
    Type,
    /// An operator that does not come with PostgreSQL, or that is not evaluated here.
    #[error("the operator {0} is evaluated by the database only")]
    Operator(Box<str>),
    /// The row as a whole.
    #[error("it takes the row as a whole: name the columns, and it will be compiled")]
    WholeRow,
    /// A subquery that is tied to the row by more than equality.
    #[error(
        "its subquery is tied to the row by more than equality between a column of the row and one of the subquery: write the membership so, and it will be compiled"
    )]
    Correlated,
    /// Policies that read tables in a circle.
    #[error("PostgreSQL refuses it: infinite recursion in policies (42P17)")]
    Recursive,
    /// A column that the table does not have by now.
    #[error("it names something that is not a column of the table")]
    UnknownColumn,
    /// What the compiled form said of a row was not what the database said.
    #[error("the database contradicted its compiled form (PolicyMismatch in the log)")]
    Distrusted,
    /// A cast whose function may do anything, by what it casts and its function: policies do not show where it is applied.
    #[error(
        "while the database has the cast {0}, whose function {1}() is written in SQL or PL/pgSQL, all policies are asked: \
         they do not show where it is applied. Drop the cast and call the function by its name, and they will be compiled"
    )]
    Casts(Box<str>, Box<str>),
    /// A function that makes a setting, by its name.
    #[error(
        "{0}() calls set_config, and while a policy names it all policies are asked: what they read of the claims may depend \
         on whether it was called before. Read the claims where they are needed, without keeping them in a setting, and \
         they will be compiled"
    )]
    Sets(Box<str>),
    /// Something of the catalog was not loaded.
    #[error("the catalog was not read whole")]
    NotLoaded,
}

impl Why {
    pub(super) fn not_understood(what: &str) -> Self {
        Self::NotUnderstood(format!("{what} is evaluated by the database only").into())
    }
}
