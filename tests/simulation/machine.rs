//! The real store in a run: the engine on a disk in memory, driven step by step. A commit, a page that is read, a chore
//! that is done: each happens when the simulation says so, and a crash between any two of them or in the middle of one.

#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use weirmq::clock::Clock;
use weirmq::store::chore::Chore;
use weirmq::store::engine::{Engine, Failure};
use weirmq::store::error::OpenError;
use weirmq::store::fifo::{JournalStore, Waker};
use weirmq::store::open::{Prepared, StoreOptions, prepare};
use weirmq::store::pages::PageJob;
use weirmq::store::restored::Restored;

use crate::common::sim_disk::{Outage, SimDisk};

/// The store of one process.
#[derive(Debug)]
pub struct Machine {
    pub disk: SimDisk,
    engine: Engine,
    clock: Clock,
    options: StoreOptions,
    pages: VecDeque<PageJob>,
    chore: Option<Chore>,
}

/// What a machine starts with.
#[derive(Debug)]
pub struct Started {
    pub machine: Machine,
    pub handles: Vec<JournalStore>,
    pub restored: Restored,
}

impl Machine {
    /// Opens the store for so many shards.
    ///
    /// # Errors
    /// That the store does not open.
    pub fn start(
        disk: SimDisk,
        options: StoreOptions,
        clock: Clock,
        shards: usize,
    ) -> Result<Started, OpenError> {
        let waker: Waker = Arc::new(|| {});
        let prepared = prepare(Arc::new(disk.clone()), &options, clock, vec![waker; shards])?;
        let Prepared { restored, handles, engine, clock, .. } = prepared;
        let (pages, chore) = (VecDeque::new(), None);
        let machine = Machine { disk, engine, clock, options, pages, chore };
        Ok(Started { machine, handles, restored })
    }

    /// One batch.
    pub fn step(&mut self, now: Instant) -> Result<bool, Failure> {
        let worked = self.engine.step(self.clock.wall(now))?;
        while let Some(job) = self.engine.next_page() {
            self.pages.push_back(job);
        }
        if self.chore.is_none() {
            self.chore = self.engine.next_chore();
        }
        Ok(worked)
    }

    /// Reads the next page; whether there was one to read.
    pub fn read_page(&mut self) -> bool {
        let job = self.pages.pop_front();
        job.map(PageJob::run).is_some()
    }

    /// Does the chore that is to be done, in words.
    pub fn do_chore(&mut self) -> Option<String> {
        let chore = self.chore.take()?;
        let words: String = format!("{chore:?}").chars().skip_while(|c| *c != ':').skip(2).take(8).collect();
        chore.run();
        Some(words)
    }

    /// Whether there is a page to read or a chore to do.
    pub fn has_work(&self) -> bool {
        !self.pages.is_empty() || self.chore.is_some()
    }

    /// Makes everything durable that was pushed.
    pub fn finish(&mut self, now: Instant) -> Result<(), Failure> {
        self.engine.finish(self.clock.wall(now))
    }

    /// Everything is gone that was in memory; the disk and the options are left.
    pub fn crash(self, outage: Outage) -> (SimDisk, StoreOptions) {
        self.disk.crash();
        let Machine { disk, options, .. } = self;
        // The process is gone, whatever its drops still would have written.
        (disk.reboot(outage), options)
    }
}
