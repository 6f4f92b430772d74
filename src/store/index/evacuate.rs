//! Moving what a mostly dead segment still holds into the index, so that one old message never pins a whole file.

use std::collections::BTreeMap;
use std::io;

use redb::ReadableTable;

use super::tables::Tables;
use super::{IndexError, page};
use crate::store::Position;

/// Moves the bodies of a cold segment that anything still refers to; gives back where none was to be had.
pub fn evacuate(
    cold: u32,
    tables: &mut Tables<'_>,
    read: impl Fn(Position) -> io::Result<Vec<u8>>,
) -> Result<Vec<Position>, IndexError> {
    let mut lost = Vec::new();
    if tables.live.get(cold)?.is_none() {
        return Ok(lost);
    }
    for (position, count) in survivors(cold, tables)? {
        match read(Position(position)) {
            Ok(record) => tables.put_body(position, &record, count)?,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => lost.push(Position(position)),
            Err(error) => return Err(IndexError::Io(error)),
        }
    }
    tables.live.remove(cold)?;
    Ok(lost)
}

/// The positions in a segment that are referred to, and how often.
fn survivors(cold: u32, tables: &Tables<'_>) -> Result<BTreeMap<u64, u64>, IndexError> {
    let (first, last) = (Position::new(cold, 0).0, Position::new(cold, u32::MAX).0);
    let mut counts = BTreeMap::new();
    let mut count = |position| *counts.entry(position).or_default() += 1;
    let mut refs = Vec::new();
    for row in tables.queues.iter()? {
        let (queue, row) = row?;
        if row.value().1 == 0 {
            continue;
        }
        let queue = queue.value();
        // The segment's references may begin within a page that begins before it.
        let before = tables.pages.range((queue, 0)..=(queue, first))?.next_back().transpose()?;
        let start = before.map_or((queue, first), |(key, _)| key.value());
        for row in tables.pages.range(start..=(queue, last))? {
            let (key, page) = row?;
            refs.clear();
            page::decode(Position(key.value().1), page.value(), &mut refs)?;
            refs.iter()
                .map(|reference| reference.position.0)
                .filter(|&at| Position(at).segment() == cold)
                .for_each(&mut count);
        }
    }
    for row in tables.sent.iter()? {
        if let (_, Some((_, position, ..))) = row?.1.value()
            && Position(position).segment() == cold
        {
            count(position);
        }
    }
    Ok(counts)
}
