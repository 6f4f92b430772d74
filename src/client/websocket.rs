//! A WebSocket as a stream of bytes: what is written leaves in masked binary frames, what is read has been taken out of the
//! server's. Pings are answered by the way, and a Close ends it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::address::WebSocketAddress;
use crate::websocket::frames::{self, Decoder, Kind};
use crate::websocket::offer::Offer;

/// The longest frame that is sent, in bytes. It leaves before a further one is made.
const LONGEST: usize = 64 * 1024;

/// With more than this waiting, in bytes, Pings stay without an answer: the server does not read.
const CROWDED: usize = 2 * LONGEST;

/// Room for one read, in bytes.
const READ_AHEAD: usize = 16 * 1024;

/// An open WebSocket.
pub(super) struct WebSocket<S> {
    below: S,
    decoder: Decoder,
    /// Of MQTT, and not read yet.
    plain: BytesMut,
    /// The server broke the rules; it is said when `plain` is read.
    violation: Option<&'static str>,
    /// Whole frames and the rest of one, on their way out.
    output: Vec<u8>,
    /// How much of `output` is out.
    sent: usize,
    /// An answer of our own may not be out.
    owes: bool,
    /// Our Close is in `output`, or was: nothing follows it.
    parted: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Asks for one, over a stream on which nothing has been said yet.
    ///
    /// # Errors
    /// The stream's, or what the server answered instead.
    pub(super) async fn open(mut below: S, address: &WebSocketAddress) -> io::Result<WebSocket<S>> {
        let offer = Offer::new(random()?);
        below.write_all(&offer.request(&address.host, &address.path)).await?;
        below.flush().await?;
        let mut bytes = Vec::new();
        let mut seen = 0;
        let size = loop {
            if below.read_buf(&mut bytes).await? == 0 {
                let what =
                    "the server closed the connection without an answer to the request for a WebSocket";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            match offer.judge(&bytes, seen).map_err(io::Error::other)? {
                Some(size) => break size,
                None => seen = bytes.len(),
            }
        };
        let mut websocket = WebSocket {
            below,
            decoder: Decoder::of_server(),
            plain: BytesMut::new(),
            violation: None,
            output: Vec::new(),
            sent: 0,
            owes: false,
            parted: false,
        };
        websocket.take_in(bytes.split_off(size))?;
        Ok(websocket)
    }

    /// Takes frames apart, and puts the answers to them on their way.
    fn take_in(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        if let Err(violation) = self.decoder.decode(&mut bytes, 0) {
            self.violation = Some(violation.reason);
            self.part(violation.code)?;
        }
        self.plain.extend_from_slice(&bytes);
        if let Some(payload) = self.decoder.take_ping()
            && self.output.len() < CROWDED
        {
            self.owes = true;
            self.frame(Kind::Pong, &payload)?;
        }
        match self.decoder.closed() {
            Some(code) => self.part(code),
            None => Ok(()),
        }
    }

    fn part(&mut self, code: u16) -> io::Result<()> {
        self.frame(Kind::Close, &code.to_be_bytes())?;
        (self.owes, self.parted) = (true, true);
        Ok(())
    }

    fn frame(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        if !self.parted {
            frames::masked(kind, payload, random()?, &mut self.output);
        }
        Ok(())
    }

    /// What there is behind all that has been read, if nothing follows.
    fn end(&self) -> Option<io::Result<()>> {
        if let Some(reason) = self.violation {
            let what = format!("the server broke the WebSocket's rules: {reason}");
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        match self.decoder.closed()? {
            frames::NORMAL => Some(Ok(())),
            code => Some(Err(io::Error::other(format!("the server closed the WebSocket with code {code}")))),
        }
    }

    /// Writes what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            match ready!(Pin::new(&mut self.below).poll_write(cx, &self.output[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.output.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // Nobody else may be about to write, and the server waits for it. An error shows in what is read.
            if this.owes && Pin::new(&mut *this).poll_flush(cx).is_ready() {
                this.owes = false;
            }
            if !this.plain.is_empty() {
                let len = this.plain.len().min(buf.remaining());
                buf.put_slice(&this.plain[..len]);
                this.plain.advance(len);
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = this.end() {
                return Poll::Ready(end);
            }
            let mut bytes = vec![0; READ_AHEAD];
            let mut raw = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.below).poll_read(cx, &mut raw))?;
            let filled = raw.filled().len();
            if filled == 0 {
                return Poll::Ready(Ok(()));
            }
            bytes.truncate(filled);
            this.take_in(bytes)?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if this.parted {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = buf.len().min(LONGEST);
        this.frame(Kind::Binary, &buf[..len])?;
        // What cannot leave now leaves with the next write, or a flush.
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.below).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.parted {
            this.part(frames::NORMAL)?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.below).poll_shutdown(cx)
    }
}

/// Bytes that nobody can foresee.
fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}
