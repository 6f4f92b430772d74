//! A broker without sockets: shards, lanes and clients in one thread under virtual time. Packets go
//! in, [`World::run`] lets everything settle, packets come out.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::acl::Acl;
use weirmq::broker::outbox::{Batch, Credits};
use weirmq::broker::restore::distribute;
use weirmq::broker::retained::RetainedLimits;
use weirmq::broker::shard::{Attach, CloseReason, Closed, ConnectionId, ReceiveState, Shard, ShardSettings};
use weirmq::broker::shared::Shared;
use weirmq::flow::RateRule;
use weirmq::flow::registry::Flow;
use weirmq::limits::{Limits, QueueRule, ShareRule};
use weirmq::message::PeerId;
use weirmq::outbound::Outbound;
use weirmq::principal::Principal;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::{ProtocolError, ReasonCode};
use weirmq::stats::Stats;
use weirmq::store::Store;
use weirmq::store::memory::MemoryStore;
use weirmq::store::restored::{Restored, RestoredSession};

/// A packet that a client received: its bytes, to be decoded when it is looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub version: Version,
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The packet.
    pub fn packet(&self) -> Packet<'_> {
        codec::decode(self.version, &self.bytes).expect("the broker sends well-formed packets")
    }

    /// The PUBLISH in it.
    pub fn publish(&self) -> Publish<'_> {
        match self.packet() {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.packet())
    }
}

/// One client's side.
pub struct Client {
    pub version: Version,
    pub shard: usize,
    pub connection: Option<ConnectionId>,
    /// Packets received and not yet taken.
    pub received: Vec<Frame>,
    /// Why the broker ended the connection.
    pub closed: Option<CloseReason>,
    /// It does not read: its outbound buffer fills.
    pub stalled: bool,
    /// Sent and not yet consumed by the broker, which has paused this client.
    pub backlog: Vec<u8>,
    partial: Vec<u8>,
}

/// Shards and clients.
pub struct World {
    pub now: Instant,
    pub shards: Vec<Shard>,
    pub stats: Vec<Arc<Stats>>,
    pub shared: Arc<Shared>,
    pub clients: Vec<Client>,
    pub limits: Arc<Limits>,
    /// What the disk does when nobody else has anything to do; whether it did anything.
    pub disk: Option<Box<dyn FnMut() -> bool>>,
    /// The lane from one shard to another that is late: nothing arrives.
    pub late_lane: Option<(usize, usize)>,
    late: Vec<(usize, Batch)>,
}

/// Settings of a world.
pub struct WorldSettings {
    pub shards: u16,
    pub seed: u64,
    pub limits: Limits,
    pub share_rules: Vec<ShareRule>,
    pub queue_rules: Vec<QueueRule>,
    pub rates: Vec<RateRule>,
    pub deliveries: Vec<RateRule>,
    pub sys_interval: Duration,
    /// Makes the store of each shard.
    pub store: Box<dyn Fn() -> Box<dyn Store>>,
    /// What clients may do.
    pub acl: Option<Acl>,
    /// What there was before.
    pub restored: Restored,
}

impl Default for WorldSettings {
    fn default() -> WorldSettings {
        WorldSettings {
            shards: 1,
            seed: 1,
            limits: Limits::default(),
            share_rules: Vec::new(),
            queue_rules: vec![QueueRule::default()],
            rates: Vec::new(),
            deliveries: Vec::new(),
            sys_interval: Duration::ZERO,
            store: Box::new(|| Box::new(MemoryStore::default())),
            acl: None,
            restored: Restored::default(),
        }
    }
}

impl World {
    /// A broker of `shards` shards with the default limits.
    pub fn new(shards: u16) -> World {
        World::with(WorldSettings { shards, ..WorldSettings::default() })
    }

    /// A broker of one shard with these limits.
    pub fn limited(limits: Limits) -> World {
        World::with(WorldSettings { limits, ..WorldSettings::default() })
    }

    /// A broker with these settings.
    pub fn with(settings: WorldSettings) -> World {
        let now = Instant::now();
        let limits = Arc::new(settings.limits);
        let shared = Arc::new(Shared::new(RetainedLimits {
            messages: limits.retained_messages,
            bytes: limits.retained_bytes,
        }));
        if let Some(acl) = settings.acl {
            shared.set_rules(Some(Arc::new(acl)));
        }
        let stats: Vec<Arc<Stats>> = (0..settings.shards).map(|_| Arc::new(Stats::default())).collect();
        let flow = Arc::new(Flow::new(settings.rates, settings.deliveries));
        let credits = Arc::new(Credits::new(settings.shards.into()));
        let count = settings.shards;
        let mut shares = distribute(settings.restored, &shared, &settings.queue_rules, count);
        let mut sessions: Vec<RestoredSession> =
            shares.iter_mut().flat_map(|share| std::mem::take(&mut share.sessions)).collect();
        let shards = shares
            .into_iter()
            .enumerate()
            .map(|(index, mut share)| {
                let id = index as u16;
                share.sessions = sessions
                    .extract_if(.., |session| home(&session.client_id, count.into()) == index)
                    .collect();
                let shard = ShardSettings {
                    id: PeerId(id),
                    peers: settings.shards,
                    seed: settings.seed.wrapping_add(id.into()),
                    limits: limits.clone(),
                    share_rules: settings.share_rules.clone().into(),
                    queue_rules: settings.queue_rules.clone().into(),
                    flow: flow.clone(),
                    sys_interval: settings.sys_interval,
                    stats: stats.clone().into(),
                    credits: credits.clone(),
                };
                let mut shard = Shard::new(shard, shared.clone(), (settings.store)(), now);
                shard.restore(now, share);
                shard
            })
            .collect();
        let (disk, late_lane, late) = (None, None, Vec::new());
        World { now, shards, stats, shared, clients: Vec::new(), limits, disk, late_lane, late }
    }

    /// Connects with a CONNECT of one's own. The answer waits in `received`; a refusal is the error.
    pub fn try_connect(&mut self, connect: &Connect<'_>) -> Result<usize, ProtocolError> {
        self.try_connect_as(&Principal::ANONYMOUS, connect)
    }

    /// The same for a client that has proved who it is.
    pub fn try_connect_as(
        &mut self,
        principal: &Principal,
        connect: &Connect<'_>,
    ) -> Result<usize, ProtocolError> {
        let mut bytes = Vec::new();
        codec::encode(connect.version, &Packet::Connect(connect.clone()), &mut bytes);
        let Packet::Connect(connect) = codec::decode(connect.version, &bytes)? else { unreachable!() };
        let assigned = format!("assigned-{}", self.clients.len());
        let client_id = if connect.client_id.is_empty() { &assigned } else { connect.client_id };
        let shard = home(client_id, self.shards.len());
        let attach = Attach {
            connect: &connect,
            client_id,
            assigned: connect.client_id.is_empty(),
            principal,
            listener: "127.0.0.1:1883",
            max_packet_size: u32::MAX,
        };
        let connection = self.shards[shard].connect(self.now, attach)?;
        self.clients.push(Client {
            version: connect.version,
            shard,
            connection: Some(connection),
            received: Vec::new(),
            closed: None,
            stalled: false,
            backlog: Vec::new(),
            partial: Vec::new(),
        });
        self.run();
        Ok(self.clients.len() - 1)
    }

    /// Other rules about what clients may do hold from now on.
    pub fn set_acl(&mut self, acl: Option<Acl>) {
        let rules = self.shared.set_rules(acl.map(Arc::new));
        for shard in &mut self.shards {
            shard.set_rules(rules.clone());
        }
        self.run();
    }

    /// Connects with Clean Start and takes the CONNACK, which must be a success.
    pub fn connect(&mut self, version: Version, client_id: &str) -> usize {
        self.open(&connect(version, client_id, true))
    }

    /// Connects with a session that outlives its connection, resuming one that is there.
    pub fn resume(&mut self, version: Version, client_id: &str) -> usize {
        let mut properties = PropertiesBuf::new();
        if version == Version::V5 {
            properties.push(Property::SessionExpiryInterval(3600));
        }
        let connect =
            Connect { properties: properties.as_properties(), ..connect(version, client_id, false) };
        self.open(&connect)
    }

    /// Connects and takes the CONNACK, which must be a success.
    pub fn open(&mut self, connect: &Connect<'_>) -> usize {
        let client = self.try_connect(connect).expect("accepted");
        let connack = self.clients[client].received.remove(0);
        match connack.packet() {
            Packet::ConnAck(connack) => assert_eq!(connack.reason, ReasonCode::Success),
            other => panic!("expected CONNACK, got {other:?}"),
        }
        client
    }

    /// Sends a packet and lets everything settle.
    pub fn send(&mut self, client: usize, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(self.clients[client].version, packet, &mut bytes);
        self.send_bytes(client, &bytes);
    }

    /// Sends raw bytes and lets everything settle.
    pub fn send_bytes(&mut self, client: usize, bytes: &[u8]) {
        self.put_bytes(client, bytes);
        self.run();
    }

    /// Sends raw bytes; nothing settles until [`World::run`].
    pub fn put_bytes(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].backlog.extend_from_slice(bytes);
        self.feed(client);
    }

    /// Sends a packet; nothing settles until [`World::run`].
    pub fn put(&mut self, client: usize, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(self.clients[client].version, packet, &mut bytes);
        self.put_bytes(client, &bytes);
    }

    fn feed(&mut self, client: usize) {
        let this = &mut self.clients[client];
        let Some(connection) = this.connection else { return };
        let bytes = std::mem::take(&mut this.backlog);
        let received = self.shards[this.shard].receive(self.now, connection, &bytes);
        if received.state != ReceiveState::Closed {
            self.clients[client].backlog = bytes[received.consumed..].to_vec();
        }
    }

    /// The client's transport goes without DISCONNECT.
    pub fn cut(&mut self, client: usize) {
        let this = &mut self.clients[client];
        if let Some(connection) = this.connection.take() {
            self.shards[this.shard].disconnected(self.now, connection);
        }
        self.run();
    }

    /// Lets time pass, with everything that falls due on the way.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next = self.shards.iter().filter_map(Shard::next_timeout).min().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            for shard in &mut self.shards {
                if shard.next_timeout().is_some_and(|at| at <= self.now) {
                    shard.on_timeout(self.now);
                }
            }
            self.run();
            if next.is_none() {
                return;
            }
        }
    }

    /// Turns of every shard until nobody has anything left to do.
    pub fn run(&mut self) {
        while self.turn() {}
    }

    /// One turn of every shard; whether anything happened.
    pub fn turn(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.shards.len() {
            self.shards[index].on_store(self.now);
            busy |= self.shards[index].has_work();
            self.shards[index].work(self.now);
            self.shards[index].flush_store();
            self.send_batches(index);
            self.flush(index);
            self.shards[index].flush_store();
            while let Some(closed) = self.shards[index].next_closed() {
                self.close(index, closed);
            }
            while let Some(connection) = self.shards[index].next_resumed() {
                busy = true;
                if let Some(client) = self.client_of(index, connection) {
                    self.feed(client);
                }
            }
        }
        busy || self.disk.as_mut().is_some_and(|disk| disk())
    }

    /// What was late arrives.
    pub fn end_of_delay(&mut self) {
        self.late_lane = None;
        for (to, batch) in std::mem::take(&mut self.late) {
            self.shards[to].accept_batch(batch);
        }
        self.run();
    }

    fn send_batches(&mut self, from: usize) {
        for to in 0..self.shards.len() {
            let batch: Option<Batch> = self.shards[from].take_batch(PeerId(to as u16));
            match batch {
                Some(batch) if self.late_lane == Some((from, to)) => self.late.push((to, batch)),
                Some(batch) => self.shards[to].accept_batch(batch),
                None => {}
            }
        }
    }

    fn flush(&mut self, index: usize) {
        let mut stalled = Vec::new();
        while let Some(connection) = self.shards[index].next_dirty() {
            let Some(client) = self.client_of(index, connection) else { continue };
            if self.clients[client].stalled {
                stalled.push(connection);
                continue;
            }
            let Some(outbound) = self.shards[index].outbound(connection) else { continue };
            let bytes = drain(outbound);
            self.clients[client].take_in(&bytes);
            self.shards[index].flushed(self.now, connection);
        }
    }

    /// Lets a stalled client read again.
    pub fn unstall(&mut self, client: usize) {
        self.clients[client].stalled = false;
        let this = &self.clients[client];
        let (shard, Some(connection)) = (this.shard, this.connection) else { return };
        while let Some(outbound) =
            self.shards[shard].outbound(connection).filter(|outbound| !outbound.is_empty())
        {
            let bytes = drain(outbound);
            self.clients[client].take_in(&bytes);
            self.shards[shard].flushed(self.now, connection);
        }
        self.run();
    }

    fn close(&mut self, index: usize, mut closed: Closed) {
        let bytes = drain(&mut closed.outbound);
        if let Some(client) = self.client_of(index, closed.connection) {
            self.clients[client].take_in(&bytes);
            self.clients[client].connection = None;
            self.clients[client].closed = Some(closed.reason);
        }
    }

    fn client_of(&self, shard: usize, connection: ConnectionId) -> Option<usize> {
        self.clients.iter().position(|client| client.shard == shard && client.connection == Some(connection))
    }

    /// Takes everything that a client has received.
    pub fn take(&mut self, client: usize) -> Vec<Frame> {
        std::mem::take(&mut self.clients[client].received)
    }

    /// Takes the one packet that a client has received.
    pub fn take_one(&mut self, client: usize) -> Frame {
        let mut received = self.take(client);
        assert_eq!(received.len(), 1, "expected one packet, got {received:?}");
        received.remove(0)
    }

    /// Whether the broker has ended this connection, and with which reason in its DISCONNECT (5.0).
    pub fn closed_with(&mut self, client: usize) -> Option<ReasonCode> {
        match self.clients[client].closed.clone()? {
            CloseReason::Server(error) => Some(error.reason),
            _ => None,
        }
    }

    /// Subscribes and takes the SUBACK, which must grant.
    pub fn subscribe(&mut self, client: usize, filter: &str, qos: QoS) {
        self.subscribe_with(client, filter, options(qos), 0);
    }

    /// Subscribes with options and an identifier (0 for none) and takes the SUBACK, which must grant.
    pub fn subscribe_with(
        &mut self,
        client: usize,
        filter: &str,
        options: SubscribeOptions,
        identifier: u32,
    ) {
        let frames = self.subscribe_raw(client, filter, options, identifier);
        let Some(Packet::SubAck(suback)) = frames.first().map(Frame::packet) else {
            panic!("expected SUBACK first, got {frames:?}");
        };
        assert_eq!(suback.reasons, [options.qos as u8]);
        let mut rest = frames[1..].to_vec();
        rest.append(&mut self.clients[client].received);
        self.clients[client].received = rest;
    }

    /// Subscribes; everything received since, the SUBACK among it.
    pub fn subscribe_raw(
        &mut self,
        client: usize,
        filter: &str,
        options: SubscribeOptions,
        identifier: u32,
    ) -> Vec<Frame> {
        let mut properties = PropertiesBuf::new();
        if identifier != 0 {
            properties.push(Property::SubscriptionIdentifier(identifier));
        }
        let mut raw = Vec::new();
        let filters = SubscribeFilters::encode([(filter, options)], &mut raw);
        let packet_id = PacketId::new(77).expect("not zero");
        let subscribe = Subscribe { packet_id, properties: properties.as_properties(), filters };
        self.send(client, &Packet::Subscribe(subscribe));
        self.take(client)
    }

    /// Unsubscribes; the reason code of the UNSUBACK (5.0), which must come first.
    pub fn unsubscribe(&mut self, client: usize, filter: &str) -> Option<ReasonCode> {
        let mut raw = Vec::new();
        let filters = UnsubscribeFilters::encode([filter], &mut raw);
        let packet_id = PacketId::new(78).expect("not zero");
        self.send(
            client,
            &Packet::Unsubscribe(Unsubscribe { packet_id, properties: Properties::EMPTY, filters }),
        );
        let frames = self.take(client);
        let Some(Packet::UnsubAck(unsuback)) = frames.first().map(Frame::packet) else {
            panic!("expected UNSUBACK, got {frames:?}");
        };
        unsuback.reasons.first().and_then(|code| ReasonCode::try_from(*code).ok())
    }

    /// Publishes at QoS 0, 1 or 2 and completes the flow; the reason code of PUBACK or PUBREC.
    pub fn publish(&mut self, client: usize, topic: &str, qos: QoS, payload: &str) -> ReasonCode {
        self.publish_with(client, &message(topic, qos, payload))
    }

    /// Publishes a PUBLISH of one's own and completes the flow; the reason code of PUBACK or PUBREC.
    /// Other packets that arrive meanwhile stay in `received`.
    pub fn publish_with(&mut self, client: usize, publish: &Publish<'_>) -> ReasonCode {
        self.send(client, &Packet::Publish(publish.clone()));
        let Some(packet_id) = publish.packet_id else { return ReasonCode::Success };
        let received = &mut self.clients[client].received;
        let at = received
            .iter()
            .position(|frame| matches!(frame.packet(), Packet::PubAck(a) | Packet::PubRec(a) if a.packet_id == packet_id))
            .unwrap_or_else(|| panic!("no acknowledgement in {received:?}"));
        let frame = received.remove(at);
        let (Packet::PubAck(ack) | Packet::PubRec(ack)) = frame.packet() else { unreachable!() };
        let reason = ack.reason;
        if publish.qos == QoS::ExactlyOnce && !reason.is_failure() {
            self.send(client, &Packet::PubRel(ack_of(packet_id)));
            let received = &mut self.clients[client].received;
            let at = received
                .iter()
                .position(|frame| matches!(frame.packet(), Packet::PubComp(a) if a.packet_id == packet_id))
                .unwrap_or_else(|| panic!("no PUBCOMP in {received:?}"));
            received.remove(at);
        }
        reason
    }

    /// Acknowledges every PUBLISH and PUBREL that a client has received until nothing more comes;
    /// all PUBLISH packets, in order.
    pub fn drain(&mut self, client: usize) -> Vec<Frame> {
        let mut publishes = Vec::new();
        loop {
            let frames = self.take(client);
            if frames.is_empty() {
                return publishes;
            }
            for frame in frames {
                match frame.packet() {
                    Packet::Publish(publish) => {
                        match (publish.qos, publish.packet_id) {
                            (QoS::AtLeastOnce, Some(id)) => self.put(client, &Packet::PubAck(ack_of(id))),
                            (QoS::ExactlyOnce, Some(id)) => self.put(client, &Packet::PubRec(ack_of(id))),
                            _ => {}
                        }
                        publishes.push(frame.clone());
                    }
                    Packet::PubRel(ack) => self.put(client, &Packet::PubComp(ack_of(ack.packet_id))),
                    _ => {}
                }
            }
            self.run();
        }
    }
}

impl Client {
    fn take_in(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Ok(Some(len)) =
            codec::frame(Some(self.version), &self.partial[at..], codec::MAX_PACKET_SIZE)
        {
            let Some(bytes) = self.partial.get(at..at + len) else { break };
            // A copy of the right size: a frame is not to hold the buffer of all that came with it.
            self.received.push(Frame { version: self.version, bytes: bytes.to_vec() });
            at += len;
        }
        self.partial.drain(..at);
    }
}

/// The home of a client id: any fixed function will do here.
fn home(client_id: &str, shards: usize) -> usize {
    client_id.bytes().map(usize::from).sum::<usize>() % shards
}

fn drain(outbound: &mut Outbound) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !outbound.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let count = outbound.io_slices(&mut slices);
        let mut taken = 0;
        for slice in &slices[..count] {
            bytes.extend_from_slice(slice);
            taken += slice.len();
        }
        outbound.consume(taken);
    }
    bytes
}

/// A CONNECT without a will, user or properties.
pub fn connect(version: Version, client_id: &str, clean_start: bool) -> Connect<'_> {
    Connect {
        version,
        clean_start,
        keep_alive: 0,
        properties: Properties::EMPTY,
        client_id,
        will: None,
        username: None,
        password: None,
    }
}

/// Subscription Options with only a QoS.
pub fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

/// A PUBLISH with packet id 1 where it needs one.
pub fn message<'a>(topic: &'a str, qos: QoS, payload: &'a str) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos > QoS::AtMostOnce).then_some(PacketId::MIN),
        properties: Properties::EMPTY,
        payload: payload.as_bytes(),
    }
}

/// A successful acknowledgement.
pub fn ack_of(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
}
