//! What lies between a socket's bytes and MQTT's: nothing, TLS, or a WebSocket. A transport only transforms bytes; who
//! reads and writes the socket, and when, is the caller's business. So handshake and connection serve every transport
//! alike.

use std::io::{self, BufRead, IoSlice, Write};

use rustls::{ServerConnection, Writer};

use crate::outbound::Outbound;

use super::stream::Stream;
use super::websocket::WebSocket;

/// How many pieces one write takes at most.
pub(super) const SLICES: usize = 32;

/// The transformer of one connection.
pub(super) enum Transport {
    /// MQTT directly over the socket.
    Plain,
    /// MQTT within something else; behind one pointer, for most have nothing there.
    Within(Box<Layer>),
}

/// What MQTT is carried in.
pub(super) enum Layer {
    /// TLS.
    Tls(Box<ServerConnection>),
    /// A WebSocket, with or without TLS.
    WebSocket(Box<WebSocket>),
}

impl Transport {
    /// Takes what a socket gave and appends what it carries to `plain`; whether the peer has ended the stream.
    ///
    /// # Errors
    /// If the peer breaks the transport's own protocol. An alert for it may then wait to be written.
    pub(super) fn decode(&mut self, raw: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Transport::Plain => {
                plain.extend_from_slice(raw);
                Ok(false)
            }
            Transport::Within(layer) => match &mut **layer {
                Layer::Tls(tls) => decode_tls(tls, raw, plain),
                Layer::WebSocket(websocket) => websocket.decode(raw, plain),
            },
        }
    }

    fn layer(&self) -> Option<&Layer> {
        match self {
            Transport::Plain => None,
            Transport::Within(layer) => Some(layer),
        }
    }

    /// The TLS session, if there is one.
    pub(super) fn tls(&self) -> Option<&ServerConnection> {
        match self.layer()? {
            Layer::Tls(tls) => Some(tls),
            Layer::WebSocket(websocket) => websocket.tls(),
        }
    }

    /// Whether the transport has bytes of its own to send, a handshake's or an alert.
    pub(super) fn wants_write(&self) -> bool {
        match self.layer() {
            None => false,
            Some(Layer::Tls(tls)) => tls.wants_write(),
            Some(Layer::WebSocket(websocket)) => websocket.wants_write(),
        }
    }

    /// Whether the peer has ended the stream, or broken its rules, in what has been decoded.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.layer(), Some(Layer::WebSocket(websocket)) if websocket.has_ended())
    }

    /// Whether the peer may be about to answer our end of the stream with its own.
    pub(super) fn awaits_close(&self) -> bool {
        matches!(self.layer(), Some(Layer::WebSocket(websocket)) if websocket.awaits_close())
    }

    /// Moves everything from `outbound` to the socket, with as few writes as there can be.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the socket takes no more: what is left stays here and in `outbound`. Any
    /// other error is the socket's end.
    pub(super) fn flush(&mut self, outbound: &mut Outbound, socket: &mut impl Write) -> io::Result<()> {
        self.write(outbound, socket, false)
    }

    /// The same for the last bytes of a connection: behind them the peer is told that nothing follows.
    ///
    /// # Errors
    /// As for [`Transport::flush`].
    pub(super) fn finish(&mut self, outbound: &mut Outbound, socket: &mut impl Write) -> io::Result<()> {
        self.write(outbound, socket, true)
    }

    fn write(&mut self, outbound: &mut Outbound, socket: &mut impl Write, last: bool) -> io::Result<()> {
        match self {
            Transport::Plain => drain(outbound, socket),
            Transport::Within(layer) => match &mut **layer {
                Layer::Tls(tls) => write_tls(tls, socket, last, |sink| drain(outbound, sink)),
                Layer::WebSocket(websocket) => websocket.write(outbound, socket, last),
            },
        }
    }
}

/// Decrypts what a socket gave, as [`Transport::decode`] does.
pub(super) fn decode_tls(
    tls: &mut ServerConnection,
    mut raw: &[u8],
    plain: &mut Vec<u8>,
) -> io::Result<bool> {
    while !raw.is_empty() {
        tls.read_tls(&mut raw)?;
        let state =
            tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if state.plaintext_bytes_to_read() > 0 {
            take_plaintext(tls, plain);
        }
        if state.peer_has_closed() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn take_plaintext(tls: &mut ServerConnection, plain: &mut Vec<u8>) {
    let mut reader = tls.reader();
    while let Ok(chunk) = reader.fill_buf()
        && !chunk.is_empty()
    {
        let len = chunk.len();
        plain.extend_from_slice(chunk);
        reader.consume(len);
    }
}

/// All that `fill` has to send is encrypted first, as far as rustls's bounded buffer takes it, so that it leaves in one
/// write. `fill` fails with [`io::ErrorKind::WriteZero`] when that is full, and goes on when it is called again.
pub(super) fn write_tls(
    tls: &mut ServerConnection,
    socket: &mut impl Write,
    last: bool,
    mut fill: impl FnMut(&mut Writer<'_>) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let is_full = match fill(&mut tls.writer()) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::WriteZero => true,
            Err(error) => return Err(error),
        };
        if last && !is_full {
            tls.send_close_notify();
        }
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
        if !is_full {
            return Ok(());
        }
    }
}

/// Moves everything from `outbound` to `sink`.
fn drain(outbound: &mut Outbound, sink: &mut impl Write) -> io::Result<()> {
    while !outbound.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = outbound.io_slices(&mut slices);
        let written = taken(sink.write_vectored(&slices[..count]))?;
        outbound.consume(written);
    }
    Ok(())
}

/// What a write has taken, which is something.
pub(super) fn taken(written: io::Result<usize>) -> io::Result<usize> {
    match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

/// Writes to a socket as far as it takes without waiting.
pub(super) struct NonBlocking<'a>(pub(super) &'a Stream);

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [slice] => self.0.try_write(slice),
            slices => self.0.try_write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
