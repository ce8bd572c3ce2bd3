//! Whom a change of what policies read concerns.

use super::*;

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
