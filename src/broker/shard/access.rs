//! What clients may do, where a shard asks for it: at CONNECT, PUBLISH and SUBSCRIBE, when a will fires, and anew when
//! other rules hold. Who may be sent what is asked where routes are made, once for a topic; here it is asked only for what
//! was routed by other rules. Without rules each of these costs a comparison.

use std::sync::Arc;
use std::time::Instant;

use super::{ConnectionId, Shard, live};
use crate::acl::{Owner, Who};
use crate::broker::access;
use crate::broker::guard::UNDECIDED;
use crate::broker::outbox::{Item, Join};
use crate::broker::restore::share_parts;
use crate::message::{Message, QueueId};
use crate::protocol::reason::{ProtocolError, ReasonCode};
use crate::session::{Membership, Session, SessionSubscription};
use crate::store::Record;

/// The last one to have had the right to publish: most messages come from where the one before them came from.
#[derive(Debug, Default)]
pub(super) struct Granted {
    session: Option<QueueId>,
    topic: String,
}

impl Shard {
    /// Refuses a client that may not connect by this name, or may not leave this will.
    pub(super) fn check_rights(&self, who: Who<'_>, will: Option<&str>) -> Result<(), ProtocolError> {
        let acl = self.core.rules.acl.as_ref();
        let refuse = |detail| Err(ProtocolError::new(ReasonCode::NotAuthorized, detail));
        if acl.is_some_and(|acl| !acl.may_connect(who)) {
            return refuse("a name with a wildcard, and the rules have patterns for names");
        }
        match will {
            Some(topic)
                if !access::may_publish(topic) || acl.is_some_and(|acl| !acl.may_write(who, topic)) =>
            {
                refuse("the will's topic may not be published to")
            }
            _ => Ok(()),
        }
    }

    /// Whether a session's client may publish to `topic`.
    pub(super) fn may_publish(&mut self, index: u32, topic: &str) -> bool {
        if !access::may_publish(topic) {
            return false;
        }
        let Some(acl) = &self.core.rules.acl else { return true };
        let session = &self.sessions[index as usize];
        if self.granted.session == Some(session.queue_id) && self.granted.topic == topic {
            return true;
        }
        let may = acl.may_write(session.who(), topic);
        if may {
            self.granted.session = Some(session.queue_id);
            self.granted.topic.clear();
            self.granted.topic.push_str(topic);
        }
        may
    }

    /// Whether a session's client may subscribe to the plain filter `filter`: it may read something that it matches.
    pub(super) fn may_subscribe(&self, index: u32, filter: &str) -> bool {
        let acl = self.core.rules.acl.as_ref();
        access::may_subscribe(filter)
            && acl.is_none_or(|acl| acl.reads_some(self.sessions[index as usize].who(), filter))
    }

    /// Whether a session's client may be sent a run of messages to one topic.
    pub(super) fn may_read_run(&self, index: u32, messages: &[Arc<Message>]) -> bool {
        let (Some(acl), Some(first)) = (&self.core.rules.acl, messages.first()) else { return true };
        acl.may_read(self.sessions[index as usize].who(), first.topic())
    }

    /// Who a session is to those who route for it, if that makes a difference.
    pub(super) fn owner(&self, index: u32) -> Option<Arc<Owner>> {
        let acl = self.core.rules.acl.as_ref()?;
        let session = &self.sessions[index as usize];
        acl.is_selective(&session.principal).then(|| Arc::new(session.owner()))
    }

    /// A client is back, by what may be another token, or has other rights: what its session holds is asked for anew.
    pub(super) fn check_resumed(&mut self, now: Instant, index: u32) {
        if self.core.rules.acl.is_none() {
            return;
        }
        self.granted = Granted::default();
        self.drop_unreadable(now, index);
        self.guard_sessions(&[index]);
        self.sessions[index as usize].asked_by = UNDECIDED as u32;
    }

    /// Whether the client of a connection is a [local](crate::principal::Principal::local) one from now on.
    pub fn set_local(&mut self, now: Instant, connection: ConnectionId, is_local: bool) {
        let session = live(&mut self.sessions, connection);
        let Some(session) = session.filter(|session| session.principal.local != is_local) else { return };
        session.principal.local = is_local;
        let index = connection.session;
        self.check_resumed(now, index);
        self.introduce(index);
        self.after_progress(index);
    }

    /// Ends the subscriptions of a session that can bring nothing any more.
    pub(super) fn drop_unreadable(&mut self, now: Instant, index: u32) {
        let unreadable = |held: &&SessionSubscription| {
            let plain = if held.group.is_some() { share_parts(&held.filter).1 } else { &held.filter };
            !self.may_subscribe(index, plain)
        };
        let session = &self.sessions[index as usize];
        let (queue, persistent) = (session.queue_id, session.persistent);
        let filters: Vec<Box<str>> =
            session.subscriptions.iter().filter(unreadable).map(|held| held.filter.clone()).collect();
        if filters.is_empty() {
            return;
        }
        for filter in &filters {
            self.remove_subscription(now, index, filter);
            if persistent {
                self.core.store.push(Record::Unsubscribed(queue, filter));
            }
        }
        let session = &self.sessions[index as usize];
        session.bind_queue(&self.settings.queue_rules);
        let client_id = crate::escaped::Word(&session.client_id);
        tracing::info!(%client_id, subscriptions = filters.len(), "subscriptions ended: no right to read them any more");
    }

    /// Tells those who route who these sessions are, and who is nobody of note any more.
    pub(super) fn guard_sessions(&self, indices: &[u32]) {
        let owned = |index: &u32| (&self.sessions[*index as usize], self.owner(*index));
        let mut owners: Vec<(&Session, Option<Arc<Owner>>)> = indices.iter().map(owned).collect();
        let interest = self.shared.interest();
        owners.retain(|(session, owner)| owner.is_some() || interest.is_owned(session.queue_id));
        drop(interest);
        if owners.is_empty() {
            return;
        }
        self.shared.change_interest(|interest, _| {
            for (session, owner) in owners {
                let Some(owner) = owner else {
                    interest.disown(session.queue_id);
                    continue;
                };
                let groups = session.subscriptions.iter().filter_map(|held| held.group.as_ref());
                interest.own(session.queue_id, owner, groups.map(|membership| membership.queue));
            }
        });
    }

    /// Tells the groups of a session who it is, and what it takes.
    pub(super) fn introduce(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        let held = session.subscriptions.iter().filter_map(|held| Some((held, held.group.clone()?)));
        let joins: Vec<_> = held
            .map(|(held, membership)| (membership.home, self.introduction(index, held, &membership)))
            .collect();
        for (home, join) in joins {
            self.outbox.push(home, Item::Join(Box::new(join)));
        }
    }

    /// What a share group is told of a member.
    pub(super) fn introduction(
        &self,
        index: u32,
        held: &SessionSubscription,
        membership: &Membership,
    ) -> Join {
        let session = &self.sessions[index as usize];
        let (name, filter) = share_parts(&held.filter);
        Join {
            group: membership.queue,
            name: name.into(),
            filter: filter.into(),
            session: session.queue_id,
            peer: self.settings.id,
            token: membership.token,
            window: session.link.as_ref().map_or(0, |link| link.window),
            qos: held.options.qos,
            retain_as_published: held.options.retain_as_published,
            identifier: held.identifier,
            meter: membership.meter.clone(),
            owner: self.core.rules.acl.as_ref().map(|_| Arc::new(session.owner())),
        }
    }
}
