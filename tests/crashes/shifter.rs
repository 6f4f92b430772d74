//! A client that subscribes and unsubscribes all the time. What was acknowledged last must hold, whatever happened in
//! between; at the end it publishes to each of its filters and compares.

use std::collections::{BTreeMap, BTreeSet};

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;

use crate::client::{Desk, Role};
use crate::publisher::ack;

/// So many filters.
const FILTERS: u16 = 60;

/// The filter behind all others: what comes over it comes last.
const END: u16 = FILTERS;

pub struct Shifter {
    name: String,
    /// The acknowledged ones.
    subscribed: BTreeSet<u16>,
    /// Asked for and not answered: the filter and whether it is to be there.
    asked: Option<(u16, bool)>,
    /// The comparison has begun; what has come.
    comparison: Option<BTreeMap<u16, usize>>,
    compared: bool,
}

impl Shifter {
    pub fn new(name: &str) -> Shifter {
        Shifter {
            name: name.to_owned(),
            subscribed: BTreeSet::new(),
            asked: None,
            comparison: None,
            compared: false,
        }
    }

    fn topic(&self, filter: u16) -> String {
        format!("{}/{filter}", self.name)
    }

    fn ask(&self, desk: &mut Desk<'_>) {
        let Some((filter, wanted)) = self.asked else { return };
        let (packet_id, properties) = (PacketId::MIN.saturating_add(filter), Properties::EMPTY);
        let topic = self.topic(filter);
        let mut raw = Vec::new();
        if wanted {
            let options = SubscribeOptions::at_most(QoS::AtLeastOnce);
            let filters = SubscribeFilters::encode([(topic.as_str(), options)], &mut raw);
            desk.put(&Packet::Subscribe(Subscribe { packet_id, properties, filters }));
        } else {
            let filters = UnsubscribeFilters::encode([topic.as_str()], &mut raw);
            desk.put(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
        }
    }

    fn answered(&mut self, packet_id: PacketId, desk: &mut Desk<'_>) {
        match self.asked.take() {
            Some((filter, wanted)) if packet_id.get() == filter + 1 => {
                if wanted {
                    self.subscribed.insert(filter);
                } else {
                    self.subscribed.remove(&filter);
                }
            }
            other => {
                desk.book.fault(format!("{}: packet {packet_id} answers not {other:?}", self.name));
            }
        }
    }

    fn begin_comparison(&mut self, desk: &mut Desk<'_>) {
        self.comparison = Some(BTreeMap::new());
        for filter in 0..=END {
            desk.put(&Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: &self.topic(filter),
                packet_id: Some(PacketId::MIN.saturating_add(filter)),
                properties: Properties::EMPTY,
                payload: b"",
            }));
        }
    }

    fn end_comparison(&mut self, desk: &mut Desk<'_>) {
        let came = self.comparison.take().unwrap_or_default();
        let book = &mut *desk.book;
        book.compared += 1;
        self.compared = true;
        for filter in 0..=END {
            let times = came.get(&filter).copied().unwrap_or_default();
            let expected = usize::from(self.subscribed.contains(&filter));
            if times < expected {
                book.report.subscriptions_lost += 1;
            }
            if times != expected {
                let topic = self.topic(filter);
                book.fault(format!("{topic}: {expected} subscriptions acknowledged, {times} deliveries"));
            }
        }
    }

    fn published(&mut self, publish: &Publish<'_>, desk: &mut Desk<'_>) {
        if let Some(packet_id) = publish.packet_id {
            desk.put(&Packet::PubAck(ack(packet_id)));
        }
        let filter = publish.topic.rsplit('/').next().and_then(|filter| filter.parse().ok());
        match (&mut self.comparison, filter) {
            (Some(came), Some(filter)) => {
                *came.entry(filter).or_default() += 1;
                if filter == END {
                    self.end_comparison(desk);
                }
            }
            _ => desk.book.fault(format!("{}: a message on {}", self.name, publish.topic)),
        }
    }
}

impl Role for Shifter {
    fn connected(&mut self, resumed: bool, desk: &mut Desk<'_>) {
        if !resumed {
            desk.book.report.subscriptions_lost += self.subscribed.len() as u64;
            self.subscribed.clear();
        }
        self.ask(desk);
    }

    fn received(&mut self, packet: &Packet<'_>, desk: &mut Desk<'_>) {
        match packet {
            Packet::SubAck(suback) | Packet::UnsubAck(suback) => self.answered(suback.packet_id, desk),
            Packet::Publish(publish) => self.published(publish, desk),
            Packet::PubAck(ack) if !ack.reason.is_failure() => {}
            other => desk.book.fault(format!("{}: unexpected {other:?}", self.name)),
        }
    }

    fn turn(&mut self, desk: &mut Desk<'_>) {
        if self.asked.is_some() || self.comparison.is_some() {
            return;
        }
        if !desk.book.stopped {
            let filter = desk.rng.u16(0..FILTERS);
            self.asked = Some((filter, !self.subscribed.contains(&filter)));
            self.ask(desk);
        } else if desk.book.comparing && !self.subscribed.contains(&END) {
            self.asked = Some((END, true));
            self.ask(desk);
        } else if desk.book.comparing && !self.compared {
            self.begin_comparison(desk);
        }
    }
}
