//! When descriptors run out: clients wait, the broker itself does not, and a reload that cannot read its files changes
//! nothing.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::*;
use crate::common::process::Process;

/// Strangers may stay, for they are what takes the descriptors here.
const CONFIG: &str = "shards = 2
[[listener]]
bind = \"127.0.0.1:0\"
allow_anonymous = true
[limits]
max_handshakes = 10000
max_handshakes_per_address = 10000
connect_timeout = \"10m\"
[store]
segment_size = \"1MiB\"
";

/// Waits until a condition holds that nothing announces.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn hang_up(process: &Process, expected: &str) {
    let before = process.log().matches(expected).count();
    let sent = Command::new("kill").args(["-HUP", &process.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    eventually(expected, || process.log().matches(expected).count() > before);
}

fn crowd(process: &Process, size: usize) -> Vec<TcpStream> {
    let address = process.addresses[0];
    (0..size).map(|_| TcpStream::connect(address).expect("in the backlog")).collect()
}

/// How many descriptors the process has.
fn opened(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count()
}

/// Hundredths of a second of a processor that the process has used.
fn ticks(process: &Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn clients_wait_for_descriptors_and_store_and_reload_have_theirs() {
    let process = Process::start_limited(CONFIG, 128);
    let address = process.addresses[0];
    let (mut taker, _) = Client::resume(address, Version::V5, "taker");
    taker.subscribe("t", QoS::AtLeastOnce);
    let strangers = crowd(&process, 200);
    eventually("it says so", || process.log().contains("cannot accept connections for now"));
    // The store has opened no segment yet.
    assert_eq!(taker.publish("t", QoS::AtLeastOnce, b"kept"), ReasonCode::Success);
    taker.expect_publish("t", b"kept");
    hang_up(&process, "INFO reloaded");
    let (before, time) = (ticks(&process), Instant::now());
    while time.elapsed() < Duration::from_secs(2) {
        taker.ping();
        thread::sleep(Duration::from_millis(100));
    }
    let used = ticks(&process) - before;
    assert!(opened(&process) < 120, "nothing is left for the broker itself");
    assert!(used <= 10, "{used} % of a processor for 2 s, twice of what may be");
    let start = Instant::now();
    drop(strangers);
    Client::connect(address, Version::V5, "after").ping();
    taker.ping();
    let opened = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count();
    println!(
        "{used} hundredths of a processor's second in 2 s at the limit, {:?} until clients came in, {opened} descriptors",
        start.elapsed()
    );
}

/// Lets the process have no more descriptors than it has, or so many more.
fn limit(process: &Process, spare: u64) {
    let numbers = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    let names = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let taken: Vec<u64> = names.collect();
    let limit = (0..).find(|number| !taken.contains(number)).expect("a number") + spare;
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process");
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(4096) })
        .expect("its own");
}

#[test]
fn a_reload_without_free_descriptors_keeps_the_old_configuration_and_says_so() {
    let process = Process::start(CONFIG, |_| {});
    let address = process.addresses[0];
    let mut steady = Client::connect(address, Version::V5, "steady");
    let narrow = CONFIG.replace("[limits]", "[limits]\ntopic_length = \"3B\"");
    fs::write(process.folder.path().join("weirmq.toml"), narrow).expect("written");
    limit(&process, 0);
    let strangers = crowd(&process, 20);
    eventually("it says so", || process.log().contains("cannot accept connections for now"));
    hang_up(&process, "not reloaded: everything stays as it was");
    assert!(process.log().contains("Too many open files"), "{}", process.log());
    assert_eq!(steady.publish("four", QoS::AtLeastOnce, b""), ReasonCode::NoMatchingSubscribers);
    limit(&process, 100);
    drop(strangers);
    hang_up(&process, "INFO reloaded");
    assert_eq!(steady.publish("four", QoS::AtLeastOnce, b""), ReasonCode::TopicNameInvalid);
    Client::connect(address, Version::V5, "after").ping();
}
