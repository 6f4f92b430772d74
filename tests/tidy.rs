//! The drawing in the crate's documentation, as a test: who may import whom, where the runtime and
//! the clock may be named, and how long things may get. It reads the sources as text.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may import from. A room is a folder or a file directly under `src`.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("limits", &[]),
    ("flow", &[]),
    ("stats", &[]),
    ("escaped", &[]),
    ("files", &[]),
    ("outbound", &[]),
    ("principal", &[]),
    ("acl", &["protocol", "principal", "files"]),
    ("message", &["protocol"]),
    ("meter", &["protocol", "limits"]),
    ("target", &["protocol", "message", "meter"]),
    ("clock", &[]),
    ("will", &["protocol", "message"]),
    ("store", &["protocol", "message", "meter", "target", "will", "clock", "escaped"]),
    (
        "session",
        &[
            "protocol",
            "message",
            "meter",
            "target",
            "limits",
            "stats",
            "outbound",
            "store",
            "will",
            "principal",
            "acl",
            "flow",
        ],
    ),
    (
        "broker",
        &[
            "protocol",
            "message",
            "meter",
            "target",
            "limits",
            "stats",
            "outbound",
            "store",
            "session",
            "escaped",
            "will",
            "clock",
            "principal",
            "acl",
            "flow",
        ],
    ),
    ("config", &["limits", "protocol", "acl", "flow", "files"]),
    ("auth", &["config", "principal", "protocol", "files"]),
    ("logging", &["config"]),
    (
        "net",
        &[
            "protocol",
            "message",
            "limits",
            "stats",
            "outbound",
            "broker",
            "config",
            "escaped",
            "principal",
            "acl",
            "auth",
            "flow",
            "websocket",
            "files",
        ],
    ),
    ("websocket", &[]),
    ("client", &["protocol", "escaped", "websocket"]),
    ("dev_certs", &[]),
    (
        "server",
        &[
            "broker", "config", "limits", "message", "net", "meter", "target", "stats", "store", "clock",
            "logging", "acl", "auth", "flow",
        ],
    ),
    ("offline", &["protocol", "message", "meter", "target", "limits", "session", "store", "clock"]),
    ("arguments", &["offline", "client", "dev_certs", "auth"]),
];

/// Where the runtime and the clock may be named.
const SHELL: &[&str] = &["net", "server", "main", "client", "admin"];

const MAX_LINE: usize = 125;
const MAX_FUNCTION: usize = 80;
const MAX_FILE: usize = 700;

struct Source {
    path: PathBuf,
    room: String,
    /// The code, without its tests.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let inside = path.strip_prefix(root).expect("under src");
            let first = inside.iter().next().expect("a name").to_string_lossy();
            let is_test = path.file_stem().is_some_and(|stem| {
                let stem = stem.to_string_lossy();
                stem == "tests" || stem == "ramdisk" || stem.ends_with("_tests")
            });
            let code = if is_test { "" } else { text.split("#[cfg(test)]").next().unwrap_or_default() };
            found.push(Source {
                room: first.trim_end_matches(".rs").to_owned(),
                code: code.to_owned(),
                text,
                path: inside.to_owned(),
            });
        }
    }
}

/// The lines of code with their numbers, comments left out.
fn code_lines(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().starts_with("//"))
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn rooms_import_only_where_the_arrows_point() {
    let mut problems = Vec::new();
    for source in sources() {
        if matches!(source.room.as_str(), "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| *room == source.room) else {
            problems.push(format!("{}: a room without arrows: give it some", source.path.display()));
            continue;
        };
        for (number, line) in code_lines(&source.code) {
            for part in line.split("crate::").skip(1) {
                let target: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if target != source.room && !allowed.contains(&target.as_str()) {
                    problems.push(format!(
                        "{}:{number}: {} must not use {target}",
                        source.path.display(),
                        source.room
                    ));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn the_runtime_and_the_clock_stay_in_the_shell() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !SHELL.contains(&source.room.as_str())) {
        for (number, line) in code_lines(&source.code) {
            for word in ["tokio", "Instant::now", "SystemTime::now", "std::net::Tcp", "thread::sleep"] {
                if line.contains(word) {
                    problems.push(format!("{}:{number}: {word} outside the shell", source.path.display()));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn nothing_unfinished_and_no_unwrap() {
    let mut problems = Vec::new();
    for source in sources() {
        for (number, line) in code_lines(&source.code) {
            for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "#[ignore"] {
                if line.contains(word) {
                    problems.push(format!("{}:{number}: {word}", source.path.display()));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn every_file_says_its_job_and_keeps_its_length() {
    let mut problems = Vec::new();
    for source in sources() {
        let path = source.path.display();
        if !source.text.starts_with("//!") {
            problems.push(format!("{path}: does not say in its first line what it is for"));
        }
        if source.text.lines().count() > MAX_FILE {
            problems.push(format!("{path}: over {MAX_FILE} lines"));
        }
        for (index, line) in source.text.lines().enumerate() {
            if line.chars().count() > MAX_LINE {
                problems.push(format!("{path}:{}: over {MAX_LINE} characters", index + 1));
            }
        }
    }
    report(problems);
}

#[test]
fn functions_fit_a_screen() {
    let mut problems = Vec::new();
    for source in sources() {
        let mut open: Option<(usize, usize)> = None;
        for (index, line) in source.code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let word = line.trim_start();
            let begins = [
                "fn ",
                "pub fn ",
                "pub(super) fn ",
                "pub(crate) fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) async fn ",
            ];
            if open.is_none() && begins.iter().any(|begin| word.starts_with(begin)) && !word.ends_with('}') {
                open = Some((index, indent));
            } else if let Some((start, at)) = open
                && word.starts_with('}')
                && indent == at
            {
                if index - start > MAX_FUNCTION {
                    problems.push(format!(
                        "{}:{}: a function of {} lines",
                        source.path.display(),
                        start + 1,
                        index - start
                    ));
                }
                open = None;
            }
        }
    }
    report(problems);
}

#[test]
fn unsafe_code_is_forbidden() {
    for name in ["lib.rs", "main.rs"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
        let text = fs::read_to_string(root).expect("a crate root");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
    }
}
