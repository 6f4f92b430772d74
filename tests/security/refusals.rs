//! Clients that are refused again and again: each is told what there is to tell, its socket is closed, and nothing of it is
//! left. `WEIRMQ_REFUSALS` says how many.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use weirmq::limits::Limits;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::*;
use crate::common::dialogue::list;
use crate::common::process::Process;
use crate::common::wire::packet;
use crate::common::world::World;

const CONFIG: &str = "shards = 2
[store]
sync = \"off\"
[[listener]]
bind = \"127.0.0.1:0\"
allow_anonymous = true
";

const WORKERS: usize = 4;

/// By how much resident memory may differ between a tenth of the run and all of it.
const MARGIN: usize = 2 * 1024 * 1024;

fn count(variable: &str, default: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// A socket with an address of its own, so that ports which rest in TIME_WAIT do not run out.
fn socket(number: usize, to: SocketAddr) -> TcpStream {
    let [_, high, middle, low] = (number as u32 % 0x7F_FFFF + 1).to_be_bytes();
    let from = SocketAddr::from((Ipv4Addr::new(127, 1 + high, middle, low), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&from.into()).expect("an address of loopback");
    socket.connect(&to.into()).expect("the broker accepts");
    socket.into()
}

/// Reads up to the end of the stream.
pub(super) fn to_the_end(socket: &mut TcpStream) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("left open")
        }
        _ => bytes,
    }
}

/// How many descriptors the process has.
fn opened(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count()
}

/// The broker waits a moment for the other side of what it closes.
#[track_caller]
fn expect_opened(process: &Process, expected: usize) {
    let deadline = Instant::now() + PATIENCE;
    while opened(process) > expected {
        assert!(Instant::now() < deadline, "{} descriptors, not {expected}", opened(process));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn who_is_refused_is_told_so_and_not_left_open() {
    let refusals = count("WEIRMQ_REFUSALS", 10_000).min(15_000);
    let process = Process::start(CONFIG, |_| {});
    Client::connect(process.addresses[0], Version::V4, "first").disconnect();
    let from = opened(&process);
    // Without an identifier and with a session that is to be kept.
    let connect = packet(0x10, "0004'MQTT'04 00 003C 0000");
    // Nobody of them closes: only the broker does.
    let mut held = Vec::new();
    for number in 0..refusals {
        let mut socket = socket(number, process.addresses[0]);
        socket.write_all(&connect).expect("taken");
        assert_eq!(to_the_end(&mut socket), [0x20, 2, 0, 2]);
        held.push(socket);
    }
    expect_opened(&process, from);
    println!("{refusals} refused and held open by their clients: {from} descriptors again");
}

/// CONNECTs that are refused, and one by one every way to be wrong in the will and in properties.
fn bad_connects() -> Vec<Vec<u8>> {
    let v5 = |flags: u8, properties: &str, payload: &str| {
        packet(0x10, &format!("0004'MQTT'05 {flags:02X} 003C {properties} {payload}"))
    };
    let v4 = |flags: u8, payload: &str| packet(0x10, &format!("0004'MQTT'04 {flags:02X} 003C {payload}"));
    let large = format!("FF7F {}", "00".repeat(16_383));
    vec![
        packet(0x10, "0004'MQTT'06 02 003C 00 0001'c'"),
        packet(0x10, "0004'HTTP'05 02 003C 00 0001'c'"),
        packet(0x10, "FFFF'M'"),
        packet(0x10, ""),
        packet(0x11, "0004'MQTT'05 02 003C 00 0001'c'"),
        v4(0x03, "0001'c'"),
        v4(0x00, "0000"),
        v4(0x06, "0001'c' 0001"),
        v4(0x06, "0001'c' 0003'a'00'b' 0001'x'"),
        v4(0x06, "0001'c' 0003'a/#' 0001'x'"),
        v4(0x1E, "0001'c' 0001'w' 0001'x'"),
        v4(0x28, "0001'c'"),
        v4(0x42, "0001'c' 0001'p'"),
        v4(0xC2, "0001'c' 0003'abc' FFFF'p'"),
        v4(0x02, "0002 C3 28"),
        v5(0x02, "02 17 02", "0001'c'"),
        v5(0x02, "05 11 00000001", "0001'c' 0001'more'"),
        v5(0x02, "0A 11 00000001 11 00000001", "0001'c'"),
        v5(0x02, "04 15 0001'K'", "0001'c'"),
        v5(0x02, "04 16 0001'K'", "0001'c'"),
        v5(0x02, "03 21 0000", "0001'c'"),
        v5(0x02, "7F 26 0001'a' 0001'b'", "0001'c'"),
        v5(0x02, "0A 26 0001'a' 0004'b'", "0001'c'"),
        v5(0x02, "02 01 01", "0001'c'"),
        v5(0x06, "00", "0001'c' 02 01 02 0001'w' 0001'x'"),
        v5(0x06, "00", "0001'c' 06 01 01 03 0001'c' 0001'w' 0002 C3 28"),
        v5(0x06, "00", "0001'c' 05 11 00000001 0001'w' 0001'x'"),
        v5(0x06, "00", "0001'c' 03 08 0001'#' 0001'w' 0001'x'"),
        v5(0x06, "00", "0001'c' 00 0003'a/+' 0001'x'"),
        v5(0x06, "00", "0001'c' 00 0004'$SYS' 0001'x'"),
        v5(0x06, "00", &format!("0001'c' 00 4000'{}' 0001'x'", "/".repeat(16_384))),
        v5(0x02, "00", &format!("012D'{}'", "x".repeat(301))),
        v5(0x02, &large, "0001'c'"),
        v5(0x02, &format!("D502 {}", "26 0000 0000 ".repeat(69).trim()), "0001'c'"),
    ]
}

#[test]
fn bad_connects_wills_and_properties_leave_nothing_behind() {
    let wanted = count("WEIRMQ_REFUSALS", 20_000);
    let process = Process::start(CONFIG, |_| {});
    let (to, bad) = (process.addresses[0], bad_connects());
    let mut steady = Client::connect(to, Version::V5, "steady");
    let from = opened(&process);
    let made = AtomicUsize::new(0);
    let storm = |until: usize| {
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let number = made.fetch_add(1, Relaxed);
                        if number >= until {
                            return;
                        }
                        let mut socket = socket(number, to);
                        // It may be closed before it has taken all of it.
                        let _ = socket.write_all(&bad[number % bad.len()]);
                        if !number.is_multiple_of(3) {
                            let answer = to_the_end(&mut socket);
                            // Nothing, or a refusal of one of the two forms.
                            assert!(
                                answer.is_empty() || answer[0] == 0x20 && answer[3] != 0,
                                "{answer:02X?}"
                            );
                        }
                        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
                    }
                });
            }
        });
        made.store(until, Relaxed);
    };
    // A tenth of the run shows what such a load takes once and keeps.
    storm(wanted / 10);
    expect_opened(&process, from);
    let before = process.resident();
    storm(wanted);
    expect_opened(&process, from);
    let after = process.resident();
    steady.ping();
    println!("{wanted} bad CONNECTs: {before} resident bytes became {after}, {from} descriptors again");
    assert!(after <= before + MARGIN, "resident memory grew from {before} to {after} bytes");
}

/// As many of the smallest User Properties as that many bytes of properties hold.
fn user_properties(count: usize) -> Vec<u8> {
    let properties = list(&vec![Property::UserProperty("", ""); count]);
    let mut bytes = Vec::new();
    let connect = Connect { properties: properties.as_properties(), ..connect(Version::V5, "c", true) };
    codec::encode(Version::V5, &Packet::Connect(connect), &mut bytes);
    bytes
}

#[test]
fn a_connect_full_of_user_properties_costs_no_more_than_its_bytes_and_is_refused() {
    let limits = Limits::default();
    // Five bytes each: the largest CONNECT that is taken at all is full of them.
    let most = (limits.connect_packet_size as usize - 30) / 5;
    let cost = |count: usize| {
        let bytes = user_properties(count);
        let size = codec::frame(None, &bytes, limits.connect_packet_size).expect("within the limit");
        assert_eq!(size, Some(bytes.len()));
        measure(|| assert!(matches!(codec::decode(Version::V5, &bytes), Ok(Packet::Connect(_))))).count_total
    };
    assert_eq!((cost(1), cost(most)), (0, 0), "blocks of memory for one, and for {most}");
    let mut w = World::new(1);
    for (count, expected) in
        [(64, None), (65, Some(ReasonCode::QuotaExceeded)), (most, Some(ReasonCode::QuotaExceeded))]
    {
        let bytes = user_properties(count);
        let Ok(Packet::Connect(connect)) = codec::decode(Version::V5, &bytes) else { panic!("well-formed") };
        assert_eq!(w.try_connect(&connect).err().map(|error| error.reason), expected, "{count}");
    }
    // The same by a socket.
    let server = serve(|_| {});
    let mut client = Client::open(server.addresses()[0], Version::V5);
    client.send_bytes(&user_properties(most));
    assert_eq!(client.refused(), ReasonCode::QuotaExceeded);
}
