//! [`Route`]: everything that decides where a message to one topic goes, as the publisher's shard reads it once from
//! Interest; and the cache of routes that each shard keeps.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::message::{PeerId, QueueId};
use crate::meter::{Level, QueueMeter};
use crate::protocol::packet::QoS;
use crate::target::{GroupTarget, Target};

use super::cache::TopicCache;
use super::ids::PeerSet;

/// The bytes that a shard's cached routes may take.
const CACHE_BYTES: usize = 4 << 20;

/// Where messages to one topic go.
#[derive(Debug)]
pub struct Route {
    /// The generation of Interest that it was read from.
    pub generation: u64,
    /// The version of the rules by which all of `queues` and `groups` may read it; of none if they are still to be asked.
    pub rules: u64,
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
    /// How many took its messages on the shard where most did, as far as is known.
    pub takers: AtomicU32,
}

impl Route {
    /// So many take its messages on some shard.
    pub fn note_takers(&self, takers: usize) {
        let takers = takers as u32;
        if takers > self.takers.load(Relaxed) {
            self.takers.fetch_max(takers, Relaxed);
        }
    }

    /// Whether nobody takes the message.
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// How many queues and groups take a message of this retained version, 0 for none.
    pub fn durable_takers(&self, version: u64) -> usize {
        let live = |target: &&Target| version == 0 || version > target.since;
        let all = version == 0 || version > self.newest_since;
        let queues = if all { self.queues.len() } else { self.queues.iter().filter(live).count() };
        queues + self.groups.len()
    }

    /// Whether a message at `qos` is kept on disk for a queue of this route until it is acknowledged.
    pub fn keeps(&self, qos: QoS) -> bool {
        let shared = || self.groups.iter().any(|group| group.durable);
        qos > QoS::AtMostOnce && (self.max_qos > QoS::AtMostOnce || shared())
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

    /// The queues that keep a message at `qos` and come nearer to their limits than was told before.
    pub fn rising(&self, qos: QoS) -> impl Iterator<Item = (QueueId, Level)> {
        self.keeping(qos).filter_map(|(queue, meter)| Some((queue, meter.rises()?)))
    }

    /// That a queue of this route has refused a message, if it was not told before.
    pub fn refused(&self, queue: QueueId) -> Option<Level> {
        let meters = self.keeping(QoS::ExactlyOnce);
        meters.into_iter().find(|(held, _)| *held == queue).and_then(|(_, meter)| meter.refused())
    }

    /// Where a queue or group of this route lives.
    pub fn home(&self, queue: QueueId) -> Option<PeerId> {
        let of_queue = self.queues.iter().find(|target| target.queue == queue).map(|target| target.home);
        of_queue.or_else(|| self.groups.iter().find(|target| target.queue == queue).map(|target| target.home))
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
            .filter(move |target| target.durable && qos > QoS::AtMostOnce)
            .map(|target| (target.queue, &*target.meter));
        queues.chain(groups)
    }
}

/// The routes that one shard has used lately.
pub struct RouteCache {
    routes: TopicCache<Arc<Route>>,
    /// The topic of the last message, and its route.
    last_topic: Vec<u8>,
    last: Option<Arc<Route>>,
}

impl Default for RouteCache {
    fn default() -> RouteCache {
        RouteCache::new()
    }
}

impl RouteCache {
    /// An empty cache.
    pub fn new() -> RouteCache {
        RouteCache { routes: TopicCache::new(CACHE_BYTES), last_topic: Vec::new(), last: None }
    }

    /// The route that was last remembered, if it is that of `topic` and Interest is still at `generation`.
    pub fn last(&self, topic: &[u8], generation: u64) -> Option<&Arc<Route>> {
        self.last.as_ref().filter(|route| route.generation == generation && self.last_topic == topic)
    }

    /// Remembers the route of the last message.
    pub fn remember(&mut self, topic: &str, route: &Arc<Route>) {
        self.last_topic.clear();
        self.last_topic.extend_from_slice(topic.as_bytes());
        self.last = Some(Arc::clone(route));
    }

    /// The route of `topic`, if it is known and Interest is still at `generation`.
    pub fn get(&mut self, topic: &str, generation: u64) -> Option<&Arc<Route>> {
        self.routes.get(topic, generation)
    }

    /// Remembers the route of `topic`. Routes larger than the whole cache are not kept.
    pub fn insert(&mut self, topic: &str, route: Arc<Route>) {
        let bytes = route.bytes();
        self.routes.insert(topic, route.generation, route, bytes);
    }

    /// The bytes that its routes count for.
    pub fn bytes(&self) -> usize {
        self.routes.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::QueueRule;
    use crate::message::PeerId;
    use crate::target::Identifiers;

    fn meter(max_messages: u64) -> Arc<QueueMeter> {
        Arc::new(QueueMeter::new(&QueueRule { max_messages, ..QueueRule::default() }))
    }

    fn target(queue: u64, qos: QoS, max_messages: u64) -> Target {
        Target {
            queue: QueueId(queue),
            home: PeerId(0),
            qos,
            retain_as_published: false,
            identifiers: Identifiers::default(),
            since: 0,
            meter: meter(max_messages),
        }
    }

    fn group(queue: u64, max_messages: u64) -> GroupTarget {
        let home = PeerId(0);
        GroupTarget {
            queue: QueueId(queue),
            home,
            filter: "f".into(),
            group: "g".into(),
            durable: true,
            meter: meter(max_messages),
        }
    }

    fn route(generation: u64, queues: Vec<Target>, groups: Vec<GroupTarget>) -> Route {
        Route {
            generation,
            rules: 0,
            peers: PeerSet::EMPTY,
            homes: PeerSet::EMPTY,
            newest_since: 0,
            max_qos: queues.iter().map(|target| target.qos).max().unwrap_or(QoS::AtMostOnce),
            queues: queues.into(),
            groups: groups.into(),
            no_local: Box::default(),
            takers: AtomicU32::new(0),
        }
    }

    fn held(route: &Route) -> Vec<(u64, u64)> {
        let queues = route.queues.iter().map(|target| &target.meter);
        let groups = route.groups.iter().map(|target| &target.meter);
        queues.chain(groups).map(|meter| (meter.messages(), meter.bytes())).collect()
    }

    #[test]
    fn reserves_in_every_queue_or_in_none() {
        let one = QoS::AtLeastOnce;
        let queues = vec![target(1, one, 9), target(2, QoS::AtMostOnce, 9), target(3, one, 2)];
        let route = route(0, queues, vec![group(4, 1)]);
        assert_eq!(route.reserve(one, 10), Ok(()));
        assert_eq!(held(&route), [(1, 10), (0, 0), (1, 10), (1, 10)]);
        assert_eq!(route.reserve(one, 10), Err(QueueId(4)), "the last one is full");
        assert_eq!(held(&route), [(1, 10), (0, 0), (1, 10), (1, 10)], "and all others got back theirs");
        route.groups[0].meter.release(1, 10);
        assert_eq!(route.reserve(QoS::ExactlyOnce, 5), Ok(()));
        route.groups[0].meter.release(1, 5);
        assert_eq!(route.reserve(one, 1), Err(QueueId(3)), "one in the middle is full");
        assert_eq!(held(&route), [(2, 15), (0, 0), (2, 15), (0, 0)]);
        assert_eq!(route.reserve(QoS::AtMostOnce, 1), Ok(()), "at QoS 0 no queue keeps it");
        assert_eq!(held(&route), [(2, 15), (0, 0), (2, 15), (0, 0)]);
    }

    #[test]
    fn a_release_gives_back_what_a_reservation_took() {
        let route = route(0, vec![target(1, QoS::AtLeastOnce, 9)], vec![group(2, 9)]);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(route.reserve(qos, 7), Ok(()));
            route.release(qos, 7);
            assert_eq!(held(&route), [(0, 0), (0, 0)]);
        }
    }

    #[test]
    fn a_route_keeps_what_both_sides_want_at_qos_1_or_above() {
        let transient = route(0, vec![], vec![]);
        let low = route(0, vec![target(1, QoS::AtMostOnce, 9)], vec![]);
        let high = route(0, vec![target(1, QoS::ExactlyOnce, 9)], vec![]);
        let shared = route(0, vec![], vec![group(1, 9)]);
        let passing = route(0, vec![], vec![GroupTarget { durable: false, ..group(1, 9) }]);
        let kept = |qos| [&transient, &low, &high, &shared, &passing].map(|route| route.keeps(qos));
        assert_eq!(kept(QoS::AtMostOnce), [false; 5]);
        assert_eq!(kept(QoS::AtLeastOnce), [false, false, true, true, false]);
    }

    #[test]
    fn the_cache_forgets_by_generation_and_refuses_what_is_larger_than_itself() {
        let mut cache = RouteCache::new();
        cache.insert("a", Arc::new(route(1, vec![], vec![])));
        assert_eq!(cache.get("a", 1).map(|route| route.generation), Some(1));
        assert!(cache.get("a", 2).is_none());
        let many: Vec<Target> = (0..100_000).map(|queue| target(queue, QoS::AtLeastOnce, 9)).collect();
        let large = Arc::new(route(2, many, vec![]));
        assert!(large.bytes() > CACHE_BYTES);
        cache.insert("a", large);
        assert!(cache.get("a", 2).is_none());
        assert_eq!(cache.bytes(), 0);
    }
}
