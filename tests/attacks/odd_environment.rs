//! Surroundings that nobody planned: a log that nobody reads.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use weirmq::protocol::packet::*;

use crate::CONFIG;
use crate::client::Client;

/// A broker whose standard error is in the hands of the test.
fn start(folder: &Path) -> (Child, BufReader<ChildStderr>, SocketAddr) {
    let file = folder.join("weirmq.toml");
    std::fs::write(&file, CONFIG).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirmq"));
    let mut child =
        command.arg("-c").arg(file).current_dir(folder).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "it ended");
        if let Some(rest) = line.split("listening address=").nth(1) {
            let address = rest.split_whitespace().next().expect("an address");
            break address.parse().expect("an address");
        }
    };
    (child, log, address)
}

fn come_and_go(address: SocketAddr, times: usize) {
    for number in 0..times {
        Client::connect(address, Version::V5, &format!("client-{number}")).disconnect();
    }
}

fn terminate(mut child: Child) -> Option<i32> {
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status();
    assert!(sent.expect("sh runs").success());
    child.wait().expect("it ends").code()
}

#[test]
fn a_log_whose_reader_is_gone_costs_nothing_but_the_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (child, log, address) = start(folder.path());
    drop(log);
    come_and_go(address, 20);
    assert_eq!(terminate(child), Some(0));
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (child, log, address) = start(folder.path());
    // Far more than a pipe takes: two lines each.
    come_and_go(address, 2000);
    assert_eq!(terminate(child), Some(0));
    drop(log);
}
