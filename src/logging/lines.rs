//! Log lines on their way out: a bounded buffer, and one thread that writes it. So a shard never waits for whoever
//! reads the log, and one who has stopped reading, or is gone, or a full disk, costs lines and nothing else.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written, in bytes; more is lost, and counted.
const CAPACITY: usize = 1024 * 1024;

/// A buffer that grew beyond this is freed when it has been written.
const KEPT_CAPACITY: usize = 64 * 1024;

/// How long the end waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines are put.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that found no room.
    lost: u64,
    /// The thread has taken what it writes now.
    writing: bool,
}

impl Lines {
    /// Lines that go to `out`, by a thread that runs as long as the process does.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Lines> {
        let lines = Lines(Arc::default());
        let shared = lines.0.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(out))?;
        Ok(lines)
    }

    /// Waits, for a limited time, until everything has been written.
    pub(super) fn flush(&self) {
        let waiting = self.0.lock();
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        drop(self.0.written.wait_timeout_while(waiting, LAST_LINES, busy));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here can be left half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut out: impl Write) {
        let mut bytes = Vec::new();
        loop {
            let lost = self.take(&mut bytes);
            // Nobody could be told of a failure; the next lines are tried all the same.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
            if lost > 0 {
                tracing::warn!(lines = lost, "the log was not read as fast as it was written");
            }
        }
    }

    /// Waits for lines, and takes them; how many were lost before them.
    fn take(&self, bytes: &mut Vec<u8>) -> u64 {
        bytes.clear();
        bytes.shrink_to(KEPT_CAPACITY);
        let mut waiting = self.lock();
        waiting.writing = false;
        self.written.notify_all();
        let empty = |waiting: &mut Waiting| waiting.bytes.is_empty();
        waiting = self.filled.wait_while(waiting, empty).unwrap_or_else(PoisonError::into_inner);
        waiting.writing = true;
        std::mem::swap(bytes, &mut waiting.bytes);
        std::mem::take(&mut waiting.lost)
    }
}

impl Write for &Lines {
    /// Takes a whole line, or none of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        if waiting.bytes.len() + line.len() > CAPACITY {
            waiting.lost += 1;
        } else {
            waiting.bytes.extend_from_slice(line);
            self.0.filled.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes when it is let, and tells what it wrote.
    struct Gate(mpsc::Receiver<io::Result<()>>, mpsc::Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)??;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Lines, mpsc::Sender<io::Result<()>>, mpsc::Receiver<Vec<u8>>) {
        let ((open, gate), (out, written)) = (mpsc::channel(), mpsc::channel());
        (Lines::to(Gate(gate, out)).expect("a thread"), open, written)
    }

    #[test]
    fn nobody_waits_for_a_reader_who_does_not_read() {
        let (lines, open, written) = gated();
        let line = [b'x'; 1000];
        (&lines).write_all(&line).expect("taken");
        // The thread has that one, and is held up with it.
        while !lines.0.lock().writing {
            thread::yield_now();
        }
        for _ in 0..5 * CAPACITY / line.len() {
            (&lines).write_all(&line).expect("taken or lost");
        }
        let waiting = lines.0.lock();
        let taken = CAPACITY / line.len();
        assert_eq!(waiting.bytes.len(), taken * line.len());
        assert_eq!(waiting.lost as usize, 5 * CAPACITY / line.len() - taken);
        let taken = taken + 1;
        drop(waiting);
        let mut total = 0;
        while total < taken * line.len() {
            open.send(Ok(())).expect("it waits");
            total += written.recv_timeout(Duration::from_secs(20)).expect("written").len();
        }
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_the_next_is_tried() {
        let (lines, open, written) = gated();
        (&lines).write_all(b"one\n").expect("taken");
        open.send(Err(io::ErrorKind::BrokenPipe.into())).expect("it waits");
        lines.flush();
        (&lines).write_all(b"two\n").expect("taken");
        open.send(Ok(())).expect("it waits");
        assert_eq!(written.recv_timeout(Duration::from_secs(20)).expect("written"), b"two\n");
    }
}
