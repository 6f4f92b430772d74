//! A model client: it follows the protocol as it should, keeps its own state of every exchange, and remembers across
//! connections what the standard says it must.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use weirmq::broker::shard::ConnectionId;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;

use super::ledger::Tick;
use super::plan::Role;

/// A client, connected or not.
pub struct Client {
    pub id: String,
    pub role: Role,
    pub version: Version,
    /// Its home.
    pub shard: usize,
    /// Its connection, as far as it knows itself.
    pub socket: Option<u32>,
    /// Its session in the ledger, once it has had one.
    pub session: Option<usize>,
    /// When the session that it left behind ends; `None` while it is connected.
    pub left: Option<Left>,
    /// QoS 1 and 2 messages that it has published and not finished.
    pub sending: VecDeque<Sending>,
    /// QoS 2 messages received and not released.
    pub receiving: BTreeMap<PacketId, usize>,
    pub last_id: u16,
    /// The wills of its connections since the last one that it has read the CONNACK of.
    pub wills: Vec<(u32, usize)>,
    /// It is gone for good.
    pub retired: bool,
    /// A crash may have brought a session back that it has thrown away: it must do so again.
    pub haunted: bool,
    /// A will that is due unless it comes back in time.
    pub will_due: Option<(usize, Instant, Tick)>,
}

/// What became of a session when its connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub at: Instant,
    /// How long the broker keeps the session from there.
    pub expiry: Option<Duration>,
}

impl Left {
    /// Whether the session is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.expiry.is_some_and(|expiry| now >= self.at + expiry)
    }
}

/// A message on its way to the broker.
pub struct Sending {
    pub packet_id: PacketId,
    pub message: usize,
    pub qos: QoS,
    /// The broker has taken it in this session: a repeat is the same message, unless the broker crashed since its start
    /// of this number.
    pub taken: bool,
    pub boot: usize,
    /// PUBREC has come.
    pub released: bool,
}

/// An answer that a client owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names are the standard's")]
pub enum Reply {
    PubAck(PacketId, usize),
    PubRec(PacketId, usize),
    PubRel(PacketId),
    PubComp(PacketId),
}

/// An answer that the broker owes, in the order of what it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    PubAck(PacketId),
    PubRec(PacketId),
    PubComp(PacketId),
    SubAck(PacketId, Vec<(String, SubscribeOptions, u32)>),
    UnsubAck(PacketId, Vec<String>),
    PingResp,
}

/// What the end of a packet in the stream to the broker means.
pub enum Mark {
    /// A message that the broker now has.
    Publish(usize),
    Other,
}

/// One connection, from both ends.
pub struct Socket {
    pub client: usize,
    /// The session in the ledger.
    pub session: usize,
    pub shard: usize,
    pub connection: ConnectionId,
    pub version: Version,
    /// From the client, not read by the broker.
    pub inbound: VecDeque<u8>,
    /// Read, and not yet a whole packet, or held back.
    pub unread: Vec<u8>,
    /// From the broker, not read by the client.
    pub outbound: VecDeque<u8>,
    /// Half a packet at the client.
    pub partial: Vec<u8>,
    /// Where in the stream to the broker packets end.
    pub marks: VecDeque<(u64, Mark)>,
    pub written: u64,
    pub consumed: u64,
    pub connected: Instant,
    /// Which start of the broker this was.
    pub boot: usize,
    pub last_consumed: Instant,
    /// The broker reads no more for now.
    pub paused: bool,
    /// The broker has let go of it.
    pub closed: bool,
    /// The client has gone without a word.
    pub cut: bool,
    /// The client said DISCONNECT.
    pub goodbye: Option<Goodbye>,
    /// It does not read for now.
    pub stalled: bool,
    pub connacked: bool,
    /// The broker must have the session.
    pub resumed: bool,
    pub replies: Vec<Reply>,
    pub expects: VecDeque<Expect>,
    /// What the client has received at QoS 1 and 2 on this connection and not finished.
    pub open: BTreeSet<PacketId>,
    pub window: usize,
    pub max_packet: usize,
    pub keep_alive: u16,
    pub expiry: u32,
    pub will: Option<(usize, u32)>,
    /// Topics behind the broker's aliases, and behind the client's own.
    pub aliases: BTreeMap<u16, String>,
    pub own_aliases: Vec<String>,
    pub alias_maximum: usize,
    pub own_alias_maximum: usize,
    pub receive_maximum: usize,
    /// To be sent again, when there is nothing better to do.
    pub resends: VecDeque<PacketId>,
}

/// How a client said goodbye.
#[derive(Clone, Copy, Debug)]
pub struct Goodbye {
    pub with_will: bool,
    pub expiry: Option<u32>,
}

impl Client {
    /// The next packet id that no exchange of the client's own uses.
    pub fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id % 50 + 1;
            let id = PacketId::new(self.last_id).expect("not zero");
            if self.sending.iter().all(|sending| sending.packet_id != id) {
                return id;
            }
        }
    }

    /// Forgets its side of a session that is over.
    pub fn forget(&mut self) {
        self.sending.clear();
        self.receiving.clear();
    }
}

impl Socket {
    /// Sends a packet, as far as the client is concerned.
    pub fn send(&mut self, packet: &Packet<'_>, mark: Mark) {
        let mut bytes = Vec::new();
        codec::encode(self.version, packet, &mut bytes);
        self.written += bytes.len() as u64;
        self.inbound.extend(bytes);
        self.marks.push_back((self.written, mark));
    }

    /// The packets that the broker has dealt with, now that it consumed so many bytes more.
    pub fn consume(&mut self, bytes: usize, now: Instant) -> Vec<Mark> {
        self.unread.drain(..bytes);
        self.consumed += bytes as u64;
        let mut done = Vec::new();
        while self.marks.front().is_some_and(|(end, _)| *end <= self.consumed) {
            self.last_consumed = now;
            done.extend(self.marks.pop_front().map(|(_, mark)| mark));
        }
        done
    }

    /// The client reads up to `count` bytes: the packets that are whole now.
    pub fn read(&mut self, count: usize) -> Vec<Vec<u8>> {
        let count = count.min(self.outbound.len());
        self.partial.extend(self.outbound.drain(..count));
        let mut packets = Vec::new();
        loop {
            let framed = codec::frame(Some(self.version), &self.partial, codec::MAX_PACKET_SIZE);
            let len = framed.unwrap_or_else(|error| panic!("the broker sent what is no packet: {error}"));
            let Some(len) = len.filter(|len| *len <= self.partial.len()) else { return packets };
            let rest = self.partial.split_off(len);
            packets.push(std::mem::replace(&mut self.partial, rest));
        }
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE has not been answered: a client that sends another cannot know what it has.
    pub fn is_subscribing(&self) -> bool {
        self.expects.iter().any(|expect| matches!(expect, Expect::SubAck(..) | Expect::UnsubAck(..)))
    }

    /// Whether the client has anything left to do here.
    pub fn is_idle(&self) -> bool {
        self.inbound.is_empty()
            && self.unread.is_empty()
            && self.outbound.is_empty()
            && self.replies.is_empty()
            && self.expects.is_empty()
            && self.resends.is_empty()
    }
}
