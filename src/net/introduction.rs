//! The very beginning of a connection through a balancer: the PROXY header, which says who the client is. It comes from
//! trusted networks alone, and whom it names is an address and never an identity.

use std::io;

use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::config::network::Network;

use super::listener::Door;
use super::proxy::{self, Header};
use super::stream::{Peer, Stream};

/// Learns who the client is that one of the `trusted` proxies speaks for. Besides the client there are the bytes that were
/// read behind the header. `None`: the connection is over.
pub(super) async fn run(
    door: &Door,
    trusted: &[Network],
    stream: Stream,
    peer: Peer,
    deadline: Instant,
) -> Option<(Stream, Peer, Vec<u8>)> {
    let is_trusted = peer.ip().is_none_or(|ip| trusted.iter().any(|network| network.contains(ip)));
    if !is_trusted {
        info!(address = %peer, reason = "not one of the trusted proxies", "refused");
        return None;
    }
    let (_place, evicted) = door.gate.enter_proxy();
    let header = tokio::select! {
        header = timeout_at(deadline, read(&stream)) => header,
        _ = evicted => {
            info!(address = %peer, reason = "too many handshakes under way", "refused");
            return None;
        }
    };
    match header {
        Ok(Ok(Some((header, behind)))) => {
            let client = header.client.map_or(peer, Peer::Ip);
            Some((stream, client, behind))
        }
        Ok(Ok(None)) => {
            debug!(address = %peer, "closed without a byte");
            None
        }
        Ok(Err(error)) => {
            info!(address = %peer, reason = %error, "refused");
            None
        }
        Err(_) => {
            info!(address = %peer, reason = "no PROXY header within the time limit", "refused");
            None
        }
    }
}

/// Reads a header, and perhaps more; `None` if there is nothing at all.
async fn read(stream: &Stream) -> io::Result<Option<(Header, Vec<u8>)>> {
    let mut received = Vec::new();
    loop {
        stream.readable().await?;
        // No header is longer, so that what is kept of one is bounded by this.
        let mut buffer = [0; proxy::MAX_SIZE];
        let len = match stream.try_read(&mut buffer[received.len()..]) {
            Ok(0) if received.is_empty() => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let from = received.len();
        received.extend_from_slice(&buffer[from..from + len]);
        let parsed =
            proxy::parse(&received).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some(header) = parsed {
            return Ok(Some((header, received.split_off(header.size))));
        }
    }
}
