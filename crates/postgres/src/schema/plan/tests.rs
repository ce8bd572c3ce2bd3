use super::{super::survey::Messages, *};

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

/// A plain database, connected to as a superuser.
fn plain() -> Survey {
    let role = |name: &str| ClientRole { name: name.to_owned(), can_become: true, known: false };
    Survey {
        user: "app".to_owned(),
        replication: true,
        wal_level: "logical".to_owned(),
        origin: Origin::Ours,
        schema: false,
        messages: None,
        functions: Vec::new(),
        children: Vec::new(),
        publication: State::Absent,
        clients: vec![role("anon"), role("authenticated"), role("service_role")],
        platform: Vec::new(),
    }
}

/// As [`plain`] after the set-up, but for the partitions.
fn complete() -> Survey {
    let columns = [
        "topic",
        "extension",
        "payload",
        "event",
        "private",
        "updated_at",
        "inserted_at",
        "id",
        "binary_payload",
    ];
    let mut survey = Survey {
        schema: true,
        messages: Some(Messages {
            partitioned: true,
            row_security: true,
            owned: true,
            columns: columns.map(str::to_owned).to_vec(),
            has_check: true,
            has_index: true,
        }),
        functions: FUNCTIONS.map(|(name, _)| (name.to_owned(), Some(FUNCTIONS_VERSION))).to_vec(),
        publication: State::Right,
        ..plain()
    };
    for role in &mut survey.clients {
        role.known = true;
    }
    survey
}

fn what(survey: &Survey, grant: bool) -> (Vec<String>, Vec<String>) {
    let plan = plan(survey, now(), grant);
    let steps = plan.steps.into_iter().map(|step| step.what).filter(|what| !what.contains("partition "));
    (steps.collect(), plan.notes)
}

#[test]
fn a_complete_database_needs_partitions_only() {
    let survey = complete();
    assert_eq!(what(&survey, true), (Vec::new(), Vec::new()));
    assert_eq!(plan(&survey, now(), true).steps.len(), 5);
}

#[test]
fn upgrades() {
    let mut survey = complete();
    survey.functions =
        vec![("topic()".to_owned(), Some(0)), ("send(jsonb, text, text, boolean)".to_owned(), None)];
    let messages = survey.messages.as_mut().unwrap();
    messages.columns.pop();
    (messages.has_check, messages.has_index, messages.row_security) = (false, false, false);
    let (steps, notes) = what(&survey, false);
    assert_eq!(
        steps,
        [
            "Add column binary_payload to realtime.messages",
            "Add constraint messages_payload_exclusive",
            "Create index messages_inserted_at_topic_index",
            "Replace function realtime.topic()",
            "Create function realtime.send_binary(bytea, text, text, boolean)",
            "Create function realtime.broadcast_changes(text, text, text, text, text, record, record, text)",
        ]
    );
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].starts_with("Row-level security is off") && notes[1].contains("somebody else"),
        "{notes:?}"
    );
    // What a newer version made stays.
    survey.functions = FUNCTIONS.map(|(name, _)| (name.to_owned(), Some(FUNCTIONS_VERSION + 1))).to_vec();
    assert!(!what(&survey, false).0.iter().any(|what| what.contains("function")));
}

#[test]
fn rights_are_given_once_or_by_hand() {
    let mut survey = complete();
    survey.clients[0].known = false;
    assert_eq!(what(&survey, false).0, Vec::<String>::new());
    assert_eq!(what(&survey, true).0, ["Grant anon the use of schema realtime and of its messages"]);
}

/// Whatever is wrong with a schema of the original, only partitions and the publication are touched.
#[test]
fn what_the_original_made_is_not_changed() {
    for migrations in [None, Some(3), Some(81), Some(99)] {
        let mut survey =
            Survey { origin: Origin::Supabase(migrations), publication: State::Wrong, ..complete() };
        survey.functions.clear();
        survey.messages.as_mut().unwrap().has_index = false;
        let (steps, notes) = what(&survey, true);
        assert_eq!(steps, [format!("Replace publication {}", publication::NAME)]);
        assert_eq!(notes.len(), 4, "{notes:?}");
        survey.messages.as_mut().unwrap().partitioned = false;
        assert_eq!(plan(&survey, now(), true).steps, []);
        survey.messages = None;
        assert_eq!(plan(&survey, now(), true).steps, []);
    }
}

#[test]
fn what_is_missing_around_is_told() {
    let mut survey = plain();
    survey.clients.remove(0);
    survey.clients[0].can_become = false;
    (survey.replication, survey.wal_level) = (false, "replica".to_owned());
    let (_, notes) = what(&survey, false);
    assert_eq!(
        notes,
        [
            "Role anon does not exist: tokens of that role cannot use private topics",
            "Role app may not take on role authenticated, whose private topics cannot be used: grant authenticated to app",
            "wal_level is replica, not logical: nothing can be broadcast from the database",
            "Role app has no REPLICATION: nothing can be broadcast from the database",
        ]
    );
}
