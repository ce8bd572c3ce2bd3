//! Types by the names that PostgreSQL prints.

use realtime_pgoutput::Oid;
use sqlparser::ast::{ArrayElemTypeDef, DataType, ObjectName, ObjectNamePart};

use super::{
    Why,
    catalog::{Catalog, Wanted},
};

pub(super) const BOOL: Oid = 16;
pub(super) const NAME: Oid = 19;
pub(super) const INT8: Oid = 20;
pub(super) const INT2: Oid = 21;
pub(super) const INT4: Oid = 23;
pub(super) const TEXT: Oid = 25;
pub(super) const JSON: Oid = 114;
pub(super) const FLOAT4: Oid = 700;
pub(super) const FLOAT8: Oid = 701;
pub(super) const BPCHAR: Oid = 1042;
pub(super) const VARCHAR: Oid = 1043;
pub(super) const DATE: Oid = 1082;
pub(super) const TIME: Oid = 1083;
pub(super) const TIMESTAMP: Oid = 1114;
pub(super) const TIMESTAMPTZ: Oid = 1184;
pub(super) const NUMERIC: Oid = 1700;
pub(super) const UUID: Oid = 2950;
pub(super) const JSONB: Oid = 3802;
/// Smallest number that is given to what users create.
pub(super) const FIRST_OF_USERS: Oid = 16_384;

/// Names as `format_type` prints them, the number, and that of the array type.
const NAMED: [(&str, Oid, Oid); 21] = [
    ("boolean", BOOL, 1000),
    ("name", NAME, 1003),
    ("bigint", INT8, 1016),
    ("smallint", INT2, 1005),
    ("integer", INT4, 1007),
    ("text", TEXT, 1009),
    ("json", JSON, 199),
    ("real", FLOAT4, 1021),
    ("double precision", FLOAT8, 1022),
    ("bpchar", BPCHAR, 1014),
    ("character varying", VARCHAR, 1015),
    ("date", DATE, 1182),
    ("time without time zone", TIME, 1183),
    ("timestamp without time zone", TIMESTAMP, 1115),
    ("timestamp with time zone", TIMESTAMPTZ, 1185),
    ("interval", 1186, 1187),
    ("numeric", NUMERIC, 1231),
    ("uuid", UUID, 2951),
    ("jsonb", JSONB, 3807),
    ("bytea", 17, 1001),
    ("oid", 26, 1028),
];

/// Other spellings, in the bodies of functions.
const ALSO: [(&str, &str); 10] = [
    ("bool", "boolean"),
    ("int8", "bigint"),
    ("int2", "smallint"),
    ("int4", "integer"),
    ("int", "integer"),
    ("float8", "double precision"),
    ("varchar", "character varying"),
    ("decimal", "numeric"),
    ("timestamptz", "timestamp with time zone"),
    ("timestamp", "timestamp without time zone"),
];

fn named(name: &str) -> Option<(Oid, Oid)> {
    let name = ALSO.iter().find(|(also, _)| *also == name).map_or(name, |(_, name)| name);
    NAMED.iter().find(|(known, ..)| *known == name).map(|(_, oid, array)| (*oid, *array))
}

/// The type of arrays of a type.
pub(super) fn array_of(element: Oid) -> Option<Oid> {
    NAMED.iter().find(|(_, oid, _)| *oid == element).map(|(.., array)| *array)
}

/// The type of the elements of an array.
pub(super) fn element_of(array: Oid) -> Option<Oid> {
    NAMED.iter().find(|(.., known)| *known == array).map(|(_, oid, _)| *oid)
}

/// Whether reading a text as the type can give the time of reading: `'now'::date`.
pub(super) const fn is_time(oid: Oid) -> bool {
    matches!(oid, DATE | TIME | TIMESTAMP | TIMESTAMPTZ | 1266)
}

/// The type that a cast names. `None` for one that is not known here but comes with PostgreSQL.
pub(super) fn cast_target(target: &DataType, catalog: &Catalog) -> Result<Result<Option<Oid>, Why>, Wanted> {
    let of_element = |element: &DataType| {
        let element = cast_target(element, catalog)?;
        Ok(element.map(|element| element.and_then(array_of)))
    };
    match target {
        DataType::Custom(name, modifiers) if modifiers.is_empty() => custom(name, catalog),
        DataType::Custom(..) => Ok(Err(Why::Type)),
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)) => of_element(element),
        DataType::Array(_) => Ok(Err(Why::Type)),
        known => Ok(Ok(named(&known.to_string().to_ascii_lowercase()).map(|(oid, _)| oid))),
    }
}

fn custom(name: &ObjectName, catalog: &Catalog) -> Result<Result<Option<Oid>, Why>, Wanted> {
    match parts(name).as_deref() {
        Some([schema, name]) if *schema != "pg_catalog" => {
            let known = catalog.named_type(schema, name)?;
            // The input function of a domain runs its checks, that of an extension's type is anybody's.
            Ok(known.filter(|known| known.is_enum).map(|known| Some(known.oid)).ok_or(Why::Type))
        }
        Some([name] | [_, name]) => Ok(Ok(named(name).map(|(oid, _)| oid))),
        _ => Ok(Err(Why::Type)),
    }
}

/// The parts of a name as they are in the catalog: what is not quoted is in lower case there.
pub(super) fn parts(name: &ObjectName) -> Option<Vec<String>> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => Some(ident_name(ident)),
        ObjectNamePart::Function(_) => None,
    };
    name.0.iter().map(part).collect()
}

/// A name as it is in the catalog.
pub(super) fn ident_name(ident: &sqlparser::ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}
