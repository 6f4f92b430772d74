//! The session machine on any operations: each two bytes are one, against the same model as in the tests.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/session_driver.rs"]
mod session_driver;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, operations)) = data.split_first() else { return };
    let mut driver = session_driver::Driver::new(choice);
    for operation in operations.chunks_exact(2) {
        driver.step(operation[0], operation[1]);
    }
    driver.finish();
});
