//! The request for a WebSocket, the answer to it, and the frames of both sides. How the bytes are cut into pieces makes no
//! difference, what is taken out of frames is never more than went in, and what well-made frames carry comes out as it was
//! put in. The first byte chooses, the second says where the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::websocket::frames::{Decoder, OwnHeader, Violation};
use weirmq::websocket::offer::{self, Offer};
use weirmq::websocket::upgrade;

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, cut], bytes)) = data.split_first_chunk() else { return };
    match choice % 4 {
        0 => _ = frames(cut, bytes),
        1 => built(cut, bytes),
        2 => request(cut, bytes),
        _ => request(cut, &lines(bytes)),
    }
});

/// What is left of a stream of frames: what they carry, the last ping, the code of its end.
type Outcome = (Vec<u8>, Result<(), Violation>, Option<Vec<u8>>, Option<u16>);

/// Decodes them piece by piece.
fn carried<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut bytes, mut outcome) = (Vec::new(), Ok(()));
    for piece in pieces {
        let from = bytes.len();
        bytes.extend_from_slice(piece);
        outcome = decoder.decode(&mut bytes, from);
        if outcome.is_err() {
            break;
        }
    }
    let (ping, closed) = (decoder.take_ping(), decoder.closed());
    assert!(!decoder.is_pinged() && ping.as_ref().is_none_or(|ping| ping.len() <= 125));
    (bytes, outcome, ping, closed)
}

/// As a client's frames, after they were taken for a server's.
fn frames(cut: u8, bytes: &[u8]) -> Outcome {
    _ = cut_anywhere(Decoder::of_server, cut, bytes);
    cut_anywhere(Decoder::default, cut, bytes)
}

fn cut_anywhere(decoder: fn() -> Decoder, cut: u8, bytes: &[u8]) -> Outcome {
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = carried(decoder(), [bytes]);
    assert_eq!(whole, carried(decoder(), [first, second]));
    if bytes.len() < 1024 {
        assert_eq!(whole, carried(decoder(), bytes.chunks(1 + usize::from(cut) % 7)));
    }
    assert!(whole.0.len() <= bytes.len());
    whole
}

/// Frames by their description, and what they are to come to.
fn built(cut: u8, bytes: &[u8]) {
    let (mut stream, mut payload) = (Vec::new(), Vec::new());
    let (mut in_message, mut ping, mut closed) = (false, None, None);
    for description in bytes.chunks_exact(4) {
        let (kind, len, mask) = (description[0], description[1], description[2]);
        let len = match description[3] {
            0..200 => usize::from(len) % 126,
            // The longest ones cost most, and one says as much as many.
            255 if stream.is_empty() => 0x1_0000 + usize::from(len),
            _ => usize::from(len) * 3,
        };
        let body: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(kind)).collect();
        let is_last = kind & 0x80 == 0;
        let (first, body) = match kind % 8 {
            0..=4 => (if in_message { 0 } else { 2 } | u8::from(is_last) << 7, body),
            5 => (0x89, body[..len.min(125)].to_vec()),
            6 => (0x8A, body[..len.min(125)].to_vec()),
            _ if kind & 0x70 != 0x70 => continue,
            _ => (0x88, [&1000_u16.to_be_bytes(), &body[..len.min(123)]].concat()),
        };
        put_frame(first, mask, &body, &mut stream);
        if closed.is_some() {
            continue;
        }
        match first & 0x0F {
            0x8 => closed = Some(1000),
            0x9 => ping = Some(body),
            0xA => {}
            _ => {
                in_message = !is_last;
                payload.extend_from_slice(&body);
            }
        }
    }
    assert_eq!(frames(cut, &stream), (payload, Ok(()), ping, closed));
}

/// A client's frame: the header that the server would write, masked.
fn put_frame(first: u8, mask: u8, body: &[u8], stream: &mut Vec<u8>) {
    let own = OwnHeader::binary(body.len());
    let mask = [mask, mask.rotate_left(3), !mask, 7];
    stream.extend_from_slice(&[first, own.unsent()[1] | 0x80]);
    stream.extend_from_slice(&own.unsent()[2..]);
    stream.extend_from_slice(&mask);
    stream.extend(body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A request of lines that are right, wrong, doubled, left out or changed.
fn lines(bytes: &[u8]) -> Vec<u8> {
    const LINES: [&str; 16] = [
        "GET /mqtt HTTP/1.1",
        "Host: broker",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: mqtt",
        "Origin: https://app.example",
        "Origin: https://app.example.evil",
        "Content-Length: 0",
        "Sec-WebSocket-Protocol: a, mqttv3.1 ",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "POST /mqtt HTTP/1.1",
        "GET /mqtt?x HTTP/1.1",
        "X: \u{e9}",
        "",
    ];
    let mut request = Vec::new();
    for change in bytes.chunks(2) {
        let line = LINES[usize::from(change[0] & 0x0F)];
        let at = request.len();
        request.extend_from_slice(line.as_bytes());
        request.extend_from_slice(b"\r\n");
        if change[0] >= 0xE0
            && let Some(by) = change.get(1)
        {
            let at = at + usize::from(*by) % (line.len() + 2);
            request[at] ^= change[0] & 0x7F;
        }
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// What a client makes of an answer.
fn answer(first: &[u8], bytes: &[u8]) {
    let offer = Offer::new([7; 16]);
    let judged = offer.judge(bytes, 0);
    if let Ok(Some(size)) = judged {
        assert!(size <= offer::MAX_RESPONSE && size <= bytes.len());
    }
    if offer.judge(first, 0) == Ok(None) {
        assert_eq!(offer.judge(bytes, first.len()), judged);
    }
}

fn request(cut: u8, bytes: &[u8]) {
    let first = &bytes[..usize::from(cut).min(bytes.len())];
    answer(first, bytes);
    let list = ["https://app.example".to_owned()];
    let mut opened = [false; 2];
    for (origins, opened) in [None, Some(&list[..])].into_iter().zip(&mut opened) {
        let judged = upgrade::judge(bytes, 0, origins);
        match &judged {
            Ok(Some(accepted)) => {
                *opened = true;
                assert!(accepted.size <= upgrade::MAX_REQUEST && accepted.size <= bytes.len());
                assert!(
                    accepted.response.starts_with(b"HTTP/1.1 101 ")
                        && accepted.response.ends_with(b"\r\n\r\n")
                );
                // It is the same by itself, and nothing shorter is one.
                assert_eq!(&upgrade::judge(&bytes[..accepted.size], 0, origins), &judged);
                if first.len() < accepted.size {
                    assert_eq!(upgrade::judge(first, 0, origins), Ok(None));
                }
            }
            Ok(None) => assert!(bytes.len() < upgrade::MAX_REQUEST),
            Err(refused) => {
                let response = refused.response();
                assert!(response.starts_with(format!("HTTP/1.1 {} ", refused.status).as_bytes()));
                assert!(response.ends_with(b"\r\n\r\n"));
            }
        }
        // What was looked through once is not looked through again.
        if upgrade::judge(first, 0, origins) == Ok(None) {
            assert_eq!(upgrade::judge(bytes, first.len(), origins), judged);
        }
    }
    assert!(opened[0] || !opened[1], "a list of origins lets nobody in who would not be let in without");
}
