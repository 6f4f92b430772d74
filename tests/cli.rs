//! The `weirmq` binary as a person or a script meets it: what it prints where, and its exit codes.
#![allow(missing_docs)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs the binary in `folder`, without settings from this process's environment.
fn weirmq(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirmq"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIRMQ__") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied()).current_dir(folder).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[track_caller]
fn assert_refused(output: &Output, line: &str) {
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("", format!("weirmq: {line}\n").as_str()));
}

#[track_caller]
fn assert_valid(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = ("weirmq: the configuration is valid\n", "");
    assert_eq!((text(&output.stdout), text(&output.stderr)), expected);
}

#[test]
fn version_and_help_go_to_standard_output() {
    let folder = folder();
    for argument in ["-V", "--version"] {
        let output = weirmq(folder.path(), &[argument], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), concat!("weirmq ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    for argument in ["-h", "--help"] {
        let output = weirmq(folder.path(), &[argument], &[]);
        assert_eq!(output.status.code(), Some(0));
        for word in ["serve", "pub", "sub", "dev-certs", "--config", "--test-config", "--verbose", "--quiet"]
        {
            assert!(text(&output.stdout).contains(word), "{argument} does not show {word}");
        }
    }
}

#[test]
fn wrong_usage_exits_2_and_says_so_on_standard_error() {
    let folder = folder();
    for arguments in [&["--no-such-flag"][..], &["no-such-command"], &["-v", "-q"], &["-c"], &["pub"]] {
        let output = weirmq(folder.path(), arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn testing_a_good_configuration_exits_0() {
    let folder = folder();
    let documented = concat!(env!("CARGO_MANIFEST_DIR"), "/config/weirmq.toml");
    assert_valid(&weirmq(folder.path(), &["-t"], &[]));
    assert_valid(&weirmq(folder.path(), &["-t", "-c", documented], &[]));
    assert_valid(&weirmq(folder.path(), &["serve", "--test-config", "--config", documented], &[]));
    assert_valid(&weirmq(folder.path(), &["-t"], &[("WEIRMQ__SHARDS", "2")]));
}

#[test]
fn testing_opens_no_listener_and_leaves_no_file() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let listener = format!("[[listener]]\nbind = \"{address}\"\nallow_anonymous = true\n");
    fs::write(folder.path().join("weirmq.toml"), listener).expect("a writable folder");
    assert_valid(&weirmq(folder.path(), &["-t", "-c", "weirmq.toml"], &[]));
    let names: Vec<_> = fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["weirmq.toml"]);
}

#[test]
fn a_bad_configuration_exits_3_with_one_line_whether_tested_or_served() {
    let folder = folder();
    let write =
        |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a writable folder");
    write("good.toml", "[limits]\nmax_inflight = 64\n");
    write("bad.toml", "[limits]\nmax_inflight = 0\n");
    let tls = "[listener.tls]\ncert = \"no.pem\"\nkey = \"no.key\"\n";
    write("tls.toml", &format!("[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n{tls}"));
    let bad = "bad.toml:2:16: limits.max_inflight: expected a whole number from 1 to 65535, found 0";
    for arguments in [
        &["-t", "-c", "bad.toml"][..],
        &["-c", "bad.toml"],
        &["serve", "-c", "bad.toml"],
        &["-c", "bad.toml", "-c", "good.toml"],
        &["-t", "-c", "good.toml", "-c", "bad.toml"],
    ] {
        assert_refused(&weirmq(folder.path(), arguments, &[]), bad);
    }
    let missing = "missing.toml: No such file or directory (os error 2)";
    assert_refused(&weirmq(folder.path(), &["-t", "-c", "missing.toml"], &[]), missing);
    let certificate = "tls.toml:5:8: listener[0].tls.cert: no.pem: No such file or directory (os error 2)";
    assert_refused(&weirmq(folder.path(), &["-t", "-c", "tls.toml"], &[]), certificate);
    let variable = "WEIRMQ__LIMITS__MAX_INFLIGHT: limits.max_inflight: \
                    expected a whole number from 1 to 65535, found \"many\"";
    let variables = [("WEIRMQ__LIMITS__MAX_INFLIGHT", "many")];
    assert_refused(&weirmq(folder.path(), &["-t", "-c", "good.toml"], &variables), variable);
}

#[test]
fn a_file_is_read_only_when_it_is_named() {
    let folder = folder();
    fs::write(folder.path().join("weirmq.toml"), "not a configuration").expect("a writable folder");
    assert_valid(&weirmq(folder.path(), &["-t"], &[]));
    let names = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(names, 1, "and no data is touched");
}

#[test]
fn a_port_in_use_is_one_clear_line_and_exits_1() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let listener = format!("[{{ bind = \"{address}\", allow_anonymous = true }}]");
    let output = weirmq(folder.path(), &[], &[("WEIRMQ__LISTENER", &listener)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    assert!(output.stdout.is_empty() && error.lines().count() == 1, "{error}");
    assert!(error.contains(&format!("cannot listen on {address}: the port is in use")), "{error}");
}
