//! A subscriber with a persistent session, or a worker of a share group with one: it remembers across every end of a
//! connection which QoS 2 exchanges are under way, as the standard wants it.

use std::collections::{BTreeMap, VecDeque};

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;

use crate::book::parsed;
use crate::client::{Desk, Role};
use crate::publisher::ack;

/// Answers that it owes before it gives some, at most.
const OWED: usize = 25;

pub struct Subscriber {
    /// In the book.
    taker: usize,
    filter: &'static str,
    qos: QoS,
    subscribed: bool,
    /// QoS 2 messages that have come and are not released, by packet identifier.
    unreleased: BTreeMap<PacketId, Option<(usize, u64)>>,
    /// What it will answer, in the order in which it must.
    owed: VecDeque<Owed>,
    /// It stops answering when workers are to be lost.
    gets_lost: bool,
    /// It never resumes a session.
    begins_anew: bool,
}

enum Owed {
    /// PUBACK; with it a worker is done with a message.
    Done(PacketId, Option<(usize, u64)>),
    /// PUBREC.
    Received(PacketId),
    /// PUBCOMP.
    Completed(PacketId),
}

impl Subscriber {
    pub fn new(taker: usize, filter: &'static str, qos: QoS) -> Subscriber {
        Subscriber {
            taker,
            filter,
            qos,
            subscribed: false,
            unreleased: BTreeMap::new(),
            owed: VecDeque::new(),
            gets_lost: false,
            begins_anew: false,
        }
    }

    /// The same as a worker that takes its last messages without a word.
    pub fn that_gets_lost(self) -> Subscriber {
        Subscriber { gets_lost: true, ..self }
    }

    /// The same for a client that asks for a new session each time.
    pub fn that_begins_anew(self) -> Subscriber {
        Subscriber { begins_anew: true, ..self }
    }

    fn published(&mut self, publish: &Publish<'_>, desk: &mut Desk<'_>) {
        let message = parsed(publish.payload);
        let name = &desk.book.taken[self.taker].name;
        if message.is_none() {
            let (topic, len) = (publish.topic, publish.payload.len());
            let what = format!("{name}: a message of {len} bytes on {topic} that nobody sent");
            desk.book.fault(what);
            return;
        }
        let Some(packet_id) = publish.packet_id else {
            let what = format!("{name}: {message:?} came at QoS 0");
            return desk.book.fault(what);
        };
        if publish.qos == QoS::ExactlyOnce {
            self.published_exactly(packet_id, publish.dup, message, desk);
            self.owed.push_back(Owed::Received(packet_id));
        } else if desk.book.taken[self.taker].loose {
            self.owed.push_back(Owed::Done(packet_id, message));
        } else {
            self.saw(message, false, desk);
            self.owed.push_back(Owed::Done(packet_id, None));
        }
    }

    fn published_exactly(
        &mut self,
        packet_id: PacketId,
        dup: bool,
        message: Option<(usize, u64)>,
        desk: &mut Desk<'_>,
    ) {
        match self.unreleased.insert(packet_id, message) {
            None => self.saw(message, true, desk),
            Some(before) => {
                let name = &desk.book.taken[self.taker].name;
                let mut what = None;
                if before != message {
                    what = Some(format!("{name}: packet {packet_id} was {before:?} and is now {message:?}"));
                } else if !dup {
                    // [MQTT-3.3.1-1]
                    what = Some(format!("{name}: {message:?} came again without DUP"));
                }
                if let Some(what) = what {
                    desk.book.fault(what);
                }
            }
        }
    }

    fn saw(&mut self, message: Option<(usize, u64)>, exact: bool, desk: &mut Desk<'_>) {
        if let Some((publisher, number)) = message {
            desk.book.saw(self.taker, publisher, number, exact);
        }
    }

    fn subscribe(&mut self, desk: &mut Desk<'_>) {
        let mut raw = Vec::new();
        let filters =
            SubscribeFilters::encode([(self.filter, SubscribeOptions::at_most(self.qos))], &mut raw);
        let (packet_id, properties) = (PacketId::MIN, Properties::EMPTY);
        desk.put(&Packet::Subscribe(Subscribe { packet_id, properties, filters }));
    }

    fn answer(&mut self, desk: &mut Desk<'_>) {
        match self.owed.pop_front() {
            Some(Owed::Done(packet_id, done)) => {
                self.saw(done, false, desk);
                desk.put(&Packet::PubAck(ack(packet_id)));
            }
            Some(Owed::Received(packet_id)) => desk.put(&Packet::PubRec(ack(packet_id))),
            Some(Owed::Completed(packet_id)) => desk.put(&Packet::PubComp(ack(packet_id))),
            None => {}
        }
    }
}

impl Role for Subscriber {
    fn connected(&mut self, resumed: bool, desk: &mut Desk<'_>) {
        if !resumed {
            self.unreleased.clear();
            self.subscribed = false;
        }
        if self.begins_anew {
            desk.book.began_anew(self.taker);
        }
        // What was acknowledged is never asked for again.
        if !self.subscribed {
            self.subscribe(desk);
        }
    }

    fn received(&mut self, packet: &Packet<'_>, desk: &mut Desk<'_>) {
        match packet {
            Packet::Publish(publish) => self.published(publish, desk),
            Packet::PubRel(release) => {
                self.unreleased.remove(&release.packet_id);
                self.owed.push_back(Owed::Completed(release.packet_id));
            }
            Packet::SubAck(suback) => {
                if suback.reasons != [self.qos as u8] {
                    desk.book.fault(format!("{}: SUBACK {:?}", self.filter, suback.reasons));
                }
                self.subscribed = true;
                desk.book.subscribed(self.taker);
            }
            other => {
                let name = &desk.book.taken[self.taker].name;
                let what = format!("{name}: unexpected {:?}", other.packet_type());
                desk.book.fault(what);
            }
        }
    }

    fn turn(&mut self, desk: &mut Desk<'_>) {
        if self.gets_lost && desk.book.losing {
            return;
        }
        // Now and then some, so that a crash finds exchanges at every step.
        let some = match desk.rng.u8(0..4) {
            0 => self.owed.len(),
            1 => desk.rng.usize(0..=self.owed.len()),
            _ => self.owed.len().saturating_sub(OWED),
        };
        for _ in 0..some {
            self.answer(desk);
        }
    }

    fn cut(&mut self) {
        // Answers belong to the connection; what waits for one comes again.
        self.owed.clear();
    }
}
