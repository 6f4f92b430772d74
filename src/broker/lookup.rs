//! [`Lookup`]: Client Identifier or queue → session. The keys stand in the sessions and nowhere else: a second copy and a
//! table that holds it would be a twentieth of what an idle connection takes.

use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use crate::message::QueueId;
use crate::session::Session;

/// What no two sessions share.
pub(super) trait Key: Hash + Eq {
    /// That of a session.
    fn of(session: &Session) -> &Self;
}

impl Key for str {
    fn of(session: &Session) -> &str {
        &session.client_id
    }
}

impl Key for QueueId {
    fn of(session: &Session) -> &QueueId {
        &session.queue_id
    }
}

/// Indices into a slab of sessions, found by a key of the sessions.
pub(super) struct Lookup<K: ?Sized> {
    table: HashTable<u32>,
    hasher: RandomState,
    key: PhantomData<K>,
}

impl<K: Key + ?Sized> Lookup<K> {
    /// Of no sessions yet.
    pub(super) fn new() -> Lookup<K> {
        Lookup { table: HashTable::new(), hasher: RandomState::default(), key: PhantomData }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The session with this key.
    pub(super) fn get(&self, sessions: &Slab<Session>, key: &K) -> Option<u32> {
        let is_it = |&index: &u32| sessions.get(index as usize).is_some_and(|held| K::of(held) == key);
        self.table.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// Adds a session that is in the slab, and the only one with its key.
    pub(super) fn insert(&mut self, sessions: &Slab<Session>, index: u32) {
        let hasher = &self.hasher;
        let hash = |&index: &u32| sessions.get(index as usize).map_or(0, |held| hasher.hash_one(K::of(held)));
        self.table.insert_unique(hash(&index), index, hash);
    }

    /// Removes the session that was at `index`; it may have left the slab.
    pub(super) fn remove(&mut self, key: &K, index: u32) {
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = self.table.find_entry(hash, |&held| held == index) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Expiry;

    #[test]
    fn finds_each_session_by_its_client_and_none_that_has_left() {
        let (mut sessions, mut clients) = (Slab::new(), Lookup::<str>::new());
        let name = |number: usize| format!("client-{number}");
        let mut indices = Vec::new();
        for number in 0..1000 {
            let queue = QueueId(number as u64);
            let index = sessions.insert(Session::new(&name(number), queue, Expiry::AT_ONCE, None)) as u32;
            clients.insert(&sessions, index);
            indices.push(index);
        }
        for number in (0..1000).step_by(3) {
            let session = sessions.remove(indices[number] as usize);
            clients.remove(&session.client_id, indices[number]);
        }
        for (number, index) in indices.into_iter().enumerate() {
            let expected = (number % 3 != 0).then_some(index);
            assert_eq!(clients.get(&sessions, &name(number)), expected);
        }
        assert_eq!(clients.len(), sessions.len());
        assert_eq!(clients.get(&sessions, ""), None);
    }
}
