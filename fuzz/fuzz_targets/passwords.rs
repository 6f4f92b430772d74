//! Any bytes as a password file: they are refused with a line of it, or they are users whose hashes can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::auth::hash::Hash;
use weirmq::auth::passwords::Passwords;

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|byte| *byte == b'\n').count();
    match Passwords::parse(data) {
        Ok(passwords) => assert!(!passwords.is_empty() && passwords.len() <= lines),
        Err((line, reason)) => assert!(line <= lines && !reason.is_empty()),
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(hash) = Hash::parse(text) {
        assert_eq!(Hash::parse(&hash.encode()), Ok(hash));
    }
});
