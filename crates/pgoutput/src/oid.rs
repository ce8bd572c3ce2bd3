//! OIDs of built-in types. They are part of PostgreSQL's ABI.

use crate::Oid;

/// `bool`.
pub const BOOL: Oid = 16;
/// `bytea`.
pub const BYTEA: Oid = 17;
/// `name`.
pub const NAME: Oid = 19;
/// `int8`.
pub const INT8: Oid = 20;
/// `int2`.
pub const INT2: Oid = 21;
/// `int2vector`.
pub const INT2_VECTOR: Oid = 22;
/// `int4`.
pub const INT4: Oid = 23;
/// `text`.
pub const TEXT: Oid = 25;
/// `oid`.
pub const OID: Oid = 26;
/// `oidvector`.
pub const OID_VECTOR: Oid = 30;
/// `json`.
pub const JSON: Oid = 114;
/// `float4`.
pub const FLOAT4: Oid = 700;
/// `float8`.
pub const FLOAT8: Oid = 701;
/// `bpchar`, which SQL calls `char(n)`.
pub const BPCHAR: Oid = 1042;
/// `varchar`.
pub const VARCHAR: Oid = 1043;
/// `date`.
pub const DATE: Oid = 1082;
/// `time`.
pub const TIME: Oid = 1083;
/// `timestamp`.
pub const TIMESTAMP: Oid = 1114;
/// `timestamptz`.
pub const TIMESTAMPTZ: Oid = 1184;
/// `numeric`.
pub const NUMERIC: Oid = 1700;
/// `uuid`.
pub const UUID: Oid = 2950;
/// `jsonb`.
pub const JSONB: Oid = 3802;

/// The first OID that is not of the server's own objects (`FirstNormalObjectId`).
pub const FIRST_NORMAL: Oid = 16_384;
