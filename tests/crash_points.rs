//! A crash in the middle of every call that changes the disk, of a fixed script and of the restarts behind it. The script has
//! each record that something waits for, segments that are retired, emptied and used again, and restarts of its own. Behind
//! every crash all that was durable is there, and what is there is what some prefix of the records means: nothing else.
//!
//! `WEIRMQ_CRASHES` is how many ways to lose what was not synced are tried at each call; without it, one at some calls.
#![allow(missing_docs)]

#[path = "common"]
mod common {
    pub mod sim_disk;
    pub mod store_model;
}

#[path = "simulation"]
mod simulation {
    pub mod machine;
    pub mod store;
}

mod crash_points {
    pub mod script;
}

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::sim_disk::{EIO, ENOSPC, Outage, SimDisk, mix};
use crash_points::script::{Ran, Script, Trouble};

/// What is lost of what was not synced, the `choice`th time at a call.
fn outage(call: u64, choice: u64) -> Outage {
    let number = mix(&[call, choice]);
    if number.is_multiple_of(4) { Outage::Kill } else { Outage::Power(number) }
}

/// Which of so many calls are tried, with how many choices.
fn plan(calls: u64) -> Vec<(u64, u64)> {
    let choices = std::env::var("WEIRMQ_CRASHES").ok();
    let choices = choices.map(|choices| choices.parse().expect("WEIRMQ_CRASHES is a number"));
    let every = if choices.is_some() { 1 } else { 17 };
    let tried = (1..=calls).step_by(every);
    tried.flat_map(|call| (0..choices.unwrap_or(1)).map(move |choice| (call, choice))).collect()
}

/// Tries each of `plan`, on all the cores there are.
fn each(plan: &[(u64, u64)], attempt: impl Fn(u64, u64) + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some((call, choice)) = plan.get(next.fetch_add(1, Relaxed)) {
            attempt(*call, *choice);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8));
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
}

/// Runs the script through, and counts.
fn whole() -> Script {
    let mut script = Script::new(SimDisk::new(1, 1 << 30), Trouble::None);
    assert_eq!(script.run(), Ran::Through);
    script
}

#[test]
fn the_script_does_what_it_is_for() {
    let mut script = whole();
    let seen = script.seen.clone();
    for record in [
        "Message",
        "Released",
        "Sent",
        "Stepped",
        "Completed",
        "Acked",
        "Session",
        "SessionEnded",
        "Subscribed",
        "Unsubscribed",
        "Copied",
        "Replayed",
        "GroupEnded",
    ] {
        assert!(seen.contains(record), "no {record}: {seen:?}");
    }
    for chore in ["Retire", "Evacuate", "Spare"] {
        assert!(seen.contains(chore), "no {chore}: {seen:?}");
    }
    assert!(script.reused(), "no segment's file was used again");
    let calls = script.disk.calls();
    script.crash(Outage::Power(0));
    script.check();
    assert!(calls > 200, "{calls} calls");
}

#[test]
fn a_crash_in_any_call_loses_nothing_that_was_durable_and_makes_nothing_up() {
    let calls = whole().disk.calls();
    each(&plan(calls), |call, choice| {
        let disk = SimDisk::new(mix(&[call, choice]), 1 << 30);
        let mut script = Script::new(disk, Trouble::Crash(call));
        assert_eq!(script.run(), Ran::Down, "call {call} of {calls}");
        script.crash(outage(call, choice));
        script.check();
        // It goes on from there, and that holds, too.
        assert_eq!(script.run_more(), Ran::Through, "behind a crash in call {call}");
        script.crash(Outage::Power(0));
        script.check();
    });
}

#[test]
fn a_crash_in_any_call_of_a_restart_loses_nothing_either() {
    let calls = whole().disk.calls();
    let plan: Vec<_> = plan(calls).into_iter().step_by(5).collect();
    each(&plan, |call, choice| {
        for behind in 1.. {
            let mut script = Script::new(SimDisk::new(call, 1 << 30), Trouble::Crash(call));
            assert_eq!(script.run(), Ran::Down);
            let down = script.crash_again(outage(call, choice), behind, outage(call, behind));
            script.check();
            if !down {
                break;
            }
        }
    });
}

#[test]
fn an_error_of_the_disk_loses_nothing_that_was_durable() {
    each(&plan(whole().disk.calls()), |call, choice| {
        let mut script = Script::new(SimDisk::new(call, 1 << 30), Trouble::Error(call, EIO));
        // In what nobody waits for it may be met again later; in a commit it is final.
        let _ran = script.run();
        script.crash(outage(call, choice));
        script.check();
    });
}

#[test]
fn no_room_in_any_call_loses_nothing_that_was_durable() {
    let through = AtomicUsize::new(0);
    each(&plan(whole().disk.calls()), |call, choice| {
        let mut script = Script::new(SimDisk::new(call, 1 << 30), Trouble::Error(call, ENOSPC));
        through.fetch_add((script.run() == Ran::Through).into(), Relaxed);
        script.crash(outage(call, choice));
        script.check();
    });
    assert!(through.into_inner() > 0, "no room is final wherever it shows");
}
