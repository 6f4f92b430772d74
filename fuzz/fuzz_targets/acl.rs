//! ACL files of any bytes: each is refused with a line that it has, or it answers every question, and to the same effect:
//! who may read what a filter matches may subscribe to it, and who may read all of it may read each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::acl::{Acl, Who};
use weirmq::principal::Principal;
use weirmq::protocol::topic::{is_valid_filter, is_valid_name, matches};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(4, |byte| *byte == 0xFF);
    let mut name = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (user, topic, filter) = (name(), name(), name());
    let file = parts.next().unwrap_or_default();
    let acl = match Acl::from_bytes(file) {
        Ok(acl) => acl,
        Err((line, _)) => {
            let lines = file.iter().filter(|byte| **byte == b'\n').count() + 1;
            return assert!((1..=lines).contains(&line));
        }
    };
    for principal in [Principal::ANONYMOUS, Principal::of_user(&*user)] {
        let who = Who { principal: &principal, client_id: &user };
        let _ = acl.may_connect(who);
        if !is_valid_name(&topic) {
            continue;
        }
        let reads = acl.may_read(who, &topic);
        let _ = acl.may_write(who, &topic);
        if is_valid_filter(&filter) && matches(&filter, &topic) {
            assert!(acl.reads_some(who, &filter) || !reads);
            assert!(reads || !acl.reads_all(who, &filter));
        }
    }
});
