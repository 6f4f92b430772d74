//! [`Clients`]: Client Identifier → session. The identifiers stand in the sessions and nowhere else: a second copy and a
//! table that holds it would be a twentieth of what an idle connection takes.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use crate::session::Session;

/// Indices into a slab of sessions, found by the sessions' Client Identifiers.
#[derive(Default)]
pub(super) struct Clients {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Clients {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The session of `client_id`.
    pub(super) fn get(&self, sessions: &Slab<Session>, client_id: &str) -> Option<u32> {
        let is_it =
            |&index: &u32| sessions.get(index as usize).is_some_and(|held| *held.client_id == *client_id);
        self.table.find(self.hasher.hash_one(client_id), is_it).copied()
    }

    /// Adds a session that is in the slab, and the only one of its client.
    pub(super) fn insert(&mut self, sessions: &Slab<Session>, index: u32) {
        let hasher = &self.hasher;
        let hash = |&index: &u32| {
            let client_id = sessions.get(index as usize).map_or("", |session| &session.client_id);
            hasher.hash_one(client_id)
        };
        self.table.insert_unique(hash(&index), index, hash);
    }

    /// Removes the session that was at `index`; it may have left the slab.
    pub(super) fn remove(&mut self, client_id: &str, index: u32) {
        let hash = self.hasher.hash_one(client_id);
        if let Ok(found) = self.table.find_entry(hash, |&held| held == index) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QueueId;
    use crate::session::Expiry;

    #[test]
    fn finds_each_session_by_its_client_and_none_that_has_left() {
        let (mut sessions, mut clients) = (Slab::new(), Clients::default());
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
