//! A run from its first event to its last: chaos, then everybody comes back and takes what is theirs, then all is held
//! against the ledger, then everybody goes.

use std::collections::BTreeSet;
use std::time::Duration;

use weirmq::broker::shard::Shard;
use weirmq::protocol::packet::*;
use weirmq::stats::DropReason;

use super::broker::Sim;
use super::ledger::Term;
use super::plan::{Backing, RETAINED, Role};
use super::restart::End;

/// How many rounds everybody has to finish.
const PATIENCE: u32 = 3_000;

impl Sim {
    pub fn run(&mut self) {
        for client in 0..self.clients.len() {
            self.connect(client);
        }
        for _ in 0..self.plan.steps {
            self.step();
        }
        if self.plan.store != Backing::Memory && self.rng.bool() {
            self.restart(End::Crash);
        }
        self.draining = true;
        self.disarm();
        self.settle();
        self.check_books();
        self.check_nothing_waits();
        self.check_nothing_is_missing();
        self.check_retained();
        self.leave();
        self.check_empty();
        if self.plan.store != Backing::Memory {
            self.restart(End::Stop);
            self.check_empty();
        }
    }

    /// The disk works from now on.
    fn disarm(&self) {
        if let Some(machine) = &self.store.journal().machine {
            machine.disk.crash_at(u64::MAX);
            machine.disk.fail_at(u64::MAX, 0);
        }
    }

    /// One event of the chaos.
    fn step(&mut self) {
        if self.plan.store != Backing::Memory && self.rng.u32(..self.plan.restarts) == 0 {
            let end = if self.rng.u8(..4) == 0 { End::Stop } else { End::Crash };
            return self.restart(end);
        }
        match self.rng.u8(..100) {
            0..30 => {
                let shard = self.rng.usize(..self.broker.shards.len());
                self.turn(shard);
            }
            30..38 => drop(self.disk()),
            38..42 => {
                let by = match self.rng.u8(..40) {
                    0 => Duration::from_secs(self.rng.u64(1..20)),
                    1 if self.rng.u8(..10) == 0 => Duration::from_secs(self.rng.u64(20..4_000)),
                    _ => Duration::from_millis(self.rng.u64(..100)),
                };
                self.pass(by);
            }
            42..46 => self.haunt(),
            _ => {
                let client = self.rng.usize(..self.clients.len());
                self.act(client);
            }
        }
    }

    /// A connection whose client has gone: its last bytes arrive, or the broker notices.
    fn haunt(&mut self) {
        let gone: Vec<u32> =
            self.sockets.iter().filter(|(_, socket)| socket.cut).map(|(id, _)| *id).collect();
        let Some(id) = self.rng.choice(gone) else { return };
        if self.sockets[&id].goodbye.is_some() || self.rng.bool() {
            self.feed(id, 300);
        } else {
            self.lose(id);
        }
    }

    /// Everybody comes back, finishes what is open, and takes what there is.
    pub fn settle(&mut self) {
        for round in 0..PATIENCE {
            let events = self.trace.events();
            let still = self.disk();
            for shard in 0..self.broker.shards.len() {
                self.turn(shard);
            }
            let mut idle = still;
            for client in 0..self.clients.len() {
                idle &= self.finish(client);
            }
            let gone: Vec<u32> =
                self.sockets.iter().filter(|(_, socket)| socket.cut).map(|(id, _)| *id).collect();
            for id in gone {
                idle = false;
                self.lose(id);
            }
            idle &= !self.broker.shards.iter().any(Shard::has_work)
                && self.lanes.values().all(|lane| lane.is_empty());
            idle &= (0..self.told.len()).all(|shard| self.store.journal().behind(shard) == 0);
            idle &= !(0..self.told.len()).any(|shard| self.store.journal().owes_a_page(shard));
            idle &= (0..self.told.len()).all(|shard| self.told[shard] == self.store.journal().durable(shard));
            if idle {
                return;
            }
            if self.trace.events() - events < 3 || round % 20 == 19 {
                self.pass(Duration::from_millis(100));
            }
        }
        panic!("it does not settle: {:?}", self.census());
    }

    /// One round of a client that finishes; whether it has.
    fn finish(&mut self, client: usize) -> bool {
        let Some(id) = self.clients[client].socket else {
            if !self.clients[client].retired {
                self.connect(client);
            }
            return self.clients[client].retired;
        };
        self.read(id, usize::MAX);
        if self.sockets.contains_key(&id) && !self.sockets[&id].closed {
            self.reply(id);
            self.resend(id);
            self.feed(id, usize::MAX);
        }
        self.sockets.get(&id).is_some_and(|socket| !socket.closed && socket.is_idle())
            && self.clients[client].sending.is_empty()
    }

    fn check_nothing_is_missing(&self) {
        let mut missing = self.ledger.missing(self.now);
        // A will that a full queue rejects has nobody to be told.
        let refused = self.dropped(DropReason::RejectedFull) + self.dropped(DropReason::StoreFull);
        missing.retain(|missing| !missing.will || refused == 0);
        let overflowed = self.dropped(DropReason::OverflowOldest) + self.dropped(DropReason::OverflowNewest);
        assert!(
            missing.len() as u64 <= overflowed,
            "{} messages are lost and {overflowed} dropped, such as {}",
            missing.len(),
            missing[0].what
        );
        let durable = missing.iter().find(|missing| missing.persistent && !self.plan.durable_queues_drop());
        assert!(
            durable.is_none(),
            "a persistent session has lost {}",
            durable.map_or("", |missing| &missing.what)
        );
        let missing = self.ledger.missing_in_groups(self.now);
        assert!(
            missing.len() as u64 <= overflowed,
            "{} messages are lost in groups and {overflowed} dropped, such as {}",
            missing.len(),
            missing[0].what
        );
        let durable = missing.iter().find(|missing| missing.persistent && !self.plan.durable_queues_drop());
        assert!(
            durable.is_none(),
            "a group with a persistent member has lost {}",
            durable.map_or("", |missing| &missing.what)
        );
    }

    /// A new subscriber is sent the latest value of every topic that has one.
    fn check_retained(&mut self) {
        let observer = self.add_client(Role::Drifter, Version::V5);
        self.settle();
        let id = self.clients[observer].socket.expect("everybody is connected");
        let options = SubscribeOptions::at_most(QoS::ExactlyOnce);
        self.send_subscribe(observer, id, vec![("r/#".to_owned(), options, 0)]);
        self.settle();
        let number = self.clients[observer].session.expect("everybody is connected");
        for topic in RETAINED {
            let possible = self.ledger.retained(topic);
            let found = self.ledger.sessions[number].retained.get(topic).copied();
            assert!(
                possible.contains(&found),
                "{topic:?} retains message {found:?}, it should be one of {possible:?}"
            );
        }
    }

    /// Everybody ends their session, one way or the other; then what is retained is cleared.
    fn leave(&mut self) {
        for client in 0..self.clients.len() {
            let id = self.clients[client].socket.expect("everybody is connected");
            let number = self.clients[client].session.expect("everybody is connected");
            let terms: Vec<String> = self.ledger.sessions[number].terms.keys().cloned().collect();
            for filter in terms {
                if self.ledger.sessions[number].term(&filter) != Term::Gone && self.rng.bool() {
                    self.send_unsubscribe(client, id, filter);
                }
            }
        }
        self.settle();
        for client in 0..self.clients.len() {
            self.retire(client);
        }
        self.settle();
        self.pass(Duration::from_secs(3));
        let sweeper = self.add_client(Role::Drifter, Version::V4);
        self.settle();
        let retained = self.ledger.messages.iter().filter(|message| message.retain);
        let topics: BTreeSet<String> = retained.map(|message| message.topic.clone()).collect();
        for topic in &topics {
            self.publish_message(sweeper, topic, QoS::AtLeastOnce, true, 0);
        }
        self.settle();
        self.retire(sweeper);
        self.settle();
    }
}
