use super::*;

fn seen() -> Seen {
    Seen {
        token: TokenSeen { role: "authenticated".to_owned(), ..TokenSeen::default() },
        schema: "public".to_owned(),
        table: "todos".to_owned(),
        event: "*".to_owned(),
        publication: "supabase_realtime".to_owned(),
        wal_level: Some("logical".to_owned()),
        server_role: Some("realtime".to_owned()),
        role_exists: true,
        role_is_served: true,
        published: Published::Yes,
        grant: Grant {
            usage: true,
            columns: vec!["id".to_owned(), "owner".to_owned()],
            hidden: Vec::new(),
            key: vec!["id".to_owned()],
        },
        filters: Ok(vec![FilterSeen { text: "id=eq.1".to_owned(), holds: Holds::Yes, of_deleted: true }]),
        secured: true,
        bypasses: false,
        row: RowSeen::Seen,
        policies: vec![policy(true, Holds::Yes)],
        identity: vec!["id".to_owned()],
    }
}

fn policy(permissive: bool, holds: Holds) -> PolicySeen {
    PolicySeen { name: "own".to_owned(), using: None, permissive, holds, asked: None }
}

#[test]
fn a_row_that_is_sent_passes_every_step() {
    let told = explain(&seen());
    assert_eq!(told.sent, Outcome::Yes, "{told:#?}");
    let steps: Vec<&str> = told.steps.iter().map(|step| step.step).collect();
    assert_eq!(
        steps,
        ["token", "published", "granted", "filter", "row", "policy", "policies", "sent", "deleted"]
    );
}

#[test]
fn each_reason_is_named() {
    #[expect(clippy::type_complexity, reason = "said once")]
    let cases: Vec<(&str, &str, fn(&mut Seen))> = vec![
        ("token", "The token is refused: it has expired", |seen| {
            seen.token.refused = Some("it has expired".to_owned());
        }),
        ("log", "wal_level is replica", |seen| seen.wal_level = Some("replica".to_owned())),
        ("role", "no role authenticated", |seen| seen.role_exists = false),
        ("role", "may not take on role authenticated", |seen| seen.role_is_served = false),
        ("published", "is not published", |seen| seen.published = Published::No),
        ("published", "There is no table public.todos", |seen| seen.published = Published::NoTable),
        ("published", "leaves out", |seen| seen.published = Published::WithoutEvent),
        ("granted", "no USAGE on schema public", |seen| seen.grant.usage = false),
        ("granted", "may not SELECT", |seen| seen.grant.columns.clear()),
        ("key", "no primary key", |seen| seen.grant.key.clear()),
        ("filter", "refused: no such column", |seen| seen.filters = Err("no such column".to_owned())),
        ("filter", "id=eq.1 is false", |seen| {
            seen.filters.as_mut().unwrap()[0].holds = Holds::No;
        }),
        ("row", "There is no such row", |seen| seen.row = RowSeen::Missing),
        ("policies", "no policy shows role authenticated a row", |seen| seen.policies.clear()),
        ("policies", "No policy shows the row to this token", |seen| {
            seen.row = RowSeen::Hidden;
            seen.policies = vec![policy(true, Holds::No)];
        }),
        ("policies", "raises an error", |seen| {
            seen.row = RowSeen::Hidden;
            seen.policies = vec![policy(true, Holds::Raises("22012".to_owned()))];
        }),
        ("policies", "restrictive policy own hides", |seen| {
            seen.row = RowSeen::Hidden;
            seen.policies = vec![policy(true, Holds::Yes), policy(false, Holds::Null)];
        }),
    ];
    for (step, text, change) in cases {
        let mut seen = seen();
        change(&mut seen);
        let told = explain(&seen);
        assert_eq!(told.sent, Outcome::No, "{step}: {told:#?}");
        let refused: Vec<&Explained> = told.steps.iter().filter(|step| step.outcome == Outcome::No).collect();
        assert!(refused[0].step == step && refused[0].text.contains(text), "{step} {text}: {refused:#?}");
    }
}

#[test]
fn clients_are_not_told_what_they_may_not_know() {
    let mut seen = seen();
    seen.server_role = None;
    seen.published = Published::No;
    assert!(explain(&seen).answer.contains("is not published, or does not exist"));
    seen.published = Published::Yes;
    seen.row = RowSeen::NoneSeen;
    seen.policies = vec![policy(true, Holds::Open)];
    let told = explain(&seen);
    assert!(told.answer.contains("there is none, or policies hide it"), "{told:#?}");
}
