//! The disk that other tests trust to lose what disks lose, and nothing else.
#![allow(missing_docs)]

mod common {
    pub mod sim_disk;
}

use std::collections::BTreeSet;
use std::sync::Arc;

use common::sim_disk::{EIO, ENOSPC, Outage, SimDisk};
use weirmq::store::disk::{Disk, File, Space};

const SEEDS: u64 = 200;

fn disk() -> SimDisk {
    SimDisk::new(1, 1 << 20)
}

fn file(disk: &SimDisk, name: &str) -> Arc<dyn File> {
    let file = disk.create(name).unwrap();
    disk.sync().unwrap();
    file
}

fn bytes(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_was_synced_outlives_every_outage() {
    for seed in 0..SEEDS {
        let disk = disk();
        let written = file(&disk, "a");
        written.write_at(&[7; 3000], 0).unwrap();
        written.sync().unwrap();
        let disk = disk.reboot(Outage::Kill).reboot(Outage::Power(seed));
        assert_eq!(bytes(&disk, "a"), [7; 3000]);
    }
}

#[test]
fn a_killed_process_leaves_what_it_wrote_and_a_power_failure_any_sectors_of_it() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = disk();
        let written = file(&disk, "a");
        written.write_at(&[1; 1536], 0).unwrap();
        written.sync().unwrap();
        written.write_at(&[2; 1536], 0).unwrap();
        let disk = disk.reboot(Outage::Kill);
        assert_eq!(bytes(&disk, "a"), [2; 1536]);
        let found = bytes(&disk.reboot(Outage::Power(seed)), "a");
        assert_eq!(found.len(), 1536);
        let sectors: Vec<u8> = found.chunks(512).map(|sector| sector[0]).collect();
        assert!(
            found.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])),
            "sectors are whole"
        );
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 8, "every combination comes: {seen:?}");
}

#[test]
fn what_was_written_twice_may_be_there_as_it_first_was() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed, 1 << 20);
        let written = file(&disk, "a");
        for value in 1..=3 {
            written.write_at(&[value; 512], 0).unwrap();
        }
        seen.insert(bytes(&disk.reboot(Outage::Power(seed)), "a").first().copied());
    }
    assert_eq!(seen, BTreeSet::from([None, Some(0), Some(1), Some(2), Some(3)]));
}

#[test]
fn names_hold_with_a_sync_of_the_folder_only() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = disk();
        drop(file(&disk, "old"));
        drop(file(&disk, "gone"));
        disk.create("new").unwrap();
        disk.rename("old", "moved").unwrap();
        disk.remove("gone").unwrap();
        seen.insert(disk.reboot(Outage::Power(seed)).names().unwrap());
    }
    assert_eq!(seen.len(), 8, "every combination comes: {seen:?}");
}

#[test]
fn a_file_that_takes_the_name_of_another_replaces_it_or_does_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = disk();
        for (name, byte) in [("a", 1), ("b", 2)] {
            let file = file(&disk, name);
            file.write_at(&[byte], 0).unwrap();
            file.sync().unwrap();
        }
        disk.rename("b", "a").unwrap();
        let disk = disk.reboot(Outage::Power(seed));
        seen.insert((disk.names().unwrap().len(), bytes(&disk, "a")));
    }
    assert_eq!(seen, BTreeSet::from([(1, vec![2]), (2, vec![1])]));
}

#[test]
fn a_file_that_was_cut_is_short_and_what_comes_after_is_zero() {
    for seed in 0..SEEDS {
        let disk = disk();
        let written = file(&disk, "a");
        written.write_at(&[9; 2000], 0).unwrap();
        written.sync().unwrap();
        written.set_len(700).unwrap();
        written.set_len(1500).unwrap();
        let expected = [&[9; 700][..], &[0; 800]].concat();
        assert_eq!(bytes(&disk, "a"), expected);
        if seed % 2 == 0 {
            written.sync().unwrap();
            assert_eq!(bytes(&disk.reboot(Outage::Power(seed)), "a"), expected);
        } else {
            let found = bytes(&disk.reboot(Outage::Power(seed)), "a");
            assert_eq!(&found[..512], &expected[..512]);
        }
    }
}

#[test]
fn a_crash_comes_in_the_call_that_it_was_armed_for_and_stays() {
    let disk = disk();
    let written = file(&disk, "a");
    disk.crash_at(disk.calls() + 2);
    written.write_at(&[1], 0).unwrap();
    assert!(written.sync().is_err() && disk.is_down());
    assert!(written.write_at(&[1], 0).is_err() && written.len().is_err() && disk.names().is_err());
    assert_eq!(disk.calls(), 4, "nothing counts that comes after");
    let next = disk.reboot(Outage::Power(0));
    assert!(written.sync().is_err() && disk.names().is_err(), "the process that was there is gone");
    next.open("a").unwrap().sync().unwrap();
}

#[test]
fn an_error_comes_once_and_a_sync_that_failed_has_lost_what_it_was_for() {
    let disk = disk();
    let written = file(&disk, "a");
    written.write_at(&[1; 512], 0).unwrap();
    disk.fail_at(disk.calls() + 1, EIO);
    assert_eq!(written.sync().unwrap_err().raw_os_error(), Some(EIO));
    written.sync().unwrap();
    assert_eq!(bytes(&disk, "a"), [1; 512]);
    assert_eq!(bytes(&disk.reboot(Outage::Power(0)), "a"), [0; 512]);
}

#[test]
fn a_full_disk_takes_nothing_more_until_there_is_room() {
    let disk = SimDisk::new(1, 1000);
    let written = file(&disk, "a");
    written.write_at(&[1; 600], 0).unwrap();
    assert_eq!(disk.space().unwrap(), Space { free: 400, total: 1000 });
    let other = file(&disk, "b");
    assert_eq!(other.set_len(401).unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(other.write_at(&[1; 401], 0).unwrap_err().raw_os_error(), Some(ENOSPC));
    written.write_at(&[2; 600], 0).unwrap();
    disk.remove("a").unwrap();
    other.write_at(&[1; 401], 0).unwrap();
    disk.resize(0);
    assert_eq!(disk.space().unwrap().free, 0);
}
