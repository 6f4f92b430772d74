//! The store: records of any bytes, journals of any content whose checksums hold, the journal of a store with any bytes
//! changed, and a store that is used and crashes, held against a model. The first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../tests/store/bytes.rs"]
mod bytes;
mod forged;
mod history;
mod records;
#[path = "../../../tests/common/sim_disk.rs"]
mod sim_disk;

/// The wall clock.
const WALL: u64 = 1_800_000_000_000;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    match choice % 8 {
        0 | 1 => records::decodes(rest),
        2..=4 => forged::opens(rest),
        5 => bytes::opens_changed(rest),
        _ => {
            let mut history = history::History::new(choice / 8);
            rest.chunks_exact(2).for_each(|operation| history.act(operation[0], operation[1]));
            history.finish();
        }
    }
});
