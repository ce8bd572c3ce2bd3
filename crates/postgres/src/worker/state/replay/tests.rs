//! Slices, on a state without a database: nothing here has to be asked.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use realtime_changes::{
    Attachment, Column, Comparison, Delivery, Party, RoleAccess, Since, SubscriptionSpec, Table, plan,
};
use realtime_journal::Past;
use realtime_pgoutput::{
    Lsn, Oid, Position,
    message::{Relation, RelationColumn, ReplicaIdentity, UnixMicros, Value},
    oid,
};
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    Generations,
    worker::state::{lane::LaneRow, transaction::place, *},
};

const OID: Oid = 16_384;

/// Who was there all the time, and who has come back.
const THERE: ChannelId = ChannelId(1);
const BACK: ChannelId = ChannelId(2);

/// What the sink was given, one recipient at a time, and what channels were told.
#[derive(Debug, PartialEq)]
enum Told {
    Live(ChannelId, u64),
    Missed(ChannelId, u64),
    CaughtUp(ChannelId),
}

#[derive(Default)]
struct Seen(Mutex<Vec<Told>>);

impl Seen {
    fn take(&self, delivery: &Delivery, told: impl Fn(ChannelId, u64) -> Told) {
        let data: Json = serde_json::from_slice(&delivery.data).unwrap();
        let id = data["record"]["id"].as_u64().unwrap();
        self.0.lock().extend(delivery.recipients.iter().map(|to| told(to.channel, id)));
    }
}

impl ChangeSink for Seen {
    fn deliver(&self, delivery: Delivery) {
        self.take(&delivery, Told::Live);
    }

    fn deliver_missed(&self, deliveries: Vec<Delivery>) {
        deliveries.iter().for_each(|delivery| self.take(delivery, Told::Missed));
    }

    fn notice(&self, channel: ChannelId, notice: Notice) {
        assert_eq!(notice, Notice::CaughtUp, "{channel:?}");
        self.0.lock().push(Told::CaughtUp(channel));
    }
}

fn table() -> Arc<Table> {
    let id = Column {
        name: "id".into(),
        type_oid: oid::INT8,
        base_oid: oid::INT8,
        type_name: "int8".into(),
        sql_type: "bigint".into(),
        cast_type: "pg_catalog.int8".into(),
        comparison: Comparison::built_in("int8"),
        in_log: true,
    };
    Arc::new(Table {
        oid: OID,
        schema: "public".into(),
        name: "t".into(),
        columns: vec![id],
        primary_key: vec![0],
        row_security: false,
        plain: true,
        partitioned: false,
        replica_identity: ReplicaIdentity::Default,
    })
}

fn relation() -> Arc<Relation> {
    let id = RelationColumn { identity: true, name: "id".into(), type_oid: oid::INT8, type_modifier: -1 };
    let (schema, name) = ("public".into(), "t".into());
    let replica_identity = ReplicaIdentity::Default;
    Arc::new(Relation { oid: OID, schema, name, replica_identity, columns: vec![id] })
}

/// An insert as the walsender sends it.
fn insert(id: u64) -> Bytes {
    let text = id.to_string();
    let mut bytes = vec![b'I'];
    bytes.extend(OID.to_be_bytes());
    bytes.extend(*b"N\0\x01t");
    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend(text.bytes());
    bytes.into()
}

fn claims(channel: ChannelId) -> Arc<str> {
    format!("{{\"sub\":\"{}\"}}", channel.0).into()
}

/// The transaction of row `id`: it ends at ten times that place, and that many seconds after the epoch.
fn transaction(id: u64) -> Transaction {
    let time = UnixMicros(i64::try_from(id).unwrap() * 1_000_000);
    let mut transaction = Transaction::new(1, Lsn(id * 10), time);
    transaction.position.1 = 1;
    transaction
}

/// A state that both channels are watched by: rows 1 and 2 are in the journal, in transactions of their own, and the one
/// that has come back has neither.
struct Scene {
    state: State,
    seen: Arc<Seen>,
    keys: HashMap<ChannelId, SubscriptionKey>,
}

impl Scene {
    fn new() -> Self {
        let config = DatabaseConfig::default();
        let seen = Arc::new(Seen::default());
        let sink: Arc<dyn ChangeSink> = Arc::<Seen>::clone(&seen);
        let pool = pool::make(&config).unwrap();
        let mut state = State::new(pool, sink, Arc::default(), &config, Arc::default());
        let (table, relation) = (table(), relation());
        state.engine.put_table_with_places(Arc::clone(&table), &relation, [Some(0)].into());
        let known = Known {
            relation: Arc::clone(&relation),
            table: Some(Arc::clone(&table)),
            logged: [1].into(),
            key: [1].into(),
            access: HashMap::new(),
            fingerprint: None,
            counters: Arc::default(),
            is_attached: true,
        };
        state.known.insert(OID, known);
        state.keep_version(&relation, Some(&table), Some(&[Some(0)]), &[1], &[1]);
        state.history.journal.begin(Lsn(5), Past::Until(UnixMicros(0)));
        let mut scene = Self { state, seen, keys: HashMap::new() };
        for id in [1, 2] {
            scene.keep(id);
        }
        scene.watch(THERE);
        scene.watch(BACK);
        let begin = Position { commit: Lsn(5), number: 0 };
        scene.state.history.returning.enter(BACK, vec![(1, begin)]);
        // Nobody else comes.
        scene.state.history.returning.pause_until = None;
        scene
    }

    /// Row `id` passes and is kept.
    fn keep(&mut self, id: u64) {
        let transaction = transaction(id);
        let version = self.state.history.versions.get(&OID).cloned();
        let (xid, commit_time) = (transaction.xid, transaction.commit_time);
        let item = Item { version, xid, commit_time, bytes: insert(id), skipped: 0 };
        let position = place(transaction.position);
        self.state.history.journal.push(position, commit_time, Duration::ZERO, 10, item);
        self.state.has_read(Lsn(id * 10 + 5));
    }

    fn watch(&mut self, channel: ChannelId) {
        let spec = json!({"event": "*", "schema": "public", "table": "t"});
        let spec = Arc::new(SubscriptionSpec::parse(spec.as_object().unwrap()).unwrap());
        let access =
            Arc::new(RoleAccess { role: "anon".into(), bypasses_rls: false, selectable: vec![true] });
        let attachment = Attachment {
            channel,
            id: 1,
            event: spec.event,
            predicate: plan(&spec, &table(), &access).unwrap().compile(&[], true),
            access,
            claims: claims(channel),
            select: None,
        };
        let key = self.state.engine.attach(OID, attachment).unwrap();
        let request = SubscribeRequest {
            channel,
            role: "anon".into(),
            claims: claims(channel),
            subscriptions: vec![(1, spec)],
            generation: Generations::default().next(),
        };
        let watcher = Watcher {
            request: Arc::new(request),
            attached: vec![(OID, key)],
            tables: vec![OID],
            refused: HashMap::new(),
            ended: HashMap::new(),
        };
        self.state.watchers.insert(channel, watcher);
        self.keys.insert(channel, key);
    }

    /// Row `id` as it waits to be checked, for who was there.
    fn waiting(&self, id: u64) -> Waiting {
        let transaction = transaction(id);
        let mut waiting = Waiting {
            action: Action::Insert,
            relation: relation(),
            new: Some(vec![Value::Text(id.to_string().into())]),
            old: None,
            commit_time: transaction.commit_time,
            xid: transaction.xid,
            position: transaction.position,
            place: None,
            matched: Match::default(),
            is_late: false,
            is_missed: false,
        };
        let key = self.keys[&THERE];
        waiting.matched = self.state.engine.match_one(&waiting.change(), key, UnixMicros(0));
        waiting
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut self.seen.0.lock())
    }
}

/// A row that has left a lane waits behind others when a slice begins: it is no part of the slice, and goes before it.
#[tokio::test]
async fn live_rows_that_wait_go_before_a_slice() {
    let mut scene = Scene::new();
    let waiting = scene.waiting(9).again();
    let matched = scene.waiting(9).matched;
    scene.state.waiting.push(Waiting { matched, ..waiting });
    scene.state.replay().await;
    assert_eq!(
        scene.told(),
        [Told::Live(THERE, 9), Told::Missed(BACK, 1), Told::Missed(BACK, 2), Told::CaughtUp(BACK)]
    );
}

/// A row that waits for others of its kind is in the journal already: who comes back meanwhile gets it once, and so does
/// who was there.
#[tokio::test]
async fn rows_that_await_company_come_once() {
    let mut scene = Scene::new();
    let (new, transaction) = (scene.waiting(2).new, transaction(2));
    let row = Unjudged { action: Action::Insert, oid: OID, new, old: None, transaction };
    scene.state.unjudged.push(row);
    scene.state.awaits_company = true;
    scene.state.replay().await;
    scene.state.flush().await;
    assert_eq!(
        scene.told(),
        [Told::Live(THERE, 2), Told::Missed(BACK, 1), Told::Missed(BACK, 2), Told::CaughtUp(BACK)]
    );
}

/// A lane goes on behind a slice. What its channel is told behind its rows comes behind them.
#[tokio::test]
async fn lanes_go_on_behind_a_slice() {
    let mut scene = Scene::new();
    let waiting = scene.waiting(9);
    let state = &mut scene.state;
    let party = Party { role: "anon".into(), claims: claims(THERE) };
    let id = state.engine.party_id(OID, &party).unwrap();
    let party = Arc::clone(state.engine.party(OID, id).unwrap());
    let kept = state.aside.keep(&waiting).unwrap();
    let for_whom = state.aside.for_whom(OID, vec![scene.keys[&THERE]]);
    state.beside.push(&party, LaneRow::new(kept, for_whom, false));
    state.tell_in_order(THERE, What::CaughtUp(Position::default()));
    assert_eq!(*scene.seen.0.lock(), [], "it is told behind the row");
    scene.state.replay().await;
    assert_eq!(
        scene.told(),
        [
            Told::Missed(BACK, 1),
            Told::Missed(BACK, 2),
            Told::Live(THERE, 9),
            Told::CaughtUp(THERE),
            Told::CaughtUp(BACK)
        ]
    );
}

/// Where each slice has time for one change only, and another one comes before the next: they catch up all the same.
#[test]
fn a_pass_ends_however_slow_its_slices_are() {
    let is_late = true;
    assert_eq!(is_enough(false, is_late, LAST + 1), Some(false));
    assert_eq!([LAST, 1].map(|left| is_enough(false, is_late, left)), [None, None]);
    assert_eq!([false, true].map(|is_full| is_enough(is_full, is_late, 0)), [Some(true), Some(true)]);
    assert_eq!(is_enough(true, false, 1), Some(false), "receivers have no room for more");
    assert_eq!(is_enough(false, false, 1_000), None);
}

/// The work is given up in the middle of a slice, before anything of it was handed over: it is read once more.
#[tokio::test]
async fn a_slice_that_was_given_up_is_read_once_more() {
    let mut scene = Scene::new();
    let history = &mut scene.state.history;
    history.returning.begin(FxHashSet::default());
    history.returning.pass.as_mut().unwrap().at = Position { commit: Lsn(20), number: 1 };
    history.slice = Some(Slice::default());
    let waiting = scene.waiting(2);
    scene.state.waiting.push(Waiting { is_late: true, is_missed: true, ..waiting });
    scene.state.replay().await;
    assert_eq!(scene.told(), [Told::Missed(BACK, 1), Told::Missed(BACK, 2), Told::CaughtUp(BACK)]);
}

/// Who was further than the log when it came gets nothing of before its place once more, however slowly the log comes.
#[tokio::test]
async fn what_comes_up_to_a_place_ahead_does_not_come_again() {
    let mut scene = Scene::new();
    let since = Since::parse("1970-01-01T00:00:04Z").unwrap();
    let returning = &mut scene.state.history.returning;
    let name = (BACK, 1);
    returning.cursors.insert(name, Position { commit: Lsn(20), number: 1 });
    returning.ahead.insert(name, since);
    returning.ends.insert(name, (Lsn(41), Instant::now() + Duration::from_secs(30)));
    for id in [3, 4] {
        scene.state.history.returning.pause_until = None;
        scene.state.replay().await;
        assert_eq!(scene.told(), [], "the log has not come to where it ended");
        scene.keep(id);
    }
    scene.state.history.returning.pause_until = None;
    scene.state.replay().await;
    assert_eq!(scene.told(), [Told::Missed(BACK, 4), Told::CaughtUp(BACK)]);
}

/// A session begins with nothing of before it. Another one goes on with it, and begins earlier, because others had not come so
/// far: what it brings of before the first does not come behind what was handed over.
#[tokio::test]
async fn what_was_before_a_session_does_not_come_with_the_next() {
    let mut scene = Scene::new();
    scene.state.start(false, Lsn(15));
    scene.state.start(true, Lsn(5));
    for id in [1, 2] {
        let (new, Transaction { xid, commit_time, position }) = (scene.waiting(id).new, transaction(id));
        scene.state.begin(xid, position.0, commit_time);
        scene.state.change(Action::Insert, OID, new, None).await;
        scene.state.commit();
    }
    assert_eq!(scene.told(), [Told::Live(THERE, 2)]);
}
