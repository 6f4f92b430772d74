//! What a shard holds at one moment, counted from the tables themselves rather than kept: for administration, and to
//! hold the running counters against.

use super::Shard;

/// What there is of everything in one shard, or in several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Sessions with a connection.
    pub connected: usize,
    /// Client identifiers that lead to a session: as many as there are sessions.
    pub client_ids: usize,
    /// Queue numbers that lead to a session: as many as there are sessions.
    pub session_queues: usize,
    /// Subscriptions that sessions hold, shared ones included.
    pub subscriptions: usize,
    /// Subscriptions of transient sessions in the table by filter.
    pub transient_subscriptions: usize,
    /// Share groups whose home this is.
    pub groups: usize,
    /// Their members.
    pub members: usize,
    /// Messages that wait in the queues of sessions and groups.
    pub queued: usize,
    /// Those of them that are in memory.
    pub in_memory: usize,
    /// Messages sent, or bound to be, and not acknowledged.
    pub unacknowledged: usize,
    /// Places taken in the limits of durable queues, by what they hold and by what is on its way to them.
    pub reserved: u64,
    /// Retained messages still to be read for subscriptions that asked for them: how many subscriptions.
    pub replays: usize,
    /// Timers that are set.
    pub timers: usize,
    /// Publishers that are held back.
    pub paused: usize,
    /// The longest queue of a session or group, in messages.
    pub longest_queue: usize,
    /// The most that one connection has to send or holds back for the disk, in bytes.
    pub largest_outbound: usize,
}

impl Census {
    /// This one and `other` together.
    #[must_use]
    pub fn and(self, other: Census) -> Census {
        Census {
            sessions: self.sessions + other.sessions,
            connected: self.connected + other.connected,
            client_ids: self.client_ids + other.client_ids,
            session_queues: self.session_queues + other.session_queues,
            subscriptions: self.subscriptions + other.subscriptions,
            transient_subscriptions: self.transient_subscriptions + other.transient_subscriptions,
            groups: self.groups + other.groups,
            members: self.members + other.members,
            queued: self.queued + other.queued,
            in_memory: self.in_memory + other.in_memory,
            unacknowledged: self.unacknowledged + other.unacknowledged,
            reserved: self.reserved + other.reserved,
            replays: self.replays + other.replays,
            timers: self.timers + other.timers,
            paused: self.paused + other.paused,
            longest_queue: self.longest_queue.max(other.longest_queue),
            largest_outbound: self.largest_outbound.max(other.largest_outbound),
        }
    }
}

impl Shard {
    /// Counts what is there. Looks at every session once.
    pub fn census(&self) -> Census {
        let mut census = Census {
            sessions: self.sessions.len(),
            client_ids: self.by_client.len(),
            session_queues: self.by_queue.len(),
            transient_subscriptions: self.subscriptions.len(),
            groups: self.groups.len(),
            replays: self.replays.len(),
            timers: self.timers.len(),
            ..Census::default()
        };
        for (_, session) in &self.sessions {
            census.subscriptions += session.subscriptions.len();
            census.queued += session.queued();
            census.in_memory += session.in_memory();
            census.unacknowledged += session.unacknowledged();
            census.longest_queue = census.longest_queue.max(session.queued());
            census.reserved += session.meter.as_ref().map_or(0, |meter| meter.messages());
            if let Some(link) = &session.link {
                census.connected += 1;
                census.paused += usize::from(link.paused.is_some() || link.parked.is_some());
                census.largest_outbound = census.largest_outbound.max(link.unsent());
            }
        }
        for group in self.groups.values() {
            census.members += group.members();
            census.queued += group.queued();
            census.in_memory += group.in_memory();
            census.longest_queue = census.longest_queue.max(group.queued());
            census.reserved += group.reserved();
        }
        census
    }
}
