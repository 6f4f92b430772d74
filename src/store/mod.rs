//! The seam behind which messages and sessions become durable: a FIFO of records, and the position
//! up to which they are. What is acknowledged waits for its [`Ticket`].

pub mod memory;

use std::sync::Arc;

use crate::message::{Message, MessageId, QueueId};
use crate::protocol::packet::PacketId;
use crate::target::{GroupTarget, Target};

/// A position in the store's FIFO. Work that waits for it may go on once [`Store::durable`] has
/// reached it. `Ticket(0)` waits for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An event that must outlive the process. Records of one session are pushed in the order of its
/// events; a message's record is pushed before any shard can deliver it.
#[derive(Debug)]
pub enum Record<'a> {
    /// A message and every durable queue it goes to.
    Message {
        /// The message.
        message: &'a Arc<Message>,
        /// The durable queues it goes to.
        queues: &'a [Target],
        /// The share groups it goes to.
        groups: &'a [GroupTarget],
        /// For a QoS 2 PUBLISH of a persistent session: the session and its packet id.
        received: Option<(QueueId, PacketId)>,
        /// The session whose will this is: the record clears it.
        will_of: Option<QueueId>,
    },
    /// A publisher released a QoS 2 packet id (PUBREL).
    Released(QueueId, PacketId),
    /// A QoS 2 delivery is bound to a packet id and about to leave.
    Sent {
        /// The session it is sent to.
        session: QueueId,
        /// Its packet id there.
        packet_id: PacketId,
        /// The message.
        message: MessageId,
        /// The queue it comes from: the session's own or a share group's.
        from: QueueId,
    },
    /// A subscriber confirmed a QoS 2 delivery (PUBREC): from now on only PUBREL is repeated.
    Stepped(QueueId, PacketId),
    /// A message left a queue for good: acknowledged, expired, dropped or purged.
    Acked(QueueId, MessageId),
    /// A persistent session began, or its connection changed its expiry.
    Session {
        /// The session's queue.
        queue: QueueId,
        /// Its client identifier.
        client_id: &'a str,
        /// Session Expiry Interval in seconds; `u32::MAX` is never.
        expiry: u32,
    },
    /// A session ended: expired, or cleared by a clean start.
    SessionEnded(QueueId),
    /// A persistent session subscribed.
    Subscribed {
        /// The session's queue.
        session: QueueId,
        /// The filter, `$share/…` included.
        filter: &'a str,
        /// The options byte as on the wire.
        options: u8,
        /// Subscription Identifier, 0 for none.
        identifier: u32,
        /// The group's queue, for a shared subscription.
        group: Option<QueueId>,
    },
    /// A persistent session unsubscribed.
    Unsubscribed(QueueId, &'a str),
    /// The last member of a share group is gone.
    GroupEnded(QueueId),
}

/// Makes records durable, in the order they are pushed.
pub trait Store {
    /// Appends a record; never blocks, never fails.
    fn push(&mut self, record: Record<'_>) -> Ticket;

    /// Everything up to this position is durable.
    fn durable(&self) -> Ticket;
}
