//! What becomes of a message that goes to a session: it is sent now or waits, is bound to a packet id and written when the
//! disk, the client's window and the buffer let it, and leaves its queue for good, or goes back to its share group.

use std::sync::Arc;

use super::inflight::Step;
use super::link::Written;
use super::{Context, Delivery, Finished, Session, account, unaccount};
use crate::acl::Who;
use crate::message::{Message, MessageId, QueueId};
use crate::meter::QueueMeter;
use crate::protocol::packet::QoS;
use crate::stats::DropReason;
use crate::store::{Record, Ticket};

impl Session {
    /// Takes a message: sends it now, or queues it, or drops it and counts why.
    pub fn deliver(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        if self.returns_by_pages(&delivery) && self.queue.came_early(&delivery) {
            return account(&delivery, cx);
        }
        if delivery.message.is_expired(cx.now) {
            self.pass_by(&delivery);
            return self.drop_delivery(&delivery, DropReason::Expired, cx);
        }
        if delivery.qos == QoS::AtMostOnce {
            if self.paces(cx.now) {
                return self.enqueue_at_most_once(delivery, cx);
            }
            let size = delivery.message.size();
            let has_room = self.link.as_ref().is_some_and(|link| link.has_room(size, cx.outbound_limit));
            return self.deliver_at_most_once(&delivery, has_room, cx);
        }
        if self.queue.is_empty() && self.may_start(cx) {
            self.start(delivery, cx);
        } else {
            self.enqueue(delivery, cx);
        }
    }

    /// Takes a retained message for a new subscription, which waits for [`Session::is_idle`]: so even at QoS 0, where
    /// it would be the only one that this subscriber is ever told, it is not dropped for want of room.
    pub fn replay(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        if delivery.qos == QoS::AtMostOnce {
            self.deliver_at_most_once(&delivery, true, cx);
        } else {
            self.deliver(delivery, cx);
        }
    }

    fn deliver_at_most_once(&mut self, delivery: &Delivery, has_room: bool, cx: &mut Context<'_>) {
        let written = match &mut self.link {
            Some(link) if link.open && has_room => {
                link.count_pace(delivery, cx.now);
                link.write_publish(delivery, None, false, cx)
            }
            // At QoS 0 nothing was promised.
            _ => return self.drop_delivery(delivery, DropReason::Qos0SlowConsumer, cx),
        };
        match written {
            Written::Yes => {
                cx.stats.delivered.add(1);
                self.settle(delivery, cx);
            }
            _ => self.drop_delivery(delivery, DropReason::TooLarge, cx),
        }
    }

    /// Whether a QoS 1 or 2 delivery may be bound to a packet id now [MQTT-3.3.4-9].
    fn may_start(&mut self, cx: &Context<'_>) -> bool {
        let blocked = !cx.starts && self.is_recorded();
        let link = self.link.as_mut().filter(|_| !blocked);
        link.is_some_and(|link| {
            link.open
                && self.inflight.all_written()
                && self.inflight.len() < usize::from(link.window)
                && (link.outbound.is_empty() || link.outbound.len() < cx.outbound_limit)
                && link.is_in_pace(cx.now)
        })
    }

    /// Binds a delivery to a packet id and sends it, unless it must wait for the disk.
    fn start(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        account(&delivery, cx);
        if let Some(link) = &mut self.link {
            link.count_pace(&delivery, cx.now);
        }
        let given = self.persistent && delivery.from != self.queue_id;
        let leaves = delivery.qos == QoS::ExactlyOnce && (delivery.durable || given);
        let (mut message, mut from) = (delivery.message.id, delivery.from);
        if leaves && !delivery.durable {
            (message, from) = (self.keep(&delivery, cx), self.queue_id);
        }
        let packet_id = self.inflight.bind(delivery, Ticket(0));
        if leaves && let Some(slot) = self.inflight.last_bound() {
            let session = self.queue_id;
            // From here on it is this session's: a share group has it no more [MQTT-4.8.2-5].
            slot.ticket = cx.store.push(match self.persistent {
                true => Record::Sent { session, packet_id, message, from },
                false => Record::Acked(from, message),
            });
            slot.moved = true;
            if let Some(delivery) = &mut slot.delivery {
                delivery.durable = false;
            }
        }
        self.write_bound(cx);
    }

    /// Sends what is bound and not yet written to this connection, as far as the disk, the client's
    /// Receive Maximum and the outbound buffer let it.
    fn write_bound(&mut self, cx: &mut Context<'_>) {
        let Some(link) = &mut self.link else { return };
        let durable = cx.store.durable();
        while link.outbound.is_empty() || link.outbound.len() < cx.outbound_limit {
            if self.inflight.outstanding() >= usize::from(link.window) {
                return;
            }
            let Some(slot) = self.inflight.next_unwritten(durable) else {
                if self.inflight.all_written() {
                    self.asked_by = cx.rules;
                }
                return;
            };
            let (packet_id, recorded) = (slot.packet_id, slot.moved && self.persistent);
            let half_done = slot.sent && slot.qos() == QoS::ExactlyOnce;
            let barred = |delivery: &Delivery| {
                let who = Who { principal: &self.principal, client_id: &self.client_id };
                self.asked_by != cx.rules
                    && cx.acl.is_some_and(|acl| !acl.may_read(who, delivery.message.topic()))
            };
            let written = match (&slot.delivery, slot.step) {
                (Some(delivery), Step::Published) if barred(delivery) => Written::Barred,
                (Some(delivery), Step::Published) => {
                    // [MQTT-3.3.1-1]: a repeat says so.
                    let dup = slot.sent || delivery.dup;
                    link.write_publish(delivery, Some(packet_id), dup, cx)
                }
                _ => {
                    link.write_pubrel(packet_id, cx);
                    Written::Yes
                }
            };
            if written == Written::Yes {
                self.inflight.written();
                continue;
            }
            // [MQTT-3.1.2-25]: discarded as if its sending had been completed. A client that took it at QoS 2 over an
            // earlier connection holds its packet id until PUBREL.
            let ended = if half_done { Record::Stepped } else { Record::Completed };
            let ticket = if recorded { cx.store.push(ended(self.queue_id, packet_id)) } else { Ticket(0) };
            let discarded = match half_done {
                true => self.inflight.release_unwritten(ticket),
                false => self.inflight.skip_unwritten(),
            };
            if let Some(delivery) = discarded {
                unaccount(&delivery, cx);
                Session::forget(self.queue_id, &self.meter, &delivery, cx);
                let barred = written == Written::Barred;
                let reason = if barred { DropReason::Revoked } else { DropReason::TooLarge };
                cx.stats.count_drop(reason, 1);
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.open)
    }

    /// Sends what may leave now: after an acknowledgement, a reconnect, or when the buffer or the
    /// disk made progress.
    pub fn pump(&mut self, cx: &mut Context<'_>) {
        if (self.queue.is_empty() && self.inflight.all_written()) || !self.is_open() {
            return;
        }
        self.write_bound(cx);
        while self.may_start(cx) {
            let Some(delivery) = self.queue.window_mut().pop() else { break };
            unaccount(&delivery, cx);
            if delivery.message.is_expired(cx.now) {
                self.drop_delivery(&delivery, DropReason::Expired, cx);
            } else if !self.may_read(&delivery.message, cx) {
                self.refuse(&delivery, cx);
            } else if delivery.qos == QoS::AtMostOnce {
                // It waited for its turn: only where the pace is bounded does one at QoS 0 wait.
                self.deliver_at_most_once(&delivery, true, cx);
            } else {
                self.start(delivery, cx);
            }
        }
        self.refill(cx);
    }

    /// Whether its client may be sent `message`. What comes live was asked when it was routed; what waited is
    /// asked when it goes.
    fn may_read(&self, message: &Message, cx: &Context<'_>) -> bool {
        cx.acl.is_none_or(|acl| acl.may_read(self.who(), message.topic()))
    }

    /// Takes what a share group gives; `decided` if the rules that the group went by hold here.
    pub fn take_given(&mut self, delivery: Delivery, decided: bool, cx: &mut Context<'_>) {
        if decided || self.may_read(&delivery.message, cx) {
            self.deliver(delivery, cx);
        } else if delivery.qos == QoS::AtMostOnce {
            // The group has forgotten it: it would not come back.
            self.drop_delivery(&delivery, DropReason::Revoked, cx);
        } else {
            self.refuse(&delivery, cx);
        }
    }

    /// What waited may not be read any more: a share group may have somebody else for it.
    fn refuse(&self, delivery: &Delivery, cx: &mut Context<'_>) {
        if delivery.from == self.queue_id {
            return self.drop_delivery(delivery, DropReason::Revoked, cx);
        }
        cx.settled.push(Finished { group: delivery.from, message: delivery.message.id, declined: true });
    }

    pub(super) fn drop_delivery(&self, delivery: &Delivery, reason: DropReason, cx: &mut Context<'_>) {
        cx.stats.count_drop(reason, 1);
        self.settle(delivery, cx);
    }

    /// A delivery is over, one way or the other: it leaves its queue for good.
    pub(super) fn settle(&self, delivery: &Delivery, cx: &mut Context<'_>) {
        Session::forget(self.queue_id, &self.meter, delivery, cx);
    }

    fn forget(own: QueueId, meter: &Option<Arc<QueueMeter>>, delivery: &Delivery, cx: &mut Context<'_>) {
        if delivery.durable {
            cx.store.push(Record::Acked(delivery.from, delivery.message.id));
        }
        if delivery.from != own {
            cx.settled.push(Finished { group: delivery.from, message: delivery.message.id, declined: false });
        } else if let Some(meter) = meter
            && delivery.metered
        {
            meter.release(1, delivery.message.size() as u64);
        }
    }

    /// Gives up what a share group gave and the client has not been sent, or, where `unacknowledged`,
    /// has not acknowledged; what stays is listed as kept [MQTT-4.8.2-5].
    pub fn give_back(
        &mut self,
        group: QueueId,
        unacknowledged: bool,
        cx: &mut Context<'_>,
    ) -> Vec<MessageId> {
        for delivery in self.queue.window_mut().take(|delivery| delivery.from == group) {
            unaccount(&delivery, cx);
        }
        let returned = self.inflight.withdraw(|slot| {
            slot.delivery.as_ref().is_some_and(|delivery| delivery.from == group)
                && !slot.moved
                && (!slot.sent || (unacknowledged && slot.qos() == QoS::AtLeastOnce))
        });
        for delivery in &returned {
            unaccount(delivery, cx);
        }
        let own = self.queue_id;
        let mut kept = Vec::new();
        for slot in self.inflight.iter_mut() {
            if let Some(delivery) = &mut slot.delivery
                && delivery.from == group
            {
                kept.push(delivery.message.id);
                if delivery.durable {
                    cx.store.push(Record::Acked(group, delivery.message.id));
                }
                (delivery.from, delivery.metered, delivery.durable) = (own, false, false);
            }
        }
        kept
    }

    /// The session ends: whatever it still holds of its own is dropped and counted.
    pub fn end(&mut self, reason: DropReason, cx: &mut Context<'_>) -> usize {
        let mut dropped = 0;
        while let Some(delivery) = self.queue.window_mut().pop() {
            unaccount(&delivery, cx);
            self.drop_delivery(&delivery, reason, cx);
            dropped += 1;
        }
        // What waits on disk goes with its queue. It may be less than nothing: what is yet to be forwarded makes up for it.
        let (messages, bytes) = self.queue.end(cx.paging);
        cx.stats.queued_messages.sub(messages as u64);
        cx.stats.queued_bytes.sub(bytes as u64);
        cx.stats.count_drop(reason, messages as u64);
        dropped += messages.max(0) as usize;
        for delivery in self.inflight.withdraw(|_| true) {
            unaccount(&delivery, cx);
            self.drop_delivery(&delivery, reason, cx);
            dropped += 1;
        }
        dropped
    }
}
