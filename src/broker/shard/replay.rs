//! Retained messages for new subscriptions: a cursor per subscription that reads current values in
//! slices, no faster than the client takes them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;

use super::Shard;
use crate::broker::retained::Position;
use crate::message::Message;
use crate::protocol::packet::QoS;
use crate::session::{Context, Delivery, Session};
use crate::store::Record;
use crate::target::Identifiers;

/// How many topics a slice looks at, at most.
const SLICE: usize = 256;

/// What a replay counts for in a slice, in topics, besides those that it looks at.
const REPLAY: usize = 16;

/// How many slices a turn has time for.
const TURN_SLICES: usize = 8;

/// The replay of one subscription.
#[derive(Debug)]
pub(super) struct Replay {
    qos: QoS,
    identifiers: Identifiers,
    /// Versions up to this one; newer ones arrive live.
    since: u64,
    position: Position,
}

impl Replay {
    /// Of a subscription that was made when the newest retained version was `since`.
    pub(super) fn new(qos: QoS, identifier: u32, since: u64) -> Replay {
        Replay { qos, identifiers: Identifiers::one(identifier), since, position: Position::start() }
    }

    /// The same, from `position` on.
    pub(super) fn at(self, position: Position) -> Replay {
        Replay { position, ..self }
    }
}

/// The replays of one session, by their filters: there may be as many as it has subscriptions.
#[derive(Debug, Default)]
struct Waiting {
    replays: BTreeMap<Box<str>, Replay>,
    /// It is listed as ready.
    ready: bool,
}

/// The replays of all sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Replays {
    by_session: HashMap<u32, Waiting, foldhash::fast::FixedState>,
    /// Sessions that can take more, each once.
    ready: VecDeque<u32>,
}

impl Replays {
    /// Adds a replay, instead of an older one of the same filter.
    pub(super) fn begin(&mut self, session: u32, filter: &str, replay: Replay) {
        self.by_session.entry(session).or_default().replays.insert(filter.into(), replay);
    }

    /// The subscription is gone.
    pub(super) fn cancel(&mut self, session: u32, filter: &str) {
        if let Some(waiting) = self.by_session.get_mut(&session) {
            waiting.replays.remove(filter);
        }
    }

    /// The session is gone.
    pub(super) fn forget(&mut self, session: u32) {
        self.by_session.remove(&session);
    }

    /// Whether no session has one.
    pub(super) fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }

    /// The session can take more.
    pub(super) fn wake(&mut self, session: u32) {
        if let Some(waiting) = self.by_session.get_mut(&session).filter(|waiting| !waiting.ready) {
            waiting.ready = true;
            self.ready.push_back(session);
        }
    }

    /// How many are not at their end.
    pub(super) fn len(&self) -> usize {
        self.by_session.values().map(|waiting| waiting.replays.len()).sum()
    }

    /// Whether any session can take more.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl Shard {
    /// Slices for sessions that can take more, one after the other, as many as a turn has time for. Most replays find little
    /// or nothing: a slice has room for more than one of them.
    pub(super) fn replay_turn(&mut self, now: Instant) {
        for _ in 0..TURN_SLICES.min(self.replays.ready.len()) {
            let Some(index) = self.replays.ready.pop_front() else { return };
            let Some(mut waiting) = self.replays.by_session.remove(&index) else { continue };
            waiting.ready = false;
            let mut left = SLICE;
            while left > 0
                && let Some(mut first) = waiting.replays.first_entry()
            {
                let filter = first.key().clone();
                if !self.replay_slice(now, index, &filter, first.get_mut(), &mut left) {
                    break;
                }
                first.remove();
                left = left.saturating_sub(REPLAY);
            }
            if !waiting.replays.is_empty() {
                self.replays.by_session.insert(index, waiting);
            }
            // Goes on at once if the client took all of it, else when it makes room.
            self.after_progress(index);
        }
    }

    /// Delivers the next values of so many topics; whether that was the last. A persistent session that takes them at QoS 1
    /// or 2 gets a copy of each in its queue, so that they are like any other message from then on.
    fn replay_slice(
        &mut self,
        now: Instant,
        index: u32,
        filter: &str,
        replay: &mut Replay,
        left: &mut usize,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(index as usize) else { return true };
        let shared = self.shared.clone();
        let retained = shared.retained();
        let mut cx = self.core.context(now);
        let (since, qos, identifiers) = (replay.since, replay.qos, &replay.identifiers);
        let target = session.own_target(self.settings.id, qos, identifiers.clone());
        // Of a persistent session: what is replayed, and not yet said to be.
        let mut unsaid = None;
        let more = retained.scan(filter, &mut replay.position, left, |message| {
            if !(session.is_idle(cx.outbound_limit) && session.is_in_pace(now)) {
                return ControlFlow::Break(());
            }
            // A newer version comes live; an expired one is no longer there to be had.
            if message.version > since || message.is_expired(now) {
                return ControlFlow::Continue(());
            }
            if cx.acl.is_some_and(|acl| !acl.may_read(session.who(), message.topic())) {
                return ControlFlow::Continue(());
            }
            cx.stats.deliveries.add(1);
            let mut delivery = Delivery {
                message: message.clone(),
                from: session.queue_id,
                identifiers: identifiers.clone(),
                qos: message.qos.min(qos),
                // Whatever Retain As Published says (3.3.1.3).
                retain: true,
                dup: false,
                metered: false,
                durable: false,
            };
            if let Some(target) = target.as_ref() {
                unsaid = Some(message.clone());
                if delivery.qos > QoS::AtMostOnce {
                    delivery.message = Arc::new(message.copied(cx.ids.next_id()));
                    (delivery.metered, delivery.durable) = (true, true);
                    target.meter.hold(1, message.size() as u64);
                    cx.store.push(Record::Copied { message: &delivery.message, target, filter });
                    unsaid = None;
                }
            }
            session.replay(delivery, &mut cx);
            ControlFlow::Continue(())
        });
        if target.is_some() && (unsaid.is_some() || !more) {
            say(&mut cx, session, filter, unsaid.filter(|_| more));
        }
        !more
    }
}

/// Records how far a replay has come; without a message, that it is over.
fn say(cx: &mut Context<'_>, session: &Session, filter: &str, last: Option<Arc<Message>>) {
    let topic = last.as_ref().map(|message| message.topic());
    cx.store.push(Record::Replayed { session: session.queue_id, filter, topic });
}
