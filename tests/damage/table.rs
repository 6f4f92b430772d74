//! The damages, and what is to come of each.

use std::fs;

use super::folder::{Folder, retained, rubbish};

/// What is to come of a damage.
#[derive(Clone, Copy)]
pub enum Then {
    /// Nothing is lost, and nothing is said.
    Sound,
    /// No message is lost, and it says that it has cut what was being written.
    Cuts,
    /// It starts, says all this, and counts it.
    Says(&'static [&'static str]),
    /// The same, and much may be gone that was not touched: what told whose it was.
    Gone(&'static [&'static str]),
    /// It does not start, and says all this in one line.
    Refuses(&'static [&'static str]),
}

use Then::*;

/// A damage by its name.
pub type Row = (&'static str, fn(&Folder), Then);

const DAMAGED: Then = Says(&[LOST, "a damaged file of the journal was set aside"]);
const ALL_GONE: Then = Gone(&[LOST, "a damaged file of the journal was set aside"]);
const UNREAD: Then = Says(&["a message on disk is damaged and is not delivered"]);
const LOST: &str = "the journal is damaged: what stood there is lost";
pub const MISSING: &str = "a segment of the journal is missing: what it held is lost";
pub const CUT: &str = "what was being written at the end was cut";
const INDEX: &str = "index.redb";
const NO_INDEX: Then = Refuses(&[INDEX, "move the file away: what is left is served then"]);
/// No segment of a broker's has come to this number.
const FREE: &str = "0000000077.seg";
const MIB: usize = 1 << 20;

/// Of a journal in three segments and more.
#[rustfmt::skip]
pub const JOURNAL: &[Row] = &[
    ("nothing", |_| {}, Sound),
    ("a byte in the middle of the first segment", |f| f.flip(0, MIB / 2), DAMAGED),
    ("a byte in the middle of the second segment", |f| f.flip(1, MIB / 2), DAMAGED),
    ("a byte near the end of a full segment", |f| f.flip(1, MIB - 40_000), DAMAGED),
    ("a byte of the last messages", |f| f.flip(-1, 20_000), DAMAGED),
    ("a thousand bytes, here and there", thousand_bytes, DAMAGED),
    ("a block of a disk, zeroed", |f| f.change(&f.segment(1), |bytes| bytes[409_600..413_696].fill(0)), DAMAGED),
    ("half of the header of a segment", |f| f.change(&f.segment(1), |bytes| bytes[..2048].fill(0)), Sound),
    ("the header of a segment", |f| f.header(1, 0xEE), DAMAGED),
    ("the header of the first segment", |f| f.header(0, 0), DAMAGED),
    ("the header of the last segment", |f| f.header(-1, 0), DAMAGED),
    ("every header", every_header, ALL_GONE),
    ("a segment cut in its middle", |f| f.change(&f.segment(1), |bytes| bytes.truncate(MIB / 2)), DAMAGED),
    ("a segment emptied", |f| f.write(&f.segment(1), b""), DAMAGED),
    ("the first segment emptied", |f| f.write(&f.segment(0), b""), ALL_GONE),
    ("every segment emptied", |f| (0..3).for_each(|n| f.write(&f.segment(n), b"")), ALL_GONE),
    ("a segment deleted", |f| f.remove(&f.segment(1)), Says(&[MISSING])),
    ("the first segment deleted", |f| f.remove(&f.segment(0)), Gone(&[MISSING])),
    ("a segment of rubbish", |f| f.write(&f.segment(1), &rubbish(MIB)), DAMAGED),
    ("a short segment of rubbish", |f| f.write(&f.segment(1), &rubbish(100)), DAMAGED),
    ("two segments swapped", swap, ALL_GONE),
    ("rubbish by the name of a segment to come", |f| f.write(FREE, &rubbish(MIB)), DAMAGED),
    ("a segment copied to another number", copy, DAMAGED),
    ("a folder in a segment's place", |f| f.make_folder(&f.segment(1)), Refuses(&["0000000002.seg", "move it away"])),
    ("a folder in the lock's place", |f| f.make_folder("lock"), Refuses(&["lock in the data folder", "directory"])),
    ("the lock deleted", |f| f.remove("lock"), Sound),
    ("rubbish in the lock", |f| f.write("lock", &rubbish(100)), Sound),
    ("files of somebody else's", strangers, Sound),
    ("spares and drafts of rubbish", leftovers, Sound),
    ("an index that is empty", |f| f.write(INDEX, b""), NO_INDEX),
    ("an index of rubbish", |f| f.write(INDEX, &rubbish(MIB)), NO_INDEX),
    ("a folder in the index's place", |f| f.make_folder(INDEX), Refuses(&[INDEX, "move it away"])),
];

/// Of a folder that a killed broker left.
#[rustfmt::skip]
pub const KILLED: &[Row] = &[
    ("nothing", |_| {}, Sound),
    ("the last byte", last_byte, Cuts),
    ("a byte in the middle", |f| f.flip(1, MIB / 2), DAMAGED),
];

/// Of a folder with an index that has taken in some of the journal.
#[rustfmt::skip]
pub const INDEXED: &[Row] = &[
    ("nothing", |_| {}, Sound),
    ("a byte of a retained message in the index", retained_byte, Refuses(&[INDEX, "damaged", "restore the folder"])),
    ("a byte of the index's head", |f| f.change(INDEX, |bytes| bytes[0] ^= 1), NO_INDEX),
    ("an index cut in its middle", |f| f.change(INDEX, |bytes| bytes.truncate(bytes.len() / 2)), NO_INDEX),
    ("an index that is empty", |f| f.write(INDEX, b""), NO_INDEX),
    ("an index half of rubbish", half_index, NO_INDEX),
    ("an index deleted", |f| f.remove(INDEX), Gone(&[])),
    ("a byte in a segment that the index has taken in", |f| f.flip(0, MIB / 2), UNREAD),
    ("the header of such a segment", |f| f.header(0, 0), Sound),
    ("such a segment cut", |f| f.change(&f.segment(0), |bytes| bytes.truncate(MIB / 2)), UNREAD),
    ("such a segment deleted", |f| f.remove(&f.segment(0)), Says(&[MISSING])),
    ("such a segment emptied", |f| f.write(&f.segment(0), b""), UNREAD),
    ("such a segment of rubbish", |f| f.write(&f.segment(0), &rubbish(MIB)), UNREAD),
    ("a byte in a segment that is to be replayed", |f| f.flip(-2, MIB / 2), DAMAGED),
    ("such a segment deleted", |f| f.remove(&f.segment(-2)), Says(&[MISSING])),
];

fn thousand_bytes(folder: &Folder) {
    let mut rng = fastrand::Rng::with_seed(7);
    folder.change(&folder.segment(1), |bytes| {
        (0..1000).for_each(|_| {
            let at = rng.usize(4096..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
        });
    });
}

fn every_header(folder: &Folder) {
    (0..3).for_each(|segment| folder.header(segment, 0));
}

fn swap(folder: &Folder) {
    let (first, second) = (folder.segment(0), folder.segment(1));
    folder.rename(&first, "kept");
    folder.rename(&second, &first);
    folder.rename("kept", &second);
}

fn copy(folder: &Folder) {
    fs::copy(folder.path(&folder.segment(1)), folder.path(FREE)).expect("copied");
}

fn strangers(folder: &Folder) {
    folder.write("notes.txt", b"mine");
    folder.write("0000000001.seg.bak", &rubbish(MIB));
    folder.write("1.seg", &rubbish(MIB));
    folder.write("0000000001-1.corrupt", &rubbish(MIB));
    folder.make_folder("lost+found");
}

fn leftovers(folder: &Folder) {
    for name in [
        "0000000077.spare",
        "fresh-1.spare",
        "0000000078.draft",
        "0000000001.repair",
        "0000000079.repair",
        "index.new",
    ] {
        folder.write(name, &rubbish(100_000));
    }
}

fn half_index(folder: &Folder) {
    folder.change(INDEX, |bytes| {
        let half = bytes.len() / 2;
        bytes[4096..half].copy_from_slice(&rubbish(half - 4096));
    });
}

/// Where it is read, nothing would tell that it is not as it was.
fn retained_byte(folder: &Folder) {
    let sought = &retained(0)[..];
    folder.change(INDEX, |bytes| {
        let mut found = 0;
        // An older page may hold it as well.
        while let Some(at) = bytes.windows(sought.len()).position(|window| window == sought) {
            bytes[at + 400] ^= 1;
            found += 1;
        }
        assert!(found > 0, "it is in the index");
    });
}

/// The last byte that the broker wrote.
fn last_byte(folder: &Folder) {
    folder.change(&folder.segment(-1), |bytes| {
        let at = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
        bytes[at] ^= 0x40;
    });
}
