//! A burst of 10,000 messages a second meets a consumer that takes 6,000. The publisher is answered as fast as ever, the
//! backlog waits on disk, memory stays as it is, and the consumer works through all of it in order, at its own pace.
//!
//! `cargo run --release --example peak_shaving [SECONDS]` starts a broker of its own, prints for each second what went in
//! and out, the backlog and the memory of this process, broker included; then how long the publisher waited for its
//! acknowledgements, beside how long it would have waited for the consumer itself. It fails if a message is missing,
//! doubled or out of order.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use weirmq::config::{Bind, Config, ListenerConfig};
use weirmq::protocol::packet::{Packet, PacketId};
use weirmq::server::Server;

#[path = "support/client.rs"]
mod client;

use client::Client;

/// Messages a second that are published.
const IN: u64 = 10_000;

/// Messages a second that the consumer takes.
const OUT: u64 = 6_000;

/// Bytes of a message.
const SIZE: usize = 256;

/// Publishes that wait for their acknowledgement, at most.
const WINDOW: usize = 900;

/// What has gone in and come out so far.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    received: AtomicU64,
}

/// Says how many of something are due at a steady rate.
struct Pace {
    start: Instant,
    rate: u64,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        Pace { start: Instant::now(), rate }
    }

    fn due(&self) -> u64 {
        (self.start.elapsed().as_micros() * u128::from(self.rate) / 1_000_000) as u64
    }

    /// When the one with this number is due.
    fn at(&self, number: u64) -> Instant {
        self.start + Duration::from_micros(number * 1_000_000 / self.rate)
    }

    fn wait_for(&self, number: u64) {
        thread::sleep(self.at(number).saturating_duration_since(Instant::now()));
    }
}

/// Waiting times, in microseconds.
struct Waits(Vec<u32>);

impl Waits {
    fn add(&mut self, wait: Duration) {
        self.0.push(u32::try_from(wait.as_micros()).unwrap_or(u32::MAX));
    }

    fn print(mut self, whom: &str) {
        self.0.sort_unstable();
        let at = |part: f64| {
            let index = (self.0.len().saturating_sub(1) as f64 * part) as usize;
            Duration::from_micros(self.0.get(index).copied().unwrap_or_default().into())
        };
        println!(
            "{whom}: half within {:.2?}, 99 % within {:.2?}, all within {:.2?}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

fn payload(number: u64) -> [u8; SIZE] {
    let mut payload = [b'.'; SIZE];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

fn number_in(payload: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(payload.first_chunk().copied()?);
    (payload.len() == SIZE).then_some(number)
}

/// Publishes at its rate, whatever the consumer does; how long each message, from when it was due, waited for its
/// acknowledgement.
fn publish(mut client: Client, total: u64, counts: &Counts) -> io::Result<Waits> {
    let mut waits = Waits(Vec::with_capacity(total as usize));
    let pace = Pace::new(IN);
    let mut open: VecDeque<(PacketId, Instant)> = VecDeque::new();
    let mut sent = 0;
    while sent < total || !open.is_empty() {
        if open.is_empty() {
            pace.wait_for(sent);
        }
        while sent < pace.due().min(total) && open.len() < WINDOW {
            let id = PacketId::new((sent % 60_000) as u16 + 1).unwrap_or(PacketId::MIN);
            client.publish("orders", id, &payload(sent));
            open.push_back((id, pace.at(sent)));
            sent += 1;
        }
        counts.sent.store(sent, Relaxed);
        client.flush()?;
        if open.is_empty() {
            continue;
        }
        match (client.next()?, open.pop_front()) {
            (Packet::PubAck(ack), Some((id, since))) if ack.packet_id == id && !ack.reason.is_failure() => {
                waits.add(since.elapsed());
            }
            (other, _) => return Err(io::Error::other(format!("not acknowledged: {other:?}"))),
        }
        counts.acknowledged.fetch_add(1, Relaxed);
    }
    Ok(waits)
}

/// Takes messages at its own rate, and sees that they come in order, each once.
fn consume(mut client: Client, total: u64, counts: &Counts) -> io::Result<()> {
    let pace = Pace::new(OUT);
    for expected in 0..total {
        let (packet_id, number) = match client.next()? {
            Packet::Publish(publish) => (publish.packet_id, number_in(publish.payload)),
            other => return Err(io::Error::other(format!("not a message: {other:?}"))),
        };
        if number != Some(expected) {
            return Err(io::Error::other(format!("message {number:?} came where {expected} was due")));
        }
        // The work that a message makes.
        pace.wait_for(expected);
        if let Some(packet_id) = packet_id {
            client.acknowledge(packet_id)?;
        }
        counts.received.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// The same load without a broker: the publisher calls the consumer, each call as soon as it is due.
fn call_directly(total: u64) -> Result<Waits, Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let consumer = thread::spawn(move || -> io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let pace = Pace::new(OUT);
        let mut request = [0; SIZE];
        for number in 0..total {
            socket.read_exact(&mut request)?;
            pace.wait_for(number);
            socket.write_all(&[1])?;
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut answers = socket.try_clone()?;
    let pace = Pace::new(IN);
    let start = pace.start;
    let caller = thread::spawn(move || -> io::Result<()> {
        for number in 0..total {
            pace.wait_for(number);
            socket.write_all(&payload(number))?;
        }
        Ok(())
    });
    let mut waits = Waits(Vec::with_capacity(total as usize));
    let due = Pace { start, rate: IN };
    for number in 0..total {
        answers.read_exact(&mut [0])?;
        waits.add(due.at(number).elapsed());
    }
    caller.join().map_err(|_| "the caller panicked")??;
    consumer.join().map_err(|_| "the consumer panicked")??;
    Ok(waits)
}

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Prints a line for each second, until everything has come out or a thread has ended without it.
fn watch(counts: &Counts, total: u64, going: impl Fn() -> bool) {
    println!("{:>8} {:>10} {:>10} {:>10} {:>12}", "second", "in/s", "out/s", "backlog", "memory");
    let (mut sent_before, mut received_before) = (0, 0);
    for second in 1.. {
        thread::sleep(Duration::from_secs(1));
        let (received, sent) = (counts.received.load(Relaxed), counts.acknowledged.load(Relaxed));
        let (sent_now, received_now) = (sent - sent_before, received - received_before);
        (sent_before, received_before) = (sent, received);
        let backlog = sent.saturating_sub(received);
        println!("{second:>8} {sent_now:>10} {received_now:>10} {backlog:>10} {:>8} MiB", resident());
        if received == total || !going() {
            return;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(60), |text| text.parse::<u64>())?;
    let total = seconds * IN;
    let data = tempfile::tempdir()?;
    let listener =
        ListenerConfig { bind: Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), ..Default::default() };
    let data_dir = data.path().join("weirmq-data");
    let server = Server::start(Config { listeners: vec![listener], data_dir, ..Config::default() })?;
    let address = server.addresses()[0];
    let mut consumer = Client::connect(address, "consumer", true)?;
    consumer.subscribe("orders")?;
    let publisher = Client::connect(address, "publisher", false)?;

    let counts = Arc::new(Counts::default());
    let (theirs, ours) = (counts.clone(), counts.clone());
    let consuming = thread::spawn(move || consume(consumer, total, &theirs));
    let publishing = thread::spawn(move || publish(publisher, total, &ours));
    watch(&counts, total, || !consuming.is_finished());
    let waits = publishing.join().map_err(|_| "the publisher panicked")??;
    consuming.join().map_err(|_| "the consumer panicked")??;
    let (sent, received) = (counts.sent.load(Relaxed), counts.received.load(Relaxed));
    println!("{sent} sent, {received} received, in order");
    server.shutdown()?;

    waits.print("the publisher waited for the broker");
    call_directly(total)?.print("and would have for the consumer itself");
    if sent != total || received != total {
        return Err("not everything that was sent was received".into());
    }
    Ok(())
}
