//! A record of any bytes is whole or none; one that is whole is written again as it was.

use std::sync::Arc;
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::message::PeerId;
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::QoS;
use weirmq::store::Record;
use weirmq::store::encode::Encoder;
use weirmq::store::record::{Stored, StoredMessage};
use weirmq::target::Target;
use weirmq::will::Will;

use super::WALL;

/// Reads a record through, if it is one, and writes it again.
pub fn decodes(bytes: &[u8]) {
    let Some(stored) = Stored::decode(bytes) else { return };
    let clock = Clock::new(Instant::now(), WALL);
    let mut again = Vec::new();
    if !encode(&stored, clock, &mut again) {
        return;
    }
    let second = Stored::decode(&again).expect("what is written is read");
    assert!(again.len() <= bytes.len(), "written longer than it was");
    assert!(are_same(&stored, &second), "{stored:?} became {second:?}");
    let mut third = Vec::new();
    assert!(encode(&second, clock, &mut third) && third == again);
    // What is cut short is none, unless all that is missing is the payload, which goes on to the end.
    let payload = match &second {
        Stored::Message(StoredMessage { body: Some(body), .. }) => body.payload.len(),
        _ => 0,
    };
    for len in (0..again.len() - payload).rev().take(8) {
        assert!(Stored::decode(&again[..len]).is_none());
    }
}

/// Writes it, unless it says what no store would.
fn encode(stored: &Stored<'_>, clock: Clock, out: &mut Vec<u8>) -> bool {
    let record = match *stored {
        Stored::Message(message) => return encode_message(&message, clock, out),
        Stored::Released(queue, packet_id) => Record::Released(queue, packet_id),
        Stored::Sent { session, packet_id, message, from } => {
            Record::Sent { session, packet_id, message, from }
        }
        Stored::Stepped(queue, packet_id) => Record::Stepped(queue, packet_id),
        Stored::Completed(queue, packet_id) => Record::Completed(queue, packet_id),
        Stored::Acked(queue, message) => Record::Acked(queue, message),
        Stored::Session(session) => {
            let will = session.will.map(Will::from_parts);
            let detached = session.detached.map(|wall| clock.instant(wall));
            if detached == Some(None) {
                return false;
            }
            let record = Record::Session {
                queue: session.queue,
                client_id: session.client_id,
                user: session.user,
                expiry: session.expiry,
                detached: detached.flatten(),
                will: will.as_ref(),
            };
            return Encoder::new(clock).encode(&record, out);
        }
        Stored::SessionEnded(queue) => Record::SessionEnded(queue),
        Stored::Subscribed(held) => Record::Subscribed {
            session: held.session,
            filter: held.filter,
            options: held.options,
            identifier: held.identifier,
            group: held.group,
            since: held.since,
            replay: held.replay,
        },
        Stored::Unsubscribed(queue, filter) => Record::Unsubscribed(queue, filter),
        Stored::Replayed { session, filter, topic } => Record::Replayed { session, filter, topic },
        Stored::GroupEnded(queue) => Record::GroupEnded(queue),
    };
    Encoder::new(clock).encode(&record, out)
}

fn encode_message(stored: &StoredMessage<'_>, clock: Clock, out: &mut Vec<u8>) -> bool {
    let queues: Vec<_> = stored.queues().collect();
    let entries: Vec<_> =
        queues.iter().map(|(queue, _)| stored.entry(*queue, &clock).expect("it goes there")).collect();
    let mut distinct: Vec<_> = queues.iter().map(|(queue, _)| queue).collect();
    distinct.sort_unstable();
    let is_doubled = distinct.windows(2).any(|pair| pair[0] == pair[1]);
    let is_odd = queues.iter().any(|(_, qos)| *qos == QoS::AtMostOnce || *qos > stored.qos);
    let Some(message) = stored.message(&clock) else { return false };
    let kept_expiry = message.expires.is_some() == stored.body.is_some_and(|body| body.expires.is_some());
    if is_doubled || is_odd || !kept_expiry || (queues.is_empty() && message.version == 0) {
        return false;
    }
    thread_local!(static METER: Arc<QueueMeter> = Arc::new(QueueMeter::new(&Default::default())));
    let meter = METER.with(Arc::clone);
    let target = |((queue, qos), entry): (&(_, _), &weirmq::store::PageEntry)| Target {
        queue: *queue,
        home: PeerId(0),
        qos: *qos,
        retain_as_published: entry.retain,
        identifiers: entry.identifiers.clone(),
        since: 0,
        meter: meter.clone(),
    };
    let targets: Vec<Target> = queues.iter().zip(&entries).map(target).collect();
    // The flag of a queue is that of the message, or it is not set.
    if entries.iter().any(|entry| entry.retain && !message.retain) {
        return false;
    }
    let message = Arc::new(message);
    let (received, will_of) = (stored.received, stored.will_of);
    Encoder::new(clock)
        .encode(&Record::Message { message: &message, queues: &targets, groups: &[], received, will_of }, out)
}

fn are_same(one: &Stored<'_>, other: &Stored<'_>) -> bool {
    match (one, other) {
        (Stored::Message(one), Stored::Message(other)) => {
            let body = |stored: &StoredMessage<'_>| {
                let body = stored.body.expect("it was written with one");
                let mut queues: Vec<_> = stored.queues().collect();
                queues.sort_unstable();
                let parts = (body.topic.to_owned(), body.properties.to_vec(), body.payload.to_vec());
                (body.publisher, body.expires, body.version, parts, queues)
            };
            let head = |stored: &StoredMessage<'_>| {
                (stored.id, stored.qos, stored.retain, stored.received, stored.will_of)
            };
            head(one) == head(other) && body(one) == body(other)
        }
        (Stored::Session(one), Stored::Session(other)) => {
            let head = (one.queue, one.client_id, one.user, one.expiry, one.detached);
            head == (other.queue, other.client_id, other.user, other.expiry, other.detached)
                && one.will == other.will
        }
        (Stored::Message(_) | Stored::Session(_), _) => false,
        // These borrow nothing but texts.
        _ => format!("{one:?}") == format!("{other:?}"),
    }
}
