//! `weirmq store`: what a data folder holds is told, taken out and put into another, without a broker.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::client::*;
use common::process::Process;
use weirmq::protocol::packet::{QoS, Version};

const CONFIG: &str = "shards = 2\ndata_dir = \"{dir}/data\"\n[store]\nsegment_size = \"1MiB\"\n\
                      [[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

const LINES: &str = r#"{"type":"session","client_id":"audit","user":"ann","expiry":3600,"subscriptions":[{"filter":"orders/#","options":2,"identifier":7}]}
{"type":"queued","client_id":"audit","topic":"orders/1","qos":1,"payload":"paid","identifiers":[7]}
{"type":"queued","client_id":"audit","topic":"orders/2","qos":2,"payload_base64":"/wA=","identifiers":[7],"properties":{"content_type":"x","user":[["a","b"]]}}
{"type":"session","client_id":"sms-1","expiry":null,"subscriptions":[{"filter":"$share/sms/orders/+","options":1}]}
{"type":"shared","group":"$share/sms/orders/+","topic":"orders/1","qos":1,"payload":"paid"}
{"type":"retained","topic":"status","qos":1,"retain":true,"payload":"open"}
"#;

fn store(command: &str, folder: &Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weirmq"))
        .args(["store", command])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that needs no input may have ended.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[track_caller]
fn failed(output: &Output, says: &str) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(1) && text.contains(says), "{output:?}");
}

fn sorted(lines: &str) -> Vec<&str> {
    let mut lines: Vec<_> = lines.lines().collect();
    lines.sort_unstable();
    lines
}

/// Every file with its contents.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    files.map(|file| (file.display().to_string(), fs::read(&file).expect("readable"))).collect()
}

#[test]
fn what_is_exported_can_be_imported_and_is_the_same() {
    let place = tempfile::tempdir().expect("a folder");
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    let said = done(&store("import", &first, LINES));
    assert_eq!(said, "2 sessions, 2 queued, 1 shared and 1 retained messages\n");
    let before = contents(&first);
    let exported = done(&store("export", &first, ""));
    assert_eq!(sorted(&exported), sorted(LINES));
    let said = done(&store("check", &first, ""));
    assert!(said.contains("sessions: 2, with 2 subscriptions") && said.contains("3 messages"), "{said}");
    assert!(said.contains("their owners: 1 users of 1, anonymous clients of 1"), "{said}");
    assert!(said.ends_with("sound\n"), "{said}");
    assert!(contents(&first) == before, "looking changes nothing");
    done(&store("import", &second, &exported));
    assert_eq!(sorted(&done(&store("export", &second, ""))), sorted(LINES));
}

#[test]
fn a_broker_serves_what_was_imported_and_what_it_kept_is_exported() {
    let prepare = |folder: &Path| {
        drop(done(&store("import", &folder.join("data"), &LINES.replace("\"user\":\"ann\",", ""))))
    };
    let mut process = Process::start(CONFIG, prepare);
    let (mut audit, present) = Client::resume(process.addresses[0], Version::V5, "audit");
    assert!(present);
    audit.expect_publish("orders/1", b"paid");
    audit.expect_publish("orders/2", &[0xff, 0]);
    audit.disconnect();
    let mut late = Client::connect(process.addresses[0], Version::V5, "late");
    late.subscribe("status", QoS::AtLeastOnce);
    late.expect_publish("status", b"open");
    late.publish("orders/3", QoS::AtLeastOnce, b"shipped");

    let folder = process.folder.path().join("data");
    failed(&store("check", &folder, ""), "in use by another process");
    process.kill();
    process.wait();
    let exported = done(&store("export", &folder, ""));
    assert!(
        exported.contains(r#""client_id":"audit","topic":"orders/3","qos":1,"payload":"shipped""#),
        "{exported}"
    );
    assert!(exported.contains(r#""group":"$share/sms/orders/+","topic":"orders/3""#), "{exported}");
    assert!(done(&store("check", &folder, "")).ends_with("sound\n"));
}

#[test]
fn what_is_not_sound_is_told_and_left_as_it_is() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("data");
    let mut many = LINES.to_owned();
    for number in 0..200 {
        many += &format!(
            "{{\"type\":\"queued\",\"client_id\":\"audit\",\"topic\":\"n\",\"qos\":1,\"payload\":\"{number}\"}}\n"
        );
    }
    done(&store("import", &folder, &many));
    let segment = contents(&folder).into_keys().find(|name| name.ends_with(".seg")).expect("a segment");
    let mut bytes = fs::read(&segment).expect("readable");
    let at = bytes
        .windows(4)
        .position(|window| window == b"\"paid\"".get(1..5).expect("four"))
        .expect("a payload");
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).expect("written");
    let before = contents(&folder);
    failed(&store("check", &folder, ""), "NOT SOUND");
    assert!(contents(&folder) == before);
}

#[test]
fn lines_that_cannot_be_taken_are_named() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = |name: &str| place.path().join(name);
    failed(&store("import", &folder("a"), "{\"type\":\"session\"}\n"), "line 1: missing field `client_id`");
    let orphan = "\n{\"type\":\"queued\",\"client_id\":\"x\",\"topic\":\"t\",\"qos\":1}\n";
    failed(&store("import", &folder("b"), orphan), "line 2: the session's own line must come first");
    let session = "{\"type\":\"session\",\"client_id\":\"x\",\"expiry\":null}\n";
    done(&store("import", &folder("c"), session));
    failed(&store("import", &folder("c"), session), "line 1: there is a session of \"x\" already");
    failed(&store("check", &folder("missing"), ""), "missing: No such file");
    failed(&store("export", &folder("missing"), ""), "missing: No such file");
    assert!(!folder("missing").exists());
}
