//! What waits for a session's client, in memory and on disk: how it comes in, what happens when there is no room, and how
//! what is on disk comes back.

use std::sync::Arc;
use std::time::Instant;

use super::backlog::{Errand, Needs};
use super::paging::PAGE;
use super::{Context, Delivery, Session, account, unaccount};
use crate::limits::Overflow;
use crate::message::{MessageId, PeerId, QueueId};
use crate::protocol::packet::QoS;
use crate::stats::DropReason;
use crate::store::restored::Waiting;
use crate::store::{Page, Record};
use crate::target::{Identifiers, Target};

impl Session {
    /// The same session; what is durable in its queue can be had from the disk again if `paged`.
    #[must_use]
    pub fn paged(mut self, paged: bool) -> Session {
        self.queue = super::backlog::Backlog::new(paged && self.persistent);
        self
    }

    /// The session had `waiting` on disk when the broker was started; who calls this counts them.
    pub fn restore_backlog(&mut self, waiting: Waiting, now: Instant) {
        self.queue.restore(waiting, now);
    }

    /// Whether a page may bring this delivery, now or later.
    pub(super) fn returns_by_pages(&self, delivery: &Delivery) -> bool {
        delivery.durable && delivery.from == self.queue_id && self.queue.is_paged()
    }

    /// A delivery is done with as it comes.
    pub(super) fn pass_by(&mut self, delivery: &Delivery) {
        if self.returns_by_pages(delivery) {
            self.queue.pass_by(delivery.message.id);
        }
    }

    /// The target of a message that is to be this session's alone.
    pub fn own_target(&self, home: PeerId, qos: QoS, identifiers: Identifiers) -> Option<Target> {
        let meter = self.meter.clone()?;
        let queue = self.queue_id;
        Some(Target { queue, home, qos, retain_as_published: true, identifiers, since: 0, meter })
    }

    /// What a share group gave at QoS 1 and the client has been sent stays with it though it is no member any more. Where
    /// the group has it on disk, it becomes a message of this session's own, with a number of its own: the group must not
    /// give it to anybody else. Which ones those were.
    pub fn adopt(&mut self, group: QueueId, cx: &mut Context<'_>) -> Vec<MessageId> {
        let mut adopted = Vec::new();
        let Some(target) = self.own_target(cx.ids.shard(), QoS::AtLeastOnce, Identifiers::default()) else {
            return adopted;
        };
        for slot in self.inflight.iter_mut().filter(|slot| slot.sent) {
            let Some(delivery) = &mut slot.delivery else { continue };
            if delivery.from != group || !delivery.durable || delivery.qos != QoS::AtLeastOnce {
                continue;
            }
            let given = delivery.message.id;
            delivery.message = Arc::new(delivery.message.copied(cx.ids.next_id()));
            let target = Target {
                identifiers: delivery.identifiers.clone(),
                retain_as_published: delivery.retain,
                ..target.clone()
            };
            (delivery.from, delivery.metered) = (target.queue, true);
            target.meter.hold(1, delivery.message.size() as u64);
            self.queue.hold(delivery.message.id);
            cx.store.push(Record::alone(&delivery.message, &[target]));
            cx.store.push(Record::Acked(group, given));
            adopted.push(given);
        }
        adopted
    }

    /// Records a message that a share group gave and has in memory alone, from before it had a persistent member: sent at
    /// QoS 2, its packet id must outlive this process. The number that it has on disk.
    pub(super) fn keep(&self, delivery: &Delivery, cx: &mut Context<'_>) -> MessageId {
        let message = Arc::new(delivery.message.copied(cx.ids.next_id()));
        if let Some(target) = self.own_target(cx.ids.shard(), delivery.qos, delivery.identifiers.clone()) {
            let target = Target { retain_as_published: delivery.retain, ..target };
            cx.store.push(Record::alone(&message, &[target]));
        }
        message.id
    }

    pub(super) fn enqueue(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        // What a group gave is bounded by the window that the group respects.
        if delivery.from == self.queue_id && !self.make_room(&delivery, cx) {
            return;
        }
        account(&delivery, cx);
        if !self.returns_by_pages(&delivery) {
            return self.queue.window_mut().push(delivery);
        }
        match self.queue.arrive(delivery, self.needs(cx), cx.paging) {
            Some(delivery) => self.queue.window_mut().push(delivery),
            None => self.refill(cx),
        }
    }

    /// Whether a delivery at QoS 0 has to wait for its turn, where the pace is bounded.
    pub(super) fn paces(&mut self, now: Instant) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.pace.is_some()) else { return false };
        link.open && (!self.queue.is_empty() || !link.is_in_pace(now))
    }

    /// At QoS 0 it waits in memory behind what waits there, within the bounds of a transient session's queue.
    pub(super) fn enqueue_at_most_once(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        let (messages, bytes) = self.queue.window().loose();
        let most = cx.limits.transient_queue_bytes.min(cx.outbound_limit);
        let fits = messages < cx.limits.transient_queue_messages && bytes + delivery.message.size() <= most;
        if !fits {
            return self.drop_delivery(&delivery, DropReason::Qos0SlowConsumer, cx);
        }
        account(&delivery, cx);
        self.queue.window_mut().push(delivery);
    }

    /// Applies the overflow policy; whether there is a place.
    fn make_room(&mut self, delivery: &Delivery, cx: &mut Context<'_>) -> bool {
        if self.fits(delivery, cx) {
            return true;
        }
        self.purge(cx);
        let overflow = self.meter.as_ref().map_or(Overflow::DropOldest, |meter| meter.overflow());
        while !self.fits(delivery, cx) {
            // What a share group gave is not this session's to drop: another member may take it.
            let own = self.queue_id;
            let oldest = match overflow {
                Overflow::DropOldest => self.queue.window_mut().pop_from(own),
                _ => None,
            };
            let Some(oldest) = oldest else {
                if overflow == Overflow::DropOldest && self.queue.is_behind() {
                    // The oldest is on disk: a page will tell which it is.
                    return true;
                }
                self.pass_by(delivery);
                self.drop_delivery(delivery, DropReason::OverflowNewest, cx);
                return false;
            };
            unaccount(&oldest, cx);
            self.drop_delivery(&oldest, DropReason::OverflowOldest, cx);
        }
        true
    }

    /// What the queue and what is under way hold: messages and bytes.
    fn held(&self) -> (u64, u64) {
        let under_way = self.inflight.iter().filter_map(|slot| slot.delivery.as_ref());
        let own = under_way.filter(|delivery| delivery.from == self.queue_id);
        let sum =
            |(messages, bytes), delivery: &Delivery| (messages + 1, bytes + delivery.message.size() as u64);
        own.fold(self.queue.places(), sum)
    }

    fn fits(&self, delivery: &Delivery, cx: &Context<'_>) -> bool {
        let limits = cx.limits;
        match &self.meter {
            None => {
                let (messages, bytes) = (limits.transient_queue_messages, limits.transient_queue_bytes);
                let bytes = cx.outbound_limit.min(bytes) as u64;
                self.queue.window().has_room(delivery.message.size(), messages as u64, bytes)
            }
            // The place was reserved by the publisher's shard, which refuses where the rule says so.
            Some(meter) if meter.overflow() == Overflow::Reject || !meter.is_over() => true,
            Some(meter) if meter.overflow() == Overflow::DropNewest => {
                meter.has_place(self.held(), delivery.message.size() as u64)
            }
            Some(_) => false,
        }
    }

    /// Drops what has expired in the queue.
    pub fn purge(&mut self, cx: &mut Context<'_>) {
        for expired in self.queue.window_mut().purge(cx.now) {
            unaccount(&expired, cx);
            self.drop_delivery(&expired, DropReason::Expired, cx);
        }
        if self.queue.purge(cx.now) {
            self.refill(cx);
        }
    }

    fn needs(&self, cx: &Context<'_>) -> Needs {
        Needs {
            taking: self.link.as_ref().is_some_and(|link| link.open),
            window: PAGE.min(cx.outbound_limit),
            over: self.has_excess(),
        }
    }

    /// Whether the oldest has to go.
    fn has_excess(&self) -> bool {
        let drops = |overflow| overflow == Overflow::DropOldest;
        self.meter.as_ref().is_some_and(|meter| drops(meter.overflow()) && meter.is_over())
    }

    /// Whether a page has brought one that is to be dropped as the newest.
    fn is_too_new(&self, delivery: &Delivery, cx: &Context<'_>) -> bool {
        let meter = self.meter.as_ref();
        meter.is_some_and(|meter| self.queue.is_too_new(delivery, meter, || self.held(), cx.paging))
    }

    /// Asks for a page if one is needed.
    pub(super) fn refill(&mut self, cx: &mut Context<'_>) {
        if !self.queue.is_behind() {
            return;
        }
        let (own, needs) = (self.queue_id, self.needs(cx));
        let under_way = self.inflight.iter().filter_map(|slot| slot.delivery.as_ref());
        let durable = under_way.filter(|delivery| delivery.durable && delivery.from == own);
        let held = durable.map(|delivery| delivery.message.id);
        self.queue.ask(own, needs, held, cx.store, cx.paging);
    }

    /// It waited for the budget of pages, and has its turn.
    pub fn called_up(&mut self, cx: &mut Context<'_>) {
        self.queue.called_up();
        self.refill(cx);
    }

    /// A page has come.
    pub fn take_page(&mut self, page: Page, cx: &mut Context<'_>) {
        let Some(errand) = self.queue.open_page(&page, cx.paging) else { return };
        for entry in page.entries {
            let Some(delivery) = self.queue.read(entry, self.queue_id) else { continue };
            let reason = if delivery.message.is_expired(cx.now) {
                Some(DropReason::Expired)
            } else if errand != Errand::Purge && self.has_excess() {
                Some(DropReason::OverflowOldest)
            } else {
                let refused = errand == Errand::Fill && self.is_too_new(&delivery, cx);
                refused.then_some(DropReason::OverflowNewest)
            };
            if let Some(reason) = reason {
                self.queue.take_in(&delivery, cx.paging);
                unaccount(&delivery, cx);
                self.drop_delivery(&delivery, reason, cx);
            } else if errand == Errand::Fill {
                self.queue.take_in(&delivery, cx.paging);
                self.queue.window_mut().push(delivery);
            } else {
                self.queue.leave(&delivery);
            }
        }
        self.queue.close_page(page.after, page.last, cx.paging);
        self.pump(cx);
        self.refill(cx);
    }

    /// The connection is gone, and what groups gave is back with them: what is on disk need not be in memory too.
    pub fn release_window(&mut self, cx: &mut Context<'_>) {
        // At QoS 0 nothing was promised to one who is not there.
        for delivery in self.queue.window_mut().take(|delivery| delivery.qos == QoS::AtMostOnce) {
            unaccount(&delivery, cx);
            self.drop_delivery(&delivery, DropReason::Qos0SlowConsumer, cx);
        }
        self.queue.release(self.queue_id, cx.paging);
        self.refill(cx);
    }
}
