//! The PROXY header on any bytes: what is a header is one by itself, no part of it is, and none is waited for beyond the
//! longest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::net::proxy::{MAX_SIZE, parse};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Some(header)) => {
            assert_eq!(parse(&bytes[..header.size]), Ok(Some(header)));
            for size in 0..header.size {
                assert_eq!(parse(&bytes[..size]), Ok(None));
            }
        }
        Ok(None) => assert!(bytes.len() < MAX_SIZE),
        Err(_) => {}
    }
});
