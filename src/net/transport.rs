//! What lies between a socket's bytes and MQTT's: nothing, or TLS. A transport only transforms bytes; who reads and
//! writes the socket, and when, is the caller's business. So handshake and connection serve every transport alike.

use std::io::{self, BufRead, IoSlice, Write};

use rustls::ServerConnection;

use crate::outbound::Outbound;

use super::stream::Stream;

/// How many pieces one write takes at most.
const SLICES: usize = 32;

/// The transformer of one connection.
pub(super) enum Transport {
    /// MQTT directly over the socket.
    Plain,
    /// MQTT over TLS.
    Tls(Box<ServerConnection>),
}

impl Transport {
    /// Takes what a socket gave and appends what it carries to `plain`; whether the peer has ended the stream.
    ///
    /// # Errors
    /// If the peer breaks the transport's own protocol. An alert for it may then wait to be written.
    pub(super) fn decode(&mut self, mut raw: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        let tls = match self {
            Transport::Plain => {
                plain.extend_from_slice(raw);
                return Ok(false);
            }
            Transport::Tls(tls) => tls,
        };
        while !raw.is_empty() {
            tls.read_tls(&mut raw)?;
            let state = tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if state.plaintext_bytes_to_read() > 0 {
                take_plaintext(tls, plain);
            }
            if state.peer_has_closed() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The TLS session, if there is one.
    pub(super) fn tls(&self) -> Option<&ServerConnection> {
        match self {
            Transport::Plain => None,
            Transport::Tls(tls) => Some(tls),
        }
    }

    /// Whether the transport has bytes of its own to send, a handshake's or an alert.
    pub(super) fn wants_write(&self) -> bool {
        match self {
            Transport::Plain => false,
            Transport::Tls(tls) => tls.wants_write(),
        }
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
            Transport::Plain => {
                while !outbound.is_empty() {
                    let written = write_slices(outbound, |slices| socket.write_vectored(slices))?;
                    outbound.consume(written);
                }
                Ok(())
            }
            Transport::Tls(tls) => write_tls(tls, outbound, socket, last),
        }
    }
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

/// All that is to be sent is encrypted first, as far as rustls's bounded buffer takes it, so that it leaves in one write.
fn write_tls(
    tls: &mut ServerConnection,
    outbound: &mut Outbound,
    socket: &mut impl Write,
    last: bool,
) -> io::Result<()> {
    loop {
        while !outbound.is_empty() {
            match write_slices(outbound, |slices| tls.writer().write_vectored(slices)) {
                Ok(taken) => outbound.consume(taken),
                // Its buffer is full.
                Err(error) if error.kind() == io::ErrorKind::WriteZero => break,
                Err(error) => return Err(error),
            }
        }
        if last && outbound.is_empty() {
            tls.send_close_notify();
        }
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
        if outbound.is_empty() {
            return Ok(());
        }
    }
}

/// One write of what `outbound` begins with.
fn write_slices(
    outbound: &Outbound,
    write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let count = outbound.io_slices(&mut slices);
    match write(&slices[..count])? {
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
