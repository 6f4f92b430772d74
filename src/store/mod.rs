//! The seam behind which messages and sessions become durable: a FIFO of records, the position up to which they are, and
//! the pages by which what waits on disk comes back. What is acknowledged waits for its [`Ticket`].
//!
//! ```text
//!  shards ──records──► fifo ──► engine ──► journal        one batch: one write, one sync, then the shards are told
//!     ▲                           │  └──── ledger         which references each queue holds
//!     └────── pages ◄── reader ◄──┤                       bodies from segments, or from the index
//!                                 └──► chores ──► index   what outlives the journal; spare files
//!
//!  restart:  index, then the hot segments of the journal ──► replay ──► Restored, and the ledger to go on with
//! ```
//!
//! Read [`engine`] first. It has no threads and no clock; [`thread`] gives it both, and so does a simulation.

mod bodies;
pub mod chore;
pub mod disk;
pub mod encode;
pub mod engine;
pub mod error;
pub mod fifo;
pub mod folder;
pub mod frame;
mod header;
pub mod index;
pub mod journal;
mod ledger;
pub mod memory;
pub mod open;
pub mod overlay;
mod packed;
pub mod pages;
mod policy;
mod recent;
pub mod record;
pub mod recovery;
mod refs;
mod repair;
mod replay;
pub mod restored;
pub mod segment;
mod survey;
mod targets;
pub mod thread;

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod ramdisk;
#[cfg(test)]
mod recovery_tests;

use std::sync::Arc;
use std::time::Instant;

use crate::message::{Message, MessageId, QueueId};
use crate::protocol::packet::{PacketId, QoS};
use crate::target::{GroupTarget, Identifiers, Target};
use crate::will::Will;

/// A position in the store's FIFO, of one shard. Work that waits for it may go on once [`Store::durable`] has
/// reached it. `Ticket(0)` waits for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Where a record stands in the journal: its segment in the upper half, its offset there in the lower. It rises with every
/// record, and a message keeps it for life, wherever its body moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// At `offset` of the segment with this number.
    pub fn new(segment: u32, offset: u32) -> Position {
        Position((u64::from(segment) << 32) | u64::from(offset))
    }

    /// The segment's number.
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes from the segment's beginning.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

/// An event that must outlive the process. Records of one session are pushed in the order of its
/// events; a message's record is pushed before any shard can deliver it.
#[derive(Debug)]
pub enum Record<'a> {
    /// A message and every durable queue it goes to. One with a version is the retained message of its topic from now on,
    /// or, without a payload, clears it.
    Message {
        /// The message.
        message: &'a Arc<Message>,
        /// The queues of sessions that match; those that take it at QoS 0, or by their retained replay, are not recorded.
        queues: &'a [Target],
        /// The share groups that match; those that are not durable are not recorded.
        groups: &'a [GroupTarget],
        /// For a QoS 2 PUBLISH of a persistent session: the session and its packet id.
        received: Option<(QueueId, PacketId)>,
        /// The session whose will this is: the record clears it.
        will_of: Option<QueueId>,
    },
    /// The copy of a retained message that goes, at QoS 1 or 2, to the session whose replay has come to its topic. That
    /// is said with it: told apart, a restart between the two would copy the message again, under another number.
    Copied {
        /// The copy.
        message: &'a Arc<Message>,
        /// The session's queue.
        target: &'a Target,
        /// The filter of the subscription that is replayed.
        filter: &'a str,
    },
    /// A publisher released a QoS 2 packet id (PUBREL).
    Released(QueueId, PacketId),
    /// A QoS 2 delivery is bound to a packet id and about to leave: its reference moves from its queue to the session.
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
    /// A subscriber confirmed a QoS 2 delivery (PUBREC): its message is done with, and from now on only PUBREL is repeated.
    Stepped(QueueId, PacketId),
    /// A packet id of a QoS 2 delivery is free again: by its PUBCOMP, or because the delivery was refused or not possible.
    Completed(QueueId, PacketId),
    /// A message left a queue for good: acknowledged, expired, dropped or purged. What was `Sent` has left it already.
    Acked(QueueId, MessageId),
    /// A persistent session as it is from now on: it began, its client came or went, its expiry or will changed.
    Session {
        /// The session's queue.
        queue: QueueId,
        /// Its client identifier.
        client_id: &'a str,
        /// The user that it belongs to; `None`: anonymous.
        user: Option<&'a str>,
        /// Session Expiry Interval in seconds; `u32::MAX` is never.
        expiry: u32,
        /// Since when it has no connection; `None` while it has one.
        detached: Option<Instant>,
        /// Its will, if one is still to be published.
        will: Option<&'a Will>,
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
        /// The group's queue, for a shared subscription: the first one begins the group.
        group: Option<QueueId>,
        /// Retained publishes above this version reach it live.
        since: u64,
        /// A retained replay begins with it.
        replay: bool,
    },
    /// A persistent session unsubscribed.
    Unsubscribed(QueueId, &'a str),
    /// How far the retained replay of a subscription has come, where no [`Record::Copied`] says it.
    Replayed {
        /// The session's queue.
        session: QueueId,
        /// The subscription's filter.
        filter: &'a str,
        /// The last topic that was replayed; `None`: the replay is finished.
        topic: Option<&'a str>,
    },
    /// The last member of a share group is gone.
    GroupEnded(QueueId),
}

impl<'a> Record<'a> {
    /// A message that goes to these queues and is nothing else besides.
    pub fn alone(message: &'a Arc<Message>, queues: &'a [Target]) -> Record<'a> {
        Record::Message { message, queues, groups: &[], received: None, will_of: None }
    }
}

/// Asks for what waits in a queue on disk.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// The queue of a session or share group that lives on this shard.
    pub queue: QueueId,
    /// Comes back in the page.
    pub serial: u32,
    /// Only what stands behind this; `None`: from the queue's oldest on.
    pub after: Option<Position>,
    /// The page ends with the message that reaches this many bytes ([`Message::size`]).
    pub max_bytes: usize,
}

/// What a queue holds on disk: in the order of the journal, every reference that was pushed before the request and behind
/// its position, and not [`Record::Acked`] or [`Record::Sent`] before it; as many as the request has room for.
#[derive(Debug)]
pub struct Page {
    /// The queue.
    pub queue: QueueId,
    /// That of the request.
    pub serial: u32,
    /// The messages.
    pub entries: Vec<PageEntry>,
    /// Where the next page goes on.
    pub after: Position,
    /// There was nothing more when it was asked for.
    pub last: bool,
}

/// A message in a page, and how it is to be delivered.
#[derive(Clone, Debug)]
pub struct PageEntry {
    /// The message.
    pub message: Arc<Message>,
    /// The lower of its QoS and the subscription's.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The Subscription Identifiers to tell.
    pub identifiers: Identifiers,
}

/// What the store cannot take at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// It takes everything.
    #[default]
    None,
    /// No PUBLISH is read until it has caught up.
    Publishes,
    /// Nothing that would push a record is read, and no delivery at QoS 1 or 2 begins.
    Everything,
}

/// Makes records durable, in the order they are pushed: one shard's handle to the store.
pub trait Store {
    /// Appends a record; never blocks, never fails.
    fn push(&mut self, record: Record<'_>) -> Ticket;

    /// Hands on what was pushed: at the turn's end, before anybody else can hear of it.
    fn flush(&mut self);

    /// Everything up to this position is durable.
    fn durable(&self) -> Ticket;

    /// Whether what is pushed can be had again by [`Store::request`]. Otherwise every queue must stay in memory.
    fn has_pages(&self) -> bool;

    /// Asks for a page, behind everything that was pushed.
    fn request(&mut self, request: PageRequest);

    /// The next page that has come.
    fn next_page(&mut self) -> Option<Page>;

    /// How far it has fallen behind.
    fn pressure(&self) -> Pressure;

    /// Whether durable messages must be refused, for there is no room on the disk.
    fn is_full(&self) -> bool;
}
