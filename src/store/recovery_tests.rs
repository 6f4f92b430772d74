//! The journal after a crash, and after its files were damaged: nothing false is ever read, nothing that was known to be on
//! disk goes missing without being reported, and a restart may itself be cut short at any step.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Position;
use super::disk::Disk;
use super::error::OpenError;
use super::frame::{Key, Kind, Mark, framed};
use super::header::{Ending, Found, HEADER, Header, Identity};
use super::journal::{Journal, JournalOptions};
use super::journal_tests::{OPTIONS, commit, open, payloads, records};
use super::ramdisk::RamDisk;
use super::recovery::{Damage, Opened, Report};
use super::segment::Spare;

/// Small, so that every byte can be tried.
const SMALL: JournalOptions = JournalOptions { segment_size: HEADER + 256, spares: 2, salt: 7 };

fn open_small(disk: &RamDisk) -> (Journal, Opened) {
    Journal::open(Arc::new(disk.clone()), SMALL, 0, &[]).unwrap()
}

/// A journal of some batches over some segments, and the payloads of each batch.
fn written() -> (RamDisk, Vec<Vec<Vec<u8>>>) {
    let disk = RamDisk::new();
    let (mut journal, _) = open_small(&disk);
    let mut batches = Vec::new();
    for batch in 0..4_u8 {
        let records: Vec<Vec<u8>> =
            (0..3).map(|number| vec![batch * 16 + number + 1; 10 + usize::from(number) * 13]).collect();
        commit(&mut journal, 100, &records.iter().map(|record| &record[..]).collect::<Vec<_>>());
        batches.push(records);
    }
    assert_eq!(disk.list().len(), 3);
    (disk, batches)
}

/// Opens a damaged journal: what it gives is what was written but for what the report speaks of, and after another restart
/// it is the same, and sound.
fn survives(disk: &RamDisk, batches: &[Vec<Vec<u8>>], what: &str) -> (Vec<Vec<u8>>, Report) {
    let (mut journal, opened) = open_small(disk);
    let got = payloads(&opened);
    let mut all = batches.iter().flatten();
    assert!(got.iter().all(|payload| all.any(|written| written == payload)), "{what}: {got:?}");
    let vouched = batches[..batches.len() - 1].iter().flatten();
    if vouched.into_iter().any(|payload| !got.contains(payload)) {
        assert!(!opened.report.corrupt.is_empty() || !opened.report.missing.is_empty(), "{what}");
    }
    commit(&mut journal, 200, &[b"after"]);
    let (_, again) = open_small(disk);
    let mut expected = got.clone();
    expected.push(b"after".to_vec());
    assert_eq!(payloads(&again), expected, "{what}");
    assert_eq!((&again.report.corrupt, &again.report.torn), (&vec![], &vec![]), "{what}");
    (got, opened.report)
}

#[test]
fn any_byte_may_be_wrong() {
    let (disk, batches) = written();
    let total = batches.iter().flatten().count();
    let mut corrupt = 0;
    for name in disk.list() {
        let bytes = disk.read(&name);
        for at in 0..bytes.len() {
            let damaged = disk.copy();
            let mut bytes = bytes.clone();
            bytes[at] ^= if at % 3 == 0 { 0xff } else { 1 << (at % 8) };
            damaged.put(&name, bytes);
            let what = format!("{name} at {at}");
            let (got, report) = survives(&damaged, &batches, &what);
            // One frame is lost, or the end of a batch that nothing vouches for.
            let last = batches[3].iter().filter(|payload| got.contains(payload)).count();
            assert!(got.len() + 1 >= total || got.len() - last == total - 3, "{what}: {}", got.len());
            assert!(got.len() == total || report != Report::default(), "{what}");
            assert_eq!(report.quarantined.is_empty(), report.corrupt.is_empty(), "{what}");
            corrupt += usize::from(!report.corrupt.is_empty());
        }
    }
    assert!(corrupt > 300);
}

#[test]
fn any_file_may_end_anywhere() {
    let (disk, batches) = written();
    for name in disk.list() {
        let bytes = disk.read(&name);
        for len in 0..bytes.len() {
            let damaged = disk.copy();
            damaged.put(&name, bytes[..len].to_vec());
            let (got, report) = survives(&damaged, &batches, &format!("{name} of {len}"));
            let lost = batches.iter().flatten().count() - got.len();
            assert!(lost == 0 || report != Report::default(), "{name} of {len}");
        }
    }
}

#[test]
fn a_header_without_frames_may_end_anywhere() {
    let identity =
        Identity { salt: 7, number: 1, previous: 0, previous_end: 0, len: 4096, durable: Position(0) };
    let header = Header { identity, ending: Some(Ending { end: 4096, next: 0, wall: 1 }) }.encode();
    for len in 0..header.len() {
        let disk = RamDisk::new();
        disk.put("0000000001.seg", header[..len].to_vec());
        finds_the_same(&disk, &[]);
    }
}

#[test]
fn any_segment_may_be_missing() {
    let (disk, batches) = written();
    for (index, name) in disk.list().iter().enumerate() {
        let damaged = disk.copy();
        damaged.remove(name).unwrap();
        let (_, opened) = open_small(&damaged);
        let last = index == 2;
        assert_eq!(opened.report.missing, if last { vec![] } else { vec![index as u32 + 1] });
        let got = payloads(&opened);
        assert!(got.iter().all(|payload| batches.iter().flatten().any(|written| written == payload)));
        assert!(!got.is_empty());
    }
}

/// Two segments of which the second is torn in its middle: the batch that goes from one to the other.
fn torn() -> (RamDisk, Vec<Vec<u8>>) {
    let disk = RamDisk::new();
    let (mut journal, _) = open_small(&disk);
    commit(&mut journal, 100, &[b"one", b"two"]);
    commit(&mut journal, 101, &[b"three"]);
    commit(&mut journal, 102, &[&[4; 70], &[5; 70], &[6; 70]]);
    let mut bytes = disk.read("0000000002.seg");
    assert_eq!(bytes[HEADER as usize + 8], 5);
    bytes[HEADER as usize + framed(70) as usize + 8] ^= 1;
    disk.put("0000000002.seg", bytes);
    (disk, vec![b"one".to_vec(), b"two".to_vec(), b"three".to_vec(), vec![4; 70], vec![5; 70]])
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let (disk, expected) = torn();
    let (_, opened) = open_small(&disk);
    assert_eq!(payloads(&opened), expected);
    let [damage] = opened.report.torn[..] else { panic!("{:?}", opened.report) };
    assert_eq!((damage.segment, damage.offset, damage.bytes), (2, HEADER + framed(70), framed(70)));
    assert!(opened.report.corrupt.is_empty() && opened.report.missing.is_empty());
}

#[test]
fn a_batch_torn_in_its_first_segment_counts_nowhere() {
    let (disk, expected) = torn();
    let mut bytes = disk.read("0000000001.seg");
    let at = bytes.windows(70).position(|bytes| bytes == [4; 70]).unwrap();
    bytes[at] ^= 1;
    disk.put("0000000001.seg", bytes);
    let (mut journal, opened) = open_small(&disk);
    assert_eq!(payloads(&opened), expected[..3]);
    assert_eq!(opened.report.torn.iter().map(|torn| torn.segment).collect::<Vec<_>>(), [1, 2]);
    assert!(opened.report.corrupt.is_empty() && opened.report.missing.is_empty());
    commit(&mut journal, 200, &[b"after"]);
    let (_, opened) = open_small(&disk);
    assert_eq!(payloads(&opened)[3..], [b"after"]);
    assert_eq!(opened.report, Report::default());
}

#[test]
fn what_lies_behind_a_named_end_is_never_read() {
    let (disk, expected) = torn();
    let before = disk.read("0000000001.seg");
    let (mut journal, _) = open_small(&disk);
    commit(&mut journal, 200, &[b"after"]);
    let bytes = disk.read("0000000001.seg");
    let Found::Header(Header { ending: Some(ending), .. }) = Header::decode(bytes.first_chunk().unwrap())
    else {
        panic!("the end is not named")
    };
    // The torn batch stands there as it did, and nothing was written over it.
    let end = ending.end as usize;
    assert!(end + 100 < bytes.len());
    assert_eq!((&bytes[end..], ending.wall), (&before[end..], 102));
    let (_, opened) = open_small(&disk);
    assert_eq!(payloads(&opened)[..5], expected);
    assert_eq!(payloads(&opened)[5..], [b"after"]);
    assert_eq!(opened.report, Report::default());
}

#[test]
fn what_was_not_vouched_for_is_written_again_before_anything_is_served() {
    let disk = RamDisk::new();
    let (mut journal, _) = open_small(&disk);
    commit(&mut journal, 100, &[b"one"]);
    // Written, never synced: the page cache has it, and a failed sync may have made that a lie.
    journal.begin(101);
    journal.append(b"two").unwrap();
    journal.commit(false).unwrap();
    let (_, opened) = open_small(&disk);
    assert_eq!(payloads(&opened), [b"one", b"two"]);
    for seed in 0..50 {
        let crashed = disk.crash(&mut fastrand::Rng::with_seed(seed));
        assert_eq!(payloads(&open_small(&crashed).1), [b"one", b"two"]);
    }
}

/// Cuts a restart short at each of its steps, in some ways each; the next one finds the same.
fn restart_is_safe(disk: &RamDisk) {
    let whole = disk.copy();
    let before = whole.steps();
    let (_, opened) = open_small(&whole);
    let steps = whole.steps() - before;
    let expected = payloads(&opened);
    assert!(steps > 3 && !expected.is_empty());
    for step in 0..steps {
        for seed in 0..24 {
            let disk = disk.copy();
            disk.fail_after(Some(step));
            let result = Journal::open(Arc::new(disk.clone()), SMALL, 0, &[]);
            assert!(matches!(result, Err(OpenError::Io(..))));
            let after = disk.crash(&mut fastrand::Rng::with_seed(seed));
            let (mut journal, opened) = open_small(&after);
            assert_eq!(payloads(&opened), expected, "step {step}, seed {seed}");
            commit(&mut journal, 200, &[b"after"]);
            assert_eq!(payloads(&open_small(&after).1).len(), expected.len() + 1, "step {step}, seed {seed}");
        }
    }
}

#[test]
fn a_restart_may_end_at_any_step() {
    restart_is_safe(&written().0);
    restart_is_safe(&torn().0);
    let (disk, _) = torn();
    let mut bytes = disk.read("0000000001.seg");
    bytes[HEADER as usize + framed(Mark::LEN) as usize + 9] ^= 1;
    disk.put("0000000001.seg", bytes);
    restart_is_safe(&disk);
    let (disk, _) = written();
    for name in ["0000000001.seg", "0000000002.seg"] {
        let mut bytes = disk.read(name);
        bytes[..HEADER as usize].fill(0);
        disk.put(name, bytes);
    }
    restart_is_safe(&disk);
}

#[test]
fn a_frame_within_a_payload_is_not_taken_for_one() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    // Made by somebody who knows everything but the folder's secret.
    let mut inner = vec![0; 8];
    Key::new(OPTIONS.salt + 1, 1).put(&mut inner, HEADER + 48, Kind::Record, b"false");
    commit(&mut journal, 100, &[&inner]);
    commit(&mut journal, 101, &[b"sound"]);
    commit(&mut journal, 102, &[b"last"]);
    let mut bytes = disk.read("0000000001.seg");
    bytes[HEADER as usize + framed(Mark::LEN) as usize] ^= 1;
    disk.put("0000000001.seg", bytes);
    let (_, opened) = open(&disk, 0, &[]);
    assert_eq!(payloads(&opened), [&b"sound"[..], b"last"]);
    let [damage] = opened.report.corrupt[..] else { panic!("{:?}", opened.report) };
    let at = HEADER + framed(Mark::LEN);
    assert_eq!((damage.segment, damage.offset, damage.bytes), (1, at, framed(inner.len())));
    assert_eq!(opened.report.quarantined, ["0000000001-1.corrupt"]);
}

#[test]
fn sound_records_of_a_damaged_segment_keep_their_places() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let mut positions = commit(&mut journal, 100, &[b"one", b"two", b"six"]);
    commit(&mut journal, 101, &[b"more"]);
    let mut bytes = disk.read("0000000001.seg");
    bytes[positions[1].offset() as usize + 4] ^= 1;
    disk.put("0000000001.seg", bytes);
    let (journal, opened) = open(&disk, 0, &[]);
    positions.remove(1);
    let got: Vec<Position> = records(&opened.hot).into_iter().map(|(position, _)| position).collect();
    assert_eq!(got[..2], positions);
    assert_eq!(journal.segment(1).unwrap().record(positions[1]).unwrap(), b"six");
}

/// A segment that no store has written: its header, a record and nothing else.
fn forged(identity: Identity, ending: Option<Ending>, record: &[u8]) -> Vec<u8> {
    let mut bytes = Header { identity, ending }.encode().to_vec();
    Key::new(SMALL.salt, identity.number).put(&mut bytes, HEADER, Kind::Record, record);
    bytes
}

/// A copy of the disk, where the header of a segment says something else.
fn change(disk: &RamDisk, name: &str, change: impl FnOnce(&mut Header)) -> RamDisk {
    let disk = disk.copy();
    let mut bytes = disk.read(name);
    let Found::Header(mut header) = Header::decode(bytes.first_chunk().unwrap()) else { unreachable!() };
    change(&mut header);
    bytes[..HEADER as usize].copy_from_slice(&header.encode());
    disk.put(name, bytes);
    disk
}

/// Opens twice: both times it finds these records; gives what the first said of it.
fn finds_the_same(disk: &RamDisk, expected: &[&[u8]]) -> Report {
    let (_, opened) = open_small(disk);
    assert_eq!(payloads(&opened), expected);
    let (_, again) = open_small(disk);
    assert_eq!(payloads(&again), expected);
    assert_eq!((&again.report.corrupt, &again.report.torn), (&vec![], &vec![]));
    opened.report
}

#[test]
fn nothing_is_durable_behind_a_named_end() {
    let disk = RamDisk::new();
    let (salt, len, end) = (SMALL.salt, SMALL.segment_size as u32, (HEADER + framed(3)) as u32);
    let first = Identity { salt, number: 1, previous: 0, previous_end: 0, len, durable: Position(0) };
    disk.put("0000000001.seg", forged(first, Some(Ending { end, next: 0, wall: 100 }), b"one"));
    // It says that more than that was on disk of the first.
    let durable = Position::new(1, end + 64);
    let third = Identity { number: 3, previous: 2, previous_end: end, durable, ..first };
    disk.put("0000000003.seg", forged(third, None, b"three"));
    let report = finds_the_same(&disk, &[b"one", b"three"]);
    assert_eq!((report.corrupt, report.missing), (vec![], vec![2]));
}

#[test]
fn a_segment_does_not_go_on_from_a_later_one() {
    let (disk, batches) = written();
    let all: Vec<&[u8]> = batches.iter().flatten().map(|record| &record[..]).collect();
    let disk = change(&disk, "0000000002.seg", |header| header.identity.previous = 3);
    let report = finds_the_same(&disk, &all);
    assert_eq!(report.corrupt, [Damage { segment: 2, offset: 0, bytes: HEADER }]);
    assert!(report.missing.is_empty());
}

#[test]
fn a_mark_does_not_vouch_for_what_comes_after_it() {
    let disk = RamDisk::new();
    let (salt, len) = (SMALL.salt, SMALL.segment_size as u32);
    let first = Identity { salt, number: 1, previous: 0, previous_end: 0, len, durable: Position(0) };
    for durable in [Position::new(1, len), Position::new(2, len)] {
        let mut bytes = forged(first, None, b"one");
        let mark = Mark { sequence: 1, durable, wall: 100 };
        let at = bytes.len() as u64;
        Key::new(salt, 1).put(&mut bytes, at, Kind::Mark, &mark.encode());
        disk.put("0000000001.seg", bytes);
        let report = finds_the_same(&disk, &[b"one"]);
        assert_eq!((report.corrupt, report.missing), (vec![], vec![]));
        disk.list().iter().for_each(|name| disk.remove(name).unwrap());
    }
}

#[test]
fn a_segment_does_not_end_behind_all_its_room() {
    let (disk, batches) = written();
    let all: Vec<&[u8]> = batches.iter().flatten().map(|record| &record[..]).collect();
    const FAR: u32 = 1 << 24;
    let ending = Some(Ending { end: FAR, next: 0, wall: 1 });
    for disk in [
        change(&disk, "0000000002.seg", |header| header.ending = ending),
        change(&disk, "0000000002.seg", |header| header.identity.previous_end = FAR),
    ] {
        let report = finds_the_same(&disk, &all);
        assert_eq!(report.corrupt, [Damage { segment: 2, offset: 0, bytes: HEADER }]);
        assert_eq!(report.quarantined[0], "0000000002-1.corrupt");
        assert!(disk.list().iter().all(|name| disk.read(name).len() as u64 <= SMALL.segment_size));
    }
}

#[test]
fn what_was_durable_ends_where_there_is_no_room() {
    let disk = RamDisk::new();
    // No frame ends there.
    let (salt, len) = (SMALL.salt, SMALL.segment_size as u32 + 3);
    let first = Identity { salt, number: 1, previous: 0, previous_end: 0, len, durable: Position(0) };
    disk.put("0000000001.seg", forged(first, None, b"one"));
    let durable = Position::new(1, 1 << 24);
    let third = Identity { number: 3, previous: 2, previous_end: 4096, durable, ..first };
    disk.put("0000000003.seg", forged(third, None, b"three"));
    let report = finds_the_same(&disk, &[b"one", b"three"]);
    let offset = HEADER + framed(3);
    assert_eq!(report.corrupt, [Damage { segment: 1, offset, bytes: SMALL.segment_size - offset }]);
    assert!(disk.list().iter().all(|name| disk.read(name).len() as u64 <= SMALL.segment_size));
}

#[test]
fn a_later_version_and_another_store_are_refused() {
    let (disk, _) = written();
    let later = disk.copy();
    let mut bytes = later.read("0000000002.seg");
    bytes[8] = 9;
    bytes[2048 + 8] = 9;
    later.put("0000000002.seg", bytes);
    let result = Journal::open(Arc::new(later), SMALL, 0, &[]);
    assert!(matches!(result, Err(OpenError::Format(name, 9)) if name == "0000000002.seg"));
    let other = RamDisk::new();
    let (mut journal, _) =
        Journal::open(Arc::new(other.clone()), JournalOptions { salt: 8, ..SMALL }, 0, &[]).unwrap();
    commit(&mut journal, 100, &[b"one"]);
    disk.put("0000000001.seg", other.read("0000000001.seg"));
    let result = Journal::open(Arc::new(disk), SMALL, 0, &[]);
    assert!(matches!(result, Err(OpenError::Foreign(_))));
}

/// What a run of the journal should have on disk.
#[derive(Default)]
struct Model {
    /// What is to be replayed: on disk for certain up to `synced`.
    hot: Vec<(Position, Vec<u8>)>,
    synced: usize,
    /// What was retired, by segment.
    cold: BTreeMap<u32, Vec<(Position, Vec<u8>)>>,
    replay_from: u32,
    serial: u32,
}

impl Model {
    /// Does things until the disk fails, or for long enough.
    fn run(&mut self, journal: &mut Journal, disk: &RamDisk, rng: &mut fastrand::Rng) {
        for _ in 0..rng.usize(1..40) {
            if self.act(journal, disk, rng).is_none() {
                return;
            }
        }
    }

    fn act(&mut self, journal: &mut Journal, disk: &RamDisk, rng: &mut fastrand::Rng) -> Option<()> {
        match rng.u8(..16) {
            0 => journal.seal(),
            1 | 2 if journal.wants_spare() => {
                journal.add_spare(Spare::prepare(disk, journal.spare_size()).ok()?);
            }
            3 | 4 => {
                journal.commit(true).ok()?;
                self.synced = self.hot.len();
                let Some(number) = journal.sealed().front().map(|segment| segment.number()) else {
                    return Some(());
                };
                let moved = self.hot.partition_point(|(position, _)| position.segment() <= number);
                self.cold.insert(number, self.hot.drain(..moved).collect());
                self.synced = self.hot.len();
                self.replay_from = number + 1;
                journal.retire(number);
            }
            5 | 6 => {
                let Some(number) = self.cold.keys().copied().nth(rng.usize(..4)) else { return Some(()) };
                self.cold.remove(&number);
                journal.release(number).ok()?;
            }
            kind => {
                journal.begin(1000);
                for _ in 0..rng.usize(..5) {
                    let mut payload =
                        vec![rng.u8(..); if rng.u8(..40) == 0 { 5000 } else { rng.usize(4..500) }];
                    self.serial += 1;
                    payload[..4].copy_from_slice(&self.serial.to_le_bytes());
                    self.hot.push((journal.append(&payload).ok()?, payload));
                }
                let sync = kind > 8;
                journal.commit(sync).ok()?;
                if sync {
                    self.synced = self.hot.len();
                }
            }
        }
        Some(())
    }

    /// Holds what a restart gives against what should be there.
    fn check(&mut self, journal: &Journal, opened: &Opened, what: &str) {
        assert_eq!((&opened.report.corrupt, &opened.report.missing), (&vec![], &vec![]), "{what}");
        let got = records(&opened.hot);
        assert!(got.len() >= self.synced && got.len() <= self.hot.len(), "{what}");
        assert!(got.iter().zip(&self.hot).all(|((_, one), (_, other))| one == other), "{what}");
        self.synced = got.len();
        self.hot = got;
        for (position, payload) in self.cold.values().flatten() {
            let segment = journal.segment(position.segment()).unwrap();
            assert_eq!(segment.record(*position).unwrap(), *payload, "{what}");
        }
    }
}

#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_synced() {
    let (mut replayed, mut read_again) = (0, 0);
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = RamDisk::new();
        let mut model = Model::default();
        for round in 0..6 {
            let what = format!("seed {seed}, round {round}");
            disk.fail_after(rng.bool().then(|| rng.usize(..120)));
            let cold: Vec<u32> = model.cold.keys().copied().collect();
            match Journal::open(Arc::new(disk.clone()), OPTIONS, model.replay_from, &cold) {
                Ok((mut journal, opened)) => {
                    model.check(&journal, &opened, &what);
                    replayed += model.hot.len();
                    read_again += model.cold.len();
                    model.run(&mut journal, &disk, &mut rng);
                }
                Err(error) => assert!(matches!(error, OpenError::Io(..)), "{what}: {error}"),
            }
            disk = disk.crash(&mut rng);
        }
    }
    assert!(replayed > 1000 && read_again > 100, "{replayed} {read_again}");
}
