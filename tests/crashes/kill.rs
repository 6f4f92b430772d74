//! SIGKILL at random moments.

use std::time::Duration;

use crate::common::process::Process;
use crate::scene::{Plan, Scene};

/// A broker's configuration with its data in this folder, `{dir}` being its own, and more keys of `[store]`.
pub fn config(data: &str, store: &str) -> String {
    format!(
        "data_dir = \"{data}\"\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n\
         [store]\nsegment_size = \"1MiB\"\n{store}\n"
    )
}

/// How often, unless this variable says otherwise.
pub fn times(variable: &str, default: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.map_or(default, |times| times.parse().unwrap_or_else(|_| panic!("{variable} is no number: {times}")))
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_the_process_is_killed() {
    let plan =
        Plan { crashes: times("WEIRMQ_CRASHES", 4), patience: Duration::from_secs(20), until_loss: false };
    let broker = Process::start(&config("{dir}/data", ""), |_| {});
    Scene::run(broker, &plan, &mut Process::kill).expect_flawless();
}

/// What proves the test above.
#[test]
fn a_broker_that_keeps_nothing_is_found_out() {
    let plan = Plan { crashes: 1, patience: Duration::from_secs(2), until_loss: true };
    let broker = Process::start(&config("{dir}/data", "sync = \"off\""), |_| {});
    let report = Scene::run(broker, &plan, &mut Process::kill);
    assert!(report.lost > 0, "{report}");
    assert!(report.sessions_lost > 0, "{report}");
    assert!(report.subscriptions_lost > 0, "{report}");
    assert!(report.retained_wrong > 0, "{report}");
}

/// And what proves it the other way round: nobody dies, and nothing is found.
#[test]
fn a_broker_that_lives_is_found_flawless() {
    let plan = Plan { crashes: 2, patience: Duration::from_secs(20), until_loss: false };
    Scene::run(Process::start(&config("{dir}/data", ""), |_| {}), &plan, &mut |_| {}).expect_flawless();
}
