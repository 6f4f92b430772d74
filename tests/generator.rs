//! The load generator of the benchmarks notices what a broker does wrong: beside a small broker that loses, repeats,
//! swaps, misdirects or damages one message in ten, its counters say exactly that.
#![allow(missing_docs, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

#[path = "../benches/scenarios/client.rs"]
mod client;
#[path = "../benches/scenarios/link.rs"]
mod link;
#[path = "../benches/scenarios/scenario.rs"]
mod scenario;
#[path = "../benches/scenarios/tally.rs"]
mod tally;
#[path = "../benches/scenarios/wire.rs"]
mod wire;

use client::{Client, Clients};
use scenario::Layout;
use tally::Tally;
use wire::{Packet, Publish, Stamp};

const LAYOUT: Layout = Layout::Pairs { pairs: 2 };
const PAYLOAD: usize = 100;
/// Messages to each of the two subscribers.
const MESSAGES: u64 = 1000;
/// One in ten, and never the last.
const FAULTS: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Lose,
    Repeat,
    Swap,
    /// To the other subscriber.
    Misdirect,
    /// Under the other topic.
    Rename,
    Damage,
    Shorten,
}

/// Answers what the generator asks for, and hands messages on as a broker should, but for the fault.
fn faulty_broker(listener: &TcpListener, fault: Fault) {
    // The last byte of CONNECT is that of the client identifier: subscribers are 0 and 1, publishers 2 and 3.
    let connect = |mut socket| (packet(&mut socket).pop(), socket);
    let mut sockets: Vec<_> = (0..4).map(|_| connect(listener.accept().expect("a client").0)).collect();
    sockets.sort_by_key(|(client, _)| *client);
    let mut sockets: Vec<_> = sockets.into_iter().map(|(_, socket)| socket).collect();
    for socket in &mut sockets {
        socket.write_all(&[0x20, 2, 0, 0]).expect("CONNACK");
    }
    for socket in &mut sockets[..2] {
        let subscribe = packet(socket);
        socket.write_all(&[0x90, 3, subscribe[2], subscribe[3], 0]).expect("SUBACK");
    }
    let mut out = [Vec::new(), Vec::new()];
    for publisher in 0..2 {
        let mut held = None;
        for number in 0..MESSAGES {
            let message = packet(&mut sockets[2 + publisher]);
            let fault = if number % 10 == 3 { fault } else { Fault::None };
            match fault {
                Fault::None => out[publisher].extend(message),
                Fault::Lose => {}
                Fault::Repeat => out[publisher].extend([&message[..], &message[..]].concat()),
                Fault::Swap => held = Some(message),
                Fault::Misdirect => out[1 - publisher].extend(message),
                Fault::Rename => out[publisher].extend(with(message, 11, b'0' + 1 - publisher as u8)),
                Fault::Damage => {
                    let last = message.len() - 1;
                    out[publisher].extend(with(message, last, b'y'));
                }
                Fault::Shorten => {
                    let length = message[1] - 1;
                    let mut message = with(message, 1, length);
                    message.pop();
                    out[publisher].extend(message);
                }
            }
            if fault != Fault::Swap
                && let Some(held) = held.take()
            {
                out[publisher].extend(held);
            }
        }
    }
    for (socket, out) in sockets.iter_mut().zip(&out) {
        socket.write_all(out).expect("the subscriber reads");
    }
    // The subscribers see the end once they have seen everything.
    for socket in &sockets[..2] {
        socket.shutdown(std::net::Shutdown::Write).expect("an open socket");
    }
}

fn with(mut message: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    message[at] = byte;
    message
}

/// One packet of fewer than 128 bytes.
fn packet(socket: &mut TcpStream) -> Vec<u8> {
    let mut packet = vec![0; 2];
    socket.read_exact(&mut packet).expect("a packet");
    packet.resize(2 + usize::from(packet[1]), 0);
    socket.read_exact(&mut packet[2..]).expect("the rest of it");
    packet
}

/// What the generator counts beside such a broker.
fn counted(fault: Fault) -> Tally {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let broker = thread::spawn(move || faulty_broker(&listener, fault));
    let filters = LAYOUT.subscribers().into_iter().chain([Vec::new(), Vec::new()]);
    let all: Vec<_> = filters.enumerate().map(|(i, filters)| Client::new(i.to_string(), filters)).collect();
    let mut clients = Clients::connect(port, &all, 0, None).expect("connected clients");
    let mut tally = Tally::new(LAYOUT, PAYLOAD);
    for publisher in 0..2 {
        let head = wire::publish_head(&LAYOUT.topic(publisher), 0, PAYLOAD);
        for _ in 0..MESSAGES {
            let stamp =
                Stamp { topic: publisher as u32, sequence: tally.send(publisher, publisher), sent_at: 7 };
            wire::put_publish(&head, None, stamp, PAYLOAD, &mut clients.links[2 + publisher].out);
        }
    }
    let mut ended = [false; 2];
    while ended != [true; 2] {
        for publisher in 2..4 {
            clients.links[publisher].flush().expect("a publisher's socket");
        }
        let events = clients.poll(Some(Duration::from_secs(30))).expect("events");
        assert!(!events.is_empty(), "nothing comes any more");
        for event in events {
            if event.client < 2 && !ended[event.client] {
                let read = clients.read(event.client, |packet, _| {
                    let Packet::Publish(message) = packet else { return Ok(()) };
                    tally.receive(event.client, &message);
                    Ok(())
                });
                ended[event.client] = read.is_err();
            }
        }
    }
    broker.join().expect("a broker that does what it should not");
    tally
}

/// Lost, twice, out of order, wrong; of two publishers.
fn faults(tally: &Tally) -> [u64; 4] {
    [tally.lost(), tally.duplicated, tally.reordered, tally.wrong].map(|faults| faults / 2)
}

#[test]
fn a_good_broker_has_no_faults() {
    let tally = counted(Fault::None);
    assert_eq!(faults(&tally), [0; 4]);
    assert_eq!(tally.received, 2 * MESSAGES);
}

#[test]
fn what_is_lost_is_counted() {
    assert_eq!(faults(&counted(Fault::Lose)), [FAULTS, 0, 0, 0]);
}

#[test]
fn what_comes_twice_is_counted() {
    assert_eq!(faults(&counted(Fault::Repeat)), [0, FAULTS, 0, 0]);
}

#[test]
fn what_comes_out_of_order_is_counted() {
    assert_eq!(faults(&counted(Fault::Swap)), [0, 0, FAULTS, 0]);
}

#[test]
fn what_comes_wrong_is_counted_and_lost() {
    for fault in [Fault::Misdirect, Fault::Rename, Fault::Damage, Fault::Shorten] {
        assert_eq!(faults(&counted(fault)), [FAULTS, 0, 0, FAULTS], "{fault:?}");
    }
}

#[test]
fn a_gap_may_be_filled_in_any_order_and_only_once() {
    let mut tally = Tally::new(LAYOUT, 16);
    for _ in 0..6 {
        tally.send(0, 0);
    }
    for sequence in [0, 5, 3, 1, 3, 4, 4, 9] {
        let mut out = Vec::new();
        wire::put_publish(&[], None, Stamp { topic: 0, sequence, sent_at: 0 }, 16, &mut out);
        let topic = LAYOUT.topic(0);
        tally.receive(0, &Publish { topic: topic.as_bytes(), packet_id: 0, payload: &out });
    }
    // 2 never came, 3 and 4 came twice, 9 was never sent.
    assert_eq!((tally.lost(), tally.duplicated, tally.reordered, tally.wrong), (1, 2, 3, 1));
}
