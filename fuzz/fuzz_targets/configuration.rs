//! Configuration files: of any text, and of the lines of the documented one, some left out, doubled, moved, changed or given
//! other values. Each is refused with its place, or what comes of it is within the bounds that are documented.
#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use weirmq::config::{Bind, Config, MAX_SHARDS, SMALLEST_SEGMENT};

const DOCUMENTED: &str = include_str!("../../config/weirmq.toml");

const VALUES: [&str; 24] = [
    "0",
    "1",
    "-1",
    "65536",
    "18446744073709551615",
    "9223372036854775808",
    "1.5",
    "true",
    "\"\"",
    "\"*\"",
    "\"#\"",
    "\"a/+\"",
    "\"0s\"",
    "\"99999999999999999999s\"",
    "\"18446744073709551615TiB\"",
    "\"1 KiB\"",
    "\"never\"",
    "\"0.0.0.0:0\"",
    "\"unix:/x\"",
    "\"[::1]:1883\"",
    "[]",
    "[\"10.0.0.0/8\", 1]",
    "{ a = 1 }",
    "1979-05-27",
];

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((choice, rest)) if choice & 1 == 0 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                loads(text);
            }
        }
        Some((_, rest)) => loads(&built(rest)),
        None => {}
    }
});

/// The settings that are documented, tables and keys, without the marks that make them comments.
fn settings() -> &'static [&'static str] {
    static SETTINGS: OnceLock<Vec<&'static str>> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let setting = |line: &'static str| {
            let line = line.strip_prefix("#| ").or(line.strip_prefix('#')).unwrap_or(line);
            line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[').then_some(line)
        };
        DOCUMENTED.lines().filter_map(setting).collect()
    })
}

/// Two bytes a line: which, and what becomes of it.
fn built(bytes: &[u8]) -> String {
    let settings = settings();
    let (mut text, mut next) = (String::new(), 0);
    for (line, change) in bytes.chunks_exact(2).map(|pair| (usize::from(pair[0]), pair[1])) {
        // Mostly those that follow, so that keys stand in their tables.
        next = if line < 128 { next + line % 4 } else { line - 128 } % settings.len();
        let setting = settings[next];
        next += 1;
        match (change, setting.split_once(" = ")) {
            (0..100, _) | (_, None) => text += setting,
            (100..220, Some((key, _))) => {
                text += &format!("{key} = {}", VALUES[usize::from(change) % VALUES.len()]);
            }
            (220..250, Some((key, value))) => {
                let at = value.floor_char_boundary(usize::from(change) % value.len());
                text += &format!("{key} = {}", &value[..at]);
            }
            (_, Some((_, value))) => text += &format!("unknown = {value}"),
        }
        text.push('\n');
    }
    text
}

/// A file that is written anew each time, and a name for it: it has none of its own, so that it is gone with the process.
fn file() -> &'static (File, PathBuf) {
    static FILE: OnceLock<(File, PathBuf)> = OnceLock::new();
    FILE.get_or_init(|| {
        // In memory, for a disk would be written to each time.
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = folder.join(format!("weirmq-fuzz-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
        std::fs::remove_file(path).expect("it is there");
        let name = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        (file, name)
    })
}

fn loads(text: &str) {
    // A file that never ends, or that is waited for, is the operator's own doing.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let (file, path) = file();
    file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0)).expect("a disk");
    match Config::load(std::slice::from_ref(path), []) {
        Ok(config) => {
            is_valid(&config);
            // Said twice, it is the same. (Once in a while: it takes three times as long.)
            if text.len().is_multiple_of(16) {
                assert_eq!(Config::load(&[path.clone(), path.clone()], []).as_ref(), Ok(&config));
            }
        }
        Err(error) => {
            let said = error.to_string();
            let place = said.strip_prefix(&*path.to_string_lossy());
            let place = place.unwrap_or_else(|| panic!("no place in {said:?} about\n{text}"));
            assert!(place.starts_with(':') && place.len() > 2, "{said}");
            // Of which line, if it says so.
            let mut numbers = place[1..].splitn(3, ':');
            if let Some(line) = numbers.next().and_then(|line| line.parse::<usize>().ok()) {
                assert!((1..=text.split('\n').count()).contains(&line), "{said}\n{text}");
            }
        }
    }
}

fn is_valid(config: &Config) {
    assert!((1..=MAX_SHARDS).contains(&config.shards) && !config.data_dir.as_os_str().is_empty());
    assert!(config.store.segment_size >= SMALLEST_SEGMENT);
    assert!(config.store.max_size.is_none_or(|most| most >= 8 * u64::from(config.store.segment_size)));
    assert!((1..=16).contains(&config.auth.threads) && !config.sys_interval.is_zero());
    assert!(!config.listeners.is_empty());
    for (index, listener) in config.listeners.iter().enumerate() {
        let is_certified = listener.tls.as_ref().is_some_and(|tls| tls.identity_from.is_some());
        assert!(listener.allow_anonymous || config.auth.has_users() || is_certified, "nobody could log in");
        let others = config.listeners[..index].iter().map(|other| &other.bind);
        let is_free = |bind: &Bind| matches!(bind, Bind::Tcp(address) if address.port() == 0);
        assert!(is_free(&listener.bind) || others.into_iter().all(|other| *other != listener.bind));
        if let Some(proxies) = &listener.proxies {
            assert_eq!(proxies.is_empty(), matches!(listener.bind, Bind::Unix { .. }), "anybody is believed");
        }
        let origins = listener.websocket.as_ref().and_then(|websocket| websocket.origins.as_ref());
        assert!(origins.is_none_or(|origins| !origins.is_empty()));
        if let Some(tls) = &listener.tls {
            let needs_ca = tls.require_client_cert || tls.client_crl.is_some() || tls.identity_from.is_some();
            assert!(!tls.certificates.is_empty() && (tls.client_ca.is_some() || !needs_ca));
        }
    }
    let limits = &config.limits;
    assert!(limits.max_inflight > 0 && limits.receive_maximum > 0 && limits.topic_levels > 0);
    assert!(limits.connect_packet_size >= 128 && limits.max_packet_size >= 128);
    assert!((1..=65_535).contains(&limits.topic_length) && (23..=65_535).contains(&limits.client_id_length));
    assert!(config.queues.iter().filter(|rule| rule.filter == "#").count() == 1);
    assert!(config.shared_subscriptions.iter().filter(|rule| rule.group == "*").count() == 1);
    let bounds = |rule: &weirmq::flow::RateRule| rule.rate.messages > 0 || rule.rate.bytes > 0;
    assert!(config.rates.iter().chain(&config.deliveries).all(bounds), "a rule that bounds nothing");
}
