//! [`Members`]: who holds one filter, in order of key. Nearly always that is one, kept in place; a filter that 100,000
//! sessions share still adds and removes each in logarithmic time.

use std::collections::BTreeMap;
use std::mem;

/// The holders of one filter.
#[derive(Debug)]
pub(super) enum Members<K, V> {
    /// Nobody.
    None,
    /// One holder, without an allocation.
    One(K, V),
    /// Several. Boxed, so that one takes 24 bytes rather than 32 in a table of a million.
    #[expect(clippy::box_collection, reason = "the map itself would make every other case larger")]
    Many(Box<BTreeMap<K, V>>),
}

impl<K: Ord + Copy, V> Members<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Members::None)
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        match self {
            Members::One(held, value) if *held == key => Some(value),
            Members::Many(map) => map.get(&key),
            Members::None | Members::One(..) => None,
        }
    }

    /// Adds or replaces `key`; returns what was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Members::One(held, old) if *held == key => return Some(mem::replace(old, value)),
            Members::Many(map) => return map.insert(key, value),
            Members::None | Members::One(..) => {}
        }
        *self = match mem::replace(self, Members::None) {
            Members::One(held, old) => Members::Many(Box::new(BTreeMap::from([(held, old), (key, value)]))),
            Members::None | Members::Many(_) => Members::One(key, value),
        };
        None
    }

    /// Removes `key`; returns what was there.
    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        match mem::replace(self, Members::None) {
            Members::One(held, value) if held == key => Some(value),
            Members::Many(mut map) => {
                let removed = map.remove(&key);
                *self = if map.len() > 1 {
                    Members::Many(map)
                } else {
                    map.pop_first().map_or(Members::None, |(key, value)| Members::One(key, value))
                };
                removed
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// All of them, in order of key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let (one, many) = match self {
            Members::None => (None, None),
            Members::One(key, value) => (Some((*key, value)), None),
            Members::Many(map) => (None, Some(map.iter().map(|(key, value)| (*key, value)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sole_session_takes_24_bytes() {
        assert_eq!(size_of::<Members<u32, crate::broker::ids::Grant>>(), 24);
    }

    #[test]
    fn behaves_as_an_ordered_map() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut members = Members::None;
        let mut model = BTreeMap::new();
        for step in 0..20_000 {
            let key = random.u32(..6);
            if random.bool() {
                assert_eq!(members.insert(key, step), model.insert(key, step), "seed {seed}");
            } else {
                assert_eq!(members.remove(key), model.remove(&key), "seed {seed}");
            }
            assert_eq!(members.get(key), model.get(&key), "seed {seed}");
            assert!(members.iter().eq(model.iter().map(|(key, value)| (*key, value))), "seed {seed}");
            assert_eq!(members.is_empty(), model.is_empty(), "seed {seed}");
            assert_eq!(matches!(members, Members::Many(_)), model.len() > 1, "seed {seed}");
        }
    }
}
