//! The store against a simple model: whatever is pushed, asked for, acknowledged and retired, in whatever order the threads
//! of the store get to it and however often it starts anew, each queue gives what it holds, in order, once.
#![allow(missing_docs)]

#[path = "store/bytes.rs"]
mod bytes;
#[path = "store/cases.rs"]
mod cases;
#[path = "store/driver.rs"]
mod driver;
#[path = "store/model.rs"]
mod model;
#[path = "common/sim_disk.rs"]
mod sim_disk;
#[path = "store/threads.rs"]
mod threads;

use driver::{Driver, Tuning};
use proptest::prelude::*;
use sim_disk::Outage;

/// How many seeds are tried; `WEIRMQ_STORE_SEEDS` sets another number.
fn seeds(default: u64) -> u64 {
    std::env::var("WEIRMQ_STORE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn explore(tuning: Tuning, steps: usize) {
    for seed in 0..seeds(30) {
        let mut driver = Driver::new(seed, tuning);
        for _ in 0..steps {
            driver.act();
        }
        driver.calm();
        driver.restart(Outage::Power(seed));
        driver.drain();
    }
}

#[test]
fn with_a_large_budget_everything_stays_in_the_journal() {
    let tuning =
        Tuning { segment_size: 256 * 1024, journal_budget: 1 << 30, table_budget: 1 << 30, crashes: false };
    explore(tuning, 400);
}

#[test]
fn with_a_tiny_journal_everything_goes_to_the_index() {
    let tuning =
        Tuning { segment_size: 16 * 1024, journal_budget: 16 * 1024, table_budget: 1 << 30, crashes: false };
    explore(tuning, 600);
}

#[test]
fn with_a_tiny_table_segments_are_closed_early() {
    let tuning =
        Tuning { segment_size: 64 * 1024, journal_budget: 1 << 30, table_budget: 512, crashes: false };
    explore(tuning, 600);
}

#[test]
fn what_was_durable_outlives_a_crash_in_the_middle_of_anything() {
    for budget in [16 * 1024, 1 << 30] {
        let (segment_size, table_budget) = (16 * 1024, 1 << 30);
        explore(Tuning { segment_size, journal_budget: budget, table_budget, crashes: true }, 600);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        bytes::decodes(&bytes);
    }

    #[test]
    fn any_bytes_open_as_a_journal_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        bytes::opens(&bytes);
    }

    #[test]
    fn a_journal_that_was_changed_gives_only_what_was_written(
        changes in prop::collection::vec((0..6000_u16, 1..=u8::MAX, any::<u8>()), 0..6),
    ) {
        let change = |(at, by, end): (u16, u8, u8)| {
            let [low, high] = at.to_le_bytes();
            [low, high, by, end]
        };
        let changes: Vec<u8> = changes.into_iter().flat_map(change).collect();
        bytes::opens_changed(&changes);
    }
}
