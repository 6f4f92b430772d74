//! Retained messages for new subscriptions: a cursor per subscription that reads current values in
//! slices, no faster than the client takes them.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use hashbrown::HashMap;

use super::Shard;
use crate::broker::retained::Position;
use crate::protocol::packet::QoS;
use crate::session::Delivery;
use crate::target::Identifiers;

/// How many topics a slice looks at, at most.
const SLICE: usize = 256;

/// The replay of one subscription.
#[derive(Debug)]
pub(super) struct Replay {
    filter: Box<str>,
    qos: QoS,
    identifiers: Identifiers,
    /// Versions up to this one; newer ones arrive live.
    since: u64,
    position: Position,
}

impl Replay {
    /// Of a subscription that was made when the newest retained version was `since`.
    pub(super) fn new(filter: &str, qos: QoS, identifier: u32, since: u64) -> Replay {
        let identifiers = Identifiers::one(identifier);
        Replay { filter: filter.into(), qos, identifiers, since, position: Position::start() }
    }
}

/// The replays of all sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Replays {
    by_session: HashMap<u32, VecDeque<Replay>, foldhash::fast::FixedState>,
    /// Sessions that can take more.
    ready: VecDeque<u32>,
}

impl Replays {
    /// Adds a replay, instead of an older one of the same filter.
    pub(super) fn begin(&mut self, session: u32, replay: Replay) {
        self.cancel(session, &replay.filter);
        self.by_session.entry(session).or_default().push_back(replay);
    }

    /// The subscription is gone.
    pub(super) fn cancel(&mut self, session: u32, filter: &str) {
        if let Some(replays) = self.by_session.get_mut(&session) {
            replays.retain(|replay| replay.filter.as_ref() != filter);
            if replays.is_empty() {
                self.by_session.remove(&session);
            }
        }
    }

    /// The session is gone.
    pub(super) fn forget(&mut self, session: u32) {
        self.by_session.remove(&session);
    }

    /// The session can take more.
    pub(super) fn wake(&mut self, session: u32) {
        if !self.by_session.is_empty()
            && self.by_session.contains_key(&session)
            && !self.ready.contains(&session)
        {
            self.ready.push_back(session);
        }
    }

    /// How many are not at their end.
    pub(super) fn len(&self) -> usize {
        self.by_session.values().map(VecDeque::len).sum()
    }

    /// Whether any session can take more.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl Shard {
    /// One slice for each session that can take more.
    pub(super) fn replay_turn(&mut self, now: Instant) {
        for _ in 0..self.replays.ready.len() {
            let Some(index) = self.replays.ready.pop_front() else { return };
            let Some(mut replays) = self.replays.by_session.remove(&index) else { continue };
            if let Some(replay) = replays.front_mut()
                && self.replay_slice(now, index, replay)
            {
                replays.pop_front();
            }
            if !replays.is_empty() {
                self.replays.by_session.insert(index, replays);
            }
            // Goes on at once if the client took all of it, else when it makes room.
            self.after_progress(index);
        }
    }

    /// Delivers the next values; whether that was the last.
    fn replay_slice(&mut self, now: Instant, index: u32, replay: &mut Replay) -> bool {
        let Some(session) = self.sessions.get_mut(index as usize) else { return true };
        let shared = self.shared.clone();
        let retained = shared.retained();
        let mut cx = self.core.context(now);
        let (from, since, qos) = (session.queue_id, replay.since, replay.qos);
        let identifiers = &replay.identifiers;
        let more = retained.scan(&replay.filter, &mut replay.position, SLICE, |message| {
            if !session.is_idle(cx.outbound_limit) {
                return ControlFlow::Break(());
            }
            // A newer version comes live; an expired one is no longer there to be had.
            if message.version <= since && !message.is_expired(now) {
                cx.stats.deliveries.add(1);
                session.replay(
                    Delivery {
                        message: message.clone(),
                        from,
                        identifiers: identifiers.clone(),
                        qos: message.qos.min(qos),
                        // Whatever Retain As Published says (3.3.1.3).
                        retain: true,
                        dup: false,
                        metered: false,
                    },
                    &mut cx,
                );
            }
            ControlFlow::Continue(())
        });
        !more
    }
}
