//! What time does to a shard: keepalive, wills that are due, sessions that expire, publishers that
//! have waited too long, `$SYS`.

use std::time::Instant;

use super::connect::keep_alive_limit;
use super::publish::Origin;
use super::{ConnectionId, Shard};
use crate::broker::sys::Gauges;
use crate::broker::timers::NEVER;
use crate::message::{Message, MessageId, MessageParts};
use crate::protocol::packet::QoS;
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::session::link::Pause;
use crate::stats::DropReason;

impl Shard {
    /// When [`Shard::on_timeout`] is next needed.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.stopping {
            return None;
        }
        let others = [self.sys.next(), self.waiting.next_retry(), self.waiters.next()];
        self.timers.next().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Does whatever is due.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        while let Some(index) = self.timers.due(now) {
            let Some(session) = self.sessions.get_mut(index as usize) else { continue };
            session.armed = NEVER;
            self.session_timeout(now, index);
        }
        self.retry_full(now);
        self.wake_waiters(now);
        self.update_sys(now);
    }

    fn session_timeout(&mut self, now: Instant, index: u32) {
        let session = &self.sessions[index as usize];
        let Some(link) = &session.link else { return self.detached_timeout(now, index) };
        let connection = ConnectionId { session: index, generation: link.generation };
        let keep_alive = link.keep_alive;
        if let Some(expires) = session.principal.expires() {
            if expires <= now {
                let error = ProtocolError::new(ReasonCode::MaximumConnectTime, "its token has expired");
                return self.close(now, connection, error);
            }
            self.arm(index, expires);
        }
        if keep_alive > 0 {
            self.keep_alive_timeout(now, connection);
        }
    }

    fn keep_alive_timeout(&mut self, now: Instant, connection: ConnectionId) {
        let index = connection.session;
        let Some(link) = &self.sessions[index as usize].link else { return };
        let limit = keep_alive_limit(link.keep_alive);
        let deadline = link.last_packet + limit;
        // Nothing is read from a paused one, so its silence means nothing, unless it is paused for not reading itself.
        if link.paused.is_some_and(|pause| pause != Pause::Unread || link.outbound.is_empty()) {
            self.arm(index, now + limit);
        } else if deadline > now {
            self.arm(index, deadline);
        } else {
            let error =
                ProtocolError::new(ReasonCode::KeepAliveTimeout, "nothing received for 1.5 × Keep Alive");
            self.close(now, connection, error);
        }
    }

    /// Does what is due for a session without a connection: its will, its end.
    pub(super) fn detached_timeout(&mut self, now: Instant, index: u32) {
        let session = &self.sessions[index as usize];
        let (Some(detached), Some(due)) = (session.detached, session.next_timeout()) else { return };
        if due > now {
            return self.arm(index, due);
        }
        let expired = session.expiry.duration().is_some_and(|expiry| detached + expiry <= now);
        // [MQTT-3.1.2-8]: due, or its session ends, whichever comes first.
        self.publish_will(now, index);
        if expired {
            return self.end_session(now, index, DropReason::SessionExpired);
        }
        if let Some(at) = self.sessions[index as usize].next_timeout() {
            self.arm(index, at);
        }
    }

    fn update_sys(&mut self, now: Instant) {
        if self.sys.next().is_none_or(|next| next > now) {
            return;
        }
        let gauges = Gauges {
            retained: self.shared.retained().count(),
            memory: self.shared.memory(),
            damaged: self.shared.damaged(),
        };
        let stats = self.settings.stats.iter().map(|stats| stats.as_ref());
        let values = self.sys.update(now, stats, gauges);
        for (topic, value) in values {
            let message = Message::new(MessageParts {
                id: MessageId(0),
                version: 0,
                publisher: None,
                qos: QoS::AtMostOnce,
                retain: true,
                expires: None,
                topic: &topic,
                properties: &[],
                payload: value.as_bytes(),
            });
            // Nobody is owed a statistic: a refusal is as good as a drop, and counted like one.
            if let Err(refusal) = self.publish(now, message, Origin::default()) {
                self.core.stats.count_drop(refusal.drop_reason, 1);
            }
        }
    }
}
