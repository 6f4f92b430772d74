//! A client that has never been there before and asks for the retained messages: each must be the last acknowledged
//! one or a later one that was sent.

use std::collections::BTreeMap;

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;

use crate::book::{Book, Published, RETAINED_TOPICS, parsed};
use crate::client::{Desk, Role};
use crate::publisher::{ack, retained_topic};

#[derive(Default)]
pub struct Probe {
    /// What each topic must hold at least: the last acknowledged number when it subscribed, if any.
    least: BTreeMap<String, Option<u64>>,
    /// Those that hold something for certain and have not come.
    awaited: Vec<String>,
}

impl Probe {
    fn look(&mut self, book: &Book) {
        let publishers = book.published.iter().enumerate().filter(|(_, published)| published.retained);
        for (index, published) in publishers {
            for topic in 0..RETAINED_TOPICS {
                let last = published.last_acknowledged(topic);
                let name = retained_topic(index, topic);
                let from = last.unwrap_or(topic);
                let sent = (from..published.sent()).step_by(RETAINED_TOPICS as usize);
                if last.is_some() && !sent.into_iter().any(Published::deletes) {
                    self.awaited.push(name.clone());
                }
                self.least.insert(name, last);
            }
        }
    }

    fn came(&mut self, publish: &Publish<'_>, desk: &mut Desk<'_>) {
        if let Some(packet_id) = publish.packet_id {
            desk.put(&Packet::PubAck(ack(packet_id)));
        }
        self.awaited.retain(|topic| topic != publish.topic);
        if publish.payload.is_empty() {
            // A deletion that is published just now.
            return;
        }
        let number = parsed(publish.payload).map(|(_, number)| number);
        let right = number.is_some() && self.least.get(publish.topic).is_some_and(|least| number >= *least);
        if !right {
            desk.book.report.retained_wrong += 1;
            let (topic, least) = (publish.topic, self.least.get(publish.topic));
            desk.book.fault(format!("{topic}: number {number:?} is retained, {least:?} was acknowledged"));
        }
    }

    fn check(&self, desk: &mut Desk<'_>) {
        desk.book.probed |= self.awaited.is_empty();
    }
}

impl Role for Probe {
    fn connected(&mut self, _resumed: bool, desk: &mut Desk<'_>) {
        self.look(desk.book);
        let mut raw = Vec::new();
        let options = SubscribeOptions::at_most(QoS::AtLeastOnce);
        let filters = SubscribeFilters::encode([("state/#", options)], &mut raw);
        let (packet_id, properties) = (PacketId::MIN, Properties::EMPTY);
        desk.put(&Packet::Subscribe(Subscribe { packet_id, properties, filters }));
    }

    fn received(&mut self, packet: &Packet<'_>, desk: &mut Desk<'_>) {
        match packet {
            Packet::SubAck(_) => self.check(desk),
            Packet::Publish(publish) => {
                self.came(publish, desk);
                self.check(desk);
            }
            other => desk.book.fault(format!("the probe: unexpected {other:?}")),
        }
    }

    fn turn(&mut self, _desk: &mut Desk<'_>) {}
}
