//! What a store gives back at the start: the broker's state as of the last record that was durable.

use std::sync::Arc;
use std::time::Instant;

use super::PageEntry;
use crate::message::{Message, QueueId};
use crate::protocol::packet::PacketId;
use crate::will::Will;

/// Everything that outlived the last process.
#[derive(Debug, Default)]
pub struct Restored {
    /// The persistent sessions.
    pub sessions: Vec<RestoredSession>,
    /// The durable share groups.
    pub groups: Vec<RestoredGroup>,
    /// The retained messages, each with its version.
    pub retained: Vec<Arc<Message>>,
    /// The highest numbers that were ever given, one for each shard there was: (the shard's prefix, messages, queues).
    pub numbers: Vec<Numbers>,
    /// The highest version of a retained publish.
    pub retained_version: u64,
}

/// The highest numbers with one shard's prefix: what is given from now on must be above them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The upper 16 bits of the numbers.
    pub prefix: u16,
    /// The lower 48 bits of the highest message id.
    pub message: u64,
    /// The lower 48 bits of the highest queue number.
    pub queue: u64,
}

/// What waits in a queue on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages.
    pub messages: u64,
    /// Their bytes, as [`Message::size`] counts them.
    pub bytes: u64,
}

/// A persistent session.
#[derive(Debug)]
pub struct RestoredSession {
    /// Its queue.
    pub queue: QueueId,
    /// Its client identifier.
    pub client_id: Box<str>,
    /// The user that it belongs to; `None`: anonymous.
    pub user: Option<Box<str>>,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// Since when it has had no connection, the time that the broker was stopped included; `None` if it had one to the end.
    pub detached: Option<Instant>,
    /// Its will, if one is still to be published.
    pub will: Option<Will>,
    /// Its subscriptions.
    pub subscriptions: Vec<RestoredSubscription>,
    /// QoS 2 packet ids received and not released.
    pub received: Vec<PacketId>,
    /// QoS 2 deliveries under way, in the order they were sent.
    pub sent: Vec<RestoredSent>,
    /// What waits in its queue besides.
    pub waiting: Waiting,
}

/// A subscription of a persistent session.
#[derive(Debug)]
pub struct RestoredSubscription {
    /// The filter, `$share/…` included.
    pub filter: Box<str>,
    /// The options byte as on the wire.
    pub options: u8,
    /// Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// The group's queue, for a shared subscription.
    pub group: Option<QueueId>,
    /// Retained publishes above this version reached it live.
    pub since: u64,
    /// Its retained replay, if that is not finished.
    pub replay: Option<RestoredReplay>,
}

/// How far a retained replay came.
#[derive(Debug, PartialEq, Eq)]
pub enum RestoredReplay {
    /// Nothing yet.
    Start,
    /// As far as this topic.
    After(Box<str>),
}

/// A QoS 2 delivery under way.
#[derive(Debug)]
pub struct RestoredSent {
    /// Its packet id.
    pub packet_id: PacketId,
    /// What was sent; `None` once its PUBREC had come, when only PUBREL is left to say.
    pub entry: Option<PageEntry>,
}

/// A durable share group.
#[derive(Debug)]
pub struct RestoredGroup {
    /// Its queue.
    pub queue: QueueId,
    /// What waits in it.
    pub waiting: Waiting,
}
