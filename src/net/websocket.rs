//! MQTT over a WebSocket, with or without TLS below: the transformer of bytes that first answers the request for it, and
//! then takes frames apart and puts them together. Between two turns it owns no buffer.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use rustls::ServerConnection;

use crate::config::WebSocketConfig;
use crate::outbound::Outbound;
use crate::websocket::frames::{self, Decoder, OwnHeader};
use crate::websocket::upgrade;

use super::transport::{SLICES, decode_tls, taken, write_tls};

/// The longest frame that is sent, in bytes: some clients take none beyond a bound.
const LONGEST: usize = 64 * 1024;

/// One connection's.
pub(super) struct WebSocket {
    tls: Option<Box<ServerConnection>>,
    phase: Phase,
    /// Whole frames, or an answer of HTTP, on their way out; they go between two frames of data.
    answers: Outbound,
    /// The header of the frame that is on its way out.
    header: OwnHeader,
    /// How many bytes of MQTT that frame still lacks.
    framed: usize,
}

enum Phase {
    /// The request has not come as a whole.
    Request { rules: Arc<WebSocketConfig>, bytes: Vec<u8> },
    /// It is a WebSocket.
    Open(Decoder),
    /// Nothing more is taken from the client, and our Close is still to be said.
    Parting { code: u16, unanswered: bool },
    /// Nothing follows in either direction; `unanswered`: the client has not said so itself.
    Over { unanswered: bool },
}

impl WebSocket {
    pub(super) fn new(tls: Option<Box<ServerConnection>>, rules: Arc<WebSocketConfig>) -> WebSocket {
        let phase = Phase::Request { rules, bytes: Vec::new() };
        WebSocket { tls, phase, answers: Outbound::default(), header: OwnHeader::default(), framed: 0 }
    }

    /// As for `Transport::decode`.
    pub(super) fn decode(&mut self, raw: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        let from = plain.len();
        let below = match &mut self.tls {
            None => {
                plain.extend_from_slice(raw);
                Ok(false)
            }
            Some(tls) => decode_tls(tls, raw, plain),
        };
        let own = self.unwrap(plain, from);
        Ok(own? | below?)
    }

    /// Leaves of `plain`, from `from` on, what belongs to MQTT.
    fn unwrap(&mut self, plain: &mut Vec<u8>, from: usize) -> io::Result<bool> {
        if let Phase::Request { rules, bytes } = &mut self.phase {
            let seen = bytes.len();
            bytes.extend(plain.drain(from..));
            match upgrade::judge(bytes, seen, rules.origins.as_deref()) {
                Ok(None) => return Ok(false),
                Ok(Some(accepted)) => {
                    plain.extend_from_slice(&bytes[accepted.size..]);
                    self.answers.buf().extend_from_slice(&accepted.response);
                    self.phase = Phase::Open(Decoder::default());
                }
                Err(refused) => {
                    self.answers.buf().extend_from_slice(&refused.response());
                    self.phase = Phase::Over { unanswered: true };
                    return Err(violated(refused.reason));
                }
            }
        }
        let Phase::Open(decoder) = &mut self.phase else {
            plain.truncate(from);
            return Ok(true);
        };
        // What MQTT has still to say goes before our Close, so that waits for the end.
        match (decoder.decode(plain, from), decoder.closed()) {
            (Err(violation), _) => {
                self.phase = Phase::Parting { code: violation.code, unanswered: true };
                Err(violated(violation.reason))
            }
            (Ok(()), Some(code)) => {
                self.phase = Phase::Parting { code, unanswered: false };
                Ok(true)
            }
            (Ok(()), None) => Ok(false),
        }
    }

    /// It is the last frame of ours.
    fn say_close(&mut self, code: u16, unanswered: bool) {
        frames::close(code, self.answers.buf());
        self.phase = Phase::Over { unanswered };
    }

    /// Nothing more is taken from the client.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Parting { .. } | Phase::Over { .. })
    }

    /// We have said Close, and the client may be about to.
    pub(super) fn awaits_close(&self) -> bool {
        matches!(self.phase, Phase::Over { unanswered: true })
    }

    /// The TLS session below, if there is one.
    pub(super) fn tls(&self) -> Option<&ServerConnection> {
        self.tls.as_deref()
    }

    /// As for `Transport::wants_write`.
    pub(super) fn wants_write(&self) -> bool {
        let pinged = matches!(&self.phase, Phase::Open(decoder) if decoder.is_pinged());
        pinged || !self.answers.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// As for `Transport::flush`, and with `last` for `Transport::finish`.
    pub(super) fn write(
        &mut self,
        outbound: &mut Outbound,
        socket: &mut impl Write,
        last: bool,
    ) -> io::Result<()> {
        match self.tls.take() {
            None => self.drain(outbound, socket, last),
            Some(mut tls) => {
                let result = write_tls(&mut tls, socket, last, |sink| self.drain(outbound, sink, last));
                self.tls = Some(tls);
                result
            }
        }
    }

    /// Moves all that is to be sent to `sink`: one frame around what a turn has gathered.
    fn drain(&mut self, outbound: &mut Outbound, sink: &mut impl Write, last: bool) -> io::Result<()> {
        loop {
            if self.framed == 0 {
                self.gather_answers(last && outbound.is_empty());
                while !self.answers.is_empty() {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let count = self.answers.io_slices(&mut slices);
                    let written = taken(sink.write_vectored(&slices[..count]))?;
                    self.answers.consume(written);
                }
                if outbound.is_empty() {
                    return Ok(());
                }
                self.framed = outbound.len().min(LONGEST);
                self.header = OwnHeader::binary(self.framed);
            }
            let written = taken(write_frame(&self.header, outbound, self.framed, sink))?;
            let payload = self.header.consume(written);
            outbound.consume(payload);
            self.framed -= payload;
        }
    }

    /// Between two frames: what the client is owed, and at the end our Close.
    fn gather_answers(&mut self, at_end: bool) {
        match &mut self.phase {
            Phase::Open(decoder) => {
                if let Some(payload) = decoder.take_ping() {
                    frames::pong(&payload, self.answers.buf());
                }
                if at_end {
                    self.say_close(frames::NORMAL, true);
                }
            }
            Phase::Parting { code, unanswered } if at_end => {
                let (code, unanswered) = (*code, *unanswered);
                self.say_close(code, unanswered);
            }
            _ => {}
        }
    }
}

fn violated(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// One write of what is left of a header and of the `framed` bytes of `outbound` behind it.
fn write_frame(
    header: &OwnHeader,
    outbound: &Outbound,
    framed: usize,
    sink: &mut impl Write,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    slices[0] = IoSlice::new(header.unsent());
    let count = 1 + outbound.io_slices_within(framed, &mut slices[1..]);
    sink.write_vectored(&slices[..count])
}
