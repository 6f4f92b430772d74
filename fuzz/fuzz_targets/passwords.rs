//! Password files: of any bytes, which are refused with a line of theirs; and of hashes that are built, which are read if
//! and only if they are within the bounds, and are written again as they were.
#![no_main]

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use libfuzzer_sys::fuzz_target;
use weirmq::auth::hash::{Hash, MOST_MEMORY};
use weirmq::auth::passwords::Passwords;

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((choice, rest)) if choice & 1 == 0 => any_bytes(rest),
        Some((_, rest)) => built(rest),
        None => {}
    }
});

fn any_bytes(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    match Passwords::parse(data) {
        Ok(passwords) => assert!(!passwords.is_empty() && passwords.len() <= lines),
        Err((line, reason)) => assert!(line <= lines && !reason.is_empty()),
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(hash) = Hash::parse(text) {
        is_whole(&hash);
    }
}

/// It costs no more than it may, and is written as it is read.
fn is_whole(hash: &Hash) {
    assert!(hash.memory() <= 1024 * MOST_MEMORY as usize && hash.cost() <= 3_000_000);
    assert_eq!(Hash::parse(&hash.encode()).as_ref(), Ok(hash));
    assert_eq!(hash.nobodys().cost(), hash.cost());
    assert_ne!(hash.mark(), 0);
}

/// A file with a user a hash, of which each byte of the input tells something.
fn built(bytes: &[u8]) {
    let (mut file, mut users, mut wrong) = (String::new(), 0, 0);
    for (index, piece) in bytes.chunks(10).enumerate() {
        let &[kind, salt, len, fill, a, b, c, passes, lanes, user] = piece else { break };
        let (salt, len) = (usize::from(salt) % 72, if len < 200 { 64 } else { usize::from(len) % 80 });
        let number = u32::from_le_bytes([a, b, c, 0]);
        let hash = vec![fill; len];
        let (salt, is_salt) = (vec![fill; salt], (8..=64).contains(&salt));
        let padded = (BASE64_STANDARD.encode(&salt), BASE64_STANDARD.encode(&hash));
        let plain = (BASE64_STANDARD_NO_PAD.encode(&salt), BASE64_STANDARD_NO_PAD.encode(&hash));
        let (text, is_right) = match kind % 3 {
            0 => (format!("$6${}${}", padded.0, padded.1), len == 64),
            1 => (
                format!("$7${number}${}${}", padded.0, padded.1),
                len == 64 && (1..=2_000_000).contains(&number),
            ),
            _ => {
                let memory = number % (MOST_MEMORY + 16);
                let (t, p) = (u32::from(passes) % 8, u32::from(lanes) % 20);
                let fits = (1..=16).contains(&p) && memory >= 8 * p && memory <= MOST_MEMORY && t > 0;
                let work = u64::from(memory) * u64::from(t) <= 1 << 20;
                let text = format!("$argon2id$v=19$m={memory},t={t},p={p}${}${}", plain.0, plain.1);
                (text, fits && work && (16..=64).contains(&len))
            }
        };
        let parsed = Hash::parse(&text);
        assert_eq!(parsed.is_ok(), is_right && is_salt, "{text}: {parsed:?}");
        if let Ok(hash) = &parsed {
            is_whole(hash);
            assert_eq!(hash.encode(), text);
            users += 1;
        } else if wrong == 0 {
            wrong = index + 1;
        }
        file += &format!("user{index}-{user}:{text}\r\n");
    }
    match Passwords::parse(file.as_bytes()) {
        Ok(passwords) => assert!(wrong == 0 && passwords.len() == users),
        Err((line, _)) => assert_eq!(line, wrong),
    }
}
