//! How a socket ends: what is left to say is written, the stream is shut, and what the peer still sends is read away
//! for a moment. To close with unread bytes would reset the connection, and the peer might lose our last words.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::broker::shard::CloseReason;
use crate::outbound::Outbound;

use super::admission::Seat;
use super::refusal::Refusal;
use super::shell::Shell;
use super::sockets::{Opened, Socket};
use super::stream::Stream;
use super::transport::{NonBlocking, Transport};

/// How long a peer may take to read our last words and to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// What is read away at most, in bytes.
const DRAIN: usize = 1024 * 1024;

/// Ends the socket of a connection that the shard has let go of.
pub(super) fn close(shell: &Rc<Shell>, socket: Socket, mut outbound: Outbound, reason: &CloseReason) {
    let Socket { stream, mut transport, seat, .. } = socket;
    let finished = transport.finish(&mut outbound, &mut NonBlocking(&stream));
    let waits = match (reason, finished) {
        (_, Err(error)) => error.kind() == io::ErrorKind::WouldBlock,
        // The client has said its last word, or cannot hear ours.
        (CloseReason::Disconnected | CloseReason::Lost, Ok(())) => transport.awaits_close(),
        (CloseReason::Server(_), Ok(())) => true,
    };
    if waits {
        part_in_background(shell, stream, transport, outbound, Some(seat));
    }
}

/// Ends the socket of a client that the shard has refused.
pub(super) fn refuse(shell: &Rc<Shell>, opened: Opened, refusal: &Refusal) {
    let Opened { stream, transport, permit, .. } = opened;
    let mut outbound = Outbound::default();
    refusal.encode(outbound.buf());
    part_in_background(shell, stream, transport, outbound, permit.refused());
}

/// It still counts as a connection, for it still costs one.
fn part_in_background(
    shell: &Rc<Shell>,
    stream: Stream,
    transport: Transport,
    outbound: Outbound,
    seat: Option<Seat>,
) {
    // Whoever comes again and again only to be sent away must not hold more than those who have yet to come in. At the end
    // of all, nobody comes.
    let is_crowded = shell.closing.get() >= shell.limits().max_handshakes && !shell.stopping.get();
    // It is told then, and nobody waits until it has heard.
    let patience = if is_crowded { Duration::ZERO } else { LINGER };
    shell.closing.set(shell.closing.get() + 1);
    let shell = shell.clone();
    spawn_local(async move {
        // A failure or the time's end means that the peer will not read it.
        let _ = timeout(patience, part(stream, transport, outbound)).await;
        drop(seat);
        shell.closed_one();
    });
}

/// Writes what is left, ends the stream and waits for the peer to do so, for a limited time.
pub(super) async fn linger(stream: Stream, transport: Transport, outbound: Outbound) {
    let _ = timeout(LINGER, part(stream, transport, outbound)).await;
}

async fn part(mut stream: Stream, mut transport: Transport, mut outbound: Outbound) -> io::Result<()> {
    written(&stream, |socket| transport.finish(&mut outbound, socket)).await?;
    stream.shutdown().await?;
    let mut drained = 0;
    while drained < DRAIN {
        stream.readable().await?;
        match stream.try_read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(read) => drained += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Repeats a write until all of it is done, waiting as long as the socket takes no more.
pub(super) async fn written(
    stream: &Stream,
    mut write: impl FnMut(&mut NonBlocking<'_>) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        match write(&mut NonBlocking(stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            result => return result,
        }
    }
}
