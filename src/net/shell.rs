//! [`Shell`]: what the tasks of one shard's thread share, and the life of that thread. Every borrow of the shard is
//! within synchronous code.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tracing::field::display;
use tracing::info;

use crate::broker::shard::{Attach, CloseReason, Closed, Shard};
use crate::escaped::Word;
use crate::limits::Limits;
use crate::message::PeerId;
use crate::protocol::codec;
use crate::protocol::packet::{Packet, Version};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::stats::Stats;

use super::closing;
use super::connection::ConnectionTask;
use super::flusher::{self, Wake};
use super::handshake::Arrival;
use super::lane::{self, Bell, Lanes, Mail, Question, Reload};
use super::listener::{self, Listener};
use super::recheck;
use super::refusal::Refusal;
use super::sockets::{Opened, Scratch, Socket, Sockets};
use super::stream::Stream;

/// How long connections may take to end when the server does.
const DRAIN: Duration = Duration::from_secs(5);

/// What a shard's thread is started with.
pub struct Thread {
    /// The shard's counters.
    pub stats: Arc<Stats>,
    /// The broker's limits.
    pub limits: Arc<Limits>,
    /// The ways to the other shards.
    pub lanes: Lanes,
    /// What they send.
    pub mail: mpsc::UnboundedReceiver<Mail>,
    /// How the store wakes it.
    pub bell: Arc<Bell>,
    /// Where clients arrive.
    pub listeners: Vec<Listener>,
    /// Turns true when the server stops.
    pub stop: watch::Receiver<bool>,
}

/// What the tasks of one shard's thread share.
pub(super) struct Shell {
    state: RefCell<State>,
    pub(super) lanes: Lanes,
    limits: RefCell<Arc<Limits>>,
    pub(super) bell: Arc<Bell>,
    flusher: Wake,
    /// Who asked whether the shard makes turns; dropped at the end of one.
    question: Cell<Option<Question>>,
    /// Sockets that are being closed.
    pub(super) closing: Cell<usize>,
    accepting: RefCell<Vec<JoinHandle<()>>>,
    /// The server stops: nobody comes in any more.
    pub(super) stopping: Cell<bool>,
    /// The last socket is closed.
    drained: Notify,
    /// A task panicked within a turn.
    broken: Notify,
}

/// What a turn changes.
pub(super) struct State {
    pub(super) shard: Shard,
    pub(super) sockets: Sockets,
    pub(super) scratch: Scratch,
    pub(super) stats: Arc<Stats>,
}

/// Runs a shard until the server stops and its connections are closed.
///
/// # Panics
/// If one of its tasks did: the shard may be half updated.
pub async fn run(shard: Shard, thread: Thread) {
    let Thread { stats, limits, lanes, mail, bell, listeners, mut stop } = thread;
    let shell = Rc::new(Shell {
        state: RefCell::new(State { shard, sockets: Sockets::default(), scratch: Scratch::new(), stats }),
        lanes,
        limits: RefCell::new(limits),
        bell,
        flusher: Wake::default(),
        question: Cell::new(None),
        closing: Cell::new(0),
        accepting: RefCell::default(),
        stopping: Cell::new(false),
        drained: Notify::new(),
        broken: Notify::new(),
    });
    spawn_local(flusher::run(shell.clone()));
    spawn_local(lane::receive(shell.clone(), mail));
    listeners.into_iter().for_each(|listener| shell.listen(listener));
    tokio::select! {
        // An error means that the server itself is gone.
        _ = stop.wait_for(|stop| *stop) => {}
        () = shell.broken.notified() => panic!("a task of this shard panicked"),
    }
    shell.stopping.set(true);
    shell.accepting.take().iter().for_each(JoinHandle::abort);
    shell.turn().shard.shutdown(Instant::now());
    shell.wake_flusher();
    // Whoever does not take its last bytes in time has had its time.
    let _ = timeout(DRAIN, shell.all_closed()).await;
    shell.turn().shard.flush_store();
}

impl Shell {
    /// The shard and all that a turn changes.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn { state: self.state.borrow_mut(), shell: self }
    }

    /// The broker's limits as they are now.
    pub(super) fn limits(&self) -> Arc<Limits> {
        self.limits.borrow().clone()
    }

    /// Accepts clients there, too.
    pub(super) fn listen(self: &Rc<Self>, listener: Listener) {
        if self.stopping.get() {
            return;
        }
        let mut accepting = self.accepting.borrow_mut();
        accepting.retain(|task| !task.is_finished());
        accepting.push(spawn_local(listener::accept(self.clone(), listener)));
    }

    /// Goes on by other rules, and lets go of clients whom they no longer admit.
    pub(super) fn reload(self: &Rc<Self>, reload: Arc<Reload>) {
        if let Some(rules) = &reload.rules {
            self.limits.replace(rules.limits.clone());
            self.turn().shard.reconfigure(Instant::now(), rules);
        }
        if reload.rules.is_some() || !reload.recheck.is_empty() {
            spawn_local(recheck::run(self.clone(), reload));
        }
    }

    /// Answers at the end of a turn.
    pub(super) fn ask(&self, question: Question) {
        self.question.set(Some(question));
    }

    /// A turn is over.
    pub(super) fn answer(&self) {
        self.question.take();
    }

    /// Something is to be written, sent to a peer or closed.
    pub(super) fn wake_flusher(&self) {
        self.flusher.wake();
    }

    /// What the flusher waits for.
    pub(super) fn flusher(&self) -> &Wake {
        &self.flusher
    }

    /// Brings a client to the shard where its session lives.
    pub(super) fn bring_home(self: &Rc<Self>, home: PeerId, stream: Stream, arrival: Arrival) {
        if let Some((stream, arrival)) = self.lanes.hand_over(home, stream, arrival) {
            self.attach(stream, arrival);
        }
    }

    /// Attaches a client whose session lives here; CONNACK is written at the turn's end.
    pub(super) fn attach(self: &Rc<Self>, stream: Stream, arrival: Arrival) {
        if self.stopping.get() {
            return;
        }
        let Arrival { transport, door, frame, rest, assigned, mut principal, address, permit } = arrival;
        principal.local = recheck::is_local(&door);
        // It was decoded once before, to learn whose it is.
        let Ok(Packet::Connect(connect)) = codec::decode(Version::V5, &frame) else { return };
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let attach = Attach {
            connect: &connect,
            client_id,
            assigned: assigned.is_some(),
            principal: &principal,
            listener: &door.0.name,
            max_packet_size: door.0.max_packet_size,
        };
        let opened = Opened { stream, transport, address, permit, rest };
        if let Err(error) = recheck::admits_still(&door, &opened.transport, &principal) {
            info!(client_id = %Word(client_id), %address, reason = %error, "refused");
            return closing::refuse(self, opened, &Refusal::of(&connect, error));
        }
        let mut turn = self.turn();
        if let Some(detail) = opened.permit.why_over()
            && !turn.shard.is_connected(client_id)
        {
            drop(turn);
            let error = ProtocolError::new(ReasonCode::ServerBusy, detail);
            info!(client_id = %Word(client_id), %address, reason = %error, "refused");
            return closing::refuse(self, opened, &Refusal::of(&connect, error));
        }
        let connected = turn.shard.connect(Instant::now(), attach);
        // The connection that this one took over must leave its place first.
        self.reap(&mut turn);
        match connected {
            Ok(id) => {
                let socket = Socket::new(id, opened);
                turn.shard.keeps(Instant::now(), id, 0, socket.kept());
                turn.sockets.insert(socket);
                drop(turn);
                spawn_local(ConnectionTask::new(self.clone(), id));
                let (client_id, version) = (Word(client_id), name_of(connect.version));
                let user = principal.user().map(|user| display(Word(user)));
                info!(%client_id, user, %address, version, "connected");
            }
            Err(error) => {
                drop(turn);
                info!(client_id = %Word(client_id), %address, reason = %error, "refused");
                closing::refuse(self, opened, &Refusal::of(&connect, error));
            }
        }
        self.wake_flusher();
    }

    /// Ends the sockets of connections that the shard has let go of.
    pub(super) fn reap(self: &Rc<Self>, state: &mut State) {
        while let Some(closed) = state.shard.next_closed() {
            let Closed { connection, client_id, outbound, reason } = closed;
            let Some(socket) = state.sockets.remove(connection) else { continue };
            state.shard.forgets(socket.kept());
            let (client_id, address) = (Word(&client_id), socket.address);
            match &reason {
                CloseReason::Disconnected => {
                    info!(%client_id, %address, reason = "DISCONNECT", "disconnected")
                }
                CloseReason::Lost => info!(%client_id, %address, reason = "connection lost", "disconnected"),
                CloseReason::Server(error) => info!(%client_id, %address, reason = %error, "disconnected"),
            }
            // Its task finds the socket gone, and ends.
            socket.wake();
            closing::close(self, socket, outbound, &reason);
        }
        self.look_if_drained(state);
    }

    /// A socket is closed for good.
    pub(super) fn closed_one(&self) {
        self.closing.set(self.closing.get() - 1);
        self.look_if_drained(&self.turn());
    }

    fn look_if_drained(&self, state: &State) {
        if self.stopping.get() && self.closing.get() == 0 && state.sockets.len() == 0 {
            self.drained.notify_one();
        }
    }

    async fn all_closed(&self) {
        let none = self.closing.get() == 0 && self.turn().sockets.len() == 0;
        if !none {
            self.drained.notified().await;
        }
    }
}

fn name_of(version: Version) -> &'static str {
    match version {
        Version::V3 => "3.1",
        Version::V4 => "3.1.1",
        Version::V5 => "5.0",
    }
}

/// A borrow of the state. The runtime would catch a panic and let the other tasks go on with a shard half updated, so
/// one that happens within a turn ends the thread.
pub(super) struct Turn<'a> {
    state: RefMut<'a, State>,
    shell: &'a Shell,
}

impl Deref for Turn<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shell.broken.notify_one();
        }
    }
}
