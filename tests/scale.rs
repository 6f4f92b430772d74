//! Backlogs far larger than memory: millions of messages for one absent client, for a thousand of them, and one message
//! for ten thousand. Memory stays as it is, a restart is quick, and everything comes out in order. `WEIRMQ_SCALE` says how
//! many messages (5,000,000 in full), `WEIRMQ_FANOUT` how many clients for one message (10,000 in full).
#![allow(missing_docs)]

mod common {
    pub mod process;
}

#[path = "../examples/support/client.rs"]
mod client;

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use common::process::Process;
use weirmq::protocol::packet::{Packet, PacketId};

/// The defaults, all of them.
const CONFIG: &str = r#"
data_dir = "{dir}/data"

[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
"#;

const MIB: u64 = 1024 * 1024;

/// Resident memory above that of the idle broker, whatever waits on disk.
const MEMORY: usize = 64 * MIB as usize;

/// Until a restarted broker serves, whatever waits on disk.
const RESTART: Duration = Duration::from_secs(3);

/// What the data folder may take when nothing waits any more: the journal's budget and a little.
const LEFT: u64 = (256 + 64) * MIB;

/// And when.
const TIDY: Duration = Duration::from_secs(60);

const SIZE: usize = 256;

/// Publishes that wait for their acknowledgement, at most.
const WINDOW: usize = 900;

fn count(variable: &str, default: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.map_or(default, |count| count.parse().unwrap_or_else(|_| panic!("{variable} is no number: {count}")))
}

fn payload(number: usize) -> [u8; SIZE] {
    let mut payload = [b'.'; SIZE];
    payload[..8].copy_from_slice(&(number as u64).to_be_bytes());
    payload
}

/// Opens a session that is kept, subscribes it, and leaves.
fn subscribe(address: SocketAddr, name: &str, filter: &str) {
    let (mut client, present) = Client::resume(address, name).expect("the broker is there");
    assert!(!present);
    client.subscribe(filter).expect("the broker is there");
}

/// Publishes so many messages, each to the topic of its number; the longest that one waited for its acknowledgement.
fn publish(address: SocketAddr, messages: usize, topic: impl Fn(usize) -> String) -> Duration {
    let mut client = Client::connect(address, "publisher", false).expect("the broker is there");
    let mut open: VecDeque<(PacketId, Instant)> = VecDeque::new();
    let (mut sent, mut longest) = (0, Duration::ZERO);
    while sent < messages || !open.is_empty() {
        // Half a window at a time: many to a write.
        while sent < messages && open.len() < WINDOW {
            let id = PacketId::MIN.saturating_add((sent % 60_000) as u16);
            client.publish(&topic(sent), id, &payload(sent));
            open.push_back((id, Instant::now()));
            sent += 1;
        }
        client.flush().expect("the broker is there");
        while !open.is_empty() && (open.len() > WINDOW / 2 || sent == messages) {
            let Packet::PubAck(ack) = client.next().expect("the broker is there") else {
                panic!("no PUBACK")
            };
            let (id, since) = open.pop_front().expect("one was open");
            assert_eq!((ack.packet_id, ack.reason.is_failure()), (id, false), "{ack:?}");
            longest = longest.max(since.elapsed());
        }
    }
    longest
}

/// Takes what waits for a session: these numbers, in this order, and nothing else.
fn drain(address: SocketAddr, name: &str, numbers: impl Iterator<Item = usize>) {
    let (mut client, present) = Client::resume(address, name).expect("the broker is there");
    assert!(present, "the session of {name} is gone");
    for number in numbers {
        let packet_id = match client.next().expect("the broker is there") {
            Packet::Publish(publish) => {
                assert!(publish.payload == payload(number), "{name}: not message {number}");
                publish.packet_id.expect("QoS 1")
            }
            other => panic!("{name}: not message {number}: {other:?}"),
        };
        client.acknowledge(packet_id).expect("the broker is there");
    }
    client.put(&Packet::PingReq);
    client.flush().expect("the broker is there");
    assert!(matches!(client.next().expect("the broker is there"), Packet::PingResp), "{name}: one too many");
}

/// What the files of a folder take on the disk.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| match entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata))) {
            Ok((entry, metadata)) if metadata.is_dir() => size(&entry.path()),
            Ok((_, metadata)) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
            // Just removed.
            Err(_) => 0,
        })
        .sum()
}

/// Does something while the broker's memory is watched; the most that it took.
fn watched<T>(broker: &Process, work: impl FnOnce() -> T) -> (T, usize) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Relaxed) {
                most = most.max(broker.resident());
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Relaxed);
        let most = watch.join().expect("the broker runs");
        (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), most)
    })
}

/// A backlog is built, the broker killed and restarted, and the backlog drained.
fn backlog(what: &str, sessions: usize, messages: usize) {
    let mut broker = Process::start(CONFIG, |_| {});
    let name = |session: usize| format!("session-{session}");
    for session in 0..sessions {
        subscribe(broker.addresses[0], &name(session), &format!("t/{session}"));
    }
    let idle = broker.resident();
    let start = Instant::now();
    let topic = |number: usize| format!("t/{}", number % sessions);
    let (longest, most) = watched(&broker, || publish(broker.addresses[0], messages, topic));
    let data = broker.folder.path().join("data");
    let (filled, full) = (start.elapsed(), size(&data));

    broker.kill();
    let restart = broker.restart();
    let start = Instant::now();
    let ((), most_draining) = watched(&broker, || {
        for session in 0..sessions {
            drain(broker.addresses[0], &name(session), (session..messages).step_by(sessions));
        }
    });
    let drained = start.elapsed();
    let start = Instant::now();
    while size(&data) > LEFT && start.elapsed() < TIDY {
        thread::sleep(Duration::from_millis(100));
    }
    let (tidied, left) = (start.elapsed(), size(&data));

    let mib = |bytes: usize| bytes as u64 / MIB;
    println!(
        "{what}: {messages} messages for {sessions} sessions in {filled:.1?}, the longest wait for an acknowledgement \
         {longest:.1?}; the folder takes {} MiB; it serves {restart:.1?} after kill -9; drained in {drained:.1?}; {} MiB are \
         left {tidied:.1?} later; resident: idle {} MiB, filling {} MiB, draining {} MiB",
        full / MIB,
        left / MIB,
        mib(idle),
        mib(most),
        mib(most_draining),
    );
    assert!(most < idle + MEMORY, "memory while filling: {} MiB", mib(most));
    assert!(most_draining < idle + MEMORY, "memory while draining: {} MiB", mib(most_draining));
    assert!(restart < RESTART, "it serves only {restart:?} after kill -9");
    assert!(left < LEFT, "the folder still takes {} MiB", left / MIB);
}

#[test]
fn a_backlog_of_one_session_costs_no_memory_and_comes_out_in_order() {
    backlog("one", 1, count("WEIRMQ_SCALE", 20_000));
}

#[test]
fn a_backlog_of_a_thousand_sessions_costs_no_memory_and_comes_out_in_order() {
    let messages = count("WEIRMQ_SCALE", 20_000);
    backlog("a thousand", if messages < 100_000 { 100 } else { 1000 }, messages / 5);
}

/// Bytes of the segments that are not zero any more, each up to its last one.
fn written(data: &Path) -> u64 {
    let segments = fs::read_dir(data).expect("a folder").map(|entry| entry.expect("an entry").path());
    segments
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .map(|path| fs::read(path).expect("a segment"))
        .map(|bytes| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
        .sum()
}

/// The same once nothing is written any more: clients that went leave records behind them.
fn settled(data: &Path) -> u64 {
    let mut before = written(data);
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = written(data);
        if now == before {
            return now;
        }
        before = now;
    }
}

/// How often something stands in the folder's files.
fn occurrences(data: &Path, what: &[u8]) -> usize {
    let files = fs::read_dir(data).expect("a folder").map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| path.is_file())
        .map(|path| fs::read(path).expect("a file"))
        .map(|bytes| bytes.windows(what.len()).filter(|window| *window == what).count())
        .sum()
}

#[test]
fn one_message_for_many_sessions_is_stored_once() {
    const REFERENCE: u64 = 4;
    let sessions = count("WEIRMQ_FANOUT", 1000);
    let mut broker = Process::start(CONFIG, |_| {});
    let address = broker.addresses[0];
    let name = |session: usize| format!("session-{session}");
    for session in 0..sessions {
        subscribe(address, &name(session), "news");
    }
    let data = broker.folder.path().join("data");
    let before = settled(&data);
    publish(address, 1, |_| "news".to_owned());
    let took = settled(&data) - before;
    let most = sessions as u64 * REFERENCE + SIZE as u64 + 1024;
    println!("one message of {SIZE} bytes for {sessions} sessions: {took} bytes of journal");
    assert!(took < most, "{took} bytes, at most {most} are allowed");

    broker.kill();
    assert_eq!(occurrences(&data, &payload(0)), 1, "the body is to be stored once");
    broker.restart();
    for session in 0..sessions {
        drain(broker.addresses[0], &name(session), 0..1);
    }
}
