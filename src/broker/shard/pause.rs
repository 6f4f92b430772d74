//! Back-pressure on clients: who is not read from, and until when. A lane is over its credit, the store has too much to do
//! or too much of this client's, a full queue rejects what an MQTT 3 client publishes, or a client does not read what it is
//! answered. (Who publishes too fast is `rate`'s matter.)

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::receive::{Step, Taken};
use super::{ConnectionId, Shard, live};
use crate::protocol::codec;
use crate::protocol::packet::Version;
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::session::link::{Link, Pause};
use crate::session::parked::Parked;
use crate::stats::DropReason;
use crate::store::Pressure;

/// How often what a full queue holds back is tried again.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// The type of the packet that asks for nothing but an answer.
const PINGREQ: u8 = 12;

/// What all clients of a shard may park together, in bytes.
const PARKED_BYTES: usize = 16 * 1024 * 1024;

/// Connections that wait for something that is not their own.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// For a peer to catch up, who has waited longest in front.
    lanes: VecDeque<ConnectionId>,
    /// For the store to catch up with what is published, who has waited longest in front.
    store: VecDeque<ConnectionId>,
    /// For the store to catch up with everything: those with anything else to say.
    silent: Vec<ConnectionId>,
    /// For room in a queue: those that have parked something, or would like to. One that is gone stays until the next
    /// retry.
    full: Vec<ConnectionId>,
    /// When those are tried again.
    retry_at: Option<Instant>,
    /// What they have parked, in bytes.
    parked_bytes: usize,
}

impl Waiting {
    /// When [`Shard::retry_full`] is due.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retry_at
    }

    /// A connection is gone: what it had parked goes with it. How many packets those were.
    pub(super) fn forget(&mut self, link: &Link) -> usize {
        let Some(parked) = &link.parked else { return 0 };
        self.parked_bytes -= parked.bytes();
        parked.len()
    }
}

impl Shard {
    /// Whether nothing that begins with `first` may be taken from this connection now: then it is paused.
    pub(super) fn pauses(&mut self, connection: ConnectionId, first: u8) -> bool {
        let publish = is_publish(first);
        let over_credit = publish && self.outbox.over_credit() && self.waits_for_credit();
        let (limit, receive_bytes) = (self.core.outbound_limit, self.core.limits.receive_bytes);
        let pressure = self.core.store.pressure();
        let Some(session) = live(&mut self.sessions, connection) else { return false };
        let pressed = match pressure {
            Pressure::None => false,
            Pressure::Publishes => publish,
            Pressure::Everything => publish || (session.is_recorded() && first >> 4 != PINGREQ),
        };
        let Some(link) = &mut session.link else { return false };
        let pause = if link.is_unread(limit) {
            Pause::Unread
        } else if pressed {
            Pause::Store
        } else if over_credit {
            Pause::Lanes
        } else if publish && link.unacknowledged_bytes >= receive_bytes {
            Pause::Unacknowledged
        } else {
            return false;
        };
        link.paused = Some(pause);
        match pause {
            Pause::Lanes => self.waiting.lanes.push_back(connection),
            Pause::Store if publish => self.waiting.store.push_back(connection),
            Pause::Store => self.waiting.silent.push(connection),
            _ => {}
        }
        true
    }

    /// Looks how far the store has fallen behind. Once deliveries may begin again, everybody is to be looked at: that is
    /// seldom.
    pub(super) fn follow_pressure(&mut self, now: Instant) {
        let starts = self.core.store.pressure() < Pressure::Everything;
        let started = std::mem::replace(&mut self.core.starts, starts);
        if !starts {
            return;
        }
        for connection in std::mem::take(&mut self.waiting.silent) {
            self.resume(connection);
        }
        if started {
            return;
        }
        let indices: Vec<u32> = self.sessions.iter().map(|(index, _)| index as u32).collect();
        for index in indices {
            if let Some(session) = self.sessions.get_mut(index as usize) {
                session.pump(&mut self.core.context(now));
                self.after_progress(index);
            }
        }
    }

    /// Parks a PUBLISH if others are parked before it; `None` if none is.
    pub(super) fn park_behind(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        frame: &[u8],
    ) -> Option<Step> {
        let parked = self.link_of(connection)?.parked.as_ref()?;
        let behind = is_publish(frame[0]) && !parked.is_empty();
        behind.then(|| self.park(now, connection, frame))
    }

    /// Parks a PUBLISH that a full queue rejects, or pauses its connection if there is no room for that.
    pub(super) fn park(&mut self, now: Instant, connection: ConnectionId, frame: &[u8]) -> Step {
        let max_frames = usize::from(self.core.limits.receive_maximum);
        let fits = self.waiting.parked_bytes + frame.len() <= PARKED_BYTES;
        let Some(link) = live(&mut self.sessions, connection).and_then(|session| session.link.as_mut())
        else {
            return Step::Closed;
        };
        let parked = link.parked.get_or_insert_with(|| {
            self.waiting.full.push(connection);
            self.waiting.retry_at.get_or_insert(now + FULL_RETRY);
            Box::new(Parked::new(now))
        });
        if !fits || !parked.has_room(frame.len(), max_frames) {
            link.paused = Some(Pause::Full);
            return Step::Paused;
        }
        self.waiting.parked_bytes += frame.len();
        parked.push(frame.into());
        Step::Packet(frame.len())
    }

    /// Publishes what full queues hold back, as far as there is room now, and closes whoever has waited too long.
    pub(super) fn retry_full(&mut self, now: Instant) {
        if self.waiting.retry_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        for connection in std::mem::take(&mut self.waiting.full) {
            if let Err(error) = self.unpark(now, connection) {
                self.close(now, connection, error);
            }
            let patience = self.core.limits.reject_timeout;
            let Some(link) = self.link_of(connection) else { continue };
            let Some(parked) = &link.parked else { continue };
            if now >= parked.since + patience {
                let detail = "a queue stayed full for the reject timeout";
                self.close(now, connection, ProtocolError::new(ReasonCode::QuotaExceeded, detail));
                continue;
            }
            self.waiting.full.push(connection);
            self.waiting.retry_at = Some(now + FULL_RETRY);
        }
    }

    /// Publishes what one connection has parked, until a queue rejects it again.
    fn unpark(&mut self, now: Instant, connection: ConnectionId) -> Result<(), ProtocolError> {
        let mut progressed = false;
        while !self.outbox.over_credit()
            && self.core.store.pressure() == Pressure::None
            && let Some((version, frame)) = self.pop_parked(connection)
        {
            let packet = codec::decode(version, &frame)?;
            if self.take_packet(now, connection, packet)? == Taken::Full {
                self.put_back_parked(connection, frame);
                break;
            }
            progressed = true;
        }
        self.after_progress(connection.session);
        let Some(link) = self.link_of(connection) else { return Ok(()) };
        let empty = link.parked.as_ref().is_none_or(|parked| parked.is_empty());
        if link.paused == Some(Pause::Full) {
            // It has more to send, and goes on waiting here until that went through.
            if progressed || empty {
                self.resume(connection);
            }
        } else if empty {
            link.parked = None;
        }
        Ok(())
    }

    fn pop_parked(&mut self, connection: ConnectionId) -> Option<(Version, Box<[u8]>)> {
        let link = self.link_of(connection)?;
        let (version, frame) = (link.version, link.parked.as_mut()?.pop()?);
        self.waiting.parked_bytes -= frame.len();
        Some((version, frame))
    }

    fn put_back_parked(&mut self, connection: ConnectionId, frame: Box<[u8]>) {
        let len = frame.len();
        if let Some(parked) = self.link_of(connection).and_then(|link| link.parked.as_mut()) {
            parked.put_back(frame);
            self.waiting.parked_bytes += len;
        }
    }

    /// A client has taken some of what it was sent: it is alive, and one that did not read its answers may be read again.
    pub(super) fn was_read(&mut self, now: Instant, connection: ConnectionId) {
        let limit = self.core.outbound_limit;
        let Some(link) = self.link_of(connection) else { return };
        if link.paused != Some(Pause::Unread) {
            return;
        }
        link.last_packet = now;
        if !link.is_unread(limit) {
            self.resume(connection);
        }
    }

    pub(super) fn resume(&mut self, connection: ConnectionId) {
        if let Some(link) = self.link_of(connection) {
            link.paused = None;
            self.resumed.push_back(connection);
        }
    }

    /// Whether a publisher must wait, after all, now that whoever repays is told of it.
    fn waits_for_credit(&self) -> bool {
        self.outbox.await_credit(true);
        let waits = self.outbox.over_credit();
        if !waits && self.waiting.lanes.is_empty() {
            self.outbox.await_credit(false);
        }
        waits
    }

    /// Whether one that waits for a peer may go on.
    pub(super) fn has_credit_for_waiting(&self) -> bool {
        !self.waiting.lanes.is_empty() && !self.outbox.over_credit()
    }

    /// Whether one that waits for the store may go on.
    pub(super) fn has_room_for_waiting(&self) -> bool {
        let pressure = || self.core.store.pressure();
        (!self.waiting.store.is_empty() && pressure() == Pressure::None)
            || (!(self.core.starts && self.waiting.silent.is_empty()) && pressure() < Pressure::Everything)
    }

    /// Lets one connection go on that waits for the store, and one that waits for a peer. One a turn: were all let at
    /// once, the first would use the credit up each time, and the last never publish anything.
    pub(super) fn resume_waiting(&mut self) {
        while self.core.store.pressure() == Pressure::None
            && let Some(connection) = self.waiting.store.pop_front()
        {
            if self.link_of(connection).is_some() {
                self.resume(connection);
                break;
            }
        }
        while self.has_credit_for_waiting()
            && let Some(connection) = self.waiting.lanes.pop_front()
        {
            if self.waiting.lanes.is_empty() {
                self.outbox.await_credit(false);
            }
            if self.link_of(connection).is_some() {
                return self.resume(connection);
            }
        }
    }

    /// The next paused connection that may go on.
    pub fn next_resumed(&mut self) -> Option<ConnectionId> {
        self.resumed.pop_front()
    }

    /// A connection is gone: its client was never told of what it had parked.
    pub(super) fn forget_parked(&mut self, link: &Link) {
        let parked = self.waiting.forget(link);
        self.core.stats.count_drop(DropReason::RejectedFull, parked as u64);
    }

    pub(super) fn link_of(&mut self, connection: ConnectionId) -> Option<&mut Link> {
        live(&mut self.sessions, connection)?.link.as_mut()
    }
}

/// Whether a packet that begins with `first` is a PUBLISH.
pub(super) fn is_publish(first: u8) -> bool {
    first >> 4 == 3
}
