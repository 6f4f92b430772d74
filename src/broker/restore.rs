//! What a store gave back, taken apart by homes: the number of shards may have changed, so every session and group goes
//! to the shard where it lives now.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use super::shared::Shared;
use crate::limits::QueueRule;
use crate::message::{PeerId, QueueId};
use crate::meter::QueueMeter;
use crate::store::restored::{Numbers, Restored, RestoredSession, Waiting};

/// The shard where the session of a client identifier lives: the same one at every connect.
pub fn session_home(client_id: &str, peers: u16) -> PeerId {
    // A fixed hash, so that all shards agree.
    let hash = FixedState::with_seed(0).hash_one(client_id);
    PeerId((hash % u64::from(peers)) as u16)
}

/// The shard where a share group lives, by its name and plain filter.
pub fn group_home(name: &str, filter: &str, peers: u16) -> PeerId {
    let hash = FixedState::default().hash_one((name, filter));
    PeerId((hash % u64::from(peers)) as u16)
}

/// The group's name and the plain filter of `$share/NAME/FILTER`, which was validated when it came.
pub fn share_parts(filter: &str) -> (&str, &str) {
    let rest = filter.strip_prefix("$share/").unwrap_or(filter);
    rest.split_once('/').unwrap_or((rest, ""))
}

/// What one shard takes up.
#[derive(Debug, Default)]
pub struct Share {
    /// The sessions whose home it is.
    pub sessions: Vec<RestoredSession>,
    /// The share groups whose home it is.
    pub groups: Vec<HomeGroup>,
    /// Groups that lost their last member and had no time to end.
    pub deserted: Vec<QueueId>,
    /// The highest numbers with its prefix.
    pub numbers: Numbers,
    /// The highest numbers of all.
    pub old: Arc<[Numbers]>,
    /// The meters of all groups: their members hold them, too.
    pub meters: Arc<GroupMeters>,
}

/// How full each share group is.
pub type GroupMeters = HashMap<QueueId, Arc<QueueMeter>, foldhash::fast::RandomState>;

/// A share group that goes on.
#[derive(Debug)]
pub struct HomeGroup {
    /// Its queue.
    pub queue: QueueId,
    /// Its ShareName.
    pub name: Box<str>,
    /// Its plain filter.
    pub filter: Box<str>,
    /// What waits in it.
    pub waiting: Waiting,
}

/// Puts what was retained back into `shared`, and gives each of `peers` shards its share of the rest.
pub fn distribute(restored: Restored, shared: &Shared, rules: &[QueueRule], peers: u16) -> Vec<Share> {
    let Restored { sessions, groups, retained, numbers, retained_version } = restored;
    // The broker's own retained messages take versions, too, and are in no record.
    let since = sessions.iter().flat_map(|session| &session.subscriptions).map(|held| held.since).max();
    shared.restore_retained(retained, retained_version.max(since.unwrap_or(0)));
    let mut shares: Vec<Share> = (0..peers).map(|_| Share::default()).collect();
    let old: Arc<[Numbers]> = numbers.into();
    for numbers in old.iter().copied() {
        // What other shards gave stays above nothing: their prefixes are not used any more.
        if let Some(index) = numbers.prefix.checked_sub(1)
            && let Some(share) = shares.get_mut(usize::from(index))
        {
            share.numbers = numbers;
        }
    }
    let mut waiting: HashMap<QueueId, Waiting, foldhash::fast::RandomState> =
        groups.into_iter().map(|group| (group.queue, group.waiting)).collect();
    let mut meters = GroupMeters::default();
    for held in sessions.iter().flat_map(|session| &session.subscriptions) {
        let Some(queue) = held.group.filter(|queue| !meters.contains_key(queue)) else { continue };
        let (name, filter) = share_parts(&held.filter);
        let meter = QueueMeter::for_filter(rules, filter);
        let waiting = waiting.remove(&queue).unwrap_or_default();
        meter.hold(waiting.messages, waiting.bytes);
        meters.insert(queue, Arc::new(meter));
        let home = usize::from(group_home(name, filter, peers).0);
        let (name, filter) = (name.into(), filter.into());
        shares[home].groups.push(HomeGroup { queue, name, filter, waiting });
    }
    // Any shard may end them.
    shares[0].deserted = waiting.into_keys().collect();
    let meters = Arc::new(meters);
    for share in &mut shares {
        share.meters = meters.clone();
        share.old = old.clone();
    }
    for session in sessions {
        let home = usize::from(session_home(&session.client_id, peers).0);
        shares[home].sessions.push(session);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::retained::RetainedLimits;
    use crate::broker::samples::retained;
    use crate::store::restored::{RestoredGroup, RestoredSubscription};

    const LIMITS: RetainedLimits = RetainedLimits { messages: 1, bytes: 1 << 20 };

    fn session(client_id: String, queue: u64, filter: &str, group: Option<u64>) -> RestoredSession {
        let subscription = RestoredSubscription {
            filter: filter.into(),
            options: 1,
            identifier: 0,
            group: group.map(QueueId),
            since: queue,
            replay: None,
        };
        RestoredSession {
            queue: QueueId(queue),
            client_id: client_id.into(),
            user: None,
            expiry: u32::MAX,
            detached: None,
            will: None,
            subscriptions: vec![subscription],
            received: vec![],
            sent: vec![],
            waiting: Waiting::default(),
        }
    }

    #[test]
    fn everything_goes_to_where_it_lives_now_and_numbers_go_on() {
        let waiting = Waiting { messages: 3, bytes: 300 };
        let groups = [700, 800].map(|queue| RestoredGroup { queue: QueueId(queue), waiting });
        let numbers = [1, 2, 9].map(|prefix| Numbers { prefix, message: 10 * u64::from(prefix), queue: 5 });
        let restored = Restored {
            sessions: (1..=100).map(|n| session(format!("c{n}"), n, "$share/g/a/+", Some(700))).collect(),
            groups: groups.into(),
            retained: vec![retained("a", 7, b"x"), retained("b", 8, b"x")],
            numbers: numbers.into(),
            retained_version: 8,
        };
        let shared = Shared::new(LIMITS);
        let shares = distribute(restored, &shared, &[], 3);
        for (index, share) in shares.iter().enumerate() {
            let own = PeerId(index as u16);
            assert!(share.sessions.iter().all(|session| session_home(&session.client_id, 3) == own));
            assert_eq!(share.groups.len(), usize::from(group_home("g", "a/+", 3) == own));
            assert_eq!(share.meters[&QueueId(700)].messages(), 3);
            assert_eq!(share.meters.len(), 1);
        }
        assert_eq!(shares.iter().map(|share| share.sessions.len()).sum::<usize>(), 100);
        assert_eq!(shares.iter().map(|share| share.numbers.message).collect::<Vec<_>>(), [10, 20, 0]);
        assert_eq!(shares[0].deserted, [QueueId(800)]);
        assert_eq!(shared.retained().count(), 2, "a lower limit takes nothing away that was acknowledged");
        assert_eq!(shared.retaining().next_version(), 101, "above what any subscription has seen");
    }
}
