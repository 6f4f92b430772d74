//! [`Route`]: everything that decides where a message to one topic goes, as the publisher's shard reads it once from
//! Interest; and the cache of routes that each shard keeps.

use std::sync::Arc;

use crate::message::QueueId;
use crate::meter::QueueMeter;
use crate::protocol::packet::QoS;
use crate::target::{GroupTarget, Target};

use super::cache::TopicCache;
use super::ids::PeerSet;

/// The bytes that a shard's cached routes may take.
const CACHE_BYTES: usize = 4 << 20;

/// Where messages to one topic go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The generation of Interest that it was read from.
    pub generation: u64,
    /// The peers with transient takers, which match those themselves.
    pub peers: PeerSet,
    /// The peers to forward to: those, and the homes of the queues and groups.
    pub homes: PeerSet,
    /// The durable queues, one entry each, by home and then by number.
    pub queues: Box<[Target]>,
    /// The share groups, by home and then by queue number.
    pub groups: Box<[GroupTarget]>,
    /// The queues with a No Local subscription among the matching ones, in order.
    pub no_local: Box<[QueueId]>,
    /// The highest `since` of `queues`: a retained publish above it skips none of them.
    pub newest_since: u64,
    /// The highest QoS of `queues`.
    pub max_qos: QoS,
}

impl Route {
    /// Whether nobody takes the message.
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// Whether a message at `qos` is kept in a queue of this route until it is acknowledged.
    pub fn keeps(&self, qos: QoS) -> bool {
        qos > QoS::AtMostOnce && (self.max_qos > QoS::AtMostOnce || !self.groups.is_empty())
    }

    /// Whether `publisher` must not use this route, since No Local keeps its own messages from it.
    pub fn excludes(&self, publisher: Option<QueueId>) -> bool {
        publisher.is_some_and(|publisher| self.no_local.binary_search(&publisher).is_ok())
    }

    /// Reserves a place for a message at `qos` of `size` bytes in every queue that keeps it: in all of them, or in
    /// none. At QoS 0 no queue keeps it.
    ///
    /// # Errors
    /// The queue that is full and rejects.
    pub fn reserve(&self, qos: QoS, size: usize) -> Result<(), QueueId> {
        let size = size as u64;
        for (taken, (queue, meter)) in self.keeping(qos).enumerate() {
            if !meter.reserve(size) {
                self.keeping(qos).take(taken).for_each(|(_, meter)| meter.release(1, size));
                return Err(queue);
            }
        }
        Ok(())
    }

    /// Gives back what [`Route::reserve`] took for a message that is not sent on after all.
    pub fn release(&self, qos: QoS, size: usize) {
        self.keeping(qos).for_each(|(_, meter)| meter.release(1, size as u64));
    }

    /// Roughly the bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Route>()
            + size_of_val(&*self.queues)
            + size_of_val(&*self.groups)
            + size_of_val(&*self.no_local)
            + self.queues.iter().map(|target| target.identifiers.heap_bytes()).sum::<usize>()
    }

    /// The queues that keep a message published at `qos`.
    fn keeping(&self, qos: QoS) -> impl Iterator<Item = (QueueId, &QueueMeter)> {
        let queues = self
            .queues
            .iter()
            .filter(move |target| target.qos.min(qos) > QoS::AtMostOnce)
            .map(|target| (target.queue, &*target.meter));
        let groups = self
            .groups
            .iter()
            .filter(move |_| qos > QoS::AtMostOnce)
            .map(|target| (target.queue, &*target.meter));
        queues.chain(groups)
    }
}

/// The routes that one shard has used lately.
pub struct RouteCache(TopicCache<Arc<Route>>);

impl Default for RouteCache {
    fn default() -> RouteCache {
        RouteCache::new()
    }
}

impl RouteCache {
    /// An empty cache.
    pub fn new() -> RouteCache {
        RouteCache(TopicCache::new(CACHE_BYTES))
    }

    /// The route of `topic`, if it is known and Interest is still at `generation`.
    pub fn get(&mut self, topic: &str, generation: u64) -> Option<&Arc<Route>> {
        self.0.get(topic, generation)
    }

    /// Remembers the route of `topic`. Routes larger than the whole cache are not kept.
    pub fn insert(&mut self, topic: &str, route: Arc<Route>) {
        let bytes = route.bytes();
        self.0.insert(topic, route.generation, route, bytes);
    }

    /// The bytes that its routes count for.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}
