//! The ways between shards: batches of messages, and sockets on their way to the shard where their session lives; and the
//! bell by which the store wakes a shard. A lane never waits and never drops; what it may hold is bounded by the credit of
//! the shard that fills it.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::yield_now;
use tracing::debug;

use crate::auth::Auth;
use crate::broker::outbox::Batch;
use crate::broker::restore::session_home;
use crate::broker::shard::{Headroom, Rules, Shard};
use crate::message::PeerId;

use super::handshake::Arrival;
use super::listener::{Doorway, Listener};
use super::shell::Shell;
use super::stream::{Detached, Stream};

/// After so long, others have the thread.
const SLICE: Duration = Duration::from_micros(200);

/// What one shard sends another.
pub enum Mail {
    /// What it told it in one turn.
    Batch(Batch),
    /// A client whose session lives there.
    Handover(Box<Handover>),
    /// The store has come further.
    Store,
    /// Other rules hold from now on.
    Reload(Arc<Reload>),
    /// There is so much room in memory from now on.
    Memory(Headroom),
    /// Clients arrive there, too.
    Listen(Listener),
    /// Whether the shard still makes turns.
    Question(Question),
}

/// What changes while the broker runs.
pub struct Reload {
    /// The shard's own rules, if they change.
    pub rules: Option<Rules>,
    /// Doors that may not let in any more who came by them, or make other clients of them: who did is to be looked at.
    pub recheck: Vec<Doorway>,
    /// Who says whether passwords that were right still are.
    pub auth: Arc<Auth>,
    /// Closed when every shard has taken all of this in.
    pub taken: Question,
}

/// A question to a shard, which answers by dropping it at the end of a turn.
pub type Question = mpsc::Sender<Infallible>;

/// How the store wakes a shard: however often it rings, one letter is under way.
pub struct Bell {
    rung: AtomicBool,
    shard: mpsc::UnboundedSender<Mail>,
}

impl Bell {
    /// For the shard that takes what is sent to `shard`.
    pub fn new(shard: mpsc::UnboundedSender<Mail>) -> Bell {
        Bell { rung: AtomicBool::new(false), shard }
    }

    /// Wakes the shard; any thread may.
    pub fn ring(&self) {
        if !self.rung.swap(true, AcqRel) {
            // A shard that is gone needs no waking.
            let _ = self.shard.send(Mail::Store);
        }
    }

    /// Before the shard looks what there is: what comes after that rings again.
    fn answer(&self) {
        self.rung.swap(false, AcqRel);
    }
}

/// A socket that moves to another shard, and all that is known of it. Nothing is read from it between its CONNECT and
/// CONNACK.
pub struct Handover {
    stream: Detached,
    arrival: Arrival,
}

/// The ways from one shard to all.
pub struct Lanes {
    own: PeerId,
    peers: Vec<mpsc::UnboundedSender<Mail>>,
}

impl Lanes {
    /// From `own` to every shard, in the order of their numbers.
    pub fn new(own: PeerId, peers: Vec<mpsc::UnboundedSender<Mail>>) -> Lanes {
        Lanes { own, peers }
    }

    /// Sends each peer what the turn gathered for it. A peer that is gone needs nothing any more.
    pub(super) fn send(&self, shard: &mut Shard) {
        for (index, peer) in self.peers.iter().enumerate() {
            let to = PeerId(index as u16);
            if to != self.own
                && let Some(batch) = shard.take_batch(to)
            {
                let _ = peer.send(Mail::Batch(batch));
            }
        }
    }

    /// The shard where the session of a client identifier lives: the same one at every connect.
    pub(super) fn home(&self, client_id: &str) -> PeerId {
        session_home(client_id, self.peers.len() as u16)
    }

    /// Hands a client over to another shard; gives it back if it lives here.
    pub(super) fn hand_over(
        &self,
        home: PeerId,
        stream: Stream,
        arrival: Arrival,
    ) -> Option<(Stream, Arrival)> {
        if home == self.own {
            return Some((stream, arrival));
        }
        match stream.detach() {
            Ok(stream) => {
                let handover = Box::new(Handover { stream, arrival });
                let _ = self.peers[usize::from(home.0)].send(Mail::Handover(handover));
            }
            Err(error) => debug!(%error, "a socket could not be handed over"),
        }
        None
    }
}

/// Takes in what the peers send, for as long as the shard runs.
pub(super) async fn receive(shell: Rc<Shell>, mut mail: mpsc::UnboundedReceiver<Mail>) {
    while let Some(first) = mail.recv().await {
        let start = Instant::now();
        take(&shell, first);
        while start.elapsed() < SLICE
            && let Ok(next) = mail.try_recv()
        {
            take(&shell, next);
        }
        shell.wake_flusher();
        if start.elapsed() >= SLICE {
            yield_now().await;
        }
    }
}

fn take(shell: &Rc<Shell>, mail: Mail) {
    match mail {
        Mail::Batch(batch) => shell.turn().shard.accept_batch(batch),
        Mail::Store => {
            shell.bell.answer();
            shell.turn().shard.on_store(Instant::now());
        }
        Mail::Reload(reload) => shell.reload(reload),
        Mail::Memory(headroom) => shell.turn().shard.set_headroom(headroom),
        Mail::Listen(listener) => shell.listen(listener),
        Mail::Question(question) => shell.ask(question),
        Mail::Handover(handover) => match Stream::attach(handover.stream) {
            Ok(stream) => shell.attach(stream, handover.arrival),
            Err(error) => debug!(%error, "a socket could not be taken over"),
        },
    }
}
