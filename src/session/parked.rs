//! PUBLISH packets of an MQTT 3 client that wait because a full queue rejects the first of them. A 5.0 client is told
//! so by a reason code; to this one nothing can be said, so it is not answered until there is room. What it sends
//! besides PUBLISH is served meanwhile: it may be the one whose acknowledgements make the room.

use std::collections::VecDeque;
use std::time::Instant;

/// What one connection may park, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// Whole PUBLISH packets, in the order they came.
#[derive(Debug)]
pub struct Parked {
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Since when none of them could be published.
    pub since: Instant,
}

impl Parked {
    /// None yet, at `since`.
    pub fn new(since: Instant) -> Parked {
        Parked { frames: VecDeque::new(), bytes: 0, since }
    }

    /// Whether one more of `len` bytes may be parked, of `max_frames` at most.
    pub fn has_room(&self, len: usize, max_frames: usize) -> bool {
        self.frames.len() < max_frames && self.bytes + len <= MAX_BYTES
    }

    /// Parks a packet behind the others.
    pub fn push(&mut self, frame: Box<[u8]>) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Takes the first.
    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    /// The first is still refused.
    pub fn put_back(&mut self, frame: Box<[u8]>) {
        self.bytes += frame.len();
        self.frames.push_front(frame);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_bounded_by_number_and_by_bytes_and_keep_their_order() {
        let mut parked = Parked::new(Instant::now());
        assert!(parked.has_room(MAX_BYTES, 1) && !parked.has_room(MAX_BYTES + 1, 1));
        parked.push([1; 3].into());
        assert!(!parked.has_room(1, 1));
        parked.push([2; 4].into());
        assert_eq!((parked.len(), parked.bytes()), (2, 7));
        assert!(!parked.has_room(MAX_BYTES - 6, 9));
        let first = parked.pop().expect("there are two");
        parked.put_back(first);
        assert_eq!(parked.pop().as_deref(), Some(&[1; 3][..]));
        assert_eq!(parked.pop().as_deref(), Some(&[2; 4][..]));
        assert_eq!((parked.is_empty(), parked.bytes()), (true, 0));
    }
}
