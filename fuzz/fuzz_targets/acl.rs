//! ACL files: of any bytes, which are refused with a line that they have or answer every question to the same effect; and
//! built of few names, so that much matches, and held against the lists gone through from top to bottom.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::acl::{Acl, Who};
use weirmq::principal::Principal;
use weirmq::protocol::topic::{is_valid_filter, is_valid_name, matches};

const LEVELS: [&str; 8] = ["a", "b", "", "+", "#", "$SYS", "%u", "%c"];
const USERS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("+")];
const CLIENTS: [&str; 4] = ["a", "b", "a/b", "$SYS"];
const ACCESS: [&str; 4] = ["read", "write", "readwrite", "deny"];

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((choice, rest)) if choice & 1 == 0 => any_bytes(rest),
        Some((_, rest)) => built(rest),
        None => {}
    }
});

fn any_bytes(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == 0xFF);
    let mut name = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (user, topic, filter) = (name(), name(), name());
    let file = parts.next().unwrap_or_default();
    let acl = match Acl::from_bytes(file) {
        Ok(acl) => acl,
        Err((line, reason)) => {
            let lines = file.iter().filter(|byte| **byte == b'\n').count() + 1;
            return assert!((1..=lines).contains(&line) && !reason.is_empty());
        }
    };
    for principal in [Principal::ANONYMOUS, Principal::of_user(&*user)] {
        agrees(&acl, Who { principal: &principal, client_id: &user }, &topic, &filter);
    }
}

/// Who may read what a filter matches may subscribe to it, and who may read all of it may read each.
fn agrees(acl: &Acl, who: Who<'_>, topic: &str, filter: &str) {
    let _ = acl.may_connect(who);
    if !is_valid_name(topic) {
        return;
    }
    let reads = acl.may_read(who, topic);
    let _ = acl.may_write(who, topic);
    if is_valid_filter(filter) && matches(filter, topic) {
        assert!(acl.reads_some(who, filter) || !reads);
        assert!(reads || !acl.reads_all(who, filter));
    }
}

/// A line of a file: whose list it is in (`None`: the patterns), what it grants, and its filter.
struct Line {
    owner: Option<Option<&'static str>>,
    access: usize,
    filter: String,
}

/// Levels as the bytes say, one to four of them.
fn levels(bytes: [u8; 2], of: usize) -> String {
    let [first, second] = bytes;
    let at = [first & 7, first >> 3 & 7, second & 7, second >> 3 & 7];
    let count = 1 + usize::from(first >> 6);
    at[..count].iter().map(|level| LEVELS[usize::from(*level) % of]).collect::<Vec<_>>().join("/")
}

fn built(bytes: &[u8]) {
    let Some((&[who, a, b, c, d], rest)) = bytes.split_first_chunk() else { return };
    let (user, client_id) = (USERS[usize::from(who) % 4], CLIENTS[usize::from(who >> 2) % 4]);
    let topic = levels([a, b], 3).replacen("b", if who & 0x40 != 0 { "$SYS" } else { "b" }, 1);
    let filter = levels([c, d], 6);
    let (mut text, mut lines) = (String::new(), Vec::new());
    let mut owner = None;
    for chunk in rest.chunks_exact(3) {
        let access = usize::from(chunk[0] >> 4) % 4;
        let entry = levels([chunk[1], chunk[2]], 8);
        match chunk[0] % 8 {
            0 => {
                owner = USERS[1 + usize::from(chunk[0] >> 4) % 3];
                text += &format!("user {}\n", owner.unwrap_or_default());
            }
            1..=4 => {
                text += &format!("topic {} {entry}\n", ACCESS[access]);
                lines.push(Line { owner: Some(owner), access, filter: entry });
            }
            5 => text += "# a comment\r\n\n",
            _ => {
                text += &format!("pattern {} {entry}\n", ACCESS[access]);
                lines.push(Line { owner: None, access, filter: entry });
            }
        }
    }
    let acl = match Acl::from_bytes(text.as_bytes()) {
        Ok(acl) => acl,
        Err((line, reason)) => {
            let odd = text.lines().nth(line - 1).and_then(|line| line.split(' ').nth(2));
            return assert!(odd.is_some_and(|filter| !is_valid_filter(filter)), "{line}: {reason}\n{text}");
        }
    };
    let principal = user.map_or(Principal::ANONYMOUS, Principal::of_user);
    let who = Who { principal: &principal, client_id };
    agrees(&acl, who, &topic, &filter);
    if !is_valid_name(&topic) {
        return;
    }
    let own = grants(lines.iter().filter(|line| line.owner == Some(user)), &topic, None);
    let all = grants(lines.iter().filter(|line| line.owner.is_none()), &topic, Some((user, client_id)));
    let expected = match (own, all) {
        (None, _) => (false, false),
        (Some(own), None) => own,
        (Some(own), Some(all)) => (own.0 | all.0, own.1 | all.1),
    };
    assert_eq!((acl.may_read(who, &topic), acl.may_write(who, &topic)), expected, "{topic} {user:?}\n{text}");
}

/// What a list says: what may be read and written; `None` if that is denied. In patterns names stand for levels.
fn grants<'a>(
    lines: impl Iterator<Item = &'a Line>,
    topic: &str,
    names: Option<(Option<&str>, &str)>,
) -> Option<(bool, bool)> {
    let mut granted = (false, false);
    for line in lines {
        if !holds(&line.filter, topic, names) {
            continue;
        }
        match line.access {
            0 => granted.0 = true,
            1 => granted.1 = true,
            2 => granted = (true, true),
            _ => return None,
        }
    }
    Some(granted)
}

fn holds(filter: &str, topic: &str, names: Option<(Option<&str>, &str)>) -> bool {
    let Some((user, client_id)) = names else { return matches(filter, topic) };
    let plain = |name: &&str| !name.contains(['+', '#', '/']);
    // No name gets at the topics of the server.
    if topic.starts_with('$') && filter.starts_with('%') {
        return false;
    }
    let level = |level| match level {
        "%u" => user.filter(plain),
        "%c" => Some(client_id).filter(plain),
        other => Some(other),
    };
    let levels: Option<Vec<&str>> = filter.split('/').map(level).collect();
    levels.is_some_and(|levels| matches(&levels.join("/"), topic))
}
