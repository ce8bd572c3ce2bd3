//! Reads the rows of a database's log that one receiver of its operator wants: whole rows, by a filter, as clients are sent
//! them. Row-level security decides nothing here.
//!
//! [`LogReader`] reads. Rows are matched and rendered by the engine that does so for clients; what it does not know of a
//! table is asked when the walsender describes the table, before the next message is read.

mod sink;
mod table;

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use realtime_changes::{Action, Change, Engine, EventFilter, Question, SubscriptionSpec};
use realtime_pgoutput::{
    Lsn, Oid, Position, TypeRegistry,
    message::{Message, OldTuple, Relation, Tuple, UnixMicros},
};
pub use sink::{LostRow, RowSink, TakenRow};
use table::{Catalog, Known};
use tokio::time;
use tokio_postgres::error::SqlState;

use crate::{
    ConnectError, DatabaseConfig, LogReader, LogReaderConfig, LogSink, Stats, Taken, foreign::NoAnswer, pool,
    questions,
};

/// Pause before the database is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often a question about a row is asked again that takes too long.
const PATIENT: u32 = 4;

/// What the connections for questions are called in `pg_stat_activity`.
const APPLICATION_NAME: &str = "realtime_row_reader";

/// What is read.
#[derive(Debug, Clone)]
pub struct RowReaderConfig {
    /// The database; its slot, whether that is permanent, and the lock that is held while it is read.
    pub database: DatabaseConfig,
    /// Which rows.
    pub spec: SubscriptionSpec,
}

/// A reader of wanted rows. It goes on until it is shut down.
#[derive(Debug)]
pub struct RowReader(LogReader);

impl RowReader {
    /// Starts reading. Call it within a runtime.
    ///
    /// # Errors
    /// [`ConnectError`] for settings that no connection can be made with.
    pub fn start(config: RowReaderConfig, sink: impl RowSink) -> Result<Self, ConnectError> {
        let RowReaderConfig { database, spec } = config;
        let pool =
            pool::make_named(&database, APPLICATION_NAME, 1, database.connect_timeout, pool::Use::Reading)?;
        let publication = database.publication.clone();
        let rows = Rows {
            pool,
            spec,
            sink,
            engine: Engine::default(),
            types: TypeRegistry::default(),
            tables: HashMap::new(),
            transaction: None,
            pending: None,
            publication: publication.clone(),
        };
        let config =
            LogReaderConfig { database, publications: vec![publication], resume_delay: Duration::ZERO };
        Ok(Self(LogReader::start(config, rows)))
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.0.stats()
    }

    /// Ends the reading; what was handed over is confirmed.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

/// The transaction that is being read.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    xid: u32,
    commit_time: UnixMicros,
    position: Position,
}

/// A row change that was read.
#[derive(Debug)]
struct RowChange {
    action: Action,
    new: Option<Tuple>,
    old: Option<OldTuple>,
    position: Position,
    commit_time: UnixMicros,
}

impl RowChange {
    fn change<'a>(&'a self, relation: &'a Relation) -> Change<'a> {
        let Self { action, new, old, commit_time, .. } = self;
        Change { action: *action, relation, new: new.as_ref(), old: old.as_ref(), commit_time: *commit_time }
    }
}

/// Whether an action is of the events that are wanted.
const fn is_wanted(action: Action, event: EventFilter) -> bool {
    matches!(
        (action, event),
        (_, EventFilter::All)
            | (Action::Insert, EventFilter::Insert)
            | (Action::Update, EventFilter::Update)
            | (Action::Delete, EventFilter::Delete)
    )
}

/// What has to be asked before the next message is read.
#[derive(Debug)]
enum Pending {
    /// A table was described.
    Table(Arc<Relation>, Option<u32>),
    /// Whether a row is wanted.
    Row(Oid, RowChange, Vec<Question>),
}

/// State of the reader's task.
struct Rows<S> {
    pool: Pool,
    publication: String,
    spec: SubscriptionSpec,
    sink: S,
    engine: Engine,
    types: TypeRegistry,
    /// The tables whose rows may be wanted, as the walsender described them last.
    tables: HashMap<Oid, Known>,
    transaction: Option<Transaction>,
    pending: Option<Pending>,
}

impl<S: RowSink> LogSink for Rows<S> {
    fn session_begins(&mut self) {
        self.engine.clear();
        self.tables.clear();
        self.types = TypeRegistry::default();
        (self.transaction, self.pending) = (None, None);
    }

    fn begins(&mut self, start: Lsn, resumed: bool) {
        self.sink.begins(start, resumed);
    }

    fn waits(&mut self, code: &'static str) {
        self.sink.waits(code);
    }

    fn confirmed(&mut self, position: Lsn) {
        self.sink.confirmed(position);
    }

    fn message(&mut self, message: &Message, again: bool) {
        match message {
            Message::Begin { final_lsn, commit_time, xid } => {
                let position = Position { commit: *final_lsn, number: 0 };
                self.transaction = Some(Transaction { xid: *xid, commit_time: *commit_time, position });
                self.sink.transaction(*final_lsn);
            }
            Message::Relation { relation, .. } => self.describe(relation),
            Message::Insert { relation, new, .. } => {
                self.change(*relation, Action::Insert, Some(new), None, again);
            }
            Message::Update { relation, old, new, .. } => {
                self.change(*relation, Action::Update, Some(new), old.as_ref(), again);
            }
            Message::Delete { relation, old, .. } => {
                self.change(*relation, Action::Delete, None, Some(old), again);
            }
            Message::Truncate { relations, .. } => self.truncate(relations, again),
            _ => {}
        }
    }

    fn committed(&mut self, _end: Lsn) -> Taken {
        self.transaction = None;
        self.sink.committed().into()
    }

    fn relieve(&mut self) -> Option<BoxFuture<'_, ()>> {
        if self.pending.is_none() {
            return self.sink.relieve();
        }
        Some(Box::pin(async {
            self.settle().await;
            if let Some(relief) = self.sink.relieve() {
                relief.await;
            }
        }))
    }
}

impl<S: RowSink> Rows<S> {
    fn describe(&mut self, relation: &Arc<Relation>) {
        self.engine.forget_table(relation.oid);
        self.tables.remove(&relation.oid);
        if self.spec.matches_name(&relation.schema, &relation.name) {
            let xid = self.transaction.map(|transaction| transaction.xid);
            self.pending = Some(Pending::Table(Arc::clone(relation), xid));
        }
    }

    /// The place of the next change.
    fn next(&mut self) -> Option<Transaction> {
        let transaction = self.transaction.as_mut()?;
        transaction.position.number += 1;
        Some(*transaction)
    }

    fn truncate(&mut self, relations: &[Oid], again: bool) {
        let Some(Transaction { position, .. }) = self.next() else { return };
        let is_wanted = matches!(self.spec.event, EventFilter::All | EventFilter::Delete);
        if !again && is_wanted && relations.iter().any(|oid| self.tables.contains_key(oid)) {
            self.sink.lost(position, LostRow::Truncated);
        }
    }

    /// Takes a row change. `again`: it was taken before.
    fn change(&mut self, oid: Oid, action: Action, new: Option<&Tuple>, old: Option<&OldTuple>, again: bool) {
        let Some(Transaction { position, commit_time, .. }) = self.next() else { return };
        let Some(known) = self.tables.get(&oid).filter(|_| !again) else { return };
        let Some(relation) = known.relation() else {
            if is_wanted(action, self.spec.event) {
                self.sink.lost(position, known.why_lost());
            }
            return;
        };
        let change = Change { action, relation, new, old, commit_time };
        let mut matched = self.engine.match_row(&change, commit_time);
        let asked = std::mem::take(&mut matched.asked);
        if let Some(delivery) = matched.render(&change, &[], &[], &self.types).into_iter().next() {
            let (key, old_key) = known.keys(&change);
            self.sink.row(TakenRow { position, data: delivery.data, key, old_key });
        } else if let Some(asked) = asked.into_iter().next() {
            let change = RowChange { action, new: new.cloned(), old: old.cloned(), position, commit_time };
            self.pending = Some(Pending::Row(oid, change, asked.questions));
        }
    }

    /// Asks what has to be asked, until there is an answer.
    async fn settle(&mut self) {
        while let Some(pending) = self.pending.take() {
            let outcome = match &pending {
                Pending::Table(relation, xid) => self.load(relation, *xid).await,
                Pending::Row(oid, row, questions) => self.ask(*oid, row, questions).await,
            };
            if let Err(error) = outcome {
                let table = match &pending {
                    Pending::Table(relation, _) => Some(format!("{}.{}", relation.schema, relation.name)),
                    Pending::Row(oid, ..) => {
                        self.engine.table(*oid).map(|table| format!("{}.{}", table.schema, table.name))
                    }
                };
                tracing::warn!(
                    code = "UnableToConnectToProject",
                    table,
                    error,
                    "cannot query the database; retrying"
                );
                self.pending = Some(pending);
                time::sleep(ASK_AGAIN).await;
            }
        }
    }

    /// Asks the catalog for a table and makes the engine know it. To be called again on an error.
    async fn load(&mut self, relation: &Arc<Relation>, xid: Option<u32>) -> Result<(), String> {
        let Self { pool, publication, spec, engine, types, .. } = self;
        let known = Catalog { pool, publication, spec, engine, types }.load(relation, xid).await?;
        self.tables.insert(relation.oid, known);
        Ok(())
    }

    /// Asks whether a row is wanted.
    async fn ask(&mut self, oid: Oid, row: &RowChange, questions: &[Question]) -> Result<(), String> {
        let refused = questions.iter().any(|question| question.ask.runs_code);
        let questions: Vec<&Question> = questions.iter().collect();
        let holds = if refused {
            None
        } else {
            match ask_patiently(&self.pool, &questions).await {
                Ok(answers) => Some(answers.iter().all(|holds| *holds)),
                Err(error) if questions::is_about_the_question(&error) => None,
                Err(error) => return Err(error.to_string()),
            }
        };
        match holds {
            Some(false) => {}
            None => self.sink.lost(row.position, LostRow::Filter),
            Some(true) => self.hand_over(oid, row),
        }
        Ok(())
    }

    /// Hands a row over that was found to be wanted.
    fn hand_over(&mut self, oid: Oid, row: &RowChange) {
        let Some((known, relation)) =
            self.tables.get(&oid).and_then(|known| Some((known, known.relation()?)))
        else {
            return;
        };
        let change = row.change(relation);
        let mut matched = self.engine.match_row(&change, row.commit_time);
        for asked in std::mem::take(&mut matched.asked) {
            matched.confirm(asked);
        }
        if let Some(delivery) = matched.render(&change, &[], &[], &self.types).into_iter().next() {
            let (key, old_key) = known.keys(&change);
            self.sink.row(TakenRow { position: row.position, data: delivery.data, key, old_key });
        }
    }
}

/// Asks about a row, again if the database takes long: it may be busy, and a row that is given up is lost.
async fn ask_patiently(pool: &Pool, questions: &[&Question]) -> Result<Vec<bool>, NoAnswer> {
    for _ in 0..PATIENT {
        match questions::ask(pool, None, questions).await {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => time::sleep(ASK_AGAIN).await,
            answer => return answer,
        }
    }
    questions::ask(pool, None, questions).await
}
