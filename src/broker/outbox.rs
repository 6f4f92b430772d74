//! What a shard has to say to its peers at the end of a turn: one batch per peer, bounded by byte
//! credit. Over the credit the shard's publishers pause; nothing else ever waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::route::Route;
use crate::acl::Owner;
use crate::message::{Message, MessageId, PeerId, QueueId};
use crate::meter::{Level, QueueMeter};
use crate::protocol::packet::QoS;
use crate::session::Delivery;
use crate::target::GroupTarget;

/// One thing that a shard tells another, or itself.
#[derive(Debug)]
pub enum Item {
    /// A message, and where it goes.
    Forward(Arc<Message>, Arc<Route>),
    /// A group gives a message to a member.
    Give {
        /// The member's session.
        session: QueueId,
        /// The joining it is meant for.
        token: u32,
        /// The version of the rules by which the member may read it.
        rules: u64,
        /// What is given.
        delivery: Delivery,
    },
    /// A member may not read what its group gave it: somebody else may.
    Declined {
        /// The group's queue.
        group: QueueId,
        /// The member's session.
        session: QueueId,
        /// The message.
        message: MessageId,
    },
    /// A member is finished with a message of its group.
    Settled {
        /// The group's queue.
        group: QueueId,
        /// The member's session.
        session: QueueId,
        /// The message.
        message: MessageId,
    },
    /// A member's connection is gone: all that was given to it but what is kept returns.
    Back {
        /// The group's queue.
        group: QueueId,
        /// The member's session.
        session: QueueId,
        /// QoS 2 messages already sent stay with the session.
        kept: Box<[MessageId]>,
    },
    /// A member is there and takes messages.
    Join(Box<Join>),
    /// A member unsubscribed, or its session ended.
    Leave {
        /// The group's queue.
        group: QueueId,
        /// The member's session.
        session: QueueId,
        /// What was sent already stays with the session.
        kept: Box<[MessageId]>,
        /// It was the last: the group ends.
        last: bool,
    },
    /// A publisher was refused by a full queue: what has expired in it is to go.
    Purge(QueueId),
    /// A session's queue comes near its limit: the log is to say whose.
    Level(QueueId, Level),
    /// The receiver has caught up: the sender's publishers may go on.
    Credit,
}

/// A member and its terms.
#[derive(Debug)]
pub struct Join {
    /// The group's queue.
    pub group: QueueId,
    /// `$share/NAME/FILTER` in its two parts.
    pub name: Box<str>,
    /// The plain filter.
    pub filter: Box<str>,
    /// The member's session.
    pub session: QueueId,
    /// Where the session lives.
    pub peer: PeerId,
    /// Which joining this is.
    pub token: u32,
    /// How many unacknowledged messages it takes at once; 0 while it has no connection.
    pub window: u16,
    /// Its QoS.
    pub qos: QoS,
    /// Its Retain As Published.
    pub retain_as_published: bool,
    /// Its Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// What the group's queue holds against its limits.
    pub meter: Arc<QueueMeter>,
    /// Who the member is, if that makes a difference to what it may read.
    pub owner: Option<Arc<Owner>>,
}

impl Join {
    /// The group, whose home is `home`, as a message would be sent to it.
    pub fn target(&self, home: PeerId) -> GroupTarget {
        GroupTarget {
            queue: self.group,
            home,
            filter: (*self.filter).into(),
            group: (*self.name).into(),
            durable: false,
            meter: self.meter.clone(),
        }
    }
}

impl Item {
    /// The bytes it holds back while it waits; a body shared by many counts for each.
    fn size(&self) -> usize {
        64 + match self {
            Item::Forward(message, _) => message.size(),
            Item::Give { delivery, .. } => delivery.message.size(),
            _ => 0,
        }
    }
}

/// What one shard tells one peer in one turn.
#[derive(Debug)]
pub struct Batch {
    /// Who tells.
    pub from: PeerId,
    /// In order.
    pub items: Vec<Item>,
    /// What they hold back.
    pub bytes: usize,
}

/// The bytes under way between every pair of peers.
#[derive(Debug)]
pub struct Credits {
    peers: usize,
    pairs: Box<[Pair]>,
    /// For each peer, whether it wants to hear when it may go on.
    waiting: Box<[AtomicBool]>,
}

/// What one peer has under way to another.
#[derive(Debug)]
struct Pair {
    outstanding: AtomicUsize,
    /// What the receiver lets it have, in bytes, if that is less than the limit for all.
    granted: AtomicUsize,
}

impl Credits {
    /// Nothing under way between `peers` peers.
    pub fn new(peers: usize) -> Credits {
        let pair = |_| Pair { outstanding: AtomicUsize::new(0), granted: AtomicUsize::new(usize::MAX) };
        Credits {
            peers,
            pairs: (0..peers * peers).map(pair).collect(),
            waiting: (0..peers).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// The bytes under way from one peer to another.
    pub fn under_way(&self, from: PeerId, to: PeerId) -> usize {
        self.pair(from, to).outstanding.load(Relaxed)
    }

    fn pair(&self, from: PeerId, to: PeerId) -> &Pair {
        &self.pairs[usize::from(from.0) * self.peers + usize::from(to.0)]
    }
}

#[derive(Debug, Default)]
struct Lane {
    items: Vec<Item>,
    bytes: usize,
    /// How many the last batch had: this one will have about as many.
    last_len: usize,
}

/// What is made room for at once; more than that comes too seldom to count on.
const MOST_EXPECTED: usize = 1024;

/// What the messages of a full credit may come to with all their takers, in bytes: some tenths of a second of work.
const WORK: usize = 128 * 1024 * 1024;

/// A credit is never less than this part of the limit.
const LEAST_PART: usize = 32;

/// What waits to be told.
#[derive(Debug)]
pub struct Outbox {
    own: PeerId,
    /// To this shard itself: no lane, but the same order.
    own_items: VecDeque<Item>,
    own_bytes: usize,
    lanes: Vec<Lane>,
    credits: Arc<Credits>,
    limit: usize,
}

impl Outbox {
    /// Of the shard `own`, with `limit` bytes of credit towards each peer.
    pub fn new(own: PeerId, credits: Arc<Credits>, limit: usize) -> Outbox {
        let lanes = (0..credits.peers).map(|_| Lane::default()).collect();
        Outbox { own, own_items: VecDeque::new(), own_bytes: 0, lanes, credits, limit }
    }

    /// From now on there are `limit` bytes of credit towards each peer.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Tells `to`, at the end of the turn.
    pub fn push(&mut self, to: PeerId, item: Item) {
        let size = item.size();
        if to == self.own {
            self.own_bytes += size;
            self.own_items.push_back(item);
        } else {
            let lane = &mut self.lanes[usize::from(to.0)];
            if lane.items.is_empty() {
                lane.items.reserve(lane.last_len.min(MOST_EXPECTED));
            }
            lane.bytes += size;
            lane.items.push(item);
        }
    }

    /// The next thing this shard told itself.
    pub fn pop_own(&mut self) -> Option<Item> {
        let item = self.own_items.pop_front()?;
        self.own_bytes -= item.size();
        Some(item)
    }

    /// What [`Outbox::pop_own`] would give.
    pub fn front_own(&self) -> Option<&Item> {
        self.own_items.front()
    }

    /// Whether there is anything to do or to tell.
    pub fn has_work(&self) -> bool {
        !self.own_items.is_empty() || self.lanes.iter().any(|lane| !lane.items.is_empty())
    }

    /// Whether this shard told itself something.
    pub fn has_own(&self) -> bool {
        !self.own_items.is_empty()
    }

    /// Everything for `to`, at the turn's end.
    pub fn take_batch(&mut self, to: PeerId) -> Option<Batch> {
        let lane = &mut self.lanes[usize::from(to.0)];
        if lane.items.is_empty() {
            return None;
        }
        self.credits.pair(self.own, to).outstanding.fetch_add(lane.bytes, Relaxed);
        let (items, bytes) = (std::mem::take(&mut lane.items), std::mem::take(&mut lane.bytes));
        lane.last_len = items.len();
        Some(Batch { from: self.own, items, bytes })
    }

    /// A batch from `from` has been dealt with: gives its credit back, and says so to a sender that waits for it.
    pub fn repay(&mut self, from: PeerId, bytes: usize) {
        let pair = self.credits.pair(from, self.own);
        let left = pair.outstanding.fetch_sub(bytes, SeqCst) - bytes;
        let half = pair.granted.load(Relaxed).min(self.limit) / 2;
        if left <= half && self.credits.waiting[usize::from(from.0)].load(SeqCst) {
            self.push(from, Item::Credit);
        }
    }

    /// Messages from `from` had so many takers here. The more a byte comes to, the fewer may be under way: else those
    /// of others, which stand in the same line, would wait for seconds.
    pub fn grant(&mut self, from: PeerId, takers: usize) {
        let granted = (WORK / takers.max(1)).max(self.limit / LEAST_PART);
        self.credits.pair(from, self.own).granted.store(granted, Relaxed);
    }

    /// Whether publishers must pause: some peer, or this shard itself, is too far behind.
    pub fn over_credit(&self) -> bool {
        self.lanes.iter().enumerate().any(|(to, lane)| {
            let pair = self.credits.pair(self.own, PeerId(to as u16));
            let own = if to == usize::from(self.own.0) { self.own_bytes } else { 0 };
            let under_way = pair.outstanding.load(SeqCst);
            lane.bytes + own + under_way > pair.granted.load(Relaxed).min(self.limit)
        })
    }

    /// Says whether a publisher of this shard waits for credit. To be said before [`Outbox::over_credit`] is looked at
    /// for the last time: then either that sees what was repaid, or who repays sees this.
    pub fn await_credit(&self, waits: bool) {
        self.credits.waiting[usize::from(self.own.0)].store(waits, SeqCst);
    }
}
