use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::TypeInfo;

const BOX: Oid = 603;
const INTERVAL: Oid = 1186;
const MOOD: Oid = 9001;
const POSINT: Oid = 9002;
const PAIR: Oid = 9003;
const HSTORE: Oid = 9004;
const NEST: Oid = 9005;
const NOTHING: Oid = 9006;

fn array_of(oid: Oid) -> Oid {
    oid + 100_000
}

fn types() -> TypeRegistry {
    let mut types = TypeRegistry::default();
    let mut put = |oid, name: &str, kind| types.insert(TypeInfo { oid, name: name.into(), kind });
    for oid in [
        oid::INT4,
        oid::BOOL,
        oid::NUMERIC,
        oid::FLOAT8,
        oid::BYTEA,
        oid::JSONB,
        25,
        MOOD,
        oid::TIMESTAMPTZ,
        PAIR,
    ] {
        put(array_of(oid), "_array", TypeKind::Array { element: oid, delimiter: b',' });
    }
    put(array_of(BOX), "_box", TypeKind::Array { element: BOX, delimiter: b';' });
    put(MOOD, "mood", TypeKind::Scalar);
    put(POSINT, "posint", TypeKind::Domain(oid::INT4));
    put(PAIR, "pair", TypeKind::Composite(vec![("n".into(), oid::INT4), ("b".into(), oid::BYTEA)]));
    put(HSTORE, "hstore", TypeKind::Scalar);
    put(NOTHING, "nothing", TypeKind::Composite(vec![]));
    put(NEST, "nest", TypeKind::Composite(vec![("p".into(), PAIR), ("l".into(), array_of(25))]));
    types
}

fn json(type_oid: Oid, text: &str) -> String {
    let mut out = Vec::new();
    write_json(&mut out, type_oid, text.as_bytes(), &types());
    String::from_utf8(out).unwrap()
}

/// Table 2.3 of postgres_changes and recording 09; char(n) and bit(n) as decision 4 has them.
#[test]
fn every_type_of_the_table() {
    let cases = [
        (oid::INT2, "-32768", "-32768"),
        (oid::INT8, "9223372036854775807", "9223372036854775807"),
        (oid::NUMERIC, "1.50", "1.50"),
        (oid::NUMERIC, "-0.10", "-0.10"),
        (
            oid::NUMERIC,
            "123456789012345678901234567890.123456789",
            "123456789012345678901234567890.123456789",
        ),
        (oid::NUMERIC, "NaN", "null"),
        (oid::NUMERIC, "-Infinity", "null"),
        (oid::FLOAT4, "1.5", "1.5"),
        (oid::FLOAT8, "1e+20", "1e+20"),
        (oid::FLOAT8, "1.5e-07", "1.5e-07"),
        (oid::FLOAT8, "-0", "-0"),
        (oid::FLOAT8, "Infinity", "null"),
        (oid::BOOL, "t", "true"),
        (oid::BOOL, "f", "false"),
        (25, "a\"b\\c\n\t\u{1}é/", "\"a\\\"b\\\\c\\n\\t\\u0001é/\""),
        (1042, "ch   ", "\"ch   \""),
        (1560, "1010", "\"1010\""),
        (2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
        (oid::JSONB, r#"{"a": [1, 2.50, null], "b": 1}"#, r#"{"a": [1, 2.50, null], "b": 1}"#),
        (oid::JSON, r#"{"b": 1,  "a":[1]}"#, r#"{"b": 1,  "a":[1]}"#),
        (oid::TIMESTAMPTZ, "2024-01-02 03:04:05.123456+00", "\"2024-01-02T03:04:05.123456+00:00\""),
        (oid::TIMESTAMPTZ, "2024-01-02 03:04:05+05:30", "\"2024-01-02T03:04:05+05:30\""),
        (oid::TIMESTAMPTZ, "2024-01-02 03:04:05-03", "\"2024-01-02T03:04:05-03:00\""),
        (oid::TIMESTAMPTZ, "0044-03-15 00:00:00+00 BC", "\"0044-03-15T00:00:00+00:00 BC\""),
        (oid::TIMESTAMPTZ, "-infinity", "\"-infinity\""),
        (oid::TIMESTAMP, "2026-01-02 03:04:05.5", "\"2026-01-02T03:04:05.5\""),
        (oid::TIMESTAMP, "0044-03-15 00:00:00 BC", "\"0044-03-15T00:00:00 BC\""),
        (oid::TIMESTAMP, "infinity", "\"infinity\""),
        (1082, "0044-03-15 BC", "\"0044-03-15 BC\""),
        (1266, "03:04:05+02", "\"03:04:05+02\""),
        (INTERVAL, "1 day 02:03:04", "\"1 day 02:03:04\""),
        (oid::BYTEA, "\\xdeadbeef00", "\"deadbeef00\""),
        (oid::BYTEA, "\\x", "\"\""),
        (26, "4294967295", "\"4294967295\""),
        (oid::INT2_VECTOR, "1 2", "[1,2]"),
        (oid::OID_VECTOR, "1 2", "[\"1\",\"2\"]"),
        (790, "$12.34", "\"$12.34\""),
        (600, "(1,2)", "\"(1,2)\""),
        (3904, "[1,5)", "\"[1,5)\""),
        (MOOD, "happy", "\"happy\""),
        (POSINT, "5", "5"),
        (array_of(oid::INT4), "{1,2,NULL}", "[1,2,null]"),
        (array_of(oid::INT4), "{}", "[]"),
        (array_of(oid::INT4), "[5:6]={1,2}", "[1,2]"),
        (array_of(25), "{a,\"b c\",NULL,\"d,e\"}", "[\"a\",\"b c\",null,\"d,e\"]"),
        (array_of(25), "{{a,b},{c,d}}", "[[\"a\",\"b\"],[\"c\",\"d\"]]"),
        (array_of(oid::BOOL), "{t,f}", "[true,false]"),
        (array_of(oid::NUMERIC), "{1.5,NaN}", "[1.5,\"NaN\"]"),
        (array_of(oid::FLOAT8), "{-Infinity}", "[\"-Infinity\"]"),
        (array_of(oid::BYTEA), "{\"\\\\x00ff\"}", "[\"\\\\x00ff\"]"),
        (array_of(oid::JSONB), "{\"{\\\"a\\\": 1}\"}", "[{\"a\": 1}]"),
        (array_of(MOOD), "{sad,ok}", "[\"sad\",\"ok\"]"),
        (array_of(oid::TIMESTAMPTZ), "{\"2024-01-02 03:04:05+00\"}", "[\"2024-01-02T03:04:05+00:00\"]"),
        (array_of(BOX), "{(1,2),(3,4);(5,6),(7,8)}", "[\"(1,2),(3,4)\",\"(5,6),(7,8)\"]"),
        (PAIR, "(1,\"\\\\x00\")", "{\"n\":1,\"b\":\"\\\\x00\"}"),
        (PAIR, "(,)", "{\"n\":null,\"b\":null}"),
        (NOTHING, "()", "{}"),
        (array_of(PAIR), "{\"(1,)\"}", "[{\"n\":1,\"b\":null}]"),
        (NEST, "(\"(2,)\",\"{x,y}\")", "{\"p\":{\"n\":2,\"b\":null},\"l\":[\"x\",\"y\"]}"),
        (HSTORE, "\"a\"=>\"1\", \"b\"=>NULL", "{\"a\":\"1\",\"b\":null}"),
    ];
    for (oid, text, expected) in cases {
        assert_eq!(json(oid, text), expected, "type {oid}, text {text}");
    }
}

#[test]
fn text_that_a_type_cannot_have_written_is_a_string() {
    for (oid, text) in [
        (oid::INT4, "x"),
        (oid::BOOL, "yes"),
        (oid::NUMERIC, "1."),
        (array_of(oid::INT4), "{"),
        (PAIR, "(1)"),
    ] {
        assert_eq!(json(oid, text), format!("{text:?}"));
    }
}

/// `json` may hold half a character, which a parser of many a client refuses with all that is around it.
#[test]
fn half_characters_are_replaced() {
    for (text, expected) in [
        (r#"{"a":"x\ud800y","b":1}"#, r#"{"a":"x\ufffdy","b":1}"#),
        (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
        (r#""\ud83d\ude00 \\ud800 \n""#, r#""\ud83d\ude00 \\ud800 \n""#),
    ] {
        assert_eq!(json(oid::JSON, text), expected);
    }
}

#[test]
fn a_circle_of_types_ends() {
    let mut types = TypeRegistry::default();
    let composite = TypeKind::Composite(vec![("self".into(), 1)]);
    types.insert(TypeInfo { oid: 1, name: "loop".into(), kind: composite });
    types.insert(TypeInfo { oid: 2, name: "dom".into(), kind: TypeKind::Domain(2) });
    let mut out = Vec::new();
    write_json(&mut out, 1, "(".repeat(100).as_bytes(), &types);
    write_json(&mut out, 2, b"x", &types);
}

proptest! {
    /// The short way for plain texts writes what the long one does.
    #[test]
    fn strings_are_as_serde_writes_them(text in prop_oneof![any::<Vec<u8>>(), "[ -~\\x7f\\t\"ä]{0,40}".prop_map(String::into_bytes)]) {
        let mut out = Vec::new();
        write_json_string(&mut out, &text);
        prop_assert_eq!(out, serde_json::to_vec(&*String::from_utf8_lossy(&text)).unwrap());
    }

    #[test]
    fn always_one_json_value(
        oid in prop::sample::select(vec![oid::INT4, oid::NUMERIC, oid::BOOL, oid::BYTEA, oid::TIMESTAMP, oid::TIMESTAMPTZ,
            oid::INT2_VECTOR, oid::OID_VECTOR, 25, POSINT, PAIR, NEST, HSTORE, array_of(oid::INT4), array_of(25), array_of(PAIR)]),
        text in prop_oneof![any::<Vec<u8>>(), "[-0-9.eE+ :tf]{0,12}".prop_map(String::into_bytes),
            "[(){},\"\\\\a1NUL]{0,20}".prop_map(String::into_bytes)],
    ) {
        let mut out = Vec::new();
        write_json(&mut out, oid, &text, &types());
        prop_assert!(serde_json::from_slice::<Value>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn strings_round_trip(text in "(\\PC|[\\x00-\\x1f\"\\\\])*") {
        let mut out = Vec::new();
        write_json_string(&mut out, text.as_bytes());
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}
