//! After a reload: whoever came with a certificate that its listener accepts no longer, with a password that is not the
//! user's any more, or with nothing where that is no longer enough, is disconnected; whoever is a local client no longer
//! loses the rights of one, and nobody else notices. Checking a certificate takes a while, so others have the thread in
//! between. And a look at those who come by a ticket.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::HandshakeKind;
use rustls_pki_types::UnixTime;
use tokio::task::yield_now;

use crate::auth::Auth;
use crate::auth::certificate::identity;
use crate::broker::shard::ConnectionId;
use crate::principal::Principal;
use crate::protocol::reason::{ProtocolError, ReasonCode};

use super::lane::Reload;
use super::listener::{Door, Doorway};
use super::shell::{Shell, State};
use super::transport::Transport;

/// What a client is told whose certificate is not taken.
const CERTIFICATE: &str = "its certificate is not accepted any more";

/// What one is told who is not the user that its certificate names.
const NOT_NAMED: &str = "its certificate does not name it as a user any more";

/// How many certificates are checked at a time.
const SLICE: usize = 8;

/// Looks at every connection of the shard. Those that come meanwhile have come by the new doors, or are looked at when they
/// are attached.
pub(super) async fn run(shell: Rc<Shell>, reload: Arc<Reload>) {
    let connections: Vec<ConnectionId> = shell.turn().shard.connections().collect();
    for some in connections.chunks(SLICE) {
        let mut turn = shell.turn();
        for id in some {
            look(&mut turn, *id, &reload);
        }
        drop(turn);
        shell.wake_flusher();
        yield_now().await;
    }
    // What was reloaded counts as taken up when everything goes by it.
    while shell.turn().shard.is_reviewing() {
        yield_now().await;
    }
}

fn look(state: &mut State, id: ConnectionId, reload: &Reload) {
    let Some(socket) = state.sockets.get(id) else { return };
    // As it is now: a later reload may have come between.
    let mut doors = reload.recheck.iter().map(|doorway| doorway.borrow());
    let door = doors.find(|door| socket.seat.is_of(&door.gate));
    let Some(principal) = state.shard.principal(id) else { return };
    let objection = door.as_ref().and_then(|door| objection(door, &socket.transport, principal));
    let now = Instant::now();
    if let Some(why) = objection.or_else(|| withdrawn(&reload.auth, principal)) {
        state.shard.close(now, id, no_longer(why));
    } else if let Some(door) = door {
        state.shard.set_local(now, id, door.is_local());
    }
}

/// Whether a client is a [local](Principal::local) one, as its listener is now. A reload from here on finds it among the
/// connections.
pub(super) fn is_local((_, doorway): &(Arc<Door>, Doorway)) -> bool {
    doorway.borrow().is_local()
}

/// Why a reload that came between a client's handshake and its CONNACK would not let it in.
///
/// # Errors
/// What it is to be told.
pub(super) fn admits_still(
    (door, doorway): &(Arc<Door>, Doorway),
    transport: &Transport,
    principal: &Principal,
) -> Result<(), ProtocolError> {
    let now = doorway.borrow();
    if now.is_gone {
        return Err(no_longer("its listener is gone"));
    }
    let other = (!Arc::ptr_eq(door, &now)).then_some(&*now);
    let objection = other.and_then(|door| objection(door, transport, principal));
    objection.or_else(|| withdrawn(&now.auth, principal)).map_or(Ok(()), |why| Err(no_longer(why)))
}

/// Why a client that came over this transport could not come by this door.
fn objection(door: &Door, transport: &Transport, principal: &Principal) -> Option<&'static str> {
    if !certificate_holds(door, transport) {
        return Some(CERTIFICATE);
    }
    let leaf = transport.tls().and_then(|session| session.peer_certificates()).and_then(<[_]>::first);
    let named = door.identity_from.zip(leaf).map(|(from, leaf)| identity(leaf, from));
    match (principal.user(), named) {
        (None, _) if !door.allow_anonymous => Some("anonymous clients are not accepted any more"),
        // Whatever else it brought: a certificate that says who its client is has the last word.
        (Some(user), Some(name)) if name.as_deref() != Some(user) => Some(NOT_NAMED),
        (Some(_), None) if principal.credential == 0 => Some(NOT_NAMED),
        _ => None,
    }
}

/// Why a client that came by a ticket has to go all the same: nobody has looked at its certificate since, and that may
/// have expired. (Each ticket brings the next one: without this the first look would be the last.)
pub(super) fn outlived(door: &Door, transport: &Transport) -> Option<&'static str> {
    let is_resumed = transport.tls().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed));
    (is_resumed && !certificate_holds(door, transport)).then_some(CERTIFICATE)
}

/// Whether this door would take the certificate of a client, or that it has none.
fn certificate_holds(door: &Door, transport: &Transport) -> bool {
    let Some(tls) = &door.tls else { return true };
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // One that came before the door had TLS has none, and cannot stay where one is asked for.
    let chain = transport.tls().and_then(|session| session.peer_certificates()).unwrap_or_default();
    tls.recheck(chain, UnixTime::since_unix_epoch(wall)).is_ok()
}

/// Why a password or token that was right is not now.
fn withdrawn(auth: &Auth, principal: &Principal) -> Option<&'static str> {
    (!auth.vouches(principal)).then_some("its password or token is not accepted any more")
}

/// What a client is told that has to go.
fn no_longer(why: &'static str) -> ProtocolError {
    ProtocolError::new(ReasonCode::NotAuthorized, why)
}
