//! What a seed stands for: the size of the broker and its limits, how slow each part of it is, who the clients are.

use fastrand::Rng;
use weirmq::limits::{Limits, Overflow, QueueRule, ShareRule, Strategy};
use weirmq::protocol::packet::Version;
use weirmq::store::open::{StoreOptions, Sync};

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its session is persistent and never ends before the run does: what it is owed must arrive.
    Keeper,
    /// Comes and goes as it likes: clean or resumed, with or without expiry.
    Drifter,
    /// A member of one share group, persistent like a keeper or transient.
    Worker {
        /// Which of [`GROUPS`].
        group: usize,
        persistent: bool,
    },
}

/// The share groups: name and filter. Their topics are nobody's but workers' and of those who take all.
pub const GROUPS: [(&str, &str); 2] = [("g0", "s/#"), ("g1", "s/+")];

/// Topics that are never retained, that always are, and that share groups take.
pub const LIVE: [&str; 4] = ["l/a", "l/b", "l/a/x", "l"];
pub const RETAINED: [&str; 3] = ["r/a", "r/b", "r/a/x"];
pub const SHARED: [&str; 3] = ["s/a", "s/b", "s/c"];

/// Filters that anybody may hold.
pub const PLAIN_FILTERS: [&str; 9] = ["l/a", "l/b", "l/+", "l/#", "l/+/x", "r/#", "r/+", "r/a", "w/#"];
/// Filters that match what share groups take, which only those hold who are in none.
pub const WIDE_FILTERS: [&str; 4] = ["#", "+/a", "s/b", "s/#"];

/// Where records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Nowhere: all queues are in memory.
    Memory,
    /// To a journal without a disk: the simplest store that there can be.
    Journal,
    /// To the real store, on a disk in memory.
    Disk,
}

/// One run's settings.
#[derive(Debug)]
pub struct Plan {
    pub shards: u16,
    pub limits: Limits,
    pub rule: QueueRule,
    pub share_rules: Vec<ShareRule>,
    pub clients: Vec<(Role, Version)>,
    pub store: Backing,
    pub options: StoreOptions,
    /// The broker ends at one of so many steps.
    pub restarts: u32,
    pub steps: u32,
    /// How many of 100 shard turns find the lanes into that shard idle.
    pub lane_lag: u8,
    /// How many of 100 chances the disk leaves unused.
    pub disk_lag: u8,
    /// How many bytes a connection's transport holds in each direction.
    pub transport: usize,
    /// A client that is not connected connects at one of so many of its steps.
    pub absence: u32,
    /// The disk has errors and too little room at times.
    pub faults: bool,
    /// How many of 1000 client steps cut the connection.
    pub crashes: u16,
    /// Workers stay in their group once they have joined it.
    pub steady_groups: bool,
    /// Some clients accept small packets only, and some messages expire.
    pub exceptions: bool,
}

fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())].clone()
}

impl Plan {
    /// Whether a group may have transient members before it has a persistent one.
    pub fn mixes(&self) -> bool {
        let has = |wanted: Role| self.clients.iter().any(|(role, _)| *role == wanted);
        (0..GROUPS.len())
            .any(|group| [true, false].into_iter().all(|persistent| has(Role::Worker { group, persistent })))
    }

    pub fn new(rng: &mut Rng) -> Plan {
        let limits = Limits {
            max_inflight: pick(rng, &[1, 2, 5, 32]),
            receive_maximum: pick(rng, &[2, 20, 1000]),
            transient_queue_messages: pick(rng, &[5, 50, 100_000]),
            transient_queue_bytes: pick(rng, &[2_000, 1 << 24]),
            outbound_buffer: pick(rng, &[600, 4_000, 1 << 20]),
            outbound_total: pick(rng, &[8_000, 1 << 28]),
            lane_bytes: pick(rng, &[1_000, 20_000, 4 << 20]),
            topic_alias_maximum: pick(rng, &[0, 2, 32]),
            ..Limits::default()
        };
        let rule = QueueRule {
            max_messages: pick(rng, &[0, 0, 10, 100]),
            overflow: pick(
                rng,
                &[Overflow::Reject, Overflow::Reject, Overflow::DropOldest, Overflow::DropNewest],
            ),
            ..QueueRule::default()
        };
        use Strategy::*;
        let strategy = pick(rng, &[RoundRobin, Random, Sticky, HashClientid, HashTopic, LeastInflight]);
        Plan {
            shards: rng.u16(1..=4),
            limits,
            rule,
            share_rules: vec![ShareRule { group: "*".to_owned(), strategy }],
            clients: Plan::clients(rng),
            store: pick(rng, &[Backing::Memory, Backing::Journal, Backing::Disk, Backing::Disk]),
            options: Plan::options(rng),
            restarts: pick(rng, &[200, 1_000, 5_000]),
            steps: pick(rng, &[500, 2_000, 8_000]),
            lane_lag: pick(rng, &[0, 50, 90]),
            disk_lag: pick(rng, &[0, 50, 95]),
            transport: pick(rng, &[64, 1_000, 100_000]),
            absence: pick(rng, &[3, 3, 100]),
            faults: rng.u8(..4) == 0,
            crashes: pick(rng, &[2, 10, 40]),
            steady_groups: rng.bool(),
            exceptions: rng.u8(..3) == 0,
        }
    }

    /// Budgets so small that segments are retired, emptied and used again all the time.
    fn options(rng: &mut Rng) -> StoreOptions {
        let sync = pick(rng, &[Sync::Always, Sync::Always, Sync::Always, Sync::Os]);
        StoreOptions {
            sync,
            segment_size: pick(rng, &[8 << 10, 16 << 10, 64 << 10]),
            journal_budget: pick(rng, &[4 << 10, 16 << 10, 100 << 10]),
            table_budget: pick(rng, &[200, 2_000, 1 << 20]),
            max_size: pick(rng, &[Some(1 << 30), Some(1 << 30), Some(1 << 30), Some(720 << 10)]),
            reserve: Some(0),
            ..StoreOptions::new(rng.u64(..))
        }
    }

    fn clients(rng: &mut Rng) -> Vec<(Role, Version)> {
        let workers = rng.usize(2..=5);
        let roles = [Role::Keeper, Role::Keeper, Role::Keeper, Role::Drifter, Role::Drifter, Role::Drifter];
        let lasting = rng.u8(..4);
        let worker = |n| Role::Worker { group: n % GROUPS.len(), persistent: rng.u8(..3) < lasting };
        let workers: Vec<Role> = (0..workers).map(worker).collect();
        let roles = roles.into_iter().chain(workers);
        roles.map(|role| (role, pick(rng, &[Version::V3, Version::V4, Version::V5, Version::V5]))).collect()
    }

    /// Whether a publisher may be refused, or kept waiting, for want of room.
    pub fn refuses(&self) -> bool {
        let rejects = self.rule.overflow == Overflow::Reject && self.rule.max_messages > 0;
        rejects || self.may_be_full()
    }

    /// Whether the store may have no room.
    pub fn may_be_full(&self) -> bool {
        self.store == Backing::Disk && (self.faults || self.options.max_size < Some(1 << 30))
    }

    /// Whether a durable queue may drop what it was given.
    pub fn durable_queues_drop(&self) -> bool {
        self.rule.overflow != Overflow::Reject && self.rule.max_messages != 0
    }
}
