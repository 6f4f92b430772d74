//! What ends a subscriber from outside: signals, and the time limit.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::failure::Failure;
use super::link::at;

/// Why a subscriber ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// SIGINT or SIGTERM.
    Signal,
    /// `-W`.
    Timeout,
    /// `-C`.
    Complete,
}

impl Interrupt {
    pub(super) fn outcome(self) -> Result<(), Failure> {
        match self {
            Interrupt::Signal | Interrupt::Complete => Ok(()),
            Interrupt::Timeout => Err(Failure::timed_out()),
        }
    }
}

/// The sources of interrupts.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    deadline: Option<Instant>,
}

impl Interrupts {
    /// Listens for signals from now on, and sets the time limit.
    ///
    /// # Errors
    /// If signals cannot be listened for.
    pub(super) fn new(timeout: Option<Duration>) -> Result<Interrupts, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::local(format_args!("signals: {error}")));
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        })
    }

    /// Waits for the next. It may be dropped half-way without harm.
    pub(super) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.interrupt.recv() => Interrupt::Signal,
            _ = self.terminate.recv() => Interrupt::Signal,
            () = at(self.deadline) => {
                self.deadline = None;
                Interrupt::Timeout
            }
        }
    }
}
