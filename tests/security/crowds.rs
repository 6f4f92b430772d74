//! Crowds at the doors, from other addresses than those of the clients: connections that say nothing, little, or something
//! endless. Clients come in all the while, and what each of the crowd costs is measured on the broker's process.
//! `WEIRMQ_CROWD` says how many they are, `WEIRMQ_TLS_CROWD` how many of those over TLS.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use socket2::{Domain, Socket, Type};
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::*;
use crate::common::process::{Process, dev_certs};

use super::refusals::to_the_end;

const LISTENERS: &str = r#"shards = 2
[store]
sync = "off"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
"#;

/// They may stay, as many as they are.
const RAISED: &str = r#"
[limits]
max_handshakes = 100000
max_handshakes_per_address = 100000
connect_timeout = "10m"
"#;

/// The most that a connection may take before it is let in, in bytes of resident memory.
const PLAIN: usize = 8 * 1024;
const TLS: usize = 48 * 1024;

/// The beginning of a ClientHello that is longer than it ever gets.
const HELLO: &[u8] = &[0x16, 3, 1, 0x3F, 0xFF, 1, 0, 0x3F, 0xFB, 3, 3];

/// Descriptors that the broker's start may still have had open.
const SLACK: usize = 4;

fn count(variable: &str, default: usize) -> usize {
    // This process has as many sockets as the broker has.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// A socket of the crowd: each has an address of its own.
fn stranger(number: usize, to: SocketAddr) -> TcpStream {
    let [_, high, middle, low] = (number as u32 + 1).to_be_bytes();
    let from = SocketAddr::from((Ipv4Addr::new(127, 1 + high, middle, low), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&from.into()).expect("an address of loopback");
    socket.connect(&to.into()).expect("in the backlog");
    socket.into()
}

/// How many descriptors the process has.
fn opened(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count()
}

/// Waits until a condition holds that nothing announces.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many of the crowd may come for each client: fewer than there may be handshakes under way, so that nobody who does
/// what is to be done is ever the one who holds on for longest.
const PACE: usize = 200;

/// Clients of an address that is none of the crowd's come and go, each of them answered, until `done`: how long it took
/// them at most.
fn clients_come_and_go(process: &Process, count: &AtomicUsize, done: &AtomicBool) -> Duration {
    let tls = trusting(&process.folder.path().join("certs/ca.pem"));
    let mut longest = Duration::ZERO;
    while !done.load(Relaxed) {
        let (start, number) = (Instant::now(), count.load(Relaxed));
        let mut client = if number % 4 == 3 {
            let opened = Client::open_tls(process.addresses[1], Version::V5, &tls, "localhost");
            opened.expect("a handshake").0
        } else {
            Client::open(process.addresses[0], Version::V5)
        };
        client.hello(&format!("client-{number}"));
        longest = longest.max(start.elapsed());
        client.disconnect();
        count.fetch_add(1, Relaxed);
    }
    longest
}

/// What one of the crowd begins with, by its number, and what it goes on with, a byte now and then.
fn beginning(number: usize) -> (usize, &'static [u8], u8) {
    match number % 5 {
        0 => (0, &[], 0x10),
        1 => (0, &[0x10, 0xFF, 0x7F, 0, 4, b'M', b'Q', b'T', b'T', 5], 0),
        2 => (1, &[], 0x16),
        3 => (1, HELLO, 0),
        // From a packet that is no CONNECT on, it is only to be told the end of.
        _ => (0, &[0x10], 0xFF),
    }
}

#[test]
fn a_crowd_that_is_silent_or_trickles_keeps_nobody_out() {
    let held = count("WEIRMQ_CROWD", 1_000);
    // What makes room is the bound, and no deadline.
    let process = Process::start(&format!("{LISTENERS}[limits]\nconnect_timeout = \"10m\"\n"), dev_certs);
    let idle = opened(&process);
    let mut steady = Client::connect(process.addresses[0], Version::V5, "steady");
    let (came, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    // They stay to the end, as far as it is theirs to say.
    let mut crowd: Vec<(TcpStream, u8)> = Vec::new();
    let longest = thread::scope(|scope| {
        let clients = scope.spawn(|| clients_come_and_go(&process, &came, &done));
        // Whoever the broker ends is followed by another, and so is whoever it does not.
        for number in 0..3 * held {
            while number >= PACE * (came.load(Relaxed) + 1) && !clients.is_finished() {
                thread::yield_now();
            }
            let (listener, first, next) = beginning(number);
            let mut socket = stranger(number, process.addresses[listener]);
            let _ = socket.write_all(first);
            socket.set_nonblocking(true).expect("a socket");
            match crowd.len() < held {
                true => crowd.push((socket, next)),
                false => crowd[number % held] = (socket, next),
            }
            let (trickling, next) = &mut crowd[number * 7919 % held.min(number + 1)];
            let _ = trickling.write(&[*next]);
        }
        done.store(true, Relaxed);
        steady.ping();
        clients.join().expect("every client came in")
    });
    // The bound of all handshakes is 500; those that are told something have a second to read it.
    eventually("the bound holds", || opened(&process) <= idle + 520);
    steady.ping();
    drop(crowd);
    println!("{came:?} clients came in among {} strangers, the longest took {longest:?}", 3 * held);
}

/// Says that it is over, also where it is so because something failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Strangers shake hands one after another, hold on, and say nothing more or half a CONNECT, while clients come and go.
fn shakes_hands_and_holds_on(what: &str, limits: &str, many: usize, held: impl Fn(usize) -> bool) {
    let process = Process::start(&format!("{LISTENERS}{limits}"), dev_certs);
    let idle = opened(&process);
    let mut steady = Client::connect(process.addresses[0], Version::V5, "steady");
    let (came, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut crowd = Vec::new();
    let longest = thread::scope(|scope| {
        let clients = scope.spawn(|| clients_come_and_go(&process, &came, &done));
        let ends = Ends(&done);
        for number in 0..many {
            while number >= PACE * (came.load(Relaxed) + 1) && !clients.is_finished() {
                thread::yield_now();
            }
            let says = if number % 2 == 0 { &[][..] } else { ANNOUNCED };
            crowd.push(shakes_hands(number, &process, says));
        }
        drop(ends);
        steady.ping();
        clients.join().expect("every client came in")
    });
    eventually("the bound holds", || held(opened(&process).saturating_sub(idle)));
    steady.ping();
    println!("{what}: {came:?} clients came in among {many} hands shaken, the longest took {longest:?}");
    // Long enough for clients over TLS to have been among them.
    assert!(came.load(Relaxed) >= 8, "only {came:?} clients");
}

#[test]
fn a_crowd_that_shakes_hands_and_says_no_more_keeps_nobody_out() {
    let many = count("WEIRMQ_TLS_CROWD", 600);
    // What makes room is the bound, and no deadline; and then there is room for all.
    let bounded = "[limits]\nconnect_timeout = \"10m\"\n";
    shakes_hands_and_holds_on("bounded", bounded, many, |opened| opened <= 520);
    shakes_hands_and_holds_on("with room for all", RAISED, many, |opened| opened + SLACK >= many);
}

#[test]
fn whoever_is_sent_away_and_stays_takes_no_more_than_those_who_come_in() {
    let limits = "[limits]\nconnect_timeout = \"10m\"\nmax_handshakes = 20\nmax_connections = 1\n";
    let process = Process::start(&format!("{LISTENERS}{limits}"), dev_certs);
    let idle = opened(&process);
    let mut one = Client::connect(process.addresses[0], Version::V5, "one");
    let (mut most, mut crowd) = (0, Vec::new());
    for number in 0..300 {
        let mut client = Client::over(stranger(number, process.addresses[0]), Version::V5);
        if number % 2 == 0 {
            // It takes the connection over, and the one before hears of it and does not go.
            client.hello("one");
            std::mem::swap(&mut client, &mut one);
        } else {
            // There is room for one.
            client.send(&Packet::Connect(connect(Version::V5, &format!("other-{number}"), true)));
            assert_eq!(client.refused(), ReasonCode::ServerBusy);
        }
        crowd.push(client);
        most = most.max(opened(&process).saturating_sub(idle));
    }
    one.ping();
    println!("{most} descriptors at most for {} who were sent away", crowd.len());
    // As many as there may be handshakes, in each shard, and the one that is in.
    assert!(most <= 2 * 20 + 20 + 1 + SLACK, "{most} descriptors");
    // What they were told is theirs all the same.
    for (number, mut client) in crowd.into_iter().enumerate().filter(|(number, _)| number % 2 == 0) {
        assert_eq!(client.expect_disconnect(), ReasonCode::SessionTakenOver, "{number}");
    }
}

/// Asserts that each of so many connections takes no more of a fresh broker than `most` bytes of resident memory, while
/// clients come in.
fn each_costs<T>(what: &str, many: usize, most: usize, mut open: impl FnMut(usize, &Process) -> T) {
    let process = Process::start(&format!("{LISTENERS}{RAISED}"), dev_certs);
    Client::connect(process.addresses[0], Version::V5, "first").disconnect();
    let (idle, first) = (opened(&process), 8);
    // What the first ones take once for all is none of the others'.
    let warm: Vec<T> = (0..first).map(|number| open(number, &process)).collect();
    eventually("the first ones are accepted", || opened(&process) + SLACK >= idle + first);
    drop(warm);
    eventually("the first ones are gone", || opened(&process) <= idle);
    let before = process.resident();
    let crowd: Vec<T> = (first..first + many).map(|number| open(number, &process)).collect();
    eventually("all are accepted", || opened(&process) + SLACK >= idle + many);
    // Clients of all shards come in, and what they are told comes behind what was sent before.
    for number in 0..8 {
        Client::connect(process.addresses[0], Version::V5, &format!("client-{number}")).ping();
    }
    let (grown, opened) = (process.resident().saturating_sub(before) / many, opened(&process));
    println!("{what}: {grown} bytes each of {many}, {opened} descriptors");
    assert!(grown <= most, "{what}: {grown} bytes each");
    drop(crowd);
}

fn says(number: usize, to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = stranger(number, to);
    socket.write_all(bytes).expect("taken");
    socket
}

/// The beginning of a CONNECT of as many bytes as may be.
const ANNOUNCED: &[u8] = b"\x10\xFC\xFF\x03\0\x04MQTT\x05\x02\0\0\0\xFF\xFFclient";

#[test]
fn a_plain_connection_costs_little_before_it_is_let_in() {
    let many = count("WEIRMQ_CROWD", 1_000);
    for (kind, bytes) in [("silent", &[][..]), ("one byte", &[0x10]), ("64 KiB announced", ANNOUNCED)] {
        let kind = format!("plain, {kind}");
        each_costs(&kind, many, PLAIN, |number, process| says(number, process.addresses[0], bytes));
    }
}

/// A handshake that is done, and some bytes behind it.
fn shakes_hands(number: usize, process: &Process, and_says: &[u8]) -> (TcpStream, ClientConnection) {
    let mut socket = stranger(number, process.addresses[1]);
    let config = trusting(&process.folder.path().join("certs/ca.pem"));
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(config, name).expect("a client");
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("a handshake");
    }
    tls.writer().write_all(and_says).expect("there is room");
    while tls.wants_write() {
        tls.write_tls(&mut socket).expect("taken");
    }
    (socket, tls)
}

#[test]
fn a_tls_connection_costs_little_before_it_is_let_in() {
    let many = count("WEIRMQ_TLS_CROWD", 300);
    for (kind, bytes) in [("silent", &[][..]), ("half a hello", HELLO)] {
        let kind = format!("TLS, {kind}");
        each_costs(&kind, many, TLS, |number, process| says(number, process.addresses[1], bytes));
    }
    for (kind, bytes) in [("shaken hands", &[][..]), ("half a CONNECT", ANNOUNCED)] {
        let kind = format!("TLS, {kind}");
        each_costs(&kind, many, TLS, |number, process| shakes_hands(number, process, bytes));
    }
}

#[test]
fn a_huge_remaining_length_is_refused_by_its_header_and_costs_nothing() {
    let many = count("WEIRMQ_CROWD", 1_000);
    let process = Process::start(&format!("{LISTENERS}{RAISED}"), dev_certs);
    let to = process.addresses[0];
    let huge = [0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0];
    let told = [&huge[..], b"\x04MQTT\x05"].concat();
    for number in 0..50 {
        to_the_end(&mut says(number, to, &huge));
    }
    let (before, from) = (process.resident(), opened(&process));
    let mut crowd: Vec<TcpStream> = (0..many / 2).map(|number| says(number, to, &huge)).collect();
    crowd.extend((0..many / 2).map(|number| says(number, to, &told)));
    // Nothing more is sent, and nobody closes but the broker.
    for (number, socket) in crowd.iter_mut().enumerate() {
        let answer = to_the_end(socket);
        let expected: &[u8] =
            if number < many / 2 { &[] } else { &[0x20, 3, 0, ReasonCode::PacketTooLarge as u8, 0] };
        assert_eq!(answer, expected);
    }
    eventually("nothing is left", || opened(&process) <= from);
    let grown = process.resident().saturating_sub(before) / many;
    println!("{grown} bytes of resident memory for each of {many} CONNECTs of 256 MiB");
    assert!(grown <= PLAIN);
}
