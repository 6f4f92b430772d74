//! The sockets of a shard's connections: what the shell keeps for each, and the table that finds one by its
//! [`ConnectionId`]. How to read and to write is here; when it is done is for `connection` and `flusher` to say.

use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::ReadBuf;

use crate::broker::shard::{ConnectionId, ReceiveState, Shard};
use crate::outbound::Outbound;

use super::admission::{Permit, Seat};
use super::stream::{Peer, Stream};
use super::transport::{NonBlocking, Transport};

/// What one read takes at most. The bytes go to the shard at once, so an idle connection needs no buffer.
const SCRATCH: usize = 64 * 1024;

/// A part of a packet up to this size is put in front of what is read next, so that the shard sees both in one piece;
/// a larger one grows in its own buffer.
const PREFIX: usize = 16 * 1024;

/// The buffers that all connections of a shard read into, one after the other.
pub(super) struct Scratch {
    /// What a socket gave.
    pub(super) raw: Box<[u8]>,
    /// What its transport made of that.
    plain: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch { raw: vec![0; SCRATCH].into(), plain: Vec::new() }
    }
}

/// A connection's socket and what belongs to it. There may be very many: every byte counts.
pub(super) struct Socket {
    pub(super) id: ConnectionId,
    pub(super) stream: Stream,
    pub(super) transport: Transport,
    pub(super) address: Peer,
    /// For as long as there is one.
    pub(super) seat: Seat,
    /// Bytes that the shard has not consumed: a part of a packet, or what came while it was paused.
    kept: Vec<u8>,
    /// Wakes the connection's task.
    waker: Option<Waker>,
    /// `kept` is to be offered to the shard again, before anything is read.
    unfed: bool,
    /// The peer has ended the stream behind `kept`.
    ended: bool,
    /// The shard takes nothing from it at present.
    paused: bool,
    /// The socket took no more: the connection's task waits until it does, and writes then.
    blocked: bool,
}

/// How a connection's reading goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There may be more at once.
    Ready,
    /// The task will be woken when there is.
    Waiting,
    /// Not at all: the shard has let go of the connection.
    Over,
}

/// A new connection's socket.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) transport: Transport,
    pub(super) address: Peer,
    pub(super) permit: Permit,
    /// What was read behind its CONNECT.
    pub(super) rest: Vec<u8>,
}

impl Socket {
    pub(super) fn new(id: ConnectionId, opened: Opened) -> Socket {
        let Opened { stream, transport, address, permit, rest } = opened;
        let unfed = !rest.is_empty();
        let ended = transport.has_ended();
        Socket {
            id,
            stream,
            transport,
            address,
            seat: permit.count(),
            kept: rest,
            waker: None,
            unfed,
            ended,
            paused: false,
            blocked: false,
        }
    }

    /// How many bytes of it the shard has not consumed.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Remembers whom to wake; a task's waker stays the same.
    pub(super) fn keep_waker(&mut self, cx: &Context<'_>) {
        if self.waker.is_none() {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Has the connection's task look at it.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The shard takes from it again.
    pub(super) fn resume(&mut self) {
        self.paused = false;
        self.wake();
    }

    /// Gives the shard what there is: what it left, or one read's bytes.
    pub(super) fn read(
        &mut self,
        shard: &mut Shard,
        scratch: &mut Scratch,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Reading {
        if self.paused {
            return Reading::Waiting;
        }
        let before = self.kept.len();
        let reading = self.read_once(shard, scratch, now, cx);
        if self.kept.len() != before {
            shard.keeps(now, self.id, before, self.kept.len());
        }
        reading
    }

    fn read_once(
        &mut self,
        shard: &mut Shard,
        scratch: &mut Scratch,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Reading {
        if self.unfed {
            self.unfed = false;
            let kept = std::mem::take(&mut self.kept);
            return self.feed_owned(kept, shard, now);
        }
        if self.ended {
            shard.disconnected(now, self.id);
            return Reading::Over;
        }
        match self.transport {
            Transport::Plain if self.kept.len() <= PREFIX => self.read_direct(shard, scratch, now, cx),
            _ => self.read_through(shard, scratch, now, cx),
        }
    }

    /// Reads behind what is there of a packet, for nothing lies between the socket and MQTT.
    fn read_direct(
        &mut self,
        shard: &mut Shard,
        scratch: &mut Scratch,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Reading {
        let front = self.kept.len();
        scratch.raw[..front].copy_from_slice(&self.kept);
        let room = scratch.raw.len().min(front + shard.read_room());
        match self.poll_read(&mut scratch.raw[front..room], cx) {
            Ok(Some(len)) => self.feed(&scratch.raw[..front + len], shard, now),
            Ok(None) => Reading::Waiting,
            Err(_) => self.end(),
        }
    }

    /// Reads, and has the transport put what it makes of it behind what is there of a packet.
    fn read_through(
        &mut self,
        shard: &mut Shard,
        scratch: &mut Scratch,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Reading {
        let Scratch { raw, plain } = scratch;
        let room = raw.len().min(shard.read_room());
        let len = match self.poll_read(&mut raw[..room], cx) {
            Ok(Some(len)) => len,
            Ok(None) => return Reading::Waiting,
            Err(_) => return self.end(),
        };
        let mut kept = std::mem::take(&mut self.kept);
        let grows = kept.len() > PREFIX;
        if !grows {
            plain.clear();
            plain.extend_from_slice(&kept);
        }
        let ended = self.transport.decode(&raw[..len], if grows { &mut kept } else { plain });
        // An error ends the stream as well; what came before it counts.
        self.ended = ended.unwrap_or(true);
        let reading = if grows { self.feed_owned(kept, shard, now) } else { self.feed(plain, shard, now) };
        if self.transport.wants_write() {
            // A key update, or the alert for an error: rare enough to be written at once.
            self.flush(shard, now);
        }
        reading
    }

    fn end(&mut self) -> Reading {
        self.ended = true;
        Reading::Ready
    }

    /// How many bytes there were; `None` to wait, an error when there are no more.
    fn poll_read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> io::Result<Option<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match self.stream.poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(None),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(Ok(())) => Ok(Some(buffer.filled().len())),
        }
    }

    /// Gives the shard bytes and keeps, in a buffer of just that size, what it leaves.
    fn feed(&mut self, bytes: &[u8], shard: &mut Shard, now: Instant) -> Reading {
        let (consumed, reading) = self.offer(bytes, shard, now);
        self.kept = bytes[consumed..].to_vec();
        reading
    }

    /// The same for bytes that have a buffer of their own, which is kept while a packet grows in it.
    fn feed_owned(&mut self, bytes: Vec<u8>, shard: &mut Shard, now: Instant) -> Reading {
        let (consumed, reading) = self.offer(&bytes, shard, now);
        self.kept = if consumed == 0 { bytes } else { bytes[consumed..].to_vec() };
        reading
    }

    fn offer(&mut self, bytes: &[u8], shard: &mut Shard, now: Instant) -> (usize, Reading) {
        let received = shard.receive(now, self.id, bytes);
        let reading = match received.state {
            ReceiveState::Open => Reading::Ready,
            ReceiveState::Paused => {
                (self.paused, self.unfed) = (true, true);
                Reading::Waiting
            }
            ReceiveState::Closed => Reading::Over,
        };
        (received.consumed, reading)
    }

    /// Writes what the connection has to say, unless its task waits to do so; how many bytes have left.
    pub(super) fn flush(&mut self, shard: &mut Shard, now: Instant) -> usize {
        if self.blocked {
            return 0;
        }
        let mut nothing = Outbound::default();
        let outbound = shard.outbound(self.id).unwrap_or(&mut nothing);
        let before = outbound.len();
        let result = self.transport.flush(outbound, &mut NonBlocking(&self.stream));
        let sent = before - outbound.len();
        if sent > 0 {
            shard.flushed(now, self.id);
        }
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                self.wake();
            }
            Err(_) => shard.disconnected(now, self.id),
        }
        sent
    }

    /// Writes on where the socket took no more, as soon as it takes more again; how many bytes have left.
    pub(super) fn unblock(&mut self, shard: &mut Shard, now: Instant, cx: &mut Context<'_>) -> usize {
        let mut sent = 0;
        while self.blocked && self.stream.poll_write_ready(cx).is_ready() {
            // An error of the socket is one of the write, too.
            self.blocked = false;
            sent += self.flush(shard, now);
        }
        sent
    }
}

/// The sockets of a shard, by the session that they belong to.
#[derive(Default)]
pub(super) struct Sockets {
    /// Boxed, because a slot stays when its session waits without a connection.
    slots: Vec<Option<Box<Socket>>>,
    len: usize,
}

impl Sockets {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(id.session as usize)?.as_deref_mut()?;
        (socket.id == id).then_some(socket)
    }

    /// Adds a socket; the session's earlier one has been removed.
    pub(super) fn insert(&mut self, socket: Socket) {
        let index = socket.id.session as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(socket));
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Socket> {
        let slot = self.slots.get_mut(id.session as usize)?;
        let socket = slot.take_if(|socket| socket.id == id)?;
        self.len -= 1;
        Some(*socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_costs_the_shell_is_known() {
        println!("size_of Socket: {} bytes", size_of::<Socket>());
        assert!(size_of::<Socket>() <= 144);
        assert_eq!(size_of::<Transport>(), 8);
    }
}
