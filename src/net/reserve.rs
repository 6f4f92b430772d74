//! The descriptors that clients cannot have: the store opens segments, and a reload reads its files, also when there are as
//! many clients as the system lets the process have.
//!
//! The system always gives the lowest free number. So a socket whose number reaches into the last ones tells that all below
//! are taken, and nobody has to count.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::sleep;

use super::stream::Stream;

/// The reserve is this part of all descriptors, and at most so many.
const PART: u64 = 8;
const MOST: u64 = 512;

/// The first number of the reserve, by the limit that the process has now.
pub(super) fn first() -> RawFd {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return RawFd::MAX };
    RawFd::try_from(limit - (limit / PART).min(MOST)).unwrap_or(RawFd::MAX)
}

/// Whether a socket takes something of the reserve.
pub(super) fn holds(first: RawFd, stream: &Stream) -> bool {
    stream.number() >= first
}

/// Waits until a socket has its place outside the reserve, looking as often as `rests` say.
///
/// # Errors
/// The system's.
pub(super) async fn leave(
    first: RawFd,
    stream: Stream,
    mut rests: impl Iterator<Item = Duration>,
) -> io::Result<Stream> {
    let detached = stream.detach()?;
    loop {
        sleep(rests.next().unwrap_or(Duration::MAX)).await;
        // Without one to spare there is none outside the reserve either.
        let Ok(other) = detached.try_clone() else { continue };
        if other.number() < first {
            return Stream::attach(other);
        }
    }
}
