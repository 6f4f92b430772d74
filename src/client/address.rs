//! Where a broker is and what is spoken on the way to it: a host and a port, or a URL.

use std::fmt;
use std::path::PathBuf;

use super::arguments::ConnectionArgs;
use super::failure::Failure;
use crate::websocket::offer;

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Over TCP.
    Network {
        /// A name or an address, without brackets.
        host: String,
        port: u16,
        tls: bool,
        /// In a WebSocket, and asked for where.
        websocket: Option<WebSocketAddress>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// What the request for a WebSocket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WebSocketAddress {
    /// The host as the URL has it, with the port if that is not the scheme's own.
    pub(super) host: String,
    /// The path, with the query.
    pub(super) path: String,
}

/// A scheme, its port, whether it has TLS and whether a WebSocket.
const SCHEMES: [(&str, u16, bool, bool); 4] = [
    ("mqtt", 1883, false, false),
    ("mqtts", 8883, true, false),
    ("ws", 80, false, true),
    ("wss", 443, true, true),
];

impl Address {
    /// From `--url`, or else from `-h`, `-p` and `--cafile`.
    ///
    /// # Errors
    /// A URL that is none, or that does not go with the other options.
    pub(super) fn new(args: &ConnectionArgs) -> Result<Address, Failure> {
        let has_authority = args.tls.cafile.is_some();
        let Some(url) = &args.url else {
            let port = args.port.unwrap_or(if has_authority { 8883 } else { 1883 });
            let host = args.host.trim_start_matches('[').trim_end_matches(']').to_owned();
            return Ok(Address::Network { host, port, tls: has_authority, websocket: None });
        };
        // The URL is not repeated: it may hold a password that should not be there.
        let wrong = |what: &str| Failure::usage(format_args!("--url: {what}"));
        let address = parse(url).map_err(|what| wrong(&what))?;
        match (address.has_tls(), has_authority) {
            (true, false) => Err(wrong("TLS needs --cafile, the authorities to trust")),
            (false, true) => {
                Err(wrong("there is no TLS that --cafile could be for; mqtts:// and wss:// have it"))
            }
            _ => Ok(address),
        }
    }

    fn has_tls(&self) -> bool {
        matches!(self, Address::Network { tls: true, .. })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Network { tls, websocket: Some(WebSocketAddress { host, path }), .. } => {
                write!(f, "{}://{host}{path}", if *tls { "wss" } else { "ws" })
            }
            Address::Network { host, port, .. } => write!(f, "{host} port {port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn parse(url: &str) -> Result<Address, String> {
    let (scheme, rest) =
        url.split_once(':').ok_or("a URL begins with mqtt://, mqtts://, ws://, wss:// or unix:")?;
    if scheme.eq_ignore_ascii_case("unix") {
        // With an authority that is empty, as in unix:///path, or without any.
        let path = rest.strip_prefix("//").unwrap_or(rest);
        return match path {
            "" => Err("the path of the socket is missing".to_owned()),
            _ if rest.starts_with("//") && !path.starts_with('/') => {
                Err("it has a host: unix:PATH or unix:///PATH names a socket of this machine".to_owned())
            }
            _ => Ok(Address::Unix(path.into())),
        };
    }
    let known = SCHEMES.iter().find(|(name, ..)| scheme.eq_ignore_ascii_case(name));
    let Some(&(_, own_port, tls, in_websocket)) = known else {
        return Err(format!("{scheme}: is not known; mqtt://, mqtts://, ws://, wss:// and unix: are"));
    };
    let rest = rest.strip_prefix("//").ok_or_else(|| format!("{scheme}: is followed by //"))?;
    // Whatever comes after goes into a request as it is.
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("only visible ASCII characters are allowed in it; others are written as %XX".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = host_and_port(authority)?;
    if path.contains('#') {
        return Err("a fragment (#) has no meaning here".to_owned());
    }
    let port = port.unwrap_or(own_port);
    let websocket = match path {
        _ if in_websocket => Some(WebSocketAddress {
            host: if port == own_port { host.to_owned() } else { format!("{host}:{port}") },
            path: match path {
                "" => offer::PATH.to_owned(),
                _ if path.starts_with('/') => path.to_owned(),
                query => format!("{}{query}", offer::PATH),
            },
        }),
        "" | "/" => None,
        _ => return Err("a path is for ws:// and wss:// only; the topic goes to -t".to_owned()),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Address::Network { host, port, tls, websocket })
}

/// The two, the host with its brackets.
fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    if authority.contains('@') {
        return Err("the user name and the password go to -u and -P".to_owned());
    }
    // Within brackets a colon is part of the address.
    let at = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[at..].find(':') {
        Some(colon) => (&authority[..at + colon], Some(&authority[at + colon + 1..])),
        None => (authority, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    if host.is_empty() || (host.contains(['[', ']']) && !bracketed) {
        return Err("the host is missing or not one; an IPv6 address stands in brackets".to_owned());
    }
    let port = match port {
        None => None,
        Some(text) => {
            let port =
                text.parse().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
            Some(port.ok_or_else(|| format!("the port is 1 to 65535, not {text:?}"))?)
        }
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(host: &str, port: u16, tls: bool, websocket: Option<(&str, &str)>) -> Address {
        let websocket =
            websocket.map(|(host, path)| WebSocketAddress { host: host.to_owned(), path: path.to_owned() });
        Address::Network { host: host.to_owned(), port, tls, websocket }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, expected) in [
            ("mqtt://broker", network("broker", 1883, false, None)),
            ("MQTT://broker:1884/", network("broker", 1884, false, None)),
            ("mqtts://[::1]", network("::1", 8883, true, None)),
            ("mqtts://[::1]:99", network("::1", 99, true, None)),
            ("ws://broker", network("broker", 80, false, Some(("broker", "/mqtt")))),
            ("ws://broker:80/", network("broker", 80, false, Some(("broker", "/")))),
            ("ws://broker:8083?a=b", network("broker", 8083, false, Some(("broker:8083", "/mqtt?a=b")))),
            ("wss://[::1]:8084/a/b?c", network("::1", 8084, true, Some(("[::1]:8084", "/a/b?c")))),
            ("unix:/run/mqtt.sock", Address::Unix("/run/mqtt.sock".into())),
            ("unix:///run/mqtt.sock", Address::Unix("/run/mqtt.sock".into())),
            ("unix:mqtt.sock", Address::Unix("mqtt.sock".into())),
        ] {
            assert_eq!(parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_told() {
        for (url, expected) in [
            ("broker", "begins with"),
            ("http://broker", "http: is not known"),
            ("broker:1883", "broker: is not known"),
            ("ws:broker", "ws: is followed by //"),
            ("ws://", "the host is missing"),
            ("ws://:8083", "the host is missing"),
            ("ws:///mqtt", "the host is missing"),
            ("ws://[::1", "the host is missing"),
            ("ws://::1", "an IPv6 address stands in brackets"),
            ("ws://[]", "the host is missing"),
            ("ws://broker:", "the port is 1 to 65535"),
            ("ws://broker:0", "the port is 1 to 65535"),
            ("ws://broker:+1", "the port is 1 to 65535"),
            ("ws://broker:65536", "the port is 1 to 65535"),
            ("ws://user:secret@broker", "-u and -P"),
            ("ws://broker/a b", "visible ASCII"),
            ("ws://broker/\r\nX: y", "visible ASCII"),
            ("ws://broker/#x", "fragment"),
            ("mqtt://broker/topic", "the topic goes to -t"),
            ("unix:", "the path of the socket is missing"),
            ("unix://", "the path of the socket is missing"),
            ("unix://host/path", "it has a host"),
        ] {
            let told = parse(url).expect_err(url);
            assert!(told.contains(expected), "{url}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn an_address_says_where_it_is() {
        for (url, expected) in [
            ("mqtt://broker", "broker port 1883"),
            ("wss://broker:8084/x", "wss://broker:8084/x"),
            ("ws://broker", "ws://broker/mqtt"),
            ("unix:///a", "unix:/a"),
        ] {
            assert_eq!(parse(url).map(|address| address.to_string()).as_deref(), Ok(expected));
        }
    }
}
