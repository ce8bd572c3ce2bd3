//! What becomes of policies, without a database.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

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

/// Of ann and bob, those whose answer to the last term, or to the call, an insert into `members` concerns.
fn concerned(using: &str, room: &str, user: &str) -> Option<Vec<u8>> {
    let policies = [Policy { permissive: true, using }];
    let mut catalog = catalog();
    catalog.put_functions(
        "is_in",
        vec![function(
            "public",
            "is_in",
            &[2950],
            16,
            "select exists (select from members join teams using (user_id) where room_id = $1 and members.user_id = (select auth.uid()))",
        )],
    );
    catalog.put_functions(
        "is_with",
        vec![function(
            "public",
            "is_with",
            &[2950],
            16,
            "select exists (select from members where user_id = auth.uid() and room_id = $1)",
        )],
    );
    let compiled = policy::compile(&policies, &rooms(), &catalog);
    assert!(compiled.wanted().is_empty(), "{:?}", compiled.wanted());
    let reads = |reads: &policy::Reads| reads.tables.contains(&2);
    let term = compiled.terms().iter().position(|term| reads(term.reads()));
    let call = compiled.named_calls().map(|(call, _)| call).next();
    let mut sight = Sight::new(std::sync::Arc::new(compiled));
    for (party, user) in [(1u8, ANN), (2, BOB)] {
        let answer = |term: &policy::Term| match term.sql() == "select (auth.uid())::pg_catalog.text" {
            true => one(user),
            false => Ok(Vec::new()),
        };
        let answers: Vec<Answer> = sight.policy().terms().iter().map(answer).collect();
        let values = sight.policy().values(&answers);
        sight.insert(party, values);
    }
    let column = |name: &str, identity| RelationColumn {
        identity,
        name: name.into(),
        type_oid: 2950,
        type_modifier: -1,
    };
    let relation = LogRelation {
        oid: 2,
        schema: "public".into(),
        name: "members".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("room_id", true), column("user_id", true)],
    };
    let row = vec![
        Value::Text(Bytes::copy_from_slice(room.as_bytes())),
        Value::Text(Bytes::copy_from_slice(user.as_bytes())),
    ];
    let change = Change {
        action: Action::Insert,
        relation: &relation,
        new: Some(&row),
        old: None,
        commit_time: UnixMicros(0),
    };
    let found = match (term, call) {
        (Some(term), _) => sight.concerned_by_term(term, &change),
        (None, call) => sight.concerned_by_call(call.unwrap(), &change),
    };
    found.map(|found| {
        let mut found: Vec<u8> = found.into_iter().collect();
        found.sort_unstable();
        found
    })
}

#[test]
fn a_change_concerns_those_whose_row_it_is() {
    for using in [
        "(id IN ( SELECT members.room_id FROM public.members WHERE (members.user_id = auth.uid())))",
        "(id IN ( SELECT m.room_id FROM public.members m WHERE ((auth.uid() = m.user_id) AND (m.room_id IS NOT NULL))))",
        "(EXISTS ( SELECT 1 FROM public.members m WHERE ((m.room_id = rooms.id) AND (m.user_id = ( SELECT auth.uid() AS uid)))))",
        "(EXISTS ( SELECT 1 FROM (public.members m JOIN public.teams t ON ((m.user_id = auth.uid()))) WHERE (m.room_id = rooms.id)))",
        "(EXISTS ( SELECT 1 FROM (public.teams t LEFT JOIN public.members m ON ((t.user_id = m.user_id))) WHERE ((m.room_id = rooms.id) AND (m.user_id = auth.uid()))))",
        "public.is_in(id)",
        "public.is_with(id)",
    ] {
        assert_eq!(concerned(using, ANN, BOB), Some(vec![2]), "{using}");
        assert_eq!(concerned(using, BOB, ANN), Some(vec![1]), "{using}");
        assert_eq!(concerned(using, ANN, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a13"), Some(vec![]), "{using}");
    }
}

#[test]
fn a_change_concerns_everybody_where_it_is_not_told_whose_row_it_is() {
    for using in [
        "(id IN ( SELECT members.room_id FROM public.members))",
        "(id IN ( SELECT m.room_id FROM public.members m WHERE ((m.user_id = auth.uid()) OR (m.room_id IS NULL))))",
        "(id IN ( SELECT m.room_id FROM public.members m WHERE (m.user_id <> auth.uid())))",
        "(id IN ( SELECT m.room_id FROM public.members m WHERE (m.user_id = '00000000-0000-0000-0000-000000000000'::uuid)))",
        // The same table once more, for others' rows.
        "(id IN ( SELECT m.room_id FROM (public.members m JOIN public.members o ON ((o.room_id = m.room_id))) WHERE (m.user_id = auth.uid())))",
        "(id IN ( SELECT m.room_id FROM (public.members m LEFT JOIN public.teams t ON ((m.user_id = auth.uid())))))",
        "((id IN ( SELECT m.room_id FROM public.members m WHERE (m.user_id = auth.uid()) UNION SELECT o.room_id FROM public.members o)))",
        "public.is_member(id)",
    ] {
        assert_eq!(concerned(using, ANN, BOB), None, "{using}");
    }
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

fn row<'a>(owner: &'a Bytes) -> impl Fn(usize) -> Cell<'a> {
    move |_| Cell::Text(owner)
}

#[test]
fn a_failed_term_shows_nothing_unasked() {
    let compiled = compiled("((n = 1) OR (owner = auth.uid()))");
    let text = Bytes::from_static(b"1");
    let judge = |answer: Answer| {
        compiled.judge(row(&text), &compiled.values(&[answer]), UnixMicros(0), |_| Truth::OPEN)
    };
    assert_eq!(judge(one(ANN)), Truth::TRUE);
    assert_eq!(judge(Err(NoValue::Failed)), Truth::OPEN);
    assert_eq!(
        compiled.judge(row(&text), &compiled.values(&[]), UnixMicros(0), |_| Truth::OPEN),
        Truth::OPEN
    );
}

#[test]
fn calls_are_asked_once_for_all_and_again_for_newcomers() {
    let compiled = compiled("public.is_member(id)");
    let mut sight = Sight::new(compiled.into());
    let none = sight.policy().values(&[]);
    for party in [1, 2, 3] {
        sight.insert(party, none.clone());
    }
    let room = Bytes::from_static(BOB.as_bytes());
    let asked = sight.look(row(&room), UnixMicros(0)).needs;
    assert_eq!((asked.len(), &asked[0].parties), (1, &vec![1, 2, 3]));
    assert_eq!(asked[0].key.values().collect::<Vec<_>>(), [Some(BOB.as_bytes())]);
    sight.answer(&asked[0], &[Some(Truth::TRUE), Some(Truth::FALSE), Some(Truth::NULL)]);
    let seen = sight.look(row(&room), UnixMicros(0));
    assert_eq!((seen.shown, seen.open, seen.needs.len()), (vec![1], vec![], 0));

    // Somebody else under a number that was free: the old answer is not his.
    sight.insert(1, none.clone());
    let again = sight.look(row(&room), UnixMicros(0)).needs;
    assert_eq!(again[0].parties, [1]);
    sight.insert(1, none.clone());
    sight.answer(&again[0], &[Some(Truth::TRUE)]);
    assert!(
        sight.look(row(&room), UnixMicros(0)).shown.is_empty(),
        "the answer was about who was there before"
    );

    // What was asked before the answers were forgotten does not count.
    let late = sight.look(row(&room), UnixMicros(0)).needs;
    let call = late[0].call;
    sight.forget_call(call);
    sight.answer(&late[0], &[Some(Truth::TRUE)]);
    let seen = sight.look(row(&room), UnixMicros(0));
    assert_eq!((seen.shown.len(), seen.needs[0].parties.len()), (0, 3));

    // A failure leaves the party to the database.
    sight.answer(&seen.needs[0], &[None, Some(Truth::TRUE), Some(Truth::FALSE)]);
    let seen = sight.look(row(&room), UnixMicros(0));
    assert_eq!((seen.shown.len(), seen.open.len(), seen.needs.len()), (1, 1, 0));
}

#[test]
fn a_row_is_judged_for_those_only_whom_its_keys_lead_to() {
    let policy = compiled("((owner = auth.uid()) AND (n > 0))");
    let values = |user: usize| policy.values(&[one(&format!("00000000-0000-0000-0000-{user:012}"))]);
    let mut sight = Sight::new(policy.clone().into());
    for user in 0..10_000usize {
        sight.insert(user, values(user));
    }
    let (owner, n) = (Bytes::from_static(b"00000000-0000-0000-0000-000000000042"), Bytes::from_static(b"1"));
    let row = |at: usize| Cell::Text(if at == 2 { &n } else { &owner });
    assert_eq!(sight.candidates(&row), [42]);
    assert_eq!(sight.look(row, UnixMicros(0)).shown, [42]);
    sight.update(42, values(43));
    assert!(sight.candidates(&row).is_empty());
    sight.update(7, values(42));
    assert_eq!(sight.look(row, UnixMicros(0)).shown, [7]);
    (0..10_000).for_each(|user| sight.remove(user));
    assert!(sight.is_empty() && sight.candidates(&row).is_empty());
    // What the change does not carry could be anybody's.
    sight.insert(1, values(1));
    assert_eq!(sight.look(|_| Cell::Missing, UnixMicros(0)).open, [1]);
}

/// A row, the first column of which is the owner's too.
fn of_ann(at: usize) -> Cell<'static> {
    static TEXTS: [Bytes; 2] = [Bytes::from_static(ANN.as_bytes()), Bytes::from_static(b"5")];
    match at {
        2 => Cell::Text(&TEXTS[1]),
        _ => Cell::Text(&TEXTS[0]),
    }
}

#[test]
fn of_a_wrong_verdict_those_are_suspected_that_say_the_same() {
    let policies = [
        Policy { permissive: true, using: "(owner = auth.uid())" },
        Policy { permissive: true, using: "(n = 7)" },
        Policy { permissive: false, using: "(n < 9)" },
    ];
    let compiled = policy::compile(&policies, &rooms(), &catalog());
    let (ann, bob) = (compiled.values(&[one(ANN)]), compiled.values(&[one(BOB)]));
    let mut sight = Sight::new(compiled.into());
    sight.insert(1, ann);
    sight.insert(2, bob);
    let suspects = |party, shown| sight.suspects(party, &of_ann, UnixMicros(0), shown);
    assert_eq!(sight.look(of_ann, UnixMicros(0)).shown, [1]);
    assert_eq!(suspects(1, true), [0, 2], "one of these should have said no");
    assert_eq!(suspects(2, false), [0, 1], "one of these should have said yes");
    assert!(suspects(3, true).is_empty(), "nobody");
}

#[test]
fn a_policy_that_was_found_wrong_is_asked_and_the_others_are_not() {
    let policies = [
        Policy { permissive: true, using: "(owner = auth.uid())" },
        Policy { permissive: true, using: "(n = 7)" },
    ];
    let compiled = policy::compile_distrusting(&policies, &rooms(), &catalog(), &[0].into());
    assert_eq!((compiled.asked().len(), compiled.asked()[0].policy), (1, 0));
    assert_eq!(compiled.asked()[0].why, Why::Distrusted);
    assert!(compiled.terms().is_empty(), "nobody is asked for what it needs");
    let judge = |n: &'static [u8]| {
        let text = Bytes::from_static(n);
        compiled.judge(|_| Cell::Text(&text), &compiled.values(&[]), UnixMicros(0), |_| Truth::OPEN)
    };
    assert!(!judge(b"7").holds() && judge(b"7").may_hold(), "what stands before it may raise");
    assert!(judge(b"6").may_hold());
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
