//! How the broker ends and starts again, perhaps with another number of shards: killed, without power, or told to stop. What
//! the store gives back is held against what every client was told; what nobody was told may have gone either way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weirmq::broker::outbox::Credits;
use weirmq::broker::restore::distribute;
use weirmq::broker::retained::RetainedLimits;
use weirmq::broker::shard::{Shard, ShardSettings};
use weirmq::broker::shared::Shared;
use weirmq::clock::Clock;
use weirmq::message::PeerId;
use weirmq::protocol::packet::SubscribeOptions;
use weirmq::stats::{DropReason, Stats};
use weirmq::store::open::Sync;
use weirmq::store::restored::{Restored, RestoredSession};
use weirmq::will::Will;

use super::actions::payload;
use super::broker::Sim;
use super::client::Left;
use super::ledger::{Term, Tick, WillFate};
use super::machine::{Machine, Started};
use super::plan::Plan;
use super::store::SimStore;
use crate::common::sim_disk::Outage;

/// How long a client has to come back before its will is published, whatever its delay.
const GRACE: Duration = Duration::from_secs(30);

/// The broker's threads and what they share.
pub struct Broker {
    pub shards: Vec<Shard>,
    pub stats: Vec<Arc<Stats>>,
    pub shared: Arc<Shared>,
    pub credits: Arc<Credits>,
}

impl Broker {
    /// Starts with what a store gave back.
    pub fn start(plan: &Plan, seed: u64, store: &SimStore, restored: Restored, now: Instant) -> Broker {
        let limits = &plan.limits;
        let shared = Arc::new(Shared::new(RetainedLimits {
            messages: limits.retained_messages,
            bytes: limits.retained_bytes,
        }));
        let stats: Vec<Arc<Stats>> = (0..plan.shards).map(|_| Arc::new(Stats::default())).collect();
        let credits = Arc::new(Credits::new(plan.shards.into()));
        let limits = Arc::new(limits.clone());
        let settings = |id: u16| ShardSettings {
            id: PeerId(id),
            peers: plan.shards,
            seed: seed.wrapping_add(id.into()),
            limits: limits.clone(),
            share_rules: plan.share_rules.clone().into(),
            queue_rules: vec![plan.rule.clone()].into(),
            flow: Arc::default(),
            sys_interval: Duration::ZERO,
            stats: stats.clone().into(),
            credits: credits.clone(),
        };
        let shard = |id| Shard::new(settings(id), shared.clone(), Box::new(store.handle(id.into())), now);
        let mut shards: Vec<Shard> = (0..plan.shards).map(shard).collect();
        let shares = distribute(restored, &shared, std::slice::from_ref(&plan.rule), plan.shards);
        for (shard, share) in shards.iter_mut().zip(shares) {
            shard.restore(now, share);
        }
        Broker { shards, stats, shared, credits }
    }
}

/// How the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What it handed to the store may be on disk, whether it was told so or not.
    Crash,
    /// It ends every connection and waits for the disk.
    Stop,
}

/// What the broker had promised a client when it ended.
struct Promised {
    /// The Session Expiry Interval, and the will.
    session: Option<(u32, Option<usize>)>,
}

impl Sim {
    /// The broker ends, and after a while there is another.
    pub fn restart(&mut self, end: End) {
        let tick = self.next_tick();
        let promised = self.promises();
        if end == End::Stop {
            self.stop();
        }
        let shards = self.rng.u16(1..=4);
        let (store, restored) = self.next_store(end, shards);
        self.trace.say(format_args!("{end:?} @{tick}"));
        self.part();
        self.ledger.crashes.push(tick);
        self.forget_broker();
        self.plan.shards = shards;
        self.resolve(&restored, &promised);
        let sessions = restored.sessions.iter().map(|session| session.waiting.messages);
        let waiting = sessions.chain(restored.groups.iter().map(|group| group.waiting.messages));
        self.longest_restored = waiting.max().unwrap_or_default();
        self.store = store;
        let seed = self.rng.u64(..);
        let broker = Broker::start(&self.plan, seed, &self.store, restored, self.now);
        self.told = vec![0; broker.shards.len()];
        self.broker = broker;
        for client in &mut self.clients {
            client.shard = home(&client.id, shards);
        }
        self.trace.say(format_args!("started with {shards} shards at {:?}", self.now - self.start));
    }

    /// The store as the next process finds it, and what it gives back.
    fn next_store(&mut self, end: End, shards: u16) -> (SimStore, Restored) {
        let store = self.store.clone();
        let mut journal = store.journal();
        let Some(mut machine) = journal.machine.take() else {
            let under_way = journal.under_way();
            let kept = if end == End::Stop { under_way } else { self.rng.u64(..=under_way) };
            self.trace.say(format_args!("{kept} of {under_way} records are there that were not durable"));
            let restored = journal.crash(kept);
            drop(journal);
            self.be_away();
            return (store.next(shards.into()), restored);
        };
        let finished = end == End::Stop && machine.finish(self.now).is_ok();
        let troubled = self.plan.may_be_full() || machine.disk.is_down();
        assert!(end == End::Crash || finished || troubled, "the store fails, though the disk works");
        journal.note_durable();
        let under_way = journal.under_way();
        assert!(!finished || under_way == 0, "not all is durable, though the store is finished");
        let outage = self.outage();
        let (mut disk, options) = machine.crash(outage);
        self.be_away();
        let Started { machine, handles, restored } = loop {
            if self.rng.u8(..3) == 0 && !self.draining {
                // In the middle of the start, or later.
                disk.crash_at(disk.calls() + self.rng.u64(1..100));
            }
            match Machine::start(disk.clone(), options, self.clock(), shards.into()) {
                Ok(started) => break started,
                Err(error) => assert!(disk.is_down(), "the store does not open: {error}"),
            }
            let outage = self.outage();
            self.trace.say(format_args!("{outage:?} during the start"));
            disk = disk.reboot(outage);
        };
        let kept = journal.find(&restored);
        self.trace
            .say(format_args!("{outage:?}: {kept} of {under_way} records are there that were not durable"));
        journal.crash(kept);
        drop(journal);
        let next = store.next(shards.into());
        next.run_on(machine, handles);
        (next, restored)
    }

    fn outage(&mut self) -> Outage {
        if self.rng.bool() || self.plan.options.sync == Sync::Os {
            Outage::Kill
        } else {
            Outage::Power(self.rng.u64(..))
        }
    }

    /// Time passes until the next start, or the clock is set back meanwhile, which counts as no time.
    fn be_away(&mut self) {
        if self.rng.u8(..4) > 0 {
            self.now += Duration::from_millis(self.rng.u64(1..20_000));
            return;
        }
        self.ledger.set_back += Duration::from_millis(self.rng.u64(..3_600_000));
    }

    /// The clock that a process starts by.
    pub fn clock(&self) -> Clock {
        let wall = Duration::from_secs(1_700_000_000) + (self.now - self.start) - self.ledger.set_back;
        Clock::new(self.now, wall.as_millis() as u64)
    }

    fn promises(&self) -> Vec<Promised> {
        let promised = |client: &super::client::Client| {
            let socket = client.socket.and_then(|id| self.sockets.get(&id));
            let told = socket.filter(|socket| socket.connacked && !socket.closed && socket.expiry > 0);
            Promised { session: told.map(|socket| (socket.expiry, socket.will.map(|(message, _)| message))) }
        };
        self.clients.iter().map(promised).collect()
    }

    /// Everybody is told that the broker stops, and all of it reaches the disk.
    fn stop(&mut self) {
        self.stopping = true;
        for shard in 0..self.broker.shards.len() {
            self.broker.shards[shard].shutdown(self.now);
            self.notice(shard);
            self.broker.shards[shard].flush_store();
        }
        self.stopping = false;
    }

    /// Every connection is gone: of what was written last, some arrives.
    fn part(&mut self) {
        for socket in self.sockets.values_mut().filter(|socket| !socket.closed) {
            let arrives = self.rng.usize(..=socket.outbound.len());
            socket.outbound.truncate(arrives);
            socket.closed = true;
        }
        self.sockets.retain(|_, socket| !socket.cut);
    }

    /// What was the broker's memory is gone.
    fn forget_broker(&mut self) {
        for reason in DropReason::ALL {
            *self.past_drops.entry(reason.name()).or_default() += self.dropped_now(*reason);
        }
        self.lanes.clear();
        self.blocked.clear();
        (self.taken, self.retaken) = (0, 0);
    }

    /// Holds what the store gave back against what clients know, and takes from it what they cannot know.
    fn resolve(&mut self, restored: &Restored, promised: &[Promised]) {
        let found: BTreeMap<&str, &RestoredSession> =
            restored.sessions.iter().map(|session| (&*session.client_id, session)).collect();
        assert_eq!(found.len(), restored.sessions.len(), "two sessions of one client");
        self.lose_wills();
        for (client, promised) in promised.iter().enumerate() {
            let found = found.get(self.clients[client].id.as_str()).copied();
            self.resolve_session(client, found, promised);
        }
    }

    fn resolve_session(&mut self, client: usize, found: Option<&RestoredSession>, promised: &Promised) {
        let tick = self.next_tick();
        self.clients[client].will_due = None;
        let current = self.clients[client].session;
        if let Some(number) = current {
            self.settle_terms(number, tick);
        }
        // A number that a crash took back may have been given again.
        let number = found.map(|found| {
            let known = self.ledger.sessions.iter().rposition(|session| session.queue == Some(found.queue));
            known.unwrap_or_else(|| panic!("a session that never was: {found:?}"))
        });
        if let (Some(number), Some(found)) = (number, found)
            && current == Some(number)
        {
            return self.resume_session(client, number, found, promised);
        }
        if let Some(current) = current {
            let session = &self.ledger.sessions[current];
            let lost = session.persistent && session.told;
            assert!(!lost, "session {current} of client {client} is lost, of which it was told");
            self.end_session(client);
        }
        self.clients[client].left = None;
        if let (Some(number), Some(found)) = (number, found) {
            assert!(!self.ledger.sessions[number].buried, "session {number} is back from before another");
            // Though its client thought it had cancelled that.
            if let Some(message) = found.will.as_ref().map(will_message) {
                self.ledger.messages[message].will = Some(WillFate::Perhaps);
            }
            self.trace.say(format_args!("session {number} of client {client} has not ended"));
            self.clients[client].haunted = true;
        }
    }

    /// The session goes on: with every subscription that its client was told of, and none that it was told is gone.
    fn resume_session(&mut self, client: usize, number: usize, found: &RestoredSession, promised: &Promised) {
        let tick = self.next_tick();
        let held: BTreeMap<&str, Term> = found
            .subscriptions
            .iter()
            .map(|held| {
                let options = SubscribeOptions::from_bits(held.options).expect("options as on the wire");
                (&*held.filter, Term::Held(options, held.identifier))
            })
            .collect();
        let session = &mut self.ledger.sessions[number];
        let known: Vec<String> = session.terms.keys().cloned().collect();
        for filter in held.keys() {
            assert!(
                session.terms.contains_key(*filter),
                "{filter:?}, which client {client} never subscribed"
            );
        }
        for filter in known {
            let is = held.get(filter.as_str()).copied().unwrap_or(Term::Gone);
            match session.term(&filter) {
                Term::Unsure => session.set_term(&filter, tick, is),
                told => assert_eq!(told, is, "{filter:?} of client {client} after the restart"),
            }
        }
        if let Some((expiry, _)) = promised.session {
            assert_eq!(found.expiry, expiry, "the Session Expiry Interval of client {client}");
        }
        let at = found.detached.unwrap_or(self.now);
        let expiry = (found.expiry != u32::MAX).then(|| Duration::from_secs(found.expiry.into()));
        self.clients[client].left = Some(Left { at, expiry });
        self.resume_will(client, found, promised, tick);
    }

    /// Wills that wait, or were published though no record of that is left, are anybody's guess, until found.
    fn lose_wills(&mut self) {
        let journal = self.store.journal();
        for (index, message) in self.ledger.messages.iter_mut().enumerate() {
            let published = matches!(message.will, Some(WillFate::Published(..)));
            let lost = published && !journal.keeps(&payload(index, message.len));
            message.leaked |= lost;
            if lost || message.will == Some(WillFate::Waiting) {
                message.will = Some(WillFate::Perhaps);
            }
        }
    }

    fn resume_will(&mut self, client: usize, found: &RestoredSession, promised: &Promised, tick: Tick) {
        let Some(will) = &found.will else {
            let promised = promised.session.and_then(|(_, will)| will);
            // Its connection may have been lost just before, and the will published.
            let gone = promised.filter(|will| !self.was_published(*will));
            assert!(gone.is_none(), "the will of client {client}, message {gone:?}, is lost");
            return;
        };
        let (parts, message) = (will.as_parts(), will_message(will));
        let possible = self.clients[client].wills.iter().any(|(_, known)| *known == message);
        assert!(possible, "message {message} is not the will that client {client} left last");
        let detached = found.detached.unwrap_or(self.now);
        let grace = (self.now + GRACE).saturating_duration_since(detached);
        let delay = Duration::from_secs(u64::from(parts.delay).max(grace.as_millis().div_ceil(1000) as u64));
        let due = detached + delay.min(Duration::from_secs(found.expiry.into()));
        let noted = &mut self.ledger.messages[message];
        // It may have been seen, though no record of that is left.
        noted.retaken.push(tick);
        noted.will = Some(WillFate::Waiting);
        self.clients[client].will_due = Some((message, due, tick));
    }

    /// Whether a will was published, as far as the disk knows.
    fn was_published(&self, message: usize) -> bool {
        self.store.journal().keeps(&payload(message, self.ledger.messages[message].len))
    }
}

/// The number in a will's payload.
fn will_message(will: &Will) -> usize {
    let digits = std::str::from_utf8(&will.as_parts().payload[..8]).ok();
    digits.and_then(|digits| digits.parse().ok()).expect("a payload that the model made")
}

/// The shard where a client lives.
pub fn home(client_id: &str, shards: u16) -> usize {
    weirmq::broker::restore::session_home(client_id, shards).0.into()
}
