//! The bytes that a connection still has to send: small frames copied one behind the other, large payloads spliced in
//! without a copy. An idle one owns no memory: its buffer comes from a pool of its thread, and goes back when it drains.

use std::cell::RefCell;
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

/// What has left stays in the buffer until it is this much, and more than what is still there: so a connection that
/// never quite drains moves each byte at most once more.
const COMPACT: usize = 4096;

impl Outbound {
    /// Where encoders append.
    pub fn buf(&mut self) -> &mut Vec<u8> {
        if self.buf.capacity() == 0 {
            self.buf = take_buffer();
        }
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
        self.io_slices_within(usize::MAX, slices)
    }

    /// The same for what is among the first `room` bytes.
    #[inline(always)]
    pub fn io_slices_within<'a>(&'a self, mut room: usize, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut count) = (self.sent, 0);
        let parts = self.spliced.iter().flat_map(|spliced| &spliced.parts);
        for (position, payload) in parts {
            for piece in [&self.buf[at..*position], &payload[..]] {
                if count == slices.len() || room == 0 {
                    return count;
                }
                if !piece.is_empty() {
                    let piece = &piece[..piece.len().min(room)];
                    room -= piece.len();
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
            at = *position;
        }
        if count < slices.len() && at < self.buf.len() && room > 0 {
            let piece = &self.buf[at..];
            slices[count] = IoSlice::new(&piece[..piece.len().min(room)]);
            count += 1;
        }
        count
    }

    /// `n` bytes have been written, of the [`Outbound::len`] that there were.
    pub fn consume(&mut self, n: usize) {
        if self.spliced.is_some() {
            self.consume_spliced(n);
        } else {
            self.sent += n.min(self.buf.len() - self.sent);
        }
        if self.is_empty() {
            self.sent = 0;
            give_buffer(std::mem::take(&mut self.buf));
        } else if self.sent >= COMPACT && self.sent > self.buf.len() - self.sent {
            self.compact();
        }
    }

    fn consume_spliced(&mut self, mut n: usize) {
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
        self.spliced.take_if(|spliced| spliced.parts.is_empty());
    }

    /// Forgets what has left.
    fn compact(&mut self) {
        self.buf.drain(..self.sent);
        for (position, _) in self.spliced.iter_mut().flat_map(|spliced| &mut spliced.parts) {
            *position -= self.sent;
        }
        self.sent = 0;
    }
}

/// Room in a buffer that the pool has to make.
const FIRST_CAPACITY: usize = 512;

/// Buffers that grew beyond this are freed: few connections ever need one.
const LARGEST_POOLED: usize = 256 * 1024;

/// What a thread's pool may hold, in bytes.
const POOL_BYTES: usize = 16 * 1024 * 1024;

/// Empty buffers between two turns. To free and allocate some thousand of them each turn would have the kernel take
/// and clear their pages each time, which costs more than the writes do.
struct Pool {
    /// The last one given back is the first one lent: it is still in the cache.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// The fewest buffers there were since the last trim: that many were not needed.
    unused: usize,
}

thread_local! {
    /// A shard has its thread to itself, so this is the shard's pool.
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { buffers: Vec::new(), bytes: 0, unused: 0 }) };
}

fn take_buffer() -> Vec<u8> {
    POOL.with_borrow_mut(|pool| match pool.buffers.pop() {
        Some(buffer) => {
            pool.bytes -= buffer.capacity();
            pool.unused = pool.unused.min(pool.buffers.len());
            buffer
        }
        None => Vec::with_capacity(FIRST_CAPACITY),
    })
}

fn give_buffer(mut buffer: Vec<u8>) {
    let size = buffer.capacity();
    POOL.with_borrow_mut(|pool| {
        if size > 0 && size <= LARGEST_POOLED && pool.bytes + size <= POOL_BYTES {
            buffer.clear();
            pool.bytes += size;
            pool.buffers.push(buffer);
        }
    });
}

/// Frees the buffers of this thread's pool that were not needed since the last call: called every second or so, it
/// gives the memory of a burst back. Whether the pool still holds any.
pub fn trim_pool() -> bool {
    POOL.with_borrow_mut(|pool| {
        let freed: usize = pool.buffers.drain(..pool.unused).map(|buffer| buffer.capacity()).sum();
        pool.bytes -= freed;
        pool.unused = pool.buffers.len();
        pool.unused > 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(outbound: &Outbound) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = outbound.io_slices(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    fn pooled() -> (usize, usize) {
        POOL.with_borrow(|pool| (pool.buffers.len(), pool.bytes))
    }

    #[test]
    fn it_is_small_and_an_idle_one_owns_nothing() {
        assert!(size_of::<Outbound>() <= 48, "{}", size_of::<Outbound>());
        let mut outbound = Outbound::default();
        assert_eq!(outbound.buf.capacity(), 0);
        outbound.buf().extend_from_slice(b"abc");
        outbound.consume(3);
        assert_eq!((outbound.buf.capacity(), outbound.len()), (0, 0));
    }

    #[test]
    fn what_goes_in_comes_out_in_order_however_it_is_cut() {
        for step in 1..40 {
            let (mut outbound, mut expected, mut got) = (Outbound::default(), Vec::new(), Vec::new());
            for round in 0..300_usize {
                let byte = round as u8;
                let small = vec![byte; round % 67];
                outbound.buf().extend_from_slice(&small);
                expected.extend_from_slice(&small);
                if round % 5 == 0 {
                    let large = vec![!byte; 300];
                    outbound.push_shared(Bytes::from(large.clone()));
                    expected.extend_from_slice(&large);
                }
                let bytes = all(&outbound);
                let n = (step * 3).min(bytes.len());
                let mut slices = [IoSlice::new(&[]); 64];
                let count = outbound.io_slices_within(n, &mut slices);
                let within: Vec<u8> =
                    slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                assert_eq!(within, bytes[..n]);
                got.extend_from_slice(&bytes[..n]);
                outbound.consume(n);
                assert_eq!(outbound.len(), expected.len() - got.len());
            }
            while !outbound.is_empty() {
                let bytes = all(&outbound);
                got.extend_from_slice(&bytes);
                outbound.consume(bytes.len());
            }
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn one_that_never_drains_does_not_keep_what_has_left() {
        let mut outbound = Outbound::default();
        for _ in 0..1000 {
            outbound.buf().extend_from_slice(&[7; 2000]);
            outbound.consume(1999);
        }
        assert_eq!(outbound.len(), 1000);
        assert!(outbound.buf.len() < 8192, "{}", outbound.buf.len());
    }

    #[test]
    fn buffers_are_lent_again_and_freed_when_they_are_not_needed() {
        let mut outbounds: Vec<Outbound> = (0..10).map(|_| Outbound::default()).collect();
        for outbound in &mut outbounds {
            outbound.buf().extend_from_slice(&[1; 1000]);
        }
        for outbound in &mut outbounds {
            outbound.consume(1000);
        }
        assert_eq!(pooled().0, 10);
        trim_pool();
        // One is used from now on; the other nine go.
        outbounds[0].buf().push(1);
        outbounds[0].consume(1);
        assert_eq!(pooled().0, 10);
        trim_pool();
        let (buffers, bytes) = pooled();
        assert_eq!(buffers, 1);
        assert!(bytes >= 1000);
        trim_pool();
        trim_pool();
        assert_eq!(pooled(), (0, 0));
    }

    #[test]
    fn the_pool_has_a_limit() {
        let mut outbounds: Vec<Outbound> = (0..200).map(|_| Outbound::default()).collect();
        for outbound in &mut outbounds {
            outbound.buf().resize(200 * 1024, 0);
        }
        let mut huge = Outbound::default();
        huge.buf().resize(LARGEST_POOLED + 1, 0);
        huge.consume(LARGEST_POOLED + 1);
        assert_eq!(pooled(), (0, 0));
        for outbound in &mut outbounds {
            outbound.consume(200 * 1024);
        }
        assert!(pooled().1 <= POOL_BYTES);
        assert!(pooled().0 > 50);
    }
}
