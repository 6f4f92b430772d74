//! Files for mosquitto, as its own tools write them and as its documentation has them: the broker takes them as they are,
//! and does with them what mosquitto does. With `WEIRMQ_REQUIRE_CLIENTS=1` a missing mosquitto is a failure.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod mosquitto;
    pub mod process;
    pub mod world;
}

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::client::*;
use common::mosquitto::{Mosquitto, program};
use common::process::Process;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

/// What mosquitto's manual and the example beside it have, with topics to tell its lines apart.
const ACL: &str = "# This affects access control for clients with no username.
topic read $SYS/#
topic read open/#

# This only affects clients with username \"roger\".
user roger
topic foo/bar
topic write commands/+
topic deny sensors/secret
topic read sensors/#

user root
topic #
topic $SYS/#

# This affects all clients.
pattern write $SYS/broker/connection/%c/state
pattern readwrite home/%u/#
pattern read inbox/%c
pattern read fence
";

/// But for the last line, which lets bridges publish to `$SYS`: nobody but the broker does that here.
const TOPICS: [&str; 11] = [
    "foo/bar",
    "foo/baz",
    "commands/x",
    "sensors/a/b",
    "sensors/secret",
    "open/x",
    "home/roger/lamp",
    "home/ann/lamp",
    "home/zoé/lamp",
    "inbox/c1",
    "inbox/c2",
];

/// Runs one of mosquitto's tools as a shell of Debian does that nobody has set up.
fn run(tool: &Path, arguments: &[&str], file: &Path, more: &[&str]) {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 022; exec \"$0\" \"$@\""]).arg(tool).args(arguments).arg(file).args(more);
    let output = command.output().expect("sh runs");
    assert!(output.status.success(), "{output:?}");
}

/// A password file as it comes to be over the years: made anew, added to, changed, taken from, and one of plain passwords
/// that was turned into hashes.
fn write_passwords(tool: &Path, folder: &Path) {
    let file = folder.join("users");
    run(tool, &["-c", "-b"], &file, &["ann", "first"]);
    run(tool, &["-b"], &file, &["roger", "pa:ss $word"]);
    run(tool, &["-b"], &file, &["ann", "second"]);
    run(tool, &["-b", "-H", "sha512"], &file, &["root", "toor"]);
    run(tool, &["-b"], &file, &["gone", "gone"]);
    run(tool, &["-D"], &file, &["gone"]);
    let plain = folder.join("plain");
    fs::write(&plain, "zoé:pässword\n").expect("written");
    run(tool, &["-U"], &plain, &[]);
    let text = fs::read_to_string(&file).expect("a file") + &fs::read_to_string(&plain).expect("a file");
    assert!(text.contains("$6$") && text.contains("$7$") && !text.contains("pässword"), "{text}");
    // Into the file, so that it keeps the mode that the tool gave it.
    fs::write(&file, text).expect("written");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o644);
}

/// Who tries to come in, and by which password.
const ATTEMPTS: [(Option<&str>, Option<&str>); 11] = [
    (None, None),
    (Some("ann"), Some("second")),
    (Some("ann"), Some("first")),
    (Some("ann"), None),
    (Some("roger"), Some("pa:ss $word")),
    (Some("roger"), Some("pa:ss $wor")),
    (Some("root"), Some("toor")),
    (Some("gone"), Some("gone")),
    (Some("zoé"), Some("pässword")),
    (Some("zoé"), Some("second")),
    (Some("nobody"), Some("")),
];

/// Everything that one broker lets one client do.
#[derive(Debug, PartialEq, Eq)]
struct Allowed {
    published: BTreeSet<&'static str>,
    read: BTreeSet<&'static str>,
}

/// A client that says who it is; `None` if it does not come in.
fn log_in(mut client: Client, id: &str, user: Option<&str>, password: Option<&str>) -> Option<Client> {
    let password = password.map(str::as_bytes);
    let packet = Connect { username: user, password, ..connect(Version::V5, id, true) };
    client.send(&Packet::Connect(packet));
    let frame = client.next();
    let Packet::ConnAck(connack) = frame.packet() else { panic!("expected CONNACK, got {frame:?}") };
    (connack.reason == ReasonCode::Success).then_some(client)
}

/// Publishes to every topic and takes what another client publishes to each.
fn try_all(mut client: Client, root: &mut Client) -> Allowed {
    let allowed = |topic: &&&str, client: &mut Client| {
        client.publish(topic, QoS::AtLeastOnce, b"x") != ReasonCode::NotAuthorized
    };
    let published = TOPICS.iter().filter(|topic| allowed(topic, &mut client)).copied().collect();
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([("#", options(QoS::AtMostOnce))], &mut raw);
    let packet_id = PacketId::MIN;
    client.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    client.wait_for(|packet| matches!(packet, Packet::SubAck(_)));
    for topic in TOPICS {
        root.publish(topic, QoS::AtLeastOnce, b"y");
    }
    // From the same publisher, so behind all the others.
    root.publish("fence", QoS::AtLeastOnce, b"");
    let mut read = BTreeSet::new();
    loop {
        let frame = client.next();
        match frame.packet() {
            Packet::Publish(publish) if publish.topic == "fence" => return Allowed { published, read },
            Packet::Publish(publish) => read.extend(TOPICS.iter().find(|topic| **topic == publish.topic)),
            other => panic!("not expected: {other:?}"),
        }
    }
}

/// What each attempt comes to; `None` for those that do not come in.
fn outcomes(open: impl Fn() -> Client) -> Vec<Option<Allowed>> {
    let mut root = log_in(open(), "root", Some("root"), Some("toor")).expect("root comes in");
    let attempt = |(user, password)| Some(try_all(log_in(open(), "c1", user, password)?, &mut root));
    ATTEMPTS.into_iter().map(attempt).collect()
}

#[test]
fn files_that_mosquittos_own_tools_wrote_work_as_they_are() {
    let (Some(tool), Some(broker)) = (program("mosquitto_passwd"), program("mosquitto")) else { return };
    for anonymous in [false, true] {
        let mut files = None;
        let theirs = Mosquitto::start(&broker, |folder| {
            write_passwords(&tool, folder);
            fs::write(folder.join("acl"), ACL).expect("written");
            let file = |name: &str| folder.join(name).display().to_string();
            files = Some((file("users"), file("acl")));
            let (users, acl) = (file("users"), file("acl"));
            format!("allow_anonymous {anonymous}\npassword_file {users}\nacl_file {acl}\n")
        });
        let theirs = theirs.expect("mosquitto takes its own files");
        let (users, acl) = files.expect("written");
        // The very same files, where they are.
        let config = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = {anonymous}\n\
             [auth]\npassword_file = \"{users}\"\nacl_file = \"{acl}\"\nfailure_delay = \"0s\"\n"
        );
        let ours = Process::start(&config, |_| {});
        assert!(ours.log().contains("can read the hashes"), "{}", ours.log());
        let expected = outcomes(|| theirs.open());
        let found = outcomes(|| Client::open(ours.addresses[0], Version::V5));
        for ((attempt, expected), found) in ATTEMPTS.iter().zip(&expected).zip(&found) {
            assert_eq!(found, expected, "{attempt:?}");
        }
        let inside = expected.iter().flatten().count();
        assert_eq!(inside, if anonymous { 5 } else { 4 });
        let allowed = |outcome: &Allowed| outcome.published.len() + outcome.read.len();
        let granted: usize = expected.iter().flatten().map(allowed).sum();
        assert!((30..2 * TOPICS.len() * inside).contains(&granted), "{granted}: too plain a table");
    }
}
