//! A share group at its home: a queue with members. A message is bound to a member only when it is
//! given to one, within that member's window; it comes back to the head when the member goes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::guard::UNDECIDED;
use super::outbox::{Item, Join};
use super::roster::{Member, Roster};
use super::shared::Shared;
use crate::acl::{Acl, Current, Owner};
use crate::flow::registry::Pace;
use crate::limits::{Limits, Overflow, QueueRule, ShareRule};
use crate::message::{Message, MessageId, PeerId, QueueId};
use crate::meter::QueueMeter;
use crate::protocol::packet::QoS;
use crate::session::Delivery;
use crate::session::backlog::{Backlog, Errand, Needs};
use crate::session::paging::{PAGE, Paging};
use crate::stats::{DropReason, Stats};
use crate::store::restored::Waiting;
use crate::store::{Page, Record, Store};
use crate::target::Identifiers;

/// How far behind the head a message may be given, where its strategy names the one member who may
/// have it and the head waits for another.
const LOOK_AHEAD: usize = 256;

/// A share group.
#[derive(Debug)]
pub struct Group {
    queue_id: QueueId,
    name: Box<str>,
    filter: Box<str>,
    meter: Arc<QueueMeter>,
    queue: Backlog,
    roster: Roster,
    /// How fast it gives messages out, if that is bounded.
    pub pace: Option<Box<Pace>>,
    /// Its last member has left. Others that left before may still say so, over slower lanes, and give back what they
    /// hold: until then it is not over.
    deserted: bool,
}

/// What a group is made with.
pub struct GroupSettings<'a> {
    /// Its queue.
    pub queue: QueueId,
    /// Its name, the NAME of `$share/NAME/FILTER`.
    pub name: &'a str,
    /// Its plain filter.
    pub filter: &'a str,
    /// What its queue holds against its limits.
    pub meter: Arc<QueueMeter>,
    /// Whether what is durable in its queue can be had from the disk again.
    pub paged: bool,
    /// How fast it gives messages out, if that is bounded.
    pub pace: Option<Box<Pace>>,
}

/// How a group tells a peer something.
pub type Give<'a> = &'a mut dyn FnMut(PeerId, Item);

/// What a group needs for one step.
pub struct GroupContext<'a> {
    /// The time of this turn.
    pub now: Instant,
    /// Where records go.
    pub store: &'a mut dyn Store,
    /// The budget of pages.
    pub paging: &'a mut Paging,
    /// The broker's limits.
    pub limits: &'a Limits,
    /// How many bytes may wait in memory for one taker at present.
    pub outbound_limit: usize,
    /// The shard's counters.
    pub stats: &'a Stats,
    /// The shard's randomness.
    pub random: &'a mut fastrand::Rng,
    /// What clients may read.
    pub rules: &'a Current,
    /// What all shards share.
    pub shared: &'a Shared,
}

impl Group {
    /// A group without members, which picks them as the rules say.
    pub fn new(settings: GroupSettings<'_>, rules: &[ShareRule]) -> Group {
        let GroupSettings { queue, name, filter, meter, paged, pace } = settings;
        Group {
            queue_id: queue,
            roster: Roster::new(ShareRule::strategy(rules, name)),
            name: name.into(),
            filter: filter.into(),
            meter,
            queue: Backlog::new(paged),
            pace,
            deserted: false,
        }
    }

    /// Its `$share/NAME/…`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on it picks members and is bounded as these rules say. What was given stays with whom it was given.
    pub fn reconfigure(&mut self, shares: &[ShareRule], queues: &[QueueRule]) {
        self.roster.set_strategy(ShareRule::strategy(shares, &self.name));
        self.meter.bind(queues, [&*self.filter]);
    }

    /// The group had `waiting` on disk when the broker was started; who calls this counts them.
    pub fn restore_backlog(&mut self, waiting: Waiting, now: Instant) {
        self.queue.restore(waiting, now);
    }

    /// How many messages wait for a member.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Those of them that are in memory.
    pub fn in_memory(&self) -> usize {
        self.queue.window().len()
    }

    /// The bytes of memory that its members' pace is to blame for.
    pub fn buffered(&self) -> usize {
        if self.queue.is_paged() { self.queue.window().bytes() } else { 0 }
    }

    /// How many messages count against its limits: those that wait, are given, or are on their way here.
    pub fn reserved(&self) -> u64 {
        self.meter.messages()
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.roster.members.len()
    }

    /// A message for the group; `durable` if it is on disk for it. At QoS 0 it goes to a member at once or nowhere, unless
    /// the group's pace is bounded.
    pub fn offer(
        &mut self,
        message: &Arc<Message>,
        durable: bool,
        cx: &mut GroupContext<'_>,
        give: Give<'_>,
    ) {
        let durable = durable && message.qos > QoS::AtMostOnce;
        let delivery = Delivery {
            message: message.clone(),
            from: self.queue_id,
            identifiers: Identifiers::default(),
            qos: message.qos,
            retain: message.retain,
            dup: false,
            metered: durable,
            durable,
        };
        // Where the pace is bounded it waits for its turn like the others, in memory.
        if message.qos == QoS::AtMostOnce && (self.pace.is_none() || !self.roster.is_online()) {
            let may = |member: &Member| member.may_read(message, cx.rules);
            match self.roster.choose(&delivery, cx.random, false, may) {
                Some(index) => self.give(index, delivery, cx, give),
                None if self.is_for_nobody(&delivery, cx) => cx.stats.count_drop(DropReason::Revoked, 1),
                None => cx.stats.count_drop(DropReason::Qos0SlowConsumer, 1),
            }
            return;
        }
        let returns_by_pages = durable && self.queue.is_paged();
        if returns_by_pages && self.queue.came_early(&delivery) {
            return account(&delivery, cx.stats);
        }
        if durable && !self.make_room(&delivery, cx) {
            return;
        }
        account(&delivery, cx.stats);
        let delivery = match returns_by_pages {
            true => self.queue.arrive(delivery, self.needs(cx), cx.paging),
            false => Some(delivery),
        };
        if let Some(delivery) = delivery {
            self.queue.window_mut().push(delivery);
        }
        self.pump(cx, give);
        self.bound_memory(cx);
    }

    /// What is in memory alone is bounded like the queue of a transient session: the oldest goes.
    fn bound_memory(&mut self, cx: &mut GroupContext<'_>) {
        let max_bytes = cx.limits.transient_queue_bytes.min(cx.outbound_limit);
        loop {
            let (messages, bytes) = self.queue.window().loose();
            if messages <= cx.limits.transient_queue_messages && (bytes <= max_bytes || messages <= 1) {
                return;
            }
            let Some(oldest) = self.queue.window_mut().pop_loose() else { return };
            self.drop_queued(&oldest, DropReason::OverflowOldest, cx);
        }
    }

    /// Drops what has expired in the queue.
    pub fn purge(&mut self, cx: &mut GroupContext<'_>) {
        for expired in self.queue.window_mut().purge(cx.now) {
            self.drop_queued(&expired, DropReason::Expired, cx);
        }
        if self.queue.purge(cx.now) {
            self.refill(cx);
        }
    }

    /// What the queue and the members hold: messages and bytes.
    fn held(&self) -> (u64, u64) {
        let sum =
            |(messages, bytes), delivery: &Delivery| (messages + 1, bytes + delivery.message.size() as u64);
        self.roster.given().fold(self.queue.places(), sum)
    }

    /// Applies the overflow policy; whether there is a place.
    fn make_room(&mut self, delivery: &Delivery, cx: &mut GroupContext<'_>) -> bool {
        // The place was reserved by the publisher's shard, which refuses where the rule says so.
        let overflow = self.meter.overflow();
        if overflow == Overflow::Reject || !self.meter.is_over() {
            return true;
        }
        self.purge(cx);
        if overflow == Overflow::DropNewest
            && self.meter.has_place(self.held(), delivery.message.size() as u64)
        {
            return true;
        }
        while self.meter.is_over() {
            let oldest = match overflow {
                Overflow::DropOldest => self.queue.window_mut().pop_durable(),
                _ => None,
            };
            let Some(oldest) = oldest else {
                if overflow == Overflow::DropOldest && self.queue.is_behind() {
                    // The oldest is on disk: a page will tell which it is.
                    return true;
                }
                self.queue.pass_by(delivery.message.id);
                cx.stats.count_drop(DropReason::OverflowNewest, 1);
                self.forget(delivery, cx);
                return false;
            };
            self.drop_queued(&oldest, DropReason::OverflowOldest, cx);
        }
        true
    }

    /// Gives out what waits, as far as the members' windows let it, and asks for more.
    pub fn pump(&mut self, cx: &mut GroupContext<'_>, give: Give<'_>) {
        self.give_out(cx, give);
        self.refill(cx);
    }

    fn give_out(&mut self, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let mut index = 0;
        while let Some(delivery) = self.queue.window().get(index) {
            if self.pace.as_deref_mut().is_some_and(|pace| !pace.is_open(cx.now)) {
                return;
            }
            if delivery.message.is_expired(cx.now) {
                if let Some(expired) = self.queue.window_mut().remove(index) {
                    self.drop_queued(&expired, DropReason::Expired, cx);
                }
                continue;
            }
            let may = |member: &Member| member.may_read(&delivery.message, cx.rules);
            let Some(member) = self.roster.choose(delivery, cx.random, true, may) else {
                if self.is_for_nobody(delivery, cx) {
                    if let Some(barred) = self.queue.window_mut().remove(index) {
                        self.drop_queued(&barred, DropReason::Revoked, cx);
                    }
                    continue;
                }
                // Only where a message is for one member, by the strategy or by its rights, can one behind it go first.
                let bound = self.roster.binds() || cx.rules.acl.is_some();
                if !bound || index + 1 >= LOOK_AHEAD || !self.roster.any_room() {
                    return;
                }
                index += 1;
                continue;
            };
            if let Some(delivery) = self.queue.window_mut().remove(index) {
                unaccount(&delivery, cx.stats);
                if let Some(pace) = &mut self.pace {
                    pace.take(cx.now, delivery.message.size());
                }
                self.give(member, delivery, cx, give);
            }
        }
    }

    /// Whether no member may read it, here or still on its way here.
    fn is_for_nobody(&self, delivery: &Delivery, cx: &GroupContext<'_>) -> bool {
        let members = &self.roster.members;
        let message = &delivery.message;
        cx.rules.acl.is_some()
            && !members.is_empty()
            && !members.iter().any(|member| member.may_read(message, cx.rules))
            && !cx.shared.interest().group_reads(&self.filter, &self.name, message.topic())
    }

    /// Other rules hold: what its members may have is to be asked anew.
    pub fn rules_changed(&mut self, cx: &mut GroupContext<'_>, give: Give<'_>) {
        for member in &mut self.roster.members {
            member.reads_all = reads_all(member.owner.as_deref(), &self.filter, cx.rules);
        }
        self.pump(cx, give);
    }

    fn needs(&self, cx: &GroupContext<'_>) -> Needs {
        Needs {
            taking: self.roster.is_online(),
            window: PAGE.min(cx.outbound_limit),
            over: self.has_excess(),
        }
    }

    /// Whether the oldest has to go.
    fn has_excess(&self) -> bool {
        self.meter.overflow() == Overflow::DropOldest && self.meter.is_over()
    }

    /// Asks for a page if one is needed.
    fn refill(&mut self, cx: &mut GroupContext<'_>) {
        if self.queue.is_behind() {
            let needs = self.needs(cx);
            let durable = self.roster.given().filter(|delivery| delivery.durable);
            let held = durable.map(|delivery| delivery.message.id);
            self.queue.ask(self.queue_id, needs, held, cx.store, cx.paging);
        }
    }

    /// It waited for the budget of pages, and has its turn.
    pub fn called_up(&mut self, cx: &mut GroupContext<'_>) {
        self.queue.called_up();
        self.refill(cx);
    }

    /// A page has come.
    pub fn take_page(&mut self, page: Page, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let Some(errand) = self.queue.open_page(&page, cx.paging) else { return };
        for entry in page.entries {
            let (qos, retain) = (entry.message.qos, entry.message.retain);
            let Some(delivery) = self.queue.read(entry, self.queue_id) else { continue };
            // On what terms it is delivered is decided with the member that gets it.
            let delivery = Delivery { qos, retain, identifiers: Identifiers::default(), ..delivery };
            let reason = if delivery.message.is_expired(cx.now) {
                Some(DropReason::Expired)
            } else if errand != Errand::Purge && self.has_excess() {
                Some(DropReason::OverflowOldest)
            } else {
                let refused = errand == Errand::Fill
                    && self.queue.is_too_new(&delivery, &self.meter, || self.held(), cx.paging);
                refused.then_some(DropReason::OverflowNewest)
            };
            if let Some(reason) = reason {
                self.queue.take_in(&delivery, cx.paging);
                self.drop_queued(&delivery, reason, cx);
            } else if errand == Errand::Fill {
                self.queue.take_in(&delivery, cx.paging);
                self.queue.window_mut().push(delivery);
            } else {
                self.queue.leave(&delivery);
            }
        }
        self.queue.close_page(page.after, page.last, cx.paging);
        self.pump(cx, give);
    }

    fn give(&mut self, index: usize, mut delivery: Delivery, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let member = &mut self.roster.members[index];
        let kept = delivery.clone();
        delivery.qos = delivery.qos.min(member.qos);
        delivery.retain &= member.retain_as_published;
        delivery.identifiers = member.identifiers.clone();
        delivery.durable &= delivery.qos > QoS::AtMostOnce;
        let at_most_once = delivery.qos == QoS::AtMostOnce;
        let (peer, session, token) = (member.peer, member.session, member.token);
        if !at_most_once {
            member.given.push_back(kept);
        } else if kept.qos > QoS::AtMostOnce {
            self.forget(&kept, cx);
        }
        give(peer, Item::Give { session, token, rules: cx.rules.version, delivery });
    }

    /// A member joins, comes back, or changes its terms.
    pub fn join(&mut self, join: Join, cx: &mut GroupContext<'_>, give: Give<'_>) {
        let identifiers = Identifiers::one(join.identifier);
        let member = Member {
            session: join.session,
            peer: join.peer,
            token: join.token,
            window: join.window,
            qos: join.qos,
            retain_as_published: join.retain_as_published,
            identifiers,
            reads_all: reads_all(join.owner.as_deref(), &self.filter, cx.rules),
            owner: join.owner,
            given: VecDeque::new(),
        };
        match self.roster.member(join.session) {
            Some(known) => {
                let given = std::mem::take(&mut known.given);
                *known = Member { given, ..member };
            }
            None => self.roster.members.push(member),
        }
        self.pump(cx, give);
    }

    /// A member is finished with a message.
    pub fn settled(
        &mut self,
        session: QueueId,
        message: MessageId,
        cx: &mut GroupContext<'_>,
        give: Give<'_>,
    ) {
        let Some(member) = self.roster.member(session) else { return };
        let Some(index) = member.given.iter().position(|delivery| delivery.message.id == message) else {
            return;
        };
        if let Some(delivery) = member.given.remove(index) {
            self.free(&delivery);
        }
        self.pump(cx, give);
    }

    /// A member may not read what it was given, by rules that had not come here yet.
    pub fn declined(
        &mut self,
        session: QueueId,
        message: MessageId,
        cx: &mut GroupContext<'_>,
        give: Give<'_>,
    ) {
        let Some(member) = self.roster.member(session) else { return };
        let index = member.given.iter().position(|delivery| delivery.message.id == message);
        if let Some(delivery) = index.and_then(|index| member.given.remove(index)) {
            account(&delivery, cx.stats);
            self.queue.window_mut().push_head(vec![delivery]);
        }
        self.pump(cx, give);
    }

    /// A member's connection is gone: what it was given and did not keep goes back to the head.
    pub fn back(&mut self, session: QueueId, kept: &[MessageId], cx: &mut GroupContext<'_>, give: Give<'_>) {
        let Some(member) = self.roster.member(session) else { return };
        member.window = 0;
        let given = std::mem::take(&mut member.given);
        self.take_back(given, kept, cx, give);
    }

    /// The last member has left, though the leaving of others may still be under way.
    pub fn desert(&mut self) {
        self.deserted = true;
    }

    /// Whether no member will ever come or go again.
    pub fn is_over(&self) -> bool {
        self.deserted && self.roster.members.is_empty()
    }

    /// A member is gone for good.
    pub fn leave(&mut self, session: QueueId, kept: &[MessageId], cx: &mut GroupContext<'_>, give: Give<'_>) {
        if let Some(member) = self.roster.remove(session) {
            self.take_back(member.given, kept, cx, give);
        }
    }

    fn take_back(
        &mut self,
        given: VecDeque<Delivery>,
        kept: &[MessageId],
        cx: &mut GroupContext<'_>,
        give: Give<'_>,
    ) {
        let mut returned = Vec::new();
        for mut delivery in given {
            if kept.contains(&delivery.message.id) {
                self.free(&delivery);
            } else {
                // [MQTT-3.3.1-1]: the client that went may have seen it.
                delivery.dup = true;
                account(&delivery, cx.stats);
                returned.push(delivery);
            }
        }
        self.queue.window_mut().push_head(returned);
        self.pump(cx, give);
        if !self.roster.is_online() {
            self.queue.release(self.queue_id, cx.paging);
            self.refill(cx);
        }
        self.bound_memory(cx);
    }

    /// The group ends: what still waits is dropped and counted.
    pub fn end(&mut self, cx: &mut GroupContext<'_>) -> usize {
        let mut dropped = 0;
        while let Some(delivery) = self.queue.window_mut().pop() {
            self.drop_queued(&delivery, DropReason::SessionEnded, cx);
            dropped += 1;
        }
        // What waits on disk goes with its queue. It may be less than nothing: what is yet to be forwarded makes up for it.
        let (messages, bytes) = self.queue.end(cx.paging);
        cx.stats.queued_messages.sub(messages as u64);
        cx.stats.queued_bytes.sub(bytes as u64);
        cx.stats.count_drop(DropReason::SessionEnded, messages as u64);
        dropped + messages.max(0) as usize
    }

    fn drop_queued(&self, delivery: &Delivery, reason: DropReason, cx: &mut GroupContext<'_>) {
        unaccount(delivery, cx.stats);
        cx.stats.count_drop(reason, 1);
        self.forget(delivery, cx);
    }

    /// A message has left the queue for good.
    fn forget(&self, delivery: &Delivery, cx: &mut GroupContext<'_>) {
        if delivery.durable {
            cx.store.push(Record::Acked(self.queue_id, delivery.message.id));
        }
        self.free(delivery);
    }

    /// Its place in the limits is free.
    fn free(&self, delivery: &Delivery) {
        if delivery.metered {
            self.meter.release(1, delivery.message.size() as u64);
        }
    }
}

/// The version of the rules, if by them a member may read all that its group can have for it.
fn reads_all(owner: Option<&Owner>, filter: &str, rules: &Current) -> u64 {
    let for_anybody = |acl: &Acl| acl.is_about_sys() && !filter.starts_with('$');
    let reads = |acl: &Arc<Acl>| owner.map_or(for_anybody(acl), |owner| acl.reads_all(owner.who(), filter));
    if rules.acl.as_ref().is_none_or(reads) { rules.version } else { UNDECIDED }
}

/// A message waits for a member.
fn account(delivery: &Delivery, stats: &Stats) {
    stats.queued_messages.add(1);
    stats.queued_bytes.add(delivery.message.size() as u64);
}

/// It does so no more.
fn unaccount(delivery: &Delivery, stats: &Stats) {
    stats.queued_messages.sub(1);
    stats.queued_bytes.sub(delivery.message.size() as u64);
}
