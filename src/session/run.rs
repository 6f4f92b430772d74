//! A run: consecutive messages with one route, encoded once and copied to every taker that wants
//! nothing of its own in them. This is what makes a fan-out cost a copy and a few patches.

use std::sync::Arc;

use super::link::SHARED_PAYLOAD;
use super::{Context, Delivery, Session, account};
use crate::message::Message;
use crate::outbound::Outbound;
use crate::protocol::codec::PublishHeader;
use crate::protocol::packet::{PacketId, QoS, Version};
use crate::protocol::properties::{Property, encode_property};
use crate::stats::DropReason;
use crate::target::Identifiers;

/// The encoded frames of a run's messages, for one version and QoS.
#[derive(Debug, Default)]
struct Frames {
    built: bool,
    /// Some message needs a treatment of its own: expired, retained, or a large payload.
    unfit: bool,
    bytes: Vec<u8>,
    /// For each message above QoS 0: its index, and where its packet id stands.
    packet_ids: Vec<(u32, usize)>,
    largest: usize,
    /// The size of the smallest message.
    smallest: usize,
    payload_bytes: u64,
}

/// The buffers of a run, kept from run to run.
#[derive(Debug, Default)]
pub struct Run {
    frames: [[Frames; 3]; 2],
}

/// What one taker of a run has subscribed to.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The highest QoS of its matching subscriptions.
    pub qos: QoS,
    /// Retain As Published of any.
    pub retain_as_published: bool,
    /// Their identifiers.
    pub identifiers: &'a Identifiers,
    /// Retained publishes up to this version reach it by the retained replay.
    pub since: u64,
    /// Places were reserved in its queue.
    pub metered: bool,
}

impl Run {
    /// Begins another run: what was encoded is of no more use.
    pub fn begin(&mut self) {
        for frames in self.frames.as_flattened_mut() {
            frames.built = false;
        }
    }

    fn frames(
        &mut self,
        version: Version,
        qos: QoS,
        messages: &[Arc<Message>],
        cx: &mut Context<'_>,
    ) -> &Frames {
        let frames = &mut self.frames[usize::from(version == Version::V5)][qos as usize];
        if !frames.built {
            frames.build(version, qos, messages, cx);
        }
        frames
    }
}

impl Frames {
    fn build(&mut self, version: Version, qos: QoS, messages: &[Arc<Message>], cx: &mut Context<'_>) {
        self.built = true;
        let fit = |m: &Message| m.payload().len() <= SHARED_PAYLOAD && !m.retain && !m.is_expired(cx.now);
        self.unfit = !messages.iter().all(|message| fit(message));
        self.bytes.clear();
        self.packet_ids.clear();
        (self.largest, self.smallest, self.payload_bytes) = (0, usize::MAX, 0);
        if self.unfit {
            return;
        }
        for (index, message) in messages.iter().enumerate() {
            let start = self.bytes.len();
            let qos = qos.min(message.qos);
            cx.scratch.clear();
            if let Some(remaining) = message.remaining_expiry(cx.now) {
                encode_property(Property::MessageExpiryInterval(remaining), cx.scratch);
            }
            let header = PublishHeader {
                dup: false,
                qos,
                retain: false,
                topic: message.topic_bytes(),
                packet_id: (qos > QoS::AtMostOnce).then_some(PacketId::MIN),
                properties: message.properties(),
                extra: cx.scratch,
                payload_len: message.payload().len(),
            };
            header.encode(version, &mut self.bytes);
            if qos > QoS::AtMostOnce {
                self.packet_ids.push((index as u32, start + header.packet_id_at(version)));
            }
            self.bytes.extend_from_slice(message.payload());
            self.largest = self.largest.max(self.bytes.len() - start);
            self.smallest = self.smallest.min(message.size());
            self.payload_bytes += message.payload().len() as u64;
        }
    }
}

/// Whether a run fits: one packet always does into an empty buffer, but not a run of many that is over a limit which the
/// lack of memory has made small.
fn fits(outbound: &Outbound, bytes: usize, messages: usize, limit: usize) -> bool {
    outbound.len() + bytes <= limit || (messages == 1 && outbound.is_empty())
}

impl Session {
    /// Takes a run of messages that share a route: by copying ready frames where nothing in them is
    /// this client's own, else one by one.
    pub fn deliver_run(
        &mut self,
        run: &mut Run,
        messages: &[Arc<Message>],
        terms: Terms<'_>,
        cx: &mut Context<'_>,
    ) {
        if self.deliver_ready(run, messages, terms, cx) {
            self.count_transient(messages.len(), cx);
            return;
        }
        for message in messages {
            if self.is_replayed(message, terms, cx) {
                continue;
            }
            self.count_transient(1, cx);
            self.deliver(self.delivery(message, terms), cx);
        }
    }

    /// Passes over a run of messages that this client may not read, though a place is reserved for them.
    pub fn refuse_run(&mut self, messages: &[Arc<Message>], terms: Terms<'_>, cx: &mut Context<'_>) {
        for message in messages {
            if self.is_replayed(message, terms, cx) {
                continue;
            }
            let delivery = self.delivery(message, terms);
            if self.returns_by_pages(&delivery) && self.queue.came_early(&delivery) {
                account(&delivery, cx);
                continue;
            }
            self.pass_by(&delivery);
            self.drop_delivery(&delivery, DropReason::Revoked, cx);
        }
    }

    /// Whether the retained replay of the subscription brings it.
    fn is_replayed(&self, message: &Arc<Message>, terms: Terms<'_>, cx: &mut Context<'_>) -> bool {
        if message.version == 0 || message.version > terms.since {
            return false;
        }
        if terms.metered && message.qos.min(terms.qos) > QoS::AtMostOnce {
            // A place was reserved for it, and nothing is on disk.
            let delivery = Delivery { durable: false, ..self.delivery(message, terms) };
            self.settle(&delivery, cx);
        }
        true
    }

    /// Counts deliveries that the publisher's shard, which does not know transient takers, could not count.
    fn count_transient(&self, messages: usize, cx: &Context<'_>) {
        if !self.persistent {
            cx.stats.deliveries.add(messages as u64);
        }
    }

    fn delivery(&self, message: &Arc<Message>, terms: Terms<'_>) -> Delivery {
        let qos = message.qos.min(terms.qos);
        let durable = terms.metered && qos > QoS::AtMostOnce;
        Delivery {
            message: message.clone(),
            from: self.queue_id,
            identifiers: terms.identifiers.clone(),
            qos,
            // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
            retain: message.retain && terms.retain_as_published,
            dup: false,
            metered: durable,
            durable,
        }
    }

    /// Whether that was possible.
    fn deliver_ready(
        &mut self,
        run: &mut Run,
        messages: &[Arc<Message>],
        terms: Terms<'_>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(link) = &self.link else { return false };
        let plain = link.takes_ready_frames()
            && terms.identifiers.is_empty()
            && self.queue.is_plain()
            && self.inflight.all_written()
            && (!self.persistent || terms.qos < QoS::ExactlyOnce)
            && (cx.starts || !self.persistent || terms.qos == QoS::AtMostOnce);
        if !plain {
            return false;
        }
        let frames = run.frames(link.version, terms.qos, messages, cx);
        if !frames.unfit && frames.packet_ids.is_empty() && !link.has_room(frames.smallest, cx.outbound_limit)
        {
            // One who does not read costs next to nothing.
            cx.stats.count_drop(DropReason::Qos0SlowConsumer, messages.len() as u64);
            return true;
        }
        if frames.unfit
            || frames.largest > link.max_packet as usize
            || self.inflight.len() + frames.packet_ids.len() > usize::from(link.window)
            || !fits(&link.outbound, frames.bytes.len(), messages.len(), cx.outbound_limit)
        {
            return false;
        }
        self.append_ready(frames, messages, terms, cx);
        true
    }

    fn append_ready(
        &mut self,
        frames: &Frames,
        messages: &[Arc<Message>],
        terms: Terms<'_>,
        cx: &mut Context<'_>,
    ) {
        let own = self.queue_id;
        let Some(link) = &mut self.link else { return };
        let buf = link.outbound.buf();
        let start = buf.len();
        buf.extend_from_slice(&frames.bytes);
        for (index, at) in &frames.packet_ids {
            let message = &messages[*index as usize];
            cx.stats.queued_messages.add(1);
            cx.stats.queued_bytes.add(message.size() as u64);
            let id = self.inflight.bind_written(Delivery {
                message: message.clone(),
                from: own,
                identifiers: Identifiers::default(),
                qos: terms.qos.min(message.qos),
                retain: false,
                dup: false,
                metered: terms.metered,
                durable: terms.metered,
            });
            buf[start + at..start + at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
        cx.stats.delivered.add((messages.len() - frames.packet_ids.len()) as u64);
        cx.stats.packets_sent.add(messages.len() as u64);
        cx.stats.publish_sent.add(messages.len() as u64);
        cx.stats.publish_bytes_sent.add(frames.payload_bytes);
    }
}
