//! [`Interest`] against plain lists of who wants what.

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
        assert_eq!(route.groups.iter().map(|group| group.queue).collect::<Vec<_>>(), groups, "seed {seed}");
        for home in targets.iter().map(|target| target.0).chain(route.groups.iter().map(|group| group.home)) {
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
        assert_eq!(no_local, (0..8).map(QueueId).filter(differs).collect::<Vec<_>>(), "seed {seed}: {topic}");
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

fn change_peer(samples: &mut Samples, interest: &mut Interest, model: &mut Model, filter: String, add: bool) {
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
