//! From a new socket to a judged CONNECT: TLS where the listener speaks it, one whole packet, and the decision where
//! the session lives. One deadline covers all of it but the check of a password, which has its own. Whoever is refused
//! here has touched no session.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use tokio::io::ReadBuf;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info};

use crate::auth::{Attempt, certificate};
use crate::message::PeerId;
use crate::outbound::Outbound;
use crate::principal::Principal;
use crate::protocol::packet::Version;
use crate::protocol::reason::{ProtocolError, ReasonCode};

use super::admission::Permit;
use super::closing::{linger, written};
use super::introduction;
use super::listener::{Door, Doorway};
use super::recheck;
use super::refusal::{self, Refusal};
use super::shell::Shell;
use super::stream::{Peer, Stream};
use super::transport::Transport;

/// What one read takes at most: a CONNECT is small, and what follows it may wait.
const READ: usize = 4096;

/// A client whose CONNECT may be put before the shard where its session lives.
pub(super) struct Arrival {
    pub(super) transport: Transport,
    /// The listener's door by which it came, and the one that it has now.
    pub(super) door: (Arc<Door>, Doorway),
    /// The whole CONNECT packet.
    pub(super) frame: Vec<u8>,
    /// What was read behind it.
    pub(super) rest: Vec<u8>,
    /// The client identifier that was assigned to it, if it brought none.
    pub(super) assigned: Option<String>,
    /// Whom it has proved to be.
    pub(super) principal: Principal,
    pub(super) address: Peer,
    pub(super) permit: Permit,
}

/// What the log says of those who come too soon after others.
const TOO_MANY: &str = "connections arrive faster than the configured rate";

/// A socket before its CONNECT.
struct Entrance {
    stream: Stream,
    transport: Transport,
    /// What the transport has given so far.
    received: Vec<u8>,
    /// The socket has given something.
    heard: bool,
    /// Connections do not arrive faster than they may.
    in_time: bool,
}

/// A CONNECT that may be put before a shard, once its client has proved who it is.
struct Asked {
    size: usize,
    assigned: Option<String>,
    attempt: Attempt,
    /// In which form it is told that it is refused.
    told_in: Option<Version>,
    home: PeerId,
}

/// A client that has proved who it is.
struct Accepted {
    size: usize,
    permit: Permit,
    assigned: Option<String>,
    principal: Principal,
    home: PeerId,
}

/// Why a socket does not come in.
enum Failure {
    /// It was closed before it said anything: a health check.
    Silent,
    /// The socket failed, or was closed half-way.
    Socket(io::Error),
    /// It breaks the protocol of its transport.
    Transport(io::Error),
    /// Its CONNECT is refused.
    Refused(Refusal),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Socket(error)
    }
}

/// Brings a new socket in, or ends it. What only some come to is boxed: the rest is what a silent socket costs.
pub(super) async fn run(shell: Rc<Shell>, doorway: Doorway, stream: Stream, address: Peer) {
    let door = doorway.borrow().clone();
    let deadline = Instant::now() + shell.limits().connect_timeout;
    let introduced = match &door.proxies {
        Some(trusted) => Box::pin(introduction::run(&door, trusted, stream, address, deadline)).await,
        None => Some((stream, address, Vec::new())),
    };
    let Some((stream, address, first)) = introduced else { return };
    let in_time = door.gate.admits(address);
    if !in_time && door.tls.is_some() {
        // To tell it so would take the handshake, which is what costs.
        return info!(%address, reason = TOO_MANY, "refused");
    }
    let (place, mut evicted) = door.gate.enter(address);
    let transport = match door.transport() {
        Ok(transport) => transport,
        Err(error) => return info!(%address, %error, "refused"),
    };
    let mut entrance = Entrance { stream, transport, received: Vec::new(), heard: false, in_time };
    let outcome = tokio::select! {
        outcome = timeout_at(deadline, entrance.connect(&shell, &door, &first, address)) => outcome,
        _ = &mut evicted => return info!(%address, reason = "too many handshakes under way", "refused"),
    };
    match outcome {
        Ok(Ok(asked)) => {
            // Whoever has said all that it had to say is not one that dawdles, however long its password takes.
            drop(place);
            Box::pin(entrance.authenticate(&shell, asked, address, (door, doorway))).await;
        }
        // While it takes its leave it has its place still, and may lose it: descriptors are bounded by those.
        Ok(Err(failure)) => {
            let end = Box::pin(entrance.end(failure, address));
            tokio::select! {
                biased;
                () = end => {}
                _ = evicted => {}
            }
        }
        Err(_) => info!(%address, reason = "no CONNECT within the time limit", "refused"),
    }
}

impl Entrance {
    /// Reads up to a CONNECT, and judges it.
    async fn connect(
        &mut self,
        shell: &Shell,
        door: &Door,
        first: &[u8],
        address: Peer,
    ) -> Result<Asked, Failure> {
        if !first.is_empty() {
            self.heard = true;
            let decoded = self.transport.decode(first, &mut self.received);
            self.answer(decoded).await?;
        }
        let size = loop {
            if let Some(size) =
                refusal::find_connect(&self.received, &shell.limits()).map_err(Failure::Refused)?
            {
                break size;
            }
            if self.transport.has_ended() {
                return Err(Failure::Transport(io::ErrorKind::UnexpectedEof.into()));
            }
            self.read(shell).await?;
        };
        let connect = refusal::judge(&self.received[..size], &shell.limits()).map_err(Failure::Refused)?;
        let refuse = |reason, detail: &'static str| {
            Failure::Refused(Refusal::of(&connect, ProtocolError::new(reason, detail)))
        };
        if !self.in_time {
            return Err(refuse(ReasonCode::ConnectionRateExceeded, TOO_MANY));
        }
        if let Some(why) = recheck::outlived(door, &self.transport) {
            return Err(refuse(ReasonCode::NotAuthorized, why));
        }
        let assigned = match connect.client_id {
            "" => {
                Some(new_client_id().ok_or_else(|| refuse(ReasonCode::ServerUnavailable, "no randomness"))?)
            }
            _ => None,
        };
        let home = shell.lanes.home(assigned.as_deref().unwrap_or(connect.client_id));
        let told_in =
            Refusal::of(&connect, ProtocolError::new(ReasonCode::BadUserNameOrPassword, "")).told_in;
        let certified = match door.identity_from.zip(self.certificate()) {
            Some((from, certificate)) => Some(certificate::identity(certificate, from).ok_or_else(|| {
                refuse(ReasonCode::NotAuthorized, "the certificate does not name one user")
            })?),
            None => None,
        };
        let attempt = Attempt {
            user: connect.username.map(Into::into),
            password: connect.password.map(Into::into),
            certified: certified.map(Into::into),
            allow_anonymous: door.allow_anonymous,
            address: address.ip(),
        };
        Ok(Asked { size, assigned, attempt, told_in, home })
    }

    /// The client's own certificate, DER.
    fn certificate(&self) -> Option<&[u8]> {
        self.transport.tls()?.peer_certificates()?.first().map(AsRef::as_ref)
    }

    /// Has it proved who the client is, and brings it in, or tells it that it does not come in.
    async fn authenticate(
        self,
        shell: &Rc<Shell>,
        asked: Asked,
        address: Peer,
        (door, doorway): (Arc<Door>, Doorway),
    ) {
        let Asked { size, assigned, attempt, told_in, home } = asked;
        let (answer, answered) = oneshot::channel();
        // Whoever has gone meanwhile needs no answer.
        let verdict = match door.auth.judge(attempt, move |verdict| drop(answer.send(verdict))) {
            Some(verdict) => Ok(verdict),
            None => answered.await,
        };
        // The threads are gone with the server.
        let Ok(verdict) = verdict else { return };
        match verdict {
            Ok(principal) => {
                let permit = door.gate.connect_or_take_over();
                let accepted = Accepted { size, permit, assigned, principal, home };
                self.bring_home(shell, accepted, address, (door, doorway));
            }
            Err(refused) => {
                let (_place, mut evicted) = door.gate.enter(address);
                let in_peace = tokio::select! {
                    () = sleep(refused.delay) => true,
                    _ = &mut evicted => false,
                };
                let error = ProtocolError::new(refused.reason, refused.detail);
                let end = self.end(Failure::Refused(Refusal { told_in, error }), address);
                if !in_peace {
                    // It is told, and nobody waits until it has heard.
                    return drop(timeout(Duration::ZERO, end).await);
                }
                tokio::select! {
                    biased;
                    () = end => {}
                    _ = evicted => {}
                }
            }
        }
    }

    /// Waits for bytes and has the transport take them in; what it answers is sent.
    async fn read(&mut self, shell: &Shell) -> Result<(), Failure> {
        let decoded = poll_fn(|cx| self.poll_read(shell, cx)).await?;
        self.answer(decoded).await
    }

    /// Sends what the transport answers to what it has taken in.
    async fn answer(&mut self, decoded: io::Result<bool>) -> Result<(), Failure> {
        if self.transport.wants_write() {
            written(&self.stream, |socket| self.transport.flush(&mut Outbound::default(), socket)).await?;
        }
        // If the peer has ended its stream, the next read says so.
        decoded.map(drop).map_err(Failure::Transport)
    }

    /// One read into the shard's scratch, and what the transport makes of it.
    fn poll_read(&mut self, shell: &Shell, cx: &mut Context<'_>) -> Poll<Result<io::Result<bool>, Failure>> {
        let mut turn = shell.turn();
        let mut raw = ReadBuf::new(&mut turn.scratch.raw[..READ]);
        ready!(self.stream.poll_read(cx, &mut raw))?;
        if raw.filled().is_empty() {
            let half_way = || Failure::Socket(io::ErrorKind::UnexpectedEof.into());
            return Poll::Ready(Err(if self.heard { half_way() } else { Failure::Silent }));
        }
        self.heard = true;
        Poll::Ready(Ok(self.transport.decode(raw.filled(), &mut self.received)))
    }

    /// To the shard where the session lives.
    fn bring_home(self, shell: &Rc<Shell>, accepted: Accepted, address: Peer, door: (Arc<Door>, Doorway)) {
        let Entrance { stream, transport, received: mut frame, .. } = self;
        let Accepted { size, permit, assigned, principal, home } = accepted;
        let rest = frame.split_off(size);
        let arrival = Arrival { transport, door, frame, rest, assigned, principal, address, permit };
        shell.bring_home(home, stream, arrival);
    }

    /// Ends the socket in the way that its failure asks for.
    async fn end(self, failure: Failure, address: Peer) {
        let mut outbound = Outbound::default();
        match failure {
            Failure::Silent => return debug!(%address, "closed without a byte"),
            Failure::Socket(error) => return info!(%address, reason = %error, "refused"),
            // The alert that says so is on its way.
            Failure::Transport(error) => info!(%address, reason = %error, "refused"),
            Failure::Refused(refusal) => {
                info!(%address, reason = %refusal.error, "refused");
                refusal.encode(outbound.buf());
                if outbound.is_empty() {
                    return;
                }
            }
        }
        linger(self.stream, self.transport, outbound).await;
    }
}

/// A client identifier that nobody can guess, for who can guess it could take the session over; `None` if the system
/// has no randomness to give.
fn new_client_id() -> Option<String> {
    const BASE_32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; 20];
    default_provider().secure_random.fill(&mut random).ok()?;
    let letters = random.iter().map(|byte| char::from(BASE_32[usize::from(byte % 32)]));
    Some("weirmq-".chars().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigned_client_identifiers_differ() {
        let ids = [new_client_id(), new_client_id()].map(|id| id.expect("randomness"));
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids[0].len(), 27);
    }
}
