//! What becomes of policies, without a database.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod concerned;
mod judged;

use bytes::Bytes;
use proptest::prelude::*;
use realtime_changes::{
    Action, Cell, Change, Truth,
    policy::{
        self, Answer, Catalog, Collation, Compiled, Field, Function, NoValue, Policy, Relation, Sight,
        Volatility, Wanted, Why,
    },
};
use realtime_pgoutput::message::{
    Relation as LogRelation, RelationColumn, ReplicaIdentity, UnixMicros, Value,
};

const ANN: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const BOB: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12";

fn relation(oid: u32, name: &str, fields: &[(&str, u32)], policies: &[&str]) -> Relation {
    let field = |(name, base_oid): &(&str, u32)| Field {
        name: (*name).into(),
        base_oid: *base_oid,
        is_domain: false,
        is_enum: false,
        collation: Collation::Deterministic,
    };
    Relation {
        oid,
        schema: "public".into(),
        name: name.into(),
        in_log: true,
        fields: fields.iter().map(field).collect(),
        policies: policies.iter().map(|policy| (*policy).into()).collect(),
        exempt: Some(10),
    }
}

fn rooms() -> Relation {
    relation(1, "rooms", &[("id", 2950), ("owner", 2950), ("n", 23), ("name", 25), ("at", 1184)], &["true"])
}

fn function(schema: &str, name: &str, arguments: &[u32], result: u32, body: &str) -> Function {
    Function {
        oid: 100 + u32::try_from(name.len()).unwrap(),
        schema: schema.into(),
        name: name.into(),
        arguments: arguments.to_vec(),
        names: Vec::new(),
        defaults: 0,
        variadic: false,
        result,
        returns_set: false,
        is_aggregate: false,
        volatility: Volatility::Stable,
        language: if schema == "pg_catalog" { "internal" } else { "sql" }.into(),
        body: body.into(),
        default_values: "".into(),
        runs_as: None,
        owner_bypasses: false,
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (name, functions) in [
        ("uid", vec![function("auth", "uid", &[], 2950, "select current_setting('request.x', true)::uuid")]),
        ("current_setting", vec![function("pg_catalog", "current_setting", &[25, 16], 25, "")]),
        ("now", vec![function("pg_catalog", "now", &[], 1184, "")]),
        (
            "is_member",
            vec![Function {
                volatility: Volatility::Volatile,
                ..function(
                    "public",
                    "is_member",
                    &[2950],
                    16,
                    "select exists (select from members where room_id = $1)",
                )
            }],
        ),
        (
            "sets",
            vec![Function {
                volatility: Volatility::Volatile,
                ..function("public", "sets", &[], 16, "insert into members select null; select true")
            }],
        ),
    ] {
        catalog.put_functions(name, functions);
    }
    // In the policy of `circle` its column could be a function.
    catalog.put_functions("id", Vec::new());
    catalog.put_type("public", "citext", None);
    catalog.put_operators([]);
    catalog.put_relations("rooms", vec![rooms()]);
    catalog.put_relations(
        "members",
        vec![relation(
            2,
            "members",
            &[("room_id", 2950), ("user_id", 2950)],
            &["(EXISTS ( SELECT 1 FROM public.teams WHERE (teams.user_id = auth.uid())))"],
        )],
    );
    catalog.put_relations("teams", vec![relation(3, "teams", &[("user_id", 2950)], &[])]);
    catalog.put_relations(
        "circle",
        vec![relation(
            4,
            "circle",
            &[("id", 2950)],
            &["(EXISTS ( SELECT 1 FROM public.rooms WHERE (rooms.id = circle.id)))"],
        )],
    );
    catalog
}

fn compiled(using: &str) -> Compiled {
    let compiled = policy::compile(&[Policy { permissive: true, using }], &rooms(), &catalog());
    assert!(compiled.wanted().is_empty(), "{:?}", compiled.wanted());
    compiled
}

fn why(using: &str) -> Why {
    compiled(using).asked()[0].why.clone()
}

fn one(text: &str) -> Answer {
    Ok(vec![vec![Some(text.to_owned())]])
}

#[test]
fn terms_are_asked_by_their_own_text() {
    let compiled = compiled(
        "((auth.uid() = owner) OR (id IN ( SELECT members.room_id\n   FROM public.members\n  WHERE (members.user_id = auth.uid()))))",
    );
    let sql: Vec<&str> = compiled.terms().iter().map(|term| term.sql()).collect();
    assert_eq!(
        sql,
        [
            "select (auth.uid())::pg_catalog.text",
            "select (q.v)::pg_catalog.text from (SELECT members.room_id FROM public.members WHERE (members.user_id = auth.uid())) as q(v)"
        ]
    );
    assert!(compiled.terms()[0].reads().tables.is_empty());
    // The table, and what its policies read.
    assert_eq!(compiled.terms()[1].reads().tables, [2, 3].into());
}

#[test]
fn a_tied_subquery_becomes_a_set() {
    let compiled = compiled(
        "(EXISTS ( SELECT 1\n   FROM public.members m\n  WHERE ((m.room_id = rooms.id) AND (m.user_id = auth.uid()))))",
    );
    assert_eq!(
        compiled.terms()[0].sql(),
        "SELECT DISTINCT (m.room_id)::TEXT FROM public.members m WHERE (m.user_id = auth.uid())"
    );
    assert!(compiled.asked().is_empty() && compiled.calls().is_empty());
}

#[test]
fn a_function_of_a_column_becomes_a_call() {
    let compiled = compiled("public.is_member(id)");
    assert_eq!(
        (compiled.calls()[0].sql(), compiled.calls()[0].columns()),
        ("public.is_member(id)", &[0][..])
    );
    assert_eq!(compiled.calls()[0].reads().tables, [2, 3].into());
}

#[test]
fn reasons_are_told() {
    assert_eq!(why("(public.sets() AND (n > 1))"), Why::Volatile("sets".into()));
    assert_eq!(why("(rooms.* IS NOT NULL)"), Why::WholeRow);
    assert_eq!(why("(name > 'a'::text)"), Why::TextOrder);
    assert_eq!(
        why("(name OPERATOR(public.=) 'a'::public.citext)").to_string(),
        "the operator OPERATOR(public.=) is evaluated by the database only"
    );
    assert_eq!(why("(at > (now() - '1 day'::interval))"), Why::Clock);
    assert_eq!(why("(gone = 1)"), Why::UnknownColumn);
    assert!(matches!(why("(n ="), Why::NotUnderstood(_)));
    assert_eq!(why(&"(".repeat(5_000)), Why::TooLarge);
    assert_eq!(why(&format!("(n = {})", "1+".repeat(1_500) + "1")), Why::TooLarge);
    assert_eq!(why(&format!("({})", vec!["(n = 1)"; 5_000].join(" AND "))), Why::TooLarge);
}

#[test]
fn policies_in_a_circle_show_nothing() {
    let compiled = compiled("(true OR (EXISTS ( SELECT 1 FROM public.circle WHERE (circle.id = rooms.id))))");
    // A constant is folded before the circle is seen; PostgreSQL prints it all the same.
    assert_eq!(compiled.asked()[0].why, Why::Recursive);
}

#[test]
fn what_is_not_loaded_is_wanted() {
    let compiled = policy::compile(
        &[Policy {
            permissive: true,
            using: "((owner = auth.uid()) AND (EXISTS ( SELECT 1 FROM public.members WHERE (members.room_id = rooms.id))))",
        }],
        &rooms(),
        &Catalog::default(),
    );
    assert_eq!(
        *compiled.wanted(),
        [Wanted::Functions("uid".into()), Wanted::Relations("members".into())].into()
    );
}

#[test]
fn no_permissive_policy_shows_nothing() {
    for policies in [&[][..], &[Policy { permissive: false, using: "true" }]] {
        let compiled = policy::compile(policies, &rooms(), &catalog());
        let judged = compiled.judge(|_| Cell::Null, &compiled.values(&[]), UnixMicros(0), |_| Truth::OPEN);
        assert_eq!(judged, Truth::FALSE);
    }
}

#[test]
fn the_clock_is_compared_with_the_time_of_judging() {
    let compiled = compiled("(at > now())");
    let at = Bytes::from_static(b"1970-01-01 00:00:01+00");
    let judge =
        |now| compiled.judge(|_| Cell::Text(&at), &compiled.values(&[]), UnixMicros(now), |_| Truth::OPEN);
    assert_eq!((judge(999_999), judge(1_000_000)), (Truth::TRUE, Truth::FALSE));
}

#[test]
fn reasons_say_what_helps() {
    let mut catalog = catalog();
    let plpgsql = |body: &str| Function {
        language: "plpgsql".into(),
        ..function("public", "counts", &[2950], 16, body)
    };
    catalog.put_functions(
        "counts",
        vec![plpgsql("begin execute current_setting('request.sql'); return true; end")],
    );
    let explain = |using: &str, kept: &[u32]| {
        policy::explain(
            Policy { permissive: true, using },
            &rooms(),
            &catalog,
            |oid| kept.contains(&oid),
            "p",
        )
    };
    let own = explain("(owner = auth.uid())", &[]);
    assert!(own.decides && own.asked.is_empty() && own.reads.is_empty());
    assert!(explain("true", &[]).decides, "constants too");

    let of_members =
        "(id IN ( SELECT members.room_id FROM public.members WHERE (members.user_id = auth.uid())))";
    let kept = explain(of_members, &[2, 3]);
    assert!(kept.decides && kept.asked.is_empty());
    assert_eq!(kept.reads, [2, 3].into());
    let unpublished = explain(of_members, &[2]);
    assert!(!unpublished.decides);
    assert_eq!(
        unpublished.asked[0].why,
        "the log does not tell of all changes of public.teams: alter publication p add table public.teams, and it will \
         be compiled"
    );
    let in_part = explain(&format!("((n = 1) OR {of_members})"), &[]);
    assert!(in_part.decides && in_part.asked.len() == 1);

    let opaque = explain("public.counts(id)", &[]);
    assert!(!opaque.decides);
    assert!(opaque.asked[0].why.starts_with(
        "counts() is plpgsql with statements that are not read, such as SQL that it puts together"
    ));
    assert_eq!(&*opaque.asked[0].text, "public.counts(id)");
    assert!(explain("public.is_member(id)", &[2, 3]).asked.is_empty());
    let restrictive = Policy { permissive: false, using: "public.counts(id)" };
    assert!(!policy::explain(restrictive, &rooms(), &catalog, |_| true, "p").decides);
    let volatile = explain("(public.sets() AND (n > 1))", &[]);
    assert!(volatile.asked[0].why.contains("sets() is volatile"), "{volatile:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the text, compiling ends, and what is not understood shows nothing by itself.
    #[test]
    fn compiling_never_panics(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "(", ")", "(", ")", " AND ", " OR ", "NOT ", "owner", "id", "n", "rooms.id", "auth.uid()", " = ", " <> ",
                "'a'::text", "1", "NULL::uuid", "now()", " IN ", "SELECT ", "EXISTS ", " FROM ", "public.members m",
                " WHERE ", "m.room_id", "CASE", " WHEN ", " THEN ", " ELSE ", " END", " IS NULL", " = ANY ", "ARRAY[", "]",
                "COALESCE(", ",", "true", "::text", " ->> ", " IS DISTINCT FROM ", "$1", "'", "\"", "é", "--", "/*", ";",
            ]),
            0..40,
        )
    ) {
        let text = parts.concat();
        let compiled = policy::compile(&[Policy { permissive: true, using: &text }], &rooms(), &catalog());
        let values = compiled.values(&[]);
        let _ = compiled.judge(|_| Cell::Null, &values, UnixMicros(0), |_| Truth::OPEN);
    }
}
