//! A publisher with a store of its own: what the broker has not acknowledged it sends again, in its order, after every
//! end of the connection.

use std::collections::VecDeque;
use std::time::Instant;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;

use crate::book::{Published, RETAINED_TOPICS, payload};
use crate::client::{Desk, Role};

/// Messages that wait for their acknowledgement, at most.
const WINDOW: usize = 40;

/// Topics that a publisher's messages go to, in turn.
const TOPICS: u64 = 3;

pub struct Publisher {
    /// In the book.
    index: usize,
    qos: QoS,
    /// In the order of their numbers.
    open: VecDeque<Open>,
    last_id: u16,
    /// Messages that it may send by its rate.
    credit: f64,
    credited_at: Option<Instant>,
}

/// An exchange that has begun.
struct Open {
    packet_id: PacketId,
    number: u64,
    /// PUBREC has come: from now on PUBREL is said.
    received: bool,
}

impl Publisher {
    pub fn new(index: usize, qos: QoS) -> Publisher {
        Publisher { index, qos, open: VecDeque::new(), last_id: 0, credit: 0.0, credited_at: None }
    }

    fn begin(&mut self, desk: &mut Desk<'_>) {
        let packet_id = self.free_id();
        let published = &mut desk.book.published[self.index];
        let number = published.sent();
        published.begin();
        self.open.push_back(Open { packet_id, number, received: false });
        self.say(self.open.len() - 1, false, desk);
    }

    /// Few identifiers, so that each is soon used again.
    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id % (WINDOW as u16 + 8) + 1;
            let id = PacketId::new(self.last_id).expect("not zero");
            if self.open.iter().all(|open| open.packet_id != id) {
                return id;
            }
        }
    }

    /// PUBLISH or PUBREL, whichever is due.
    fn say(&self, at: usize, dup: bool, desk: &mut Desk<'_>) {
        let Open { packet_id, number, received } = self.open[at];
        if received {
            return desk.put(&Packet::PubRel(ack(packet_id)));
        }
        let retain = desk.book.published[self.index].retained;
        let (topic, payload) = match retain {
            true if Published::deletes(number) => (retained_topic(self.index, number), Vec::new()),
            true => (retained_topic(self.index, number), payload(self.index, number)),
            false => (format!("load/{}/{}", self.index, number % TOPICS), payload(self.index, number)),
        };
        desk.put(&Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain,
            topic: &topic,
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: &payload,
        }));
    }

    fn answered(&mut self, what: &str, ack: &Ack<'_>, desk: &mut Desk<'_>) -> Option<usize> {
        let at = self.open.iter().position(|open| open.packet_id == ack.packet_id);
        if at.is_none() {
            desk.book.fault(format!("publisher {}: {what} for nothing that it sent", self.index));
        }
        at
    }

    /// The broker has taken a message over, or not.
    fn settled(&mut self, at: usize, ack: &Ack<'_>, desk: &mut Desk<'_>) {
        let Open { number, received, .. } = self.open[at];
        if received {
            return;
        }
        if ack.reason.is_failure() {
            let (index, reason) = (self.index, ack.reason);
            desk.book.fault(format!("publisher {index}: message {number} was refused: {reason:?}"));
        } else {
            desk.book.acknowledge(self.index, number);
        }
    }
}

/// The topic of a publisher's retained message.
pub fn retained_topic(publisher: usize, number: u64) -> String {
    format!("state/{publisher}/{}", number % RETAINED_TOPICS)
}

pub fn ack(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, reason: weirmq::protocol::reason::ReasonCode::Success, properties: Properties::EMPTY }
}

impl Role for Publisher {
    fn connected(&mut self, resumed: bool, desk: &mut Desk<'_>) {
        if !resumed {
            // Another session: what was taken over is done with, the rest is new to it.
            self.open.retain(|open| !open.received);
        }
        for at in 0..self.open.len() {
            self.say(at, resumed, desk);
        }
    }

    fn received(&mut self, packet: &Packet<'_>, desk: &mut Desk<'_>) {
        match packet {
            Packet::PubAck(ack) if self.qos == QoS::AtLeastOnce => {
                if let Some(at) = self.answered("PUBACK", ack, desk) {
                    self.settled(at, ack, desk);
                    self.open.remove(at);
                }
            }
            Packet::PubRec(ack) if self.qos == QoS::ExactlyOnce => {
                if let Some(at) = self.answered("PUBREC", ack, desk) {
                    self.settled(at, ack, desk);
                    self.open[at].received = true;
                    self.say(at, false, desk);
                }
            }
            Packet::PubComp(ack) if self.qos == QoS::ExactlyOnce => {
                if let Some(at) = self.answered("PUBCOMP", ack, desk) {
                    self.open.remove(at);
                }
            }
            other => {
                desk.book.fault(format!("publisher {}: unexpected {:?}", self.index, other.packet_type()));
            }
        }
    }

    fn turn(&mut self, desk: &mut Desk<'_>) {
        let passed = self.credited_at.map_or(0.0, |at| (desk.now - at).as_secs_f64());
        self.credited_at = Some(desk.now);
        self.credit = (self.credit + passed * desk.book.rate).min(WINDOW as f64);
        while !desk.book.stopped && self.credit >= 1.0 && self.open.len() < WINDOW {
            self.credit -= 1.0;
            self.begin(desk);
        }
    }
}
