//! An order service tells the world that orders were paid, and goes on with its work. Three SMS
//! workers and two e-mail workers share what there is to do, one SMS worker dies half-way, and an
//! audit client sees everything.
//!
//! `cargo run --release --example notifications [ORDERS]` starts a broker of its own, prints what
//! each received, how long the publisher waited and how long the slowest worker took, and fails if an
//! event was lost or handled twice.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use weirmq::config::{Bind, Config, ListenerConfig};
use weirmq::protocol::packet::{Packet, PacketId};
use weirmq::server::Server;

#[path = "support/client.rs"]
mod client;

use client::Client;

/// Publishes that wait for their acknowledgement, at most.
const WINDOW: usize = 200;

/// One worker of a group, or the audit client.
#[derive(Clone, Copy)]
struct Role {
    group: &'static str,
    name: &'static str,
    filter: &'static str,
    /// How long one event takes: a gateway's answer, a mail server's.
    work: Duration,
    /// Dies after so many events.
    dies_after: Option<usize>,
}

const SMS: Duration = Duration::from_micros(300);
const MAIL: Duration = Duration::from_micros(600);

/// An event that a worker handled and acknowledged.
struct Handled {
    group: &'static str,
    name: &'static str,
    order: u32,
    at: Instant,
}

fn roles(orders: usize) -> [Role; 6] {
    let worker = |group, name, filter, work| Role { group, name, filter, work, dies_after: None };
    let sms = |name| worker("sms", name, "$share/sms/orders/+/paid", SMS);
    let mail = |name| worker("mail", name, "$share/mail/orders/+/paid", MAIL);
    [
        sms("sms-1"),
        Role { dies_after: Some(orders / 6), ..sms("sms-2") },
        sms("sms-3"),
        mail("mail-1"),
        mail("mail-2"),
        worker("audit", "audit", "orders/#", Duration::ZERO),
    ]
}

/// Handles events until the connection ends; an event counts once its acknowledgement is sent.
fn work(mut client: Client, role: Role, handled: &Sender<Handled>) -> io::Result<()> {
    let mut done = 0;
    loop {
        let (packet_id, order) = match client.next()? {
            Packet::Publish(publish) => {
                let order = std::str::from_utf8(publish.payload).ok().and_then(|text| text.parse().ok());
                (publish.packet_id, order.ok_or_else(|| io::Error::other("not an order number"))?)
            }
            _ => continue,
        };
        thread::sleep(role.work);
        if let Some(packet_id) = packet_id {
            client.acknowledge(packet_id)?;
        }
        let event = Handled { group: role.group, name: role.name, order, at: Instant::now() };
        if handled.send(event).is_err() {
            return Ok(());
        }
        done += 1;
        if role.dies_after == Some(done) {
            return die(client);
        }
    }
}

/// Vanishes without DISCONNECT, with events received and not handled. The ping makes sure that the
/// acknowledgements before it have arrived: what was handled is then not handled again.
fn die(mut client: Client) -> io::Result<()> {
    client.put(&Packet::PingReq);
    client.flush()?;
    while !matches!(client.next()?, Packet::PingResp) {}
    client.handle()?.shutdown(Shutdown::Both)
}

/// Publishes every order and waits for the acknowledgements; how long that took.
fn publish(address: SocketAddr, orders: usize) -> Result<Duration, Box<dyn Error>> {
    let mut client = Client::connect(address, "order-service", false)?;
    let start = Instant::now();
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < orders {
        while sent < orders && sent - acknowledged < WINDOW {
            let id = PacketId::new((sent % 60_000) as u16 + 1).ok_or("a packet id is never 0")?;
            client.publish(&format!("orders/{sent}/paid"), id, sent.to_string().as_bytes());
            sent += 1;
        }
        client.flush()?;
        match client.next()? {
            Packet::PubAck(ack) if !ack.reason.is_failure() => acknowledged += 1,
            other => return Err(format!("not acknowledged: {other:?}").into()),
        }
    }
    Ok(start.elapsed())
}

/// Gathers what was handled until every group has had every order, or nothing comes any more.
fn gather(handled: &Receiver<Handled>, orders: usize) -> Vec<Handled> {
    let mut all = Vec::new();
    while all.len() < 3 * orders {
        match handled.recv_timeout(Duration::from_secs(10)) {
            Ok(event) => all.push(event),
            Err(_) => break,
        }
    }
    // Whatever comes now was handled twice.
    all.extend(handled.recv_timeout(Duration::from_millis(200)));
    all
}

/// Prints who handled how much, and finds what was lost or handled twice.
fn report(all: &[Handled], start: Instant, orders: usize, waited: Duration) -> Result<(), String> {
    let mut faults = Vec::new();
    for group in ["sms", "mail", "audit"] {
        let mut times: HashMap<u32, usize> = HashMap::new();
        let mut workers: Vec<(&str, usize, Duration)> = Vec::new();
        for event in all.iter().filter(|event| event.group == group) {
            *times.entry(event.order).or_default() += 1;
            let took = event.at - start;
            match workers.iter_mut().find(|(name, ..)| *name == event.name) {
                Some((_, count, last)) => (*count, *last) = (*count + 1, took),
                None => workers.push((event.name, 1, took)),
            }
        }
        workers.sort_unstable();
        for (name, count, last) in workers {
            println!("{name:>8}: {count:>6} events, the last after {last:.2?}");
        }
        let (lost, twice) = (orders - times.len(), times.values().filter(|times| **times > 1).count());
        println!("{group:>8}: {} of {orders} events, {lost} lost, {twice} handled twice", times.len());
        if lost + twice > 0 {
            faults.push(group);
        }
    }
    let slowest = all.iter().map(|event| event.at - start).max().unwrap_or_default();
    println!(
        "the publisher waited {waited:.2?} for {orders} acknowledgements; the slowest worker took {slowest:.2?}"
    );
    if faults.is_empty() { Ok(()) } else { Err(format!("not exactly once: {faults:?}")) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let orders = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let listener =
        ListenerConfig { bind: Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), ..Default::default() };
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().join("weirmq-data");
    let server = Server::start(Config { listeners: vec![listener], data_dir, ..Config::default() })?;
    let address = server.addresses()[0];
    let (sender, handled) = mpsc::channel();
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut threads = Vec::new();
    for role in roles(orders) {
        // A session that is kept, so that what waits for it, or for its group, waits on disk.
        let mut client = Client::connect(address, role.name, true)?;
        client.subscribe(role.filter)?;
        connections.push(client.handle()?);
        let sender = sender.clone();
        threads.push(thread::spawn(move || work(client, role, &sender)));
    }
    let start = Instant::now();
    let waited = publish(address, orders)?;
    let all = gather(&handled, orders);
    let verdict = report(&all, start, orders, waited);
    for connection in connections {
        // A worker that died has ended its connection already.
        let _ended_already = connection.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _connection_ended = thread.join().map_err(|_| "a worker panicked")?;
    }
    server.shutdown()?;
    Ok(verdict?)
}
