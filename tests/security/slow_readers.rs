//! Subscribers that hardly read while a publisher sends as fast as it can, and a broker that has little memory: it goes on,
//! and so do the others. The broker is a process in a control group of its own where one can be made, which root may do;
//! elsewhere it keeps to a budget by configuration and says so, or fails where `WEIRMQ_REQUIRE_CGROUP` is set.
//! `WEIRMQ_SLOW_READERS=10000` is the long form, in 1 GiB.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setpriority_process, setrlimit,
};
use socket2::{Domain, Socket, Type};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::*;
use crate::common::process::Process;

const MIB: u64 = 1 << 20;

/// PUBLISH packets of the flood, and bytes in each.
const FLOOD: usize = 5_000;
const PAYLOAD: usize = 1024;

/// A control group with a limit, for as long as this lives.
struct Group {
    folder: PathBuf,
    is_v1: bool,
}

impl Group {
    /// `None` where the system, or who runs this, does not allow it.
    fn make(limit: u64) -> Option<Group> {
        let name = format!("weirmq-test-{}", std::process::id());
        let is_v1 = fs::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes").unwrap_or(false);
        let root = if is_v1 { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
        let folder = PathBuf::from(root).join(name);
        fs::create_dir(&folder).ok()?;
        let group = Group { folder, is_v1 };
        let file = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(group.folder.join(file), limit.to_string()).ok()?;
        if is_v1 {
            // Version 1 counts the buffers of sockets by themselves, and only once they have a limit.
            let _ = fs::write(group.folder.join("memory.kmem.tcp.limit_in_bytes"), limit.to_string());
        }
        Some(group)
    }

    /// Runs a program in it.
    fn launcher(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", self.folder.display());
        ["sh".to_owned(), "-c".to_owned(), script].into()
    }

    fn number(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// The most that was in use: of everything, and of sockets where those are counted by themselves.
    fn peak(&self) -> (u64, u64) {
        match self.is_v1 {
            true => {
                (self.number("memory.max_usage_in_bytes"), self.number("memory.kmem.tcp.max_usage_in_bytes"))
            }
            false => (self.number("memory.peak"), 0),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes are gone by then.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A subscriber whose own buffers are as small as the system allows: what it does not read stays with the broker.
fn slow_reader(address: SocketAddr, name: &str, qos: QoS) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a smaller buffer");
    socket.connect(&address.into()).expect("the broker is there");
    let stream = TcpStream::from(socket);
    let mut client = Client::over(stream.try_clone().expect("a descriptor"), Version::V4);
    client.hello(name);
    client.subscribe("flood", qos);
    stream.set_nonblocking(true).expect("a setting");
    stream
}

/// The time from a healthy publisher to a healthy subscriber, again and again: the median and the 99th percentile.
fn probe(publisher: &mut Client, subscriber: &mut Client, probes: usize) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..probes)
        .map(|_| {
            let start = Instant::now();
            publisher.send(&Packet::Publish(message("probe", QoS::AtMostOnce, "probe")));
            subscriber.expect_publish("probe", b"probe");
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[probes / 2], times[probes * 99 / 100])
}

/// Publishes as fast as the broker takes it, at least [`FLOOD`] messages and until `enough`.
fn flood(address: SocketAddr, name: &str, enough: &AtomicBool) {
    let mut publisher = Client::connect(address, Version::V4, name);
    let mut bytes = Vec::new();
    let payload = "x".repeat(PAYLOAD);
    codec::encode(Version::V4, &Packet::Publish(message("flood", QoS::AtMostOnce, &payload)), &mut bytes);
    let bytes = bytes.repeat(50);
    let mut sent = 0;
    while sent < FLOOD || !enough.load(Relaxed) {
        publisher.send_bytes(&bytes);
        sent += 50;
    }
    // All of it has been read before this is answered.
    publisher.ping();
}

/// Each reads a little in turn, until `enough`. Clients are elsewhere as a rule: what ten thousand of them cost here must
/// not take the processor from the broker, so they have the lowest priority.
fn read_slowly(readers: &mut [TcpStream], enough: &AtomicBool) {
    setpriority_process(None, 19).expect("less is always allowed");
    let mut some = [0; 512];
    while !enough.load(Relaxed) {
        for reader in readers.iter_mut() {
            match reader.read(&mut some) {
                Ok(0) => panic!("a slow reader was closed"),
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("a slow reader: {error}"),
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Floods while `during` runs.
fn under_flood<R>(address: SocketAddr, readers: &mut [TcpStream], during: impl FnOnce() -> R) -> R {
    let (probed, flooded) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| read_slowly(readers, &flooded));
        let flooding = scope.spawn(|| flood(address, "flood", &probed));
        let result = during();
        probed.store(true, Relaxed);
        flooding.join().expect("the publisher is not cut off");
        flooded.store(true, Relaxed);
        result
    })
}

/// A client that comes in, as soon as there is room for it.
fn newcomer(address: SocketAddr) -> Client {
    for _ in 0..400 {
        let mut client = Client::open(address, Version::V5);
        client.send(&Packet::Connect(connect(Version::V5, "newcomer", true)));
        match client.next().packet() {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::ServerBusy => {}
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => return client,
            other => panic!("{other:?}"),
        }
        // The broker looks once a second.
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody comes in any more");
}

fn peak_resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn slow_readers_under_a_flood_cost_neither_the_broker_its_memory_nor_others_their_messages() {
    let count: usize =
        std::env::var("WEIRMQ_SLOW_READERS").map_or(1_000, |text| text.parse().expect("a number"));
    // In the longer form enough messages that what is told is not the moment when ten thousand buffers fill.
    let (limit, probes) = if count > 1_000 { (1024 * MIB, 3_000) } else { (256 * MIB, 300) };
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    let group = Group::make(limit);
    assert!(
        group.is_some() || std::env::var("WEIRMQ_REQUIRE_CGROUP").is_err(),
        "a control group is required"
    );
    let memory = match &group {
        Some(_) => "auto".to_owned(),
        None => {
            println!("no control group can be made here: a budget by configuration instead");
            (limit / 4 * 3).to_string() + "B"
        }
    };
    let config = format!(
        "data_dir = \"{{dir}}/data\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n\
         [limits]\nmemory = \"{memory}\"\n"
    );
    let launcher = group.as_ref().map(Group::launcher).unwrap_or_default();
    let mut broker = Process::launch(launcher, &config, |_| {}).expect("it comes up");
    let address = broker.addresses[0];
    let mut publisher = Client::connect(address, Version::V5, "publisher");
    let mut subscriber = Client::connect(address, Version::V5, "subscriber");
    subscriber.subscribe("probe", QoS::AtMostOnce);
    let quiet = probe(&mut publisher, &mut subscriber, probes);
    let base = under_flood(address, &mut [], || probe(&mut publisher, &mut subscriber, probes));
    let mut readers: Vec<TcpStream> = (0..count)
        .map(|number| {
            let qos = if number % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            slow_reader(address, &format!("slow-{number}"), qos)
        })
        .collect();
    let idle = broker.resident() as u64;
    let during = under_flood(address, &mut readers, || probe(&mut publisher, &mut subscriber, probes));
    assert!(broker.is_running(), "the broker was ended");
    let full = broker.resident() as u64;
    println!("{count} slow readers, the broker within {} MiB", limit / MIB);
    println!(
        "p50, p99 to a healthy subscriber: {quiet:?} quiet, {base:?} flood alone, {during:?} flood and slow readers"
    );
    println!(
        "resident, MiB: {} idle, {} full, {} peak",
        idle / MIB,
        full / MIB,
        peak_resident(&broker) / MIB
    );
    if let Some(group) = &group {
        let (all, sockets) = group.peak();
        println!("control group's peak, MiB: {}, and {} of sockets", all / MIB, sockets / MIB);
        let events = fs::read_to_string(group.folder.join("memory.oom_control")).unwrap_or_default();
        println!("out-of-memory: {}", events.replace('\n', ", "));
    }
    assert!(peak_resident(&broker) < limit);
    // They go, and so does what they held: others come in.
    drop(readers);
    let mut newcomer = newcomer(address);
    newcomer.subscribe("probe", QoS::AtMostOnce);
    probe(&mut publisher, &mut newcomer, 100);
    println!("resident after they are gone, MiB: {}", broker.resident() as u64 / MIB);
    for line in broker.log().lines().filter(|line| line.contains("budget")) {
        println!("{line}");
    }
}

#[test]
fn a_broker_at_its_memory_budget_refuses_newcomers_and_what_it_would_keep_until_there_is_room() {
    let config = "data_dir = \"{dir}/data\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n\
                  [limits]\nmemory = \"32MiB\"\n";
    let broker = Process::start(config, |_| {});
    let address = broker.addresses[0];
    let mut publisher = Client::connect(address, Version::V5, "publisher");
    let mut there = Client::connect(address, Version::V5, "there");
    there.subscribe("live", QoS::AtLeastOnce);
    let payload = "x".repeat(MIB as usize / 2);
    let mut number = 0;
    let mut keep = || {
        number += 1;
        let topic = format!("kept/{number}");
        let packet = Publish { topic: &topic, retain: true, ..message("", QoS::AtLeastOnce, &payload) };
        publisher.send(&Packet::Publish(Publish { packet_id: PacketId::new(1), ..packet }));
        match publisher.wait_for(|packet| matches!(packet, Packet::PubAck(_))).packet() {
            Packet::PubAck(ack) => ack.reason,
            other => panic!("{other:?}"),
        }
    };
    // More than there is room for. The broker looks once a second, and takes what comes until then.
    let taken = (0..100).take_while(|_| !keep().is_failure()).count();
    broker.logged("out of memory soon");
    let taken = taken + (0..300).take_while(|_| !keep().is_failure()).count();
    assert!(taken < 400, "nothing is ever refused");
    assert_eq!(keep(), ReasonCode::QuotaExceeded);
    for (version, reason) in
        [(Version::V5, ReasonCode::ServerBusy), (Version::V4, ReasonCode::ServerUnavailable)]
    {
        let mut newcomer = Client::open(address, version);
        newcomer.send(&Packet::Connect(connect(version, "newcomer", true)));
        assert_eq!(newcomer.refused(), reason);
    }
    // Who is there may connect anew, and publish what goes to others who are there.
    let mut again = Client::connect(address, Version::V5, "publisher");
    publisher.expect_disconnect();
    assert_eq!(again.publish("live", QoS::AtLeastOnce, b"x"), ReasonCode::Success);
    there.expect_publish("live", b"x");
    let file = broker.folder.path().join("weirmq.toml");
    let text = fs::read_to_string(&file).expect("its configuration");
    fs::write(&file, text.replace("32MiB", "1GiB")).expect("written");
    kill_process(Pid::from_raw(broker.id() as i32).expect("a process"), Signal::HUP).expect("it runs");
    broker.logged("reloaded");
    let mut newcomer = Client::connect(address, Version::V5, "newcomer");
    newcomer.ping();
}
