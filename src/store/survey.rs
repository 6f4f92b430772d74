//! What a restart finds: which files are the journal's, in what order its segments go on from each other, how far each is
//! sound, and what was known to be on disk.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::Position;
use super::disk::{Disk, File};
use super::error::OpenError;
use super::frame::{Frames, Key, Kind, Mark, is_bound};
use super::header::{Ending, Found, HEADER, Header, Identity};
use super::segment::Segment;

/// How much is verified at most to find sound frames behind one that is not, in bytes: a file could be made to take ages.
const SEARCH: u64 = 1 << 30;

/// The name of a segment's file.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// The name of what was a segment and may become one.
pub(super) fn spare_name(number: u32) -> String {
    format!("{number:010}.spare")
}

/// The name under which a segment is made that replaces another.
pub(super) fn repair_name(number: u32) -> String {
    format!("{number:010}.repair")
}

/// The name under which a segment is made that goes on from others.
pub(super) fn draft_name(number: u32) -> String {
    format!("{number:010}.draft")
}

/// A name under which a segment that is not sound is kept for whoever wants to look at it.
pub(super) fn quarantine_name(number: u32, serial: u32) -> String {
    format!("{number:010}-{serial}.corrupt")
}

/// What a file in the folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Segment(u32),
    Repair(u32),
    /// Of use to nobody after a restart.
    Leftover,
    Quarantined(u32),
}

/// What a name says; `None`: it is not one of the journal's.
pub(super) fn named(name: &str) -> Option<Named> {
    let (stem, extension) = name.rsplit_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| {
        let fits = text.len() == 10 && digits(text);
        text.parse().ok().filter(|number: &u32| fits && *number > 0)
    };
    match extension {
        "seg" => number(stem).map(Named::Segment),
        "repair" => number(stem).map(Named::Repair),
        "draft" => number(stem).map(|_| Named::Leftover),
        "spare" => {
            let fresh =
                stem.strip_prefix("fresh-").is_some_and(|serial| !serial.is_empty() && digits(serial));
            (fresh || number(stem).is_some()).then_some(Named::Leftover)
        }
        "corrupt" => {
            let (stem, serial) = stem.split_once('-')?;
            number(stem).filter(|_| !serial.is_empty() && digits(serial)).map(Named::Quarantined)
        }
        _ => None,
    }
}

/// A segment as it was found.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
    /// The bytes of the header as they stand.
    pub(super) block: Box<[u8; HEADER as usize]>,
    /// Who it says it is; without that, who it must be.
    pub(super) identity: Identity,
    pub(super) ending: Option<Ending>,
    /// Whether its header could not be read, or says what cannot be.
    pub(super) lost: bool,
    /// No frame of it can have stood behind this: bytes of its file, now or when it was made.
    pub(super) room: u64,
    /// Nothing behind this is looked at.
    pub(super) limit: u64,
    /// From the beginning to here every frame holds.
    pub(super) sound: u64,
}

impl Part {
    /// Opens the file and reads its header.
    pub(super) fn load(disk: &dyn Disk, number: u32) -> Result<Part, OpenError> {
        let name = segment_name(number);
        let file = disk.open(&name).map_err(OpenError::io(&name))?;
        // No position reaches further.
        let len = file.len().map_err(OpenError::io(&name))?.min(u64::from(u32::MAX - 7));
        let mut block = Box::new([0; HEADER as usize]);
        let there = len.min(HEADER) as usize;
        file.read_at(&mut block[..there], 0).map_err(OpenError::io(&name))?;
        let unknown =
            Identity { salt: 0, number, previous: 0, previous_end: 0, len: 0, durable: Position(0) };
        let (identity, ending, lost) = match Header::decode(&block) {
            Found::Other(version) => return Err(OpenError::Format(name, version)),
            Found::Header(Header { identity, ending }) if identity.number == number => {
                (identity, ending, false)
            }
            Found::Header(_) => (unknown, None, true),
            Found::Nothing(ending) => (unknown, ending, true),
        };
        let room = len.max(identity.len.into()).max(HEADER) / 8 * 8;
        Ok(Part { number, file, len, block, identity, ending, lost, room, limit: len, sound: HEADER })
    }

    /// Forgets what its header says, but for the folder's secret.
    fn disbelieve(&mut self) {
        let (salt, number) = (self.identity.salt, self.number);
        self.identity = Identity { salt, number, previous: 0, previous_end: 0, len: 0, durable: Position(0) };
        (self.ending, self.lost) = (None, true);
    }

    pub(super) fn key(&self) -> Key {
        Key::new(self.identity.salt, self.number)
    }

    /// Its frames in this range.
    pub(super) fn frames(&self, from: u64, to: u64) -> Frames {
        Frames::new(Arc::clone(&self.file), self.key(), from, to)
    }

    /// As the journal knows it.
    pub(super) fn segment(&self, end: u64, exact: bool) -> Arc<Segment> {
        Arc::new(Segment::new(self.number, self.key(), Arc::clone(&self.file), self.len, end, exact))
    }

    /// For `map_err`.
    pub(super) fn failed(&self) -> impl FnOnce(io::Error) -> OpenError + use<> {
        OpenError::io(segment_name(self.number))
    }

    /// The end of the last frame that holds.
    pub(super) fn extent(&self) -> io::Result<u64> {
        let gaps = self.gaps(self.limit)?;
        Ok(gaps.last().filter(|(_, to)| *to >= self.limit).map_or(self.limit.max(HEADER), |(from, _)| *from))
    }

    /// What is not sound below `required`: from where to where.
    pub(super) fn gaps(&self, required: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut gaps = Vec::new();
        let mut frames = self.frames(HEADER, self.limit.min(required));
        let mut search = SEARCH;
        loop {
            while frames.next_frame()?.is_some() {}
            let bad = frames.offset();
            if bad >= required {
                return Ok(gaps);
            }
            seek_sound(&mut frames, &mut search, required)?;
            gaps.push((bad, frames.offset()));
        }
    }
}

/// Goes on to the next frame that holds, or to `required`. Not by what the bad one says of its length, which may be what is
/// bad in it.
fn seek_sound(frames: &mut Frames, search: &mut u64, required: u64) -> io::Result<()> {
    for at in (frames.offset() + 8..required).step_by(8) {
        frames.seek(at);
        let Some(head) = frames.head()? else { continue };
        let len = head.payload_len() as u64;
        if head.kind != Kind::Mark && len > required - at {
            continue;
        }
        if head.kind != Kind::Mark {
            let Some(left) = search.checked_sub(len) else { continue };
            *search = left;
        }
        if frames.next_frame()?.is_some() {
            frames.seek(at);
            return Ok(());
        }
    }
    frames.seek(required);
    Ok(())
}

/// Finds the headers that say what no store has written, though their checksums hold: that a segment goes on from a later
/// one, or that one ends behind all that it has room for. A segment whose own header is gone is taken to have been as
/// large as the largest. `parts` come in the order of their numbers.
pub(super) fn doubt(parts: &mut [Part]) {
    let largest = parts.iter().map(|part| part.room).max().unwrap_or(0);
    for part in parts.iter_mut() {
        if part.lost {
            part.room = largest;
        }
        let header = Header { identity: part.identity, ending: part.ending };
        if !header.is_possible() || header.ending.is_some_and(|ending| u64::from(ending.end) > part.room) {
            part.disbelieve();
        }
    }
    for index in 0..parts.len() {
        let Identity { previous, previous_end, .. } = parts[index].identity;
        if let Ok(before) = parts.binary_search_by_key(&previous, |part| part.number)
            && u64::from(previous_end) > parts[before].room
        {
            parts[index].disbelieve();
        }
    }
}

/// What headers and marks say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Everything before this was on disk.
    pub(super) durable: Position,
    /// When the last batch was written.
    pub(super) wall: u64,
    /// The next batch's.
    pub(super) sequence: u64,
}

impl Known {
    /// Learns from a mark that stands before `end`; what it vouches for stands before it.
    fn mark(&mut self, mark: Mark, end: Position) {
        if is_bound(mark.durable.offset()) && mark.durable < end {
            self.durable = self.durable.max(mark.durable);
        }
        self.wall = self.wall.max(mark.wall);
        self.sequence = self.sequence.max(mark.sequence.saturating_add(1));
    }

    /// Learns what a segment says, and finds how far it is sound.
    pub(super) fn survey(&mut self, part: &mut Part) -> io::Result<()> {
        self.durable = self.durable.max(part.identity.durable);
        if let Some(ending) = part.ending {
            self.durable = self.durable.max(Position::new(part.number, ending.end));
            self.wall = self.wall.max(ending.wall);
        }
        let mut frames = part.frames(HEADER, part.limit);
        while let Some(frame) = frames.next_frame()? {
            if let Some(mark) = Mark::decode(frame.payload).filter(|_| frame.kind == Kind::Mark) {
                self.mark(mark, Position::new(part.number, frames.offset() as u32));
            }
        }
        part.sound = frames.offset();
        // Behind what does not hold only a mark matters: it may vouch for what does not hold.
        while let Some(mark) = frames.next_mark()? {
            self.mark(mark, Position::new(part.number, frames.offset() as u32));
        }
        Ok(())
    }
}

/// Segments in the order of the journal.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) parts: Vec<Part>,
    /// What a later one has taken the place of.
    pub(super) void: Vec<Part>,
    /// What should be there and is not.
    pub(super) missing: Vec<u32>,
}

impl Chain {
    /// Puts segments, which come in the order of their numbers, into that of the journal: each names the one that it goes
    /// on from, and where that one ends. Of two that go on from the same one the later is right: it was made when a restart
    /// had moved what was worth it.
    pub(super) fn link(mut rest: Vec<Part>, replay_from: u32) -> Chain {
        assume(&mut rest, replay_from);
        let mut chain = Chain::default();
        let mut gone = BTreeSet::new();
        while !rest.is_empty() {
            let last = chain.parts.last();
            if let Some(next) = rest.iter().rposition(|part| follows(last, part, replay_from)) {
                chain.void.extend(rest.drain(..next));
                gone.extend(chain.void.iter().map(|part| part.number));
                chain.parts.push(rest.remove(0));
                continue;
            }
            let part = rest.remove(0);
            let previous = part.identity.previous;
            if gone.contains(&previous) || last.is_some_and(|last| last.number == previous) {
                gone.insert(part.number);
                chain.void.push(part);
            } else {
                chain.missing.push(previous);
                chain.parts.push(part);
            }
        }
        let next = chain.parts.last().and_then(|part| part.ending).map_or(0, |ending| ending.next);
        if next != 0 {
            chain.missing.push(next);
        }
        chain.limit();
        chain
    }

    /// Sets how far each may be read.
    fn limit(&mut self) {
        let ends: Vec<_> = (0..self.parts.len()).map(|index| self.named_end(index)).collect();
        for (part, end) in self.parts.iter_mut().zip(ends) {
            part.limit = part.len.min(end.map_or(u64::MAX, u64::from));
        }
    }

    /// A position that is said to be durable, but not behind the end of its segment.
    pub(super) fn within(&self, position: Position) -> Position {
        let Some(index) = self.parts.iter().position(|part| part.number == position.segment()) else {
            return position;
        };
        let end = self.named_end(index).map_or(self.parts[index].room, u64::from);
        position.min(Position::new(position.segment(), end as u32))
    }

    /// Where a segment ends by its own header, or by that of the one that goes on from it.
    pub(super) fn named_end(&self, index: usize) -> Option<u32> {
        let own = self.parts[index].ending.map(|ending| ending.end);
        own.or_else(|| self.left_at(index))
    }

    /// Where the next segment says that this one ends.
    pub(super) fn left_at(&self, index: usize) -> Option<u32> {
        let identity = self.parts.get(index + 1)?.identity;
        let known = identity.previous == self.parts[index].number && identity.previous_end != 0;
        known.then_some(identity.previous_end)
    }
}

/// Gives those without a header a place: where another says that it goes on, or behind the one before.
fn assume(parts: &mut [Part], replay_from: u32) {
    for index in 0..parts.len() {
        if !parts[index].lost {
            continue;
        }
        let number = parts[index].number;
        let goes_on = |part: &&Part| part.ending.is_some_and(|ending| ending.next == number);
        let named = parts[..index].iter().find(goes_on).or_else(|| parts[..index].last());
        let previous = named.map_or(replay_from.saturating_sub(1), |part| part.number);
        parts[index].identity.previous = previous;
    }
}

/// Whether a segment goes on from `last`; without one, from what the index has taken in.
fn follows(last: Option<&Part>, part: &Part, replay_from: u32) -> bool {
    let Identity { previous, previous_end, .. } = part.identity;
    match last {
        None => previous < replay_from.max(1),
        Some(last) if previous != last.number => false,
        Some(last) => last.ending.is_none_or(|ending| previous_end == 0 || ending.end == previous_end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is() {
        assert_eq!(named(&segment_name(1)), Some(Named::Segment(1)));
        assert_eq!(named(&segment_name(u32::MAX)), Some(Named::Segment(u32::MAX)));
        assert_eq!(named(&repair_name(20)), Some(Named::Repair(20)));
        assert_eq!(named(&draft_name(3)), Some(Named::Leftover));
        assert_eq!(named(&spare_name(3)), Some(Named::Leftover));
        assert_eq!(named("fresh-12.spare"), Some(Named::Leftover));
        assert_eq!(named(&quarantine_name(3, 11)), Some(Named::Quarantined(3)));
        for foreign in [
            "lock",
            "index.redb",
            "1.seg",
            "0000000000.seg",
            "00000000001.seg",
            "4294967296.seg",
            "+000000001.seg",
            "0000000001.seg.bak",
            "0000000001",
            ".seg",
            "fresh-.spare",
            "fresh-x.spare",
            "my.spare",
            "0000000001-.corrupt",
            "0000000001.corrupt",
            "\u{661}\u{662}\u{663}\u{664}\u{665}.seg",
        ] {
            assert_eq!(named(foreign), None, "{foreign}");
        }
    }
}
