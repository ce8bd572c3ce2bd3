//! How large a run is, and what goes wrong in it: drawn from its seed.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Duration;

/// How large a run is, and what goes wrong.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) servers: usize,
    pub(super) tenants: usize,
    /// Rooms of each tenant.
    pub(super) rooms: usize,
    /// Members at one time.
    pub(super) members: usize,
    /// How long they talk, in seconds.
    pub(super) seconds: u64,
    /// What is done each second.
    pub(super) acts: u32,
    pub(super) heartbeat: Duration,
    pub(super) node_timeout: Duration,
    pub(super) linger: Duration,
    /// Nothing goes wrong.
    pub(super) is_calm: bool,
    /// Mean time between two faults, in milliseconds.
    pub(super) fault_every: u64,
    /// Messages that a subscription takes.
    pub(super) capacity: usize,
    /// Faults of the checks' own making, which they have to find.
    pub(super) trick: Option<Trick>,
}

/// What is done to a run so that its checks fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trick {
    /// Messages of rooms are lost on the way, and all marks.
    LoseMarks,
    /// A message comes twice to one member.
    Twice,
    /// A gap is not told to one member.
    HideGap,
    /// A member does not hear that somebody left.
    HideDiff,
    /// Two messages come in the wrong order.
    Swap,
    /// A row of a database does not come to a node that follows.
    LoseRow,
    /// A row is left out although the node wants its table.
    LeaveOut,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let heartbeat = Duration::from_millis([200, 1000][rng.random_range(0..2)]);
        let mut plan = Self {
            seed,
            nodes: rng.random_range(2..=6),
            servers: rng.random_range(1..=3),
            tenants: rng.random_range(1..=4),
            rooms: rng.random_range(1..=3),
            members: rng.random_range(4..=24),
            seconds: rng.random_range(10..=30),
            acts: 100,
            heartbeat,
            node_timeout: heartbeat * 6,
            linger: Duration::from_millis([300, 5_000, 30_000][rng.random_range(0..3)]),
            is_calm: seed.is_multiple_of(8),
            fault_every: rng.random_range(500..6_000),
            capacity: if rng.random_range(0..4) == 0 { 24 } else { 4096 },
            trick: None,
        };
        if seed % 64 == 63 {
            plan.sized(rng.random_range(12..=40), rng.random_range(50..=200));
        }
        if seed % 1024 == 1023 {
            plan.sized(200, 10_000);
        }
        plan
    }

    /// A run of this size.
    pub(super) fn sized(&mut self, nodes: usize, tenants: usize) {
        (self.nodes, self.tenants, self.servers) = (nodes, tenants, 3);
        // As many as answer a question at once.
        self.capacity = self.capacity.max(nodes * 4);
        self.members = (nodes * 5).max(tenants / 8);
        self.acts = 200 + u32::try_from(tenants / 4).unwrap_or(0);
        if nodes > 50 {
            // As docs/scaling.md recommends.
            self.heartbeat = Duration::from_secs(5);
            self.node_timeout = self.heartbeat * 6;
            self.linger = Duration::from_secs(5);
            self.seconds = 60;
            self.fault_every = 1_000;
        }
    }
}
