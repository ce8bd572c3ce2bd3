//! Tables as the walsender describes them, and what channels watch in them.

use std::{collections::HashMap, sync::Arc};

use deadpool_postgres::ClientWrapper as Client;
use realtime_changes::{Attachment, ChannelId, Plan, RoleAccess, SubscribeRefusal, Table, plan};
use realtime_pgoutput::{Oid, message::Relation};
use tokio::time;

use super::{
    State,
    bound::Bound,
    failed::{ASK_AGAIN, Failed},
    known::Known,
};
use crate::{
    Notice, SubscribeRequest, catalog,
    failpoints::{self, Point},
    pool,
    validate::Refused,
    visibility,
};

impl State {
    /// Takes a description of a table. The walsender repeats it after every alteration, grant or change of a
    /// policy. The catalog is then read again, before any row of the table passes.
    pub(in crate::worker) async fn relation(&mut self, relation: Arc<Relation>) {
        self.flush().await;
        self.describes_read(&relation);
        self.describe_messages(&relation);
        loop {
            match self.load(Arc::clone(&relation)).await {
                Ok(()) => return,
                Err(error) => {
                    let table = format!("{}.{}", relation.schema, relation.name);
                    tracing::warn!(code = "CheckOidsError", %error, table, "cannot read the catalog; retrying");
                    time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// Whether rows of a table are changes that may be watched, as far as is known.
    pub(super) fn publishes(&self, oid: Oid) -> bool {
        self.published.iter().any(|table| table.oid == oid)
    }

    /// Asks the catalog for a table and attaches everybody who watches it. To be called again on an error.
    async fn load(&mut self, relation: Arc<Relation>) -> Result<(), Failed> {
        let oid = relation.oid;
        if failpoints::reach(Point::RelationAsked).await {
            return Err(Failed::Injected);
        }
        let client = pool::get(&self.pool).await?;
        // The transaction that is being read may have altered the table.
        if let Some(transaction) = &self.transaction {
            visibility::wait_until_visible(&client, transaction.xid).await?;
        }
        // What is read along for policies is not for clients.
        if self.along.has(oid) || !self.publishes(oid) && !self.look_for(&client, &relation).await? {
            return Ok(());
        }
        if self.collation_is_c.is_none() {
            self.collation_is_c = Some(catalog::collation_is_c(&client).await?);
        }
        self.shares_plans = !catalog::has_immutable_functions(&client).await?;
        // Read before the rest: an alteration in between then shows as a difference.
        let fingerprint = catalog::fingerprints(&client, &[oid]).await?.first().map(|(_, print)| *print);
        let described = catalog::table(&client, oid, &self.publication, &mut self.types).await?;
        let (logged, key) =
            described.as_ref().map(|described| self.columns(described, &relation)).unwrap_or_default();
        let places = described.as_ref().map(|described| places(&described.attnums, &logged));
        let table = described.map(|described| Arc::new(described.table));
        self.keep_version(&relation, table.as_ref(), places.as_deref(), &logged, &key);
        catalog::load_types(&client, &mut self.types, relation.columns.iter().map(|column| column.type_oid))
            .await?;
        let secured = table.as_ref().filter(|table| table.row_security);
        let counters = secured.map(|table| self.stats.relations.of(&table.schema, &table.name));
        let known = Known {
            counters: counters.unwrap_or_default(),
            relation: Arc::clone(&relation),
            table: table.clone(),
            logged,
            key,
            access: HashMap::new(),
            fingerprint,
            is_attached: false,
        };
        if self.is_known(&client, &known).await? {
            return Ok(());
        }
        drop(client);
        self.known.insert(oid, known);
        self.self_check.void(|open| open.oid == oid);
        if let Some(table) = table {
            self.attach_all(&table, &relation, places.unwrap_or_default()).await?;
        }
        if let Some(known) = self.known.get_mut(&oid) {
            known.is_attached = true;
        }
        Ok(())
    }

    /// Whether nothing of a table is new, its policies and the rights of roles included: ANALYZE has it described anew.
    async fn is_known(&self, client: &Client, described: &Known) -> Result<bool, Failed> {
        let oid = described.relation.oid;
        let Some(known) = self.known.get(&oid).filter(|known| known.is_attached) else { return Ok(false) };
        let is_same = known.relation == described.relation
            && known.table == described.table
            && known.logged == described.logged
            && known.key == described.key
            && known.fingerprint == described.fingerprint
            && known.fingerprint.is_some();
        if !is_same {
            return Ok(false);
        }
        let pairs: Vec<(&str, Oid)> = known.access.keys().map(|role| (&**role, oid)).collect();
        let accesses = catalog::role_accesses(client, &pairs).await?;
        Ok(known.access.values().zip(&accesses).all(|(known, access)| Some(&**known) == access.as_ref()))
    }

    /// Looks whether a table is published that was not known to be: it was just added, or is of the publication of
    /// messages.
    async fn look_for(&mut self, client: &Client, relation: &Relation) -> Result<bool, Failed> {
        self.published = self.read_published(client).await?;
        self.differs = true;
        let found = self.publishes(relation.oid);
        if !found && !self.messages.contains_key(&relation.oid) && !self.along.has(relation.oid) {
            let (schema, table) = (&relation.schema, &relation.name);
            tracing::warn!(
                code = "UnexpectedMessageReceived",
                "Unexpected relation on schema '{schema}' and table '{table}'"
            );
        }
        Ok(found)
    }

    /// Attaches all channels that watch a table, after the table was read again.
    pub(super) async fn attach_all(
        &mut self,
        table: &Arc<Table>,
        relation: &Relation,
        places: Box<[Option<usize>]>,
    ) -> Result<(), Failed> {
        let oid = table.oid;
        self.clear_lanes(Some(oid));
        self.engine.put_table_with_places(Arc::clone(table), relation, places);
        let mut concerned = Vec::new();
        for (channel, watcher) in &mut self.watchers {
            watcher.attached.retain(|(attached, _)| *attached != oid);
            if watcher.request.names(&table.schema, &table.name) {
                concerned.push((*channel, Arc::clone(&watcher.request)));
            }
        }
        for (channel, request) in concerned {
            let bound = self.bind(oid, &request).await?;
            self.attach(channel, oid, bound);
        }
        Ok(())
    }

    /// The numbers of the columns that a relation describes, and of the table's primary key. The catalog may be newer than
    /// the relation: then what was known of the relation before is still right.
    fn columns(&self, described: &catalog::Described, relation: &Relation) -> (Box<[i16]>, Box<[i16]>) {
        let catalog::Described { table, attnums } = described;
        let mut logged = visibility::logged(table, attnums, relation);
        if logged.is_empty()
            && let Some(known) = self.known.get(&relation.oid)
            && *known.relation == *relation
        {
            logged.clone_from(&known.logged);
        }
        let key = table.primary_key.iter().filter_map(|at| attnums.get(*at).copied()).collect();
        (logged, key)
    }

    /// What a channel watches in a table. A subscription that the table no longer allows is left out, and the
    /// channel is told.
    pub(super) async fn bind(&mut self, oid: Oid, request: &SubscribeRequest) -> Result<Bound, Failed> {
        let mut bound = Bound::default();
        let Some(table) = self.known.get(&oid).and_then(|known| known.table.clone()) else {
            return Ok(bound);
        };
        // A role or a table that is gone shows nothing. This is asked once.
        let Some(access) = self.access(oid, &request.role).await? else { return Ok(bound) };
        for (id, spec) in &request.subscriptions {
            if !spec.matches_name(&table.schema, &table.name) {
                continue;
            }
            let access = Arc::clone(&access);
            let plan = match plan(spec, &table, &access) {
                Ok(plan) => plan,
                Err(message) => {
                    let refusal = SubscribeRefusal::raised(spec.context(), &message);
                    bound.refused.push((*id, Notice::refusal(&refusal)));
                    continue;
                }
            };
            match self.canonical(&request.role, &plan).await? {
                Ok(literals) => bound.attachments.push(Attachment {
                    channel: request.channel,
                    id: *id,
                    event: spec.event,
                    predicate: plan.compile(&literals, self.collation_is_c == Some(true)),
                    access,
                    claims: Arc::clone(&request.claims),
                    select: plan.select().map(<[usize]>::to_vec),
                }),
                Err(error) => {
                    let refusal = SubscribeRefusal::Database { context: spec.context(), error };
                    bound.refused.push((*id, Notice::refusal(&refusal)));
                }
            }
        }
        Ok(bound)
    }

    /// Attaches a channel to a table. What the table does not allow is told once: tables are described anew by every
    /// ANALYZE.
    pub(super) fn attach(&mut self, channel: ChannelId, oid: Oid, bound: Bound) {
        let Some(watcher) = self.watchers.get_mut(&channel) else { return };
        for (id, notice) in bound.refused {
            if watcher.refused.insert((oid, id), notice.clone()).as_ref() != Some(&notice) {
                self.sink.notice(channel, notice);
            }
        }
        for attachment in bound.attachments {
            watcher.refused.remove(&(oid, attachment.id));
            match self.engine.attach(oid, attachment) {
                Ok(key) => watcher.attached.push((oid, key)),
                Err(error) => {
                    let code = "UnableToSubscribeToPostgres";
                    let table = self.known.get(&oid).map(|known| known.name());
                    tracing::error!(code, %error, table, "cannot attach a subscription");
                }
            }
        }
    }

    /// What a role may see of a table, asked once until the table is described anew.
    async fn access(&mut self, oid: Oid, role: &Arc<str>) -> Result<Option<Arc<RoleAccess>>, Failed> {
        if let Some(access) = self.known.get(&oid).and_then(|known| known.access.get(role)) {
            return Ok(Some(Arc::clone(access)));
        }
        let client = pool::get(&self.pool).await?;
        let Some(access) = catalog::role_access(&client, role, oid).await? else { return Ok(None) };
        let access = Arc::new(access);
        if let Some(known) = self.known.get_mut(&oid) {
            known.access.insert(Arc::clone(role), Arc::clone(&access));
        }
        Ok(Some(access))
    }

    /// Asks in one question what a role may see of tables, where that is not known: a wildcard means hundreds.
    pub(super) async fn ask_accesses(&mut self, oids: &[Oid], role: &Arc<str>) -> Result<(), Failed> {
        let is_known = |oid: &Oid| self.known.get(oid).is_some_and(|known| known.access.contains_key(role));
        let pairs: Vec<(&str, Oid)> =
            oids.iter().filter(|oid| !is_known(oid)).map(|oid| (&**role, *oid)).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let client = pool::get(&self.pool).await?;
        let accesses = catalog::role_accesses(&client, &pairs).await?;
        for ((_, oid), access) in pairs.into_iter().zip(accesses) {
            if let (Some(known), Some(access)) = (self.known.get_mut(&oid), access) {
                known.access.insert(Arc::clone(role), Arc::new(access));
            }
        }
        Ok(())
    }

    /// The canonical literals of a plan, or why the database refuses one.
    async fn canonical(&mut self, role: &str, plan: &Plan) -> Result<Result<Vec<String>, String>, Failed> {
        let checks = plan.checks();
        if self.literals.unknown(role, &checks).is_empty() {
            return Ok(Ok(self.literals.known(role, &checks)));
        }
        match self.literals.canonical(&self.pool, role, &checks).await {
            Ok(literals) => Ok(Ok(literals)),
            Err(Refused::Literal(_, error)) => Ok(Err(error)),
            Err(Refused::Unavailable(error)) => Err(error.into()),
        }
    }
}

/// Where the log has each column of a table. `attnums`: the numbers of the columns; `logged`: of those that the log has.
fn places(attnums: &[i16], logged: &[i16]) -> Box<[Option<usize>]> {
    attnums.iter().map(|attnum| logged.binary_search(attnum).ok()).collect()
}
