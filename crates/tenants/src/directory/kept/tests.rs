use jiff::civil::date;
use serde_json::Map;
use uuid::Uuid;

use super::*;

const EXPIRY: Duration = Duration::from_secs(30);

fn record(name: &str, users: i32) -> Arc<TenantRecord> {
    let day = date(2026, 1, 1).at(0, 0, 0, 0);
    Arc::new(TenantRecord {
        id: Uuid::nil(),
        external_id: name.to_owned(),
        name: None,
        jwt_secret: None,
        jwt_jwks: None,
        postgres_cdc_default: None,
        max_concurrent_users: users,
        max_events_per_second: 1,
        max_bytes_per_second: 1,
        max_channels_per_client: 1,
        max_joins_per_second: 1,
        max_presence_events_per_second: None,
        max_payload_size_in_kb: None,
        max_client_presence_events_per_window: None,
        client_presence_window_ms: None,
        broadcast_history_seconds: None,
        broadcast_history_messages: None,
        suspend: false,
        notify_private_alpha: false,
        private_only: false,
        presence_enabled: false,
        migrations_ran: None,
        broadcast_adapter: None,
        feature_flags: Map::new(),
        gcm_migrated_at: None,
        inserted_at: day,
        updated_at: day,
        extensions: Vec::new(),
    })
}

fn at(begin: Instant, seconds: u64) -> Instant {
    begin + Duration::from_secs(seconds)
}

#[test]
fn tenants_expire_and_are_confirmed() {
    let begin = Instant::now();
    let mut memory = Memory::new(EXPIRY, begin);
    assert!(matches!(memory.look_up("a", begin), Known::Unknown));
    assert_eq!(memory.put(&record("a", 1), None, begin), Ok(None));
    assert!(matches!(memory.look_up("a", at(begin, 29)), Known::Fresh(None)));
    assert!(matches!(memory.look_up("a", at(begin, 30)), Known::Stale(None, EXPIRY)));
    assert!(memory.confirm(&record("a", 1), at(begin, 30)).is_some());
    assert!(matches!(memory.look_up("a", at(begin, 59)), Known::Fresh(_)));
    assert!(memory.confirm(&record("a", 2), at(begin, 60)).is_none());
    assert_eq!(memory.put(&record("a", 2), None, at(begin, 60)), Ok(Some(record("a", 1))));
}

#[test]
fn later_questions_win() {
    let begin = Instant::now();
    let mut memory = Memory::new(EXPIRY, begin);
    memory.put(&record("a", 2), None, at(begin, 2)).unwrap();
    assert_eq!(memory.put(&record("a", 1), None, at(begin, 1)), Err(Outdated));
    assert_eq!(memory.remove("a", at(begin, 1)), Err(Outdated));
    assert_eq!(memory.remove("a", at(begin, 3)), Ok(Some(record("a", 2))));
    // An answer from before the removal does not bring it back; one from after does.
    assert_eq!(memory.put(&record("a", 2), None, at(begin, 2)), Err(Outdated));
    assert_eq!(memory.remove("a", at(begin, 4)), Ok(None));
    assert_eq!(memory.put(&record("a", 3), None, at(begin, 5)), Ok(None));
}

#[test]
fn nobodies_expire_and_are_few() {
    let begin = Instant::now();
    let mut memory = Memory::new(EXPIRY, begin);
    memory.put_nobody("x", begin);
    assert!(matches!(memory.look_up("x", at(begin, 29)), Known::Nobody));
    assert!(matches!(memory.look_up("x", at(begin, 30)), Known::WasNobody));
    memory.put_nobody("x", at(begin, 30));
    assert!(matches!(memory.look_up("x", at(begin, 59)), Known::Nobody));
    memory.forget_nobody("x");
    assert!(matches!(memory.look_up("x", begin), Known::Unknown));
    // A flood of names does not wash away one that is asked for time and again.
    memory.put_nobody("x", begin);
    for number in 0..3 * NOBODIES {
        memory.put_nobody(&number.to_string(), begin);
        assert!(matches!(memory.look_up("x", begin), Known::Nobody), "{number}");
    }
    assert!(memory.nobodies.len() <= NOBODIES);
}

#[test]
fn unwanted_tenants_are_forgotten() {
    let begin = Instant::now();
    let mut memory = Memory::new(EXPIRY, begin);
    memory.put(&record("a", 1), None, begin).unwrap();
    memory.put(&record("b", 1), None, begin).unwrap();
    memory.look_up("b", at(begin, 50));
    assert_eq!(memory.sweep(Duration::from_secs(100), at(begin, 99)).len(), 2);
    // Being confirmed is not being wanted.
    memory.confirm(&record("a", 1), at(begin, 99));
    assert_eq!(memory.sweep(Duration::from_secs(100), at(begin, 101)), [Box::from("b")]);
}
