//! What happened in a run: a hash of all of it, and the last events in words.

use std::collections::VecDeque;
use std::fmt::{Arguments, Write};

/// The story of one run.
pub struct Trace {
    hash: u64,
    events: u64,
    /// How many events a failure shows.
    shown: usize,
    last: VecDeque<String>,
    buffer: String,
}

impl Trace {
    pub fn new(shown: usize) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, shown, last: VecDeque::new(), buffer: String::new() }
    }

    /// Notes an event.
    pub fn say(&mut self, event: Arguments<'_>) {
        self.buffer.clear();
        self.buffer.write_fmt(event).expect("strings take everything");
        for byte in self.buffer.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.events += 1;
        let mut line =
            if self.last.len() == self.shown { self.last.pop_front() } else { None }.unwrap_or_default();
        line.clear();
        write!(line, "{:6}  {}", self.events, self.buffer).expect("strings take everything");
        self.last.push_back(line);
    }

    /// How many events there were: the simulation's own order of things.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A number that two runs share only if everything in them happened alike.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last events, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
