use crate::{
    Code, Expected, Facts, Finding, OwnPublication, PublicationFacts, RoleFacts, ServerFacts, Severity,
    SlotFacts, Step, TableFacts, judge,
};

fn expected() -> Expected {
    Expected {
        publication: "supabase_realtime".to_owned(),
        durable: false,
        max_lag_bytes: 10_000_000_000,
        connections: 10,
        prepares: true,
        publishes_read: true,
    }
}

fn table() -> TableFacts {
    TableFacts {
        schema: "public".to_owned(),
        name: "orders".to_owned(),
        readers: vec!["authenticated".to_owned()],
        identity: "d".to_owned(),
        has_key: true,
        ..TableFacts::default()
    }
}

fn right() -> Facts {
    Facts {
        server: ServerFacts {
            version: "15.4".to_owned(),
            version_number: 150_004,
            wal_level: "logical".to_owned(),
            slots: (1, 10),
            senders: (1, 10),
            keep_mb: Some(-1),
            connections: (5, 100, 3),
            of_role: (0, -1),
            of_database: (0, -1),
            ..ServerFacts::default()
        },
        role: RoleFacts {
            name: "realtime".to_owned(),
            database: "app".to_owned(),
            replication: true,
            create: true,
            clients: vec![("anon".to_owned(), true), ("authenticated".to_owned(), true)],
            ..RoleFacts::default()
        },
        publication: Some(PublicationFacts::default()),
        tables: vec![table()],
        ..Facts::default()
    }
}

/// The only finding, which has this code; its first step.
fn only(facts: &Facts, expected: &Expected, code: Code) -> Finding {
    let findings = judge(facts, expected);
    let codes: Vec<&str> = findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(codes, [code.as_str()], "{findings:#?}");
    findings.into_iter().next().unwrap()
}

fn sql(finding: &Finding) -> &str {
    match finding.mend.first() {
        Some(Step::Sql(sql)) => sql,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_found_where_all_is_right() {
    assert_eq!(judge(&right(), &expected()), []);
}

#[test]
fn each_fault_of_the_server_has_its_own_code() {
    #[expect(clippy::type_complexity, reason = "said once")]
    let cases: Vec<(Code, fn(&mut Facts))> = vec![
        (Code::WalLevel, |facts| facts.server.wal_level = "replica".to_owned()),
        (Code::OldServer, |facts| facts.server.version_number = 130_010),
        (Code::Standby, |facts| facts.server.standby = true),
        (Code::ConnectionsShort, |facts| facts.server.connections.0 = 95),
        (Code::ConnectionsShort, |facts| facts.server.of_role = (3, 5)),
        (Code::ClocksApart, |facts| facts.server.clock_ahead_ms = -3_000),
        (Code::NoFreeSlot, |facts| facts.server.slots = (10, 10)),
        (Code::NoFreeSender, |facts| facts.server.senders = (10, 10)),
        (Code::ReplicationRefused, |facts| facts.server.replication_refused = Some("no".to_owned())),
        (Code::NoReplication, |facts| facts.role.replication = false),
        (Code::Superuser, |facts| facts.role.superuser = true),
        (Code::NoMember, |facts| facts.role.clients[0].1 = false),
        (Code::RoleMissing, |facts| facts.role.missing = vec!["anon".to_owned()]),
        (Code::SetUpIncomplete, |facts| facts.set_up = vec!["Create schema realtime".to_owned()]),
        (Code::PublicationMissing, |facts| (facts.publication, facts.tables) = (None, Vec::new())),
        (Code::PublicationEmpty, |facts| facts.tables.clear()),
        (Code::PublicationActions, |facts| {
            facts.publication = Some(PublicationFacts { left_out: vec!["delete".to_owned()] });
        }),
        (Code::PublicationOwner, |facts| {
            let own = OwnPublication { name: "p".to_owned(), owner: "postgres".to_owned(), ours: false };
            facts.own_publications.push(own);
        }),
    ];
    for (code, fault) in cases {
        let mut facts = right();
        fault(&mut facts);
        let finding = only(&facts, &expected(), code);
        assert!(!finding.text.ends_with('.') && !finding.mend.is_empty(), "{finding:?}");
    }
}

#[test]
fn each_fault_of_a_table_has_its_own_code() {
    #[expect(clippy::type_complexity, reason = "said once")]
    let cases: Vec<(Code, &str, fn(&mut TableFacts))> = vec![
        (Code::NoKey, "alter table public.orders add primary key (id)", |table| {
            (table.has_key, table.has_id) = (false, true);
        }),
        (Code::IdentityNothing, "alter table public.orders replica identity default", |table| {
            table.identity = "n".to_owned();
        }),
        (Code::NoGrant, "grant select on public.orders to authenticated", |table| table.readers.clear()),
        (Code::NoUsage, "grant usage on schema public to authenticated", |table| {
            table.without_usage = vec!["authenticated".to_owned()];
        }),
        (
            Code::ColumnListWithoutKey,
            "alter publication supabase_realtime drop table public.orders; \
             alter publication supabase_realtime add table public.orders (a, id) where (a > 1)",
            |table| {
                table.listed = Some(vec!["a".to_owned()]);
                table.unlisted = vec!["id".to_owned()];
                table.row_filter = Some("a > 1".to_owned());
            },
        ),
        (Code::RowFilterWithoutKey, "alter table public.orders replica identity full", |table| {
            table.unidentified = vec!["a".to_owned()];
        }),
        (
            Code::RowFilterMayRaise,
            "alter publication supabase_realtime drop table public.orders; \
             alter publication supabase_realtime add table public.orders",
            |table| {
                table.row_filter = Some("1 / a > 1".to_owned());
                table.filter_may_raise = true;
            },
        ),
    ];
    for (code, mended, fault) in cases {
        let mut facts = right();
        fault(&mut facts.tables[0]);
        assert_eq!(sql(&only(&facts, &expected(), code)), mended);
    }
}

#[test]
fn row_level_security_without_a_policy_is_found() {
    let mut facts = right();
    facts.tables[0].row_security = true;
    facts.tables[0].identity = "f".to_owned();
    let finding = only(&facts, &expected(), Code::NoPolicy);
    assert!(sql(&finding).contains("for select to authenticated using (true)"), "{finding:?}");
    facts.tables[0].with_policy = vec!["authenticated".to_owned()];
    assert_eq!(judge(&facts, &expected()), []);
    facts.tables[0].identity = "d".to_owned();
    assert_eq!(only(&facts, &expected(), Code::IdentityWithoutRow).severity, Severity::Note);
}

#[test]
fn slots_are_judged_by_who_reads_them_and_how_far_they_are() {
    let slot = |slot: SlotFacts| {
        let mut facts = right();
        facts.slots.push(SlotFacts { name: "s".to_owned(), ..slot });
        facts
    };
    let idle = slot(SlotFacts { lag_bytes: 5.0, ..SlotFacts::default() });
    assert_eq!(only(&idle, &expected(), Code::SlotInactive).severity, Severity::Note);
    let idle = slot(SlotFacts { lag_bytes: 2e9, ..SlotFacts::default() });
    let finding = only(&idle, &expected(), Code::SlotInactive);
    assert_eq!(
        (finding.severity, sql(&finding)),
        (Severity::Warning, "select pg_drop_replication_slot('s')")
    );
    let lost = slot(SlotFacts { ours: true, lost: true, ..SlotFacts::default() });
    only(&lost, &expected(), Code::SlotLost);
    let stuck = SlotFacts { reader: Some(7), silent_seconds: Some(61.0), ..SlotFacts::default() };
    assert_eq!(sql(&only(&slot(stuck), &expected(), Code::SlotStuck)), "select pg_terminate_backend(7)");
    let far = SlotFacts { ours: true, reader: Some(7), lag_bytes: 6e9, ..SlotFacts::default() };
    only(&slot(far), &expected(), Code::SlotLagging);
    let near = SlotFacts { ours: true, reader: Some(7), temporary: true, ..SlotFacts::default() };
    assert_eq!(judge(&slot(near), &expected()), []);
}

#[test]
fn a_permanent_slot_needs_bounds_that_fit() {
    let durable = Expected { durable: true, ..expected() };
    let mut facts = right();
    let finding = only(&facts, &durable, Code::SlotUnbounded);
    assert_eq!(sql(&finding), "alter system set max_slot_wal_keep_size = '20GB'");
    facts.server.keep_mb = Some(100);
    only(&facts, &durable, Code::SlotKeptTooShort);
    facts.server.keep_mb = Some(20_000);
    facts.server.idle_slot_seconds = Some(60);
    only(&facts, &durable, Code::IdleSlotTimeout);
    facts.server.idle_slot_seconds = Some(0);
    assert_eq!(judge(&facts, &durable), []);
}
