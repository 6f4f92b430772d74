//! [`Encoder`]: a [`Record`] as the bytes that the journal keeps. Nothing is allocated per record.

use std::slice;
use std::time::Instant;

use super::Record;
use super::packed::{put_bytes, put_integer, put_number};
use super::record::{flag, kind, session_flag, subscribed_flag};
use super::targets::put_queues;
use crate::clock::Clock;
use crate::message::{Message, QueueId};
use crate::protocol::packet::{PacketId, QoS};
use crate::target::{GroupTarget, Target};
use crate::will::{Will, WillParts};

/// What a message's record says besides the message and where it goes.
#[derive(Clone, Copy, Debug)]
struct Aside<'a> {
    received: Option<(QueueId, PacketId)>,
    will_of: Option<QueueId>,
    replay_of: Option<(QueueId, &'a str)>,
}

/// Turns records into bytes.
#[derive(Debug)]
pub struct Encoder {
    clock: Clock,
    /// The queues of one message, with the terms they take it on: used again and again.
    kept: Vec<Kept>,
    /// What those are in the record: used again as well.
    targets: Vec<u8>,
}

/// A queue that a message's record names.
#[derive(Clone, Copy, Debug)]
struct Kept {
    queue: QueueId,
    /// QoS and RETAIN flag, as they stand in the record.
    head: u8,
    /// Which of the targets it is; [`GROUP`] for a share group, which is told no identifiers by its record.
    target: u32,
}

const GROUP: u32 = u32::MAX;

impl Encoder {
    /// One that writes moments as `clock` tells them.
    pub fn new(clock: Clock) -> Encoder {
        Encoder { clock, kept: Vec::new(), targets: Vec::new() }
    }

    /// Appends `record` to `out`; returns `false`, and appends nothing, where it says nothing that must last.
    pub fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
        match *record {
            Record::Message { message, queues, groups, received, will_of } => {
                let aside = Aside { received, will_of, replay_of: None };
                return self.put_message(message, queues, groups, aside, out);
            }
            Record::Copied { message, target, filter } => {
                let replay_of = Some((target.queue, filter));
                let aside = Aside { received: None, will_of: None, replay_of };
                return self.put_message(message, slice::from_ref(target), &[], aside, out);
            }
            Record::Released(queue, packet_id) => put_step(kind::RELEASED, queue, packet_id, out),
            Record::Stepped(queue, packet_id) => put_step(kind::STEPPED, queue, packet_id, out),
            Record::Completed(queue, packet_id) => put_step(kind::COMPLETED, queue, packet_id, out),
            Record::Sent { session, packet_id, message, from } => {
                put_step(kind::SENT, session, packet_id, out);
                put_number(message.0, out);
                put_number(from.0, out);
            }
            Record::Acked(queue, message) => {
                put_head(kind::ACKED, queue, out);
                put_number(message.0, out);
            }
            Record::Session { queue, client_id, user, expiry, detached, will } => {
                self.put_session((queue, client_id, user), expiry, detached, will, out);
            }
            Record::SessionEnded(queue) => put_head(kind::SESSION_ENDED, queue, out),
            Record::Subscribed { session, filter, options, identifier, group, since, replay } => {
                put_head(kind::SUBSCRIBED, session, out);
                let flags = if group.is_some() { subscribed_flag::GROUP } else { 0 }
                    | if replay { subscribed_flag::REPLAY } else { 0 };
                out.extend_from_slice(&[flags, options]);
                put_integer(identifier.into(), out);
                put_integer(since, out);
                if let Some(group) = group {
                    put_number(group.0, out);
                }
                put_bytes(filter.as_bytes(), out);
            }
            Record::Unsubscribed(session, filter) => {
                put_head(kind::UNSUBSCRIBED, session, out);
                put_bytes(filter.as_bytes(), out);
            }
            Record::Replayed { session, filter, topic } => {
                put_head(kind::REPLAYED, session, out);
                put_bytes(filter.as_bytes(), out);
                out.push(u8::from(topic.is_some()));
                put_bytes(topic.unwrap_or_default().as_bytes(), out);
            }
            Record::GroupEnded(queue) => put_head(kind::GROUP_ENDED, queue, out),
        }
        true
    }

    fn put_message(
        &mut self,
        message: &Message,
        queues: &[Target],
        groups: &[GroupTarget],
        Aside { received, will_of, replay_of }: Aside<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        self.keep(message, queues, groups);
        let has_body = message.version != 0 || !self.kept.is_empty();
        if !has_body && received.is_none() && will_of.is_none() {
            return false;
        }
        let mut flags = u16::from(message.qos as u8);
        let mut set = |bit, on: bool| flags |= if on { bit } else { 0 };
        set(flag::RETAIN, message.retain);
        set(flag::BODY, has_body);
        set(flag::PUBLISHER, has_body && message.publisher.is_some());
        set(flag::EXPIRES, has_body && message.expires.is_some());
        set(flag::VERSION, message.version != 0);
        set(flag::RECEIVED, received.is_some());
        set(flag::WILL, will_of.is_some());
        set(flag::REPLAY, has_body && replay_of.is_some());
        out.push(kind::MESSAGE);
        out.extend_from_slice(&flags.to_le_bytes());
        put_number(message.id.0, out);
        if let Some((session, packet_id)) = received {
            put_number(session.0, out);
            put_integer(packet_id.get().into(), out);
        }
        if let Some(session) = will_of {
            put_number(session.0, out);
        }
        if has_body {
            if let Some((session, filter)) = replay_of {
                put_number(session.0, out);
                put_bytes(filter.as_bytes(), out);
            }
            self.put_body(message, queues, out);
        }
        true
    }

    fn put_body(&mut self, message: &Message, queues: &[Target], out: &mut Vec<u8>) {
        if let Some(publisher) = message.publisher {
            put_number(publisher.queue.0, out);
            out.extend_from_slice(&publisher.client_hash.to_le_bytes());
        }
        if let Some(expires) = message.expires {
            put_integer(self.clock.wall(expires), out);
        }
        if message.version != 0 {
            put_integer(message.version, out);
        }
        self.put_targets(queues, out);
        put_bytes(message.topic_bytes(), out);
        put_bytes(message.properties(), out);
        out.extend_from_slice(message.payload());
    }

    /// Gathers who is to find the message on disk.
    fn keep(&mut self, message: &Message, queues: &[Target], groups: &[GroupTarget]) {
        self.kept.clear();
        if message.qos == QoS::AtMostOnce {
            return;
        }
        let by_replay = |since: u64| message.version != 0 && message.version <= since;
        for (index, target) in queues.iter().enumerate() {
            let qos = target.qos.min(message.qos);
            if qos > QoS::AtMostOnce && !by_replay(target.since) {
                let retain = message.retain && target.retain_as_published;
                let head = terms_head(qos, retain);
                self.kept.push(Kept { queue: target.queue, head, target: index as u32 });
            }
        }
        let head = terms_head(message.qos, message.retain);
        for group in groups.iter().filter(|group| group.durable) {
            self.kept.push(Kept { queue: group.queue, head, target: GROUP });
        }
    }

    /// Appends the queues, those that share their terms together.
    fn put_targets(&mut self, queues: &[Target], out: &mut Vec<u8>) {
        let identifiers = |kept: &Kept| match kept.target {
            GROUP => &[][..],
            target => queues[target as usize].identifiers.as_slice(),
        };
        let terms = |kept: &Kept| (kept.head, identifiers(kept));
        self.kept.sort_unstable_by(|a, b| terms(a).cmp(&terms(b)).then(a.queue.cmp(&b.queue)));
        let runs = self.kept.chunk_by(|a, b| terms(a) == terms(b));
        let targets = &mut self.targets;
        targets.clear();
        put_integer(runs.clone().count() as u64, targets);
        for run in runs {
            targets.push(run[0].head);
            let identifiers = identifiers(&run[0]);
            put_integer(identifiers.len() as u64, targets);
            identifiers.iter().for_each(|&identifier| put_integer(identifier.into(), targets));
            put_queues(run.iter().map(|kept| kept.queue), targets);
        }
        put_bytes(targets, out);
    }

    fn put_session(
        &self,
        (queue, client_id, user): (QueueId, &str, Option<&str>),
        expiry: u32,
        detached: Option<Instant>,
        will: Option<&Will>,
        out: &mut Vec<u8>,
    ) {
        put_head(kind::SESSION, queue, out);
        let flags = if detached.is_some() { session_flag::DETACHED } else { 0 }
            | if will.is_some() { session_flag::WILL } else { 0 }
            | if user.is_some() { session_flag::USER } else { 0 };
        out.push(flags);
        put_integer(expiry.into(), out);
        if let Some(detached) = detached {
            put_integer(self.clock.wall(detached), out);
        }
        put_bytes(client_id.as_bytes(), out);
        if let Some(user) = user {
            put_bytes(user.as_bytes(), out);
        }
        if let Some(will) = will {
            put_will(&will.as_parts(), out);
        }
    }
}

fn terms_head(qos: QoS, retain: bool) -> u8 {
    qos as u8 | u8::from(retain) << 2
}

fn put_head(kind: u8, queue: QueueId, out: &mut Vec<u8>) {
    out.push(kind);
    put_number(queue.0, out);
}

fn put_step(kind: u8, queue: QueueId, packet_id: PacketId, out: &mut Vec<u8>) {
    put_head(kind, queue, out);
    put_integer(packet_id.get().into(), out);
}

fn put_will(will: &WillParts<'_>, out: &mut Vec<u8>) {
    out.push(terms_head(will.qos, will.retain));
    put_integer(will.delay.into(), out);
    out.push(u8::from(will.expiry.is_some()));
    put_integer(will.expiry.unwrap_or_default().into(), out);
    put_bytes(will.topic.as_bytes(), out);
    put_bytes(will.properties, out);
    put_bytes(will.payload, out);
}
