//! The HTTP request that opens a WebSocket (RFC 6455, section 4.2): judged whole, within bounds, and answered. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Request, Status};

use super::headers::{self, MAX_HEADERS, accept, only, tokens, values};

/// The longest request, in bytes. A browser's, with its cookies, may take some KiB.
pub const MAX_REQUEST: usize = 8 * 1024;

/// Where MQTT is.
const PATH: &str = "/mqtt";

/// A request that opens a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its length in bytes; what follows are frames.
    pub size: usize,
    /// The answer.
    pub response: Vec<u8>,
}

/// A request that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status of the answer.
    pub status: u16,
    /// For the log.
    pub reason: &'static str,
}

impl Refused {
    /// The answer; the connection ends behind it.
    pub fn response(&self) -> Vec<u8> {
        let (phrase, more) = match self.status {
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", "Allow: GET\r\n"),
            426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            431 => ("Request Header Fields Too Large", ""),
            _ => ("Bad Request", ""),
        };
        let connection = if self.status == 426 { "Upgrade, close" } else { "close" };
        format!(
            "HTTP/1.1 {} {phrase}\r\n{more}Connection: {connection}\r\nContent-Length: 0\r\n\r\n",
            self.status
        )
        .into_bytes()
    }
}

/// Judges the request that `bytes` begin with, of which `seen` were there the last time; `None` while more is to come.
/// With a list of `origins`, the request must come from one of them.
///
/// # Errors
/// If it is no request, or not one for MQTT over a WebSocket.
pub fn judge(bytes: &[u8], seen: usize, origins: Option<&[String]>) -> Result<Option<Accepted>, Refused> {
    // Another protocol's first byte, MQTT's or TLS's, is not waited on.
    if bytes.first().is_some_and(|first| !first.is_ascii_uppercase()) {
        return Err(refused(400, "not HTTP"));
    }
    let Some(size) = headers::size(&bytes[..bytes.len().min(MAX_REQUEST)], seen) else {
        let too_large = bytes.len() >= MAX_REQUEST;
        return if too_large { Err(refused(431, "the request is too large")) } else { Ok(None) };
    };
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(&bytes[..size]) {
        Ok(Status::Complete(parsed)) if parsed == size => {}
        Err(httparse::Error::TooManyHeaders) => return Err(refused(431, "too many headers")),
        _ => return Err(refused(400, "not a request of HTTP")),
    }
    let response = answer(&request, origins)?;
    Ok(Some(Accepted { size, response }))
}

fn refused(status: u16, reason: &'static str) -> Refused {
    Refused { status, reason }
}

fn answer(request: &Request<'_, '_>, origins: Option<&[String]>) -> Result<Vec<u8>, Refused> {
    let headers = &*request.headers;
    if request.method != Some("GET") {
        return Err(refused(405, "not GET"));
    }
    if request.version != Some(1) || only(headers, "Host").is_none() {
        return Err(refused(400, "not HTTP/1.1"));
    }
    // A body would be taken for frames here, and perhaps not by a proxy on the way.
    if values(headers, "Transfer-Encoding").chain(values(headers, "Content-Length")).next().is_some() {
        return Err(refused(400, "the request has a body"));
    }
    let path = request.path.and_then(|path| path.split('?').next());
    if path != Some(PATH) {
        return Err(refused(404, "the path is not /mqtt"));
    }
    let asks = tokens(headers, "Upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
        && tokens(headers, "Connection").any(|token| token.eq_ignore_ascii_case("upgrade"));
    if !asks || only(headers, "Sec-WebSocket-Version") != Some("13") {
        return Err(refused(426, "not for a WebSocket of version 13"));
    }
    if origins.is_some_and(|origins| !comes_from(headers, origins)) {
        return Err(refused(403, "the Origin is not one of those that are allowed"));
    }
    let key = only(headers, "Sec-WebSocket-Key").filter(|key| is_key(key));
    let key = key.ok_or(refused(400, "no key, or not one"))?;
    // [MQTT-6.0.0-3] [MQTT-6.0.0-4]
    let protocol = subprotocol(headers).ok_or(refused(400, "the subprotocol mqtt is not offered"))?;
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
        accept(key)
    )
    .into_bytes())
}

/// Sixteen bytes in base64.
fn is_key(key: &str) -> bool {
    key.len() == 24 && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// `mqtt`, or what clients of 3.1 say in its place.
fn subprotocol(headers: &[Header<'_>]) -> Option<&'static str> {
    const NAME: &str = "Sec-WebSocket-Protocol";
    ["mqtt", "mqttv3.1"].into_iter().find(|name| tokens(headers, NAME).any(|token| token == *name))
}

/// Whether there is exactly one Origin and it is one of these.
fn comes_from(headers: &[Header<'_>], origins: &[String]) -> bool {
    only(headers, "Origin").is_some_and(|origin| origins.iter().any(|one| one.eq_ignore_ascii_case(origin)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::headers::END;
    use super::*;

    const HEADERS: [&str; 6] = [
        "Host: broker",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: mqtt",
    ];

    fn request(line: &str, headers: &[&str]) -> Vec<u8> {
        let mut text = format!("{line}\r\n");
        headers.iter().for_each(|header| text.extend([header, "\r\n"]));
        (text + "\r\n").into_bytes()
    }

    /// A good request in which some headers are others; an empty one is left out.
    fn with(changes: &[(usize, &str)], more: &[&str]) -> Vec<u8> {
        let mut headers = HEADERS.to_vec();
        changes.iter().for_each(|(index, header)| headers[*index] = header);
        headers.retain(|header| !header.is_empty());
        headers.extend_from_slice(more);
        request("GET /mqtt HTTP/1.1", &headers)
    }

    fn status(bytes: &[u8], origins: Option<&[String]>) -> u16 {
        match judge(bytes, 0, origins) {
            Ok(Some(accepted)) => {
                assert!(accepted.response.starts_with(b"HTTP/1.1 101 "));
                101
            }
            Ok(None) => 0,
            Err(refused) => {
                let response = String::from_utf8(refused.response()).expect("text");
                assert!(
                    response.starts_with(&format!("HTTP/1.1 {} ", refused.status))
                        && response.ends_with("\r\n\r\n")
                );
                refused.status
            }
        }
    }

    #[test]
    fn the_sample_of_the_rfc_is_answered_as_it_says() {
        let bytes = [with(&[], &[]), b"frames".to_vec()].concat();
        let accepted = judge(&bytes, 0, None).expect("fine").expect("whole");
        assert_eq!(&bytes[accepted.size..], b"frames");
        let response = String::from_utf8(accepted.response).expect("text");
        assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(response.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"));
    }

    #[test]
    fn the_subprotocol_is_mqtt_or_what_3_1_calls_it() {
        for (offered, chosen) in [
            (&["mqtt"][..], Some("mqtt")),
            (&["mqttv3.1"], Some("mqttv3.1")),
            (&["mqttv3.1, mqtt"], Some("mqtt")),
            (&["chat", "x,mqtt"], Some("mqtt")),
            (&["chat"], None),
            (&["MQTT"], None),
            (&[], None),
        ] {
            let offered: Vec<_> =
                offered.iter().map(|list| format!("Sec-WebSocket-Protocol: {list}")).collect();
            let more: Vec<_> = offered.iter().map(String::as_str).collect();
            let judged = judge(&with(&[(5, "")], &more), 0, None);
            match chosen {
                Some(name) => {
                    let accepted = judged.expect("accepted").expect("whole");
                    let response = String::from_utf8(accepted.response).expect("text");
                    assert!(
                        response.contains(&format!("\r\nSec-WebSocket-Protocol: {name}\r\n")),
                        "{response}"
                    );
                }
                None => assert_eq!(judged.map(drop).map_err(|refused| refused.status), Err(400)),
            }
        }
    }

    #[test]
    fn what_is_not_a_good_request_is_refused() {
        for (expected, bytes) in [
            (405, request("POST /mqtt HTTP/1.1", &HEADERS)),
            (404, request("GET / HTTP/1.1", &HEADERS)),
            (404, request("GET /mqtt/ HTTP/1.1", &HEADERS)),
            (101, request("GET /mqtt?token=1 HTTP/1.1", &HEADERS)),
            (400, request("GET /mqtt HTTP/1.0", &HEADERS)),
            (400, request("GET /mqtt", &HEADERS)),
            (400, with(&[(0, "")], &[])),
            (400, with(&[], &["Host: another"])),
            (426, with(&[(1, "")], &[])),
            (426, with(&[(1, "Upgrade: h2c")], &[])),
            (426, with(&[(2, "Connection: close")], &[])),
            (426, with(&[(3, "Sec-WebSocket-Version: 8")], &[])),
            (400, with(&[(4, "Sec-WebSocket-Key: short")], &[])),
            (400, with(&[(4, "")], &[])),
            (400, with(&[], &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])),
            (400, with(&[], &["Content-Length: 5"])),
            (400, with(&[], &["Transfer-Encoding: chunked"])),
            (400, with(&[], &["Folded: a\r\n b"])),
            (400, with(&[], &["Sp ace: a"])),
            (400, b"GET /mqtt HTTP/1.1\n\nGET /mqtt HTTP/1.1\r\n\r\n".to_vec()),
            (400, b"\x10\x0c\0\x04MQTT".to_vec()),
            (400, b"\x16\x03\x01".to_vec()),
            (0, b"GET /mqtt HTTP/1.1\r\nHost: broker\r\n".to_vec()),
            (101, with(&[], &["Sec-WebSocket-Extensions: permessage-deflate"])),
        ] {
            assert_eq!(status(&bytes, None), expected, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn the_size_and_the_number_of_headers_are_bounded() {
        let header = |len: usize| format!("X: {}", "x".repeat(len));
        let fits = MAX_REQUEST - with(&[], &[]).len() - "X: \r\n".len();
        assert_eq!(status(&with(&[], &[&header(fits)]), None), 101);
        assert_eq!(status(&with(&[], &[&header(fits + 1)]), None), 431);
        assert_eq!(status(&[b'A'; MAX_REQUEST], None), 431);
        assert_eq!(status(&[b'A'; MAX_REQUEST - 1], None), 0);
        assert_eq!(status(&with(&[], &["X: y"; MAX_HEADERS - 6]), None), 101);
        assert_eq!(status(&with(&[], &["X: y"; MAX_HEADERS - 5]), None), 431);
    }

    #[test]
    fn with_a_list_the_origin_is_one_of_it_and_there_is_one() {
        let origins = ["https://app.example".to_owned(), "http://localhost:3000".to_owned()];
        let long = format!("Origin: https://app.example{}", "x".repeat(2000));
        for (expected, headers) in [
            (101, &["Origin: https://app.example"][..]),
            (101, &["origin: HTTPS://App.Example"]),
            (101, &["Origin: http://localhost:3000"]),
            (403, &[]),
            (403, &["Origin:"]),
            (403, &["Origin: null"]),
            (403, &["Origin: https://app.example.evil"]),
            (403, &["Origin: https://app.exampl"]),
            (403, &["Origin: http://app.example"]),
            (403, &["Origin: https://app.example, https://evil.example"]),
            (403, &["Origin: https://app.example", "Origin: https://app.example"]),
            (403, &["Origin: https://evil.example", "Origin: https://app.example"]),
            (403, &[&long]),
        ] {
            assert_eq!(status(&with(&[], headers), Some(&origins)), expected, "{headers:?}");
            assert_eq!(status(&with(&[], headers), None), 101, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_request_is_cut(cuts in proptest::collection::vec(1..40_usize, 1..50)) {
            let bytes = [with(&[], &[]), b"\r\n\r\nframes".to_vec()].concat();
            let expected = judge(&bytes, 0, None).expect("accepted").expect("whole");
            let mut seen = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let len = (seen + cut).min(bytes.len());
                let judged = judge(&bytes[..len], seen, None).expect("not refused");
                prop_assert_eq!(judged.is_some(), len >= expected.size);
                if let Some(accepted) = judged {
                    prop_assert_eq!(accepted, expected);
                    return Ok(());
                }
                seen = len;
            }
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = [&b"GET /mqtt HTTP/1.1\r\n"[..], &bytes, END].concat();
            for bytes in [&bytes, &text] {
                let _ = judge(bytes, 0, None);
            }
        }
    }
}
