//! The memory of the process as a shard goes by it: what buffers may hold together, what bytes the shell keeps that no
//! packet has come of yet, and what is refused when there is no room.

use std::time::Instant;

use super::{ConnectionId, Core, Shard};
use crate::protocol::reason::{ProtocolError, ReasonCode};

/// How much room there is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Bytes that outbound buffers, transient queues and bytes kept back may take, all shards together; the configuration
    /// may say less.
    pub buffers: usize,
    /// There is none: nothing more is to be kept in memory.
    pub is_full: bool,
}

impl Default for Headroom {
    fn default() -> Headroom {
        Headroom { buffers: usize::MAX, is_full: false }
    }
}

/// What a connection may send of a packet, or before it is held back, however many others do the same.
const LEAST_KEPT: usize = 16 * 1024;

impl Core {
    /// Shares the room for buffers out among the shards.
    pub(super) fn set_budget(&mut self, peers: u16) {
        self.buffer_budget = self.limits.outbound_total.min(self.headroom.buffers) / usize::from(peers);
    }

    /// Whether what would be kept in memory alone is to be refused.
    pub(super) fn refuses_memory(&self) -> bool {
        self.headroom.is_full && !self.store.has_pages()
    }
}

impl Shard {
    /// Goes on with this much room in memory.
    pub fn set_headroom(&mut self, headroom: Headroom) {
        self.core.headroom = headroom;
        self.core.set_budget(self.settings.peers);
    }

    /// How much may be read from a connection at once: past the common bound, its fair share.
    pub fn read_room(&self) -> usize {
        self.core.outbound_limit.max(LEAST_KEPT)
    }

    /// The shell has let go of a connection of which it kept so many bytes.
    pub fn forgets(&mut self, bytes: usize) {
        self.core.kept -= bytes;
        self.core.account(bytes, 0);
    }

    /// The shell keeps so many bytes of a connection, instead of `before`, that the shard has not taken. Once those of all
    /// connections are half of what there is room for, packets that come in pieces are the flood, and whoever has sent more
    /// of one than its share is closed.
    pub fn keeps(&mut self, now: Instant, connection: ConnectionId, before: usize, bytes: usize) {
        self.core.kept = self.core.kept + bytes - before;
        self.core.account(before, bytes);
        // One packet always may come.
        let room = (self.core.buffer_budget / 2).max(self.core.limits.max_packet_size as usize);
        if bytes <= before || self.core.kept <= room {
            return;
        }
        let share = (room / self.core.stats.connected.get().max(1) as usize).max(LEAST_KEPT);
        let is_read = self.link_of(connection).is_some_and(|link| link.paused.is_none());
        if is_read && bytes > share {
            let detail = "there is no room for a packet of this size at present";
            self.close(now, connection, ProtocolError::new(ReasonCode::QuotaExceeded, detail));
        }
    }
}
