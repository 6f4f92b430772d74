//! A page: some thousand references of one queue in a few bytes each, and before them which ids may be in it, so that
//! whoever looks for an id need not decode it.

use super::{IndexError, Ref};
use crate::message::MessageId;
use crate::store::Position;
use crate::store::packed::{Reader, put_integer};

/// The references of a full page.
pub const MOST: usize = 4096;
/// The bytes at which a page is full: its row fills four of redb's pages, which come in powers of two.
const FULL: usize = 16_000;
/// The most that one more reference takes.
const WIDEST: usize = 30;

/// The lowest and the highest id of each prefix in a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Bounds(Vec<(u64, u64)>);

impl Bounds {
    fn of(refs: &[Ref]) -> Bounds {
        let mut bounds: Vec<(u64, u64)> = Vec::new();
        for reference in refs {
            let id = reference.id.0;
            match bounds.iter_mut().find(|(low, _)| low >> 48 == id >> 48) {
                Some((low, high)) => (*low, *high) = (id.min(*low), id.max(*high)),
                None => bounds.push((id, id)),
            }
        }
        Bounds(bounds)
    }

    /// The bounds, one for each prefix.
    pub fn iter(&self) -> impl Iterator<Item = (MessageId, MessageId)> + '_ {
        self.0.iter().map(|&(low, high)| (MessageId(low), MessageId(high)))
    }
}

/// Packs references, the first of them at `base` or behind it; gives back how many went in.
pub fn encode(base: Position, refs: &[Ref], out: &mut Vec<u8>) -> usize {
    out.clear();
    let refs = &refs[..refs.len().min(MOST)];
    let bounds = Bounds::of(refs);
    put_integer(bounds.0.len() as u64, out);
    for (low, high) in &bounds.0 {
        put_integer(*low, out);
        put_integer(high - low, out);
    }
    let mut last: Vec<u64> = bounds.0.iter().map(|(low, _)| *low).collect();
    let (mut position, mut size) = (base.0, 0);
    for (count, reference) in refs.iter().enumerate() {
        if out.len() + WIDEST > FULL && count > 0 {
            return count;
        }
        let ahead = reference.position.0 - position;
        // Frames are aligned to eight bytes; what is not is told apart by the lowest bit.
        put_integer(if ahead % 8 == 0 { ahead / 8 * 2 } else { ahead * 2 + 1 }, out);
        let id = reference.id.0;
        let which = last.iter().position(|last| last >> 48 == id >> 48).unwrap_or_default();
        put_integer(zigzag(id.wrapping_sub(last[which])) * last.len() as u64 + which as u64, out);
        let grown = u64::from(reference.size).wrapping_sub(u64::from(size));
        put_integer(zigzag(grown) * 2 + u64::from(reference.shared), out);
        (position, size, last[which]) = (reference.position.0, reference.size, id);
    }
    refs.len()
}

/// Reads which ids may be in a page.
pub fn bounds(page: &[u8]) -> Result<Bounds, IndexError> {
    take_bounds(&mut Reader::new(page))
}

/// Unpacks a page behind what `out` has.
pub fn decode(base: Position, page: &[u8], out: &mut Vec<Ref>) -> Result<(), IndexError> {
    let mut page = Reader::new(page);
    let Bounds(bounds) = take_bounds(&mut page)?;
    let mut last: Vec<u64> = bounds.iter().map(|(low, _)| *low).collect();
    let (mut position, mut size) = (base.0, 0u64);
    while !page.rest().is_empty() {
        let ahead = take(&mut page)?;
        position =
            position.wrapping_add(if ahead % 2 == 0 { (ahead / 2).wrapping_mul(8) } else { ahead / 2 });
        let id = take(&mut page)?;
        let prefixes = last.len() as u64;
        let which = id.checked_rem(prefixes).ok_or_else(|| IndexError::damaged("a page without bounds"))?;
        let last = &mut last[which as usize];
        *last = last.wrapping_add(unzigzag(id / prefixes));
        let grown = take(&mut page)?;
        size = size.wrapping_add(unzigzag(grown / 2));
        out.push(Ref {
            position: Position(position),
            id: MessageId(*last),
            size: size as u32,
            shared: grown % 2 == 1,
        });
    }
    Ok(())
}

fn take_bounds(page: &mut Reader<'_>) -> Result<Bounds, IndexError> {
    let prefixes = take(page)?;
    let mut bounds = Vec::new();
    for _ in 0..prefixes {
        let low = take(page)?;
        bounds.push((low, low.wrapping_add(take(page)?)));
    }
    Ok(Bounds(bounds))
}

fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ ((difference as i64 >> 63) as u64)
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

fn take(reader: &mut Reader<'_>) -> Result<u64, IndexError> {
    reader.integer().ok_or_else(|| IndexError::damaged("a page that breaks off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(position: u64, id: u64, size: u32, shared: bool) -> Ref {
        Ref { position: Position(position), id: MessageId(id), size, shared }
    }

    #[test]
    fn a_page_gives_back_what_went_in() {
        let far = (9 << 32) + 4096;
        let refs = [
            reference(far, (3 << 48) + 70, 300, false),
            reference(far + 8, (1 << 48) + 5, 90, true),
            reference(far + 8 + 13, (3 << 48) + 2, u32::MAX, true),
            reference((u64::from(u32::MAX >> 2) << 32) + 16, (65_535 << 48) + ((1 << 48) - 1), 0, false),
        ];
        let mut page = Vec::new();
        assert_eq!(encode(Position(far - 80), &refs, &mut page), refs.len());
        let mut back = Vec::new();
        decode(Position(far - 80), &page, &mut back).unwrap();
        assert_eq!(back, refs);
        let bounds: Vec<_> = bounds(&page).unwrap().iter().collect();
        assert_eq!(bounds[0], (MessageId((3 << 48) + 2), MessageId((3 << 48) + 70)));
        assert_eq!(bounds.len(), 3);
    }

    #[test]
    fn an_ordinary_reference_takes_three_bytes() {
        let refs: Vec<Ref> = (0..5000).map(|n| reference(n * 344, 1000 + n, 356, false)).collect();
        let mut page = Vec::new();
        assert_eq!(encode(Position(0), &refs, &mut page), MOST);
        assert!(page.len() < MOST * 3 + 10, "{}", page.len());
    }

    #[test]
    fn a_page_of_wide_references_ends_early() {
        let refs: Vec<Ref> =
            (0..4000).map(|n| reference(n << 40, ((n * 7) % 64) << 48, (n as u32) << 18, true)).collect();
        let mut page = Vec::new();
        let taken = encode(Position(0), &refs, &mut page);
        assert!((500..4000).contains(&taken) && page.len() <= FULL, "{taken} in {}", page.len());
        let mut back = Vec::new();
        decode(Position(0), &page, &mut back).unwrap();
        assert_eq!(back, refs[..taken]);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let refs: Vec<Ref> =
            (1..40).map(|n| reference(n * 344, (n % 3) << 48 | n, 356, n % 2 == 0)).collect();
        let mut page = Vec::new();
        encode(Position(0), &refs, &mut page);
        for at in 0..page.len() {
            for bit in 0..8 {
                let mut bad = page.clone();
                bad[at] ^= 1 << bit;
                let _ = (decode(Position(0), &bad, &mut Vec::new()), bounds(&bad));
            }
            let _ = decode(Position(0), &page[..at], &mut Vec::new());
        }
        assert!(decode(Position(0), &[0, 1, 1, 1], &mut Vec::new()).is_err());
    }
}
