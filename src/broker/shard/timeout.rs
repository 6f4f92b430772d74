//! What time does to a shard: keepalive, wills that are due, sessions that expire, publishers that
//! have waited too long, `$SYS`.

use std::time::{Duration, Instant};

use super::connect::keep_alive_limit;
use super::publish::Origin;
use super::{Cause, ConnectionId, Paused, Shard};
use crate::broker::timers::NEVER;
use crate::message::{Message, MessageId, MessageParts};
use crate::protocol::packet::QoS;
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::stats::DropReason;

/// How often a publisher that waits for a full queue looks again.
const FULL_RETRY: Duration = Duration::from_millis(100);

impl Paused {
    /// Since when a full queue holds it back, if one does.
    fn full_since(&self) -> Option<Instant> {
        match self.cause {
            Cause::Queue(since) => Some(since),
            Cause::Peer | Cause::Answers => None,
        }
    }
}

impl Shard {
    /// When [`Shard::on_timeout`] is next needed.
    pub fn next_timeout(&self) -> Option<Instant> {
        let full = self.paused.iter().filter_map(Paused::full_since).min().map(|since| {
            // The next multiple of the retry interval: told from the last retry, kept in `retry_at`.
            self.retry_at.unwrap_or(since + FULL_RETRY)
        });
        [self.timers.next(), self.sys.next(), full].into_iter().flatten().min()
    }

    /// Does whatever is due.
    pub fn on_timeout(&mut self, now: Instant) {
        while let Some(index) = self.timers.due(now) {
            let Some(session) = self.sessions.get_mut(index as usize) else { continue };
            session.armed = NEVER;
            self.session_timeout(now, index);
        }
        self.retry_full(now);
        self.update_sys(now);
    }

    fn session_timeout(&mut self, now: Instant, index: u32) {
        let session = &self.sessions[index as usize];
        let Some(link) = &session.link else { return self.detached_timeout(now, index) };
        if link.keep_alive == 0 {
            return;
        }
        let connection = ConnectionId { session: index, generation: link.generation };
        let limit = keep_alive_limit(link.keep_alive);
        let deadline = link.last_packet + limit;
        // Nothing is read from a paused one, so its silence means nothing, unless it is paused for not reading itself.
        let excuses = |cause| cause != Cause::Answers || link.outbound.is_empty();
        if self.paused.iter().any(|paused| paused.connection == connection && excuses(paused.cause)) {
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

    /// Publishers that a full queue holds back try again, or have waited long enough.
    fn retry_full(&mut self, now: Instant) {
        self.retry_at = None;
        let patience = self.core.limits.reject_timeout;
        let mut waited = Vec::new();
        for paused in &self.paused {
            match paused.full_since() {
                Some(since) if now >= since + patience => waited.push(paused.connection),
                Some(_) => self.retry_at = Some(now + FULL_RETRY),
                None => {}
            }
        }
        for connection in waited {
            let error =
                ProtocolError::new(ReasonCode::QuotaExceeded, "a queue stayed full for the reject timeout");
            self.close(now, connection, error);
        }
        let full = self.paused.iter().filter(|paused| paused.full_since().is_some());
        self.resumed.extend(full.map(|paused| paused.connection));
    }

    fn update_sys(&mut self, now: Instant) {
        if self.sys.next().is_none_or(|next| next > now) {
            return;
        }
        let retained = self.shared.retained().count();
        let values = self.sys.update(now, self.settings.stats.iter().map(|stats| stats.as_ref()), retained);
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
