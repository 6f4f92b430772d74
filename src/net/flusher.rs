//! The end of a turn: one task per shard that does what the shard told itself, hands its records to the store, sends the
//! peers their batches and writes to every socket that has something to be written, each with one write for all that
//! gathered. It is a task like any other, so it runs after the reads that are already due: that is what makes batches.
//! Timers fire here, too.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::{Sleep, sleep_until};

use crate::outbound;

use super::shell::{Shell, State};

/// After so many bytes, or so long, the sockets wait while others have the thread.
const SLICE_BYTES: usize = 256 * 1024;
const SLICE_TIME: Duration = Duration::from_micros(200);

/// How many sockets are written to between two looks at the clock.
const CLOCK_EVERY: usize = 8;

/// How often what the pool of buffers does not need is freed.
const TRIM: Duration = Duration::from_secs(1);

/// A wake-up within one thread, remembered until it is taken.
#[derive(Default)]
pub(super) struct Wake {
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wake {
    pub(super) fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = self.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.woken.take() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// What the flusher remembers between turns.
struct Flusher {
    shell: Rc<Shell>,
    /// Sockets are still to be written to.
    cut: bool,
    /// When the pool is looked at; `None` while it is empty.
    trim: Option<Instant>,
}

/// Runs for as long as the shard does.
pub(super) async fn run(shell: Rc<Shell>) {
    let mut flusher = Flusher { shell: shell.clone(), cut: false, trim: None };
    let mut timer = pin!(sleep_until(tokio::time::Instant::now()));
    loop {
        while flusher.turn() {
            yield_now().await;
        }
        let alarm = flusher.alarm();
        poll_fn(|cx| wait(shell.flusher(), alarm, timer.as_mut(), cx)).await;
    }
}

/// Waits for a wake-up or for `alarm`.
fn wait(wake: &Wake, alarm: Option<Instant>, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    if wake.poll(cx).is_ready() {
        return Poll::Ready(());
    }
    let Some(alarm) = alarm else { return Poll::Pending };
    if timer.deadline().into_std() != alarm {
        timer.as_mut().reset(alarm.into());
    }
    timer.poll(cx)
}

impl Flusher {
    /// One turn; whether there is more to do.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let shell = self.shell.clone();
        let mut state = shell.turn();
        let shard = &mut state.shard;
        if shard.next_timeout().is_some_and(|at| at <= now) {
            shard.on_timeout(now);
        }
        // While sockets wait, more may join what they are going to say: the larger the writes, the fewer.
        let mut more = if self.cut && shard.is_crowded() { true } else { shard.work(now) };
        // Store, lanes, sockets: so nobody hears of what the store has not.
        shard.flush_store();
        shell.lanes.send(shard);
        self.cut = write(&mut state, now);
        // What could follow into the buffers has records, too.
        state.shard.flush_store();
        shell.reap(&mut state);
        while let Some(id) = state.shard.next_resumed() {
            if let Some(socket) = state.sockets.get(id) {
                socket.resume();
            }
        }
        self.trim(now);
        shell.answer();
        more |= self.cut || state.shard.has_work();
        more
    }

    /// When a turn is due that nothing else wakes.
    fn alarm(&self) -> Option<Instant> {
        self.shell.turn().shard.next_timeout().into_iter().chain(self.trim).min()
    }

    fn trim(&mut self, now: Instant) {
        if self.trim.is_none_or(|at| at <= now) {
            self.trim = outbound::trim_pool().then(|| now + TRIM);
        }
    }
}

/// Writes to the sockets that have something to be written, for one slice; whether some are left.
fn write(state: &mut State, now: Instant) -> bool {
    let State { shard, sockets, stats, .. } = state;
    let (mut bytes, mut count) = (0, 0);
    let start = Instant::now();
    let mut cut = false;
    while let Some(id) = shard.next_dirty() {
        let Some(socket) = sockets.get(id) else { continue };
        bytes += socket.flush(shard, now);
        count += 1;
        if bytes >= SLICE_BYTES || (count % CLOCK_EVERY == 0 && start.elapsed() >= SLICE_TIME) {
            cut = true;
            break;
        }
    }
    stats.bytes_sent.add(bytes as u64);
    cut
}
