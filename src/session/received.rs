//! [`Received`]: the QoS 2 packet ids that a client has used and not released. Most sessions have none at any time, and
//! then it is one word.

use std::collections::BTreeMap;

use crate::protocol::packet::PacketId;
use crate::store::Ticket;

/// Packet ids, with what the PUBREC of each waits for.
#[derive(Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "one word rather than three while it is empty, which is nearly always"
)]
pub(super) struct Received(Option<Box<BTreeMap<PacketId, Ticket>>>);

impl Received {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |ids| ids.len())
    }

    /// What the PUBREC of this id waits for.
    pub(super) fn get(&self, packet_id: PacketId) -> Option<Ticket> {
        self.0.as_ref()?.get(&packet_id).copied()
    }

    /// An id was used.
    pub(super) fn insert(&mut self, packet_id: PacketId, ticket: Ticket) {
        self.0.get_or_insert_default().insert(packet_id, ticket);
    }

    /// An id is released; what its PUBREC waited for, if it was used.
    pub(super) fn remove(&mut self, packet_id: PacketId) -> Option<Ticket> {
        let ids = self.0.as_mut()?;
        let ticket = ids.remove(&packet_id);
        if ids.is_empty() {
            self.0 = None;
        }
        ticket
    }
}

impl FromIterator<(PacketId, Ticket)> for Received {
    fn from_iter<I: IntoIterator<Item = (PacketId, Ticket)>>(ids: I) -> Received {
        let ids: BTreeMap<_, _> = ids.into_iter().collect();
        Received((!ids.is_empty()).then(|| Box::new(ids)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_memory_only_while_an_id_is_used() {
        let id = |id| PacketId::new(id).unwrap();
        let mut received = Received::default();
        assert_eq!((received.len(), received.get(id(1)), received.remove(id(1))), (0, None, None));
        received.insert(id(1), Ticket(5));
        received.insert(id(2), Ticket(6));
        assert_eq!((received.len(), received.get(id(1)), received.get(id(3))), (2, Some(Ticket(5)), None));
        assert_eq!(received.remove(id(1)), Some(Ticket(5)));
        assert_eq!(received.remove(id(2)), Some(Ticket(6)));
        assert!(received.0.is_none());
        assert!([].into_iter().collect::<Received>().0.is_none());
        let restored: Received = [(id(9), Ticket(0))].into_iter().collect();
        assert_eq!((restored.len(), restored.get(id(9))), (1, Some(Ticket(0))));
        assert_eq!(size_of::<Received>(), 8);
    }
}
