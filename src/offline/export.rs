//! `weirmq store export`: everything that a folder would give back, as lines.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::line::{Line, MessageLine, PropertiesLine, SubscriptionLine, text_or_base64};
use super::pages::Opened;
use super::{Failure, must_exist};
use crate::clock::Clock;
use crate::message::Message;
use crate::session::Expiry;
use crate::store::PageEntry;
use crate::store::restored::{RestoredSession, RestoredSubscription};

/// Writes it all: sessions first, each with what waits for it, then share groups, then retained messages.
pub(super) fn run(folder: &Path, clock: Clock, now: Instant, out: &mut impl Write) -> Result<(), Failure> {
    must_exist(folder)?;
    let mut opened = Opened::to_look(folder, clock, now)?;
    let sessions = std::mem::take(&mut opened.restored.sessions);
    for session in &sessions {
        write(out, &session_line(session))?;
        let queued = |entry: &PageEntry| Line::Queued {
            client_id: session.client_id.as_ref().to_owned(),
            message: message_line(entry, now),
        };
        for entry in session.sent.iter().filter_map(|sent| sent.entry.as_ref()) {
            write(out, &queued(entry))?;
        }
        opened.each(session.queue, |entry| write(out, &queued(entry)))?;
    }
    for group in std::mem::take(&mut opened.restored.groups) {
        let member = |held: &&RestoredSubscription| held.group == Some(group.queue);
        // One without a member would end at the next start.
        let subscription = sessions.iter().flat_map(|session| &session.subscriptions).find(member);
        let Some(filter) = subscription.map(|held| held.filter.as_ref().to_owned()) else { continue };
        opened.each(group.queue, |entry| {
            write(out, &Line::Shared { group: filter.clone(), message: message_line(entry, now) })
        })?;
    }
    for message in &opened.restored.retained {
        let (identifiers, qos) = (Vec::new(), message.qos as u8);
        let message = MessageLine { identifiers, qos, retain: true, ..plain_line(message, now) };
        write(out, &Line::Retained { message })?;
    }
    opened.close()
}

fn write(out: &mut impl Write, line: &Line) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

fn session_line(session: &RestoredSession) -> Line {
    let subscription = |held: &RestoredSubscription| SubscriptionLine {
        filter: held.filter.as_ref().to_owned(),
        options: held.options,
        identifier: (held.identifier != 0).then_some(held.identifier),
    };
    Line::Session {
        client_id: session.client_id.as_ref().to_owned(),
        user: session.user.as_deref().map(str::to_owned),
        expiry: (Expiry(session.expiry) != Expiry::NEVER).then_some(session.expiry),
        subscriptions: session.subscriptions.iter().map(subscription).collect(),
    }
}

fn message_line(entry: &PageEntry, now: Instant) -> MessageLine {
    let identifiers = entry.identifiers.as_slice().to_vec();
    MessageLine { identifiers, qos: entry.qos as u8, retain: entry.retain, ..plain_line(&entry.message, now) }
}

fn plain_line(message: &Message, now: Instant) -> MessageLine {
    let (payload, payload_base64) = text_or_base64(message.payload());
    MessageLine {
        topic: message.topic().to_owned(),
        payload,
        payload_base64,
        expires_in: message.remaining_expiry(now),
        properties: PropertiesLine::of(message.properties()),
        ..MessageLine::default()
    }
}
