//! A flash sale: 1,000 places, 100,000 who want one, all at once. The queue has exactly as many places as there are to
//! sell, so the broker itself tells each buyer at once whether there is one left, and the shop works through its orders
//! at leisure.
//!
//! `cargo run --release --example seckill [REQUESTS]` starts a broker of its own, prints who got what answer, and fails
//! unless exactly the surplus was refused, for its reason, and exactly the orders that were taken arrive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use weirmq::config::{Bind, Config, ListenerConfig};
use weirmq::limits::{Overflow, QueueRule};
use weirmq::protocol::packet::{Packet, PacketId};
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

#[path = "support/client.rs"]
mod client;

use client::Client;

/// What there is to sell.
const PLACES: u64 = 1000;

/// Doors to the shop: each lets a share of the buyers in.
const DOORS: usize = 20;

/// Requests of one door that wait for their answer, at most.
const WINDOW: usize = 100;

/// The answers that one door's buyers got.
#[derive(Default)]
struct Answers {
    /// Who got a place.
    served: BTreeSet<usize>,
    /// How many got which other answer.
    refused: BTreeMap<String, usize>,
    slowest: Duration,
}

/// Sends the requests of one door's buyers and takes their answers.
fn sell(address: SocketAddr, door: usize, requests: usize) -> io::Result<Answers> {
    let mut client = Client::connect(address, &format!("door-{door}"), false)?;
    let mut answers = Answers::default();
    let mut buyers = (door..requests).step_by(DOORS);
    let mut waiting: VecDeque<(PacketId, usize, Instant)> = VecDeque::new();
    let mut last_id = 0;
    loop {
        for buyer in buyers.by_ref().take(WINDOW - waiting.len()) {
            last_id = last_id % 60_000 + 1;
            let id = PacketId::new(last_id).unwrap_or(PacketId::MIN);
            client.publish("seckill/orders", id, buyer.to_string().as_bytes());
            waiting.push_back((id, buyer, Instant::now()));
        }
        if waiting.is_empty() {
            return Ok(answers);
        }
        client.flush()?;
        let (packet_id, reason) = match client.next()? {
            Packet::PubAck(ack) => (ack.packet_id, ack.reason),
            other => return Err(io::Error::other(format!("no answer: {other:?}"))),
        };
        let at = waiting.iter().position(|(id, ..)| *id == packet_id);
        let (_, buyer, since) =
            at.and_then(|at| waiting.remove(at)).ok_or_else(|| io::Error::other("an answer to nobody"))?;
        answers.slowest = answers.slowest.max(since.elapsed());
        if reason.is_failure() {
            *answers.refused.entry(format!("{reason:?} (0x{:02X})", reason as u8)).or_default() += 1;
        } else {
            answers.served.insert(buyer);
        }
    }
}

/// All doors open at once; the answers of all.
fn open_doors(address: SocketAddr, requests: usize) -> Result<Answers, Box<dyn Error>> {
    let doors: Vec<_> = (0..DOORS).map(|door| thread::spawn(move || sell(address, door, requests))).collect();
    let mut all = Answers::default();
    for door in doors {
        let answers = door.join().map_err(|_| "a door panicked")??;
        all.served.extend(answers.served);
        for (reason, count) in answers.refused {
            *all.refused.entry(reason).or_default() += count;
        }
        all.slowest = all.slowest.max(answers.slowest);
    }
    Ok(all)
}

/// The shop comes to work and takes the orders; those that it got.
fn work(address: SocketAddr, orders: usize) -> Result<BTreeSet<usize>, Box<dyn Error>> {
    let (mut shop, present) = Client::resume(address, "shop")?;
    if !present {
        return Err("the shop's session is gone".into());
    }
    let mut got = BTreeSet::new();
    for _ in 0..orders {
        let (packet_id, buyer) = match shop.next()? {
            Packet::Publish(publish) => (publish.packet_id, std::str::from_utf8(publish.payload)?.parse()?),
            other => return Err(format!("not an order: {other:?}").into()),
        };
        if !got.insert(buyer) {
            return Err(format!("the order of buyer {buyer} came twice").into());
        }
        if let Some(packet_id) = packet_id {
            shop.acknowledge(packet_id)?;
        }
    }
    // An order too many would stand before the answer.
    shop.put(&Packet::PingReq);
    shop.flush()?;
    match shop.next()? {
        Packet::PingResp => Ok(got),
        other => Err(format!("more than was sold: {other:?}").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let requests = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse::<usize>())?;
    let data = tempfile::tempdir()?;
    let listener =
        ListenerConfig { bind: Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), ..Default::default() };
    let places = QueueRule {
        filter: "seckill/#".to_owned(),
        max_messages: PLACES,
        overflow: Overflow::Reject,
        ..QueueRule::default()
    };
    let server = Server::start(Config {
        listeners: vec![listener],
        queues: vec![places, QueueRule::default()],
        data_dir: data.path().join("weirmq-data"),
        ..Config::default()
    })?;
    let address = server.addresses()[0];
    Client::connect(address, "shop", true)?.subscribe("seckill/#")?;

    let start = Instant::now();
    let answers = open_doors(address, requests)?;
    let took = start.elapsed();
    println!(
        "{requests} requests for {PLACES} places, answered in {took:.2?}, the slowest after {:.2?}",
        answers.slowest
    );
    println!("{:>8} got a place", answers.served.len());
    for (reason, count) in &answers.refused {
        println!("{count:>8} were refused: {reason}");
    }
    let got = work(address, answers.served.len())?;
    println!("{:>8} orders arrived at the shop", got.len());
    server.shutdown()?;

    let sold = requests.min(PLACES as usize);
    let full = format!("{:?} (0x{:02X})", ReasonCode::QuotaExceeded, ReasonCode::QuotaExceeded as u8);
    let surplus = answers.refused.get(&full).copied().unwrap_or_default();
    if answers.served.len() != sold || surplus != requests - sold || got != answers.served {
        return Err("not exactly the surplus was refused".into());
    }
    Ok(())
}
