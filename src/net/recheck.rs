//! After a reload: whoever came with a certificate that its listener accepts no longer, or with a password that is not
//! the user's any more, is disconnected, and nobody else notices. Checking a certificate takes a while, so others have the
//! thread in between.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls_pki_types::UnixTime;
use tokio::task::yield_now;

use crate::broker::shard::ConnectionId;
use crate::principal::Principal;
use crate::protocol::reason::{ProtocolError, ReasonCode};

use super::lane::Reload;
use super::listener::{Door, Doorway};
use super::shell::{Shell, State};
use super::transport::Transport;

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
}

fn look(state: &mut State, id: ConnectionId, reload: &Reload) {
    let Some(socket) = state.sockets.get(id) else { return };
    let door = reload.recheck.iter().find(|door| socket.permit.is_of(&door.gate));
    let is_certified = door.is_none_or(|door| admits(door, &socket.transport));
    let is_known = state.shard.principal(id).is_none_or(|principal| reload.auth.vouches(principal));
    if !is_certified || !is_known {
        state.shard.close(Instant::now(), id, no_longer());
    }
}

/// Whether a reload that came between a client's handshake and its CONNACK would let it in.
pub(super) fn admits_still(
    (door, doorway): &(Arc<Door>, Doorway),
    transport: &Transport,
    principal: &Principal,
) -> bool {
    let now = doorway.borrow();
    (Arc::ptr_eq(door, &now) || admits(&now, transport)) && now.auth.vouches(principal)
}

/// Whether who came over this transport might come by this door.
fn admits(door: &Door, transport: &Transport) -> bool {
    let (Some(tls), Some(session)) = (&door.tls, transport.tls()) else { return true };
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let chain = session.peer_certificates().unwrap_or_default();
    tls.recheck(chain, UnixTime::since_unix_epoch(wall)).is_ok()
}

/// Why a client has to go.
pub(super) fn no_longer() -> ProtocolError {
    ProtocolError::new(ReasonCode::NotAuthorized, "its certificate or password is not accepted any more")
}
