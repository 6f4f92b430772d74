//! The threads that work out what proves a client's identity, off the shards: a few, with a bound on the memory of all
//! together, whatever the hashes ask for. Who waits for them does so in turn by address, so that nobody's flood keeps
//! others out, and no longer than a bounded time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::hash::{MOST_MEMORY, Workspace};

/// What all threads may hold to work in, in bytes; every hash that is read fits in.
const MEMORY: usize = MOST_MEMORY as usize * 1024;

/// How far the threads step back behind the shards where there is not enough for all.
const NICENESS: i32 = 5;

/// Clients that wait in all.
const MOST_WAITING: usize = 1000;

/// What is to be done; it is given no room to work in if it has waited for too long.
pub(super) type Work = Box<dyn FnOnce(Option<&mut Workspace>) + Send>;

/// Something that waits.
struct Job {
    since: Instant,
    /// Bytes that it works in.
    memory: usize,
    work: Work,
}

/// Threads that do what is given to them.
pub(super) struct Pool {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Inner {
    state: Mutex<State>,
    /// There is something to do, or it is over.
    work: Condvar,
    /// Somebody has given memory back.
    room: Condvar,
    longest_wait: Mutex<Duration>,
    clock: fn() -> Instant,
}

#[derive(Default)]
struct State {
    /// What waits, by the address that it came from.
    waiting: HashMap<u128, VecDeque<Job>>,
    /// The addresses in the order that they have their turns.
    turns: VecDeque<u128>,
    count: usize,
    /// Bytes that the threads hold.
    held: usize,
    /// The most that they ever held.
    peak: usize,
    over: bool,
}

impl Pool {
    /// Starts so many threads.
    ///
    /// # Errors
    /// If the system gives none.
    pub(super) fn start(threads: usize, longest_wait: Duration, clock: fn() -> Instant) -> io::Result<Pool> {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            longest_wait: Mutex::new(longest_wait),
            clock,
        });
        let pool = Pool { inner, threads: Mutex::default() };
        pool.grow(threads)?;
        Ok(pool)
    }

    /// Has so many threads at least.
    ///
    /// # Errors
    /// If the system gives none.
    pub(super) fn grow(&self, most: usize) -> io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for number in threads.len()..most {
            let inner = self.inner.clone();
            let thread = thread::Builder::new().name(format!("auth-{number}"));
            threads.push(thread.spawn(move || inner.run())?);
        }
        Ok(())
    }

    /// Sets how long something may wait before it is not done.
    pub(super) fn set_longest_wait(&self, longest: Duration) {
        *self.inner.longest_wait.lock().unwrap_or_else(PoisonError::into_inner) = longest;
    }

    /// Puts something behind what waits from the same address. If too much waits, what came last from the address that
    /// has most of it is not done.
    pub(super) fn submit(&self, from: Option<IpAddr>, memory: usize, work: Work) {
        let from = source(from);
        let job = Job { since: (self.inner.clock)(), memory, work };
        let mut state = self.inner.lock();
        state.push(from, job);
        let refused = if state.count > MOST_WAITING { state.pop_last_of_fullest() } else { None };
        drop(state);
        self.inner.work.notify_one();
        if let Some(refused) = refused {
            (refused.work)(None);
        }
    }

    /// The most bytes that the threads have held together.
    pub(super) fn peak(&self) -> usize {
        self.inner.lock().peak
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.lock().over = true;
        self.inner.work.notify_all();
        self.inner.room.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // Who is connected comes before those who want to be. It is a favour, and no harm if the system refuses it.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
        let mut workspace = Workspace::default();
        let mut held = 0;
        while let Some(job) = self.next(&mut workspace, &mut held) {
            let longest = *self.longest_wait.lock().unwrap_or_else(PoisonError::into_inner);
            if (self.clock)().saturating_duration_since(job.since) > longest {
                (job.work)(None);
                continue;
            }
            if self.make_room(job.memory, &mut workspace, &mut held) {
                (job.work)(Some(&mut workspace));
            }
        }
    }

    /// What is next, once there is something; memory is given back when there is nothing.
    fn next(&self, workspace: &mut Workspace, held: &mut usize) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            if let Some(job) = state.pop() {
                return Some(job);
            }
            if *held > 0 {
                drop(state);
                self.give_back(workspace, held);
                state = self.lock();
                continue;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the memory for a job out of that for all; whether it is not over.
    fn make_room(&self, memory: usize, workspace: &mut Workspace, held: &mut usize) -> bool {
        if memory <= *held {
            return true;
        }
        // Whoever waits for more holds nothing, so that somebody can always go on.
        self.give_back(workspace, held);
        let memory = memory.min(MEMORY);
        let mut state = self.lock();
        while state.held + memory > MEMORY && !state.over {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held += memory;
        state.peak = state.peak.max(state.held);
        *held = memory;
        !state.over
    }

    fn give_back(&self, workspace: &mut Workspace, held: &mut usize) {
        workspace.clear();
        self.lock().held -= std::mem::take(held);
        self.room.notify_all();
    }
}

impl State {
    fn push(&mut self, from: u128, job: Job) {
        let own = self.waiting.entry(from).or_default();
        if own.is_empty() {
            self.turns.push_back(from);
        }
        own.push_back(job);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<Job> {
        let from = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&from)?;
        let job = own.pop_front()?;
        self.count -= 1;
        if own.is_empty() {
            self.waiting.remove(&from);
        } else {
            self.turns.push_back(from);
        }
        Some(job)
    }

    fn pop_last_of_fullest(&mut self) -> Option<Job> {
        let (&from, own) = self.waiting.iter_mut().max_by_key(|(_, own)| own.len())?;
        let job = own.pop_back()?;
        self.count -= 1;
        if own.is_empty() {
            self.waiting.remove(&from);
            self.turns.retain(|other| *other != from);
        }
        Some(job)
    }
}

/// Whom something is put down to: an address, or a /64 network, for whoever has one IPv6 address has as many as that.
/// All that come without an address come from this machine.
pub(super) fn source(address: Option<IpAddr>) -> u128 {
    match address.map(|address| address.to_canonical()) {
        None => 0,
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().to_bits(),
        Some(IpAddr::V6(v6)) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    /// A pool of one thread that is busy until something is sent.
    fn busy(longest: Duration) -> (Pool, mpsc::Sender<()>) {
        let pool = Pool::start(1, longest, Instant::now).expect("a thread");
        let (go, gone) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let work = move |_: Option<&mut Workspace>| {
            began.send(()).expect("the test waits");
            let _ = gone.recv();
        };
        pool.submit(address(9), 0, Box::new(work));
        begins.recv().expect("it begins");
        (pool, go)
    }

    #[test]
    fn addresses_have_their_turns_whoever_has_most() {
        let (pool, go) = busy(LONG);
        let (done, order) = mpsc::channel();
        for (from, name) in [(1, "a"), (1, "b"), (1, "c"), (2, "d"), (3, "e")] {
            let done = done.clone();
            pool.submit(address(from), 0, Box::new(move |_| done.send(name).expect("the test waits")));
        }
        go.send(()).expect("it is busy");
        let order: Vec<_> = order.iter().take(5).collect();
        assert_eq!(order, ["a", "d", "e", "b", "c"]);
    }

    #[test]
    fn at_the_bound_the_fullest_address_loses_its_last() {
        let (pool, go) = busy(LONG);
        let (done, outcomes) = mpsc::channel();
        for number in 0..=MOST_WAITING {
            let done = done.clone();
            let from = if number == MOST_WAITING { 2 } else { 1 };
            let work = move |room: Option<&mut Workspace>| {
                done.send((number, room.is_some())).expect("the test waits");
            };
            pool.submit(address(from), 0, Box::new(work));
        }
        assert_eq!(outcomes.recv(), Ok((MOST_WAITING - 1, false)));
        go.send(()).expect("it is busy");
        assert_eq!(outcomes.iter().take(MOST_WAITING).filter(|(_, done)| *done).count(), MOST_WAITING);
    }

    #[test]
    fn what_has_waited_for_too_long_is_not_done() {
        let (pool, go) = busy(LONG);
        let (done, outcomes) = mpsc::channel();
        let work = move |room: Option<&mut Workspace>| done.send(room.is_some()).expect("the test waits");
        pool.submit(address(1), 0, Box::new(work));
        pool.set_longest_wait(Duration::ZERO);
        go.send(()).expect("it is busy");
        assert_eq!(outcomes.recv(), Ok(false));
    }

    #[test]
    fn the_threads_together_keep_within_the_memory() {
        let pool = Pool::start(4, LONG, Instant::now).expect("threads");
        let (done, outcomes) = mpsc::channel();
        for number in 0..64 {
            let done = done.clone();
            let memory = MEMORY / (1 + number % 5);
            pool.submit(
                address(1),
                memory,
                Box::new(move |room| {
                    done.send(room.is_some()).expect("the test waits");
                }),
            );
        }
        assert!(outcomes.iter().take(64).all(|done| done));
        assert!(pool.peak() <= MEMORY && pool.peak() > 0);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let ip = |text: &str| source(Some(text.parse().expect("an address")));
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("10.0.0.1"), ip("::ffff:10.0.0.1"));
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    }
}
