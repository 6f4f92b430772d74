//! What a shard counts: single-writer counters that any thread may read, and the reasons for which a
//! message may be dropped. A leaf, because sessions count as well as shards.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter written by one thread and read by any: an add is a load and a store, never a locked
/// instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away. Only the owning shard may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)*) => {
        /// Why a message did not reach a taker. Every drop has one, and each is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)* }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// Whether it is about a message that was not sent on, or not retained, rather than about one taker.
            pub fn is_refusal(self) -> bool {
                use DropReason::*;
                matches!(
                    self,
                    NoSubscribers
                        | Unauthorised
                        | RateLimited
                        | RejectedFull
                        | StoreFull
                        | MemoryFull
                        | RetainedFull
                )
            }

            /// The name used in metrics and logs.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// The Message Expiry Interval passed while it waited.
    Expired = "expired",
    /// Larger than the client's Maximum Packet Size.
    TooLarge = "too_large",
    /// At QoS 0 to a connection whose outbound buffer is full, or that is not there.
    Qos0SlowConsumer = "qos0_slow_consumer",
    /// Nobody had subscribed.
    NoSubscribers = "no_subscribers",
    /// The publisher has no right to its topic.
    Unauthorised = "unauthorised",
    /// Published faster than its client, its user or its listener may, where such messages are refused.
    RateLimited = "rate_limited",
    /// The oldest made room in a full queue.
    OverflowOldest = "overflow_oldest",
    /// The newest found a full queue.
    OverflowNewest = "overflow_newest",
    /// Refused because a queue it would go to is full.
    RejectedFull = "rejected_full",
    /// Refused because there is no room on the disk.
    StoreFull = "store_full",
    /// Refused because it would be kept in memory alone, where there is no room.
    MemoryFull = "memory_full",
    /// Not kept as a retained message: the limits on those are met.
    RetainedFull = "retained_full",
    /// Whoever it waited for, a client or every member of a share group, has no right to read it any more.
    Revoked = "revoked",
    /// The session it waited in expired.
    SessionExpired = "session_expired",
    /// The session it waited in was ended by its client, or the share group by its last member.
    SessionEnded = "session_ended",
}

/// The counters of one shard.
///
/// The books balance. Every message goes to a number of takers, and each of these deliveries is completed, waits, or
/// was dropped for one reason: once nothing is under way between shards, [`Stats::deliveries`] of all shards together
/// are their [`Stats::delivered`], [`Stats::queued_messages`] and drops, without those reasons for which a message was
/// not forwarded to begin with ([`DropReason::is_refusal`]).
#[derive(Debug, Default)]
pub struct Stats {
    /// Packets received, of every type.
    pub packets_received: Counter,
    /// Packets sent, of every type.
    pub packets_sent: Counter,
    /// Bytes received.
    pub bytes_received: Counter,
    /// Bytes handed to sockets.
    pub bytes_sent: Counter,
    /// PUBLISH packets dealt with from clients, repeats of a QoS 2 one not counted.
    pub publish_received: Counter,
    /// Payload bytes in them.
    pub publish_bytes_received: Counter,
    /// PUBLISH packets sent to clients.
    pub publish_sent: Counter,
    /// Payload bytes in them.
    pub publish_bytes_sent: Counter,
    /// Deliveries: each message once for every taker that it was forwarded to, a share group being one taker, and once
    /// for every subscription that it was replayed to as a retained message.
    pub deliveries: Counter,
    /// Deliveries completed: written at QoS 0, acknowledged by PUBACK or PUBREC above.
    pub delivered: Counter,
    /// Connections with a session attached now.
    pub connected: Counter,
    /// Connections ever made.
    pub connections: Counter,
    /// Sessions that exist now, connected or not.
    pub sessions: Counter,
    /// Sessions that expired.
    pub expired: Counter,
    /// Subscriptions that exist now, shared ones included.
    pub subscriptions: Counter,
    /// Shared subscriptions that exist now.
    pub shared_subscriptions: Counter,
    /// Messages waiting in queues or unacknowledged now.
    pub queued_messages: Counter,
    /// Their bytes.
    pub queued_bytes: Counter,
    dropped: [Counter; DropReason::ALL.len()],
}

impl Stats {
    /// Counts `n` messages dropped for `reason`.
    pub fn count_drop(&self, reason: DropReason, n: u64) {
        self.dropped[reason as usize].add(n);
    }

    /// How many were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].get()
    }
}
