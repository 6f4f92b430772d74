//! The store on any bytes: as a record, as a journal, and as changes to a journal that it wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/store/bytes.rs"]
mod bytes;
#[path = "../../tests/common/sim_disk.rs"]
mod sim_disk;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    match choice % 3 {
        0 => bytes::decodes(rest),
        1 => bytes::opens(rest),
        _ => bytes::opens_changed(rest),
    }
});
