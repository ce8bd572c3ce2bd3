//! The connections and questions of private topics.

use std::sync::Arc;

use crate::{
    DatabaseConfig, Stats,
    authorize::{Authorizer, PolicyPool},
};

/// The parts of a tenant's database that private topics need.
pub(crate) struct Private {
    pub(crate) pool: Arc<PolicyPool>,
    pub(crate) authorizer: Authorizer,
}

impl Private {
    pub(crate) fn new(config: &DatabaseConfig, stats: &Arc<Stats>) -> Self {
        let pool = Arc::new(PolicyPool::new(config));
        let authorizer = Authorizer::new(config, Arc::clone(&pool), Arc::clone(stats));
        Self { pool, authorizer }
    }

    /// Ends the connections.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}
