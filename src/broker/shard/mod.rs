//! A shard: the sessions of one thread and everything that happens to them. It is pure: bytes, time
//! and batches go in; bytes and batches come out. The shell in `net` moves them.

mod access;
mod census;
mod connect;
mod deliver;
mod disk;
mod levels;
mod memory;
mod pause;
mod publish;
mod rate;
mod receive;
mod reload;
mod replay;
mod restore;
mod review;
mod subscribe;
mod timeout;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use slab::Slab;

use super::group::{Group, GroupContext};
use super::lookup::Lookup;
use super::outbox::{Batch, Credits, Item, Outbox};
use super::route::RouteCache;
use super::shared::Shared;
use super::subscriptions::Subscriptions;
use super::sys::SysTopics;
use super::timers::Timers;
use super::waiters::Waiters;
use crate::acl::Current;
use crate::flow::registry::Flow;
use crate::limits::{Limits, QueueRule, ShareRule};
use crate::message::{Message, MessageIds, PeerId, QueueId};
use crate::outbound::Outbound;
use crate::principal::Principal;
use crate::protocol::codec;
use crate::protocol::packet::{Connect, Disconnect, Packet, Version};
use crate::protocol::properties::Properties;
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::session::link::Pause;
use crate::session::paging::Paging;
use crate::session::run::Run;
use crate::session::{Context, Finished, Session};
use crate::stats::Stats;
use crate::store::{Store, Ticket};

use access::Granted;
use deliver::Incoming;
use disk::Awaiting;
use pause::Waiting;
use rate::Departed;
use replay::Replays;
use review::Review;

pub use census::Census;
pub use memory::Headroom;
pub use receive::{ReceiveState, Received};
pub use reload::Rules;

/// A connection: a slot of the shard's session table, and which of the session's connections it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Index into the sessions.
    pub session: u32,
    /// Rises with every connection of the shard.
    pub generation: u32,
}

/// A CONNECT that has been authenticated.
#[derive(Debug)]
pub struct Attach<'a> {
    /// The packet.
    pub connect: &'a Connect<'a>,
    /// Its client identifier, or the one that was assigned.
    pub client_id: &'a str,
    /// Whether it was assigned.
    pub assigned: bool,
    /// Whom it has proved to be.
    pub principal: &'a Principal,
    /// The listener that it came by, as the configuration names it.
    pub listener: &'a str,
    /// Largest packet, in bytes, that this listener takes, if the broker's own limit is not less.
    pub max_packet_size: u32,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent DISCONNECT.
    Disconnected,
    /// The transport ended without one.
    Lost,
    /// The server ended it.
    Server(ProtocolError),
}

/// A connection that the shard has let go of.
#[derive(Debug)]
pub struct Closed {
    /// Which.
    pub connection: ConnectionId,
    /// Whose, for the log.
    pub client_id: Box<str>,
    /// The last bytes to write before the socket is shut.
    pub outbound: Outbound,
    /// Why.
    pub reason: CloseReason,
}

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// Its number.
    pub id: PeerId,
    /// How many there are.
    pub peers: u16,
    /// Of its randomness.
    pub seed: u64,
    /// The broker's limits.
    pub limits: Arc<Limits>,
    /// Which strategy each share group uses.
    pub share_rules: Arc<[ShareRule]>,
    /// The limits of durable queues.
    pub queue_rules: Arc<[QueueRule]>,
    /// How fast messages may come in and go out.
    pub flow: Arc<Flow>,
    /// How often `$SYS` topics are brought up to date; zero for never.
    pub sys_interval: Duration,
    /// Every shard's counters, in the order of their numbers.
    pub stats: Arc<[Arc<Stats>]>,
    /// The bytes under way between shards.
    pub credits: Arc<Credits>,
}

/// A shard.
pub struct Shard {
    settings: ShardSettings,
    shared: Arc<Shared>,
    core: Core,
    sessions: Slab<Session>,
    by_client: Lookup<str>,
    by_queue: Lookup<QueueId>,
    groups: HashMap<QueueId, Group, foldhash::fast::RandomState>,
    subscriptions: Subscriptions,
    routes: RouteCache,
    outbox: Outbox,
    /// What peers told this shard, the oldest first.
    inbox: VecDeque<Incoming>,
    timers: Timers,
    /// Sessions that wait for the disk.
    awaiting: Awaiting,
    replays: Replays,
    sys: SysTopics,
    dirty: VecDeque<ConnectionId>,
    /// One of those has gathered so much that it should be written before more is delivered.
    crowded: bool,
    closed: VecDeque<Closed>,
    waiting: Waiting,
    /// Who waits for tokens.
    waiters: Waiters,
    departed: Departed,
    /// The PUBLISH at hand is beyond its client's rate, and is to be refused.
    over_rate: bool,
    resumed: VecDeque<ConnectionId>,
    /// The server stops: what is left is the next one's.
    stopping: bool,
    /// Other rules hold, and some sessions have not learnt of it.
    review: Option<Review>,
    /// Who was last found to have the right to publish to what.
    granted: Granted,
    /// When retained messages were last found at their limit and gone through.
    retained_full: Option<Instant>,
    run: Run,
    run_messages: Vec<Arc<Message>>,
    last_queue: u64,
    last_generation: u32,
    /// What tells that the last persistent session to end has ended.
    last_end: Ticket,
}

/// Bytes that a connection may gather while others are written to. With less there are more and smaller writes; with
/// more, a connection that takes much would come to its limit because others take little.
const CROWDED: usize = 64 * 1024;

/// What every step of a session or a group borrows, apart from the tables.
struct Core {
    store: Box<dyn Store>,
    paging: Paging,
    ids: MessageIds,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    random: fastrand::Rng,
    scratch: Vec<u8>,
    settled: Vec<Finished>,
    /// What clients may do.
    rules: Current,
    /// What outbound buffers, transient queues and the shell hold together.
    buffered: usize,
    /// What of that the shell keeps because no packet has come of it.
    kept: usize,
    /// How much room there is in memory.
    headroom: Headroom,
    /// How much they may hold before the greediest count as full.
    buffer_budget: usize,
    /// What one of them may hold at present.
    outbound_limit: usize,
    /// Whether deliveries at QoS 1 and 2 may begin.
    starts: bool,
}

impl Core {
    /// Counts what a session buffers now instead of `before`. Over the budget, a connection may hold
    /// its fair share.
    fn account(&mut self, before: usize, now: usize) {
        self.buffered = self.buffered + now - before;
        self.outbound_limit = self.limits.outbound_buffer;
        if self.buffered > self.buffer_budget {
            let share = self.buffer_budget / (self.stats.connected.get().max(1) as usize);
            self.outbound_limit = self.outbound_limit.min(share);
        }
    }

    fn context(&mut self, now: Instant) -> Context<'_> {
        Context {
            now,
            store: self.store.as_mut(),
            paging: &mut self.paging,
            ids: &mut self.ids,
            limits: &self.limits,
            starts: self.starts,
            outbound_limit: self.outbound_limit,
            stats: &self.stats,
            scratch: &mut self.scratch,
            settled: &mut self.settled,
            acl: self.rules.acl.as_deref(),
            rules: self.rules.version as u32,
        }
    }

    fn group_context<'a>(&'a mut self, now: Instant, shared: &'a Shared) -> GroupContext<'a> {
        GroupContext {
            now,
            store: self.store.as_mut(),
            paging: &mut self.paging,
            limits: &self.limits,
            outbound_limit: self.outbound_limit,
            stats: &self.stats,
            random: &mut self.random,
            rules: &self.rules,
            shared,
        }
    }
}

impl Shard {
    /// A shard without sessions.
    pub fn new(settings: ShardSettings, shared: Arc<Shared>, store: Box<dyn Store>, now: Instant) -> Shard {
        let limits = settings.limits.clone();
        let core = Core {
            store,
            paging: Paging::default(),
            ids: MessageIds::new(settings.id),
            stats: settings.stats[usize::from(settings.id.0)].clone(),
            random: fastrand::Rng::with_seed(settings.seed),
            scratch: Vec::new(),
            settled: Vec::new(),
            rules: shared.rules(),
            buffered: 0,
            kept: 0,
            headroom: Headroom::default(),
            buffer_budget: limits.outbound_total / usize::from(settings.peers),
            outbound_limit: limits.outbound_buffer,
            starts: true,
            limits,
        };
        let outbox = Outbox::new(settings.id, settings.credits.clone(), settings.limits.lane_bytes);
        let sys = SysTopics::new(now, settings.sys_interval, settings.id == PeerId(0));
        Shard {
            shared,
            core,
            sessions: Slab::new(),
            by_client: Lookup::new(),
            by_queue: Lookup::new(),
            groups: HashMap::default(),
            subscriptions: Subscriptions::new(),
            routes: RouteCache::default(),
            outbox,
            inbox: VecDeque::new(),
            timers: Timers::new(now),
            awaiting: Awaiting::default(),
            replays: Replays::default(),
            sys,
            dirty: VecDeque::new(),
            crowded: false,
            closed: VecDeque::new(),
            waiting: Waiting::default(),
            waiters: Waiters::new(settings.seed),
            departed: Departed::default(),
            over_rate: false,
            resumed: VecDeque::new(),
            stopping: false,
            review: None,
            granted: Granted::default(),
            retained_full: None,
            run: Run::default(),
            run_messages: Vec::new(),
            last_queue: 0,
            last_generation: 0,
            last_end: Ticket(0),
            settings,
        }
    }

    fn session_of(&mut self, connection: ConnectionId) -> Option<&mut Session> {
        live(&mut self.sessions, connection)
    }

    /// After a session did something: tells the groups what is settled, lists it for the flusher, and
    /// lets its retained replay go on.
    fn after_progress(&mut self, index: u32) {
        if !self.core.settled.is_empty() {
            self.tell_settled(index);
        }
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let buffered = session.buffered();
        if let Some(link) = &mut session.link {
            self.core.account(link.accounted, buffered);
            link.accounted = buffered;
            if link.paused == Some(Pause::Unacknowledged)
                && link.unacknowledged_bytes < self.core.limits.receive_bytes
            {
                link.paused = None;
                self.resumed.push_back(ConnectionId { session: index, generation: link.generation });
            }
            if !link.dirty && !link.outbound.is_empty() {
                link.dirty = true;
                self.dirty.push_back(ConnectionId { session: index, generation: link.generation });
            }
            // Whoever reads too slowly has it all along, and that is no reason.
            self.crowded |= link.outbound.len() >= link.outbound_before as usize + CROWDED;
        }
        let waits = session.may_await();
        let paced = session.is_paced();
        if !self.replays.is_empty() && session.is_idle(self.core.outbound_limit) {
            self.replays.wake(index);
        }
        if paced {
            self.list_paced(index);
        }
        if waits {
            self.list_awaiting(index);
        }
    }

    /// Tells the groups what this session is finished with. It comes before whatever ends a membership,
    /// so that nothing that was acknowledged goes back to a group.
    fn tell_settled(&mut self, index: u32) {
        if self.core.settled.is_empty() {
            return;
        }
        let Some(session) = self.sessions.get(index as usize) else { return };
        for Finished { group, message, declined } in self.core.settled.drain(..) {
            if let Some(membership) = session.membership(group) {
                let session = session.queue_id;
                let item = match declined {
                    false => Item::Settled { group, session, message },
                    true => Item::Declined { group, session, message },
                };
                self.outbox.push(membership.home, item);
            }
        }
    }

    /// The next connection with bytes to send; each is listed once.
    pub fn next_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(connection) = self.dirty.pop_front() {
            if let Some(link) = self.session_of(connection).and_then(|session| session.link.as_mut()) {
                link.dirty = false;
                link.outbound_before = link.outbound.len() as u32;
                return Some(connection);
            }
        }
        self.crowded = false;
        None
    }

    /// Whether connections that wait to be written to should be, before more is delivered.
    pub fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// What a connection has to send.
    pub fn outbound(&mut self, connection: ConnectionId) -> Option<&mut Outbound> {
        Some(&mut self.session_of(connection)?.link.as_mut()?.outbound)
    }

    /// Bytes have left a connection: what waited for room may follow.
    pub fn flushed(&mut self, now: Instant, connection: ConnectionId) {
        let Some(session) = live(&mut self.sessions, connection) else { return };
        let mut unread = false;
        if let Some(link) = &mut session.link {
            // What has left it does not have all along.
            link.outbound_before = link.outbound_before.min(link.outbound.len() as u32);
            unread = link.paused == Some(Pause::Unread);
        }
        session.pump(&mut self.core.context(now));
        if unread {
            self.was_read(now, connection);
        }
        self.after_progress(connection.session);
    }

    /// The next connection that the shard has let go of.
    pub fn next_closed(&mut self) -> Option<Closed> {
        self.closed.pop_front()
    }

    /// Whether something waits that the flusher has to see to.
    pub fn has_work(&self) -> bool {
        self.outbox.has_work()
            || !self.inbox.is_empty()
            || self.replays.has_work()
            || !self.dirty.is_empty()
            || !self.closed.is_empty()
            || !self.resumed.is_empty()
            || self.has_credit_for_waiting()
            || self.core.paging.has_turn()
            || self.has_room_for_waiting()
            || self.is_reviewing()
    }

    /// Hands what was pushed to the store: at the turn's end, before any other shard and any client can hear of it.
    pub fn flush_store(&mut self) {
        self.core.store.flush();
    }

    /// Everything for one peer, at the turn's end.
    pub fn take_batch(&mut self, to: PeerId) -> Option<Batch> {
        self.outbox.take_batch(to)
    }

    /// Ends a connection for a reason that its client is told, where its version can say it.
    pub fn close(&mut self, now: Instant, connection: ConnectionId, error: ProtocolError) {
        let Some(session) = self.session_of(connection) else { return };
        if let Some(link) = &mut session.link
            && link.version == Version::V5
            // [MQTT-3.14.0-1]: not before CONNACK, which may wait for the disk.
            && link.open
        {
            let properties = link.reason_string(&error.detail, 1);
            let disconnect = Disconnect { reason: error.reason, properties: properties.as_properties() };
            codec::encode(link.version, &Packet::Disconnect(disconnect), link.outbound.buf());
            self.core.stats.packets_sent.add(1);
        }
        self.detach(now, connection, true, CloseReason::Server(error));
    }

    /// The transport ended without DISCONNECT.
    pub fn disconnected(&mut self, now: Instant, connection: ConnectionId) {
        self.detach(now, connection, true, CloseReason::Lost);
    }

    /// Ends every connection. Wills are not published, for the clients did nothing wrong; those of persistent sessions
    /// stay with them, who from the next start on are as if they had been connected to the end.
    pub fn shutdown(&mut self, now: Instant) {
        self.stopping = true;
        let connections: Vec<ConnectionId> = self.connections().collect();
        for connection in connections {
            self.close(
                now,
                connection,
                ProtocolError::new(ReasonCode::ServerShuttingDown, "the server stops"),
            );
        }
    }

    /// Every connection, in the order of the session table.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.sessions.iter().filter_map(|(index, session)| {
            let generation = session.link.as_ref()?.generation;
            Some(ConnectionId { session: index as u32, generation })
        })
    }

    /// Who the client of a connection has proved to be.
    pub fn principal(&mut self, connection: ConnectionId) -> Option<&Principal> {
        live(&mut self.sessions, connection).map(|session| &session.principal)
    }

    /// The client identifier of a connection.
    pub fn client_id(&mut self, connection: ConnectionId) -> Option<&str> {
        self.session_of(connection).map(|session| session.client_id.as_ref())
    }

    fn arm(&mut self, index: u32, at: Instant) {
        let session = &mut self.sessions[index as usize];
        session.armed = self.timers.arm_before(at, session.armed, index);
    }
}

/// The session that has this connection at present.
fn live(sessions: &mut Slab<Session>, connection: ConnectionId) -> Option<&mut Session> {
    let session = sessions.get_mut(connection.session as usize)?;
    let live = session.link.as_ref().is_some_and(|link| link.generation == connection.generation);
    live.then_some(session)
}

/// Properties of packets that carry none.
const NO_PROPERTIES: Properties<'static> = Properties::EMPTY;
