//! The power fails at random moments: what was not synced is gone.

use std::path::Path;
use std::time::Duration;

use crate::common::process::Process;
use crate::disk::Disk;
use crate::kill::{config, times};
use crate::scene::{Plan, Scene};

/// In MiB.
const SIZE: u64 = 512;

fn cut(disk: &Disk, broker: &mut Process) {
    disk.cut_power();
    broker.kill();
    disk.restore_power();
}

fn data(disk: &Disk) -> String {
    Path::join(&disk.path(), "data").display().to_string()
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_the_power_fails() {
    let Some(disk) = Disk::new(SIZE) else { return };
    let plan =
        Plan { crashes: times("WEIRMQ_POWER_CUTS", 2), patience: Duration::from_secs(20), until_loss: false };
    let broker = Process::start(&config(&data(&disk), ""), |_| {});
    Scene::run(broker, &plan, &mut |broker| cut(&disk, broker)).expect_flawless();
}

/// What proves the test above: where nothing is synced, something is lost.
#[test]
fn without_syncing_a_power_failure_is_seen_to_lose_messages() {
    let Some(disk) = Disk::new(SIZE) else { return };
    let plan = Plan { crashes: 5, patience: Duration::from_secs(2), until_loss: true };
    let broker = Process::start(&config(&data(&disk), "sync = \"os\""), |_| {});
    let report = Scene::run(broker, &plan, &mut |broker| cut(&disk, broker));
    assert!(report.lost > 0, "{report}");
}
