//! Who may come in: the handshakes under way, bounded in all and for each address, and the connections, bounded in all
//! and for each listener. Shared by all shards, and touched a few times in a connection's life.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::limits::Limits;

use super::arrivals::Arrivals;
use super::stream::Peer;

/// The bounds of the process.
#[derive(Debug)]
pub struct Admission {
    max_handshakes: AtomicUsize,
    max_per_address: AtomicUsize,
    handshakes: Mutex<Handshakes>,
    arrivals: Mutex<Arrivals<From>>,
    /// Whether those are bounded.
    is_slow: AtomicBool,
    connections: Counted,
    /// There is no room for more in memory.
    is_full: AtomicBool,
}

/// Connections that count against one bound.
#[derive(Debug)]
struct Counted {
    now: AtomicUsize,
    /// 0: no bound.
    most: AtomicUsize,
}

/// The connections of one listener, which count among all.
#[derive(Debug)]
pub struct Gate {
    admission: Arc<Admission>,
    connections: Counted,
}

/// What a client needs to become a connection.
#[derive(Debug)]
pub(super) enum Permit {
    /// There was room for it.
    Counted(Seat),
    /// There was none: it may only take over a connection that is there.
    Over(Arc<Gate>),
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Gate>);

/// A handshake that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    from: From,
    number: u64,
}

/// Resolves when the place is needed for another: the handshake is to end.
pub(super) type Evicted = oneshot::Receiver<()>;

/// Whom a handshake is put down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum From {
    V4(Ipv4Addr),
    /// A /64 network: whoever has one IPv6 address has as many as that.
    V6(u64),
    /// A user of this machine.
    User(u32),
    /// Balancers that have not said yet for whom they speak.
    Proxies,
}

impl From {
    fn of(peer: Peer) -> From {
        match peer {
            Peer::Ip(address) => match address.ip().to_canonical() {
                IpAddr::V4(v4) => From::V4(v4),
                IpAddr::V6(v6) => From::V6((v6.to_bits() >> 64) as u64),
            },
            Peer::Local { uid, .. } => From::User(uid),
        }
    }
}

#[derive(Debug, Default)]
struct Handshakes {
    /// For each address the handshakes, the oldest first.
    under_way: HashMap<From, VecDeque<(u64, oneshot::Sender<()>)>, foldhash::fast::RandomState>,
    count: usize,
    last_number: u64,
}

impl Admission {
    /// Nobody is in.
    pub fn new(limits: &Limits) -> Admission {
        let admission = Admission {
            max_handshakes: AtomicUsize::new(0),
            max_per_address: AtomicUsize::new(0),
            handshakes: Mutex::default(),
            arrivals: Mutex::default(),
            is_slow: AtomicBool::new(false),
            connections: Counted::new(0),
            is_full: AtomicBool::new(false),
        };
        admission.set_limits(limits);
        admission
    }

    /// Keeps to other bounds from now on. Who is in stays.
    pub fn set_limits(&self, limits: &Limits) {
        self.max_handshakes.store(limits.max_handshakes.max(1), Relaxed);
        self.max_per_address.store(limits.max_handshakes_per_address.max(1), Relaxed);
        self.connections.most.store(limits.max_connections, Relaxed);
        let rates = (limits.max_connection_rate, limits.max_connection_rate_per_address);
        self.arrivals().set_limits(rates.0, rates.1, Instant::now());
        self.is_slow.store(rates != (0, 0), Relaxed);
    }

    /// Whether there is room in memory for more connections.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Relaxed);
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals<From>> {
        // Nothing in here can be left half done.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more handshake: the oldest one of this address goes if the address is at its bound, else the
    /// oldest one of the addresses that hold most if all together are.
    fn enter(self: &Arc<Self>, from: From) -> (Place, Evicted) {
        let (sender, evicted) = oneshot::channel();
        let mut handshakes = self.lock();
        let own = handshakes.under_way.get(&from).map_or(0, VecDeque::len);
        // A balancer's clients may be many.
        if own >= self.max_per_address.load(Relaxed) && from != From::Proxies {
            handshakes.evict(from);
        } else if handshakes.count >= self.max_handshakes.load(Relaxed) {
            handshakes.fullest().into_iter().for_each(|from| handshakes.evict(from));
        }
        handshakes.last_number += 1;
        let number = handshakes.last_number;
        handshakes.under_way.entry(from).or_default().push_back((number, sender));
        handshakes.count += 1;
        drop(handshakes);
        (Place { admission: self.clone(), from, number }, evicted)
    }

    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        // Nothing in here can be left half done.
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// A listener with room for `most` connections; 0: any number.
    pub fn new(admission: Arc<Admission>, most: usize) -> Gate {
        Gate { admission, connections: Counted::new(most) }
    }

    /// Has room for `most` connections from now on. Who is in stays.
    pub fn set_most(&self, most: usize) {
        self.connections.most.store(most, Relaxed);
    }

    /// Whether anybody is in who came by this listener.
    pub fn is_used(&self) -> bool {
        self.connections.now.load(Relaxed) > 0
    }

    /// Whether a client may come from there now, as far as the rate of connections goes.
    pub(super) fn admits(&self, peer: Peer) -> bool {
        let admission = &self.admission;
        !admission.is_slow.load(Relaxed) || admission.arrivals().admit(From::of(peer), Instant::now())
    }

    /// Makes room for one more handshake of this listener.
    pub(super) fn enter(&self, peer: Peer) -> (Place, Evicted) {
        self.admission.enter(From::of(peer))
    }

    /// The same for a balancer that is to say for whom it speaks.
    pub(super) fn enter_proxy(&self) -> (Place, Evicted) {
        self.admission.enter(From::Proxies)
    }

    /// Counts one more connection, if there is room for it.
    pub(super) fn connect(self: &Arc<Self>) -> Option<Seat> {
        if self.admission.is_full.load(Relaxed) || !self.admission.connections.add() {
            return None;
        }
        if !self.connections.add() {
            self.admission.connections.sub();
            return None;
        }
        Some(Seat(self.clone()))
    }
}

impl Gate {
    /// Counts one more connection. Where there is no room for it, it may only take the place of another of its client,
    /// which only the shard where that lives can tell: until then it is not counted.
    pub(super) fn connect_or_take_over(self: &Arc<Self>) -> Permit {
        self.connect().map_or_else(|| Permit::Over(self.clone()), Permit::Counted)
    }
}

impl Handshakes {
    /// The address that holds most; of several the one that has held on for longest. (By any other rule a crowd in which
    /// each has an address of its own would soon have ended a client that has only just come.)
    fn fullest(&self) -> Option<From> {
        let rank = |all: &VecDeque<(u64, _)>| (all.len(), Reverse(all.front().map(|(number, _)| *number)));
        self.under_way.iter().max_by_key(|(_, all)| rank(all)).map(|(from, _)| *from)
    }

    /// Ends the oldest handshake of an address.
    fn evict(&mut self, from: From) {
        if let Some((number, _)) = self.under_way.get(&from).and_then(VecDeque::front) {
            self.remove(from, *number);
        }
    }

    /// Forgets a handshake; dropping its sender tells it so.
    fn remove(&mut self, from: From, number: u64) {
        let Some(all) = self.under_way.get_mut(&from) else { return };
        let Some(at) = all.iter().position(|(other, _)| *other == number) else { return };
        all.remove(at);
        self.count -= 1;
        if all.is_empty() {
            self.under_way.remove(&from);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.lock().remove(self.from, self.number);
    }
}

impl Counted {
    fn new(most: usize) -> Counted {
        Counted { now: AtomicUsize::new(0), most: AtomicUsize::new(most) }
    }

    fn add(&self) -> bool {
        let most = self.most.load(Relaxed);
        let fits = self.now.fetch_add(1, Relaxed) < most || most == 0;
        if !fits {
            self.sub();
        }
        fits
    }

    fn sub(&self) {
        self.now.fetch_sub(1, Relaxed);
    }
}

impl Permit {
    /// Why it is for a client that takes over a connection, and nobody else, if so.
    pub(super) fn why_over(&self) -> Option<&'static str> {
        let is_full = |gate: &Gate| gate.admission.is_full.load(Relaxed);
        match self {
            Permit::Counted(_) => None,
            Permit::Over(gate) if is_full(gate) => Some("there is no room in memory for more connections"),
            Permit::Over(_) => Some("the connections are at their limit"),
        }
    }

    /// The client is a connection now; one that took another's place had to leave that first.
    pub(super) fn count(self) -> Seat {
        match self {
            Permit::Counted(seat) => seat,
            Permit::Over(gate) => {
                gate.admission.connections.now.fetch_add(1, Relaxed);
                gate.connections.now.fetch_add(1, Relaxed);
                Seat(gate)
            }
        }
    }

    /// It does not become one, but costs one for a while where it was counted.
    pub(super) fn refused(self) -> Option<Seat> {
        match self {
            Permit::Counted(seat) => Some(seat),
            Permit::Over(_) => None,
        }
    }
}

impl Seat {
    /// Whether it is one of this listener.
    pub(super) fn is_of(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.0, gate)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.admission.connections.sub();
        self.0.connections.sub();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_handshakes: usize, max_handshakes_per_address: usize) -> Arc<Admission> {
        Arc::new(Admission::new(&Limits { max_handshakes, max_handshakes_per_address, ..Limits::default() }))
    }

    fn is_evicted(evicted: &mut Evicted) -> bool {
        evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn ip(text: &str) -> Peer {
        Peer::Ip((text.parse::<IpAddr>().expect("an address"), 1).into())
    }

    #[test]
    fn at_its_bound_an_address_makes_room_itself() {
        let admission = admission(100, 2);
        let (_a, mut first) = admission.enter(from("10.0.0.1"));
        let (_b, mut second) = admission.enter(from("::ffff:10.0.0.1"));
        let (_c, mut other) = admission.enter(from("10.0.0.2"));
        let (_d, mut third) = admission.enter(from("10.0.0.1"));
        assert!(is_evicted(&mut first));
        assert!(!is_evicted(&mut second) && !is_evicted(&mut other) && !is_evicted(&mut third));
    }

    fn from(text: &str) -> From {
        From::of(ip(text))
    }

    #[test]
    fn balancers_are_bounded_in_all_alone() {
        let admission = admission(4, 1);
        let mut proxies: Vec<_> = (0..4).map(|_| admission.enter(From::Proxies)).collect();
        assert!(proxies.iter_mut().all(|(_, evicted)| !is_evicted(evicted)));
        let (_place, _evicted) = admission.enter(from("10.0.0.1"));
        assert!(is_evicted(&mut proxies[0].1) && !is_evicted(&mut proxies[1].1));
    }

    #[test]
    fn at_the_bound_of_all_the_fullest_address_makes_room() {
        let admission = admission(4, 100);
        let mut hoarded: Vec<_> = (0..3).map(|_| admission.enter(from("10.0.0.1"))).collect();
        let (_a, mut small) = admission.enter(from("10.0.0.2"));
        let (_b, mut newcomer) = admission.enter(from("10.0.0.3"));
        assert!(is_evicted(&mut hoarded[0].1) && !is_evicted(&mut hoarded[1].1));
        assert!(!is_evicted(&mut small) && !is_evicted(&mut newcomer));
    }

    #[test]
    fn where_all_hold_as_much_the_oldest_makes_room() {
        let admission = admission(500, 100);
        let mut crowd: Vec<_> = (0..500_u32).map(|host| admission.enter(From::V4(host.into()))).collect();
        let mut newer: Vec<_> = (0..499_u32).map(|host| admission.enter(From::V6(host.into()))).collect();
        let evicted = crowd.iter_mut().filter_map(|(_, evicted)| is_evicted(evicted).then_some(()));
        assert_eq!(evicted.count(), 499);
        assert!(!is_evicted(&mut crowd[499].1), "the last one of them stays");
        assert!(newer.iter_mut().all(|(_, evicted)| !is_evicted(evicted)));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        assert_eq!(From::of(ip("2001:db8::1")), From::of(ip("2001:db8::ffff:1")));
        assert_ne!(From::of(ip("2001:db8::1")), From::of(ip("2001:db8:0:1::1")));
        assert_eq!(From::of(ip("::ffff:10.0.0.1")), From::of(ip("10.0.0.1")));
    }

    #[test]
    fn places_come_back() {
        let admission = admission(2, 2);
        for _ in 0..100 {
            let (_place, mut evicted) = admission.enter(from("::1"));
            assert!(!is_evicted(&mut evicted));
        }
        let handshakes = admission.lock();
        assert_eq!((handshakes.count, handshakes.under_way.len()), (0, 0));
    }

    #[test]
    fn without_room_in_memory_nobody_comes_in_who_was_not_there() {
        let admission = admission(10, 10);
        let gate = Arc::new(Gate::new(admission.clone(), 0));
        let before = gate.connect_or_take_over();
        admission.set_full(true);
        let newcomer = gate.connect_or_take_over();
        assert_eq!((before.why_over(), newcomer.why_over().is_some()), (None, true));
        admission.set_full(false);
        assert_eq!(gate.connect_or_take_over().why_over(), None);
    }

    #[test]
    fn connections_are_counted_in_all_and_for_each_listener() {
        let limits = Limits { max_connections: 3, ..Limits::default() };
        let admission = Arc::new(Admission::new(&limits));
        let gate = |most| Arc::new(Gate::new(admission.clone(), most));
        let (small, any) = (gate(1), gate(0));
        let first = small.connect().expect("room");
        assert!(small.connect().is_none());
        let _second = any.connect().expect("room");
        let _third = any.connect().expect("room");
        assert!(any.connect().is_none());
        drop(first);
        assert!(small.connect().is_some());
    }
}
