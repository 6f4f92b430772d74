//! The client's side of what opens a WebSocket (RFC 6455, section 4.1): the request, and the judgement of its answer,
//! within bounds. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Response, Status};

use super::headers::{self, MAX_HEADERS, accept, only, tokens, values};

/// The longest answer, in bytes.
pub const MAX_RESPONSE: usize = 8 * 1024;

/// Where MQTT is unless the URL says otherwise.
pub const PATH: &str = "/mqtt";

/// The subprotocol of MQTT 3.1.1 and 5.0 [MQTT-6.0.0-3].
const SUBPROTOCOL: &str = "mqtt";

/// A request for a WebSocket that carries MQTT.
#[derive(Clone, Debug)]
pub struct Offer {
    key: String,
}

impl Offer {
    /// With sixteen bytes that nobody can foresee.
    pub fn new(nonce: [u8; 16]) -> Offer {
        Offer { key: STANDARD.encode(nonce) }
    }

    /// What is to be sent. `host` is the server's name, with the port if that is not the scheme's own; neither it nor
    /// `path` contains blanks or control characters.
    pub fn request(&self, host: &str, path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
            self.key
        )
        .into_bytes()
    }

    /// Judges the answer that `bytes` begin with, of which `seen` were there the last time: its size, behind which the
    /// server's frames are; `None` while more is to come.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence about the server.
    pub fn judge(&self, bytes: &[u8], seen: usize) -> Result<Option<usize>, String> {
        let known = bytes.len().min(b"HTTP/".len());
        if bytes[..known] != b"HTTP/"[..known] {
            return Err("the answer is not HTTP: no WebSocket is served there".to_owned());
        }
        let Some(size) = headers::size(&bytes[..bytes.len().min(MAX_RESPONSE)], seen) else {
            return if bytes.len() < MAX_RESPONSE {
                Ok(None)
            } else {
                Err(format!("the header of the answer is longer than {MAX_RESPONSE} bytes"))
            };
        };
        let mut fields = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = Response::new(&mut fields);
        match response.parse(&bytes[..size]) {
            Ok(Status::Complete(parsed)) if parsed == size => self.agree(&response).map(|()| Some(size)),
            Err(httparse::Error::TooManyHeaders) => {
                Err(format!("the answer has more than {MAX_HEADERS} header fields"))
            }
            _ => Err("the answer is not well-formed HTTP".to_owned()),
        }
    }

    fn agree(&self, response: &Response<'_, '_>) -> Result<(), String> {
        let status = response.code.unwrap_or_default();
        if status != 101 {
            let reason = response.reason.unwrap_or_default();
            let answer = format!("{status} {reason}");
            return Err(format!("the server answered {} instead of opening a WebSocket", answer.trim_end()));
        }
        let headers = &*response.headers;
        let opens = tokens(headers, "Upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
            && tokens(headers, "Connection").any(|token| token.eq_ignore_ascii_case("upgrade"));
        if !opens {
            return Err("the server switched to a protocol that is not WebSocket".to_owned());
        }
        if only(headers, "Sec-WebSocket-Accept") != Some(&accept(&self.key)) {
            return Err(
                "Sec-WebSocket-Accept is not what the key asks for: not a WebSocket server, or a cache \
                        on the way"
                    .to_owned(),
            );
        }
        if values(headers, "Sec-WebSocket-Extensions").any(|value| !value.is_empty()) {
            return Err("the server turned on extensions that were not offered".to_owned());
        }
        match only(headers, "Sec-WebSocket-Protocol") {
            Some(SUBPROTOCOL) => Ok(()),
            None => Err(format!("the server did not agree on the subprotocol {SUBPROTOCOL}")),
            Some(other) => Err(format!(
                "the server chose the subprotocol {} instead of {SUBPROTOCOL}",
                other.escape_default()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::upgrade;
    use super::*;

    fn sample() -> Offer {
        Offer::new(*b"the sample nonce")
    }

    const GOOD: [&str; 5] = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Protocol: mqtt",
    ];

    fn answer(changes: &[(usize, &str)], more: &[&str]) -> Vec<u8> {
        let mut lines = GOOD.to_vec();
        changes.iter().for_each(|(index, line)| lines[*index] = line);
        lines.extend_from_slice(more);
        lines.retain(|line| !line.is_empty());
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    #[test]
    fn the_two_sides_agree() {
        let offer = Offer::new([7; 16]);
        let request = offer.request("broker:8083", "/mqtt?x=1");
        let accepted = upgrade::judge(&request, 0, None).expect("accepted").expect("whole");
        assert_eq!(accepted.size, request.len());
        let answer = [&accepted.response[..], b"frames"].concat();
        assert_eq!(offer.judge(&answer, 0), Ok(Some(accepted.response.len())));
        assert!(Offer::new([8; 16]).judge(&answer, 0).is_err(), "another's answer");
    }

    #[test]
    fn what_is_not_the_right_answer_is_told() {
        // The example of RFC 6455.
        assert_eq!(sample().key, "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(matches!(sample().judge(&answer(&[], &[]), 0), Ok(Some(_))));
        for (expected, bytes) in [
            ("answered 403 Forbidden instead", b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()),
            ("answered 500 instead", b"HTTP/1.1 500\r\n\r\n".to_vec()),
            ("answered 404 Not Found instead", answer(&[(0, "HTTP/1.0 404 Not Found")], &[])),
            ("not WebSocket", answer(&[(1, "Upgrade: h2c")], &[])),
            ("not WebSocket", answer(&[(2, "")], &[])),
            ("Sec-WebSocket-Accept", answer(&[(3, "")], &[])),
            (
                "Sec-WebSocket-Accept",
                answer(&[(3, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")], &[]),
            ),
            ("Sec-WebSocket-Accept", answer(&[], &[GOOD[3]])),
            ("did not agree on the subprotocol mqtt", answer(&[(4, "")], &[])),
            ("chose the subprotocol chat", answer(&[(4, "Sec-WebSocket-Protocol: chat")], &[])),
            ("extensions", answer(&[], &["Sec-WebSocket-Extensions: permessage-deflate"])),
            ("not well-formed", answer(&[], &["Sp ace: x"])),
            ("more than 64 header fields", answer(&[], &["X: y"; 61])),
            ("longer than 8192 bytes", [b"HTTP/1.1 101 ".to_vec(), vec![b'x'; MAX_RESPONSE]].concat()),
            ("not HTTP", b"\x20\x02\0\0".to_vec()),
            ("not HTTP", b"HTTQ".to_vec()),
        ] {
            let told = sample().judge(&bytes, 0).expect_err(expected);
            assert!(told.contains(expected), "{told}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_an_answer_is_cut(cuts in proptest::collection::vec(1..40_usize, 1..20)) {
            let (offer, whole) = (sample(), answer(&[], &[]));
            let bytes = [&whole[..], b"\r\n\r\nframes"].concat();
            let mut seen = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let len = (seen + cut).min(bytes.len());
                let judged = offer.judge(&bytes[..len], seen);
                prop_assert_eq!(&judged, &Ok((len >= whole.len()).then_some(whole.len())));
                if len >= whole.len() {
                    return Ok(());
                }
                seen = len;
            }
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = sample().judge(&bytes, 0);
            let _ = sample().judge(&[b"HTTP/1.1 101 x\r\n", &bytes[..], b"\r\n\r\n"].concat(), 0);
        }
    }
}
