//! A byte for the type, then the text of a value: whatever it is, JSON comes out.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;
use realtime_pgoutput::{Oid, TypeInfo, TypeKind, TypeRegistry, write_json};
use serde_json::value::RawValue;

const JSON: Oid = 114;
const JSONB: Oid = 3802;

/// The built-in types that are written in a way of their own, one that is not, and those of [`registry`].
const TYPES: [Oid; 22] = [
    16, 17, 20, 21, 22, 23, 25, 30, JSON, 700, 701, 1114, 1184, 1700, JSONB, 9000, 9001, 9002, 9003, 9004,
    9005, 9006,
];

fn registry() -> TypeRegistry {
    let mut types = TypeRegistry::default();
    let made_up = [
        ("_timestamptz", TypeKind::Array { element: 1184, delimiter: b',' }),
        ("pair", TypeKind::Composite(vec![("number".into(), 1700), ("pairs".into(), 9002)])),
        ("_pair", TypeKind::Array { element: 9001, delimiter: b';' }),
        ("domain", TypeKind::Domain(9001)),
        ("hstore", TypeKind::Scalar),
        ("enum", TypeKind::Scalar),
        ("nothing", TypeKind::Composite(Vec::new())),
    ];
    for (oid, (name, kind)) in (9000..).zip(made_up) {
        types.insert(TypeInfo { oid, name: name.into(), kind });
    }
    types
}

fuzz_target!(|data: &[u8]| {
    let [choice, text @ ..] = data else { return };
    let oid = TYPES[usize::from(*choice) % TYPES.len()];
    let mut out = Vec::new();
    write_json(&mut out, oid, text, &registry());
    if oid == JSON || oid == JSONB {
        assert_eq!(out, text);
    } else {
        // Raw: a number may be too large for any type of the test.
        assert!(
            serde_json::from_slice::<&RawValue>(&out).is_ok(),
            "{oid}: {}",
            String::from_utf8_lossy(&out)
        );
    }
});
