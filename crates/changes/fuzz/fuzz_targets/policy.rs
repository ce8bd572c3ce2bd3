//! The condition of a policy, and behind a line `--` the body of a function that it calls.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;
use realtime_changes::{
    Cell,
    policy::{self, Catalog, Collation, Field, Function, Policy, Relation, Sight, Volatility, Wanted},
};
use realtime_pgoutput::message::UnixMicros;

fn relation(name: &str) -> Relation {
    let field = |(name, base_oid): (&str, u32)| Field {
        name: name.into(),
        base_oid,
        is_domain: false,
        is_enum: false,
        collation: Collation::Deterministic,
    };
    let fields =
        [("id", 2950), ("owner", 2950), ("n", 23), ("name", 25), ("flag", 16), ("data", 3802), ("at", 1184)];
    Relation {
        oid: 20_000 + u32::try_from(name.len()).unwrap_or(0),
        schema: "public".into(),
        name: name.into(),
        in_log: true,
        fields: fields.map(field).to_vec(),
        policies: vec!["(owner = auth.uid())".into()],
        exempt: Some(10),
    }
}

fn function(schema: &str, name: &str, body: &str, language: &str) -> Function {
    Function {
        oid: 30_000 + u32::try_from(name.len()).unwrap_or(0),
        schema: schema.into(),
        name: name.into(),
        arguments: Vec::new(),
        names: Vec::new(),
        defaults: 0,
        variadic: true,
        result: 2950,
        returns_set: false,
        is_aggregate: false,
        volatility: Volatility::Stable,
        language: language.into(),
        body: body.into(),
        default_values: "".into(),
        runs_as: Some(10),
        owner_bypasses: false,
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (using, body) = text.split_once("\n--\n").unwrap_or((text, "select null::uuid"));
    let own = relation("rooms");
    let mut catalog = Catalog::default();
    let policies = [Policy { permissive: true, using }, Policy { permissive: false, using: body }];
    let compiled = loop {
        let compiled = policy::compile(&policies, &own, &catalog);
        if compiled.wanted().is_empty() {
            break compiled;
        }
        for wanted in compiled.wanted() {
            match wanted {
                Wanted::Relations(name) => catalog.put_relations(name.clone(), vec![relation(name)]),
                Wanted::Functions(name) => {
                    let all = [("auth", "sql"), ("public", "plpgsql"), ("pg_catalog", "internal")];
                    let mut all =
                        all.map(|(schema, language)| function(schema, name, body, language)).to_vec();
                    // One of a column, of which it may be told for whom it is true.
                    all.extend(["sql", "plpgsql"].map(|language| Function {
                        arguments: vec![2950],
                        names: vec!["a".into()],
                        variadic: false,
                        result: 16,
                        ..function(language, name, body, language)
                    }));
                    catalog.put_functions(name.clone(), all);
                }
                Wanted::Operators => catalog.put_operators([]),
                Wanted::Type(schema, name) => catalog.put_type(schema.clone(), name.clone(), None),
            }
        }
    };
    let answers: Vec<_> =
        compiled.terms().iter().map(|term| Ok(vec![vec![Some("1".to_owned()); term.width()]])).collect();
    let values = compiled.values(&answers);
    let mut sight = Sight::new(compiled.into());
    sight.insert(1u8, values);
    let _ = sight.look(|_| Cell::Null, UnixMicros(0));
});
