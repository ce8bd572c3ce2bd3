//! Puts questions: shared, bounded, measured.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use realtime_metrics::Histogram;
use tokio::time::Instant;

use super::{
    AuthorizeError, AuthorizeRequest, ReadVerdict, WriteVerdict,
    flight::{Flights, Seat},
    policy_pool::PolicyPool,
    probe,
};
use crate::{DatabaseConfig, PolicyStats, Stats, foreign::Guest};

/// Distinct questions of a kind that may wait for a connection; beyond it they are refused at once.
const MAX_WAITING: usize = 4096;

type Answer<V> = Result<V, AuthorizeError>;

/// Asks the policies of one database.
pub(crate) struct Authorizer {
    pool: Arc<PolicyPool>,
    reads: Flights<AuthorizeRequest, Answer<ReadVerdict>>,
    writes: Flights<AuthorizeRequest, Answer<WriteVerdict>>,
    stats: Arc<Stats>,
    /// How long the statements of a question may take.
    limit: Duration,
}

impl Authorizer {
    pub(crate) fn new(config: &DatabaseConfig, pool: Arc<PolicyPool>, stats: Arc<Stats>) -> Self {
        let limit = config.statement_timeout;
        Self { pool, reads: Flights::default(), writes: Flights::default(), stats, limit }
    }

    /// What may be read.
    pub(crate) async fn read(&self, request: &AuthorizeRequest) -> Answer<ReadVerdict> {
        let statements = probe::READ_STATEMENTS;
        let ask = async |client: &Guest| probe::read(client, request, SystemTime::now()).await;
        self.ask(request, &self.reads, statements, &self.stats.policies.read, ask).await
    }

    /// What may be written.
    pub(crate) async fn write(&self, request: &AuthorizeRequest) -> Answer<WriteVerdict> {
        let statements = probe::write_statements(request.presence);
        let ask = async |client: &Guest| probe::write(client, request, SystemTime::now()).await;
        self.ask(request, &self.writes, statements, &self.stats.policies.write, ask).await
    }

    async fn ask<V: Clone>(
        &self,
        request: &AuthorizeRequest,
        flights: &Flights<AuthorizeRequest, Answer<V>>,
        statements: u64,
        latency: &Histogram,
        ask: impl AsyncFnOnce(&Guest) -> Answer<V>,
    ) -> Answer<V> {
        let stats = &self.stats.policies;
        PolicyStats::count(&stats.asked, 1);
        let put = async |seat: &Seat<'_, _, _>| {
            let client = Guest::of(self.pool.get().await?, self.limit, Some(self.pool.tenant()));
            seat.depart();
            PolicyStats::count(&stats.probes, 1);
            PolicyStats::count(&stats.statements, statements);
            let start = Instant::now();
            let answer = client.answer(ask).await;
            latency.record_time(start.elapsed());
            answer?
        };
        let answer = match self.pool.gate() {
            Ok(()) if flights.len() >= MAX_WAITING => Err(self.pool.crowded()),
            Ok(()) => flights.ask(request, put).await,
            Err(error) => Err(error),
        };
        if answer.as_ref().err() == Some(&AuthorizeError::IncreaseConnectionPool) {
            PolicyStats::count(&stats.crowded, 1);
        }
        answer
    }
}
