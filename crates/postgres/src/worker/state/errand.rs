//! A question to the database about rows of one party, put beside the stream: nobody else waits for it.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use realtime_changes::{Party, Table};
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};

use super::{failed::ASK_AGAIN, lanes::Kept};
use crate::visibility::{self, Asked, Held, Inquiry, PolicyCache, Row, Verdict};

/// How long the policies may take for the rows.
const ALONE: Duration = Duration::from_millis(500);

/// How often it is asked again if the policies say that they met a lock. Real locks are waited for.
const LOCKED: u32 = 2;

/// How often it is asked again while somebody holds a lock: some minutes.
const WAITS: u32 = 1_000;

/// How often it is asked again if its session ended: mostly somebody else ended it.
const ENDED: u32 = 1;

/// Pause before it is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// The question.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) number: u64,
    pub(super) party: Arc<Party>,
    pub(super) table: Arc<Table>,
    pub(super) logged: Box<[i16]>,
    pub(super) key: Box<[i16]>,
    pub(super) publication: String,
    pub(super) shares_plans: bool,
    pub(super) images: Vec<Image>,
    pub(super) policies: Arc<PolicyCache>,
}

/// A version of a row.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) kept: Arc<Kept>,
    pub(super) is_last: bool,
    /// Whether it is the old row of an update.
    pub(super) is_old: bool,
}

/// What has come of it.
#[derive(Debug)]
pub(in crate::worker) enum Outcome {
    /// What the party sees, and how long that took.
    Told(Verdict, Duration),
    /// It took too long.
    Held(Held),
}

impl Errand {
    /// The answer, however long it takes until the database can be asked.
    pub(super) async fn run(&self, pool: &Pool, permits: &Semaphore) -> Outcome {
        let (mut locked, mut ended) = (0, 0);
        loop {
            let Ok(permit) = permits.acquire().await else { return Outcome::Held(Held::NotAsked) };
            let begun = Instant::now();
            let answers = visibility::check(pool, &self.inquiry(), &self.policies, ALONE).await;
            let took = begun.elapsed();
            drop(permit);
            let verdict = match answers {
                Ok(answers) => answers.verdicts.into_iter().next().unwrap_or_else(|| Ok(Verdict::default())),
                Err(error) => {
                    let table = format!("{}.{}", self.table.schema, self.table.name);
                    let role = &*self.party.role;
                    tracing::warn!(code = "UnableToConnectToProject", %error, table, role, "cannot check row-level security; retrying");
                    time::sleep(ASK_AGAIN).await;
                    continue;
                }
            };
            match verdict {
                Ok(verdict) => return Outcome::Told(verdict, took),
                // A real wait for a lock takes half of the limit.
                Err(Held::Locked) if locked < if took >= ALONE / 4 { WAITS } else { LOCKED } => locked += 1,
                Err(Held::Ended) if ended < ENDED => ended += 1,
                Err(held) => return Outcome::Held(held),
            }
            time::sleep(AGAIN).await;
        }
    }

    fn inquiry(&self) -> Inquiry<'_> {
        fn row(image: &Image) -> Row<'_> {
            let waiting = &image.kept.waiting;
            let old = if image.is_old { waiting.old_image() } else { None };
            let change = old.unwrap_or_else(|| waiting.image());
            Row { change, xid: waiting.xid, is_last: image.is_last }
        }
        let rows: Vec<Row<'_>> = self.images.iter().map(row).collect();
        let all = (0..).take(rows.len()).collect();
        Inquiry {
            table: &self.table,
            logged: &self.logged,
            key: &self.key,
            publication: &self.publication,
            rows,
            parties: vec![Asked { party: Arc::clone(&self.party), rows: all }],
            shares_plans: self.shares_plans,
        }
    }
}
