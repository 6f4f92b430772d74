//! What must hold of the broker itself: every buffer under its limit at every step, books that balance, and tables that
//! are empty when everybody is gone.

use weirmq::broker::outbox::Item;
use weirmq::broker::shard::{Census, Shard};
use weirmq::limits::Overflow;
use weirmq::message::PeerId;
use weirmq::stats::{DropReason, Stats};

use super::broker::Sim;
use super::plan::{Backing, GROUPS};

/// The largest packet that a client sends, and what surrounds it.
const LARGEST: usize = 5_200;

impl Sim {
    /// Every shard's census together.
    pub fn census(&self) -> Census {
        self.broker.shards.iter().map(Shard::census).fold(Census::default(), Census::and)
    }

    /// One of the counters, of all shards together.
    pub fn total(&self, counter: impl Fn(&Stats) -> u64) -> u64 {
        self.broker.stats.iter().map(|stats| counter(stats)).fold(0, u64::wrapping_add)
    }

    /// Every buffer of a shard is under its limit.
    pub fn check_bounds(&self, shard: usize) {
        let census = self.broker.shards[shard].census();
        let limits = &self.plan.limits;
        assert_eq!(
            (census.client_ids, census.session_queues),
            (census.sessions, census.sessions),
            "{census:?}"
        );
        assert!(census.timers <= census.sessions, "{census:?}");
        // Deliveries stop at the limit, but a packet is never split. Answers may go, or wait for the disk, up to twice
        // the limit besides.
        let outbound = 3 * limits.outbound_buffer + LARGEST;
        assert!(census.largest_outbound <= outbound, "an outbound buffer over {outbound}: {census:?}");
        let durable = if self.plan.rule.max_messages == 0 { u64::MAX } else { self.plan.rule.max_messages };
        let given = GROUPS.len() as u64 * u64::from(limits.max_inflight);
        // What was recorded and had not reached its queue when the broker ended is there now, though the newest is dropped
        // where it arrives. Where publishers are refused, every place was reserved.
        let reserves = self.plan.rule.overflow == Overflow::Reject;
        let restored = if reserves { 0 } else { self.longest_restored };
        let transient = limits.transient_queue_messages as u64;
        // What a group had in memory alone stays there beside what it has on disk, once it has a persistent member.
        let most = if self.plan.mixes() { durable.saturating_add(transient) } else { durable.max(transient) };
        let longest = most.max(restored).saturating_add(given);
        // What is on disk is over its limit until a page has told which the oldest are.
        let trims = self.plan.store != Backing::Memory && self.plan.rule.overflow == Overflow::DropOldest;
        assert!(trims || census.longest_queue as u64 <= longest, "a queue over {longest}: {census:?}");
        for to in 0..self.broker.shards.len() {
            self.check_lane(shard, to);
        }
        let books = self.books();
        // What a page brought before it was forwarded has left the queue before it came.
        let (deliveries, accounted) = (books.0.cast_signed(), books.1.cast_signed());
        assert!(deliveries >= accounted, "{deliveries} deliveries, but {accounted} accounted for");
    }

    /// Publishers stop when a lane is over its credit: what they forwarded is within it, but for the last message, and
    /// the wills of those who are gone.
    fn check_lane(&self, from: usize, to: usize) {
        let Some(lane) = self.lanes.get(&(from, to)) else { return };
        let items = lane.iter().flat_map(|batch| &batch.items);
        let forwarded: usize = items
            .map(|item| match item {
                Item::Forward(message, _) if !message.topic().starts_with("w/") => message.size() + 64,
                _ => 0,
            })
            .sum();
        let limit = self.plan.limits.lane_bytes + LARGEST;
        assert!(forwarded <= limit, "{forwarded} bytes from {from} to {to}, the limit is {limit}");
    }

    /// Deliveries, and what became of them as far as that is known.
    fn books(&self) -> (u64, u64) {
        let about_takers = DropReason::ALL.iter().filter(|reason| !reason.is_refusal());
        let dropped: u64 = about_takers.map(|reason| self.total(|stats| stats.dropped(*reason))).sum();
        let delivered = self.total(|stats| stats.delivered.get());
        let queued = self.total(|stats| stats.queued_messages.get());
        (self.total(|stats| stats.deliveries.get()), delivered.wrapping_add(queued).wrapping_add(dropped))
    }

    /// With nothing under way between shards: every delivery is completed, waits, or was dropped for a reason.
    pub fn check_books(&self) {
        let (deliveries, accounted) = self.books();
        assert_eq!(deliveries, accounted, "deliveries = delivered + queued + dropped");
        let census = self.census();
        let queued = self.total(|stats| stats.queued_messages.get());
        assert_eq!(queued, (census.queued + census.unacknowledged) as u64, "{census:?}");
        let received = self.total(|stats| stats.publish_received.get());
        // One that was refused at QoS 2, without its client hearing of it, is another when it comes again. One that was
        // parked when its connection ended was not received.
        let rejected = self.dropped_now(DropReason::RejectedFull) + self.dropped_now(DropReason::StoreFull);
        let likely = self.taken.saturating_sub(rejected)..=self.taken + rejected + self.retaken;
        assert!(likely.contains(&received), "{received} PUBLISH packets, {}", self.taken);
        let sessions = self.total(|stats| stats.sessions.get());
        let connected = self.total(|stats| stats.connected.get());
        let subscriptions = self.total(|stats| stats.subscriptions.get());
        let counted = (sessions as usize, connected as usize, subscriptions as usize);
        assert_eq!(counted, (census.sessions, census.connected, census.subscriptions), "{census:?}");
    }

    /// With everybody connected and done: every queue is empty, and no place in one is taken.
    pub fn check_nothing_waits(&self) {
        let census = self.census();
        assert_eq!(
            (census.queued, census.unacknowledged, census.replays),
            (0, 0, 0),
            "something waits: {census:?}"
        );
        assert_eq!(census.reserved, 0, "places are taken that nothing takes: {census:?}");
        assert_eq!(
            self.store.journal().references(),
            0,
            "the store holds references to what is acknowledged"
        );
    }

    /// How many deliveries and messages were dropped, by reason.
    pub fn drops(&self) -> String {
        let reasons = DropReason::ALL.iter().map(|reason| (reason.name(), self.dropped(*reason)));
        let some: Vec<String> =
            reasons.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
        some.join(", ")
    }

    /// How many were dropped for one reason, in the whole run.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.past_drops.get(reason.name()).copied().unwrap_or_default() + self.dropped_now(reason)
    }

    /// How many were, since the broker's last start.
    pub fn dropped_now(&self, reason: DropReason) -> u64 {
        self.total(|stats| stats.dropped(reason))
    }

    /// Everybody is gone and nothing is retained: so are their traces.
    pub fn check_empty(&self) {
        let census = self.census();
        assert_eq!(census, Census::default(), "something is left");
        let interest = self.broker.shared.interest();
        assert_eq!(
            (interest.filters(), interest.subscriptions(), interest.memberships()),
            (0, 0, 0),
            "Interest"
        );
        assert_eq!(self.broker.shared.retained().count(), 0, "retained messages");
        assert_eq!(self.total(|stats| stats.connected.get()), 0, "connected");
        assert_eq!(self.total(|stats| stats.sessions.get()), 0, "sessions");
        assert_eq!(self.total(|stats| stats.subscriptions.get()), 0, "subscriptions");
        assert_eq!(self.total(|stats| stats.shared_subscriptions.get()), 0, "shared subscriptions");
        assert_eq!(self.total(|stats| stats.queued_messages.get()), 0, "queued messages");
        assert_eq!(self.total(|stats| stats.queued_bytes.get()), 0, "queued bytes");
        for from in 0..self.broker.shards.len() {
            for to in 0..self.broker.shards.len() {
                assert_eq!(
                    self.broker.credits.under_way(PeerId(from as u16), PeerId(to as u16)),
                    0,
                    "credit from {from} to {to}"
                );
            }
        }
        let journal = self.store.journal();
        assert_eq!((journal.references(), journal.queues()), (0, 0), "references and queues in the store");
    }
}
