//! The bytes that a connection still has to send: small frames copied one behind the other, large
//! payloads spliced in without a copy. An idle one owns no memory.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// A FIFO of bytes.
#[derive(Debug, Default)]
pub struct Outbound {
    buf: Vec<u8>,
    /// How much of `buf` has left.
    sent: usize,
    spliced: Option<Box<Spliced>>,
}

/// Shared payloads and where in `buf` they belong.
#[derive(Debug, Default)]
struct Spliced {
    /// (position in `buf` before which it goes, what is left of it), in order.
    parts: VecDeque<(usize, Bytes)>,
    bytes: usize,
}

impl Outbound {
    /// Where encoders append.
    pub fn buf(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Sends a payload behind everything that is there, without copying it.
    pub fn push_shared(&mut self, payload: Bytes) {
        let spliced = self.spliced.get_or_insert_default();
        spliced.bytes += payload.len();
        spliced.parts.push_back((self.buf.len(), payload));
    }

    /// Bytes still to send.
    pub fn len(&self) -> usize {
        self.buf.len() - self.sent + self.spliced.as_ref().map_or(0, |spliced| spliced.bytes)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slices` with what is to be written next, in order; how many were filled.
    pub fn io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut count) = (self.sent, 0);
        let parts = self.spliced.iter().flat_map(|spliced| &spliced.parts);
        for (position, payload) in parts {
            for piece in [&self.buf[at..*position], &payload[..]] {
                if count == slices.len() {
                    return count;
                }
                if !piece.is_empty() {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
            at = *position;
        }
        if count < slices.len() && at < self.buf.len() {
            slices[count] = IoSlice::new(&self.buf[at..]);
            count += 1;
        }
        count
    }

    /// `n` bytes have been written.
    pub fn consume(&mut self, mut n: usize) {
        while n > 0 {
            let spliced = self.spliced.as_mut();
            let next = spliced.as_ref().and_then(|spliced| spliced.parts.front()).map(|(at, _)| *at);
            let plain = next.unwrap_or(self.buf.len()) - self.sent;
            let taken = plain.min(n);
            self.sent += taken;
            n -= taken;
            let Some(spliced) = spliced.filter(|_| n > 0) else { break };
            let Some((_, payload)) = spliced.parts.front_mut() else { break };
            let taken = payload.len().min(n);
            let _written = payload.split_to(taken);
            if payload.is_empty() {
                spliced.parts.pop_front();
            }
            spliced.bytes -= taken;
            n -= taken;
        }
        if self.is_empty() {
            self.spliced = None;
            self.sent = 0;
            self.buf.clear();
        }
    }
}
