//! The small things that routing hands around: a set of peers, the Subscription Identifiers of a delivery, and what
//! subscriptions that overlap grant together.

use crate::message::PeerId;
use crate::protocol::packet::QoS;
use crate::target::Identifiers;

/// A set of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(u64);

impl PeerSet {
    /// How many peers there may be.
    pub const MAX: u16 = u64::BITS as u16;

    /// Nobody.
    pub const EMPTY: PeerSet = PeerSet(0);

    /// Adds `peer`; returns whether that is new.
    ///
    /// # Panics
    /// If the peer's number is [`PeerSet::MAX`] or above.
    pub fn insert(&mut self, peer: PeerId) -> bool {
        let before = *self;
        self.0 |= bit(peer);
        *self != before
    }

    /// Removes `peer`; returns whether it was there.
    pub fn remove(&mut self, peer: PeerId) -> bool {
        let before = *self;
        self.0 &= !bit(peer);
        *self != before
    }

    /// Takes out the highest.
    pub fn pop_last(&mut self) -> Option<PeerId> {
        let last = PeerId(self.0.checked_ilog2()? as u16);
        self.remove(last);
        Some(last)
    }

    /// Whether `peer` is one of them.
    pub fn contains(self, peer: PeerId) -> bool {
        self.0 & bit(peer) != 0
    }

    /// Whether it is nobody.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many they are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those in either set.
    #[must_use]
    pub fn union(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 | other.0)
    }

    /// All of them, in rising order.
    pub fn iter(self) -> impl Iterator<Item = PeerId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let lowest = (rest != 0).then(|| rest.trailing_zeros() as u16)?;
            rest &= rest - 1;
            Some(PeerId(lowest))
        })
    }
}

fn bit(peer: PeerId) -> u64 {
    assert!(peer.0 < PeerSet::MAX, "the number of shards is limited by the configuration");
    1 << peer.0
}

/// What one subscription grants: its options, and what it may skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Retained publishes up to this version reach it by the retained replay, not live.
    pub(super) since: u64,
    /// Its Subscription Identifier; 0 for none.
    pub(super) identifier: u32,
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
}

/// What the subscriptions of one taker that match one topic grant together: one copy at the highest QoS, with every
/// identifier [MQTT-3.3.4-2] [MQTT-3.3.4-4].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) since: u64,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: Identifiers,
}

impl Merged {
    /// Merges `first` and `others`.
    pub(super) fn new<'a>(first: &'a Grant, others: impl Iterator<Item = &'a Grant> + Clone) -> Merged {
        let mut merged = Merged {
            since: first.since,
            qos: first.qos,
            retain_as_published: first.retain_as_published,
            identifiers: Identifiers::one(first.identifier),
        };
        for grant in others.clone() {
            merged.since = merged.since.min(grant.since);
            merged.qos = merged.qos.max(grant.qos);
            merged.retain_as_published |= grant.retain_as_published;
        }
        if others.clone().any(|grant| grant.identifier != 0) {
            let all = std::iter::once(first).chain(others).map(|grant| grant.identifier);
            merged.identifiers = Identifiers::several(all.filter(|&identifier| identifier != 0).collect());
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_set_holds_each_of_64_peers_in_order() {
        let mut set = PeerSet::EMPTY;
        for peer in [63, 0, 17] {
            assert!(set.insert(PeerId(peer)));
            assert!(!set.insert(PeerId(peer)));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [PeerId(0), PeerId(17), PeerId(63)]);
        assert!(set.contains(PeerId(63)) && !set.contains(PeerId(1)));
        assert!(set.remove(PeerId(17)) && !set.remove(PeerId(17)));
        assert_eq!(set.len(), 2);
        let mut other = PeerSet::EMPTY;
        assert!(other.is_empty());
        other.insert(PeerId(5));
        let mut both = set.union(other);
        assert_eq!(
            std::iter::from_fn(|| both.pop_last()).collect::<Vec<_>>(),
            [PeerId(63), PeerId(5), PeerId(0)]
        );
    }

    #[test]
    fn merging_takes_the_highest_qos_and_every_identifier() {
        let grant = |since, identifier, qos, retain_as_published| Grant {
            since,
            identifier,
            qos,
            no_local: false,
            retain_as_published,
        };
        let grants = [
            grant(5, 2, QoS::AtMostOnce, false),
            grant(3, 0, QoS::ExactlyOnce, true),
            grant(9, 1, QoS::AtLeastOnce, false),
        ];
        let merged = Merged::new(&grants[0], grants[1..].iter());
        assert_eq!(merged.since, 3);
        assert_eq!(merged.qos, QoS::ExactlyOnce);
        assert!(merged.retain_as_published);
        assert_eq!(merged.identifiers.as_slice(), [1, 2]);
    }
}
