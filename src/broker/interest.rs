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
mod tests;
