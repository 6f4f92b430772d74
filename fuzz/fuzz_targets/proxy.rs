//! The PROXY header: what is a header is one by itself, no part of it is, and none is waited for beyond the longest. The
//! first byte says with what it begins, so that the rest is reached; built ones say what they were built of.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use weirmq::net::proxy::{MAX_SIZE, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice % 8 {
        0 => judged(rest),
        1 | 2 => judged(&[b"PROXY TCP4 ", rest].concat()),
        3 => judged(&[b"PROXY TCP6 ", rest].concat()),
        4 => judged(&[SIGNATURE, rest].concat()),
        5 => judged(&[SIGNATURE, &[0x20 | choice >> 3 & 1, 0x11], rest].concat()),
        6 => text(*choice, rest),
        _ => binary(*choice, rest),
    }
});

fn judged(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Some(header)) => {
            assert!(header.size <= MAX_SIZE);
            assert_eq!(parse(&bytes[..header.size]), Ok(Some(header)));
            for size in 0..header.size {
                assert_eq!(parse(&bytes[..size]), Ok(None));
            }
        }
        Ok(None) => assert!(bytes.len() < MAX_SIZE),
        Err(_) => {}
    }
}

/// Two addresses of a family, and two ports.
fn addresses(six: bool, bytes: &[u8]) -> Option<([IpAddr; 2], [u16; 2], &[u8])> {
    let (ports, rest) = bytes.split_first_chunk::<4>()?;
    let ports = [u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])];
    if six {
        let (both, rest) = rest.split_first_chunk::<32>()?;
        let (from, to) = both.split_first_chunk::<16>()?;
        let to: [u8; 16] = to.try_into().ok()?;
        return Some(([Ipv6Addr::from(*from).into(), Ipv6Addr::from(to).into()], ports, rest));
    }
    let (both, rest) = rest.split_first_chunk::<8>()?;
    let (from, to) = both.split_first_chunk::<4>()?;
    let to: [u8; 4] = to.try_into().ok()?;
    Some(([Ipv4Addr::from(*from).into(), Ipv4Addr::from(to).into()], ports, rest))
}

fn text(choice: u8, bytes: &[u8]) {
    let six = choice & 8 != 0;
    let Some(([from, to], ports, rest)) = addresses(six, bytes) else { return };
    let family = if six { "TCP6" } else { "TCP4" };
    let line = format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]);
    let header = [line.as_bytes(), rest].concat();
    judged(&header);
    let found = parse(&header).expect("a header").expect("all of it");
    assert_eq!((found.size, found.client), (line.len(), Some(SocketAddr::new(from, ports[0]))));
}

fn binary(choice: u8, bytes: &[u8]) {
    let six = choice & 8 != 0;
    let Some(([from, to], ports, rest)) = addresses(six, bytes) else { return };
    let mut body = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => body.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => body.extend_from_slice(&address.octets()),
        }
    }
    ports.iter().for_each(|port| body.extend_from_slice(&port.to_be_bytes()));
    // Details, as many as there are bytes for; behind them are the client's.
    let details = rest.len() / 2;
    body.extend_from_slice(&rest[..details]);
    let is_local = choice & 16 != 0;
    let head = [0x20 | u8::from(!is_local), if six { 0x21 } else { 0x11 }];
    let size = SIGNATURE.len() + 4 + body.len();
    let len = (body.len() as u16).to_be_bytes();
    let header = [SIGNATURE, &head, &len, &body, &rest[details..]].concat();
    judged(&header);
    let found = parse(&header).expect("a header").expect("all of it");
    assert_eq!((found.size, found.client), (size, (!is_local).then(|| SocketAddr::new(from, ports[0]))));
}
