//! A client's socket, whichever kind it is of, and who is at its other end. One size, no allocation, and one well
//! predicted branch for each call.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket on its way from one shard's runtime to another's.
#[derive(Debug)]
pub(super) enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Calls the same method of either kind.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

impl Stream {
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        either!(self, stream => stream.readable().await)
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        either!(self, stream => stream.writable().await)
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(buffer))
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_write(bytes))
    }

    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.try_write_vectored(slices))
    }

    /// Ends the direction towards the peer.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        async fn end(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
            stream.shutdown().await
        }
        either!(self, stream => end(stream).await)
    }

    /// The number of its descriptor.
    pub(super) fn number(&self) -> RawFd {
        either!(self, stream => stream.as_raw_fd())
    }

    /// Takes it out of this thread's runtime.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn detach(self) -> io::Result<Detached> {
        match self {
            Stream::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Stream::Unix(stream) => stream.into_std().map(Detached::Unix),
        }
    }

    /// Puts it into this thread's runtime.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn attach(detached: Detached) -> io::Result<Stream> {
        match detached {
            Detached::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Detached::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

impl Detached {
    /// The same socket under another number.
    ///
    /// # Errors
    /// The system has none.
    pub(super) fn try_clone(&self) -> io::Result<Detached> {
        match self {
            Detached::Tcp(stream) => stream.try_clone().map(Detached::Tcp),
            Detached::Unix(stream) => stream.try_clone().map(Detached::Unix),
        }
    }

    /// The number of its descriptor.
    pub(super) fn number(&self) -> RawFd {
        match self {
            Detached::Tcp(stream) => stream.as_raw_fd(),
            Detached::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// Who is at the other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Ip(SocketAddr),
    /// A process of this machine, as it was when it connected.
    Local {
        /// Its user.
        uid: u32,
        /// Its number, if the system tells.
        pid: Option<i32>,
    },
}

impl Peer {
    /// Of a connected Unix socket. Whoever is gone already is nobody: a user that no account has.
    pub(super) fn of(stream: &UnixStream) -> Peer {
        match stream.peer_cred() {
            Ok(credentials) => Peer::Local { uid: credentials.uid(), pid: credentials.pid() },
            Err(_) => Peer::Local { uid: u32::MAX, pid: None },
        }
    }

    /// Its address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip(address) => Some(address.ip()),
            Peer::Local { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => address.fmt(f),
            Peer::Local { uid, pid: Some(pid) } => write!(f, "unix:uid={uid},pid={pid}"),
            Peer::Local { uid, pid: None } => write!(f, "unix:uid={uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_kind_costs_more_than_a_socket_and_an_address() {
        println!("size_of Stream: {}, Peer: {} bytes", size_of::<Stream>(), size_of::<Peer>());
        assert!(size_of::<Stream>() <= size_of::<TcpStream>() + 8);
        assert_eq!(size_of::<Peer>(), size_of::<SocketAddr>());
    }

    #[test]
    fn a_peer_is_written_by_its_address_or_its_process() {
        let written = |peer: Peer| peer.to_string();
        assert_eq!(written(Peer::Ip(SocketAddr::from(([10, 0, 0, 1], 5)))), "10.0.0.1:5");
        assert_eq!(written(Peer::Local { uid: 7, pid: Some(8) }), "unix:uid=7,pid=8");
        assert_eq!(written(Peer::Local { uid: 7, pid: None }), "unix:uid=7");
    }
}
