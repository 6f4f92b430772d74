//! What a restart writes: a fresh segment for what was not known to be on disk, a sound copy in place of a segment that is
//! not sound, and where a segment ends. Each is whole and synced before it gets the name by which it is found, so that
//! the next restart may come at any moment.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, File};
use super::error::OpenError;
use super::frame::{Frames, Key, Kind};
use super::header::{Ending, Found, HEADER, Header, Identity};
use super::survey::{Named, Part, draft_name, named, quarantine_name, repair_name, segment_name};

/// How much is copied at a time, in bytes.
const PIECE: usize = 1024 * 1024;

/// Moves the frames of `ranges` (a segment, from where to where) to a new segment. Gives its file and where it ends.
pub(super) fn move_on(
    disk: &dyn Disk,
    identity: Identity,
    wall: u64,
    ranges: Vec<Frames>,
) -> Result<(Arc<dyn File>, u64), OpenError> {
    let (draft, name) = (draft_name(identity.number), segment_name(identity.number));
    let file = disk.create(&draft).map_err(OpenError::io(&draft))?;
    let end = copy(&*file, identity, ranges).map_err(OpenError::io(&draft))?;
    let Ok(end32) = u32::try_from(end) else {
        return Err(OpenError::Io(draft, io::ErrorKind::FileTooLarge.into()));
    };
    let identity = Identity { len: end32, ..identity };
    let header = Header { identity, ending: Some(Ending { end: end32, next: 0, wall }) };
    file.write_at(&header.encode(), 0).and_then(|()| file.sync()).map_err(OpenError::io(&draft))?;
    disk.rename(&draft, &name).and_then(|()| disk.sync()).map_err(OpenError::io(&name))?;
    Ok((file, end))
}

fn copy(file: &dyn File, identity: Identity, ranges: Vec<Frames>) -> io::Result<u64> {
    let key = Key::new(identity.salt, identity.number);
    let mut buffer = Vec::with_capacity(PIECE);
    let mut written = HEADER;
    for mut frames in ranges {
        while let Some(frame) = frames.next_frame()? {
            let offset = written + buffer.len() as u64;
            key.put(&mut buffer, offset, frame.kind, frame.payload);
            if buffer.len() >= PIECE {
                file.write_at(&buffer, written)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
    }
    file.write_at(&buffer, written)?;
    Ok(written + buffer.len() as u64)
}

/// Puts a copy in the place of a segment, with `gaps` where it is not sound, and the segment into quarantine. Gives the name
/// that it has there.
pub(super) fn replace(
    disk: &dyn Disk,
    part: &mut Part,
    header: Header,
    gaps: &[(u64, u64)],
    end: u64,
) -> Result<String, OpenError> {
    let (repair, name) = (repair_name(part.number), segment_name(part.number));
    let file = disk.create(&repair).map_err(OpenError::io(&repair))?;
    patch(&*file, part, gaps, end)
        .and_then(|()| file.sync())
        // With a header it is whole.
        .and_then(|()| file.write_at(&header.encode(), 0))
        .and_then(|()| file.sync())
        .and_then(|()| disk.sync())
        .map_err(OpenError::io(&repair))?;
    let kept = quarantine(disk, part.number)?;
    disk.rename(&repair, &name).and_then(|()| disk.sync()).map_err(OpenError::io(&name))?;
    part.file = file;
    part.len = end;
    *part.block = header.encode();
    Ok(kept)
}

fn patch(file: &dyn File, part: &Part, gaps: &[(u64, u64)], end: u64) -> io::Result<()> {
    let there = part.len.min(end);
    let mut buffer = vec![0; PIECE.min(there.saturating_sub(HEADER) as usize)];
    let mut at = HEADER;
    while at < there {
        let piece = &mut buffer[..PIECE.min((there - at) as usize)];
        part.file.read_at(piece, at)?;
        file.write_at(piece, at)?;
        at += piece.len() as u64;
    }
    let widest = gaps.iter().map(|(from, to)| to - from).max().unwrap_or(0);
    let zeros = vec![0; PIECE.min(widest as usize)];
    for (from, to) in gaps {
        let mut at = *from;
        while at < *to {
            let len = PIECE.min((to - at) as usize);
            buffer.clear();
            part.key().put(&mut buffer, at, Kind::Gap, &zeros[..len - 8]);
            file.write_at(&buffer, at)?;
            at += len as u64;
        }
    }
    Ok(())
}

/// Gives a segment's file a name under which it is never read again.
pub(super) fn quarantine(disk: &dyn Disk, number: u32) -> Result<String, OpenError> {
    let name = segment_name(number);
    let names = disk.names().map_err(OpenError::io("the list of files"))?;
    let free = (1..).map(|serial| quarantine_name(number, serial)).find(|name| !names.contains(name));
    let kept = free.unwrap_or_else(|| quarantine_name(number, 0));
    disk.rename(&name, &kept).map_err(OpenError::io(&name))?;
    Ok(kept)
}

/// Brings a segment's header to what it should be.
pub(super) fn settle(part: &mut Part, header: Header) -> Result<(), OpenError> {
    let block = header.encode();
    // One that was cut short of its last zeros reads the same, but is to be as long as it says.
    if block == *part.block && part.len >= HEADER {
        return Ok(());
    }
    part.file.write_at(&block, 0).and_then(|()| part.file.sync()).map_err(part.failed())?;
    *part.block = block;
    part.len = part.len.max(HEADER);
    Ok(())
}

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The segments, in order.
    pub(super) segments: Vec<u32>,
    /// The highest number that is in use, quarantine included.
    pub(super) highest: u32,
}

/// Finishes or undoes what an earlier start was about to do, and lists what there is.
pub(super) fn tidy(disk: &dyn Disk) -> Result<Listing, OpenError> {
    let names = disk.names().map_err(OpenError::io("the list of files"))?;
    let mut listing = Listing::default();
    let mut repairs = Vec::new();
    for name in &names {
        match named(name) {
            Some(Named::Segment(number)) => listing.segments.push(number),
            Some(Named::Repair(number)) => repairs.push(number),
            Some(Named::Quarantined(number)) => listing.highest = listing.highest.max(number),
            Some(Named::Leftover) => disk.remove(name).map_err(OpenError::io(name))?,
            None => {}
        }
    }
    for number in repairs {
        let (repair, name) = (repair_name(number), segment_name(number));
        // The one that it takes the place of is in quarantine already.
        if !listing.segments.contains(&number) && is_whole(disk, number)? {
            disk.rename(&repair, &name).and_then(|()| disk.sync()).map_err(OpenError::io(&name))?;
            listing.segments.push(number);
        } else {
            disk.remove(&repair).map_err(OpenError::io(&repair))?;
        }
    }
    listing.segments.sort_unstable();
    listing.highest = listing.highest.max(listing.segments.last().copied().unwrap_or(0));
    Ok(listing)
}

fn is_whole(disk: &dyn Disk, number: u32) -> Result<bool, OpenError> {
    let name = repair_name(number);
    let read = || {
        let file = disk.open(&name)?;
        let mut block = [0; HEADER as usize];
        let there = file.len()?.min(HEADER) as usize;
        file.read_at(&mut block[..there], 0)?;
        io::Result::Ok(block)
    };
    let block = read().map_err(OpenError::io(&name))?;
    Ok(matches!(Header::decode(&block), Found::Header(header) if header.identity.number == number))
}
