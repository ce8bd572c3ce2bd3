//! For whom functions can be true.

mod random;

use std::sync::Arc;

use bytes::Bytes;
use realtime_pgoutput::message::UnixMicros;

use crate::{
    cell::Cell,
    policy::{
        Answer, Catalog, Collation, Compiled, Field, Function, Policy, Relation, Sight, Volatility, Wanted,
        compile,
    },
    truth::Truth,
};

const UUID: u32 = 2950;
const INT: u32 = 23;

/// The role whose functions and tables these are.
const OWNER: u32 = 10;

fn relation(oid: u32, name: &str, fields: &[(&str, u32)], policies: &[&str], exempt: u32) -> Relation {
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
        exempt: Some(exempt),
    }
}

fn function(schema: &str, name: &str, arguments: &[(&str, u32)], result: u32, body: &str) -> Function {
    Function {
        oid: 100 + u32::try_from(name.len()).unwrap(),
        schema: schema.into(),
        name: name.into(),
        arguments: arguments.iter().map(|(_, kind)| *kind).collect(),
        names: arguments.iter().map(|(name, _)| (*name).into()).collect(),
        defaults: 0,
        default_values: "".into(),
        variadic: false,
        result,
        returns_set: false,
        is_aggregate: false,
        volatility: Volatility::Stable,
        language: if schema == "pg_catalog" { "internal" } else { "sql" }.into(),
        body: body.into(),
        runs_as: Some(OWNER),
        owner_bypasses: false,
    }
}

/// The policy `is_member(room, n)` where the function has a body.
fn compiled(change: impl Fn(Function) -> Function, body: &str) -> Compiled {
    compiled_of("public.is_member(room, n)", change, body)
}

fn compiled_of(using: &str, change: impl Fn(Function) -> Function, body: &str) -> Compiled {
    let mut catalog = Catalog::default();
    let is_member = function("public", "is_member", &[("r", INT), ("rank", INT)], 16, body);
    let uid = "select current_setting('request.x', true)::uuid";
    let functions = [
        change(is_member),
        function("auth", "uid", &[], UUID, uid),
        function("auth", "sub", &[], UUID, uid),
        function("auth", "me", &[], UUID, "select uid()"),
        function("auth", "known", &[], UUID, "select auth.uid()"),
        function("pg_catalog", "current_setting", &[("", 25), ("", 16)], 25, ""),
        Function { is_aggregate: true, ..function("pg_catalog", "count", &[], 20, "") },
    ];
    let members = [("room", INT), ("who", UUID), ("rank", INT), ("left_at", 1184)];
    let relations = [
        relation(2, "members", &members, &["(who = auth.uid())"], OWNER),
        relation(3, "rooms", &[("id", INT), ("owner", UUID), ("team", INT)], &[], OWNER),
        relation(4, "strangers", &[("room", INT), ("who", UUID)], &["(who = auth.uid())"], OWNER + 1),
    ];
    let own = relation(1, "says", &[("room", INT), ("n", INT)], &[], OWNER);
    let policies = [Policy { permissive: true, using }];
    loop {
        let compiled = compile(&policies, &own, &catalog);
        if compiled.wanted().is_empty() {
            return compiled;
        }
        for wanted in compiled.wanted() {
            match wanted {
                Wanted::Relations(name) => {
                    let found = relations.iter().filter(|relation| relation.name == *name);
                    catalog.put_relations(name.clone(), found.cloned().collect());
                }
                Wanted::Functions(name) => {
                    let found = functions.iter().filter(|function| function.name == *name);
                    catalog.put_functions(name.clone(), found.cloned().collect());
                }
                Wanted::Operators => catalog.put_operators([]),
                Wanted::Type(schema, name) => catalog.put_type(schema.clone(), name.clone(), None),
            }
        }
    }
}

/// The bounds of the call: table, its columns, the argument.
fn bounds(change: impl Fn(Function) -> Function, body: &str) -> Vec<String> {
    let compiled = compiled(change, body);
    assert_eq!(compiled.calls().len(), 1, "{body}: {:?}", compiled.asked());
    texts(&compiled)
}

fn texts(compiled: &Compiled) -> Vec<String> {
    let text = |bound: &crate::policy::Bound| {
        let null = if bound.or_null() { " or null" } else { "" };
        format!("{}.{} = {}{null}, {}", bound.table(), bound.column(), bound.argument(), bound.owner())
    };
    compiled.calls().iter().flat_map(|call| call.bounds()).map(text).collect()
}

#[test]
fn a_membership_bounds_those_whom_a_function_is_true_for() {
    let of_members = ["members.room = 0, who"];
    for body in [
        "select exists (select from public.members m where m.room = r and m.who = auth.uid())",
        "select exists (select 1 from members where room = $1 and auth.uid() = who limit 1);",
        "select exists (select * from members m where m.room = is_member.r and m.who = (select auth.uid()))",
        "select (exists (select m.who from members m where (m.who = auth.uid() and m.left_at is null) and m.room = $1))",
        "select exists (select from members m where m.room = r and m.who = auth.uid() and m.rank in (1, 2, $2))",
        "select exists (select from members m join rooms on rooms.id = m.room where m.room = r and m.who = auth.uid())",
        "select exists (select from rooms o inner join members m on m.who = auth.uid() and m.room = r where o.id = m.room)",
        "select exists (select from rooms o, members m where m.who = auth.uid() and m.room = r)",
    ] {
        assert_eq!(bounds(|function| function, body), of_members, "{body}");
    }
    let of_both = "select exists (select from members where room = r and who = auth.uid())
        or exists (select from rooms where id = r and owner = auth.uid()) or false";
    assert_eq!(bounds(|function| function, of_both), ["members.room = 0, who", "rooms.id = 0, owner"]);
    let of_set = "select r in (select m.room from members m where m.who = auth.uid())";
    assert_eq!(bounds(|function| function, of_set), ["members.room = 0 or null, who"]);
    let of_other = "select exists (select from members m where m.rank = $2 and m.who = auth.uid())";
    assert_eq!(bounds(|function| function, of_other), ["members.rank = 1, who"]);
    let plpgsql = |function| Function { language: "plpgsql".into(), ..function };
    let returned = "begin return exists (select from members m where m.room = r and m.who = auth.uid()); end";
    assert_eq!(bounds(plpgsql, returned), of_members);
    let standard = "BEGIN ATOMIC SELECT (EXISTS ( SELECT FROM public.members m WHERE ((m.room = is_member.r) AND (m.who = auth.uid())))); END";
    assert_eq!(bounds(|function| function, standard), of_members);
}

#[test]
fn where_another_may_be_meant_everybody_is_asked() {
    let nobody: [&str; 0] = [];
    for body in [
        "select true",
        "select not exists (select from members m where m.room = r and m.who = auth.uid())",
        "select exists (select from members m where m.room = r)",
        "select exists (select from members m where m.who = auth.uid())",
        "select exists (select from members m where m.room = r and m.who = auth.uid()) or auth.uid() is null",
        "select exists (select from members m where m.room = r or m.who = auth.uid())",
        // It is NULL for others, not false.
        "select true from members m where m.room = r and m.who = auth.uid()",
        "select (select true from members m where m.room = r and m.who = auth.uid())",
        // There is a row for everybody.
        "select exists (select count(*) from members m where m.room = r and m.who = auth.uid())",
        "select exists (select from members m where m.room = r and m.who = auth.uid() having true)",
        "select exists (select from rooms left join members m on m.room = r and m.who = auth.uid())",
        "select exists (select from rooms left join members m on m.room = r and m.who = auth.uid() where rooms.id = r)",
        "select exists (select from members m where m.room = r and m.who = auth.uid() union select from rooms)",
        // Another part may raise.
        "select exists (select from members m where m.room = r and m.who = auth.uid() and m.who = auth.sub())",
        "select exists (select from members m where m.room = r and m.who = auth.uid() and 1 / m.rank = 1)",
        "select exists (select from members m where m.room = r and m.who = auth.uid() and auth.sub() is not null)",
        // The name is that of a column.
        "select exists (select from members m where m.room = rank and m.who = auth.uid())",
        // The columns are of different rows.
        "select exists (select from members m, rooms o where o.id = r and m.who = auth.uid())",
        "select exists (select from (select * from members) m where m.room = r and m.who = auth.uid())",
        "select r not in (select m.room from members m where m.who = auth.uid())",
        "select 1 = 1; select exists (select from members m where m.room = r and m.who = auth.uid())",
        // Its policies decide for the function, and may raise.
        "select exists (select from strangers m where m.room = r and m.who = auth.uid())",
    ] {
        assert_eq!(bounds(|function| function, body), nobody, "{body}");
    }
    let body = "select exists (select from members m where m.room = r and m.who = auth.uid())";
    let others: [(&str, &dyn Fn(Function) -> Function); 4] = [
        ("with the rights of who asks", &|function| Function { runs_as: None, ..function }),
        ("of another owner", &|function| Function { runs_as: Some(OWNER + 2), ..function }),
        ("of another type", &|function| Function { arguments: vec![20, INT], ..function }),
        ("without names", &|function| Function { names: Vec::new(), ..function }),
    ];
    for (what, change) in others {
        assert_eq!(bounds(change, body), nobody, "{what}");
    }
    let declared = "declare r int := 5; begin return exists (select from members m where m.room = r and m.who = auth.uid()); end";
    assert_eq!(bounds(|function| Function { language: "plpgsql".into(), ..function }, declared), nobody);
}

const MEMBERSHIP: &str = "select exists (select from members m where m.room = r and m.who = auth.uid())";

#[test]
fn arguments_that_claims_decide_bound_nobody() {
    let nobody: [&str; 0] = [];
    let found = |using: &str| texts(&compiled_of(using, |function| function, MEMBERSHIP));
    for using in ["public.is_member(room, 5)", "not public.is_member(room, '5'::integer)"] {
        assert_eq!(found(using), ["members.room = 0, who"], "{using}");
    }
    for argument in [
        "(current_setting('request.x', true))::integer",
        "(select m.rank from members m where m.who = auth.uid())",
        "coalesce(n, (current_setting('request.x', true))::integer)",
        "(n + 1)",
        "(n)::integer",
    ] {
        let using = format!("not public.is_member(room, {argument})");
        assert_eq!(found(&using), nobody, "{using}");
    }
}

#[test]
fn what_from_has_wins_over_arguments() {
    let nobody: [&str; 0] = [];
    let of_alias = "select exists (select from rooms o join members is_member on o.id = is_member.rank where o.owner = auth.uid())";
    assert_eq!(bounds(|function| function, of_alias), nobody);
    let plpgsql = |function| Function { language: "plpgsql".into(), ..function };
    let returned = |query: &str| format!("begin return {}; end", query.trim_start_matches("select "));
    for name in ["tableoid", "ctid", "xmin", "cmin", "xmax", "cmax", "m"] {
        let named = |function| Function { names: vec![name.into(), "other".into()], ..function };
        let body =
            format!("select exists (select from members m where m.room = {name} and m.who = auth.uid())");
        assert_eq!(bounds(named, &body), nobody, "{body}");
    }
    let found = |function| Function { names: vec!["found".into(), "other".into()], ..function };
    let body = "select exists (select from members m where m.room = found and m.who = auth.uid())";
    assert_eq!(bounds(found, body), ["members.room = 0, who"]);
    assert_eq!(bounds(|function| plpgsql(found(function)), &returned(body)), nobody);
    // In PL/pgSQL a setting decides.
    for (body, in_sql) in [
        (
            "select exists (select from members m where m.room = r and m.who = auth.uid() and rank = 1)",
            "members.room = 0, who",
        ),
        (
            "select r in (select rank from members m where m.who = auth.uid())",
            "members.rank = 0 or null, who",
        ),
    ] {
        assert_eq!(bounds(|function| function, body), [in_sql], "{body}");
        assert_eq!(bounds(plpgsql, &returned(body)), nobody, "{body}");
    }
    let who = |function: Function| Function { names: vec!["r".into(), "who".into()], ..plpgsql(function) };
    let body = "select exists (select from members m where m.room = r and who = auth.uid())";
    assert_eq!(bounds(who, &returned(body)), nobody);
    assert_eq!(bounds(who, &returned(MEMBERSHIP)), ["members.room = 0, who"]);
}

#[test]
fn what_stands_beside_the_expression_may_raise() {
    let nobody: [&str; 0] = [];
    for behind in [
        "order by (current_setting('request.x', true))::integer",
        "group by (current_setting('request.x', true))::integer",
        "limit (current_setting('request.x', true))::integer",
        "fetch first 1 rows only",
        "for update",
    ] {
        let body = format!("{MEMBERSHIP} {behind}");
        assert_eq!(texts(&compiled(|function| function, &body)), nobody, "{body}");
        let inner = format!("select ({body})");
        assert_eq!(texts(&compiled(|function| function, &inner)), nobody, "{inner}");
    }
}

#[test]
fn who_somebody_is_must_not_depend_on_the_path() {
    let body = MEMBERSHIP.replace("auth.uid", "auth.known");
    assert_eq!(bounds(|function| function, &body), ["members.room = 0, who"]);
    // On another path its `uid()` is another function.
    assert_eq!(bounds(|function| function, &MEMBERSHIP.replace("auth.uid", "auth.me")), [""; 0]);
}

#[test]
fn a_return_ends_a_comment() {
    let plpgsql = |function| Function { language: "plpgsql".into(), ..function };
    let membership = MEMBERSHIP.trim_start_matches("select ");
    let body = format!(
        "begin return {membership} -- members\r or current_setting('request.x', true) = 'yes'\n; end"
    );
    assert_eq!(texts(&compiled(plpgsql, &body)), [""; 0]);
    let body = format!("begin return {membership} -- members\r\n; end");
    assert_eq!(bounds(plpgsql, &body), ["members.room = 0, who"]);
}

#[test]
fn the_named_are_asked_and_one_more() {
    const PARTIES: u32 = 10_000;
    let body = "select exists (select from members m where m.room = r and m.who = auth.uid())";
    let mut sight = Sight::new(Arc::new(compiled(|function| function, body)));
    let uid = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    for n in 0..PARTIES {
        // What the claims of party 7 say raises.
        let own: Answer = match n {
            7 => Err(crate::policy::NoValue::Failed),
            n => Ok(vec![vec![Some(uid(n))]]),
        };
        let values = sight.policy().values(&vec![own; sight.policy().terms().len()]);
        sight.insert(n, values);
    }
    let (room, n) = (Bytes::from_static(b"5"), Bytes::from_static(b"1"));
    let row = |column: usize| Cell::Text(if column == 0 { &room } else { &n });
    let found = sight.look(row, UnixMicros(0));
    let need = &found.needs[0];
    assert_eq!((found.needs.len(), need.parties.len()), (1, PARTIES as usize));
    let rows: Vec<(usize, String)> = (100..120).map(|n| (0, uid(n))).collect();
    let (asked, witness) = sight.narrowed(need, &rows, |party| party > 3).unwrap();
    assert_eq!(witness, 4);
    let expected: Vec<u32> = [4, 7].into_iter().chain(100..120).collect();
    assert_eq!(asked.parties, expected);
    let answers: Vec<Option<Truth>> =
        expected.iter().map(|party| Some(Truth::known(Some(*party >= 100)))).collect();
    sight.answer(&asked, &answers);
    let seen = sight.look(row, UnixMicros(0));
    assert_eq!((seen.shown, seen.open.len(), seen.needs.len()), ((100..120).collect(), 0, 0));
    // What a row behind it needs is known now; another room has to be asked.
    assert_eq!(sight.alike(need, &row, |_| true), None);
    let other = |_: usize| Cell::Text(&n);
    assert_eq!(sight.alike(need, &other, |_| true).unwrap().parties.len(), PARTIES as usize);
    assert_eq!(sight.alike(need, &other, |key| *key != need.key).map(|need| need.call), Some(need.call));
    assert_eq!(sight.alike(need, &other, |_| false), None);
    // Who comes is asked, and nobody else.
    sight.insert(PARTIES, sight.values(3).unwrap().clone());
    assert_eq!(sight.look(row, UnixMicros(0)).needs[0].parties, [PARTIES]);
    // Somebody has to be there who can tell that all is well.
    assert!(sight.narrowed(need, &rows, |_| false).is_none());
}
