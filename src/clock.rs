//! [`Clock`]: from the monotonic time that the broker runs by to the wall time that its records carry. The offset is taken
//! once, at the start: a wall clock that jumps while the broker runs expires nothing.

use std::time::{Duration, Instant};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at: Instant,
    wall: u64,
}

impl Clock {
    /// The wall clock, in milliseconds since 1970, stood at `wall` when it was `at`.
    pub fn new(at: Instant, wall: u64) -> Clock {
        Clock { at, wall }
    }

    /// The same, but that it had struck `wall` before it was read: a clock that was set back in between counts as one that
    /// stood still.
    pub fn not_before(self, wall: u64) -> Clock {
        Clock { wall: self.wall.max(wall), ..self }
    }

    /// Milliseconds since 1970.
    pub fn wall(&self, at: Instant) -> u64 {
        let millis = |duration: Duration| duration.as_millis() as u64;
        match at.checked_duration_since(self.at) {
            Some(since) => self.wall.saturating_add(millis(since)),
            None => self.wall.saturating_sub(millis(self.at - at)),
        }
    }

    /// The moment that was written down as `wall`; `None` if it is further off than a clock can say.
    pub fn instant(&self, wall: u64) -> Option<Instant> {
        match wall.checked_sub(self.wall) {
            Some(later) => self.at.checked_add(Duration::from_millis(later)),
            None => self.at.checked_sub(Duration::from_millis(self.wall - wall)),
        }
    }
}
