//! The store that keeps nothing: every record is as durable as it will ever be when it is pushed.

use super::{Page, PageRequest, Pressure, Record, Store, Ticket};

/// Completes every ticket at once.
#[derive(Debug, Default)]
pub struct MemoryStore {
    pushed: u64,
}

impl Store for MemoryStore {
    fn push(&mut self, _record: Record<'_>) -> Ticket {
        self.pushed += 1;
        Ticket(self.pushed)
    }

    fn flush(&mut self) {}

    fn durable(&self) -> Ticket {
        Ticket(self.pushed)
    }

    fn has_pages(&self) -> bool {
        false
    }

    fn request(&mut self, _request: PageRequest) {}

    fn next_page(&mut self) -> Option<Page> {
        None
    }

    fn pressure(&self) -> Pressure {
        Pressure::None
    }

    fn is_full(&self) -> bool {
        false
    }
}
