//! The journal while it runs: what is appended is read again, now and after a restart; segments roll, seal, retire, are
//! released and used again; a disk without room, and one that fails.

use std::sync::Arc;

use super::Position;
use super::disk::Disk;
use super::frame::{Mark, framed};
use super::header::HEADER;
use super::journal::{CommitError, Journal, JournalOptions};
use super::ramdisk::RamDisk;
use super::recovery::{Opened, Report};
use super::segment::{Entry, Segment, Spare};

pub(super) const OPTIONS: JournalOptions = JournalOptions { segment_size: HEADER + 2048, spares: 2, salt: 7 };

pub(super) fn open(disk: &RamDisk, replay_from: u32, cold: &[u32]) -> (Journal, Opened) {
    Journal::open(Arc::new(disk.clone()), OPTIONS, replay_from, cold).unwrap()
}

/// One batch of records.
pub(super) fn commit(journal: &mut Journal, wall: u64, records: &[&[u8]]) -> Vec<Position> {
    journal.begin(wall);
    let positions = records.iter().map(|record| journal.append(record).unwrap()).collect();
    journal.commit(true).unwrap();
    positions
}

/// All records of segments.
pub(super) fn records<'a>(segments: impl IntoIterator<Item = &'a Arc<Segment>>) -> Vec<(Position, Vec<u8>)> {
    let mut all = Vec::new();
    for segment in segments {
        let mut records = segment.records();
        while let Some(entry) = records.next_entry().unwrap() {
            if let Entry::Record(position, payload) = entry {
                assert_eq!(segment.record(position).unwrap(), payload);
                all.push((position, payload.to_vec()));
            }
        }
    }
    all
}

pub(super) fn payloads(opened: &Opened) -> Vec<Vec<u8>> {
    records(&opened.hot).into_iter().map(|(_, payload)| payload).collect()
}

#[test]
fn nothing_is_made_before_the_first_record() {
    let disk = RamDisk::new();
    let (mut journal, opened) = open(&disk, 0, &[]);
    assert!(opened.hot.is_empty() && !journal.wants_spare());
    journal.begin(5);
    journal.commit(true).unwrap();
    assert!(disk.list().is_empty());
    commit(&mut journal, 6, &[b"one"]);
    assert_eq!(disk.list(), ["0000000001.seg"]);
    assert!(journal.wants_spare());
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    commit(&mut journal, 5, &[b"one", b"", b"three"]);
    let position = commit(&mut journal, 6, &[&[9; 300]])[0];
    assert_eq!(journal.segment(1).unwrap().record(position).unwrap(), [9; 300]);
    let (_, opened) = open(&disk, 0, &[]);
    assert_eq!(payloads(&opened), [&b"one"[..], b"", b"three", &[9; 300]]);
    assert_eq!((opened.last_wall, &opened.report), (6, &Report::default()));
}

#[test]
fn a_record_is_read_by_no_other_position() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let positions = commit(&mut journal, 5, &[b"one", b"two"]);
    let segment = journal.segment(1).unwrap();
    for offset in (0..segment.file_len() as u32 + 16).chain([u32::MAX]) {
        let position = Position::new(1, offset);
        assert_eq!(segment.record(position).is_ok(), positions.contains(&position), "{offset}");
    }
    assert!(segment.record(Position::new(2, positions[0].offset())).is_err());
}

#[test]
fn a_batch_goes_on_in_the_next_segment() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let many: Vec<Vec<u8>> = (0..20).map(|number| vec![number; 300]).collect();
    let many: Vec<&[u8]> = many.iter().map(|record| &record[..]).collect();
    let positions = commit(&mut journal, 5, &many);
    assert!(positions.is_sorted() && positions[19].segment() > 2);
    assert_eq!(journal.sealed().len() as u32, positions[19].segment() - 1);
    let (_, opened) = open(&disk, 0, &[]);
    assert_eq!(payloads(&opened), many);
    assert_eq!(opened.report, Report::default());
}

#[test]
fn an_oversize_record_gets_a_segment_of_its_own() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let large = vec![3; 3_000_000];
    let positions = commit(&mut journal, 5, &[b"before", &large, b"after"]);
    assert_eq!(positions.iter().map(|position| position.segment()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(journal.segment(2).unwrap().record(positions[1]).unwrap(), large);
    commit(&mut journal, 6, &[b"end"]);
    let (_, opened) = open(&disk, 0, &[]);
    assert_eq!(payloads(&opened), [&b"before"[..], &large, b"after", b"end"]);
    assert_eq!(opened.report, Report::default());
}

#[test]
fn nothing_is_appended_to_an_old_segment() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    commit(&mut journal, 5, &[b"one"]);
    let mut highest = 1;
    for number in 0..5 {
        let (mut journal, opened) = open(&disk, 0, &[]);
        assert_eq!(payloads(&opened).len(), 1 + number);
        let position = commit(&mut journal, 6, &[b"more"])[0];
        assert!(position.segment() > highest);
        assert!(opened.hot.iter().all(|segment| segment.number() < position.segment()));
        highest = position.segment();
    }
}

#[test]
fn a_sealed_segment_retires_and_its_file_is_used_again() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let old = commit(&mut journal, 5, &[b"old record one", b"old record two"]);
    journal.seal();
    commit(&mut journal, 6, &[b"next"]);
    journal.retire(1);
    assert_eq!(journal.sealed().len(), 0);
    assert_eq!(journal.segment(1).unwrap().record(old[1]).unwrap(), b"old record two");
    journal.release(1).unwrap();
    assert_eq!(disk.list(), ["0000000001.spare", "0000000002.seg"]);
    assert!(journal.segment(1).is_none());
    journal.seal();
    // The old frames are still there behind the new one, and are read by nobody.
    let position = commit(&mut journal, 7, &[b"new"])[0];
    assert_eq!(disk.list(), ["0000000002.seg", "0000000003.seg"]);
    let segment = journal.segment(3).unwrap();
    assert!(disk.read("0000000003.seg").windows(14).any(|bytes| bytes == b"old record two"));
    assert_eq!(segment.record(position).unwrap(), b"new");
    for offset in (0..segment.file_len() as u32).filter(|offset| *offset != position.offset()) {
        assert!(segment.record(Position::new(3, offset)).is_err());
    }
    let (_, opened) = open(&disk, 2, &[]);
    assert_eq!(payloads(&opened), [&b"next"[..], b"new"]);
    assert_eq!(opened.report, Report::default());
}

#[test]
fn a_file_that_somebody_reads_is_not_used_again() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let old = commit(&mut journal, 5, &[b"old"]);
    journal.seal();
    commit(&mut journal, 6, &[b"next"]);
    journal.retire(1);
    let reader = journal.segment(1).unwrap();
    journal.release(1).unwrap();
    assert_eq!(disk.list(), ["0000000002.seg"]);
    assert_eq!(reader.record(old[0]).unwrap(), b"old");
}

#[test]
fn cold_segments_are_opened_and_what_nobody_refers_to_is_removed() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let mut positions = Vec::new();
    for record in [b"one", b"two", b"six", b"ten"] {
        positions.extend(commit(&mut journal, 5, &[record]));
        journal.seal();
    }
    disk.put("notes.txt", b"mine".to_vec());
    disk.put("1.seg", b"mine".to_vec());
    let (journal, opened) = open(&disk, 4, &[2, 3]);
    assert_eq!(payloads(&opened), [b"ten"]);
    assert_eq!(opened.cold.iter().map(|segment| segment.number()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(records(&opened.cold).len(), 2);
    assert_eq!(journal.segment(2).unwrap().record(positions[1]).unwrap(), b"two");
    assert!(!disk.list().contains(&"0000000001.seg".to_owned()));
    assert!(disk.list().contains(&"notes.txt".to_owned()) && disk.list().contains(&"1.seg".to_owned()));
    let (_, opened) = open(&disk, 9, &[2, 8]);
    assert_eq!(opened.report.missing, [8]);
}

#[test]
fn numbers_are_not_given_again() {
    let disk = RamDisk::new();
    let (mut journal, opened) = open(&disk, 9, &[]);
    assert_eq!(opened.report, Report::default());
    assert_eq!(commit(&mut journal, 5, &[b"one"])[0].segment(), 9);
    let (_, opened) = open(&disk, 9, &[]);
    assert_eq!(opened.report, Report::default());
    assert_eq!(payloads(&opened), [b"one"]);
}

#[test]
fn a_spare_is_taken_when_the_segment_is_full() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    commit(&mut journal, 5, &[b"one"]);
    while journal.wants_spare() {
        journal.add_spare(Spare::prepare(&disk, journal.spare_size()).unwrap());
    }
    assert_eq!(disk.list(), ["0000000001.seg", "fresh-0.spare", "fresh-1.spare"]);
    disk.limit(Some(0));
    // From here on there is no room for another file, and none is needed.
    let record = [1; 492];
    assert!(journal.has_room(6 * framed(record.len())));
    journal.begin(6);
    for _ in 0..6 {
        journal.append(&record).unwrap();
    }
    journal.commit(true).unwrap();
    assert!(!journal.has_room(OPTIONS.segment_size * 3));
    let mut more = 0;
    journal.begin(7);
    let error = loop {
        match journal.append(&record) {
            Ok(_) => more += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::NoRoom(_)), "{error}");
    journal.commit(true).unwrap();
    // Room was made.
    disk.limit(None);
    journal.begin(8);
    journal.append(&record).unwrap();
    journal.commit(true).unwrap();
    let (_, opened) = open(&disk, 0, &[]);
    assert_eq!(payloads(&opened).len(), 1 + 6 + more + 1);
    assert_eq!(opened.report, Report::default());
}

#[test]
fn a_failed_sync_is_final_and_not_tried_again() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    commit(&mut journal, 5, &[b"one"]);
    journal.begin(6);
    journal.append(b"two").unwrap();
    disk.fail_after(Some(1));
    assert!(matches!(journal.commit(true), Err(CommitError::Final(_))));
    disk.fail_after(None);
    let steps = disk.steps();
    assert!(matches!(journal.commit(true), Err(CommitError::Final(_))));
    assert!(matches!(journal.append(b"three"), Err(CommitError::Final(_))));
    assert_eq!(disk.steps(), steps);
}

#[test]
fn what_is_not_synced_is_not_vouched_for() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    let first = commit(&mut journal, 5, &[b"one"])[0];
    for wall in 6..9 {
        journal.begin(wall);
        journal.append(b"more").unwrap();
        journal.commit(false).unwrap();
    }
    let mut marks = Vec::new();
    let mut records = journal.segment(1).unwrap().records();
    while let Some(entry) = records.next_entry().unwrap() {
        if let Entry::Mark(Mark { durable, wall, sequence }) = entry {
            marks.push((sequence, wall, durable));
        }
    }
    let end = Position(first.0 + framed(3));
    assert_eq!(marks, [(0, 5, Position(0)), (1, 6, end), (2, 7, end), (3, 8, end)]);
    // A sync makes all of it durable.
    journal.commit(true).unwrap();
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(1));
    assert_eq!(payloads(&open(&crashed, 0, &[]).1).len(), 4);
}

#[test]
fn counts_the_bytes_of_its_files() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    commit(&mut journal, 5, &[b"one"]);
    assert_eq!(journal.hot_bytes(), HEADER + framed(Mark::LEN) + framed(3));
    journal.seal();
    commit(&mut journal, 5, &[b"one"]);
    assert_eq!(journal.hot_bytes(), OPTIONS.segment_size + HEADER + framed(Mark::LEN) + framed(3));
    journal.retire(1);
    assert_eq!(journal.hot_bytes(), HEADER + framed(Mark::LEN) + framed(3));
    journal.add_spare(Spare::prepare(&disk, 100).unwrap());
    let files: u64 = disk.list().iter().map(|name| Disk::open(&disk, name).unwrap().len().unwrap()).sum();
    assert_eq!(journal.bytes(), files);
}

#[test]
fn old_frames_in_a_file_that_is_used_again_are_no_torn_tail() {
    let disk = RamDisk::new();
    let (mut journal, _) = open(&disk, 0, &[]);
    commit(&mut journal, 5, &[b"old record one", b"old record two"]);
    journal.seal();
    commit(&mut journal, 6, &[b"next"]);
    journal.retire(1);
    journal.release(1).unwrap();
    journal.seal();
    // The file is taken, and the process ends before anything is written to it; or just after something was.
    journal.begin(7);
    journal.append(b"new").unwrap();
    for written in [&[&b"next"[..]][..], &[b"next", b"new"]] {
        let (_, opened) = open(&disk.copy(), 2, &[]);
        assert_eq!(payloads(&opened), written);
        assert_eq!(opened.report, Report::default());
        journal.commit(true).unwrap();
    }
}
