//! What a subscriber has received and not yet finished: which messages wait, which acknowledgement each is
//! owed, and what of it survives a lost connection. It knows no sockets and no clock.

use std::collections::{HashSet, VecDeque};

use super::wire::Received;
use crate::protocol::packet::{PacketId, PacketType, QoS};

/// Messages, and their payloads in bytes, past which the connection is not read: TCP then holds the broker
/// back.
const MAX_MESSAGES: usize = 1_000;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// An acknowledgement to send: PUBACK, PUBREC or PUBCOMP.
pub(super) type Owed = (PacketType, PacketId);

/// The messages of one subscriber over all its connections.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<Received>,
    /// Sum of the payloads in `waiting`.
    bytes: usize,
    /// The messages above QoS 0 that are being handled, in order.
    working: Vec<Working>,
    /// QoS 1 messages that were handled, but whose connection was gone by then: the server will send them
    /// once more.
    handled: HashSet<PacketId>,
    /// QoS 2 messages that were handled and whose PUBREL has not come.
    unreleased: HashSet<PacketId>,
}

#[derive(Debug)]
struct Working {
    packet_id: PacketId,
    qos: QoS,
    /// This connection has delivered the message, so that it can be acknowledged on it.
    current: bool,
}

impl Inbox {
    /// Takes a PUBLISH. Returns what is owed for it at once, if it was handled before.
    pub(super) fn receive(&mut self, message: Received) -> Option<Owed> {
        if let Some(packet_id) = message.packet_id {
            let handled = self.handled.remove(&packet_id);
            if message.qos == QoS::AtLeastOnce && message.dup && handled {
                return Some((PacketType::PubAck, packet_id));
            }
            // Until PUBREL this identifier stands for the message that was handled [MQTT-4.3.3-10].
            if message.qos == QoS::ExactlyOnce && self.unreleased.contains(&packet_id) {
                return Some((PacketType::PubRec, packet_id));
            }
            let working = self.working.iter_mut().find(|working| working.packet_id == packet_id);
            if let Some(working) = working.filter(|working| !working.current) {
                working.current = true;
                return None;
            }
        }
        self.bytes += message.payload.len();
        self.waiting.push_back(message);
        None
    }

    /// Takes a PUBREL; PUBCOMP is owed for it. The server may release what an earlier process has handled.
    pub(super) fn release(&mut self, packet_id: PacketId) -> Owed {
        self.unreleased.remove(&packet_id);
        (PacketType::PubComp, packet_id)
    }

    /// Whether the connection should be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_MESSAGES && self.bytes < MAX_BYTES
    }

    /// Takes messages out to be handled: up to `limit` that `counts` counts, and those before and between.
    pub(super) fn take(&mut self, limit: usize, counts: impl Fn(&Received) -> bool) -> Vec<Received> {
        let mut taken = Vec::new();
        let mut counted = 0;
        while counted < limit
            && let Some(message) = self.waiting.pop_front()
        {
            self.bytes -= message.payload.len();
            counted += usize::from(counts(&message));
            let working = |packet_id| Working { packet_id, qos: message.qos, current: true };
            self.working.extend(message.packet_id.map(working));
            taken.push(message);
        }
        taken
    }

    /// All that was taken is handled. Returns what is owed for it, in the order of arrival [MQTT-4.6.0-2].
    pub(super) fn finish(&mut self) -> Vec<Owed> {
        let mut owed = Vec::new();
        for Working { packet_id, qos, current } in self.working.drain(..) {
            if qos == QoS::ExactlyOnce {
                self.unreleased.insert(packet_id);
            } else if !current {
                self.handled.insert(packet_id);
            }
            if current {
                let packet_type =
                    if qos == QoS::ExactlyOnce { PacketType::PubRec } else { PacketType::PubAck };
                owed.push((packet_type, packet_id));
            }
        }
        owed
    }

    /// The connection is gone: nothing can be acknowledged before the server has sent it again.
    pub(super) fn disconnected(&mut self) {
        self.working.iter_mut().for_each(|working| working.current = false);
    }

    /// There is a new connection. If the server has kept the session, it sends again what is not acknowledged;
    /// if not, what is here is all there is, and nothing is owed for it.
    pub(super) fn reconnected(&mut self, session_present: bool) {
        if session_present {
            self.waiting.retain(|message| message.packet_id.is_none());
            self.bytes = self.waiting.iter().map(|message| message.payload.len()).sum();
        } else {
            self.waiting.iter_mut().for_each(|message| message.packet_id = None);
            self.working.clear();
            self.handled.clear();
            self.unreleased.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    fn message(qos: QoS, packet_id: u16, dup: bool) -> Received {
        Received {
            topic: "t".to_owned(),
            payload: vec![0; 10].into(),
            qos,
            retain: false,
            dup,
            packet_id: PacketId::new(packet_id),
            properties: Vec::new(),
        }
    }

    fn take_all(inbox: &mut Inbox) -> Vec<u16> {
        let taken = inbox.take(usize::MAX, |_| true);
        taken.iter().map(|message| message.packet_id.map_or(0, u16::from)).collect()
    }

    #[test]
    fn nothing_is_owed_before_it_is_handled_and_then_in_order() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.receive(message(QoS::AtLeastOnce, 7, false)), None);
        assert_eq!(inbox.receive(message(QoS::AtMostOnce, 0, false)), None);
        assert_eq!(inbox.receive(message(QoS::ExactlyOnce, 3, false)), None);
        assert_eq!(take_all(&mut inbox), [7, 0, 3]);
        assert_eq!(inbox.finish(), [(PacketType::PubAck, id(7)), (PacketType::PubRec, id(3))]);
        assert_eq!(inbox.finish(), []);
    }

    #[test]
    fn qos_2_is_handled_once_until_it_is_released() {
        let mut inbox = Inbox::default();
        inbox.receive(message(QoS::ExactlyOnce, 3, false));
        take_all(&mut inbox);
        inbox.finish();
        inbox.disconnected();
        inbox.reconnected(true);
        let again = message(QoS::ExactlyOnce, 3, true);
        assert_eq!(inbox.receive(again.clone()), Some((PacketType::PubRec, id(3))));
        assert_eq!(inbox.release(id(3)), (PacketType::PubComp, id(3)));
        assert_eq!(inbox.receive(again), None);
        assert_eq!(take_all(&mut inbox), [3]);
    }

    #[test]
    fn what_was_handled_while_the_connection_was_away_is_not_handled_again() {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut inbox = Inbox::default();
            inbox.receive(message(qos, 5, false));
            take_all(&mut inbox);
            inbox.disconnected();
            assert_eq!(inbox.finish(), [], "nowhere to send it");
            inbox.reconnected(true);
            assert!(inbox.receive(message(qos, 5, true)).is_some());
            assert_eq!(take_all(&mut inbox), [0; 0]);
        }
    }

    #[test]
    fn what_is_still_being_handled_is_acknowledged_on_the_new_connection() {
        let mut inbox = Inbox::default();
        inbox.receive(message(QoS::AtLeastOnce, 5, false));
        inbox.receive(message(QoS::AtLeastOnce, 6, false));
        inbox.take(1, |_| true);
        inbox.disconnected();
        inbox.reconnected(true);
        assert_eq!(inbox.receive(message(QoS::AtLeastOnce, 5, true)), None);
        assert_eq!(inbox.receive(message(QoS::AtLeastOnce, 6, true)), None);
        assert_eq!(inbox.finish(), [(PacketType::PubAck, id(5))]);
        assert_eq!(take_all(&mut inbox), [6], "the one that waited came once more and waits once");
    }

    #[test]
    fn without_a_session_everything_is_kept_and_nothing_is_owed() {
        let mut inbox = Inbox::default();
        inbox.receive(message(QoS::AtLeastOnce, 5, false));
        inbox.receive(message(QoS::ExactlyOnce, 6, false));
        inbox.take(1, |_| true);
        inbox.disconnected();
        inbox.reconnected(false);
        // The new session uses the identifier for something else.
        assert_eq!(inbox.receive(message(QoS::AtLeastOnce, 5, false)), None);
        assert_eq!(inbox.finish(), []);
        assert_eq!(take_all(&mut inbox), [0, 5]);
        assert_eq!(inbox.finish(), [(PacketType::PubAck, id(5))]);
    }

    #[test]
    fn a_reused_identifier_is_a_new_message() {
        let mut inbox = Inbox::default();
        inbox.receive(message(QoS::AtLeastOnce, 5, false));
        take_all(&mut inbox);
        inbox.disconnected();
        inbox.finish();
        inbox.reconnected(true);
        assert_eq!(inbox.receive(message(QoS::AtLeastOnce, 5, false)), None);
        assert_eq!(take_all(&mut inbox), [5]);
    }

    #[test]
    fn uncounted_messages_come_along_without_using_up_the_limit() {
        let mut inbox = Inbox::default();
        for packet_id in [1, 2, 3, 4] {
            inbox.receive(message(QoS::AtLeastOnce, packet_id, packet_id < 3));
        }
        let taken = inbox.take(1, |message| !message.dup);
        assert_eq!(taken.len(), 3);
        assert_eq!(inbox.finish().len(), 3);
    }

    #[test]
    fn a_full_inbox_has_no_room_until_something_is_taken() {
        let mut inbox = Inbox::default();
        for _ in 0..MAX_MESSAGES {
            assert!(inbox.has_room());
            inbox.receive(message(QoS::AtMostOnce, 0, false));
        }
        assert!(!inbox.has_room());
        inbox.take(1, |_| true);
        assert!(inbox.has_room());
    }
}
