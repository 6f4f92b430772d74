//! What is under way to a client: QoS 1 and 2 deliveries with a packet id, in the order they were
//! bound, acknowledged in any order. Entries before the cursor were written to this connection;
//! those behind it wait for the disk or, after a reconnect, for their turn to be sent again.

use std::collections::VecDeque;

use super::Delivery;
use crate::protocol::packet::{PacketId, QoS};
use crate::store::Ticket;

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// PUBLISH sent or about to be; waits for PUBACK or PUBREC.
    Published,
    /// PUBREC received; waits for PUBCOMP.
    Released,
    /// Finished; the slot goes when it reaches the front.
    Done,
}

/// One delivery under way.
#[derive(Debug)]
pub struct Slot {
    /// Its packet id.
    pub packet_id: PacketId,
    /// How far it has come.
    pub step: Step,
    /// It may leave, or its PUBREL may, when this is durable.
    pub ticket: Ticket,
    /// The PUBLISH left once, on this connection or an earlier one: a repeat carries DUP.
    pub sent: bool,
    /// Its reference on disk has left its queue: the session keeps it until it is complete.
    pub moved: bool,
    /// What is delivered; gone once only PUBREL is left to say.
    pub delivery: Option<Delivery>,
}

/// What was to be acknowledged at QoS 1 was sent at QoS 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtExactlyOnce;

/// The deliveries under way to one session.
#[derive(Debug)]
pub struct Inflight {
    slots: VecDeque<Slot>,
    /// Slots that are not `Done`. These three are no wider than they must be: sessions that are idle have them, too.
    live: u32,
    /// How many slots from the front have been written to this connection.
    cursor: u32,
    /// Slots before the cursor that are not `Done`.
    outstanding: u32,
    next_id: PacketId,
    /// Whether the slots' ids rise from the front on, so that they can be searched by halves.
    ordered: bool,
}

impl Default for Inflight {
    fn default() -> Inflight {
        Inflight {
            slots: VecDeque::new(),
            live: 0,
            cursor: 0,
            outstanding: 0,
            next_id: PacketId::MIN,
            ordered: true,
        }
    }
}

impl Inflight {
    /// How many deliveries hold a packet id.
    pub fn len(&self) -> usize {
        self.live as usize
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    fn cursor(&self) -> usize {
        self.cursor as usize
    }

    /// Whether everything bound has been written to this connection.
    pub fn all_written(&self) -> bool {
        self.cursor() == self.slots.len()
    }

    /// How many of those written to this connection are unfinished: what counts against the client's
    /// Receive Maximum.
    pub fn outstanding(&self) -> usize {
        self.outstanding as usize
    }

    /// Binds a delivery to the next free packet id, at the back and not yet written.
    ///
    /// The caller keeps `len` below 65,535, so an id is free. A freed id is the last to be given again.
    pub fn bind(&mut self, delivery: Delivery, ticket: Ticket) -> PacketId {
        debug_assert!(self.live < u32::from(u16::MAX));
        let packet_id = self.free_id();
        self.slots.push_back(Slot {
            packet_id,
            step: Step::Published,
            ticket,
            sent: false,
            moved: false,
            delivery: Some(delivery),
        });
        self.live += 1;
        packet_id
    }

    /// Takes up a delivery that an earlier process had bound to `packet_id`, behind those before it; without one, only
    /// PUBREL is left to say. Its id, like theirs, is not given again before it is free.
    pub fn restore(&mut self, packet_id: PacketId, delivery: Option<Delivery>) {
        if let (Some(front), Some(back)) = (self.slots.front(), self.slots.back()) {
            let at = |id| distance(front.packet_id, id);
            self.ordered &= at(back.packet_id) < at(packet_id);
        }
        let step = if delivery.is_some() { Step::Published } else { Step::Released };
        self.slots.push_back(Slot { packet_id, step, ticket: Ticket(0), sent: true, moved: true, delivery });
        self.live += 1;
        self.next_id = following(packet_id);
    }

    /// The slot that the last [`Inflight::bind`] made.
    pub fn last_bound(&mut self) -> Option<&mut Slot> {
        self.slots.back_mut()
    }

    /// Binds a delivery that its caller writes at once; everything before it has been written.
    pub fn bind_written(&mut self, delivery: Delivery) -> PacketId {
        debug_assert!(self.all_written());
        let packet_id = self.bind(delivery, Ticket(0));
        if let Some(slot) = self.slots.back_mut() {
            slot.sent = true;
        }
        self.cursor = self.slots.len() as u32;
        self.outstanding += 1;
        packet_id
    }

    /// The next id to give [MQTT-2.2.1-4]: ids rotate, so the slots' ids rise from the front on. Only
    /// when a client holds one for a whole turn of the counter does the order break; then any may be held.
    fn free_id(&mut self) -> PacketId {
        while !self.ordered || self.in_range(self.next_id) {
            self.ordered = false;
            if self.position(self.next_id).is_none() {
                break;
            }
            self.next_id = following(self.next_id);
        }
        let id = self.next_id;
        self.next_id = following(id);
        id
    }

    /// Whether `id` lies between the oldest and the newest id held.
    fn in_range(&self, id: PacketId) -> bool {
        let (Some(front), Some(back)) = (self.slots.front(), self.slots.back()) else { return false };
        distance(front.packet_id, id) <= distance(front.packet_id, back.packet_id)
    }

    /// The unfinished slot with this id.
    fn position(&self, id: PacketId) -> Option<usize> {
        if !self.ordered {
            return self.slots.iter().position(|slot| slot.packet_id == id && slot.step != Step::Done);
        }
        let base = self.slots.front()?.packet_id;
        let target = distance(base, id);
        // Ids that are given in turn are as far apart as their slots, but for what was finished between them.
        let mut index = usize::from(target);
        if self.slots.get(index).is_none_or(|slot| slot.packet_id != id) {
            index = self.slots.partition_point(|slot| distance(base, slot.packet_id) < target);
        }
        let slot = self.slots.get(index)?;
        (slot.packet_id == id && slot.step != Step::Done).then_some(index)
    }

    /// The unfinished slot with this id, if it was ever sent: a client can't acknowledge what it has
    /// not seen.
    pub fn get_sent(&mut self, id: PacketId) -> Option<&mut Slot> {
        let index = self.position(id)?;
        self.slots.get_mut(index).filter(|slot| slot.sent)
    }

    /// Whether this connection has been told of the delivery with this id.
    pub fn is_written(&self, id: PacketId) -> bool {
        self.position(id).is_some_and(|index| index < self.cursor())
    }

    /// Ends the delivery with this id and frees the id; its slot's delivery is given back.
    pub fn finish(&mut self, id: PacketId) -> Option<Delivery> {
        let index = self.position(id)?;
        self.finish_at(index)
    }

    /// Ends the QoS 1 delivery with this id, if it was ever sent, and gives it back.
    ///
    /// # Errors
    /// It was sent at QoS 2, and nothing has changed.
    pub fn acknowledge(&mut self, id: PacketId) -> Result<Option<Delivery>, AtExactlyOnce> {
        let Some(index) = self.position(id) else { return Ok(None) };
        let slot = &self.slots[index];
        if !slot.sent {
            return Ok(None);
        }
        if slot.qos() != QoS::AtLeastOnce {
            return Err(AtExactlyOnce);
        }
        Ok(self.finish_at(index))
    }

    fn finish_at(&mut self, index: usize) -> Option<Delivery> {
        self.live -= 1;
        if index < self.cursor() {
            self.outstanding -= 1;
        }
        let delivery = if index == 0 {
            self.cursor = self.cursor.saturating_sub(1);
            self.slots.pop_front()?.delivery
        } else {
            let slot = &mut self.slots[index];
            slot.step = Step::Done;
            slot.delivery.take()
        };
        self.trim();
        delivery
    }

    /// Drops finished slots from the front, and everywhere once they are most of what is held.
    fn trim(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.step == Step::Done) {
            self.slots.pop_front();
            self.cursor = self.cursor.saturating_sub(1);
        }
        self.ordered |= self.slots.is_empty();
        if self.slots.len() > 64 && self.slots.len() > 2 * self.len() {
            self.compact();
        }
    }

    /// The next slot that this connection has not been told of, if it is durable.
    pub fn next_unwritten(&mut self, durable: Ticket) -> Option<&mut Slot> {
        while self.slots.get(self.cursor()).is_some_and(|slot| slot.step == Step::Done) {
            self.cursor += 1;
        }
        self.slots.get_mut(self.cursor as usize).filter(|slot| slot.ticket <= durable)
    }

    /// What the next slot that this connection has not been told of waits for.
    pub fn awaits(&self, durable: Ticket) -> Option<Ticket> {
        let next = self.slots.range(self.cursor()..).find(|slot| slot.step != Step::Done)?;
        Some(next.ticket).filter(|ticket| *ticket > durable)
    }

    /// The slot that [`Inflight::next_unwritten`] gave has been written.
    pub fn written(&mut self) {
        if let Some(slot) = self.slots.get_mut(self.cursor as usize) {
            slot.sent = true;
            self.cursor += 1;
            self.outstanding += 1;
        }
    }

    /// The slot that [`Inflight::next_unwritten`] gave will never be sent: it is finished instead.
    pub fn skip_unwritten(&mut self) -> Option<Delivery> {
        self.finish_at(self.cursor())
    }

    /// The slot that [`Inflight::next_unwritten`] gave will not be sent again: its PUBREL is, once `ticket` is durable.
    pub fn release_unwritten(&mut self, ticket: Ticket) -> Option<Delivery> {
        let slot = self.slots.get_mut(self.cursor as usize)?;
        (slot.step, slot.ticket) = (Step::Released, ticket);
        slot.delivery.take()
    }

    /// A new connection: everything unfinished is to be sent again, in the original order
    /// [MQTT-4.4.0-1].
    pub fn rewind(&mut self) {
        self.slots.retain(|slot| slot.step != Step::Done);
        self.cursor = 0;
        self.outstanding = 0;
    }

    fn compact(&mut self) {
        self.cursor = self.slots.range(..self.cursor()).filter(|slot| slot.step != Step::Done).count() as u32;
        self.outstanding = self.cursor;
        self.slots.retain(|slot| slot.step != Step::Done);
    }

    /// Takes out the deliveries that `leave` picks among those not yet past their PUBREC.
    pub fn withdraw(&mut self, leave: impl Fn(&Slot) -> bool) -> Vec<Delivery> {
        let mut out = Vec::new();
        for slot in &mut self.slots {
            if slot.step == Step::Published && leave(slot) {
                slot.step = Step::Done;
                self.live -= 1;
                out.extend(slot.delivery.take());
            }
        }
        self.compact();
        out
    }

    /// Every unfinished slot, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.step != Step::Done)
    }

    /// Every unfinished slot, oldest first, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.step != Step::Done)
    }
}

impl Slot {
    /// The QoS it is delivered at; what is past its PUBREC was QoS 2.
    pub fn qos(&self) -> QoS {
        self.delivery.as_ref().map_or(QoS::ExactlyOnce, |delivery| delivery.qos)
    }
}

fn following(id: PacketId) -> PacketId {
    id.checked_add(1).unwrap_or(PacketId::MIN)
}

/// How many ids `to` comes after `from` on the ring of 1..=65,535.
fn distance(from: PacketId, to: PacketId) -> u16 {
    let (from, to) = (from.get(), to.get());
    if to >= from { to - from } else { u16::MAX - from + to }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::message::{Message, MessageId, MessageParts, QueueId};
    use crate::target::Identifiers;

    fn delivery(id: u64) -> Delivery {
        let message = Message::new(MessageParts {
            id: MessageId(id),
            publisher: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires: None,
            version: 0,
            topic: "t",
            properties: &[],
            payload: &[],
        });
        Delivery {
            message: Arc::new(message),
            from: QueueId(1),
            identifiers: Identifiers::default(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            metered: false,
            durable: false,
        }
    }

    fn id(n: u16) -> PacketId {
        PacketId::new(n).expect("not zero")
    }

    #[test]
    fn ids_rotate_and_skip_what_is_held() {
        let mut inflight = Inflight::default();
        let held = inflight.bind_written(delivery(0));
        assert_eq!(held, id(1));
        for turn in 0..140_000_u64 {
            let expected = turn % 65_534 + 2;
            let given = inflight.bind_written(delivery(turn));
            assert_eq!(u64::from(given.get()), expected, "a freed id is the last to be given again");
            assert!(inflight.finish(given).is_some());
            assert!(inflight.slots.len() <= 80, "finished slots do not pile up");
        }
        assert!(inflight.finish(held).is_some());
        assert!(inflight.is_empty() && inflight.slots.is_empty());
    }

    #[test]
    fn two_ids_held_for_a_whole_turn_are_not_given_again() {
        let mut inflight = Inflight::default();
        let held: Vec<PacketId> = (0..3).map(|n| inflight.bind_written(delivery(n))).collect();
        assert!(inflight.finish(held[1]).is_some());
        for turn in 3..140_000_u64 {
            let given = inflight.bind_written(delivery(turn));
            assert!(given != held[0] && given != held[2]);
            assert!(inflight.finish(given).is_some());
        }
    }

    #[test]
    fn acknowledgements_in_any_order_against_a_map() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut inflight, mut model) = (Inflight::default(), BTreeMap::new());
            for step in 0..2_000_u64 {
                if random.bool() && model.len() < 40 {
                    let given = inflight.bind_written(delivery(step));
                    assert!(model.insert(given, step).is_none(), "seed {seed}: an id that is held was given");
                } else if let Some(chosen) = random.choice(model.keys().copied().collect::<Vec<_>>()) {
                    let finished = inflight.finish(chosen).expect("held");
                    assert_eq!(Some(finished.message.id.0), model.remove(&chosen), "seed {seed}");
                    assert!(inflight.finish(chosen).is_none());
                }
                assert_eq!(inflight.len(), model.len());
                assert_eq!(inflight.outstanding(), model.len());
            }
        }
    }

    #[test]
    fn ids_that_an_earlier_process_gave_are_reserved() {
        let mut inflight = Inflight::default();
        for (packet_id, held) in [(65_534, true), (2, false), (1, true), (4, true)] {
            inflight.restore(id(packet_id), held.then(|| delivery(packet_id.into())));
        }
        inflight.rewind();
        let given: Vec<u16> = (0..3).map(|n| inflight.bind(delivery(n), Ticket(0)).get()).collect();
        assert_eq!(given, [5, 6, 7]);
        assert_eq!(inflight.get_sent(id(2)).map(|slot| slot.step), Some(Step::Released));
        assert_eq!(inflight.finish(id(1)).map(|delivery| delivery.message.id), Some(MessageId(1)));
        assert_eq!(inflight.len(), 6);
        inflight.next_id = id(65_533);
        let given: Vec<u16> = (0..3).map(|n| inflight.bind(delivery(n), Ticket(0)).get()).collect();
        assert_eq!(given, [65_533, 65_535, 1], "of the held ones none");
    }

    #[test]
    fn a_new_connection_is_told_everything_again_in_order() {
        let mut inflight = Inflight::default();
        let ids: Vec<PacketId> = (0..5).map(|n| inflight.bind_written(delivery(n))).collect();
        assert!(inflight.finish(ids[1]).is_some());
        inflight.rewind();
        assert_eq!(inflight.outstanding(), 0);
        let mut told = Vec::new();
        while let Some(slot) = inflight.next_unwritten(Ticket(0)) {
            assert!(slot.sent, "a repeat");
            told.push(slot.packet_id);
            inflight.written();
        }
        assert_eq!(told, [ids[0], ids[2], ids[3], ids[4]]);
        assert_eq!(inflight.outstanding(), 4);
    }

    #[test]
    fn what_waits_for_the_disk_holds_back_what_is_behind_it() {
        let mut inflight = Inflight::default();
        inflight.bind(delivery(1), Ticket(5));
        inflight.bind(delivery(2), Ticket(0));
        assert!(inflight.next_unwritten(Ticket(4)).is_none());
        assert_eq!(inflight.next_unwritten(Ticket(5)).map(|slot| slot.packet_id), Some(id(1)));
        inflight.written();
        assert_eq!(inflight.next_unwritten(Ticket(5)).map(|slot| slot.packet_id), Some(id(2)));
        // The client can't acknowledge what it has not been sent.
        assert!(inflight.get_sent(id(2)).is_none());
    }

    #[test]
    fn withdrawn_deliveries_leave_the_others_in_place() {
        let mut inflight = Inflight::default();
        for n in 0..6 {
            inflight.bind_written(delivery(n));
        }
        inflight.bind(delivery(6), Ticket(9));
        let out = inflight.withdraw(|slot| slot.packet_id.get() % 2 == 1);
        assert_eq!(out.iter().map(|delivery| delivery.message.id.0).collect::<Vec<_>>(), [0, 2, 4, 6]);
        assert_eq!(inflight.iter().map(|slot| slot.packet_id.get()).collect::<Vec<_>>(), [2, 4, 6]);
        assert!(inflight.all_written());
        assert_eq!(inflight.outstanding(), 3);
    }
}
