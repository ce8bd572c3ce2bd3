//! What the database's catalog says of a table and of a role's rights on it. Loaded elsewhere.

use realtime_pgoutput::{Oid, message::ReplicaIdentity};

/// A published table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema, verbatim.
    pub schema: Box<str>,
    /// Name, verbatim.
    pub name: Box<str>,
    /// Live columns in `attnum` order.
    pub columns: Vec<Column>,
    /// The primary key, as indexes into `columns`. Empty if there is none.
    pub primary_key: Vec<usize>,
    /// `pg_class.relrowsecurity`.
    pub row_security: bool,
    /// A table of its own, neither partitioned nor with children: a `ctid` names one of its rows.
    pub plain: bool,
    /// The root of partitions. The log does not tell when its row-level security is turned on, so whether policies
    /// decide about its rows is asked with every row.
    pub partitioned: bool,
    /// Replica identity.
    pub replica_identity: ReplicaIdentity,
}

/// A column of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name, verbatim.
    pub name: Box<str>,
    /// `pg_type.oid`.
    pub type_oid: Oid,
    /// The type below a domain; the same as `type_oid` for other types.
    pub base_oid: Oid,
    /// `pg_type.typname`: what clients see.
    pub type_name: Box<str>,
    /// The type's SQL name without modifier: what error texts say.
    pub sql_type: Box<str>,
    /// Schema-qualified and quoted type name: what a cast needs.
    pub cast_type: Box<str>,
    /// The type below a domain, as statements compare its values.
    pub comparison: Comparison,
    /// Whether the log has the column, as the publication is: not one that a column list leaves out, nor a generated
    /// one that is not published.
    pub in_log: bool,
}

/// How statements compare values of a type: names that mean the same whatever the search path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Schema-qualified and quoted name of the type.
    pub type_name: Box<str>,
    /// Where its operators are.
    pub operators: Operators,
    /// Whether reading a text as the type can run code of an application: the checks of a domain.
    pub runs_code: bool,
}

/// Where the operators of a type are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operators {
    /// All in `pg_catalog`.
    BuiltIn,
    /// Those that came with the type, each with its schema, quoted. There are no others.
    Own(Vec<(Box<str>, Box<str>)>),
}

impl Comparison {
    /// A built-in type.
    #[must_use]
    pub fn built_in(name: &str) -> Self {
        let type_name = format!("pg_catalog.{name}").into();
        Self { type_name, operators: Operators::BuiltIn, runs_code: false }
    }

    /// An operator between two values of the type, written so that no other can be meant. `None` if there is none.
    #[must_use]
    pub fn operator(&self, name: &str) -> Option<String> {
        let schema = match &self.operators {
            Operators::BuiltIn => "pg_catalog",
            Operators::Own(own) => &own.iter().find(|(known, _)| &**known == name)?.1,
        };
        Some(format!("operator({schema}.{name})"))
    }
}

/// What a role may see of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleAccess {
    /// Role.
    pub role: Box<str>,
    /// Whether row-level security does not apply to it: superuser, BYPASSRLS, or owner without FORCE.
    pub bypasses_rls: bool,
    /// Whether `select` would give it: SELECT on the column and USAGE on the schema, by index of `Table::columns`.
    pub selectable: Vec<bool>,
}

impl Table {
    /// Whether the database is asked who sees a row.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.row_security || self.partitioned
    }

    /// Index of a column by its exact name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}

impl RoleAccess {
    /// Whether the role may read every column of the primary key.
    #[must_use]
    pub fn reads_key(&self, table: &Table) -> bool {
        table.primary_key.iter().all(|column| self.reads(*column))
    }

    /// Whether the role may read a column.
    #[must_use]
    pub fn reads(&self, column: usize) -> bool {
        self.selectable.get(column).copied().unwrap_or(false)
    }
}
