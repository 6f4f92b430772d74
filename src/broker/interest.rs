//! [`Interest`]: topic filter → the peers with transient takers, the subscriptions of persistent sessions, and the share
//! groups. One for all shards, read by the publisher's shard, which decides alone and once where a message goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::acl::Owner;
use crate::message::{PeerId, QueueId};
use crate::protocol::packet::QoS;

use super::guard::{Guard, UNDECIDED};
use super::ids::{Grant, Merged, PeerSet};
use super::members::Members;
use super::route::Route;
use super::trie::Trie;
use crate::meter::QueueMeter;
use crate::target::{GroupTarget, Target};

/// A persistent session's subscription to one filter.
#[derive(Clone, Debug)]
pub struct QueueSubscription {
    /// The session's queue.
    pub queue: QueueId,
    /// The shard the session lives on.
    pub home: PeerId,
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
    /// How full the queue is: one meter for all subscriptions of a session.
    pub meter: Arc<QueueMeter>,
}

/// The share group that a member joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The group's queue.
    pub queue: QueueId,
    /// The shard the queue lives on.
    pub home: PeerId,
    /// How full it is.
    pub meter: Arc<QueueMeter>,
    /// This is the group's first member: the queue is new.
    pub created: bool,
}

/// The share group that a member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The group's queue.
    pub queue: QueueId,
    /// The shard the queue lives on.
    pub home: PeerId,
    /// That was its last member: the group is gone.
    pub last: bool,
}

/// Topic filter → who wants its messages.
#[derive(Default)]
pub struct Interest {
    filters: Trie<Entry>,
    pub(super) generation: u64,
    subscriptions: usize,
    memberships: usize,
    pub(super) guard: Guard,
}

/// All that is wanted of one filter. Most filters have transient takers only and pay for nothing else.
#[derive(Default)]
struct Entry {
    peers: PeerSet,
    durable: Option<Box<Durable>>,
}

/// The queues behind one filter.
struct Durable {
    queues: Members<QueueId, Held>,
    groups: BTreeMap<Arc<str>, Group>,
}

/// A persistent session's subscription, without the number it is filed under.
struct Held {
    grant: Grant,
    home: PeerId,
    meter: Arc<QueueMeter>,
}

struct Group {
    queue: QueueId,
    home: PeerId,
    members: u32,
    /// Those of them that are persistent sessions.
    persistent: u32,
    filter: Arc<str>,
    meter: Arc<QueueMeter>,
}

impl Interest {
    /// Nobody wants anything.
    pub fn new() -> Interest {
        Interest::default()
    }

    /// Notes that `peer` has transient takers of `filter`; returns whether that is new.
    pub fn add_peer(&mut self, filter: &str, peer: PeerId) -> bool {
        self.filters.get_or_insert_with(filter, Entry::default).peers.insert(peer)
    }

    /// Notes that `peer` has no transient takers of `filter` any more; returns whether it had.
    pub fn remove_peer(&mut self, filter: &str, peer: PeerId) -> bool {
        let Some(entry) = self.filters.get_mut(filter) else { return false };
        let had = entry.peers.remove(peer);
        self.tidy(filter);
        had
    }

    /// Adds a persistent session's subscription to `filter`, or replaces its earlier one, of which it keeps `since`, so
    /// that nothing is lost live [MQTT-3.8.4-4]. Returns whether there was one.
    pub fn subscribe(&mut self, filter: &str, subscription: QueueSubscription) -> bool {
        let QueueSubscription { queue, home, qos, no_local, retain_as_published, identifier, since, meter } =
            subscription;
        let mut grant = Grant { since, identifier, qos, no_local, retain_as_published };
        let queues = &mut self.durable(filter).queues;
        let old = queues.get(queue).map(|held| held.grant.since);
        if let Some(since) = old {
            grant.since = since;
        }
        queues.insert(queue, Held { grant, home, meter });
        self.subscriptions += usize::from(old.is_none());
        old.is_some()
    }

    /// Removes the subscription of `queue` to `filter`; returns whether there was one.
    pub fn unsubscribe(&mut self, filter: &str, queue: QueueId) -> bool {
        let Some(durable) = self.durable_of(filter) else { return false };
        let had = durable.queues.remove(queue).is_some();
        self.subscriptions -= usize::from(had);
        self.tidy(filter);
        had
    }

    /// The queue of `group` on `filter` (without `$share/` and the group), if it has a member.
    pub fn group(&self, filter: &str, group: &str) -> Option<QueueId> {
        let durable = self.filters.get(filter)?.durable.as_ref()?;
        Some(durable.groups.get(group)?.queue)
    }

    /// Counts a member of `group` on `filter`, a persistent session or not. The first one makes the group: its
    /// queue lives on `home` and has the number and meter that `new_queue` gives.
    pub fn join(
        &mut self,
        filter: &str,
        group: &str,
        home: PeerId,
        persistent: bool,
        new_queue: impl FnOnce() -> (QueueId, Arc<QueueMeter>),
    ) -> Joined {
        self.memberships += 1;
        let groups = &mut self.durable(filter).groups;
        if let Some(group) = groups.get_mut(group) {
            group.members += 1;
            group.persistent += u32::from(persistent);
            return Joined {
                queue: group.queue,
                home: group.home,
                meter: Arc::clone(&group.meter),
                created: false,
            };
        }
        let (queue, meter) = new_queue();
        let joined = Joined { queue, home, meter: Arc::clone(&meter), created: true };
        let (filter, persistent) = (filter.into(), u32::from(persistent));
        groups.insert(group.into(), Group { queue, home, members: 1, persistent, filter, meter });
        joined
    }

    /// Counts a member of `group` on `filter` less, a persistent session or not. `None` if there is no such group.
    pub fn leave(&mut self, filter: &str, group: &str, persistent: bool) -> Option<Left> {
        let groups = &mut self.durable_of(filter)?.groups;
        let entry = groups.get_mut(group)?;
        entry.members -= 1;
        entry.persistent -= u32::from(persistent);
        let left = Left { queue: entry.queue, home: entry.home, last: entry.members == 0 };
        if left.last {
            groups.remove(group);
        }
        self.memberships -= 1;
        self.tidy(filter);
        Some(left)
    }

    /// Whether `group` on `filter` is there with `queue`: a message to that queue from before may meet a new group.
    pub fn has_group(&self, filter: &str, group: &str, queue: QueueId) -> bool {
        self.group(filter, group) == Some(queue)
    }

    /// Where a message to `topic` goes that `publisher` published. With `None` the route holds for all but the
    /// publishers in its `no_local`.
    pub fn route(&self, topic: &str, publisher: Option<QueueId>) -> Route {
        let mut peers = PeerSet::EMPTY;
        let mut queues = Vec::new();
        let mut groups = Vec::new();
        self.filters.for_each_match(topic, |entry| {
            peers = peers.union(entry.peers);
            if let Some(durable) = &entry.durable {
                queues.extend(durable.queues.iter());
                groups.extend(durable.groups.iter());
            }
        });
        let rules = self.admit(topic, &mut queues, &mut groups);
        let mut groups: Vec<GroupTarget> =
            groups.into_iter().map(|(name, group)| group.target(name)).collect();
        // Before merging: a second, ordinary subscription of the publisher still matches [MQTT-3.8.3-3].
        queues.retain(|(queue, held)| !(held.grant.no_local && Some(*queue) == publisher));
        queues.sort_by_key(|(queue, held)| (held.home, *queue));
        groups.sort_by_key(|group| (group.home, group.queue));
        let targets: Box<[Target]> =
            queues.chunk_by(|(left, _), (right, _)| left == right).map(merge_target).collect();
        let mut homes = peers;
        for home in targets.iter().map(|target| target.home).chain(groups.iter().map(|group| group.home)) {
            homes.insert(home);
        }
        Route {
            generation: self.generation,
            rules,
            peers,
            homes,
            newest_since: targets.iter().map(|target| target.since).max().unwrap_or(0),
            max_qos: targets.iter().map(|target| target.qos).max().unwrap_or(QoS::AtMostOnce),
            no_local: queues_with_no_local(&queues),
            takers: AtomicU32::new(0),
            queues: targets,
            groups: groups.into(),
        }
    }

    /// Leaves out whoever may not read `topic`; the version of the rules that say so, or [`UNDECIDED`].
    fn admit(
        &self,
        topic: &str,
        queues: &mut Vec<(QueueId, &Held)>,
        groups: &mut Vec<(&Arc<str>, &Group)>,
    ) -> u64 {
        let rules = self.guard.rules();
        let Some(acl) = &rules.acl else { return rules.version };
        let mut decided = true;
        let mut ask = |answer: Option<bool>| {
            decided &= answer.is_some();
            answer.unwrap_or(true)
        };
        queues.retain(|(queue, _)| ask(self.guard.reads(acl, *queue, topic)));
        groups.retain(|(_, group)| ask(self.guard.group_reads(acl, group.queue, group.members, topic)));
        if decided { rules.version } else { UNDECIDED }
    }

    /// Whether some member of a share group may read `topic`, as far as is known here.
    pub fn group_reads(&self, filter: &str, group: &str, topic: &str) -> bool {
        let Some(acl) = &self.guard.rules().acl else { return true };
        let found = self.filters.get(filter).and_then(|entry| entry.durable.as_ref()?.groups.get(group));
        let asked = |group: &Group| self.guard.group_reads(acl, group.queue, group.members, topic);
        found.is_some_and(|group| asked(group).unwrap_or(true))
    }

    /// A session is to be asked for before its queue is routed to, and its share groups' queues.
    pub fn own(&mut self, queue: QueueId, owner: Arc<Owner>, groups: impl Iterator<Item = QueueId>) {
        self.guard.own(queue, owner);
        groups.for_each(|group| self.guard.enter(group, queue));
    }

    /// A session is to be asked for this share group no more.
    pub fn expel(&mut self, group: QueueId, member: QueueId) {
        self.guard.leave(group, member);
    }

    /// Whether it is known who a session is.
    pub fn is_owned(&self, queue: QueueId) -> bool {
        self.guard.is_owned(queue)
    }

    /// A session is gone, or anybody's as far as reading goes.
    pub fn disown(&mut self, queue: QueueId) {
        self.guard.disown(queue);
    }

    /// How many different filters are wanted.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// How many subscriptions persistent sessions hold.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// How many memberships share groups count.
    pub fn memberships(&self) -> usize {
        self.memberships
    }

    /// Roughly the bytes it has reserved.
    pub fn bytes(&self) -> usize {
        let queue = size_of::<Durable>() + size_of::<Held>();
        self.filters.bytes() + (self.subscriptions + self.memberships) * queue
    }

    /// What is durable about `filter`, made if it is missing.
    fn durable(&mut self, filter: &str) -> &mut Durable {
        let entry = self.filters.get_or_insert_with(filter, Entry::default);
        entry
            .durable
            .get_or_insert_with(|| Box::new(Durable { queues: Members::None, groups: BTreeMap::new() }))
    }

    /// What is durable about `filter`, if anything is.
    fn durable_of(&mut self, filter: &str) -> Option<&mut Durable> {
        self.filters.get_mut(filter)?.durable.as_deref_mut()
    }

    /// Drops what is empty of the entry of `filter`.
    fn tidy(&mut self, filter: &str) {
        let Some(entry) = self.filters.get_mut(filter) else { return };
        let unused = |durable: &mut Box<Durable>| durable.queues.is_empty() && durable.groups.is_empty();
        entry.durable.take_if(unused);
        if entry.peers.is_empty() && entry.durable.is_none() {
            self.filters.remove(filter);
        }
    }
}

impl Group {
    fn target(&self, name: &Arc<str>) -> GroupTarget {
        GroupTarget {
            queue: self.queue,
            home: self.home,
            filter: Arc::clone(&self.filter),
            group: Arc::clone(name),
            durable: self.persistent > 0,
            meter: Arc::clone(&self.meter),
        }
    }
}

/// One target of the subscriptions that one queue holds.
fn merge_target(run: &[(QueueId, &Held)]) -> Target {
    let (queue, first) = run[0];
    let merged = Merged::new(&first.grant, run[1..].iter().map(|(_, held)| &held.grant));
    Target {
        queue,
        home: first.home,
        qos: merged.qos,
        retain_as_published: merged.retain_as_published,
        identifiers: merged.identifiers,
        since: merged.since,
        meter: Arc::clone(&first.meter),
    }
}

fn queues_with_no_local(queues: &[(QueueId, &Held)]) -> Box<[QueueId]> {
    let no_local = queues.iter().filter(|(_, held)| held.grant.no_local).map(|(queue, _)| *queue);
    let mut no_local: Vec<QueueId> = no_local.collect();
    no_local.sort_unstable();
    no_local.dedup();
    no_local.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::samples::Samples;
    use crate::limits::QueueRule;
    use crate::protocol::topic::matches;
    use crate::target::Identifiers;

    fn meter() -> Arc<QueueMeter> {
        Arc::new(QueueMeter::new(&QueueRule::default()))
    }

    fn subscription(queue: u64) -> QueueSubscription {
        QueueSubscription {
            queue: QueueId(queue),
            home: PeerId((queue % 3) as u16),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            identifier: 0,
            since: 0,
            meter: meter(),
        }
    }

    fn queues(route: &Route) -> Vec<u64> {
        route.queues.iter().map(|target| target.queue.0).collect()
    }

    /// Everything of a target but its meter, in an order to compare by.
    type Plain = (PeerId, QueueId, QoS, bool, Vec<u32>, u64);

    fn plain(target: &Target) -> Plain {
        let identifiers = target.identifiers.as_slice().to_vec();
        (target.home, target.queue, target.qos, target.retain_as_published, identifiers, target.since)
    }

    /// The same as lists, with the standard's rules at their plainest.
    #[derive(Default)]
    struct Model {
        peers: Vec<(String, PeerId)>,
        queues: Vec<(String, QueueSubscription)>,
        /// One entry a membership.
        groups: Vec<(String, String, QueueId)>,
    }

    impl Model {
        fn targets(&self, topic: &str, publisher: Option<QueueId>) -> Vec<Plain> {
            let mut targets: BTreeMap<(PeerId, QueueId), Plain> = BTreeMap::new();
            for (filter, held) in &self.queues {
                if !matches(filter, topic) || (held.no_local && Some(held.queue) == publisher) {
                    continue;
                }
                let new = (held.home, held.queue, held.qos, false, vec![], held.since);
                let target = targets.entry((held.home, held.queue)).or_insert(new);
                target.2 = target.2.max(held.qos);
                target.3 |= held.retain_as_published;
                target.4.extend(Some(held.identifier).filter(|&identifier| identifier != 0));
                target.4.sort();
                target.5 = target.5.min(held.since);
            }
            targets.into_values().collect()
        }

        fn check(&self, interest: &Interest, topic: &str, publisher: Option<QueueId>, seed: u64) {
            let route = interest.route(topic, publisher);
            let targets = self.targets(topic, publisher);
            assert_eq!(route.queues.iter().map(plain).collect::<Vec<_>>(), targets, "seed {seed}: {topic}");
            assert_eq!(route.newest_since, targets.iter().map(|target| target.5).max().unwrap_or(0));
            assert_eq!(route.max_qos, targets.iter().map(|target| target.2).max().unwrap_or(QoS::AtMostOnce));
            let mut peers = PeerSet::EMPTY;
            for (filter, peer) in &self.peers {
                if matches(filter, topic) {
                    peers.insert(*peer);
                }
            }
            assert_eq!(route.peers, peers, "seed {seed}: {topic}");
            let mut groups: Vec<QueueId> =
                self.groups.iter().filter(|group| matches(&group.0, topic)).map(|group| group.2).collect();
            groups.sort();
            groups.dedup();
            assert_eq!(
                route.groups.iter().map(|group| group.queue).collect::<Vec<_>>(),
                groups,
                "seed {seed}"
            );
            for home in
                targets.iter().map(|target| target.0).chain(route.groups.iter().map(|group| group.home))
            {
                peers.insert(home);
            }
            assert_eq!(route.homes, peers, "seed {seed}: {topic}");
            let no_local: Vec<QueueId> =
                (0..8).map(QueueId).filter(|&queue| route.excludes(Some(queue))).collect();
            let differs = |&queue: &QueueId| {
                let own = |(filter, held): &(String, QueueSubscription)| {
                    held.queue == queue && held.no_local && matches(filter, topic)
                };
                publisher != Some(queue) && self.queues.iter().any(own)
            };
            assert_eq!(
                no_local,
                (0..8).map(QueueId).filter(differs).collect::<Vec<_>>(),
                "seed {seed}: {topic}"
            );
        }
    }

    /// One random change of both.
    fn change(samples: &mut Samples, interest: &mut Interest, model: &mut Model, step: u64) {
        let filter = samples.filter();
        let add = samples.random.u8(..3) != 0;
        match samples.random.u8(..3) {
            0 => change_peer(samples, interest, model, filter, add),
            1 => change_queue(samples, interest, model, filter, add.then_some(step)),
            _ => change_group(samples, interest, model, filter, add.then_some(step)),
        }
    }

    fn change_peer(
        samples: &mut Samples,
        interest: &mut Interest,
        model: &mut Model,
        filter: String,
        add: bool,
    ) {
        let seed = samples.seed;
        let peer = PeerId(samples.random.u16(..4));
        let before = model.peers.len();
        model.peers.retain(|held| *held != (filter.clone(), peer));
        let had = model.peers.len() < before;
        if add {
            assert_eq!(interest.add_peer(&filter, peer), !had, "seed {seed}");
            model.peers.push((filter, peer));
        } else {
            assert_eq!(interest.remove_peer(&filter, peer), had, "seed {seed}");
        }
    }

    fn change_queue(
        samples: &mut Samples,
        interest: &mut Interest,
        model: &mut Model,
        filter: String,
        add: Option<u64>,
    ) {
        let seed = samples.seed;
        let queue = QueueId(samples.random.u64(..8));
        let held = model.queues.iter().position(|(held, one)| *held == filter && one.queue == queue);
        let old = held.map(|held| model.queues.swap_remove(held).1);
        let Some(step) = add else {
            assert_eq!(interest.unsubscribe(&filter, queue), old.is_some(), "seed {seed}");
            return;
        };
        let mut new = QueueSubscription {
            qos: samples.qos(),
            no_local: samples.random.u8(..4) == 0,
            retain_as_published: samples.random.bool(),
            identifier: samples.random.u32(..3),
            since: step,
            ..subscription(queue.0)
        };
        assert_eq!(interest.subscribe(&filter, new.clone()), old.is_some(), "seed {seed}");
        if let Some(old) = old {
            new.since = old.since;
        }
        model.queues.push((filter, new));
    }

    fn change_group(
        samples: &mut Samples,
        interest: &mut Interest,
        model: &mut Model,
        filter: String,
        add: Option<u64>,
    ) {
        let seed = samples.seed;
        let name = samples.random.choice(["g", "h"]).unwrap();
        let member = model.groups.iter().position(|held| held.0 == filter && held.1 == name);
        if let Some(step) = add {
            let new = QueueId(100 + step);
            let joined = interest.join(&filter, name, PeerId(0), false, || (new, meter()));
            assert_eq!(joined.created, member.is_none(), "seed {seed}");
            assert_eq!(joined.queue, member.map_or(new, |member| model.groups[member].2), "seed {seed}");
            assert!(interest.has_group(&filter, name, joined.queue));
            model.groups.push((filter, name.to_owned(), joined.queue));
            return;
        }
        let left = interest.leave(&filter, name, false);
        assert_eq!(left.is_some(), member.is_some(), "seed {seed}");
        if let (Some(left), Some(member)) = (left, member) {
            let queue = model.groups.swap_remove(member).2;
            let last = !model.groups.iter().any(|held| held.2 == queue);
            assert_eq!((left.queue, left.last), (queue, last), "seed {seed}");
            assert_eq!(interest.has_group(&filter, name, queue), !last, "seed {seed}");
        }
    }

    #[test]
    fn routes_agree_with_plain_lists_on_random_changes() {
        let mut samples = Samples::new();
        for _ in 0..5 {
            let mut interest = Interest::new();
            let mut model = Model::default();
            for step in 0..400 {
                change(&mut samples, &mut interest, &mut model, step);
                let topic = samples.topic();
                let publisher = samples.random.bool().then(|| QueueId(samples.random.u64(..8)));
                model.check(&interest, &topic, publisher, samples.seed);
            }
            assert_eq!(interest.subscriptions(), model.queues.len());
            assert_eq!(interest.memberships(), model.groups.len());
            for (filter, peer) in model.peers {
                interest.remove_peer(&filter, peer);
            }
            for (filter, held) in model.queues {
                interest.unsubscribe(&filter, held.queue);
            }
            for (filter, name, _) in model.groups {
                interest.leave(&filter, &name, false);
            }
            assert_eq!((interest.filters(), interest.bytes()), (0, 0), "seed {}", samples.seed);
        }
    }

    #[test]
    fn no_local_is_applied_before_overlapping_subscriptions_merge() {
        let mut interest = Interest::new();
        let no_local = QueueSubscription { no_local: true, identifier: 5, ..subscription(1) };
        interest.subscribe("a/#", QueueSubscription { qos: QoS::ExactlyOnce, ..no_local });
        interest.subscribe("a/b", QueueSubscription { identifier: 6, ..subscription(1) });
        let everybody = interest.route("a/b", None);
        assert_eq!(everybody.queues[0].identifiers.as_slice(), [5, 6]);
        assert_eq!(everybody.queues[0].qos, QoS::ExactlyOnce);
        assert!(everybody.excludes(Some(QueueId(1))) && !everybody.excludes(Some(QueueId(2))));
        let own = interest.route("a/b", Some(QueueId(1)));
        assert_eq!(own.queues[0].identifiers, Identifiers::one(6));
        assert_eq!(own.queues[0].qos, QoS::AtLeastOnce);
        assert!(interest.route("a/c", Some(QueueId(1))).queues.is_empty());
    }

    #[test]
    fn targets_come_by_home_and_then_by_queue() {
        let mut interest = Interest::new();
        for queue in [5, 3, 1, 4, 2] {
            interest.subscribe("a", subscription(queue));
        }
        let route = interest.route("a", None);
        assert_eq!(queues(&route), [3, 1, 4, 2, 5]);
        assert_eq!(route.homes.len(), 3);
        assert!(route.peers.is_empty());
    }

    #[test]
    fn a_group_that_ended_comes_back_with_a_new_queue() {
        let mut interest = Interest::new();
        let first = interest.join("a/+", "g", PeerId(2), false, || (QueueId(1), meter()));
        let second = interest.join("a/+", "g", PeerId(0), false, || unreachable!("the group has a queue"));
        assert!(first.created && !second.created);
        assert_eq!((second.queue, second.home), (QueueId(1), PeerId(2)));
        let group = &interest.route("a/b", None).groups[0];
        assert_eq!((&*group.filter, &*group.group, group.home), ("a/+", "g", PeerId(2)));
        assert!(Arc::ptr_eq(&group.meter, &first.meter));
        let home = PeerId(2);
        let left = |last| Some(Left { queue: QueueId(1), home, last });
        assert_eq!(interest.leave("a/+", "g", false), left(false));
        assert_eq!(interest.leave("a/+", "g", false), left(true));
        assert_eq!(interest.leave("a/+", "g", false), None);
        assert!(interest.route("a/b", None).is_empty());
        assert!(interest.join("a/+", "g", PeerId(2), false, || (QueueId(9), meter())).created);
        assert!(
            !interest.has_group("a/+", "g", QueueId(1)),
            "what is late for the old one must not meet the new"
        );
        assert!(interest.has_group("a/+", "g", QueueId(9)));
    }

    #[test]
    fn a_group_is_durable_while_it_has_a_persistent_member() {
        let mut interest = Interest::new();
        let durable = |interest: &Interest| interest.route("a", None).groups[0].durable;
        let join = |interest: &mut Interest, persistent| {
            interest.join("a", "g", PeerId(0), persistent, || (QueueId(1), meter()));
            durable(interest)
        };
        assert!(!join(&mut interest, false));
        assert!(join(&mut interest, true));
        assert!(join(&mut interest, false));
        interest.leave("a", "g", true);
        assert!(!durable(&interest));
    }

    #[test]
    fn a_filter_of_100_000_persistent_sessions_is_quick_to_change() {
        const COUNT: u64 = 100_000;
        let mut interest = Interest::new();
        let meter = meter();
        for queue in 0..COUNT {
            interest.subscribe("a", QueueSubscription { meter: Arc::clone(&meter), ..subscription(queue) });
        }
        assert_eq!(interest.route("a", None).queues.len(), COUNT as usize);
        for queue in 0..COUNT {
            assert!(interest.unsubscribe("a", QueueId(queue)));
        }
        assert_eq!(interest.bytes(), 0);
    }
}
