//! A session: the state machine between one client and the broker. Packets go in, packets and one
//! [`Action`] come out; it knows no sockets, no other sessions and no clock.

pub mod alias;
pub mod backlog;
mod deliver;
pub mod inflight;
pub mod link;
pub mod paging;
pub mod parked;
pub mod queue;
mod receive;
mod received;
pub mod run;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acl::{Acl, Owner, Who};
use crate::limits::{Limits, QueueRule};
use crate::message::{Message, MessageId, MessageIds, PeerId, QueueId, client_hash};
use crate::meter::QueueMeter;
use crate::principal::Principal;
use crate::protocol::packet::{PacketId, QoS, SubscribeOptions};
use crate::stats::Stats;
use crate::store::{Store, Ticket};
use crate::target::Identifiers;

use crate::will::Will;
use backlog::Backlog;
use inflight::Inflight;
use link::Link;
use paging::Paging;
use received::Received;

pub use receive::{Acknowledged, Action, check_user_properties};

/// A message on its way to one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// The queue it belongs to: the session's own or a share group's.
    pub from: QueueId,
    /// The Subscription Identifiers to tell.
    pub identifiers: Identifiers,
    /// The lower of the message's QoS and the subscription's.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Another member of the group may have seen it.
    pub dup: bool,
    /// It holds a place in the queue's limits, to be given back when it leaves.
    pub metered: bool,
    /// Its queue has a reference to it on disk, to be given up when it leaves.
    pub durable: bool,
}

/// What a session needs of the world for one step.
pub struct Context<'a> {
    /// The time of this turn.
    pub now: Instant,
    /// Where records go.
    pub store: &'a mut dyn Store,
    /// The budget of pages.
    pub paging: &'a mut Paging,
    /// The numbers that the shard gives to messages.
    pub ids: &'a mut MessageIds,
    /// The broker's limits.
    pub limits: &'a Limits,
    /// Whether deliveries at QoS 1 and 2 may begin: not while the store has far too much to do.
    pub starts: bool,
    /// How many bytes an outbound buffer may hold at present.
    pub outbound_limit: usize,
    /// The shard's counters.
    pub stats: &'a Stats,
    /// A buffer to build properties in.
    pub scratch: &'a mut Vec<u8>,
    /// Deliveries of share groups that are finished with: (group queue, message).
    pub settled: &'a mut Vec<Finished>,
    /// What clients may read; `None`: everything.
    pub acl: Option<&'a Acl>,
    /// Which of them: the version, in as many bits as a session has for it.
    pub rules: u32,
}

/// A delivery of a share group that its member is finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The group's queue.
    pub group: QueueId,
    /// The message.
    pub message: MessageId,
    /// The member may not read it: it is for another one.
    pub declined: bool,
}

/// A subscription as its session keeps it.
#[derive(Debug)]
pub struct SessionSubscription {
    /// The filter as subscribed, `$share/…` included: what the list is sorted by.
    pub filter: Box<str>,
    /// The options granted.
    pub options: SubscribeOptions,
    /// Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// For a shared subscription: the group it is a member of.
    pub group: Option<Box<Membership>>,
}

/// A session's place in a share group.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group's queue.
    pub queue: QueueId,
    /// Where the group lives.
    pub home: PeerId,
    /// Which joining this is: what was given to an earlier one is no longer wanted. 0 while the
    /// session has no connection.
    pub token: u32,
    /// What the group's queue holds against its limits.
    pub meter: Arc<QueueMeter>,
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(pub u32);

impl Expiry {
    /// The session ends with its connection.
    pub const AT_ONCE: Expiry = Expiry(0);
    /// The session does not expire.
    pub const NEVER: Expiry = Expiry(u32::MAX);

    /// This one, or the longest that is granted.
    pub fn at_most(self, most: Option<Duration>) -> Expiry {
        let seconds = |most: Duration| most.as_secs().min(u64::from(u32::MAX - 1)) as u32;
        most.map_or(self, |most| self.min(Expiry(seconds(most))))
    }

    /// How long, `None` for ever.
    pub fn duration(self) -> Option<Duration> {
        (self != Expiry::NEVER).then(|| Duration::from_secs(self.0.into()))
    }
}

/// The state that the standard calls Session State, and the connection it has at present.
#[derive(Debug)]
pub struct Session {
    /// The Client Identifier.
    pub client_id: Box<str>,
    /// To whom it belongs: nobody else resumes it.
    pub principal: Principal,
    /// The number of its queue; a client id that comes back after its session ended gets a new one.
    pub queue_id: QueueId,
    /// Session Expiry Interval as granted.
    pub expiry: Expiry,
    /// Its queue outlives its connection: fixed when the session is created.
    pub persistent: bool,
    /// For a persistent session: what its queue holds against its limits.
    pub meter: Option<Arc<QueueMeter>>,
    /// Sorted by filter.
    pub subscriptions: Vec<SessionSubscription>,
    /// The Will, until it is published or thrown away.
    pub will: Option<Box<Will>>,
    /// The first position in the store that it is listed as waiting for; `Ticket(0)` if it is not.
    pub awaited: Ticket,
    /// The second for which its timer is armed; `u64::MAX` if none is.
    pub armed: u64,
    /// The version of the rules, and at present the token, by which all that waits to be written was found to be for its
    /// client. By others it is asked for again.
    pub asked_by: u32,
    /// When the connection was lost.
    pub detached: Option<Instant>,
    /// The connection, if there is one.
    pub link: Option<Link>,
    /// Of the Client Identifier.
    client_hash: u32,
    inflight: Inflight,
    queue: Backlog,
    /// QoS 2 packet ids received and not released, with what their PUBREC waits for.
    received: Received,
}

impl Session {
    /// A session that has never been connected, of an anonymous client.
    pub fn new(
        client_id: &str,
        queue_id: QueueId,
        expiry: Expiry,
        meter: Option<Arc<QueueMeter>>,
    ) -> Session {
        Session {
            client_id: client_id.into(),
            principal: Principal::ANONYMOUS,
            queue_id,
            expiry,
            persistent: meter.is_some(),
            meter,
            subscriptions: Vec::new(),
            will: None,
            awaited: Ticket(0),
            armed: u64::MAX,
            asked_by: 0,
            detached: None,
            link: None,
            client_hash: client_hash(client_id),
            inflight: Inflight::default(),
            queue: Backlog::default(),
            received: Received::default(),
        }
    }

    /// Takes up a QoS 2 packet id that was received and not released: its record is durable.
    pub fn restore_received(&mut self, packet_ids: Vec<PacketId>) {
        self.received = packet_ids.into_iter().map(|packet_id| (packet_id, Ticket(0))).collect();
    }

    /// Takes up a QoS 2 delivery that had a packet id, behind those before it; `None`: only PUBREL is left to say.
    pub fn restore_sent(&mut self, packet_id: PacketId, delivery: Option<Delivery>) {
        self.inflight.restore(packet_id, delivery);
    }

    /// A connection takes the session up: everything unfinished will be sent again [MQTT-4.4.0-1].
    pub fn attach(&mut self, link: Link) {
        self.inflight.rewind();
        self.detached = None;
        self.received.reconnected();
        self.link = Some(link);
    }

    /// The connection is gone.
    pub fn detach(&mut self, now: Instant) -> Option<Link> {
        self.detached = Some(now);
        self.link.take()
    }

    /// When a session without a connection next has something to do: its will is due, or it expires.
    pub fn next_timeout(&self) -> Option<Instant> {
        let detached = self.detached?;
        let expires = self.expiry.duration().map(|expiry| detached + expiry);
        let due = self.will.as_ref().map(|will| detached + Duration::from_secs(will.delay.into()));
        // A will's delay ends with its session [MQTT-3.1.2-8].
        expires.into_iter().chain(due).min()
    }

    /// How many have a packet id and wait for their PUBACK or PUBREC.
    pub fn unacknowledged(&self) -> usize {
        self.inflight.iter().filter(|slot| slot.delivery.is_some()).count()
    }

    /// The bytes of memory that its consumer's pace is to blame for: the outbound buffer and, unless it is bounded by
    /// its own limits alone, what of the queue is in memory.
    pub fn buffered(&self) -> usize {
        let in_memory_only = self.persistent && !self.queue.is_paged();
        let queue = if in_memory_only { 0 } else { self.queue.window().bytes() };
        queue + self.link.as_ref().map_or(0, |link| link.outbound.len())
    }

    /// How many wait without a packet id.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Those of them that are in memory.
    pub fn in_memory(&self) -> usize {
        self.queue.window().len()
    }

    /// Whether [`Session::awaits`] could say anything: at most deliveries nothing waits for the disk.
    pub fn may_await(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.holds() || !self.inflight.all_written())
    }

    /// What it waits for next, if it has something to send that is not durable yet.
    pub fn awaits(&self, store: &dyn Store) -> Option<Ticket> {
        let held = self.link.as_ref()?.awaits();
        if self.inflight.all_written() {
            return held;
        }
        held.into_iter().chain(self.inflight.awaits(store.durable())).min()
    }

    /// Whether everything that was to leave has left: a retained replay may go on.
    pub fn is_idle(&self, outbound_limit: usize) -> bool {
        self.queue.is_empty()
            && self.inflight.all_written()
            && self.link.as_ref().is_some_and(|link| {
                link.open
                    && self.inflight.len() < usize::from(link.window)
                    && link.outbound.len() < outbound_limit
                    && link.pace.as_ref().is_none_or(|pace| !pace.waits())
            })
    }

    /// Whether its client's pace is bounded.
    pub fn is_paced(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.pace.is_some())
    }

    /// Whether a delivery may leave now, as far as its client's pace goes; if not, the connection is listed for it.
    pub fn is_in_pace(&mut self, now: Instant) -> bool {
        self.link.as_mut().is_none_or(|link| link.is_in_pace(now))
    }

    /// To ask what it may do.
    pub fn who(&self) -> Who<'_> {
        Who { principal: &self.principal, client_id: &self.client_id }
    }

    /// The same, to keep.
    pub fn owner(&self) -> Owner {
        Owner { principal: self.principal.clone(), client_id: self.client_id.clone() }
    }

    /// The subscription with this filter, as subscribed.
    pub fn subscription(&self, filter: &str) -> Option<&SessionSubscription> {
        let index = self.subscriptions.binary_search_by(|held| held.filter.as_ref().cmp(filter)).ok()?;
        self.subscriptions.get(index)
    }

    /// Its queue is bounded by the most specific of `rules` that covers a subscription of its own: where there is but one
    /// rule, that has been so from the beginning.
    pub fn bind_queue(&self, rules: &[QueueRule]) {
        if rules.len() > 1 {
            self.rebind_queue(rules);
        }
    }

    /// The same for rules that are not those by which it has been bounded so far.
    pub fn rebind_queue(&self, rules: &[QueueRule]) {
        if let Some(meter) = &self.meter {
            let own = self.subscriptions.iter().filter(|held| held.group.is_none());
            meter.bind(rules, own.map(|held| &*held.filter));
        }
    }

    /// Whether what becomes of its deliveries is recorded: of its own, or of those of a share group.
    pub fn is_recorded(&self) -> bool {
        self.persistent || self.subscriptions.iter().any(|held| held.group.is_some())
    }

    /// The membership in the group with this queue.
    pub fn membership(&self, group: QueueId) -> Option<&Membership> {
        self.subscriptions.iter().filter_map(|held| held.group.as_deref()).find(|held| held.queue == group)
    }

    /// Adds or replaces a subscription.
    pub fn put_subscription(&mut self, subscription: SessionSubscription) {
        match self.subscriptions.binary_search_by(|held| held.filter.cmp(&subscription.filter)) {
            Ok(index) => self.subscriptions[index] = subscription,
            Err(index) => {
                if self.subscriptions.is_empty() {
                    // Most sessions have one, for which a vector would make room for four.
                    self.subscriptions.reserve_exact(1);
                }
                self.subscriptions.insert(index, subscription);
            }
        }
    }

    /// Removes a subscription.
    pub fn take_subscription(&mut self, filter: &str) -> Option<SessionSubscription> {
        let index = self.subscriptions.binary_search_by(|held| held.filter.as_ref().cmp(filter)).ok()?;
        Some(self.subscriptions.remove(index))
    }
}

/// A delivery waits in its session's queue, or is under way.
fn account(delivery: &Delivery, cx: &Context<'_>) {
    cx.stats.queued_messages.add(1);
    cx.stats.queued_bytes.add(delivery.message.size() as u64);
}

/// It does so no more.
fn unaccount(delivery: &Delivery, cx: &Context<'_>) {
    cx.stats.queued_messages.sub(1);
    cx.stats.queued_bytes.sub(delivery.message.size() as u64);
}
