//! What is said between the broker and whoever started it, with a stand-in for systemd at the other end.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weirmq::protocol::packet::*;

use crate::common::client::*;
use crate::common::process::Process;
use crate::manager::Manager;
use crate::{CONFIG, eventually, send_signal, signal};

fn started(manager: &Manager, more: &[&str]) -> Process {
    Process::launch(manager.launcher(more), CONFIG, |_| {}).expect("it comes up")
}

#[test]
fn it_says_ready_reloading_and_stopping_and_ends_in_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for manager in [Manager::abstract_named("states"), Manager::at(&folder.path().join("notify"))] {
        let mut process = started(&manager, &[]);
        let address = process.addresses[0];
        assert_eq!(manager.expect("READY=1"), format!("READY=1\nSTATUS=Serving on {address}"));
        let _client = Client::connect(address, Version::V5, "client");
        let before = monotonic();
        signal(&process, "HUP");
        let reloading = manager.expect("RELOADING=1");
        let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
        let at: u64 = at.parse().expect("a number");
        assert!((before..=monotonic()).contains(&at), "{before} {at}");
        manager.expect("READY=1");
        let start = Instant::now();
        signal(&process, "TERM");
        manager.expect("STOPPING=1");
        assert_eq!(process.wait(), Some(0), "{}", process.log());
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

/// Microseconds on the clock that systemd compares with.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec * 1_000_000 + now.tv_nsec / 1000) as u64
}

#[test]
fn ready_is_said_after_a_failed_reload_too_and_names_the_mistake() {
    let manager = Manager::abstract_named("mistake");
    let process = started(&manager, &[]);
    manager.expect("READY=1");
    let file = process.folder.path().join("weirmq.toml");
    std::fs::write(&file, "shards = 2\nshard = 3\n").expect("written");
    signal(&process, "HUP");
    manager.expect("RELOADING=1");
    let ready = manager.expect("READY=1");
    assert!(ready.contains("the last reload failed") && ready.contains("weirmq.toml:2:1"), "{ready}");
    assert_eq!(ready.lines().count(), 2);
    Client::connect(process.addresses[0], Version::V5, "client").ping();
}

#[test]
fn signs_of_life_come_often_enough_and_not_at_all_for_another_process() {
    let manager = Manager::abstract_named("life");
    let mut process = started(&manager, &["WATCHDOG_USEC=400000"]);
    for _ in 0..5 {
        manager.expect("WATCHDOG=1");
    }
    process.kill();
    let other = Manager::abstract_named("not-its-life");
    let process = started(&other, &["WATCHDOG_USEC=40000", "WATCHDOG_PID=1"]);
    other.expect("READY=1");
    signal(&process, "HUP");
    // There would have been many before this.
    assert!(other.message(PATIENCE).expect("a message").starts_with("RELOADING=1"));
}

/// Lets one system call of a thread take long: the thread is stuck, and no other is.
struct Stalled(Child);

impl Stalled {
    fn new(thread: &str, call: &str) -> Stalled {
        let inject = format!("inject={call}:delay_enter=20000000");
        let mut command = Command::new("strace");
        command.args(["-q", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "-p", thread]);
        Stalled(command.stderr(Stdio::null()).spawn().expect("strace runs"))
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number of the broker's thread with this name.
fn thread_of(process: &Process, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("its threads");
    let named = tasks.filter_map(|task| {
        let path = task.ok()?.path();
        let comm = std::fs::read_to_string(path.join("comm")).ok()?;
        (comm.trim() == name).then(|| path.file_name().map(|id| id.to_string_lossy().into_owned()))?
    });
    named.last().unwrap_or_else(|| panic!("no thread {name}"))
}

fn is_fed(manager: &Manager, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    std::iter::from_fn(|| manager.message(deadline.saturating_duration_since(Instant::now()).max(MOMENT)))
        .any(|message| message.starts_with("WATCHDOG=1"))
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_stuck_shard_or_a_stuck_store_gives_no_sign_of_life() {
    for (thread, call) in [("shard-1", "epoll_wait"), ("store", "fdatasync")] {
        let manager = Manager::abstract_named(&format!("stuck-{thread}"));
        let process = started(&manager, &["WATCHDOG_USEC=200000"]);
        // The one that is asked lives on the other shard or on both; who publishes does not wait for the answer.
        let mut client = Client::connect(process.addresses[0], Version::V5, "client");
        client.send_bytes(b"");
        manager.expect("WATCHDOG=1");
        let mut durable = Client::open(process.addresses[0], Version::V5);
        let expiry = [0x11, 0, 0, 1, 0];
        durable.send_bytes(
            &[&[0x10, 19, 0, 4], b"MQTT".as_slice(), &[5, 2, 0, 0, 5], &expiry, &[0, 1, b'd']].concat(),
        );
        durable.accepted();
        durable.subscribe("t", QoS::AtLeastOnce);
        let stalled = Stalled::new(&thread_of(&process, thread), call);
        // Until it is attached, life goes on.
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            // Makes the store write, wherever this client lives.
            let _ = client.try_send(&[0x32, 6, 0, 1, b't', 0, 1, 0]);
            if !is_fed(&manager, Duration::from_secs(1)) {
                break;
            }
            assert!(Instant::now() < deadline, "{thread} is not stuck");
        }
        // The process itself is well enough to answer a signal.
        drop(stalled);
        assert!(is_fed(&manager, 2 * PATIENCE), "{thread} moves again");
    }
}

/// A broker with a socket as descriptor 3, as systemd would start it. It ends with this.
struct Activated {
    broker: Child,
    folder: tempfile::TempDir,
}

impl Activated {
    fn start(socket: TcpListener, config: &str, environment: &str) -> Activated {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("weirmq.toml");
        let config = config.replace("{bind}", &socket.local_addr().expect("bound").to_string());
        std::fs::write(&file, config).expect("written");
        // The socket comes as standard input, for want of another way to hand it to a child.
        let script = format!("exec 3<&0 </dev/null; {environment} LISTEN_PID=$$ exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_weirmq")).arg("-c").arg(&file);
        command.current_dir(folder.path()).stdin(Stdio::from(OwnedFd::from(socket)));
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        Activated { broker: command.stderr(log).spawn().expect("it starts"), folder }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it in peace.
    fn stop(&mut self) {
        send_signal(self.broker.id(), "TERM");
        assert!(self.broker.wait().expect("it ends").success());
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}

const ACTIVATED: &str = "[[listener]]\nbind = \"{bind}\"\nallow_anonymous = true\n";

#[test]
fn a_socket_that_was_handed_over_is_used_and_clients_wait_in_it() {
    let socket = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = socket.local_addr().expect("bound");
    // It connects before there is a broker, and is served by the one that comes.
    let mut early = Client::open(address, Version::V5);
    let keeper = socket.try_clone().expect("a descriptor");
    let mut broker = Activated::start(socket, ACTIVATED, "LISTEN_FDS=1 LISTEN_FDNAMES=mqtt");
    early.hello("early");
    early.ping();
    broker.stop();
    let log = broker.log();
    assert!(!log.contains("WARN"), "{log}");
    // Nobody is refused between two lives of the broker.
    let mut between = Client::open(address, Version::V5);
    let mut broker = Activated::start(keeper, ACTIVATED, "LISTEN_FDS=1");
    between.hello("between");
    broker.stop();
}

#[test]
fn a_socket_is_found_by_its_name_whatever_its_address_is() {
    let socket = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = socket.local_addr().expect("bound");
    let named = "[[listener]]\nbind = \"127.0.0.1:0\"\nsocket_name = \"outer\"\nallow_anonymous = true\n";
    let mut broker = Activated::start(socket, named, "LISTEN_FDS=1 LISTEN_FDNAMES=outer");
    Client::connect(address, Version::V5, "client").ping();
    broker.stop();
    let log = broker.log();
    assert!(log.contains(&format!("listening address={address}")) && !log.contains("WARN"), "{log}");
    // A name that another listener has not asked for is as good as none.
    let socket = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let mut broker = Activated::start(socket, named, "LISTEN_FDS=1 LISTEN_FDNAMES=inner");
    eventually("it is said", || broker.log().contains("name=\"inner\""));
    eventually("it listens elsewhere", || broker.log().contains("listening address"));
    broker.stop();
}

#[test]
fn a_socket_that_no_listener_has_is_named_in_the_log() {
    let socket = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let other = ACTIVATED.replace("{bind}", "127.0.0.1:0");
    let mut broker = Activated::start(socket, &other, "LISTEN_FDS=1");
    eventually("it is said", || broker.log().contains("no listener has its address"));
    eventually("it listens elsewhere", || broker.log().contains("listening address"));
    broker.stop();
}
