//! A database whose changes end up in a list, and channels that watch it.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use anyhow::Result;
use parking_lot::Mutex;
use realtime_changes::{ChannelId, Delivery, SubscribeRefusal, SubscriptionSpec};
use realtime_pgoutput::Position;
use realtime_postgres::{
    ChangeSink, DatabaseConfig, Generation, Generations, Notice, SubscribeRequest, TenantDatabase,
};
use realtime_testkit::{PATIENCE, TestDb, cluster};
use serde_json::Value;
use tokio::time;

/// What was delivered and told.
#[derive(Default)]
pub struct Seen {
    deliveries: Mutex<Vec<Delivery>>,
    notices: Mutex<Vec<(ChannelId, Notice)>>,
}

impl ChangeSink for Seen {
    fn deliver(&self, delivery: Delivery) {
        self.deliveries.lock().push(delivery);
    }

    fn notice(&self, channel: ChannelId, notice: Notice) {
        self.notices.lock().push((channel, notice));
    }
}

/// A database and the handle that watches it.
pub struct Watched {
    pub db: TestDb,
    pub handle: TenantDatabase,
    pub config: DatabaseConfig,
    seen: Arc<Seen>,
    next: u64,
}

/// A channel: its number, its generations.
pub struct Channel {
    pub id: ChannelId,
    pub generations: Generations,
}

impl Channel {
    /// A request of this channel.
    pub fn request(&self, id: u32, parameters: &Value) -> SubscribeRequest {
        self.request_as(id, parameters, self.generations.next())
    }

    fn request_as(&self, id: u32, parameters: &Value, generation: Generation) -> SubscribeRequest {
        let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
        SubscribeRequest {
            channel: self.id,
            role: "anon".into(),
            claims: r#"{"role":"anon"}"#.into(),
            subscriptions: vec![(id, Arc::new(spec))],
            generation,
        }
    }
}

impl Watched {
    /// With table `test` of fixture A.
    pub async fn new() -> Result<Self> {
        let db = TestDb::with_fixture_a().await?;
        let cluster = cluster().await?;
        let config = DatabaseConfig {
            host: cluster.host().to_owned(),
            port: cluster.port(),
            user: cluster.user().to_owned(),
            password: cluster.password().into(),
            name: db.name().to_owned(),
            connect_timeout: PATIENCE,
            statement_timeout: PATIENCE,
            ..DatabaseConfig::default()
        };
        let seen = Arc::new(Seen::default());
        let sink: Arc<dyn ChangeSink> = Arc::<Seen>::clone(&seen);
        let handle = TenantDatabase::new(config.clone(), sink);
        Ok(Self { db, handle, config, seen, next: 0 })
    }

    pub fn channel(&mut self) -> Channel {
        self.next += 1;
        Channel { id: ChannelId(self.next), generations: Generations::default() }
    }

    /// Ends a channel as its owner does.
    pub fn end(&self, channel: &Channel) {
        channel.generations.end();
        self.handle.unsubscribe(channel.id);
    }

    /// How many channels the worker watches for, when it has done all that was asked of it before.
    pub async fn watchers(&mut self) -> Result<u64> {
        let channel = self.channel();
        let asked = self.handle.subscribe(channel.request(1, &serde_json::json!({"table": "test"}))).await;
        asked?;
        let watchers = self.handle.stats().subscribers.load(Ordering::Relaxed) - 1;
        self.end(&channel);
        Ok(watchers)
    }

    /// The ids under which a channel gets the next row.
    pub async fn ids_of_next_row(&self, channel: &Channel) -> Result<Vec<u32>> {
        self.seen.deliveries.lock().clear();
        self.db.sql("insert into public.test (details) values ('x')").await?;
        let ids = until(|| {
            let deliveries = self.seen.deliveries.lock();
            let recipients = deliveries.iter().flat_map(|delivery| &delivery.recipients);
            let ids: Vec<u32> = recipients
                .filter(|recipient| recipient.channel == channel.id)
                .flat_map(|recipient| recipient.ids.iter().copied())
                .collect();
            (!ids.is_empty()).then_some(ids)
        });
        Ok(ids.await)
    }

    /// Waits until a channel is told this.
    pub async fn told(&self, channel: &Channel, notice: &Notice) {
        until(|| {
            let notices = self.seen.notices.lock();
            notices.iter().any(|(id, told)| *id == channel.id && told == notice).then_some(())
        })
        .await;
    }

    /// Waits until a channel was given so many changes.
    pub async fn delivered(&self, channel: &Channel, count: usize) {
        until(|| {
            let deliveries = self.seen.deliveries.lock();
            let got = deliveries.iter().flat_map(|delivery| &delivery.recipients);
            (got.filter(|recipient| recipient.channel == channel.id).count() >= count).then_some(())
        })
        .await;
    }

    /// The place of the first change that a channel was given.
    pub async fn first_place(&self, channel: &Channel) -> String {
        until(|| {
            let deliveries = self.seen.deliveries.lock();
            let is_its = |delivery: &&Delivery| {
                delivery.recipients.iter().any(|recipient| recipient.channel == channel.id)
            };
            deliveries.iter().find(is_its)?.position.map(|position| position.to_string())
        })
        .await
    }

    /// The places of the changes that each channel was given, in their order.
    pub fn places(&self) -> HashMap<ChannelId, Vec<Position>> {
        let mut places: HashMap<ChannelId, Vec<Position>> = HashMap::new();
        for delivery in self.seen.deliveries.lock().iter() {
            for recipient in &delivery.recipients {
                places.entry(recipient.channel).or_default().extend(delivery.position);
            }
        }
        places
    }

    /// Takes what was told so far for nothing.
    pub fn forget_notices(&self) {
        self.seen.notices.lock().clear();
    }

    /// Whether a channel was told anything.
    pub fn was_told(&self, channel: &Channel) -> bool {
        self.seen.notices.lock().iter().any(|(id, _)| *id == channel.id)
    }
}

/// Looks again and again.
pub async fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            time::sleep(time::Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, looking).await.unwrap()
}

/// Asks the database a question until the answer is yes.
pub async fn look_until(db: &TestDb, sql: &str) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    while !db.client().query_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        anyhow::ensure!(time::Instant::now() < limit, "never true: {sql}");
        time::sleep(time::Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A question to the database that a test holds at any of its steps.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<(), SubscribeRefusal>> + Send + 'a>>;

/// Lets a question take this many steps, and holds it before the next. `Some` if it ended before.
pub async fn hold(asking: &mut Asking<'_>, steps: usize) -> Option<Result<(), SubscribeRefusal>> {
    let mut taken = 0;
    poll_fn(|context| {
        if taken == steps {
            return Poll::Ready(None);
        }
        match asking.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => {
                taken += 1;
                if taken == steps { Poll::Ready(None) } else { Poll::Pending }
            }
        }
    })
    .await
}
