//! A restart: what was known to be on disk stays where it is, what was written beyond that is moved to a fresh segment, and
//! what is not sound is set aside and reported.

use std::io;
use std::sync::Arc;

use super::Position;
use super::disk::Disk;
use super::error::OpenError;
use super::frame::{Key, Kind, framed};
use super::header::{Ending, HEADER, Header, Identity};
use super::repair::{self, Listing};
use super::segment::Segment;
use super::survey::{self, Chain, Known, Part, segment_name};

/// What a restart found.
#[derive(Debug, Default)]
pub struct Opened {
    /// What is to be replayed, oldest first.
    pub hot: Vec<Arc<Segment>>,
    /// What only holds bodies.
    pub cold: Vec<Arc<Segment>>,
    /// When the last batch was written that is known of, in milliseconds since 1970; 0: none was.
    pub last_wall: u64,
    /// What was wrong.
    pub report: Report,
}

/// What a restart found to be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was being written when the last process ended: cut, nobody was told that it is done.
    pub torn: Vec<Damage>,
    /// What was on disk and is not sound any more: lost.
    pub corrupt: Vec<Damage>,
    /// Segments that should be there and are not.
    pub missing: Vec<u32>,
    /// Where the files were put that were not sound.
    pub quarantined: Vec<String>,
}

/// Bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its number.
    pub segment: u32,
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// All that the journal needs to go on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) opened: Opened,
    pub(super) salt: u64,
    pub(super) highest: u32,
    pub(super) previous: (u32, u32),
    pub(super) sequence: u64,
    pub(super) durable: Position,
}

/// Reads the journal, and makes it one to go on from. What is not known to be on disk is written again before anything else
/// is changed; every step leaves a journal that the next restart reads the same way.
pub(super) fn recover(
    disk: &dyn Disk,
    salt: u64,
    replay_from: u32,
    cold: &[u32],
) -> Result<Recovered, OpenError> {
    let Listing { segments, highest } = repair::tidy(disk)?;
    let kept = |number: &u32| *number >= replay_from || cold.contains(number);
    let parts = segments.iter().copied().filter(kept).map(|number| Part::load(disk, number));
    let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
    let mut report = Report::default();
    let salt = agree(disk, &mut parts, salt, &mut report)?;
    survey::doubt(&mut parts);

    let hot = parts.split_off(parts.partition_point(|part| part.number < replay_from));
    let chain = Chain::link(hot, replay_from);
    report.missing.extend(&chain.missing);
    report.missing.extend(cold.iter().filter(|number| !segments.contains(number)));
    let cold_segments = cool(&parts, chain.parts.first());

    let highest = highest.max(replay_from.saturating_sub(1)).max(cold.iter().copied().max().unwrap_or(0));
    let mut restart = Restart { disk, chain, known: Known::default(), report, hot: Vec::new() };
    restart.survey()?;
    let tail = restart.tail()?;
    let moved = restart.move_on(tail, salt, highest)?;
    restart.settle(moved.as_ref().map(|segment| segment.number()))?;
    restart.hot.extend(moved);
    let unreferenced = segments.iter().filter(|number| !kept(number));
    restart.clear(unreferenced)?;

    let Restart { known, report, hot, .. } = restart;
    let highest = highest.max(hot.last().map_or(0, |segment| segment.number()));
    let previous = match hot.last() {
        Some(segment) => (segment.number(), segment.end() as u32),
        None => (replay_from.saturating_sub(1), 0),
    };
    Ok(Recovered {
        opened: Opened { hot, cold: cold_segments, last_wall: known.wall, report },
        salt,
        highest,
        previous,
        sequence: known.sequence,
        durable: Position::new(previous.0, previous.1),
    })
}

/// Finds the folder's secret. Where no header has it nothing can be verified, and nothing is believed.
fn agree(disk: &dyn Disk, parts: &mut Vec<Part>, fresh: u64, report: &mut Report) -> Result<u64, OpenError> {
    let Some(salt) = parts.iter().find(|part| !part.lost).map(|part| part.identity.salt) else {
        for part in parts.drain(..) {
            report.corrupt.push(Damage { segment: part.number, offset: 0, bytes: part.len });
            report.quarantined.push(repair::quarantine(disk, part.number)?);
        }
        if !report.quarantined.is_empty() {
            disk.sync().map_err(OpenError::io("the folder"))?;
        }
        return Ok(fresh);
    };
    for part in parts {
        if !part.lost && part.identity.salt != salt {
            return Err(OpenError::Foreign(segment_name(part.number)));
        }
        part.identity.salt = salt;
    }
    Ok(salt)
}

/// Segments of which only records are read, by their positions; `next` is the first that is hot.
fn cool(parts: &[Part], next: Option<&Part>) -> Vec<Arc<Segment>> {
    let successors = parts.iter().skip(1).chain(next).map(Some).chain([None]);
    let segments = parts.iter().zip(successors).map(|(part, next)| {
        let left = next.filter(|next| next.identity.previous == part.number);
        let left = left.map(|next| next.identity.previous_end).filter(|end| *end != 0);
        let end = part.ending.map(|ending| ending.end).or(left).map(u64::from);
        part.segment(end.unwrap_or(part.len).min(part.len), end.is_some())
    });
    segments.collect()
}

/// What was written but not known to be on disk: in which of the chain's segments, from where to where.
type Tail = Vec<(usize, u64, u64)>;

/// A restart under way.
struct Restart<'a> {
    disk: &'a dyn Disk,
    chain: Chain,
    known: Known,
    report: Report,
    hot: Vec<Arc<Segment>>,
}

impl Restart<'_> {
    /// Reads all of it, and so finds what was known to be on disk.
    fn survey(&mut self) -> Result<(), OpenError> {
        for part in &mut self.chain.parts {
            self.known.survey(part).map_err(part.failed())?;
        }
        for part in self.chain.parts.iter().chain(&self.chain.void).filter(|part| part.lost) {
            self.report.corrupt.push(Damage { segment: part.number, offset: 0, bytes: HEADER });
        }
        if let Some(first) = self.chain.parts.first() {
            self.known.durable = self.known.durable.max(Position::new(first.number, HEADER as u32));
        }
        self.known.durable = self.chain.within(self.known.durable);
        Ok(())
    }

    /// Follows what was written beyond that, until something does not hold: the rest is torn.
    fn tail(&mut self) -> Result<Tail, OpenError> {
        let durable = self.known.durable;
        let mut tail = Tail::new();
        let mut whole = true;
        for (index, part) in self.chain.parts.iter().enumerate() {
            let segment = part.number;
            if segment < durable.segment() {
                continue;
            }
            let from = if segment == durable.segment() { u64::from(durable.offset()) } else { HEADER };
            if !whole {
                if part.sound > from {
                    self.report.torn.push(Damage { segment, offset: from, bytes: part.sound - from });
                }
                continue;
            }
            let mut frames = part.frames(from, part.limit);
            let mut records = false;
            while let Some(frame) = frames.next_frame().map_err(part.failed())? {
                records |= frame.kind == Kind::Record;
            }
            let end = frames.offset();
            if records {
                tail.push((index, from, end));
            }
            let left = self.chain.named_end(index).map(u64::from);
            let torn = match left {
                Some(left) => left.saturating_sub(end),
                None if part.len < u64::from(part.identity.len) => {
                    // No frame has room in what is less than eight bytes.
                    (u64::from(part.identity.len) / 8 * 8).saturating_sub(end)
                }
                None if frames.is_blank().map_err(part.failed())? => 0,
                None => {
                    let claimed =
                        frames.head().map_err(part.failed())?.map_or(8, |head| framed(head.payload_len()));
                    claimed.min(part.limit.saturating_sub(end))
                }
            };
            whole = torn == 0;
            if !whole {
                self.report.torn.push(Damage { segment, offset: end, bytes: torn });
            }
        }
        Ok(tail)
    }

    /// Writes the tail to a segment of its own.
    fn move_on(&self, tail: Tail, salt: u64, highest: u32) -> Result<Option<Arc<Segment>>, OpenError> {
        if tail.is_empty() {
            return Ok(None);
        }
        let number = highest.checked_add(1).ok_or_else(|| {
            OpenError::Io(segment_name(highest), io::Error::other("there are no more numbers for segments"))
        })?;
        let (previous, previous_end) = (self.known.durable.segment(), self.known.durable.offset());
        let identity = Identity { salt, number, previous, previous_end, len: 0, durable: self.known.durable };
        let ranges = tail.into_iter().map(|(index, from, to)| self.chain.parts[index].frames(from, to));
        let (file, end) = repair::move_on(self.disk, identity, self.known.wall, ranges.collect())?;
        Ok(Some(Arc::new(Segment::new(number, Key::new(salt, number), file, end, end, true))))
    }

    /// Names the end of every segment that stays; what is not sound in it is taken out.
    fn settle(&mut self, moved: Option<u32>) -> Result<(), OpenError> {
        let durable = self.known.durable;
        let stays = self.chain.parts.partition_point(|part| part.number <= durable.segment());
        for index in 0..stays {
            let named = self.chain.named_end(index);
            let part = &mut self.chain.parts[index];
            let last = part.number == durable.segment();
            let end = match named.map(u64::from) {
                _ if last => u64::from(durable.offset()),
                Some(end) => end,
                None => part.extent().map_err(part.failed())?,
            };
            if part.lost {
                part.identity.len = end as u32;
            }
            let ending = part.ending.unwrap_or(Ending { end: end as u32, next: 0, wall: self.known.wall });
            let next = moved.filter(|_| last).unwrap_or(ending.next);
            let header = Header { identity: part.identity, ending: Some(Ending { next, ..ending }) };
            let gaps = if part.sound < end { part.gaps(end).map_err(part.failed())? } else { Vec::new() };
            let damage =
                |(from, to): &(u64, u64)| Damage { segment: part.number, offset: *from, bytes: to - from };
            self.report.corrupt.extend(gaps.iter().map(damage));
            if part.lost || !gaps.is_empty() {
                let kept = repair::replace(self.disk, part, header, &gaps, end)?;
                self.report.quarantined.push(kept);
            } else {
                repair::settle(part, header)?;
            }
            // The room is given back where it is worth it; a segment that is almost full may become a spare.
            if part.len - end > part.len / 8 {
                part.file.set_len(end).map_err(part.failed())?;
                part.len = end;
            }
            self.hot.push(part.segment(end, true));
        }
        let void = self.chain.parts.drain(stays..);
        self.chain.void.extend(void);
        Ok(())
    }

    /// Removes what has no use any more. Where something is lost, what might explain it is kept.
    fn clear<'a>(&mut self, unreferenced: impl Iterator<Item = &'a u32>) -> Result<(), OpenError> {
        let doubtful = !self.report.corrupt.is_empty() || !self.report.missing.is_empty();
        for part in self.chain.void.drain(..) {
            if doubtful {
                self.report.quarantined.push(repair::quarantine(self.disk, part.number)?);
            } else {
                remove(self.disk, part.number)?;
            }
        }
        for number in unreferenced {
            remove(self.disk, *number)?;
        }
        self.disk.sync().map_err(OpenError::io("the folder"))
    }
}

fn remove(disk: &dyn Disk, number: u32) -> Result<(), OpenError> {
    let name = segment_name(number);
    disk.remove(&name).map_err(OpenError::io(&name))
}
