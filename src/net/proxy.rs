//! The PROXY protocol, versions 1 and 2: what a load balancer writes before a client's first byte, to say whom it speaks
//! for. Pure and strict: what is not exactly a header is refused, and none is longer than [`MAX_SIZE`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest header that is taken, in bytes. Version 2 has room for any number of details; what balancers send of
/// them is far less.
pub const MAX_SIZE: usize = 4096;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const WORD: &[u8; 6] = b"PROXY ";

/// The longest line of version 1, its end included.
const LINE: usize = 107;

/// The part of version 2 that is always there.
const FIXED: usize = 16;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes; what follows is the client's.
    pub size: usize,
    /// The client's address; `None`: the balancer speaks for itself, as in a health check, or cannot tell.
    pub client: Option<SocketAddr>,
}

/// Why something is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl std::error::Error for Malformed {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a PROXY header: {}", self.0)
    }
}

/// The header that `bytes` begin with; `None` while more is to come.
///
/// # Errors
/// If they begin with something else.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins_like(bytes, SIGNATURE) {
        binary(bytes)
    } else if begins_like(bytes, WORD) {
        text(bytes)
    } else {
        Err(Malformed("it begins with something else"))
    }
}

/// Whether `bytes` begin with `word`, or are the beginning of it.
fn begins_like(bytes: &[u8], word: &[u8]) -> bool {
    let len = bytes.len().min(word.len());
    bytes[..len] == word[..len]
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION PORT PORT`.
fn text(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let window = &bytes[..bytes.len().min(LINE)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() < LINE { Ok(None) } else { Err(Malformed("the line is too long")) };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(WORD));
    let line = line.and_then(|line| str::from_utf8(line).ok()).ok_or(Malformed("not a line"))?;
    let mut words = line.split(' ');
    let client = match words.next() {
        // What may follow is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(addresses::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(addresses::<Ipv6Addr>(words)?),
        _ => return Err(Malformed("neither TCP4 nor TCP6")),
    };
    Ok(Some(Header { size: end + 1, client }))
}

/// The source of `SOURCE DESTINATION PORT PORT`.
fn addresses<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, Malformed> {
    let mut address = || words.next()?.parse::<A>().ok();
    let (source, destination) = (address(), address());
    let (port, to) = (words.next().and_then(port_of), words.next().and_then(port_of));
    match (source, destination, port, to, words.next()) {
        (Some(source), Some(_), Some(port), Some(_), None) => Ok(SocketAddr::new(source.into(), port)),
        _ => Err(Malformed("not two addresses and two ports")),
    }
}

/// A number without a sign or leading zeros.
fn port_of(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

/// Version 2: the signature, version and command, family and transport, a length, addresses, details.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("neither LOCAL nor PROXY of version 2")),
    };
    let size = FIXED + len;
    if size > MAX_SIZE {
        return Err(Malformed("the header is too long"));
    }
    // The rest is judged by what is certain already, so that nonsense is not waited for.
    let wanted = match fixed[13] {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(Malformed("neither TCP nor a stream of Unix sockets")),
    };
    if len < wanted {
        return Err(Malformed("no room for the addresses"));
    }
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let client = match fixed[13] {
        _ if is_local => None,
        0x11 => source::<4, 8>(body),
        0x21 => source::<16, 32>(body),
        _ => None,
    };
    Ok(Some(Header { size, client }))
}

/// The first address, of so many bytes, and its port, which stands behind the second one.
fn source<const SIZE: usize, const PORT: usize>(body: &[u8]) -> Option<SocketAddr>
where
    [u8; SIZE]: Into<IpAddr>,
{
    let address = *body.first_chunk::<SIZE>()?;
    let port = *body.get(PORT..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(address.into(), u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Header {
        parse(bytes).expect("a header").expect("all of it")
    }

    fn client(bytes: &[u8]) -> Option<String> {
        whole(bytes).client.map(|address| address.to_string())
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, body].concat()
    }

    const FOUR: [u8; 12] = [10, 1, 2, 3, 10, 9, 9, 9, 0x1F, 0x90, 0x07, 0x5B];

    #[test]
    fn the_client_is_the_source() {
        assert_eq!(client(b"PROXY TCP4 10.1.2.3 10.9.9.9 8080 1883\r\n").as_deref(), Some("10.1.2.3:8080"));
        assert_eq!(client(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\nxyz").as_deref(), Some("[2001:db8::1]:0"));
        assert_eq!(client(&v2(0x21, 0x11, &FOUR)).as_deref(), Some("10.1.2.3:8080"));
        let mut six = [0; 36];
        (six[0], six[15], six[33]) = (0x20, 1, 7);
        assert_eq!(client(&v2(0x21, 0x21, &six)).as_deref(), Some("[2000::1]:7"));
        // With details behind the addresses, and the client's bytes behind all.
        let long = [&FOUR[..], &[4, 0, 1, 0]].concat();
        let bytes = [&v2(0x21, 0x11, &long)[..], b"client"].concat();
        assert_eq!(whole(&bytes).size, bytes.len() - 6);
    }

    #[test]
    fn a_balancer_may_speak_for_itself() {
        for bytes in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN whatever it says\r\n".to_vec(),
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &FOUR),
            v2(0x20, 0x77, b"ignored"),
            v2(0x21, 0x00, b""),
            v2(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(whole(&bytes), Header { size: bytes.len(), client: None }, "{bytes:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let texts = [
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY\r\n",
            "proxy UNKNOWN\r\n",
            "GET /mqtt HTTP/1.1\r\n",
            "\x10",
            &long,
        ];
        for text in texts {
            parse(text.as_bytes()).expect_err(text);
        }
        let binaries = [
            v2(0x11, 0x11, &FOUR),
            v2(0x22, 0x11, &FOUR),
            v2(0x21, 0x12, &FOUR),
            v2(0x21, 0x11, &FOUR[..11]),
            v2(0x21, 0x21, &FOUR),
            v2(0x20, 0x00, &[0; MAX_SIZE - FIXED + 1]),
        ];
        for bytes in binaries {
            // By its fixed part alone, where that tells.
            parse(&bytes[..FIXED]).expect_err("refused at once");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_nothing_is_waited_for_beyond_the_longest(
            start in prop_oneof![Just(&b""[..]), Just(&WORD[..]), Just(&SIGNATURE[..]), Just(&b"PROXY TCP4 "[..])],
            tail in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &tail].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.size <= bytes.len());
                // The same from the header alone, and never from a part of it.
                prop_assert_eq!(parse(&bytes[..header.size]), Ok(Some(header)));
                prop_assert_eq!(parse(&bytes[..header.size - 1]), Ok(None));
            }
            let full: Vec<u8> = bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { MAX_SIZE }).collect();
            prop_assert!(full.is_empty() || parse(&full) != Ok(None));
        }

        #[test]
        fn what_is_written_is_read(source: SocketAddr, destination: SocketAddr, tail: Vec<u8>) {
            let (from, to) = (source.ip(), destination.ip());
            let (family, name, mut body) = match (from, to) {
                (IpAddr::V4(a), IpAddr::V4(b)) => (0x11, "TCP4", [a.octets(), b.octets()].concat()),
                (IpAddr::V6(a), IpAddr::V6(b)) => (0x21, "TCP6", [a.octets(), b.octets()].concat()),
                _ => return Ok(()),
            };
            body.extend(source.port().to_be_bytes());
            body.extend(destination.port().to_be_bytes());
            let line = format!("PROXY {name} {from} {to} {} {}\r\n", source.port(), destination.port());
            for mut bytes in [v2(0x21, family, &body), line.into_bytes()] {
                let size = bytes.len();
                bytes.extend_from_slice(&tail);
                let header = whole(&bytes);
                prop_assert_eq!(header.size, size);
                prop_assert_eq!(header.client, Some(SocketAddr::new(from, source.port())));
            }
        }
    }
}
