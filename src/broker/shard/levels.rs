//! What the log says of durable queues that fill up: a line when one comes to 80 % of its limit, and one when it is full.

use tracing::warn;

use super::Shard;
use crate::broker::outbox::Item;
use crate::broker::route::Route;
use crate::escaped::Word;
use crate::message::QueueId;
use crate::meter::{Level, QueueMeter};
use crate::protocol::packet::QoS;

impl Shard {
    /// A message has taken its places in the queues of its route.
    pub(super) fn tell_rising(&mut self, route: &Route, qos: QoS) {
        let rising: Vec<(QueueId, Level)> = route.rising(qos).collect();
        for (queue, level) in rising {
            self.tell_level(route, queue, level);
        }
    }

    /// Says it, or has it said where the name of the session is known.
    pub(super) fn tell_level(&mut self, route: &Route, queue: QueueId, level: Level) {
        if let Some(group) = route.groups.iter().find(|group| group.queue == queue) {
            let name = format!("$share/{}/{}", group.group, group.filter);
            self.say(&name, &group.meter, level);
        } else if let Some(home) = route.home(queue) {
            self.outbox.push(home, Item::Level(queue, level));
        }
    }

    /// Says it of a session that lives here.
    pub(super) fn say_level(&self, queue: QueueId, level: Level) {
        let Some(index) = self.by_queue.get(&self.sessions, &queue) else { return };
        let session = &self.sessions[index as usize];
        if let Some(meter) = &session.meter {
            self.say(&session.client_id, meter, level);
        }
    }

    fn say(&self, name: &str, meter: &QueueMeter, level: Level) {
        let (queue, filter) = (Word(name), meter.rule(&self.settings.queue_rules));
        let (messages, bytes, overflow) = (meter.messages(), meter.bytes(), meter.overflow());
        match level {
            Level::Filling => warn!(%queue, filter, messages, bytes, ?overflow, "queue at 80 % of its limit"),
            Level::Full => warn!(%queue, filter, messages, bytes, ?overflow, "queue full"),
        }
    }
}
