//! [`Shared`]: the two tables that all shards share, and the order in which they are used.
//!
//! Both sides of the race between a SUBSCRIBE and a retained PUBLISH do two steps, in opposite order. Subscribing
//! raises the generation, then reads the retained version: the subscription's `since`. Publishing takes a version, then
//! reads the generation. So either the publish sees the subscription, or the subscription's `since` covers the publish,
//! and its replay, which reads Retained later, finds that value or a newer one. A retained publish up to `since` is thus
//! the replay's, one above it is delivered live: none is lost, and none comes twice.
//!
//! Lock order: Retained, then Interest. Subscribing never holds two locks.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::acl::{Acl, Current};
use crate::message::{Message, PeerId, QueueId};

use super::interest::Interest;
use super::retained::{Retained, RetainedLimits};
use super::route::{Route, RouteCache};
use super::subscriptions::{Subscription, Subscriptions};

/// Why a lock cannot be poisoned.
const POISON: &str = "a thread that panics ends the process";

/// What all shards share. No lock of it is held across an `.await`.
pub struct Shared {
    interest: RwLock<Interest>,
    generation: AtomicU64,
    retained: RwLock<Retained>,
    retained_version: AtomicU64,
    /// What the process has in use, in bytes, as it was last looked at; 0: never.
    memory: AtomicU64,
    /// What of the store was found damaged.
    damaged: AtomicU64,
}

/// A new or replaced subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The session had this filter.
    pub existed: bool,
    /// The retained version at this SUBSCRIBE: its replay is for versions up to it.
    pub since: u64,
}

impl Shared {
    /// Empty tables.
    pub fn new(limits: RetainedLimits) -> Shared {
        Shared {
            interest: RwLock::new(Interest::new()),
            generation: AtomicU64::new(0),
            retained: RwLock::new(Retained::new(limits)),
            retained_version: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// How many places and messages of the store were found damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// So many were found.
    pub fn set_damaged(&self, found: u64) {
        self.damaged.store(found, Ordering::Relaxed);
    }

    /// What the process has in use, in bytes; 0 if nobody looks.
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// The process has so many bytes in use.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Interest, to read.
    pub fn interest(&self) -> RwLockReadGuard<'_, Interest> {
        self.interest.read().expect(POISON)
    }

    /// Changes Interest, and voids every cached route. `change` is also given the retained version: the `since` of the
    /// subscriptions that it adds.
    pub fn change_interest<R>(&self, change: impl FnOnce(&mut Interest, u64) -> R) -> R {
        let mut changing = self.changing();
        let since = changing.since();
        change(&mut changing.interest, since)
    }

    /// What clients may do at present.
    pub fn rules(&self) -> Current {
        self.interest().guard.rules().clone()
    }

    /// Other rules hold: every route is decided anew from here on. Each shard is to be told of them as well.
    pub fn set_rules(&self, acl: Option<Arc<Acl>>) -> Current {
        self.change_interest(|interest, _| interest.guard.set_rules(acl))
    }

    fn changing(&self) -> Changing<'_> {
        let mut interest = self.interest.write().expect(POISON);
        interest.generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        Changing { interest, retained_version: &self.retained_version }
    }

    /// Adds a transient session's subscription, of which `since` is set here, to its shard's own table and, where it is
    /// the first of that filter on that shard, to Interest.
    pub fn subscribe_transient(
        &self,
        peer: PeerId,
        subscriptions: &mut Subscriptions,
        filter: &str,
        subscription: Subscription,
    ) -> Subscribed {
        let since = if subscriptions.holds(filter) {
            self.retained_version.load(Ordering::SeqCst)
        } else {
            self.change_interest(|interest, since| {
                interest.add_peer(filter, peer);
                since
            })
        };
        let inserted = subscriptions.insert(filter, Subscription { since, ..subscription });
        Subscribed { existed: inserted.existed, since }
    }

    /// Removes a transient session's subscription from its shard's own table and, where it was the last of that filter
    /// on that shard, from Interest. Returns whether there was one.
    pub fn unsubscribe_transient(
        &self,
        peer: PeerId,
        subscriptions: &mut Subscriptions,
        filter: &str,
        session: u32,
    ) -> bool {
        let removed = subscriptions.remove(filter, session);
        if removed.last {
            self.change_interest(|interest, _| interest.remove_peer(filter, peer));
        }
        removed.existed
    }

    /// The same as [`Shared::route`] for the topic that it was last asked for, if it was this one: most messages go where
    /// the one before them went.
    pub fn last_route(
        &self,
        cache: &RouteCache,
        topic: &[u8],
        publisher: Option<QueueId>,
    ) -> Option<Arc<Route>> {
        let route = cache.last(topic, self.generation.load(Ordering::SeqCst))?;
        (!route.excludes(publisher)).then(|| Arc::clone(route))
    }

    /// Where a message to `topic` goes that `publisher` published, from the shard's cache where that is still true.
    pub fn route(&self, cache: &mut RouteCache, topic: &str, publisher: Option<QueueId>) -> Arc<Route> {
        let generation = self.generation.load(Ordering::SeqCst);
        let route = match cache.get(topic, generation) {
            Some(route) => Arc::clone(route),
            None => {
                let route = Arc::new(self.interest().route(topic, None));
                cache.insert(topic, Arc::clone(&route));
                route
            }
        };
        cache.remember(topic, &route);
        if route.excludes(publisher) { Arc::new(self.interest().route(topic, publisher)) } else { route }
    }

    /// Whether Interest is still as `route` read it.
    pub fn is_current(&self, route: &Route) -> bool {
        self.generation.load(Ordering::SeqCst) == route.generation
    }

    /// Retained, to read.
    pub fn retained(&self) -> RwLockReadGuard<'_, Retained> {
        self.retained.read().expect(POISON)
    }

    /// Retains as much as `limits` say from now on.
    pub fn set_retained_limits(&self, limits: RetainedLimits) {
        self.retained.write().expect(POISON).set_limits(limits);
    }

    /// Takes up what was retained before, of which `version` was the newest that anybody has seen.
    pub fn restore_retained(&self, messages: Vec<Arc<Message>>, version: u64) {
        let mut retained = self.retained.write().expect(POISON);
        for message in messages {
            retained.put(message);
        }
        self.retained_version.store(version, Ordering::SeqCst);
    }

    /// Retained, to write. It is held until the publish is routed and pushed, so that versions, the store's order and
    /// the table agree.
    pub fn retaining(&self) -> Retaining<'_> {
        Retaining { retained: self.retained.write().expect(POISON), retained_version: &self.retained_version }
    }
}

/// Interest, locked for a change and with its generation raised: only then may the retained version be read.
struct Changing<'a> {
    interest: RwLockWriteGuard<'a, Interest>,
    retained_version: &'a AtomicU64,
}

impl Changing<'_> {
    fn since(&self) -> u64 {
        self.retained_version.load(Ordering::SeqCst)
    }
}

/// Retained, locked for one retained publish.
pub struct Retaining<'a> {
    retained: RwLockWriteGuard<'a, Retained>,
    retained_version: &'a AtomicU64,
}

impl Retaining<'_> {
    /// Takes the next version, never 0. It is for a publish that changes Retained now, a clearing one included; the
    /// route is to be read after it. A message that is delivered without being retained has version 0.
    pub fn next_version(&mut self) -> u64 {
        self.retained_version.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Deref for Retaining<'_> {
    type Target = Retained;

    fn deref(&self) -> &Retained {
        &self.retained
    }
}

impl DerefMut for Retaining<'_> {
    fn deref_mut(&mut self) -> &mut Retained {
        &mut self.retained
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::broker::interest::QueueSubscription;
    use crate::broker::retained::Position;
    use crate::broker::samples::retained;
    use crate::limits::QueueRule;
    use crate::meter::QueueMeter;
    use crate::protocol::packet::QoS;

    const LIMITS: RetainedLimits = RetainedLimits { messages: 1000, bytes: 1 << 20 };

    fn queue_subscription(queue: u64, since: u64) -> QueueSubscription {
        QueueSubscription {
            queue: QueueId(queue),
            home: PeerId(0),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            identifier: 0,
            since,
            meter: Arc::new(QueueMeter::new(&QueueRule::default())),
        }
    }

    fn transient(session: u32) -> Subscription {
        Subscription {
            session,
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            identifier: 0,
            since: u64::MAX,
        }
    }

    #[test]
    fn every_change_of_interest_voids_cached_routes() {
        let shared = Shared::new(LIMITS);
        let mut cache = RouteCache::new();
        let before = shared.route(&mut cache, "a", None);
        assert!(before.is_empty());
        assert!(Arc::ptr_eq(&before, &shared.route(&mut cache, "a", Some(QueueId(1)))));
        shared.change_interest(|interest, since| interest.subscribe("+", queue_subscription(1, since)));
        assert!(!shared.is_current(&before));
        let after = shared.route(&mut cache, "a", None);
        assert!(shared.is_current(&after));
        assert_eq!(after.queues.len(), 1);
        shared.change_interest(|interest, _| interest.unsubscribe("+", QueueId(1)));
        assert!(shared.route(&mut cache, "a", None).is_empty());
    }

    #[test]
    fn a_publisher_with_no_local_gets_its_own_route() {
        let shared = Shared::new(LIMITS);
        let mut cache = RouteCache::new();
        shared.change_interest(|interest, since| {
            interest.subscribe("a", QueueSubscription { no_local: true, ..queue_subscription(1, since) });
            interest.subscribe("a", queue_subscription(2, since));
        });
        for _ in 0..2 {
            assert_eq!(shared.route(&mut cache, "a", Some(QueueId(1))).queues.len(), 1);
            assert_eq!(shared.route(&mut cache, "a", Some(QueueId(2))).queues.len(), 2);
        }
    }

    #[test]
    fn transient_subscriptions_reach_interest_once_a_filter_and_shard() {
        let shared = Shared::new(LIMITS);
        let mut subscriptions = Subscriptions::new();
        let mut cache = RouteCache::new();
        let peer = PeerId(3);
        shared.retaining().next_version();
        let first = shared.subscribe_transient(peer, &mut subscriptions, "a", transient(1));
        assert_eq!(first, Subscribed { existed: false, since: 1 });
        let route = shared.route(&mut cache, "a", None);
        assert!(route.peers.contains(peer) && route.homes.contains(peer));
        shared.retaining().next_version();
        let second = shared.subscribe_transient(peer, &mut subscriptions, "a", transient(2));
        assert_eq!(second, Subscribed { existed: false, since: 2 });
        assert!(shared.is_current(&route), "Interest does not change for it");
        let again = shared.subscribe_transient(peer, &mut subscriptions, "a", transient(1));
        assert_eq!(again, Subscribed { existed: true, since: 2 });
        let since: Vec<u64> = subscriptions.matching("a", None).iter().map(|taker| taker.since).collect();
        assert_eq!(since, [1, 2]);
        assert!(shared.unsubscribe_transient(peer, &mut subscriptions, "a", 1));
        assert!(shared.is_current(&route));
        assert!(shared.unsubscribe_transient(peer, &mut subscriptions, "a", 2));
        assert!(!shared.unsubscribe_transient(peer, &mut subscriptions, "a", 2));
        assert!(shared.route(&mut cache, "a", None).is_empty());
        assert_eq!(shared.interest().filters(), 0);
    }

    /// One retained publish: its version, and the queues it was routed to with the `since` of each.
    type Publish = (u64, Vec<(QueueId, u64)>);

    fn publish(shared: &Shared, cache: &mut RouteCache) -> Publish {
        let mut retaining = shared.retaining();
        let version = retaining.next_version();
        retaining.set(retained("topic", version, b"")).unwrap();
        let route = shared.route(cache, "topic", None);
        (version, route.queues.iter().map(|target| (target.queue, target.since)).collect())
    }

    #[test]
    fn a_retained_publish_between_the_steps_of_a_subscribe_is_the_replays() {
        let shared = Shared::new(LIMITS);
        let known = shared.route(&mut RouteCache::new(), "a", None);
        let before = shared.retaining().next_version();
        assert!(shared.is_current(&known), "the subscription is too late for it");
        let changing = shared.changing();
        let between = shared.retaining().next_version();
        assert!(!shared.is_current(&known), "it reads Interest anew, and finds the subscription");
        let since = changing.since();
        assert!(before < between && between <= since, "whose replay is to bring both");
        drop(changing);
        assert!(shared.retaining().next_version() > since, "what comes later is delivered live");
    }

    #[test]
    fn a_subscribe_that_races_retained_publishes_loses_none_and_doubles_none() {
        const QUEUES: u64 = 300;
        let shared = Shared::new(LIMITS);
        let done = AtomicBool::new(false);
        let (publishes, subscribes) = std::thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let mut cache = RouteCache::new();
                let mut publishes = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    publishes.push(publish(&shared, &mut cache));
                }
                publishes.push(publish(&shared, &mut cache));
                publishes
            });
            let subscribe = |queue| {
                let since = shared.change_interest(|interest, since| {
                    interest.subscribe("topic", queue_subscription(queue, since));
                    since
                });
                let mut replayed = 0;
                shared.retained().scan("topic", &mut Position::start(), &mut 10, |message| {
                    replayed = message.version;
                    ControlFlow::Continue(())
                });
                (QueueId(queue), since, replayed)
            };
            let subscribes: Vec<_> = (0..QUEUES).map(subscribe).collect();
            done.store(true, Ordering::Relaxed);
            (publisher.join().unwrap(), subscribes)
        });
        for (queue, since, replayed) in subscribes {
            assert!(replayed >= since, "the replay reads what `since` covers, or newer");
            for (version, targets) in publishes.iter().filter(|(version, _)| *version > since) {
                let routed = targets.contains(&(queue, since));
                assert!(routed, "publish {version}, after {since}, must reach {queue:?} live");
            }
        }
    }
}
