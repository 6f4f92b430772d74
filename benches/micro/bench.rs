//! A shard with clients and no sockets: bytes go in, and what would be written goes nowhere. Tests count its allocations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::broker::outbox::Credits;
use weirmq::broker::retained::RetainedLimits;
use weirmq::broker::shard::{Attach, ConnectionId, Shard, ShardSettings};
use weirmq::broker::shared::Shared;
use weirmq::limits::{Limits, QueueRule};
use weirmq::message::PeerId;
use weirmq::principal::Principal;
use weirmq::protocol::packet::{Connect, QoS, Version};
use weirmq::protocol::properties::Properties;
use weirmq::stats::Stats;
use weirmq::store::Store;

use super::traffic;

/// A shard with clients.
pub struct Bench {
    pub now: Instant,
    pub shard: Shard,
}

impl Bench {
    pub fn new(store: Box<dyn Store>) -> Bench {
        let limits = Arc::new(Limits { max_inflight: 1000, ..Limits::default() });
        let retained = RetainedLimits { messages: limits.retained_messages, bytes: limits.retained_bytes };
        let now = Instant::now();
        let settings = ShardSettings {
            id: PeerId(0),
            peers: 1,
            seed: 1,
            limits,
            share_rules: Arc::default(),
            queue_rules: vec![QueueRule::default()].into(),
            flow: Arc::default(),
            sys_interval: Duration::ZERO,
            stats: vec![Arc::new(Stats::default())].into(),
            credits: Arc::new(Credits::new(1)),
        };
        let shared = Arc::new(Shared::new(retained));
        Bench { now, shard: Shard::new(settings, shared, store, now) }
    }

    /// A client with these subscriptions.
    pub fn connect<'f>(
        &mut self,
        client_id: &str,
        clean_start: bool,
        filters: impl IntoIterator<Item = &'f str>,
        qos: QoS,
    ) -> ConnectionId {
        let connect = Connect {
            version: Version::V4,
            clean_start,
            keep_alive: 0,
            properties: Properties::EMPTY,
            client_id,
            will: None,
            username: None,
            password: None,
        };
        let principal = &Principal::ANONYMOUS;
        let attach = Attach {
            connect: &connect,
            client_id,
            assigned: false,
            principal,
            listener: "",
            max_packet_size: u32::MAX,
        };
        let connection = self.shard.connect(self.now, attach).expect("a client that is welcome");
        for filter in filters {
            self.shard.receive(self.now, connection, &traffic::subscribe(filter, qos));
        }
        self.turn();
        connection
    }

    /// Delivers and writes everything, into nothing.
    pub fn turn(&mut self) {
        while self.shard.work(self.now) {}
        self.shard.flush_store();
        while let Some(connection) = self.shard.next_dirty() {
            let Some(outbound) = self.shard.outbound(connection) else { continue };
            let len = outbound.len();
            outbound.consume(len);
            self.shard.flushed(self.now, connection);
        }
    }
}
