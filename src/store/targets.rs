//! [`Targets`]: the queues of a message as its record has them, those on the same terms together. A message may go to
//! very many, and each of them reads its record: so the bytes they take stand in front, to be passed over, and in a long
//! run every [`STRIDE`]th queue stands in a directory, so that one of them is found without reading all.

use std::sync::Arc;

use super::PageEntry;
use super::packed::{Reader, put_integer, put_number};
use crate::message::{Message, QueueId};
use crate::protocol::packet::QoS;
use crate::target::Identifiers;

/// After so many queues of a run the next one is in its directory.
const STRIDE: usize = 128;

/// What a directory begins with: the bytes of the list behind it.
const LIST_LEN: usize = 4;

/// What it has of a queue: its number, and where in the list those behind it begin.
const STEP: usize = 12;

/// Appends the queues of a run, which rise.
pub(super) fn put_queues(queues: impl ExactSizeIterator<Item = QueueId>, out: &mut Vec<u8>) {
    put_integer(queues.len() as u64, out);
    let directory = out.len();
    let len = match steps(queues.len() as u64) {
        0 => 0,
        steps => LIST_LEN + steps * STEP,
    };
    out.resize(directory + len, 0);
    let list = out.len();
    let mut last = None;
    for (index, QueueId(queue)) in queues.enumerate() {
        match last.replace(queue) {
            None => put_number(queue, out),
            Some(last) => put_integer(queue - last, out),
        }
        if index > 0 && index % STRIDE == 0 {
            let at = directory + LIST_LEN + (index / STRIDE - 1) * STEP;
            let behind = (out.len() - list) as u32;
            out[at..at + 8].copy_from_slice(&queue.to_le_bytes());
            out[at + 8..at + STEP].copy_from_slice(&behind.to_le_bytes());
        }
    }
    if len > 0 {
        let len = (out.len() - list) as u32;
        out[directory..directory + LIST_LEN].copy_from_slice(&len.to_le_bytes());
    }
}

/// How many of so many queues stand in the directory.
fn steps(queues: u64) -> usize {
    (queues.saturating_sub(1) / STRIDE as u64) as usize
}

/// How one queue takes a message.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The lower of its QoS and the subscription's; for a share group, that of the message.
    pub qos: QoS,
    /// The RETAIN flag to send; for a share group, that of the message.
    pub retain: bool,
    count: usize,
    identifiers: Reader<'a>,
}

impl Terms<'_> {
    /// The Subscription Identifiers to tell.
    pub fn identifiers(&self) -> Identifiers {
        let mut reader = self.identifiers;
        match self.count {
            0 => Identifiers::default(),
            1 => Identifiers::one(reader.small().unwrap_or_default()),
            count => Identifiers::several((0..count).map_while(|_| reader.small()).collect()),
        }
    }

    /// The message as the queue is to have it.
    pub(super) fn entry(&self, message: Arc<Message>) -> PageEntry {
        let Terms { qos, retain, .. } = *self;
        PageEntry { message, qos, retain, identifiers: self.identifiers() }
    }
}

/// The queues of a message, those on the same terms together, each run in rising order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets<'a>(Reader<'a>);

/// A run of queues that take a message on the same terms.
struct Run<'a> {
    terms: Terms<'a>,
    queues: u64,
    directory: &'a [u8],
    /// The list, and whatever follows a short one.
    list: Reader<'a>,
}

/// Queue numbers, each told by its distance from the one before.
struct Queues<'a> {
    left: u64,
    /// The one that was last given, unless none was.
    last: Option<u64>,
    reader: Reader<'a>,
}

impl Iterator for Queues<'_> {
    type Item = QueueId;

    fn next(&mut self) -> Option<QueueId> {
        self.left = self.left.checked_sub(1)?;
        let number = match self.last {
            None => self.reader.number()?,
            Some(last) => last.checked_add(self.reader.integer().filter(|&distance| distance > 0)?)?,
        };
        self.last = Some(number);
        Some(QueueId(number))
    }
}

impl<'a> Run<'a> {
    /// The head of the next run; of a long one, `reader` is behind it then.
    fn read(reader: &mut Reader<'a>) -> Option<Run<'a>> {
        let (qos, retain) = read_terms_head(reader)?;
        let count = usize::try_from(reader.integer()?).ok()?;
        let identifiers = *reader;
        for _ in 0..count {
            reader.small()?;
        }
        let terms = Terms { qos, retain, count, identifiers };
        let queues = reader.integer()?;
        let (directory, list) = match steps(queues) {
            0 => (&[][..], *reader),
            steps => {
                let len = u32::from_le_bytes(*reader.take(LIST_LEN)?.first_chunk()?);
                let directory = reader.take(steps.checked_mul(STEP)?)?;
                (directory, Reader::new(reader.take(usize::try_from(len).ok()?)?))
            }
        };
        Some(Run { terms, queues, directory, list })
    }

    fn queues(&self) -> Queues<'a> {
        Queues { left: self.queues, last: None, reader: self.list }
    }

    fn is_long(&self) -> bool {
        !self.directory.is_empty()
    }

    /// A queue of the directory, and where the list goes on behind it.
    fn step(&self, index: usize) -> Option<(u64, usize)> {
        let step = self.directory.get(index * STEP..)?;
        let behind = u32::from_le_bytes(*step.get(8..)?.first_chunk()?);
        Some((u64::from_le_bytes(*step.first_chunk()?), behind as usize))
    }

    /// The queues, but for some that are below `queue`: after them it is one of the next [`STRIDE`].
    fn queues_towards(&self, queue: QueueId) -> Option<Queues<'a>> {
        let (mut low, mut high) = (0, self.directory.len() / STEP);
        while low < high {
            let middle = low.midpoint(high);
            if self.step(middle)?.0 < queue.0 { low = middle + 1 } else { high = middle }
        }
        let Some(last) = low.checked_sub(1) else { return Some(self.queues()) };
        let (number, behind) = self.step(last)?;
        let mut reader = self.list;
        reader.take(behind)?;
        let left = self.queues.checked_sub((low * STRIDE) as u64 + 1)?;
        Some(Queues { left, last: Some(number), reader })
    }

    /// Reads the list through; where a short one ends.
    fn check(&self) -> Option<Reader<'a>> {
        let mut queues = self.queues();
        let mut index = 0;
        while queues.left > 0 {
            let QueueId(number) = queues.next()?;
            if index > 0 && index % STRIDE == 0 {
                let behind = self.list.rest().len() - queues.reader.rest().len();
                self.step(index / STRIDE - 1).filter(|step| *step == (number, behind))?;
            }
            index += 1;
        }
        let whole = index > 0 && (!self.is_long() || queues.reader.rest().is_empty());
        whole.then_some(queues.reader)
    }
}

impl<'a> Targets<'a> {
    /// Passes over them.
    pub(super) fn read(reader: &mut Reader<'a>) -> Option<Targets<'a>> {
        reader.bytes().map(Targets::of)
    }

    /// Those that have these bytes.
    pub(super) fn of(bytes: &'a [u8]) -> Targets<'a> {
        Targets(Reader::new(bytes))
    }

    /// Their bytes, without the length.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.0.rest()
    }

    /// Reads them through: whether they are whole, so that walking them meets nothing odd.
    pub(super) fn are_sound(&self) -> bool {
        self.check().is_some()
    }

    fn check(&self) -> Option<()> {
        let mut reader = self.0;
        for _ in 0..reader.integer()? {
            let run = Run::read(&mut reader)?;
            let end = run.check()?;
            if !run.is_long() {
                reader = end;
            }
        }
        reader.rest().is_empty().then_some(())
    }

    /// Whether they are more than one.
    pub(super) fn are_several(&self) -> bool {
        let mut reader = self.0;
        reader.integer() != Some(1) || Run::read(&mut reader).is_some_and(|run| run.queues > 1)
    }

    /// How `queue` takes the message, if it is among them.
    pub(super) fn find(&self, queue: QueueId) -> Option<Terms<'a>> {
        let mut reader = self.0;
        for _ in 0..reader.integer()? {
            let run = Run::read(&mut reader)?;
            let mut queues = run.queues_towards(queue)?;
            if queues.find(|&other| other >= queue) == Some(queue) {
                return Some(run.terms);
            }
            if !run.is_long() {
                queues.by_ref().for_each(drop);
                reader = queues.reader;
            }
        }
        None
    }

    /// All of them; of each, the QoS.
    pub(super) fn iter(self) -> impl Iterator<Item = (QueueId, QoS)> + use<'a> {
        let mut reader = self.0;
        let mut runs = reader.integer().unwrap_or_default();
        let mut current: Option<(Run<'a>, Queues<'a>)> = None;
        std::iter::from_fn(move || {
            loop {
                if let Some((run, queues)) = &mut current {
                    if let Some(queue) = queues.next() {
                        return Some((queue, run.terms.qos));
                    }
                    if !run.is_long() {
                        reader = queues.reader;
                    }
                }
                runs = runs.checked_sub(1)?;
                let run = Run::read(&mut reader)?;
                let queues = run.queues();
                current = Some((run, queues));
            }
        })
    }
}

/// QoS and RETAIN flag, as one byte has them.
pub(super) fn read_terms_head(reader: &mut Reader<'_>) -> Option<(QoS, bool)> {
    let head = reader.byte()?;
    (head < 8).then_some((QoS::from_bits(head & 3)?, head & 4 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs: so many queues from `first` on, `distance` apart, and one by itself that has an identifier.
    fn encoded(count: u64, first: u64, distance: u64) -> Vec<u8> {
        let queues: Vec<QueueId> = (0..count).map(|n| QueueId(first + n * distance)).collect();
        let mut out = Vec::new();
        put_integer(2, &mut out);
        out.extend_from_slice(&[1, 0]);
        put_queues(queues.into_iter(), &mut out);
        out.extend_from_slice(&[2, 1, 77]);
        put_queues([QueueId(1)].into_iter(), &mut out);
        out
    }

    #[test]
    fn each_of_many_is_found_and_no_other() {
        let counts = [1, 2, 127, 128, 129, 130, 256, 257, 258, 1000, 10_000];
        for (count, distance) in counts.into_iter().flat_map(|count| [(count, 2), (count, 5000)]) {
            let first = 3 << 48 | 50;
            let bytes = encoded(count, first, distance);
            let targets = Targets::of(&bytes);
            assert!(targets.are_sound() && targets.are_several());
            let all: Vec<u64> = targets.iter().map(|(QueueId(queue), _)| queue).collect();
            let expected: Vec<u64> = (0..count).map(|n| first + n * distance).chain([1]).collect();
            assert_eq!(all, expected);
            for queue in all {
                let terms = targets.find(QueueId(queue)).expect("it is among them");
                assert_eq!(terms.qos as u8, if queue == 1 { 2 } else { 1 });
                assert_eq!(terms.identifiers().as_slice(), if queue == 1 { &[77][..] } else { &[] });
                assert!(
                    targets.find(QueueId(queue + 1)).is_none() && targets.find(QueueId(queue - 1)).is_none()
                );
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_not_sound_and_may_still_be_walked() {
        for count in [3, 128, 129, 300] {
            let bytes = encoded(count, 1 << 48 | 1000, 3);
            for at in 0..bytes.len() {
                let cut = Targets::of(&bytes[..at]);
                assert!(!cut.are_sound(), "{at} of {}", bytes.len());
                let mut changed = bytes.clone();
                changed[at] ^= 0x11;
                for targets in [cut, Targets::of(&changed)] {
                    let _ = (targets.iter().take(1000).count(), targets.are_several());
                    for queue in [0, 1, 1 << 48 | 1000, 1 << 48 | 1450, u64::MAX] {
                        let _ = targets.find(QueueId(queue));
                    }
                }
            }
        }
    }

    #[test]
    fn a_directory_that_is_wrong_is_not_sound() {
        let bytes = encoded(300, 1 << 48 | 1000, 3);
        // Behind the number of runs, a head, no identifiers, and a count in two bytes: length of the list, two steps.
        for at in 5..5 + LIST_LEN + 2 * STEP {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!Targets::of(&changed).are_sound(), "{at}");
        }
    }
}
