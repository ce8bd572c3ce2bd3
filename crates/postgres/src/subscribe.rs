//! What is checked before a channel is subscribed (postgres_changes 1.4, 1.7).

use std::collections::HashMap;

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_changes::{LiteralCheck, RoleAccess, SubscribeRefusal, SubscriptionSpec, Table, plan};
use realtime_pgoutput::{Oid, TypeRegistry};

use crate::{
    SubscribeRequest,
    catalog::{self, Published},
    pool,
    validate::{self, Refused},
};

/// Canonical texts of literals that the database has accepted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Literals(HashMap<(String, &'static str, String), String>);

impl Literals {
    /// The canonical text of a literal, if it is known.
    pub(crate) fn get(&self, check: &LiteralCheck<'_>) -> Option<&str> {
        self.0.get(&literal_key(check)).map(String::as_str)
    }

    /// The canonical text of a literal; asks the database if it is not known.
    pub(crate) async fn canonical(
        &mut self,
        client: &Client,
        check: &LiteralCheck<'_>,
    ) -> Result<String, Refused> {
        if let Some(known) = self.get(check) {
            return Ok(known.to_owned());
        }
        let text = validate::canonical(client, check).await?;
        self.0.insert(literal_key(check), text.clone());
        Ok(text)
    }

    /// Adds what others have asked.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Number of literals.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn literal_key(check: &LiteralCheck<'_>) -> (String, &'static str, String) {
    (check.cast_type.to_owned(), check.operator, check.literal.to_owned())
}

/// A request that was found to be in order.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// The literals of its filters.
    pub(crate) literals: Literals,
    /// The published tables that it means, in the order of the publication.
    pub(crate) tables: Vec<Oid>,
}

/// Checks every subscription of a request against the catalog. The first refusal counts.
pub(crate) async fn check(
    pool: &Pool,
    publication: &str,
    request: &SubscribeRequest,
) -> Result<Checked, SubscribeRefusal> {
    let client = pool::get(pool).await.map_err(|error| SubscribeRefusal::Unavailable(error.to_string()))?;
    let (published, role_exists) = tokio::try_join!(
        catalog::published(&client, publication),
        catalog::role_exists(&client, &request.role)
    )
    .map_err(|error| unavailable(&error))?;
    let mut checks = Checks {
        client: &client,
        request,
        types: TypeRegistry::default(),
        literals: Literals::default(),
        role_exists,
        tables: HashMap::new(),
    };
    for (_, spec) in &request.subscriptions {
        let tables: Vec<&Published> =
            published.iter().filter(|table| spec.matches_name(&table.schema, &table.name)).collect();
        if tables.is_empty() {
            return Err(SubscribeRefusal::NoTable(spec.context()));
        }
        for table in &tables {
            checks.table(spec, table).await?;
        }
    }
    Ok(Checked { literals: checks.literals, tables: request.tables(&published) })
}

struct Checks<'a> {
    client: &'a Client,
    request: &'a SubscribeRequest,
    types: TypeRegistry,
    literals: Literals,
    role_exists: bool,
    /// Tables that several subscriptions of the request name.
    tables: HashMap<Oid, (Table, RoleAccess)>,
}

impl Checks<'_> {
    async fn table(
        &mut self,
        spec: &SubscriptionSpec,
        published: &Published,
    ) -> Result<(), SubscribeRefusal> {
        let role = &*self.request.role;
        if !self.role_exists {
            let error = format!("ERROR 42704 (undefined_object) role \"{role}\" does not exist");
            return Err(SubscribeRefusal::Database { context: spec.context(), error });
        }
        if !self.tables.contains_key(&published.oid) {
            let found = tokio::join!(
                catalog::table(self.client, published.oid, &mut self.types),
                catalog::role_access(self.client, role, published.oid),
            );
            match found {
                (Ok(Some(table)), Ok(Some(access))) => self.tables.insert(published.oid, (table, access)),
                (Err(error), _) | (_, Err(error)) => return Err(unavailable(&error)),
                // Dropped since it was listed.
                _ => return Err(SubscribeRefusal::NoTable(spec.context())),
            };
        }
        let Some((table, access)) = self.tables.get(&published.oid) else { return Ok(()) };
        let plan = plan(spec, table, access)
            .map_err(|message| SubscribeRefusal::raised(spec.context(), &message))?;
        for check in plan.checks() {
            match self.literals.canonical(self.client, &check).await {
                Ok(_) => {}
                Err(Refused::Literal(error)) => {
                    return Err(SubscribeRefusal::Database { context: spec.context(), error });
                }
                Err(Refused::Unavailable(error)) => return Err(unavailable(&error)),
            }
        }
        Ok(())
    }
}

/// The refusal of a request that another one, or the end of its channel, has overtaken. Nobody waits for it any more.
pub(crate) fn overtaken() -> SubscribeRefusal {
    SubscribeRefusal::Unavailable("The subscription was replaced".to_owned())
}

fn unavailable(error: &tokio_postgres::Error) -> SubscribeRefusal {
    SubscribeRefusal::Unavailable(pool::describe(error))
}
