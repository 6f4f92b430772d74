//! `weirmq store check`: reads a folder as a start would, down to the last message, and says what is there.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::pages::Opened;
use super::{Failure, must_exist};
use crate::clock::Clock;

/// Whether everything that should be there is, and is sound.
pub(super) fn run(folder: &Path, clock: Clock, now: Instant, out: &mut impl Write) -> Result<bool, Failure> {
    must_exist(folder)?;
    let mut opened = Opened::to_look(folder, clock, now)?;
    let restored = std::mem::take(&mut opened.restored);
    let subscriptions: usize = restored.sessions.iter().map(|session| session.subscriptions.len()).sum();
    writeln!(out, "sessions: {}, with {subscriptions} subscriptions", restored.sessions.len())?;
    let owned = restored.sessions.iter().filter_map(|session| session.user.as_deref());
    let (owned, users) = (owned.clone().count(), owned.collect::<BTreeSet<_>>().len());
    let anonymous = restored.sessions.len() - owned;
    writeln!(out, "their owners: {users} users of {owned}, anonymous clients of {anonymous}")?;
    let queues = restored.sessions.iter().map(|session| (session.queue, session.waiting));
    let queues = queues.chain(restored.groups.iter().map(|group| (group.queue, group.waiting)));
    let (mut messages, mut bytes, mut lost) = (0, 0, 0);
    for (queue, waiting) in queues {
        let mut found = 0;
        opened.each(queue, |entry| {
            found += 1;
            bytes += entry.message.size() as u64;
            Ok(())
        })?;
        messages += found;
        lost += waiting.messages.saturating_sub(found);
    }
    writeln!(out, "share groups: {}", restored.groups.len())?;
    writeln!(out, "waiting in queues: {messages} messages, {bytes} bytes")?;
    let sent: usize = restored.sessions.iter().map(|session| session.sent.len()).sum();
    writeln!(out, "QoS 2 deliveries under way: {sent}")?;
    writeln!(out, "retained: {}", restored.retained.len())?;
    let mut sound = lost == 0;
    for line in opened.damage() {
        sound &= !line.lost;
        writeln!(out, "{line}")?;
    }
    if lost > 0 {
        writeln!(out, "LOST: {lost} messages that wait in queues cannot be read")?;
    }
    writeln!(out, "{}", if sound { "sound" } else { "NOT SOUND" })?;
    opened.close()?;
    Ok(sound)
}
