//! The broker under a service manager: what it tells systemd, the watchdog, sockets that are handed over, and the unit
//! itself; and reloads while clients are at work.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

mod authority;
mod load;
mod manager;
mod protocol;
mod reload;
mod unit;
mod withdrawn;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::client::PATIENCE;
use common::process::Process;

const CONFIG: &str = "shards = 2\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

fn signal(process: &Process, name: &str) {
    send_signal(process.id(), name);
}

fn send_signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.expect("sh runs").success());
}

/// Waits until a condition holds that nothing announces.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
