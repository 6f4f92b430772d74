//! The frames of a WebSocket (RFC 6455, section 5): what the other side's carry is taken out of them as it arrives, in
//! place, so that no frame is ever held as a whole; and one's own. Only a client's are masked. Pure.

/// The longest payload of one frame, in bytes: more than any packet of MQTT. (The other side may put many packets into one
/// frame. It is not held, so its length alone costs nothing.)
pub const MAX_PAYLOAD: u64 = 1 << 28;

/// The longest header of a client's frame, and of a server's.
const MAX_HEADER: usize = 14;
const MAX_OWN_HEADER: usize = 10;

/// The most that a control frame carries.
const MAX_CONTROL: u64 = 125;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// The status code of a normal end.
pub const NORMAL: u16 = 1000;

/// How the other side broke the rules: the code that it is told, and the reason for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The status code of the Close frame.
    pub code: u16,
    /// What it did.
    pub reason: &'static str,
}

/// A protocol error.
const fn wrong(reason: &'static str) -> Violation {
    Violation { code: 1002, reason }
}

/// What is known of the other side's stream of frames; by default it is a client's.
#[derive(Debug, Default)]
pub struct Decoder {
    of_server: bool,
    /// The part of a header that is there.
    header: [u8; MAX_HEADER],
    filled: u8,
    frame: Option<Frame>,
    /// A message is under way whose last frame has not come.
    in_message: bool,
    /// What is there of a control frame's payload.
    control: Vec<u8>,
    /// The payload of the last Ping, which is to be answered.
    pinged: Option<Vec<u8>>,
    /// The other side has said that nothing follows: the code to answer with.
    closed: Option<u16>,
}

/// A frame whose header is there.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    /// Bytes of its payload that are still to come.
    left: u64,
    /// What those are masked with, beginning with the next of them.
    mask: [u8; 4],
}

impl Frame {
    fn is_control(&self) -> bool {
        is_control(self.opcode)
    }
}

fn is_control(opcode: u8) -> bool {
    opcode & 0x8 != 0
}

impl Decoder {
    /// For a server's frames.
    pub fn of_server() -> Decoder {
        Decoder { of_server: true, ..Decoder::default() }
    }

    /// Takes the frames in `bytes` from `from` on, and leaves there what the data frames among them carry.
    ///
    /// # Errors
    /// If the other side breaks the rules; what it had sent before is there. Nothing is to be decoded behind that.
    pub fn decode(&mut self, bytes: &mut Vec<u8>, from: usize) -> Result<(), Violation> {
        let (mut read, mut write) = (from, from);
        let outcome = loop {
            if self.closed.is_some() {
                break Ok(());
            }
            let Some(frame) = &mut self.frame else {
                match self.read_header(&bytes[read..]) {
                    Ok(0) => break Ok(()),
                    Ok(taken) => read += taken,
                    Err(violation) => break Err(violation),
                }
                continue;
            };
            let len = (bytes.len() - read).min(usize::try_from(frame.left).unwrap_or(usize::MAX));
            if len == 0 && frame.left > 0 {
                break Ok(());
            }
            let payload = read..read + len;
            unmask(&mut bytes[payload.clone()], &mut frame.mask);
            frame.left -= len as u64;
            let ended = (frame.left == 0).then_some(frame.opcode);
            if frame.is_control() {
                self.control.extend_from_slice(&bytes[payload]);
            } else {
                bytes.copy_within(payload, write);
                write += len;
            }
            read += len;
            if let Some(opcode) = ended {
                self.frame = None;
                if let Err(violation) = self.control_ended(opcode) {
                    break Err(violation);
                }
            }
        };
        bytes.truncate(write);
        outcome
    }

    /// The payload of the last Ping since this was asked, if there was any: one answer is enough for several.
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.pinged.take()
    }

    /// Whether there is such a Ping.
    pub fn is_pinged(&self) -> bool {
        self.pinged.is_some()
    }

    /// The code to answer the other side's Close with, if it has sent one.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Adds to the header that is to come; how many bytes of it there were.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut taken = 0;
        loop {
            let filled = usize::from(self.filled);
            if filled == 2 && (self.header[1] & MASKED == 0) != self.of_server {
                return Err(wrong(if self.of_server { "a masked frame" } else { "a frame without a mask" }));
            }
            if filled >= 2 && filled == header_size(self.header[1]) {
                self.filled = 0;
                self.frame = Some(self.judge()?);
                return Ok(taken);
            }
            let Some(byte) = bytes.get(taken) else { return Ok(taken) };
            self.header[filled] = *byte;
            self.filled += 1;
            taken += 1;
        }
    }

    /// The frame whose header has come.
    fn judge(&mut self) -> Result<Frame, Violation> {
        let [first, second, ..] = self.header;
        let opcode = first & 0x0F;
        if first & RESERVED != 0 {
            return Err(wrong("a frame with reserved bits"));
        }
        let (length, mask) = self.header[2..header_size(second)].split_at(length_size(second));
        let left = length.iter().fold(0, |left, byte| left << 8 | u64::from(*byte));
        let left = match (second & !MASKED, left) {
            (126, 0..126) | (127, 0..0x1_0000) => return Err(wrong("a length in too many bytes")),
            (126 | 127, left) => left,
            (left, _) => u64::from(left),
        };
        let is_last = first & FIN != 0;
        match opcode {
            CLOSE | PING | PONG if !is_last || left > MAX_CONTROL => {
                return Err(wrong("a control frame that is long or not the last of its message"));
            }
            CLOSE | PING | PONG => {}
            // [MQTT-6.0.0-1]
            TEXT => return Err(Violation { code: 1003, reason: "a text frame" }),
            BINARY if self.in_message => return Err(wrong("a message within another")),
            CONTINUATION if !self.in_message => return Err(wrong("a continuation of nothing")),
            BINARY | CONTINUATION => self.in_message = !is_last,
            _ => return Err(wrong("a frame of an unknown kind")),
        }
        if left > MAX_PAYLOAD {
            return Err(Violation { code: 1009, reason: "a frame that is too long" });
        }
        // A server's has none, which is a mask of zeros.
        let mask = mask.first_chunk().copied().unwrap_or_default();
        Ok(Frame { opcode, left, mask })
    }

    /// Takes note of a control frame; any other needs none.
    fn control_ended(&mut self, opcode: u8) -> Result<(), Violation> {
        if !is_control(opcode) {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.control);
        match opcode {
            PING => self.pinged = Some(payload),
            CLOSE => {
                self.closed = Some(match payload[..] {
                    [] => NORMAL,
                    [high, low, ..] => match u16::from_be_bytes([high, low]) {
                        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => code,
                        _ => return Err(wrong("a Close with a code that there is not")),
                    },
                    [_] => return Err(wrong("a Close with half a code")),
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// The size of a header, by its second byte.
fn header_size(second: u8) -> usize {
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    2 + length_size(second) + mask
}

/// How much of that is a length that the second byte has no room for.
fn length_size(second: u8) -> usize {
    match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Removes the mask, or puts it on, and turns it to where the next byte finds it.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Ok(eight) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ wide).to_ne_bytes());
        }
    }
    let rest = chunks.into_remainder();
    rest.iter_mut().zip([a, b, c, d, a, b, c, d]).for_each(|(byte, mask)| *byte ^= mask);
    mask.rotate_left(rest.len() % 4);
}

/// The header of a frame of a server's.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnHeader {
    bytes: [u8; MAX_OWN_HEADER],
    sent: u8,
    end: u8,
}

impl OwnHeader {
    /// Of a binary frame that carries so many bytes [MQTT-6.0.0-1].
    pub fn binary(len: usize) -> OwnHeader {
        let mut bytes = [0; MAX_OWN_HEADER];
        bytes[0] = FIN | BINARY;
        let end = match len {
            0..126 => {
                bytes[1] = len as u8;
                2
            }
            126..0x1_0000 => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
                10
            }
        };
        OwnHeader { bytes, sent: 0, end }
    }

    /// What is still to be sent of it.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[usize::from(self.sent)..usize::from(self.end)]
    }

    /// Up to `len` bytes of it have left; how many of those were others'.
    pub fn consume(&mut self, len: usize) -> usize {
        let own = len.min(self.unsent().len());
        self.sent += own as u8;
        len - own
    }
}

/// Writes a server's Pong that answers a Ping with this payload.
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[FIN | PONG, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// Writes a server's Close.
pub fn close(code: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&[FIN | CLOSE, 2]);
    out.extend_from_slice(&code.to_be_bytes());
}

/// What a client's frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// It carries MQTT [MQTT-6.0.0-1].
    Binary = BINARY,
    /// It answers a Ping with what that carried.
    Pong = PONG,
    /// It carries the code of the end.
    Close = CLOSE,
}

/// Writes a client's frame. The mask is to be one that nobody can foresee.
pub fn masked(kind: Kind, payload: &[u8], mut mask: [u8; 4], out: &mut Vec<u8>) {
    let header = OwnHeader::binary(payload.len());
    let at = out.len();
    out.extend_from_slice(header.unsent());
    out[at] = FIN | kind as u8;
    out[at + 1] |= MASKED;
    out.extend_from_slice(&mask);
    let at = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[at..], &mut mask);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(MASKED | len as u8),
            len @ 126..0x1_0000 => {
                bytes.push(MASKED | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(MASKED | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut bytes = [b"kept", bytes].concat();
        let outcome = decoder.decode(&mut bytes, 4);
        assert_eq!(&bytes[..4], b"kept");
        outcome.map(|()| bytes.split_off(4))
    }

    fn code_of(bytes: &[u8]) -> Option<u16> {
        decode(&mut Decoder::default(), bytes).err().map(|violation| violation.code)
    }

    #[test]
    fn the_sample_of_the_rfc() {
        let bytes = [0x82, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
        assert_eq!(decode(&mut Decoder::default(), &bytes), Ok(b"Hello".to_vec()));
    }

    #[test]
    fn what_breaks_the_rules_is_told_with_its_code() {
        let long = [&[0x82, 0xFF][..], &(MAX_PAYLOAD + 1).to_be_bytes(), &MASK].concat();
        let longest = [&[0x82, 0xFF][..], &MAX_PAYLOAD.to_be_bytes(), &MASK].concat();
        for (expected, bytes) in [
            (Some(1003), frame(FIN | TEXT, b"text")),
            (Some(1003), frame(TEXT, b"")),
            (Some(1002), vec![0x82, 0x01]),
            (Some(1002), frame(FIN | 0x40 | BINARY, b"compressed")),
            (Some(1002), frame(FIN | 0x3, b"")),
            (Some(1002), frame(FIN | 0xB, b"")),
            (Some(1002), frame(FIN | CONTINUATION, b"")),
            (Some(1002), [frame(BINARY, b"a"), frame(FIN | BINARY, b"b")].concat()),
            (Some(1002), frame(PING, b"")),
            (Some(1002), frame(FIN | PING, &[0; 126])),
            (Some(1002), vec![0x82, 0xFE, 0, 125, 0, 0, 0, 0]),
            (Some(1002), vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]),
            (Some(1009), vec![0x82, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (Some(1009), long),
            (None, longest),
            (Some(1002), frame(FIN | CLOSE, &[3])),
            (Some(1002), frame(FIN | CLOSE, &1005_u16.to_be_bytes())),
            (None, frame(FIN | PONG, b"nobody asked")),
        ] {
            assert_eq!(code_of(&bytes), expected, "{bytes:02X?}");
        }
    }

    #[test]
    fn what_came_before_a_violation_is_there() {
        let mut bytes = [frame(FIN | BINARY, b"good"), frame(FIN | TEXT, b"bad")].concat();
        Decoder::default().decode(&mut bytes, 0).expect_err("text");
        assert_eq!(bytes, b"good");
    }

    #[test]
    fn control_frames_may_come_within_a_message_and_nothing_behind_a_close() {
        let mut decoder = Decoder::default();
        let bytes = [
            frame(BINARY, b"a"),
            frame(FIN | PING, b"1"),
            frame(CONTINUATION, b""),
            frame(FIN | PING, b"2"),
            frame(FIN | CONTINUATION, b"b"),
            frame(FIN | CLOSE, &1001_u16.to_be_bytes()),
            frame(FIN | TEXT, b"ignored"),
        ];
        assert_eq!(decode(&mut decoder, &bytes.concat()), Ok(b"ab".to_vec()));
        assert_eq!(decoder.take_ping(), Some(b"2".to_vec()));
        assert_eq!((decoder.take_ping(), decoder.closed()), (None, Some(1001)));
        assert_eq!(decode(&mut decoder, b"anything"), Ok(Vec::new()));
    }

    #[test]
    fn between_frames_it_owns_nothing() {
        let mut decoder = Decoder::default();
        decode(&mut decoder, &[frame(FIN | BINARY, &[1; 1000]), frame(FIN | PONG, b"x")].concat())
            .expect("fine");
        assert_eq!((decoder.control.capacity(), decoder.pinged), (0, None));
        println!("size_of Decoder: {} bytes", size_of::<Decoder>());
    }

    #[test]
    fn each_side_takes_the_frames_of_the_other_alone() {
        for len in [0, 5, 125, 126, 0xFFFF, 0x1_0000] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut clients = Vec::new();
            masked(Kind::Binary, &payload, MASK, &mut clients);
            assert_eq!(clients, frame(FIN | BINARY, &payload));
            let servers = [OwnHeader::binary(len).unsent(), &payload].concat();
            assert_eq!(decode(&mut Decoder::of_server(), &servers), Ok(payload));
            let refused =
                |mut decoder: Decoder, bytes| decode(&mut decoder, bytes).expect_err("the wrong side's");
            assert_eq!(refused(Decoder::of_server(), &clients).code, 1002);
            assert_eq!(refused(Decoder::default(), &servers).code, 1002);
        }
        let (mut pong_and_close, mut decoder) = (Vec::new(), Decoder::default());
        masked(Kind::Pong, b"x", MASK, &mut pong_and_close);
        masked(Kind::Close, &1001_u16.to_be_bytes(), MASK, &mut pong_and_close);
        assert_eq!(decode(&mut decoder, &pong_and_close), Ok(Vec::new()));
        assert_eq!(decoder.closed(), Some(1001));
    }

    #[test]
    fn own_headers_have_the_shortest_length() {
        for (len, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xFFFF, &[0x82, 126, 0xFF, 0xFF]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut header = OwnHeader::binary(len);
            assert_eq!(header.unsent(), expected);
            assert_eq!((header.consume(1), header.unsent()), (0, &expected[1..]));
            assert_eq!((header.consume(100), header.unsent()), (101 - expected.len(), &[][..]));
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_stream_is_cut(
            messages in proptest::collection::vec(
                (proptest::collection::vec(0..300_usize, 1..4), proptest::option::of(0..126_usize)), 1..6),
            cuts in proptest::collection::vec(1..40_usize, 1..60),
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (parts, ping) in &messages {
                for (index, len) in parts.iter().enumerate() {
                    let opcode = if index == 0 { BINARY } else { CONTINUATION };
                    let fin = if index + 1 == parts.len() { FIN } else { 0 };
                    let payload: Vec<u8> = (0..*len).map(|at| (at * 31 + index) as u8).collect();
                    stream.extend(frame(fin | opcode, &payload));
                    expected.extend(payload);
                    if let Some(len) = ping {
                        stream.extend(frame(FIN | PING, &vec![7; *len]));
                    }
                }
            }
            let (mut decoder, mut got, mut rest) = (Decoder::default(), Vec::new(), &stream[..]);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                got.extend(decode(&mut decoder, now).expect("well-formed"));
                rest = later;
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(decoder.is_pinged(), messages.iter().any(|(_, ping)| ping.is_some()));
        }

        #[test]
        fn any_bytes_are_decoded_alike_however_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..200_usize, masked: bool,
        ) {
            let mut bytes = bytes;
            if masked && bytes.len() > 1 {
                (bytes[0], bytes[1]) = (bytes[0] & 0x8F, bytes[1] | MASKED);
            }
            let mut whole = bytes.clone();
            let expected = Decoder::default().decode(&mut whole, 0);
            prop_assert!(whole.len() <= bytes.len());
            let mut decoder = Decoder::default();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut got = first.to_vec();
            let mut outcome = decoder.decode(&mut got, 0);
            if outcome.is_ok() {
                let from = got.len();
                got.extend_from_slice(second);
                outcome = decoder.decode(&mut got, from);
            }
            prop_assert_eq!((got, outcome), (whole, expected));
        }
    }
}
