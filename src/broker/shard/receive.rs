//! The way in: the bytes of a connection become packets, each of which is dealt with, parked or held back, until one is not
//! whole, or the connection pauses or ends.

use std::time::Instant;

use super::{CloseReason, ConnectionId, Shard, live, pause};
use crate::protocol::codec::{self, Frame};
use crate::protocol::packet::Packet;
use crate::protocol::reason::ProtocolError;
use crate::session::Action;

/// How far [`Shard::receive`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of whole packets that were dealt with.
    pub consumed: usize,
    /// What to do next.
    pub state: ReceiveState,
}

/// What the shell does after [`Shard::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveState {
    /// Read on.
    Open,
    /// Read no more until the connection appears in [`Shard::next_resumed`].
    Paused,
    /// The connection is gone; it appears in [`Shard::next_closed`].
    Closed,
}

/// How far the bytes of a connection were taken.
pub(super) enum Step {
    Packet(usize),
    Incomplete,
    Paused,
    Closed,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Whole,
    /// Nothing: a queue is full, and the client's version has no way to be told.
    Full,
    /// The connection ended with it.
    Last,
}

impl Shard {
    /// Takes bytes from a connection: whole packets are dealt with, the rest is left to the caller.
    pub fn receive(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) -> Received {
        let mut consumed = 0;
        let state = loop {
            match self.receive_packet(now, connection, &bytes[consumed..]) {
                Ok(Step::Packet(len)) => consumed += len,
                Ok(Step::Incomplete) => break ReceiveState::Open,
                Ok(Step::Paused) => break ReceiveState::Paused,
                Ok(Step::Closed) => break ReceiveState::Closed,
                Err(error) => {
                    self.close(now, connection, error);
                    break ReceiveState::Closed;
                }
            }
        };
        self.core.stats.bytes_received.add(consumed as u64);
        self.after_progress(connection.session);
        Received { consumed, state }
    }

    fn receive_packet(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> Result<Step, ProtocolError> {
        let Some(link) = self.link_of(connection) else { return Ok(Step::Closed) };
        let (version, max, throttled) = (link.version, link.max_received, link.throttle.is_some());
        let Some(frame) = Frame::first(version, bytes, max)? else { return Ok(Step::Incomplete) };
        if self.pauses(connection, bytes[0]) {
            return Ok(Step::Paused);
        }
        match self.receive_pubacks(now, connection, bytes)? {
            0 => {}
            taken => return Ok(Step::Packet(taken)),
        }
        if throttled
            && pause::is_publish(bytes[0])
            && let Some(step) = self.throttle(now, connection, frame.bytes())?
        {
            return Ok(step);
        }
        let packet = frame.decode()?;
        if let Some(link) = self.link_of(connection) {
            link.last_packet = now;
        }
        if let Some(step) = self.park_behind(now, connection, frame.bytes()) {
            return Ok(step);
        }
        let taken = self.take_packet(now, connection, packet);
        if throttled {
            self.over_rate = false;
        }
        Ok(match taken? {
            Taken::Whole => Step::Packet(frame.bytes().len()),
            Taken::Full => self.park(now, connection, frame.bytes()),
            Taken::Last => Step::Closed,
        })
    }

    /// Deals with the PUBACK packets in front, if they are of the shortest form: a subscriber that keeps up sends nothing
    /// else, many at a time. How many bytes that were.
    fn receive_pubacks(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> Result<usize, ProtocolError> {
        if codec::short_puback(bytes).is_none() {
            return Ok(0);
        }
        let Some(session) = live(&mut self.sessions, connection) else { return Ok(0) };
        if let Some(link) = &mut session.link {
            link.last_packet = now;
        }
        let (packets, result) = session.receive_pubacks(bytes, &mut self.core.context(now));
        self.core.stats.packets_received.add(packets as u64);
        self.tell_settled(connection.session);
        result?;
        Ok(packets * codec::SHORT_PUBACK)
    }

    /// Deals with a packet.
    pub(super) fn take_packet(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        packet: Packet<'_>,
    ) -> Result<Taken, ProtocolError> {
        let Some(session) = live(&mut self.sessions, connection) else { return Ok(Taken::Last) };
        let action = session.receive(packet, &mut self.core.context(now))?;
        self.tell_settled(connection.session);
        let taken = self.act(now, connection, action)?;
        if taken != Taken::Full {
            self.core.stats.packets_received.add(1);
        }
        Ok(taken)
    }

    /// Does what a packet asked for.
    fn act(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        action: Action<'_>,
    ) -> Result<Taken, ProtocolError> {
        match action {
            Action::None => {}
            Action::Publish(message, packet_id) => {
                return self.publish_from(now, connection, message, packet_id);
            }
            Action::Subscribe(subscribe) => self.subscribe(now, connection.session, &subscribe)?,
            Action::Unsubscribe(unsubscribe) => self.unsubscribe(now, connection.session, &unsubscribe)?,
            Action::Disconnect { with_will } => {
                self.detach(now, connection, with_will, CloseReason::Disconnected);
                return Ok(Taken::Last);
            }
        }
        Ok(Taken::Whole)
    }
}
