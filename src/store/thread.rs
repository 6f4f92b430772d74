//! The store on real threads: one commits, one reads pages, one does the chores.

use std::any::Any;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::error;

use super::chore::Chore;
use super::disk::Disk;
use super::engine::{Engine, Failure};
use super::error::OpenError;
use super::fifo::{Exchange, JournalStore, Waker};
use super::open::{Prepared, StoreOptions, prepare};
use super::pages::PageJob;
use super::restored::Restored;
use crate::clock::Clock;

/// How long the store sleeps at most while it has something to look after.
const TICK: Duration = Duration::from_millis(500);

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// What outlived the last process.
    pub restored: Restored,
    /// The shards' handles, one per waker.
    pub handles: Vec<JournalStore>,
    /// Its threads.
    pub running: Running,
}

/// The threads of a store. Dropping it stops them, too.
#[derive(Debug)]
pub struct Running {
    exchange: Arc<Exchange>,
    threads: Vec<JoinHandle<()>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

/// Opens the store in a folder and starts its threads. `now` is asked for the time of each batch; each waker wakes a shard
/// when the store has something for it; `failed` is told once, if the store fails for good: from then on nothing becomes
/// durable.
///
/// # Errors
/// Those of [`prepare`], and when the system gives no threads.
pub fn open(
    disk: Arc<dyn Disk>,
    options: &StoreOptions,
    clock: Clock,
    now: fn() -> Instant,
    wakers: Vec<Waker>,
    failed: impl FnOnce(String) + Send + 'static,
) -> Result<Opened, OpenError> {
    let Prepared { restored, handles, engine, exchange, clock, report: _ } =
        prepare(disk, options, clock, wakers)?;
    let (pages, page_jobs) = channel();
    let (chores, chore_jobs) = channel();
    let failure = Arc::new(Mutex::new(None));
    let mut running =
        Running { exchange: Arc::clone(&exchange), threads: Vec::new(), failure: Arc::clone(&failure) };
    let store = Store { engine, exchange, clock, now, pages, chores };
    running.spawn("store-pages", move || run_all(page_jobs, PageJob::run))?;
    running.spawn("store-chores", move || run_all(chore_jobs, Chore::run))?;
    running.spawn("store", move || {
        if let Err(error) = store.run() {
            error!(%error, "the store has failed: nothing more is acknowledged");
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
            failed(error.0);
        }
    })?;
    Ok(Opened { restored, handles, running })
}

fn run_all<T>(jobs: Receiver<T>, run: impl Fn(T)) {
    jobs.into_iter().for_each(run);
}

impl Running {
    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::io("a thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    /// How to ask the store whether it moves.
    pub fn heart(&self) -> Heart {
        Heart(self.exchange.clone())
    }

    /// Makes durable what has been pushed, and ends.
    ///
    /// # Errors
    /// If that failed, now or before.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.end();
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        self.exchange.stop();
        // The store's own first: the others end when it has let go of their channels.
        for thread in self.threads.drain(..).rev() {
            if thread.join().is_err() {
                let panicked = Failure("a thread of the store panicked".to_owned());
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panicked);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// How to ask the store whether it moves.
#[derive(Debug)]
pub struct Heart(Arc<Exchange>);

impl Heart {
    /// The thread that commits drops `question` when it has made its next step: what it waited for on the disk is over then.
    pub fn ask(&self, question: Box<dyn Any + Send>) {
        self.0.ask(question);
    }

    /// How many places were found damaged on the disk at the start, and how many messages since, that were not delivered.
    pub fn damaged(&self) -> u64 {
        self.0.damaged()
    }
}

/// The thread that commits.
struct Store {
    engine: Engine,
    exchange: Arc<Exchange>,
    clock: Clock,
    now: fn() -> Instant,
    pages: Sender<PageJob>,
    chores: Sender<Chore>,
}

impl Store {
    fn run(mut self) -> Result<(), Failure> {
        loop {
            let wall = self.wall();
            let worked = self.engine.step(wall)?;
            self.hand_out();
            self.exchange.answer();
            if !worked {
                let timeout = self.engine.is_restless().then_some(TICK);
                if self.exchange.wait(timeout, self.engine.is_blocked(wall)) {
                    break;
                }
            }
        }
        self.engine.finish(self.wall())
    }

    fn wall(&self) -> u64 {
        self.clock.wall((self.now)())
    }

    /// Gives the other threads what there is to do. They only end after this one.
    fn hand_out(&mut self) {
        while let Some(job) = self.engine.next_page() {
            let _ = self.pages.send(job);
        }
        while let Some(chore) = self.engine.next_chore() {
            let _ = self.chores.send(chore);
        }
    }
}
