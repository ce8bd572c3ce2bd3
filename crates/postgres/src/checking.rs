//! Checks of what clients want to watch, before the worker has it. When a server starts anew thousands come back at once and
//! want the same: they share a check.
//!
//! Of each kind one check is under way at a time. Who comes meanwhile waits for the next one, together with all others who
//! do: an answer never dates from before its question. Checks run in tasks of their own, so that nobody waits for a client
//! whose socket is busy.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use realtime_changes::{SubscribeRefusal, SubscriptionSpec};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{self, Duration, Instant},
};

use crate::{
    Generation, SubscribeRequest,
    subscribe::{Checked, overtaken},
};

/// What became of a check.
type Outcome = Result<Arc<Checked>, SubscribeRefusal>;

/// Checks that are under way or wait for their turn.
#[derive(Debug)]
pub(crate) struct Checking {
    /// Places for checks: fewer than connections, so that the worker has one.
    places: Semaphore,
    /// How long a check waits for a place.
    patience: Duration,
    /// The kinds that somebody checks, and those who wait for the next check of the kind.
    kinds: Mutex<HashMap<Kind, Option<Waiting>>>,
}

/// What is checked: equal ones have equal answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    role: Arc<str>,
    /// Without the places to go on from.
    subscriptions: Arc<[Arc<SubscriptionSpec>]>,
    /// Whether somebody comes back: then it is asked where the database is.
    comes_back: bool,
}

impl Kind {
    fn of(request: &SubscribeRequest) -> Self {
        let plain = |(_, spec): &(u32, Arc<SubscriptionSpec>)| match &spec.since {
            None => Arc::clone(spec),
            Some(_) => Arc::new(SubscriptionSpec { since: None, ..(**spec).clone() }),
        };
        Self {
            role: Arc::clone(&request.role),
            subscriptions: request.subscriptions.iter().map(plain).collect(),
            comes_back: request.comes_back(),
        }
    }
}

/// Those who wait for the next check of a kind.
#[derive(Debug)]
struct Waiting {
    /// When the first of them came.
    since: Instant,
    /// The request of one of them.
    request: SubscribeRequest,
    generations: Vec<Generation>,
    tell: watch::Sender<Option<Outcome>>,
}

/// A check that is to be made: for all who have waited for it.
pub(crate) struct Due<'a> {
    /// What one of them wants.
    pub(crate) request: SubscribeRequest,
    tell: watch::Sender<Option<Outcome>>,
    /// `None`: it could not be had.
    pub(crate) place: Option<SemaphorePermit<'a>>,
}

impl Due<'_> {
    /// Tells all of them.
    pub(crate) fn tell(self, outcome: Result<Checked, SubscribeRefusal>) {
        self.tell.send_replace(Some(outcome.map(Arc::new)));
    }
}

/// Whoever makes the checks of a kind, until nobody waits for one.
pub(crate) struct Checker {
    checking: Arc<Checking>,
    kind: Kind,
    is_over: bool,
}

impl Checker {
    /// The next check, when there is a place for it. `None`: nobody waits.
    pub(crate) async fn next(&mut self) -> Option<Due<'_>> {
        loop {
            let place = time::timeout(self.checking.patience, self.checking.places.acquire()).await;
            let Some(Waiting { since, request, generations, tell }) = self.checking.take(&self.kind) else {
                self.is_over = true;
                return None;
            };
            // After a long wait the channels may be gone, or want something else.
            if !generations.iter().any(Generation::is_current) {
                continue;
            }
            let place = match place {
                Ok(place) => place.ok(),
                // Part of this wait may have been for nobody.
                Err(_) => self.place_until(since + self.checking.patience).await,
            };
            return Some(Due { request, tell, place });
        }
    }

    async fn place_until(&self, until: Instant) -> Option<SemaphorePermit<'_>> {
        time::timeout_at(until, self.checking.places.acquire()).await.ok()?.ok()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        // It ends before its time: those who wait learn that there is no answer.
        if !self.is_over {
            self.checking.kinds.lock().remove(&self.kind);
        }
    }
}

impl Checking {
    /// With so many places, for which checks wait so long.
    pub(crate) fn new(places: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { places: Semaphore::new(places), patience, kinds: Mutex::default() })
    }

    /// Waits for a check of a request. `begin` is called if nobody makes checks of its kind: it has to see to it that the
    /// checker does, whatever becomes of this future.
    ///
    /// Cancel safe.
    pub(crate) async fn check(
        self: &Arc<Self>,
        request: &SubscribeRequest,
        begin: impl FnOnce(Checker),
    ) -> Result<Checked, SubscribeRefusal> {
        if !request.generation.is_current() {
            return Err(overtaken());
        }
        let kind = Kind::of(request);
        let (mut told, is_first) = self.enter(&kind, request);
        if is_first {
            begin(Checker { checking: Arc::clone(self), kind, is_over: false });
        }
        let outcome = told.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(outcome) => outcome.map(|checked| checked.of(request)),
            // All who waited had been overtaken, or the handle ends.
            None if request.generation.is_current() => Err(gone()),
            None => Err(overtaken()),
        }
    }

    /// Waits with the others of a kind. Whether nobody makes its checks.
    fn enter(&self, kind: &Kind, request: &SubscribeRequest) -> (watch::Receiver<Option<Outcome>>, bool) {
        let mut kinds = self.kinds.lock();
        let (next, is_first) = match kinds.entry(kind.clone()) {
            Entry::Occupied(entry) => (entry.into_mut(), false),
            Entry::Vacant(entry) => (entry.insert(None), true),
        };
        let waiting = next.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            request: request.clone(),
            generations: Vec::new(),
            tell: watch::Sender::new(None),
        });
        waiting.generations.push(request.generation.clone());
        (waiting.tell.subscribe(), is_first)
    }

    /// Those who wait for the next check of a kind: from now on others wait for one after it. Without any, its checker ends.
    fn take(&self, kind: &Kind) -> Option<Waiting> {
        let mut kinds = self.kinds.lock();
        let waiting = kinds.get_mut(kind)?.take();
        if waiting.is_none() {
            kinds.remove(kind);
        }
        waiting
    }
}

/// The refusal when the handle ends.
fn gone() -> SubscribeRefusal {
    SubscribeRefusal::Unavailable("Subscriptions are shutting down".to_owned())
}

#[cfg(test)]
mod tests {
    use realtime_changes::ChannelId;
    use serde_json::{Value, json};
    use tokio::sync::{Mutex as AsyncMutex, Notify};

    use super::*;
    use crate::Generations;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn request(generations: &Generations, role: &str, parameters: &Value, id: u32) -> SubscribeRequest {
        let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
        SubscribeRequest {
            channel: ChannelId(u64::from(id)),
            role: role.into(),
            claims: format!("{id}").into(),
            subscriptions: vec![(id, Arc::new(spec))],
            generation: generations.next(),
        }
    }

    /// Those who ask, what is held up until the test lets it go, and how often it was checked.
    struct Asking {
        checking: Arc<Checking>,
        generations: Generations,
        gate: Arc<AsyncMutex<()>>,
        checks: Arc<Mutex<Vec<u32>>>,
    }

    impl Asking {
        fn new(places: usize) -> Self {
            let checking = Checking::new(places, PATIENCE);
            Self {
                checking,
                generations: Generations::default(),
                gate: Arc::default(),
                checks: Arc::default(),
            }
        }

        /// Asks, in a task of its own.
        fn ask(
            &self,
            request: SubscribeRequest,
        ) -> tokio::task::JoinHandle<Result<Checked, SubscribeRefusal>> {
            let (checking, gate, checks) =
                (Arc::clone(&self.checking), Arc::clone(&self.gate), Arc::clone(&self.checks));
            tokio::spawn(async move {
                let begin = |mut checker: Checker| {
                    tokio::spawn(async move {
                        while let Some(due) = checker.next().await {
                            if due.place.is_none() {
                                due.tell(Err(gone()));
                                continue;
                            }
                            checks.lock().push(due.request.subscriptions[0].0);
                            drop(gate.lock().await);
                            due.tell(Ok(Checked { tables: vec![7], ..Checked::default() }));
                        }
                    });
                };
                checking.check(&request, begin).await
            })
        }

        async fn settle(&self) {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn since(number: u32) -> Value {
        json!({"schema": "public", "table": "t", "since": format!("0/1:{number}")})
    }

    /// A thousand who come back while one is being checked cost one more check, wherever each goes on.
    #[tokio::test]
    async fn who_wants_the_same_shares_the_next_check() {
        let asking = Asking::new(3);
        let held = asking.gate.lock().await;
        let owners: Vec<Generations> = (0..1_001).map(|_| Generations::default()).collect();
        let ask = |(id, owner): (u32, &Generations)| asking.ask(request(owner, "anon", &since(id), id));
        let first = ask((0, &owners[0]));
        asking.settle().await;
        let others: Vec<_> = (1..).zip(&owners[1..]).map(ask).collect();
        asking.settle().await;
        assert_eq!(*asking.checks.lock(), [0], "it is under way: they wait for the next");
        drop(held);
        assert_eq!(first.await.unwrap().unwrap().tables, [7]);
        for other in others {
            assert_eq!(other.await.unwrap().unwrap().tables, [7]);
        }
        assert_eq!(asking.checks.lock().len(), 2);
        asking.settle().await;
        assert!(asking.checking.kinds.lock().is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn who_wants_something_else_is_checked_apart() {
        let asking = Asking::new(9);
        let table = |table: &str| json!({"schema": "public", "table": table});
        let held = asking.gate.lock().await;
        let owners: Vec<Generations> = (0..5).map(|_| Generations::default()).collect();
        let asked: Vec<_> =
            [("a", table("t")), ("b", table("t")), ("a", table("u")), ("a", since(1)), ("a", table("t"))]
                .iter()
                .zip((1..).zip(&owners))
                .map(|((role, parameters), (id, owner))| asking.ask(request(owner, role, parameters, id)))
                .collect();
        asking.settle().await;
        drop(held);
        for asked in asked {
            asked.await.unwrap().unwrap();
        }
        // The last one may come before or after the check of the first has begun.
        assert_eq!(asking.checks.lock().iter().filter(|id| **id < 5).count(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_the_checker_waits_for_nobody_is_not_refused_early() {
        let asking = Asking::new(1);
        let held = asking.gate.lock().await;
        let first = asking.ask(request(&asking.generations, "a", &since(1), 1));
        asking.settle().await;
        let (checking, release) = (Arc::clone(&asking.checking), Arc::new(Notify::new()));
        let released = Arc::clone(&release);
        tokio::spawn(async move {
            let place = checking.places.acquire().await;
            released.notified().await;
            drop(place);
        });
        asking.settle().await;
        drop(held);
        first.await.unwrap().unwrap();
        asking.settle().await;
        time::advance(PATIENCE - Duration::from_millis(1)).await;
        let owner = Generations::default();
        let late = asking.ask(request(&owner, "a", &since(2), 2));
        asking.settle().await;
        time::advance(Duration::from_millis(2)).await;
        asking.settle().await;
        assert!(!late.is_finished());
        release.notify_one();
        late.await.unwrap().unwrap();
        assert_eq!(*asking.checks.lock(), [1, 2]);
    }

    /// Whoever has gone is not asked for, and a check that ends before its time leaves nobody waiting.
    #[tokio::test]
    async fn nobody_is_checked_for_in_vain() {
        let asking = Asking::new(1);
        let held = asking.gate.lock().await;
        let owner = Generations::default();
        let first = asking.ask(request(&asking.generations, "a", &since(1), 1));
        asking.settle().await;
        let left = asking.ask(request(&owner, "a", &since(2), 2));
        asking.settle().await;
        drop(owner);
        drop(held);
        first.await.unwrap().unwrap();
        assert_eq!(left.await.unwrap().unwrap_err().to_string(), overtaken().to_string());
        assert_eq!(*asking.checks.lock(), [1]);

        let owner = Generations::default();
        let request = request(&owner, "a", &since(3), 3);
        let ended = asking.checking.check(&request, drop).await;
        assert_eq!(ended.unwrap_err().to_string(), gone().to_string());
        assert!(asking.checking.kinds.lock().is_empty());
    }
}
