//! Nodes, their members, and what they do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_hub::{Audience, Hub, Member, Meter, RoomKey, Said, Tracked, Unlimited};
use realtime_protocol::{Ref, Vsn, encode};
use tokio::{
    task::JoinHandle,
    time::{self, Duration, Instant},
};

use super::{
    party::Party,
    plan::{Plan, Trick},
    streams::{Follower, Stream},
};
use crate::{
    Answerer, AskError, Cluster, Credentials, NatsConfig, TenantSide, chance,
    link::simulated::{Net, Sabotage},
    rates::{Elsewhere, METERS, Rate, Rates},
};

/// The limit of each rate of a tenant.
pub(super) const LIMIT: u32 = 1_000;

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A node.
pub(super) struct Host {
    pub(super) cluster: Cluster,
    pub(super) hub: Arc<Hub>,
    pub(super) peer: usize,
    pub(super) sides: BTreeMap<usize, Arc<Side>>,
    /// When it was killed, or left.
    pub(super) gone: Option<u64>,
    /// It was killed: what it has said from then on no server has read.
    pub(super) unread_since: Option<u64>,
    /// It stands still.
    pub(super) is_still: bool,
    /// Until when a fault of its own lasts, and what it does then.
    pub(super) troubled_until: u64,
}

/// A node's state of a tenant.
#[derive(Debug)]
pub(super) struct Side {
    meter: Arc<dyn Meter>,
    pub(super) users: AtomicU32,
    pub(super) users_elsewhere: AtomicU32,
    /// Since when it has no users.
    pub(super) idle_since: Mutex<Option<u64>>,
    pub(super) rates: Mutex<Rates>,
    pub(super) rates_elsewhere: Mutex<[Elsewhere; METERS]>,
}

impl TenantSide for Side {
    fn meter(&self) -> &Arc<dyn Meter> {
        &self.meter
    }

    fn users(&self) -> u32 {
        self.users.load(Ordering::Relaxed)
    }

    fn set_users_elsewhere(&self, users: u32) {
        self.users_elsewhere.store(users, Ordering::Relaxed);
    }

    fn rates(&self) -> (Rates, [u32; METERS]) {
        (*self.rates.lock(), [LIMIT; METERS])
    }

    fn set_rates_elsewhere(&self, elsewhere: &[Elsewhere; METERS]) {
        *self.rates_elsewhere.lock() = *elsewhere;
    }
}

/// Answers with its node's number and the question.
struct Echo(u32);

impl Answerer for Echo {
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let answer = [&self.0.to_be_bytes()[..], &question].concat();
        Box::pin(std::future::ready(Some(answer.into())))
    }
}

/// A question that is out: who was asked, how long the answer took.
pub(super) type Asked = JoinHandle<(u32, Result<Bytes, AskError>, Duration)>;

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) net: Arc<Net>,
    pub(super) rng: StdRng,
    begun: Instant,
    pub(super) hosts: Vec<Host>,
    pub(super) parties: Vec<Party>,
    /// Members that wait for their join, those that are there, by room as well.
    joining: Vec<usize>,
    pub(super) there: Vec<usize>,
    pub(super) rooms: BTreeMap<(usize, usize), Vec<usize>>,
    /// When the network, or a node, was not as it should be.
    pub(super) faults: Vec<(u64, u64)>,
    /// The same in words.
    pub(super) log: Vec<(u64, String)>,
    pub(super) asked: Vec<Asked>,
    pub(super) broadcasts: u64,
    /// How many other nodes had members in the rooms of these.
    pub(super) hearers: u64,
    pub(super) streams: Vec<Stream>,
    pub(super) followers: Vec<Follower>,
    trick: Option<Trick>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        chance::sow(plan.seed);
        let net = Net::new(plan.seed, plan.servers);
        tokio::spawn(Arc::clone(&net).run());
        let trick = plan.trick;
        if trick == Some(Trick::LoseMarks) {
            net.sabotage(Sabotage::LoseMarks);
        }
        let mut world = Self {
            rng: StdRng::seed_from_u64(plan.seed),
            net,
            begun: Instant::now(),
            hosts: Vec::new(),
            parties: Vec::new(),
            joining: Vec::new(),
            there: Vec::new(),
            rooms: BTreeMap::new(),
            faults: Vec::new(),
            log: Vec::new(),
            asked: Vec::new(),
            broadcasts: 0,
            hearers: 0,
            streams: Vec::new(),
            followers: Vec::new(),
            trick,
            plan,
        };
        (0..world.plan.nodes).for_each(|_| world.start());
        world
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Starts a node.
    pub(super) fn start(&mut self) {
        let config = NatsConfig {
            servers: Vec::new(),
            credentials: Credentials::None,
            require_tls: false,
            ca: None,
            client_certificate: None,
            prefix: "sim".to_owned(),
            node_name: format!("node{}", self.hosts.len()),
            region: None,
            version: "0.0.0",
            heartbeat: self.plan.heartbeat,
            node_timeout: self.plan.node_timeout,
            linger: self.plan.linger,
        };
        let hub = Hub::new(self.rng.random(), Duration::from_millis(50));
        let cluster = Cluster::new(config, &hub);
        cluster.set_answerer(Arc::new(Echo(cluster.id())));
        let server = self.rng.random_range(0..self.plan.servers);
        let peer = cluster.node().link.connect_simulated(&self.net, server);
        self.net.set_capacity(peer, self.plan.capacity);
        cluster.begin();
        let sides = BTreeMap::new();
        self.hosts.push(Host {
            cluster,
            hub,
            peer,
            sides,
            gone: None,
            unread_since: None,
            is_still: false,
            troubled_until: 0,
        });
    }

    /// A node that works, or at least seems to.
    pub(super) fn some_host(&mut self) -> usize {
        let hosts: Vec<usize> = self.working().collect();
        *hosts.choose(&mut self.rng).unwrap_or(&0)
    }

    pub(super) fn working(&self) -> impl Iterator<Item = usize> {
        let works = |(at, host): (usize, &Host)| (host.gone.is_none() && !host.is_still).then_some(at);
        self.hosts.iter().enumerate().filter_map(works)
    }

    pub(super) fn tenant(at: usize) -> Arc<str> {
        format!("tenant{at}").into()
    }

    fn key(tenant: usize, room: usize) -> RoomKey {
        RoomKey {
            tenant: Self::tenant(tenant),
            audience: Audience::Public,
            topic: format!("realtime:room{room}").into(),
        }
    }

    /// Members talk for as long as is planned.
    pub(super) async fn talk(&mut self, seconds: u64, faults: bool) -> Result<(), String> {
        let until = self.now() + seconds * 1_000_000;
        let mut next_fault = self.now() + 2_000_000;
        let mut next_read = 0;
        while self.now() < until {
            let pause = self.rng.random_range(0..2_000_000 / u64::from(self.plan.acts));
            time::sleep(Duration::from_micros(pause)).await;
            self.go_on();
            self.join_those_who_wait();
            self.act()?;
            let now = self.now();
            if faults && now >= next_fault {
                self.fail().await;
                next_fault = now + self.rng.random_range(0..2_000 * self.plan.fault_every);
            }
            if now >= next_read {
                self.read_all()?;
                next_read = now + 200_000;
            }
        }
        Ok(())
    }

    /// Nobody says anything any more, and everything works.
    pub(super) async fn rest(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now() + u64::try_from(time.as_micros()).unwrap_or(0);
        while self.now() < until {
            time::sleep(Duration::from_millis(100)).await;
            self.go_on();
            self.join_those_who_wait();
            self.read_all()?;
        }
        Ok(())
    }

    fn act(&mut self) -> Result<(), String> {
        let crowd = self.there.len() + self.joining.len();
        match self.rng.random_range(0..100) {
            0..20 if crowd < self.plan.members => self.join(),
            0..4 => self.leave(),
            4..16 => self.announce(),
            16..18 => self.change_rates(),
            18..20 => self.ask(),
            20..24 => {
                let stream = self.rng.random_range(0..2);
                self.read_transaction(stream);
            }
            _ => {
                let Some(who) = self.there.choose(&mut self.rng).copied() else { return Ok(()) };
                // Some say a lot at once.
                let count = if self.rng.random_range(0..20) == 0 { 40 } else { 1 };
                (0..count).try_for_each(|_| self.say(who))?;
            }
        }
        Ok(())
    }

    fn join(&mut self) {
        let (tenants, rooms) = (self.plan.tenants, self.plan.rooms);
        let (tenant, room) = if self.plan.nodes > 50 {
            // Tenants come and go, and have members on a few nodes.
            let newest = (self.now() / 1_000_000 + 10) as usize * tenants / (self.plan.seconds as usize + 10);
            let oldest = newest.saturating_sub(tenants / 8);
            (
                self.rng.random_range(oldest..newest.clamp(oldest + 1, tenants)),
                self.rng.random_range(0..rooms),
            )
        } else {
            (self.rng.random_range(0..tenants), self.rng.random_range(0..rooms))
        };
        let mut host = self.some_host();
        if tenants > 10 {
            // On three nodes each.
            let near = (tenant * 7 + self.rng.random_range(0..3)) % self.hosts.len();
            if self.working().any(|at| at == near) {
                host = near;
            }
        }
        let limit = if self.plan.nodes > 50 { 3 } else { usize::MAX };
        if self.rooms.get(&(tenant, room)).is_some_and(|there| there.len() >= limit) {
            return;
        }
        let at = &mut self.hosts[host];
        if at.gone.is_some() || at.is_still {
            return;
        }
        let side = at.sides.entry(tenant).or_insert_with(|| {
            Arc::new(Side {
                meter: Arc::new(Unlimited),
                users: AtomicU32::new(0),
                users_elsewhere: AtomicU32::new(0),
                idle_since: Mutex::default(),
                rates: Mutex::default(),
                rates_elsewhere: Mutex::default(),
            })
        });
        side.users.fetch_add(1, Ordering::Relaxed);
        *side.idle_since.lock() = None;
        let side = Arc::clone(side) as Arc<dyn TenantSide>;
        let key = Self::key(tenant, room);
        let whole = at.cluster.interest(&key.tenant, &side);
        let interests = [whole, at.cluster.room_interest(&key.tenant, &key.topic, &side)];
        self.joining.push(self.parties.len());
        self.parties.push(Party::new(host, tenant, room, interests));
    }

    fn join_those_who_wait(&mut self) {
        let now = self.now();
        for who in std::mem::take(&mut self.joining) {
            let party = &mut self.parties[who];
            let host = &self.hosts[party.host];
            let Some(interests) = party.interests.as_ref().filter(|_| host.gone.is_none()) else { continue };
            if host.is_still || !interests.iter().all(super::super::Interest::is_ready) {
                self.joining.push(who);
                continue;
            }
            let key = Self::key(party.tenant, party.room);
            let member = Member::new(Arc::clone(&party.outbox), Vsn::V2);
            let meter = Arc::new(Unlimited) as Arc<dyn Meter>;
            let membership = host.hub.join(&key, member, &meter, []);
            let sent = membership.send_presence_state(|state| {
                encode::presence_state(Vsn::V2, &Ref::null(), &key.topic, state)
            });
            assert!(sent, "a new outbox has room");
            (party.membership, party.joined) = (Some(membership), Some(now));
            self.there.push(who);
            self.rooms.entry((party.tenant, party.room)).or_default().push(who);
        }
    }

    fn leave(&mut self) {
        let Some(who) = self.there.choose(&mut self.rng).copied() else { return };
        if !self.hosts[self.parties[who].host].is_still {
            self.remove(who);
        }
    }

    /// A member is gone.
    pub(super) fn remove(&mut self, who: usize) {
        let now = self.now();
        let party = &mut self.parties[who];
        let side = &self.hosts[party.host].sides[&party.tenant];
        side.users.fetch_sub(1, Ordering::Relaxed);
        party.leave(now);
        let room = (party.tenant, party.room);
        self.there.retain(|one| *one != who);
        if let Some(there) = self.rooms.get_mut(&room) {
            there.retain(|one| *one != who);
        }
    }

    /// All members of a node are gone.
    pub(super) fn remove_all(&mut self, host: usize) {
        let here: Vec<usize> =
            self.there.iter().copied().filter(|who| self.parties[*who].host == host).collect();
        here.into_iter().for_each(|who| self.remove(who));
        let waits = |who: &usize| self.parties[*who].host != host;
        let (stay, go): (Vec<usize>, Vec<usize>) = self.joining.iter().partition(|who| waits(who));
        self.joining = stay;
        for who in go {
            let party = &mut self.parties[who];
            self.hosts[host].sides[&party.tenant].users.fetch_sub(1, Ordering::Relaxed);
            party.leave(0);
        }
    }

    pub(super) fn say(&mut self, who: usize) -> Result<(), String> {
        let now = self.now();
        let party = &self.parties[who];
        if self.hosts[party.host].is_still {
            return Ok(());
        }
        // What was heard before this is said must not be taken for heard after it.
        let (own, room) = (party.host, (party.tenant, party.room));
        let mut hosts = BTreeSet::new();
        for member in self.rooms.get(&room).into_iter().flatten() {
            hosts.insert(self.parties[*member].host);
            self.parties[*member].read(now, &mut self.trick)?;
        }
        let party = &mut self.parties[who];
        let Some(membership) = &party.membership else { return Ok(()) };
        let payload = format!(r#"{{"who":{who},"n":{}}}"#, party.said.len());
        party.said.push(now);
        self.broadcasts += 1;
        self.hearers += hosts.iter().filter(|host| **host != own).count() as u64;
        let said = membership.say(false, &Said::Json(payload.as_bytes()));
        said.run.into_iter().for_each(realtime_hub::FanOut::run);
        Ok(())
    }

    fn announce(&mut self) {
        let Some(who) = self.there.choose(&mut self.rng).copied() else { return };
        let announced = self.rng.random_range(0..4);
        let party = &mut self.parties[who];
        let Some(membership) = party.membership.as_ref().filter(|_| !self.hosts[party.host].is_still) else {
            return;
        };
        if announced == 0 {
            membership.untrack().into_iter().for_each(realtime_hub::FanOut::run);
            party.announced = None;
        } else {
            let meta = format!(r#"{{"v":{announced}}}"#);
            let told = membership.track(&format!("p{who}"), meta.into());
            assert!(!matches!(told, Tracked::NoRoom), "there is room for little");
            party.announced = Some(announced);
        }
    }

    fn change_rates(&mut self) {
        let host = self.some_host();
        let rate = self.rng.random_range(0..LIMIT);
        let sides: Vec<_> = self.hosts[host].sides.values().collect();
        let Some(side) = sides.choose(&mut self.rng) else { return };
        // Who has no socket has no traffic, after a while.
        if side.users() > 0 {
            side.rates.lock()[1] = Rate { average: u64::from(rate) * 1000, recent: rate };
        }
    }

    fn ask(&mut self) {
        let (from, to) = (self.some_host(), self.some_host());
        if from != to {
            self.put(from, to);
        }
    }

    /// A node asks another one.
    pub(super) fn put(&mut self, from: usize, to: usize) {
        let (cluster, to) = (self.hosts[from].cluster.clone(), self.hosts[to].cluster.id());
        self.asked.push(tokio::spawn(async move {
            let begun = Instant::now();
            let answer = cluster.ask(to, Bytes::from_static(b"how are you?"), PATIENCE).await;
            (to, answer, begun.elapsed())
        }));
    }

    pub(super) fn read_all(&mut self) -> Result<(), String> {
        let now = self.now();
        for who in &self.there {
            self.parties[*who].read(now, &mut self.trick)?;
        }
        Ok(())
    }
}
