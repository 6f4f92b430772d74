//! [`Received`]: the QoS 2 packet ids that a client has used and not released. Most sessions have none at any time, and
//! then it is one word.

use std::collections::BTreeMap;

use crate::protocol::packet::PacketId;
use crate::store::Ticket;

/// Packet ids.
#[derive(Debug, Default)]
pub(super) struct Received(Option<Box<Ids>>);

#[derive(Debug, Default)]
struct Ids {
    all: BTreeMap<PacketId, Id>,
    /// How many of them this connection has used.
    current: usize,
}

#[derive(Debug, Clone, Copy)]
struct Id {
    /// What its PUBREC waits for.
    ticket: Ticket,
    /// A PUBLISH of this connection has used it.
    current: bool,
}

impl Received {
    /// How many were used by this connection: what Receive Maximum bounds.
    pub(super) fn current(&self) -> usize {
        self.0.as_ref().map_or(0, |ids| ids.current)
    }

    /// Whether this connection has used this id.
    pub(super) fn is_current(&self, packet_id: PacketId) -> bool {
        self.id(packet_id).is_some_and(|id| id.current)
    }

    /// What the PUBREC of this id waits for.
    pub(super) fn get(&self, packet_id: PacketId) -> Option<Ticket> {
        Some(self.id(packet_id)?.ticket)
    }

    fn id(&self, packet_id: PacketId) -> Option<Id> {
        self.0.as_ref()?.all.get(&packet_id).copied()
    }

    /// An id was used, or used again.
    pub(super) fn insert(&mut self, packet_id: PacketId, ticket: Ticket) {
        let ids = self.0.get_or_insert_default();
        let before = ids.all.insert(packet_id, Id { ticket, current: true });
        ids.current += usize::from(before.is_none_or(|id| !id.current));
    }

    /// An id is released; what its PUBREC waited for, if it was used.
    pub(super) fn remove(&mut self, packet_id: PacketId) -> Option<Ticket> {
        let ids = self.0.as_mut()?;
        let id = ids.all.remove(&packet_id)?;
        ids.current -= usize::from(id.current);
        if ids.all.is_empty() {
            self.0 = None;
        }
        Some(id.ticket)
    }

    /// Another connection begins.
    pub(super) fn reconnected(&mut self) {
        let Some(ids) = &mut self.0 else { return };
        ids.all.values_mut().for_each(|id| id.current = false);
        ids.current = 0;
    }
}

impl FromIterator<(PacketId, Ticket)> for Received {
    fn from_iter<I: IntoIterator<Item = (PacketId, Ticket)>>(ids: I) -> Received {
        let id = |(packet_id, ticket)| (packet_id, Id { ticket, current: false });
        let all: BTreeMap<_, _> = ids.into_iter().map(id).collect();
        Received((!all.is_empty()).then(|| Box::new(Ids { all, current: 0 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    #[test]
    fn holds_memory_only_while_an_id_is_used() {
        let mut received = Received::default();
        assert_eq!((received.get(id(1)), received.remove(id(1))), (None, None));
        received.insert(id(1), Ticket(5));
        received.insert(id(2), Ticket(6));
        assert_eq!((received.get(id(1)), received.get(id(3))), (Some(Ticket(5)), None));
        assert_eq!(received.remove(id(1)), Some(Ticket(5)));
        assert_eq!(received.remove(id(3)), None);
        assert_eq!(received.remove(id(2)), Some(Ticket(6)));
        assert!(received.0.is_none());
        assert!([].into_iter().collect::<Received>().0.is_none());
        assert_eq!(size_of::<Received>(), 8);
    }

    #[test]
    fn counts_what_this_connection_has_used() {
        let mut received: Received = [(id(9), Ticket(0))].into_iter().collect();
        assert_eq!((received.current(), received.get(id(9))), (0, Some(Ticket(0))));
        received.insert(id(1), Ticket(1));
        received.insert(id(1), Ticket(1));
        received.insert(id(9), Ticket(0));
        assert_eq!((received.current(), received.is_current(id(9))), (2, true));
        received.reconnected();
        assert_eq!((received.current(), received.is_current(id(9))), (0, false));
        received.insert(id(1), Ticket(1));
        assert_eq!(received.remove(id(9)), Some(Ticket(0)));
        assert_eq!(received.current(), 1);
        assert_eq!(received.remove(id(1)), Some(Ticket(1)));
        assert_eq!(received.current(), 0);
    }
}
