//! What the compiler has to know of a database's catalog.
//!
//! Filled by who asks the database: compile, load what [`Compiled::wanted`](super::Compiled::wanted) names, compile
//! again, until it names nothing.

use std::collections::{HashMap, HashSet};

use realtime_pgoutput::Oid;

/// What was loaded of a catalog so far.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    relations: HashMap<Box<str>, Vec<Relation>>,
    functions: HashMap<Box<str>, Vec<Function>>,
    types: HashMap<(Box<str>, Box<str>), Option<NamedType>>,
    operators: Option<HashSet<Box<str>>>,
}

/// Something that the compiler looked for and that was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wanted {
    /// All relations of this name, whatever their schema.
    Relations(Box<str>),
    /// All functions of this name, whatever their schema and arguments, those of `pg_catalog` included.
    Functions(Box<str>),
    /// A type: its schema and name.
    Type(Box<str>, Box<str>),
    /// The names of all operators whose functions are written in SQL or a procedural language.
    Operators,
}

/// A table, or something that is used like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema, verbatim.
    pub schema: Box<str>,
    /// Name, verbatim.
    pub name: Box<str>,
    /// Whether its rows are its own and the log tells of them: not a view, a foreign or an unlogged table.
    pub in_log: bool,
    /// Live columns in `attnum` order.
    pub fields: Vec<Field>,
    /// The conditions of its policies for SELECT and ALL, if row-level security is on: they decide which rows a
    /// subquery finds.
    pub policies: Vec<Box<str>>,
    /// The role that sees all of its rows whatever the policies say: its owner, unless they are forced upon it.
    pub exempt: Option<Oid>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name, verbatim.
    pub name: Box<str>,
    /// `pg_type.oid`; that below a domain.
    pub base_oid: Oid,
    /// Whether it is of a domain.
    pub is_domain: bool,
    /// Whether the type is an enum.
    pub is_enum: bool,
    /// What is known of its collation.
    pub collation: Collation,
}

/// What is known of a collation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// Orders texts by their bytes: `C`, `POSIX`, or the default of a database that does.
    Bytes,
    /// Texts are equal if their bytes are (`pg_collation.collisdeterministic`); their order is the locale's. Also for
    /// types without a collation.
    Deterministic,
    /// Texts can be equal whose bytes are not.
    Loose,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: Oid,
    /// Schema, verbatim.
    pub schema: Box<str>,
    /// Name, verbatim.
    pub name: Box<str>,
    /// Types of the arguments, those with defaults included.
    pub arguments: Vec<Oid>,
    /// Their names, empty where they have none. Nothing at all if there are arguments that are not plain input.
    pub names: Vec<Box<str>>,
    /// How many arguments have a default.
    pub defaults: usize,
    /// What stands for them when they are not given, as `pg_get_expr` prints `proargdefaults`.
    pub default_values: Box<str>,
    /// Whether the last argument takes any number of values.
    pub variadic: bool,
    /// Type of the result, or of one row of it.
    pub result: Oid,
    /// Whether the result is a set.
    pub returns_set: bool,
    /// Whether it is an aggregate or a window function.
    pub is_aggregate: bool,
    /// `pg_proc.provolatile`.
    pub volatility: Volatility,
    /// Language, as `pg_language` names it: `internal`, `c`, `sql`, `plpgsql`, …
    pub language: Box<str>,
    /// `prosrc`; for a body of the SQL standard's form what `pg_get_function_sqlbody` prints.
    pub body: Box<str>,
    /// Its owner, if its body runs with the owner's rights (SECURITY DEFINER).
    pub runs_as: Option<Oid>,
    /// Whether row-level security never decides for its owner.
    pub owner_bypasses: bool,
}

/// `pg_proc.provolatile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as PostgreSQL names them")]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// A type that is not in `pg_catalog`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedType {
    /// `pg_type.oid`.
    pub oid: Oid,
    /// Whether it is an enum: its values are equal if their labels are.
    pub is_enum: bool,
}

impl Catalog {
    /// The names that relations were looked for by.
    #[must_use]
    pub fn relation_names(&self) -> Vec<&str> {
        self.relations.keys().map(|name| &**name).collect()
    }

    /// The relation of an OID, if it was loaded.
    #[must_use]
    pub fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.relations.values().flatten().find(|relation| relation.oid == oid)
    }

    /// The names that functions were looked for by.
    #[must_use]
    pub fn function_names(&self) -> Vec<&str> {
        self.functions.keys().map(|name| &**name).collect()
    }

    /// A function among these that may make a setting: what others read of the claims then depends on whether it was
    /// called before.
    #[must_use]
    pub fn setter(&self) -> Option<&Function> {
        let sets = |function: &Function| {
            *function.schema != *"pg_catalog" && function.body.to_ascii_lowercase().contains("set_config")
        };
        // The same one whenever it is asked for.
        let setters = self.functions.values().flatten().filter(|function| sets(function));
        setters.min_by_key(|function| (&function.schema, &function.name))
    }

    /// Enters all relations of a name; none if there are none.
    pub fn put_relations(&mut self, name: impl Into<Box<str>>, relations: Vec<Relation>) {
        self.relations.insert(name.into(), relations);
    }

    /// Enters all functions of a name; none if there are none.
    pub fn put_functions(&mut self, name: impl Into<Box<str>>, functions: Vec<Function>) {
        self.functions.insert(name.into(), functions);
    }

    /// Enters the names of operators whose functions may do anything.
    pub fn put_operators(&mut self, names: impl IntoIterator<Item = Box<str>>) {
        self.operators = Some(names.into_iter().collect());
    }

    /// Enters a type; `None` if there is none of the name.
    pub fn put_type(
        &mut self,
        schema: impl Into<Box<str>>,
        name: impl Into<Box<str>>,
        known: Option<NamedType>,
    ) {
        self.types.insert((schema.into(), name.into()), known);
    }

    /// The relations of a name, in a schema if one is given.
    pub(super) fn relations(&self, schema: Option<&str>, name: &str) -> Result<Vec<&Relation>, Wanted> {
        let all = self.relations.get(name).ok_or_else(|| Wanted::Relations(name.into()))?;
        Ok(all.iter().filter(|relation| schema.is_none_or(|schema| *relation.schema == *schema)).collect())
    }

    /// The functions of a name, in a schema if one is given.
    pub(super) fn functions(&self, schema: Option<&str>, name: &str) -> Result<Vec<&Function>, Wanted> {
        let all = self.functions.get(name).ok_or_else(|| Wanted::Functions(name.into()))?;
        Ok(all.iter().filter(|function| schema.is_none_or(|schema| *function.schema == *schema)).collect())
    }

    /// Whether there are operators of a name whose functions may do anything.
    pub(super) fn is_anybodys_operator(&self, name: &str) -> Result<bool, Wanted> {
        Ok(self.operators.as_ref().ok_or(Wanted::Operators)?.contains(name))
    }

    /// A type by its name.
    pub(super) fn named_type(&self, schema: &str, name: &str) -> Result<Option<NamedType>, Wanted> {
        let key = (Box::from(schema), Box::from(name));
        self.types.get(&key).copied().ok_or(Wanted::Type(key.0, key.1))
    }
}
