//! The broker's side of a run: shards, the lanes between them, the disk, the clock and the transports, each as slow as
//! the plan says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::time::{Duration, Instant};

use fastrand::Rng;
use weirmq::broker::outbox::{Batch, Item};
use weirmq::broker::shard::{CloseReason, Closed, ConnectionId, ReceiveState, Shard};
use weirmq::message::PeerId;
use weirmq::outbound::Outbound;
use weirmq::protocol::packet::{QoS, Version};
use weirmq::protocol::reason::{ProtocolError, ReasonCode};
use weirmq::store::restored::Restored;

use super::actions::payload;
use super::client::{Client, Left, Mark, Socket};
use super::ledger::{Ledger, Tick, WillFate};
use super::machine::Machine;
use super::plan::{Backing, Plan, Role};
use super::restart::{Broker, End, home};
use super::store::SimStore;
use super::trace::Trace;
use crate::common::sim_disk::{EIO, ENOSPC, SimDisk};

/// The size of the disk, in bytes.
const DISK: u64 = 1 << 32;

/// One run.
pub struct Sim {
    pub trace: Trace,
    pub rng: Rng,
    pub plan: Plan,
    pub start: Instant,
    pub now: Instant,
    pub broker: Broker,
    /// By sender and receiver.
    pub lanes: BTreeMap<(usize, usize), VecDeque<Batch>>,
    pub store: SimStore,
    /// The durable position that each shard has been told of.
    pub told: Vec<u64>,
    pub clients: Vec<Client>,
    pub sockets: BTreeMap<u32, Socket>,
    pub last_socket: u32,
    /// Sockets with bytes that their transport did not take.
    pub blocked: BTreeSet<u32>,
    pub ledger: Ledger,
    pub tick: Tick,
    /// The run is over: clients finish what they have begun.
    pub draining: bool,
    /// The broker ends every connection.
    pub stopping: bool,
    /// PUBLISH packets that this broker has dealt with, and those that may have been repeats.
    pub taken: u64,
    pub retaken: u64,
    /// How long the longest queue was that the last start found.
    pub longest_restored: u64,
    /// What earlier starts of the broker dropped, by reason.
    pub past_drops: BTreeMap<&'static str, u64>,
}

impl Sim {
    pub fn new(seed: u64, shown: usize) -> Sim {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        let start = Instant::now();
        let store = SimStore::new(plan.shards.into(), plan.store != Backing::Memory, true);
        let broker = Broker::start(&plan, seed, &store, Restored::default(), start);
        let mut sim = Sim {
            clients: Vec::new(),
            trace: Trace::new(shown),
            told: vec![0; broker.shards.len()],
            now: start,
            start,
            broker,
            lanes: BTreeMap::new(),
            store,
            sockets: BTreeMap::new(),
            last_socket: 0,
            blocked: BTreeSet::new(),
            ledger: Ledger::default(),
            tick: 0,
            draining: false,
            stopping: false,
            taken: 0,
            retaken: 0,
            longest_restored: 0,
            past_drops: BTreeMap::new(),
            rng,
            plan,
        };
        if sim.plan.store == Backing::Disk {
            let disk = SimDisk::new(seed, DISK);
            let started = Machine::start(disk, sim.plan.options, sim.clock(), sim.plan.shards.into());
            let started = started.unwrap_or_else(|error| panic!("an empty disk: {error}"));
            sim.store.run_on(started.machine, started.handles);
        }
        (sim.ledger.rejects, sim.ledger.may_be_full) = (sim.plan.refuses(), sim.plan.may_be_full());
        for (role, version) in sim.plan.clients.clone() {
            sim.add_client(role, version);
        }
        sim
    }

    /// A client that has never been connected.
    pub fn add_client(&mut self, role: Role, version: Version) -> usize {
        let index = self.clients.len();
        self.clients.push(Client {
            id: format!("c{index}"),
            role,
            version,
            shard: home(&format!("c{index}"), self.plan.shards),
            socket: None,
            session: None,
            left: None,
            sending: VecDeque::new(),
            receiving: BTreeMap::new(),
            last_id: 0,
            wills: Vec::new(),
            will_due: None,
            retired: false,
            haunted: false,
        });
        index
    }

    pub fn next_tick(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// One turn of a shard: inbox, own work, then lanes, then sockets.
    pub fn turn(&mut self, shard: usize) {
        for from in 0..self.broker.shards.len() {
            while self.draining || self.rng.u8(..100) >= self.plan.lane_lag {
                let Some(batch) = self.lanes.get_mut(&(from, shard)).and_then(VecDeque::pop_front) else {
                    break;
                };
                let items: Vec<String> = batch.items.iter().map(brief_item).collect();
                self.trace.say(format_args!(
                    "shard {shard} takes {} from {from}: {}",
                    items.len(),
                    items.join(", ")
                ));
                self.broker.shards[shard].accept_batch(batch);
            }
        }
        self.broker.shards[shard].work(self.now);
        self.broker.shards[shard].flush_store();
        self.broker.shards[shard].flush_store();
        for to in 0..self.broker.shards.len() {
            if let Some(batch) = self.broker.shards[shard].take_batch(PeerId(to as u16)) {
                self.lanes.entry((shard, to)).or_default().push_back(batch);
            }
        }
        self.flush(shard);
        // What could follow into the buffers has records, too.
        self.broker.shards[shard].flush_store();
        self.notice(shard);
        self.check_bounds(shard);
    }

    /// Writes what the transports take, of the connections that the shard listed and those that were full before.
    fn flush(&mut self, shard: usize) {
        while let Some(connection) = self.broker.shards[shard].next_dirty() {
            self.blocked.extend(self.socket_of(shard, connection));
        }
        let waiting: Vec<u32> = self.blocked.iter().copied().collect();
        for id in waiting {
            let Some(socket) = self.sockets.get_mut(&id) else {
                self.blocked.remove(&id);
                continue;
            };
            if socket.shard != shard {
                continue;
            }
            let Some(outbound) = self.broker.shards[shard].outbound(socket.connection) else {
                self.blocked.remove(&id);
                continue;
            };
            let room = self.plan.transport.saturating_sub(socket.outbound.len()).min(outbound.len());
            if room > 0 {
                take(outbound, room, &mut socket.outbound);
                self.trace.say(format_args!("{room} bytes to socket {id}"));
                self.broker.shards[shard].flushed(self.now, socket.connection);
            }
            if self.broker.shards[shard]
                .outbound(socket.connection)
                .is_none_or(|outbound| outbound.is_empty())
            {
                self.blocked.remove(&id);
            }
        }
    }

    /// Deals with the connections that a shard has let go of or lets go on.
    pub fn notice(&mut self, shard: usize) {
        while let Some(closed) = self.broker.shards[shard].next_closed() {
            // What is written last is written behind the store, too.
            self.broker.shards[shard].flush_store();
            let id = self.socket_of(shard, closed.connection).expect("only what was connected is closed");
            self.closed(id, closed);
        }
        while let Some(connection) = self.broker.shards[shard].next_resumed() {
            if let Some(id) = self.socket_of(shard, connection) {
                self.trace.say(format_args!("socket {id} goes on"));
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.paused = false;
                }
                self.feed(id, 0);
            }
        }
    }

    pub fn socket_of(&self, shard: usize, connection: ConnectionId) -> Option<u32> {
        let mut open = self.sockets.iter().filter(|(_, socket)| !socket.closed);
        open.find(|(_, socket)| socket.shard == shard && socket.connection == connection).map(|(id, _)| *id)
    }

    /// The broker reads up to `count` bytes more from a connection.
    pub fn feed(&mut self, id: u32, count: usize) {
        let Some(socket) = self.sockets.get_mut(&id).filter(|socket| !socket.closed && !socket.paused) else {
            return;
        };
        let count = count.min(socket.inbound.len());
        if count == 0 && socket.unread.is_empty() {
            return;
        }
        socket.unread.extend(socket.inbound.drain(..count));
        let (shard, connection) = (socket.shard, socket.connection);
        let received = self.broker.shards[shard].receive(self.now, connection, &socket.unread);
        socket.paused = received.state == ReceiveState::Paused;
        self.trace.say(format_args!(
            "socket {id}: {} of {} bytes, {:?}",
            received.consumed,
            socket.unread.len(),
            received.state
        ));
        let marks = socket.consume(received.consumed, self.now);
        let client = socket.client;
        for mark in marks {
            if let Mark::Publish(message) = mark {
                self.taken(client, message);
            }
        }
        self.notice(shard);
        self.check_bounds(shard);
    }

    /// The broker has dealt with a PUBLISH.
    fn taken(&mut self, client: usize, message: usize) {
        let tick = self.next_tick();
        let sending = self.clients[client].sending.iter_mut().find(|sending| sending.message == message);
        if let Some(sending) = sending {
            let repeated = std::mem::replace(&mut sending.taken, true);
            let boot = std::mem::replace(&mut sending.boot, self.ledger.crashes.len());
            if repeated && sending.qos == QoS::ExactlyOnce {
                if boot < self.ledger.crashes.len() {
                    self.ledger.messages[message].retaken.push(tick);
                    self.retaken += 1;
                }
                if self.ledger.rejects {
                    self.ledger.messages[message].perhaps.push(tick);
                }
                return;
            }
        }
        // A client that cannot be told that a queue is full may have its message parked, for nobody knows how long.
        if self.ledger.rejects && self.clients[client].version < Version::V5 {
            self.ledger.messages[message].parked = Some(Tick::MAX);
        }
        self.taken += 1;
        // The interval runs from when the broker has it.
        let noted = &mut self.ledger.messages[message];
        let expires = noted.expiry.map(|seconds| self.now + Duration::from_secs(seconds.into()));
        noted.expires = noted.expires.or(expires);
        noted.last_expires = expires;
        let payload = payload(message, self.ledger.messages[message].len);
        // What is parked instead is left out: a share group may have it in memory when it is routed, and record it later.
        self.ledger.messages[message].recorded |= self.store.journal().knows(&payload);
        self.ledger.messages[message].taken.push(tick);
        self.trace.say(format_args!("message {message} is taken @{tick}"));
    }

    /// A connection is over for the broker.
    fn closed(&mut self, id: u32, mut closed: Closed) {
        let tick = self.next_tick();
        self.trace.say(format_args!("socket {id} closed @{tick}: {:?}", closed.reason));
        let left = closed.outbound.len();
        let socket = self.sockets.get_mut(&id).expect("found before");
        take(&mut closed.outbound, left, &mut socket.outbound);
        socket.closed = true;
        let (client, will) = (socket.client, socket.will);
        let goodbye = match closed.reason {
            CloseReason::Disconnected => Some(socket.goodbye.expect("the client said so")),
            CloseReason::Lost => None,
            CloseReason::Server(ref error) => {
                self.check_close(id, error);
                None
            }
        };
        if let Some(number) = self.clients[client].session {
            self.settle_terms(number, tick);
        }
        let socket = &self.sockets[&id];
        let seconds = goodbye.and_then(|goodbye| goodbye.expiry).unwrap_or(socket.expiry);
        let expiry = (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()));
        if socket.cut {
            self.sockets.remove(&id);
        }
        self.clients[client].left = Some(Left { at: self.now, expiry });
        if let Some((message, delay)) = will {
            let fate = match goodbye {
                _ if self.stopping => WillFate::Waiting,
                Some(goodbye) if !goodbye.with_will => WillFate::Cancelled,
                _ if delay == 0 || seconds == 0 => WillFate::Published(tick, tick),
                _ => {
                    let due = self.now + Duration::from_secs(delay.min(seconds).into());
                    self.clients[client].will_due = Some((message, due, tick));
                    WillFate::Waiting
                }
            };
            self.ledger.messages[message].will = Some(fate);
        }
        if seconds == 0 {
            self.end_session(client);
        }
    }

    /// Whether the broker may end a connection so, whose client has done nothing wrong.
    fn check_close(&self, id: u32, error: &ProtocolError) {
        let socket = &self.sockets[&id];
        let silence = self.now - socket.last_consumed;
        let allowed = match error.reason {
            ReasonCode::SessionTakenOver => socket.cut,
            ReasonCode::KeepAliveTimeout => {
                socket.keep_alive > 0 && silence >= Duration::from_millis(1500) * socket.keep_alive.into()
            }
            ReasonCode::QuotaExceeded => socket.version < Version::V5 && self.ledger.rejects,
            ReasonCode::ServerShuttingDown => self.stopping,
            _ => false,
        };
        assert!(allowed, "socket {id} of client {} closed: {error}", socket.client);
    }

    /// The session of a client is over, as far as the broker is concerned.
    pub fn end_session(&mut self, client: usize) {
        let Some(number) = self.clients[client].session.take() else { return };
        self.trace.say(format_args!("session {number} of client {client} is over"));
        let tick = self.next_tick();
        let session = &mut self.ledger.sessions[number];
        session.alive = false;
        session.ended = tick;
    }

    /// The disk gets on, and perhaps a shard hears of it. Whether nothing is left to do.
    pub fn disk(&mut self) -> bool {
        let Some(idle) = self.drive() else { return false };
        for shard in 0..self.broker.shards.len() {
            let mut journal = self.store.journal();
            let page = (self.draining || self.rng.u8(..4) == 0) && journal.send_page(shard);
            let durable = journal.durable(shard);
            let told = std::mem::replace(&mut self.told[shard], durable);
            drop(journal);
            if !(self.draining || self.rng.bool()) {
                self.told[shard] = told;
                continue;
            }
            if page || told < durable {
                self.trace.say(format_args!("shard {shard} hears that {durable} is durable, page {page}"));
            }
            self.broker.shards[shard].on_store(self.now);
            self.notice(shard);
            self.check_bounds(shard);
        }
        idle
    }

    /// The store gets on; whether it has nothing left to do. `None` if it went down, and there is another broker now.
    fn drive(&mut self) -> Option<bool> {
        let lags = !self.draining && self.rng.u8(..100) < self.plan.disk_lag;
        let store = self.store.clone();
        let mut journal = store.journal();
        let Some(machine) = &mut journal.machine else {
            let behind = journal.under_way();
            if !lags {
                journal.commit(if self.draining { behind } else { self.rng.u64(..=behind) });
            }
            return Some(true);
        };
        let mut worked = true;
        let what = match self.rng.u8(..4) {
            _ if self.draining => 4,
            2 if lags => 0,
            what => what,
        };
        if self.plan.faults && !self.draining && self.rng.u8(..200) == 0 {
            let number = if self.rng.bool() { EIO } else { ENOSPC };
            machine.disk.fail_at(machine.disk.calls() + self.rng.u64(1..20), number);
        }
        let mut failed = None;
        if matches!(what, 2..) {
            match machine.step(self.now) {
                Ok(any) => worked = any,
                Err(failure) => failed = Some(failure),
            }
        }
        if matches!(what, 0 | 4) {
            while machine.read_page() && self.draining {}
        }
        if matches!(what, 1 | 4)
            && let Some(chore) = machine.do_chore()
        {
            worked = true;
            self.trace.say(format_args!("a chore is done: {chore}"));
        }
        let idle = !worked && !machine.has_work();
        let down = machine.disk.is_down();
        journal.note_durable();
        drop(journal);
        if down || failed.is_some() {
            assert!(down || self.plan.faults, "the store fails, though the disk works: {failed:?}");
            self.trace.say(format_args!("the disk is down: {down}, the store fails: {}", failed.is_some()));
            self.restart(End::Crash);
            return None;
        }
        Some(idle)
    }

    /// Time passes, and what falls due on the way happens.
    pub fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next =
                self.broker.shards.iter().filter_map(Shard::next_timeout).min().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            for shard in 0..self.broker.shards.len() {
                if self.broker.shards[shard].next_timeout().is_some_and(|at| at <= self.now) {
                    self.trace.say(format_args!("shard {shard}: timeout at {:?}", self.now - self.start));
                    self.broker.shards[shard].on_timeout(self.now);
                    self.notice(shard);
                    self.check_bounds(shard);
                }
            }
            if next.is_none() {
                break;
            }
        }
        self.trace.say(format_args!("it is {:?}", self.now - self.start));
        for client in 0..self.clients.len() {
            self.expire(client);
        }
    }

    /// What time has done to a client that is away: its will, its session.
    fn expire(&mut self, client: usize) {
        let second = Duration::from_secs(1);
        if let Some((message, due, since)) = self.clients[client].will_due
            && self.now >= due + second
        {
            self.clients[client].will_due = None;
            let tick = self.next_tick();
            self.ledger.messages[message].will = Some(WillFate::Published(since, tick));
        }
        // The broker may be a second late, but not when the client asks.
        if self.clients[client].left.is_some_and(|left| left.is_over(self.now)) {
            self.end_session(client);
        }
    }
}

/// What one shard tells another, in a few words.
fn brief_item(item: &Item) -> String {
    match item {
        Item::Forward(message, _) => format!("Forward {}", number(message)),
        Item::Give { token, delivery, .. } => {
            format!("Give {} at {:?} to joining {token}", number(&delivery.message), delivery.qos)
        }
        Item::Settled { .. } => "Settled".to_owned(),
        Item::Declined { .. } => "Declined".to_owned(),
        Item::Back { kept, .. } => format!("Back, {} kept", kept.len()),
        Item::Join(join) => format!("Join {}", join.token),
        Item::Leave { kept, last, .. } => format!("Leave, {} kept, last {last}", kept.len()),
        Item::Purge(_) => "Purge".to_owned(),
        Item::Level(..) => "Level".to_owned(),
        Item::Credit => "Credit".to_owned(),
    }
}

fn number(message: &weirmq::message::Message) -> String {
    let digits = message.payload().get(..8).map(String::from_utf8_lossy).unwrap_or_default();
    digits.trim_start_matches('0').to_owned()
}

/// Moves `count` bytes from an outbound buffer to a transport.
fn take(outbound: &mut Outbound, count: usize, into: &mut VecDeque<u8>) {
    let mut left = count;
    while left > 0 {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = outbound.io_slices(&mut slices);
        let mut written = 0;
        for slice in &slices[..filled] {
            let part = &slice[..slice.len().min(left - written)];
            into.extend(part);
            written += part.len();
        }
        assert!(written > 0, "an outbound buffer that says it holds more than it gives");
        outbound.consume(written);
        left -= written;
    }
}
