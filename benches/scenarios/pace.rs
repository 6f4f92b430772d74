//! A steady beat: the system's timer as one more source of events, since an event queue's own patience is too coarse.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::client::Clients;

pub struct Pace {
    timer: OwnedFd,
    /// The number that its events come under.
    pub client: usize,
}

impl Pace {
    /// Begins to beat among the events of these clients.
    ///
    /// # Errors
    /// The system's.
    pub fn start(clients: &Clients, period: Duration) -> io::Result<Pace> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let period = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: i64::from(period.subsec_nanos()) };
        let times = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        let client = clients.links.len();
        clients.register(&mut SourceFd(&timer.as_raw_fd()), client)?;
        Ok(Pace { timer, client })
    }

    /// How many beats there were since this was asked last.
    pub fn beats(&self) -> u64 {
        let mut beats = [0; 8];
        match rustix::io::read(&self.timer, &mut beats) {
            Ok(_) => u64::from_ne_bytes(beats),
            Err(_) => 0,
        }
    }
}
