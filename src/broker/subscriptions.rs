//! [`Subscriptions`]: topic filter → the transient sessions of one shard that hold it. Sessions are named by their index
//! in the shard's slab, and results are in that order.

use std::rc::Rc;

use crate::protocol::packet::QoS;

use super::cache::TopicCache;
use super::ids::{Grant, Merged};
use super::members::Members;
use super::trie::Trie;
use crate::target::Identifiers;

/// The bytes that remembered results may take.
const CACHE_BYTES: usize = 4 << 20;

/// Roughly what a session costs in the list of a filter that it does not hold alone.
const LISTED_BYTES: usize = 32;

/// A transient session's subscription to one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The session's index in its shard's slab.
    pub session: u32,
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier; 0 for none.
    pub identifier: u32,
    /// Retained publishes up to this version reach it by the retained replay, not live.
    pub since: u64,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The session had this filter: its subscription was replaced [MQTT-3.8.4-3], except that it keeps its `since`, so
    /// that nothing is lost live [MQTT-3.8.4-4].
    pub existed: bool,
    /// Nobody on this shard had it before.
    pub first: bool,
}

/// What became of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The session had this filter.
    pub existed: bool,
    /// And nobody on this shard has it any more.
    pub last: bool,
}

/// A session that takes a topic's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taker {
    /// The session's index in its shard's slab.
    pub session: u32,
    /// The highest of the matching subscriptions' QoS.
    pub qos: QoS,
    /// Whether any matching subscription asks for Retain As Published.
    pub retain_as_published: bool,
    /// The identifiers of all matching subscriptions.
    pub identifiers: Identifiers,
    /// The lowest `since` of the matching subscriptions: a retained publish above it is delivered live.
    pub since: u64,
}

/// Topic filter → local transient sessions.
pub struct Subscriptions {
    filters: Trie<Members<u32, Grant>>,
    cache: TopicCache<Found>,
    /// Rises with every change: what the cache holds from before is void.
    generation: u64,
    count: usize,
    scratch: Scratch,
}

/// What matching gathers, kept from topic to topic.
#[derive(Default)]
struct Scratch {
    grants: Vec<(u32, Grant)>,
    takers: Vec<Taker>,
}

/// A scratch for more subscriptions than this is not kept.
const KEPT: usize = 1024;

/// Who takes a topic's messages, whoever publishes them.
struct Found {
    takers: Rc<[Taker]>,
    /// The sessions among them with a No Local subscription: theirs differ when they publish themselves.
    no_local: Box<[u32]>,
}

impl Default for Subscriptions {
    fn default() -> Subscriptions {
        Subscriptions::new()
    }
}

impl Subscriptions {
    /// No subscriptions.
    pub fn new() -> Subscriptions {
        Subscriptions {
            filters: Trie::new(),
            cache: TopicCache::new(CACHE_BYTES),
            generation: 0,
            count: 0,
            scratch: Scratch::default(),
        }
    }

    /// Adds `subscription` to `filter`, or replaces the session's earlier one.
    pub fn insert(&mut self, filter: &str, subscription: Subscription) -> Inserted {
        let Subscription { session, qos, no_local, retain_as_published, identifier, since } = subscription;
        let mut grant = Grant { since, identifier, qos, no_local, retain_as_published };
        let members = self.filters.get_or_insert_with(filter, || Members::None);
        let first = members.is_empty();
        let old = members.get(session);
        let existed = old.is_some();
        if let Some(old) = old {
            grant.since = old.since;
        }
        members.insert(session, grant);
        self.count += usize::from(!existed);
        self.generation += 1;
        Inserted { existed, first }
    }

    /// Removes `session` from `filter`.
    pub fn remove(&mut self, filter: &str, session: u32) -> Removed {
        let Some(members) = self.filters.get_mut(filter) else {
            return Removed { existed: false, last: false };
        };
        let existed = members.remove(session).is_some();
        let last = members.is_empty();
        if existed {
            self.count -= 1;
            self.generation += 1;
        }
        if last {
            self.filters.remove(filter);
        }
        Removed { existed, last }
    }

    /// Whether anybody on this shard holds `filter`.
    pub fn holds(&self, filter: &str) -> bool {
        self.filters.get(filter).is_some()
    }

    /// What they may read has changed.
    pub fn forget_matches(&mut self) {
        self.generation += 1;
    }

    /// Who takes a message to `topic` that `publisher`, if it is a session of this shard, published. One entry a
    /// session, in order of their indices.
    pub fn matching(&mut self, topic: &str, publisher: Option<u32>) -> Rc<[Taker]> {
        self.matching_of(topic, publisher, |_| true)
    }

    /// The same without those who may not read it. What they may is remembered with the answer, until
    /// [`Subscriptions::forget_matches`].
    pub fn matching_of(
        &mut self,
        topic: &str,
        publisher: Option<u32>,
        may_read: impl Fn(u32) -> bool,
    ) -> Rc<[Taker]> {
        if let Some(found) = self.cache.get(topic, self.generation) {
            if publisher.is_none_or(|publisher| found.no_local.binary_search(&publisher).is_err()) {
                return Rc::clone(&found.takers);
            }
            return self.merged(topic, publisher, &may_read).0;
        }
        let (takers, no_local) = self.merged(topic, None, &may_read);
        if publisher.is_some_and(|publisher| no_local.binary_search(&publisher).is_ok()) {
            return self.merged(topic, publisher, &may_read).0;
        }
        let bytes = size_of_val(&*takers)
            + size_of_val(&*no_local)
            + takers.iter().map(|taker| taker.identifiers.heap_bytes()).sum::<usize>();
        let found = Found { takers: Rc::clone(&takers), no_local };
        self.cache.insert(topic, self.generation, found, bytes);
        takers
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many different filters they hold.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// Roughly the bytes it has reserved, its cache included.
    pub fn bytes(&self) -> usize {
        self.filters.bytes() + (self.count - self.filters.len()) * LISTED_BYTES + self.cache.bytes()
    }

    /// Who takes a message that `publisher` published and may read it, and who of them has a No Local subscription.
    fn merged(
        &mut self,
        topic: &str,
        publisher: Option<u32>,
        may_read: &impl Fn(u32) -> bool,
    ) -> (Rc<[Taker]>, Box<[u32]>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.gather(topic, publisher, may_read, &mut scratch.grants);
        let no_local = sessions_with_no_local(&scratch.grants);
        scratch.takers.extend(merge(&scratch.grants));
        // Of a known number: one allocation, which is the result.
        let takers = scratch.takers.drain(..).collect();
        scratch.grants.clear();
        if scratch.grants.capacity() <= KEPT {
            self.scratch = scratch;
        }
        (takers, no_local)
    }

    /// Every matching subscription but those that No Local keeps from `publisher` and of those who may not read, by session.
    fn gather(
        &self,
        topic: &str,
        publisher: Option<u32>,
        may_read: &impl Fn(u32) -> bool,
        grants: &mut Vec<(u32, Grant)>,
    ) {
        let mut filters = 0;
        self.filters.for_each_match(topic, |members| {
            filters += 1;
            let held = members.iter().filter(|(session, _)| may_read(*session));
            grants.extend(held.map(|(session, grant)| (session, *grant)));
        });
        if filters > 1 {
            grants.sort_by_key(|&(session, _)| session);
        }
        if let Some(publisher) = publisher {
            // Before merging: a second, ordinary subscription of the publisher still matches [MQTT-3.8.3-3].
            grants.retain(|&(session, grant)| !(grant.no_local && session == publisher));
        }
    }
}

fn merge(grants: &[(u32, Grant)]) -> impl Iterator<Item = Taker> {
    let runs = grants.chunk_by(|(left, _), (right, _)| left == right);
    runs.map(|run| {
        let merged = Merged::new(&run[0].1, run[1..].iter().map(|(_, grant)| grant));
        Taker {
            session: run[0].0,
            qos: merged.qos,
            retain_as_published: merged.retain_as_published,
            identifiers: merged.identifiers,
            since: merged.since,
        }
    })
}

fn sessions_with_no_local(grants: &[(u32, Grant)]) -> Box<[u32]> {
    let mut sessions: Vec<u32> =
        grants.iter().filter(|(_, grant)| grant.no_local).map(|&(session, _)| session).collect();
    sessions.dedup();
    sessions.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::broker::samples::Samples;
    use crate::protocol::topic::matches;

    fn subscription(session: u32) -> Subscription {
        Subscription {
            session,
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            identifier: 0,
            since: 0,
        }
    }

    fn sessions(takers: &[Taker]) -> Vec<u32> {
        takers.iter().map(|taker| taker.session).collect()
    }

    type Model = BTreeMap<(String, u32), Subscription>;

    /// What `matching` is to answer, by the rules at their plainest.
    fn expected(model: &Model, topic: &str, publisher: Option<u32>) -> Vec<Taker> {
        let mut takers = BTreeMap::new();
        for ((filter, session), held) in model {
            if !matches(filter, topic) || (held.no_local && Some(*session) == publisher) {
                continue;
            }
            takers.entry(*session).or_insert_with(Vec::new).push(*held);
        }
        let merge = |(session, held): (u32, Vec<Subscription>)| {
            let mut identifiers: Vec<u32> =
                held.iter().map(|one| one.identifier).filter(|&id| id != 0).collect();
            identifiers.sort();
            let qos = held.iter().map(|one| one.qos).max().unwrap();
            let since = held.iter().map(|one| one.since).min().unwrap();
            let retain_as_published = held.iter().any(|one| one.retain_as_published);
            let identifiers = Identifiers::several(identifiers);
            Taker { session, qos, retain_as_published, identifiers, since }
        };
        takers.into_iter().map(merge).collect()
    }

    #[test]
    fn agrees_with_a_plain_list_on_random_subscriptions() {
        let mut samples = Samples::new();
        let seed = samples.seed;
        for _ in 0..10 {
            let mut subscriptions = Subscriptions::new();
            let mut model = Model::new();
            for since in 0..300 {
                let filter = samples.filter();
                let session = samples.random.u32(..8);
                let key = (filter.clone(), session);
                let holders = |model: &Model| model.keys().filter(|(held, _)| *held == filter).count();
                if samples.random.u8(..4) == 0 {
                    let existed = model.remove(&key).is_some();
                    let last = existed && holders(&model) == 0;
                    assert_eq!(
                        subscriptions.remove(&filter, session),
                        Removed { existed, last },
                        "seed {seed}"
                    );
                } else {
                    let new = Subscription {
                        session,
                        qos: samples.qos(),
                        no_local: samples.random.u8(..4) == 0,
                        retain_as_published: samples.random.bool(),
                        identifier: samples.random.u32(..3),
                        since,
                    };
                    let first = holders(&model) == 0;
                    let old = model.get(&key).map(|old| old.since);
                    let existed = old.is_some();
                    assert_eq!(
                        subscriptions.insert(&filter, new),
                        Inserted { existed, first },
                        "seed {seed}"
                    );
                    model.insert(key, Subscription { since: old.unwrap_or(since), ..new });
                }
                assert_eq!(subscriptions.len(), model.len(), "seed {seed}");
                for _ in 0..3 {
                    let topic = samples.topic();
                    let publisher = samples.random.bool().then(|| samples.random.u32(..8));
                    for publisher in [publisher, None, publisher] {
                        let takers = subscriptions.matching(&topic, publisher);
                        assert_eq!(*takers, expected(&model, &topic, publisher), "seed {seed}: {topic}");
                    }
                }
            }
            for (filter, session) in model.into_keys() {
                assert!(subscriptions.remove(&filter, session).existed);
            }
            assert!(subscriptions.is_empty());
            assert_eq!(subscriptions.filters(), 0);
            assert!(subscriptions.matching("a", None).is_empty());
        }
    }

    #[test]
    fn overlapping_filters_make_one_taker_with_the_highest_qos_and_every_identifier() {
        let mut subscriptions = Subscriptions::new();
        let low = Subscription { identifier: 7, since: 4, ..subscription(1) };
        let high = Subscription { qos: QoS::ExactlyOnce, identifier: 3, since: 9, ..subscription(1) };
        subscriptions.insert("a/#", low);
        subscriptions.insert("a/+", Subscription { retain_as_published: true, ..high });
        let taker = Taker {
            session: 1,
            qos: QoS::ExactlyOnce,
            retain_as_published: true,
            identifiers: Identifiers::several(vec![3, 7]),
            since: 4,
        };
        assert_eq!(*subscriptions.matching("a/b", None), [taker]);
    }

    #[test]
    fn no_local_keeps_only_the_publishers_own_messages_from_it() {
        let mut subscriptions = Subscriptions::new();
        subscriptions.insert("a", Subscription { no_local: true, ..subscription(1) });
        subscriptions.insert("a", Subscription { no_local: true, ..subscription(2) });
        subscriptions.insert("a", subscription(3));
        for _ in 0..2 {
            assert_eq!(sessions(&subscriptions.matching("a", Some(1))), [2, 3]);
            assert_eq!(sessions(&subscriptions.matching("a", Some(2))), [1, 3]);
            assert_eq!(sessions(&subscriptions.matching("a", Some(3))), [1, 2, 3]);
            assert_eq!(sessions(&subscriptions.matching("a", None)), [1, 2, 3]);
        }
        subscriptions.insert("#", subscription(1));
        assert_eq!(
            sessions(&subscriptions.matching("a", Some(1))),
            [1, 2, 3],
            "its other subscription matches"
        );
    }

    #[test]
    fn an_answer_is_shared_until_a_subscription_changes() {
        let mut subscriptions = Subscriptions::new();
        subscriptions.insert("a", subscription(1));
        let first = subscriptions.matching("a", None);
        assert!(Rc::ptr_eq(&first, &subscriptions.matching("a", Some(1))));
        subscriptions.insert("+", subscription(2));
        assert_eq!(sessions(&subscriptions.matching("a", None)), [1, 2]);
        subscriptions.remove("a", 1);
        assert_eq!(sessions(&subscriptions.matching("a", None)), [2]);
        subscriptions.insert("+", Subscription { qos: QoS::AtLeastOnce, ..subscription(2) });
        assert_eq!(subscriptions.matching("a", None)[0].qos, QoS::AtLeastOnce);
    }

    #[test]
    fn a_filter_of_100_000_sessions_is_quick_to_change_and_to_match() {
        const COUNT: u32 = 100_000;
        let mut samples = Samples::new();
        let mut order: Vec<u32> = (0..COUNT).collect();
        samples.random.shuffle(&mut order);
        let mut subscriptions = Subscriptions::new();
        for &session in &order {
            subscriptions.insert("a/b", subscription(session));
        }
        subscriptions.insert("a/+", subscription(COUNT / 2));
        let takers = subscriptions.matching("a/b", None);
        assert!(sessions(&takers).into_iter().eq(0..COUNT));
        assert!(Rc::ptr_eq(&takers, &subscriptions.matching("a/b", None)), "it still fits the cache");
        subscriptions.remove("a/+", COUNT / 2);
        // From the front, where a sorted array would move up to 2 MB each time.
        for session in 0..COUNT {
            assert_eq!(subscriptions.remove("a/b", session).last, session == COUNT - 1);
        }
        assert!(subscriptions.is_empty());
        drop(takers);
        subscriptions.matching("a/b", None);
        assert!(subscriptions.bytes() < 1000);
    }

    #[test]
    fn a_taker_and_a_subscription_are_small() {
        assert_eq!(size_of::<Subscription>(), 24);
        assert_eq!(size_of::<Taker>(), 32);
    }
}
