//! Bounded rates: publishers that are not read before they have tokens again, or are refused, and deliveries that wait
//! until their taker may have more. Who waits is woken by the shard's timers.

use std::time::Instant;

use hashbrown::HashMap;

use super::receive::Step;
use super::{Attach, ConnectionId, Shard};
use crate::broker::waiters::Waiter;
use crate::flow::bucket::Own;
use crate::flow::registry::{Subject, Verdict};
use crate::message::QueueId;
use crate::protocol::codec;
use crate::protocol::packet::{Packet, QoS, Version};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::session::link::{Link, Pause};
use crate::stats::DropReason;

/// What a publisher beyond its rate is told.
pub(super) const TOO_FAST: &str = "published faster than the configured rate";

/// The buckets of clients that are gone and had used theirs up: to come back does not fill it.
#[derive(Debug, Default)]
pub(super) struct Departed {
    publishes: Buckets,
    deliveries: Buckets,
}

/// By client identifier.
#[derive(Debug, Default)]
struct Buckets {
    all: HashMap<Box<str>, Own, foldhash::fast::RandomState>,
    /// At so many, those that are full by now are forgotten.
    purge_at: usize,
}

/// The least number of buckets that is worth going through.
const PURGE: usize = 1024;

impl Buckets {
    fn put(&mut self, client_id: &str, own: Option<Own>, now: Instant) {
        let Some(own) = own else { return };
        if self.all.len() >= self.purge_at.max(PURGE) {
            self.all.retain(|_, own| !own.is_full(now));
            self.purge_at = 2 * self.all.len();
        }
        self.all.insert(client_id.into(), own);
    }
}

impl Shard {
    /// Decides, once for a connection, which rates hold for it.
    pub(super) fn bound_rates(&mut self, now: Instant, attach: &Attach<'_>, link: &mut Link) {
        let user = attach.principal.user();
        let Departed { publishes, deliveries } = &mut self.departed;
        let known = (publishes.all.remove(attach.client_id), deliveries.all.remove(attach.client_id));
        let subject = Subject { client_id: attach.client_id, user, listener: attach.listener };
        link.throttle = self.settings.flow.throttle(now, subject, known.0);
        link.pace = self.settings.flow.pace(now, attach.client_id, user, known.1);
    }

    /// A connection is gone, but not what it has used up.
    pub(super) fn keep_rates(&mut self, now: Instant, client_id: &str, link: &mut Link) {
        let Departed { publishes, deliveries } = &mut self.departed;
        publishes.put(client_id, link.throttle.take().and_then(|throttle| throttle.into_own(now)), now);
        deliveries.put(client_id, link.pace.take().and_then(|pace| pace.into_own(now)), now);
    }

    /// Whether a PUBLISH of a connection whose rate is bounded may pass; `Some`: it does not come to its session.
    ///
    /// Errors: it is refused, and its version has no way to be told but the end of the connection.
    pub(super) fn throttle(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        frame: &[u8],
    ) -> Result<Option<Step>, ProtocolError> {
        let Some(link) =
            super::live(&mut self.sessions, connection).and_then(|session| session.link.as_mut())
        else {
            return Ok(Some(Step::Closed));
        };
        let Some(throttle) = &mut link.throttle else { return Ok(None) };
        match throttle.take(now, frame.len()) {
            Verdict::Pass => Ok(None),
            Verdict::Wait(tokens) => {
                // Whoever is offered more before it is resumed waits once all the same.
                if link.paused.replace(Pause::Rate) != Some(Pause::Rate) {
                    self.waiters.add(Waiter::Reader(connection), tokens);
                }
                Ok(Some(Step::Paused))
            }
            Verdict::Reject if link.version == Version::V5 => {
                // Its session is to know of it all the same: it may set a Topic Alias.
                self.over_rate = true;
                Ok(None)
            }
            Verdict::Reject => {
                let version = link.version;
                self.reject(version, frame).map(Some)
            }
        }
    }

    /// Before 5.0 a refusal cannot be told.
    fn reject(&mut self, version: Version, frame: &[u8]) -> Result<Step, ProtocolError> {
        match codec::decode(version, frame)? {
            Packet::Publish(publish) if publish.qos > QoS::AtMostOnce => {
                self.core.stats.count_drop(DropReason::RateLimited, 1);
                Err(ProtocolError::new(ReasonCode::QuotaExceeded, TOO_FAST))
            }
            Packet::Publish(publish) => {
                self.core.stats.count_drop(DropReason::RateLimited, 1);
                self.core.stats.packets_received.add(1);
                self.core.stats.publish_received.add(1);
                self.core.stats.publish_bytes_received.add(publish.payload.len() as u64);
                Ok(Step::Packet(frame.len()))
            }
            _ => Ok(Step::Packet(frame.len())),
        }
    }

    /// Lists a connection whose deliveries wait for tokens.
    pub(super) fn list_paced(&mut self, index: u32) {
        let Some(link) = self.sessions.get_mut(index as usize).and_then(|session| session.link.as_mut())
        else {
            return;
        };
        let connection = ConnectionId { session: index, generation: link.generation };
        let Some(pace) = &mut link.pace else { return };
        if let Some(tokens) = pace.unlisted() {
            self.waiters.add(Waiter::Taker(connection), tokens);
            pace.listed = true;
        }
    }

    /// Lists a share group that waits for tokens.
    pub(super) fn list_paced_group(&mut self, queue: QueueId) {
        let Some(pace) = self.groups.get_mut(&queue).and_then(|group| group.pace.as_mut()) else { return };
        if let Some(tokens) = pace.unlisted() {
            self.waiters.add(Waiter::Group(queue), tokens);
            pace.listed = true;
        }
    }

    /// Lets go on whoever has tokens again.
    pub(super) fn wake_waiters(&mut self, now: Instant) {
        while let Some(waiter) = self.waiters.due(now) {
            match waiter {
                Waiter::Reader(connection) => {
                    if self.link_of(connection).is_some_and(|link| link.paused == Some(Pause::Rate)) {
                        self.resume(connection);
                    }
                }
                Waiter::Taker(connection) => self.deliver_on(now, connection),
                Waiter::Group(queue) => self.with_group(now, queue, |group, cx, give| {
                    group.pace.iter_mut().for_each(|pace| pace.wake());
                    group.pump(cx, give);
                }),
            }
        }
    }

    fn deliver_on(&mut self, now: Instant, connection: ConnectionId) {
        let Some(session) = super::live(&mut self.sessions, connection) else { return };
        if let Some(pace) = session.link.as_mut().and_then(|link| link.pace.as_mut()) {
            pace.wake();
        }
        session.pump(&mut self.core.context(now));
        self.after_progress(connection.session);
    }
}
