//! What outlives the broker's process: everything it has acknowledged, whether it was killed or told to stop; and what it
//! makes of a data folder that it cannot use.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::client::*;
use common::process::Process;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;

const CONFIG: &str = "shards = 2\n[store]\nsegment_size = \"1MiB\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

const ONCE: QoS = QoS::ExactlyOnce;
const AT_LEAST: QoS = QoS::AtLeastOnce;
const V5: Version = Version::V5;

/// How a process ends before it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

const ENDS: [End; 2] = [End::Kill, End::Stop];

fn start() -> Process {
    Process::start(CONFIG, |_| {})
}

fn again(process: &mut Process, end: End) {
    match end {
        End::Kill => process.kill(),
        End::Stop => stop(process),
    }
    process.restart();
}

fn stop(process: &mut Process) {
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", process.id())]).status();
    assert!(sent.expect("sh runs").success());
    assert_eq!(process.wait(), Some(0), "{}", process.log());
}

fn resume(process: &Process, client_id: &str) -> (Client, bool) {
    Client::resume(process.addresses[0], V5, client_id)
}

/// Resumes a session, which must be there.
#[track_caller]
fn present(process: &Process, client_id: &str) -> Client {
    let (client, present) = resume(process, client_id);
    assert!(present, "the session of {client_id} is gone");
    client
}

/// A client with a session that lasts, which subscribes and goes.
fn leave_subscribed(process: &Process, client_id: &str, filter: &str, qos: QoS) {
    let (mut client, _) = resume(process, client_id);
    client.subscribe(filter, qos);
    client.disconnect();
}

fn publisher(process: &Process) -> Client {
    Client::connect(process.addresses[0], V5, "publisher")
}

/// Nothing more comes to a client. What it acknowledged is on disk then: an acknowledgement may be synced late, and what is
/// killed before that comes again; but the SUBACK of a session that lasts waits for all that was before it.
#[track_caller]
fn expect_nothing(client: &mut Client) {
    client.ping();
    let next = client.poll(Duration::ZERO).expect("an open connection");
    assert!(next.is_none(), "{next:?}");
    client.subscribe("nothing/comes/here", AT_LEAST);
}

fn publish_of(packet_id: u16, qos: QoS, payload: &str, dup: bool) -> Packet<'_> {
    Packet::Publish(Publish { packet_id: PacketId::new(packet_id), dup, ..message("t", qos, payload) })
}

#[test]
fn a_session_gets_what_it_missed_in_order() {
    for end in ENDS {
        let mut process = start();
        leave_subscribed(&process, "one", "t/#", AT_LEAST);
        leave_subscribed(&process, "two", "t/#", ONCE);
        let mut p = publisher(&process);
        for n in 0..100 {
            assert_eq!(p.publish("t/x", ONCE, n.to_string().as_bytes()), ReasonCode::Success);
        }
        again(&mut process, end);
        for client_id in ["one", "two"] {
            let mut client = present(&process, client_id);
            (0..100).for_each(|n| client.expect_publish("t/x", n.to_string().as_bytes()));
            expect_nothing(&mut client);
        }
        again(&mut process, end);
        for client_id in ["one", "two"] {
            expect_nothing(&mut present(&process, client_id));
        }
    }
}

#[test]
fn subscriptions_come_back_with_their_options_and_those_given_up_do_not() {
    for end in ENDS {
        let mut process = start();
        let (mut client, _) = resume(&process, "c");
        let mut raw = Vec::new();
        let keeps = SubscribeOptions { retain_as_published: true, no_local: true, ..options(AT_LEAST) };
        let filters = SubscribeFilters::encode([("t", keeps), ("u", options(AT_LEAST))], &mut raw);
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SubscriptionIdentifier(77));
        let packet_id = PacketId::MIN;
        client.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: properties.as_properties(),
            filters,
        }));
        client.wait_for(|packet| matches!(packet, Packet::SubAck(_)));
        let mut raw = Vec::new();
        let filters = UnsubscribeFilters::encode(["u"], &mut raw);
        client.send(&Packet::Unsubscribe(Unsubscribe { packet_id, properties: Properties::EMPTY, filters }));
        client.wait_for(|packet| matches!(packet, Packet::UnsubAck(_)));
        again(&mut process, end);
        let mut client = present(&process, "c");
        client.publish("t", AT_LEAST, b"its own");
        let mut p = publisher(&process);
        p.publish("u", AT_LEAST, b"given up");
        p.send(&Packet::Publish(Publish { retain: true, ..message("t", AT_LEAST, "x") }));
        let frame = client.take_publish();
        let publish = frame.publish();
        assert_eq!((publish.topic, publish.payload, publish.retain), ("t", &b"x"[..], true));
        assert!(publish.properties.iter().any(|property| property == Property::SubscriptionIdentifier(77)));
        expect_nothing(&mut client);
    }
}

#[test]
fn a_qos_2_message_that_its_publisher_repeats_arrives_once() {
    for end in ENDS {
        let mut process = start();
        leave_subscribed(&process, "taker", "t", ONCE);
        let (mut p, _) = resume(&process, "p");
        p.send(&publish_of(5, ONCE, "once", false));
        p.wait_for(|packet| matches!(packet, Packet::PubRec(_)));
        again(&mut process, end);
        let mut p = present(&process, "p");
        p.send(&publish_of(5, ONCE, "once", true));
        p.wait_for(|packet| matches!(packet, Packet::PubRec(ack) if ack.reason == ReasonCode::Success));
        p.send(&Packet::PubRel(ack_of(PacketId::new(5).expect("not zero"))));
        p.wait_for(|packet| matches!(packet, Packet::PubComp(ack) if ack.reason == ReasonCode::Success));
        again(&mut process, end);
        // The id is free: another message.
        let mut p = present(&process, "p");
        p.send(&publish_of(5, ONCE, "another", false));
        p.wait_for(|packet| matches!(packet, Packet::PubRec(_)));
        let mut taker = present(&process, "taker");
        taker.expect_publish("t", b"once");
        taker.expect_publish("t", b"another");
        expect_nothing(&mut taker);
    }
}

#[test]
fn a_qos_2_delivery_keeps_its_packet_id_and_is_not_repeated_after_its_pubrec() {
    for end in ENDS {
        let mut process = start();
        let (mut taker, _) = resume(&process, "taker");
        taker.subscribe("t", ONCE);
        let mut p = publisher(&process);
        p.publish("t", ONCE, b"one");
        p.publish("t", ONCE, b"two");
        let is_publish = |packet: &Packet<'_>| matches!(packet, Packet::Publish(_));
        let ids = [(); 2].map(|()| taker.wait_for(is_publish).publish().packet_id.expect("QoS 2"));
        again(&mut process, end);
        let mut taker = present(&process, "taker");
        for id in ids {
            let frame = taker.wait_for(is_publish);
            assert_eq!((frame.publish().packet_id, frame.publish().dup), (Some(id), true));
        }
        taker.send(&Packet::PubRec(ack_of(ids[0])));
        taker.wait_for(|packet| matches!(packet, Packet::PubRel(_)));
        again(&mut process, end);
        let mut taker = present(&process, "taker");
        assert_eq!(taker.next().packet(), Packet::PubRel(ack_of(ids[0])));
        assert_eq!(taker.next().publish().packet_id, Some(ids[1]));
        taker.send(&Packet::PubComp(ack_of(ids[0])));
        taker.send(&Packet::PubRec(ack_of(ids[1])));
        taker.wait_for(|packet| matches!(packet, Packet::PubRel(_)));
        taker.send(&Packet::PubComp(ack_of(ids[1])));
        taker.ping();
        publisher(&process).publish("t", ONCE, b"three");
        taker.expect_publish("t", b"three");
        expect_nothing(&mut taker);
        again(&mut process, end);
        // A PUBCOMP that was not yet on disk is asked for again; a message is not.
        let mut taker = present(&process, "taker");
        taker.ping();
        while let Some(frame) = taker.poll(Duration::ZERO).expect("an open connection") {
            assert!(matches!(frame.packet(), Packet::PubRel(_)), "{frame:?}");
        }
    }
}

#[test]
fn retained_messages_are_there_and_cleared_ones_are_not() {
    for end in ENDS {
        let mut process = start();
        let mut p = publisher(&process);
        let mut retain = |topic: &str, payload: &str| {
            p.send(&Packet::Publish(Publish { retain: true, ..message(topic, AT_LEAST, payload) }));
            p.wait_for(|packet| matches!(packet, Packet::PubAck(_)));
        };
        for n in 0..10 {
            retain("r/a", &n.to_string());
            retain("r/b", "x");
        }
        retain("r/b", "");
        retain("r/c", "c");
        again(&mut process, end);
        let mut client = Client::connect(process.addresses[0], V5, "c");
        client.subscribe("r/#", AT_LEAST);
        client.expect_publish("r/a", b"9");
        client.expect_publish("r/c", b"c");
        expect_nothing(&mut client);
    }
}

#[test]
fn a_will_stays_with_its_session_and_is_published_when_that_ends() {
    for end in ENDS {
        let mut process = start();
        leave_subscribed(&process, "watcher", "wills", AT_LEAST);
        let mut properties = PropertiesBuf::new();
        properties.push(Property::SessionExpiryInterval(1));
        let will = LastWill {
            qos: AT_LEAST,
            retain: false,
            properties: Properties::EMPTY,
            topic: "wills",
            payload: b"gone",
        };
        let mut client = Client::open(process.addresses[0], V5);
        let properties = properties.as_properties();
        client.send(&Packet::Connect(Connect { properties, will: Some(will), ..connect(V5, "c", true) }));
        client.accepted();
        again(&mut process, end);
        // Its client could have come back until its session expired.
        let mut watcher = present(&process, "watcher");
        watcher.expect_publish("wills", b"gone");
        expect_nothing(&mut watcher);
        again(&mut process, end);
        expect_nothing(&mut present(&process, "watcher"));
    }
}

#[test]
fn a_share_group_goes_on_with_what_waits_in_it() {
    for end in ENDS {
        let mut process = start();
        for member in ["m1", "m2"] {
            leave_subscribed(&process, member, "$share/g/t", ONCE);
        }
        let mut p = publisher(&process);
        (0..20).for_each(|n| assert_eq!(p.publish("t", ONCE, &[n]), ReasonCode::Success));
        again(&mut process, end);
        let mut one = present(&process, "m1");
        (0..20).for_each(|n| one.expect_publish("t", &[n]));
        // Whoever has it is the only one.
        expect_nothing(&mut present(&process, "m2"));
        expect_nothing(&mut one);
        again(&mut process, end);
        publisher(&process).publish("t", ONCE, b"new");
        present(&process, "m2").expect_publish("t", b"new");
    }
}

#[test]
fn time_goes_on_while_the_broker_does_not_run() {
    let mut process = start();
    leave_subscribed(&process, "taker", "t", AT_LEAST);
    let mut properties = PropertiesBuf::new();
    properties.push(Property::SessionExpiryInterval(2));
    let mut short = Client::open(process.addresses[0], V5);
    short.send(&Packet::Connect(Connect {
        properties: properties.as_properties(),
        ..connect(V5, "short", true)
    }));
    short.accepted();
    short.disconnect();
    let mut expires = PropertiesBuf::new();
    expires.push(Property::MessageExpiryInterval(2));
    let mut p = publisher(&process);
    let properties = expires.as_properties();
    p.send(&Packet::Publish(Publish { properties, ..message("t", AT_LEAST, "short") }));
    p.wait_for(|packet| matches!(packet, Packet::PubAck(_)));
    p.publish("t", AT_LEAST, b"long");
    process.kill();
    thread::sleep(Duration::from_millis(2500));
    process.restart();
    let mut taker = present(&process, "taker");
    taker.expect_publish("t", b"long");
    expect_nothing(&mut taker);
    assert!(!resume(&process, "short").1, "it expired meanwhile");
}

#[test]
fn the_number_of_shards_may_change() {
    let mut process = start();
    for n in 0..20 {
        leave_subscribed(&process, &format!("c{n}"), "t", AT_LEAST);
    }
    for member in ["m1", "m2", "m3"] {
        leave_subscribed(&process, member, "$share/g/t", AT_LEAST);
    }
    publisher(&process).publish("t", AT_LEAST, b"0");
    for (round, shards) in (1..).zip([1, 4, 2, 3]) {
        process.kill();
        let config = CONFIG.replace("shards = 2", &format!("shards = {shards}"));
        fs::write(process.folder.path().join("weirmq.toml"), config).expect("written");
        process.restart();
        publisher(&process).publish("t", AT_LEAST, round.to_string().as_bytes());
    }
    for n in 0..20 {
        let mut client = present(&process, &format!("c{n}"));
        (0..5).for_each(|round| client.expect_publish("t", round.to_string().as_bytes()));
    }
    let mut member = present(&process, "m2");
    (0..5).for_each(|round| member.expect_publish("t", round.to_string().as_bytes()));
}

#[test]
fn a_session_that_was_ended_does_not_come_back() {
    for end in ENDS {
        let mut process = start();
        leave_subscribed(&process, "c", "t", AT_LEAST);
        publisher(&process).publish("t", AT_LEAST, b"x");
        Client::connect(process.addresses[0], V5, "c").disconnect();
        leave_subscribed(&process, "c", "u", AT_LEAST);
        again(&mut process, end);
        let mut client = present(&process, "c");
        publisher(&process).publish("t", AT_LEAST, b"x");
        publisher(&process).publish("u", AT_LEAST, b"y");
        client.expect_publish("u", b"y");
        expect_nothing(&mut client);
    }
}

/// Runs the binary in `folder` without a configuration, until it ends: what it logged, and its exit code.
fn refused(folder: &Path) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirmq"));
    command.env("WEIRMQ__LISTENER", "[{ bind = \"127.0.0.1:0\", allow_anonymous = true }]");
    let output = command.current_dir(folder).stdin(Stdio::null()).output().expect("the binary runs");
    (String::from_utf8(output.stderr).expect("UTF-8"), output.status.code())
}

#[test]
fn a_folder_in_use_is_one_clear_line_and_exits_1() {
    let process = start();
    let (log, code) = refused(process.folder.path());
    assert_eq!((code, log.lines().count()), (Some(1), 1), "{log}");
    assert!(log.contains("the data folder ./weirmq-data is in use by another process"), "{log}");
    Client::connect(process.addresses[0], V5, "c").ping();
}

#[test]
fn a_folder_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("weirmq-data");
    fs::create_dir(&data).expect("made");
    for mode in [0o755, 0o750, 0o701] {
        fs::set_permissions(&data, fs::Permissions::from_mode(mode)).expect("changed");
        let (log, code) = refused(folder.path());
        assert_eq!((code, log.lines().count()), (Some(1), 1), "{log}");
        assert!(log.contains("chmod 0700"), "{log}");
    }
}

#[test]
fn without_a_word_about_it_the_data_is_in_the_folder_that_it_is_started_in_and_is_private() {
    let process = start();
    leave_subscribed(&process, "c", "t", AT_LEAST);
    let data = process.folder.path().join("weirmq-data");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).expect("a folder") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    assert!(process.log().contains("survives a loss of power"), "{}", process.log());
}

#[test]
fn what_is_kept_is_named_honestly() {
    let with = |sync: &str| CONFIG.replace("[store]\n", &format!("[store]\nsync = \"{sync}\"\n"));
    let mut process = Process::start(&with("os"), |_| {});
    assert!(process.log().contains("but not a loss of power"), "{}", process.log());
    leave_subscribed(&process, "c", "t", AT_LEAST);
    publisher(&process).publish("t", AT_LEAST, b"x");
    again(&mut process, End::Kill);
    present(&process, "c").expect_publish("t", b"x");

    let mut process = Process::start(&with("off"), |_| {});
    assert!(process.log().contains("nothing is kept on disk"), "{}", process.log());
    leave_subscribed(&process, "c", "t", AT_LEAST);
    again(&mut process, End::Stop);
    assert!(!resume(&process, "c").1);
    assert!(!process.folder.path().join("weirmq-data").exists());
}

/// Ends the process, changes its data folder, and tries to start it again: what it says.
fn spoiled(process: &mut Process, spoil: impl FnOnce(&Path)) -> String {
    process.kill();
    let before = process.log().len();
    spoil(&process.folder.path().join("weirmq-data"));
    match process.try_restart() {
        Ok(_) => process.log()[before..].to_owned(),
        Err(log) => {
            let said = log[before..].to_owned();
            assert_eq!(said.lines().count(), 1, "{said}");
            said
        }
    }
}

/// The files of the data folder whose names end so, the first first.
fn files(data: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(data).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    paths.sort();
    paths
}

fn patch(file: &Path, at: &[usize], byte: u8) {
    let mut bytes = fs::read(file).expect("readable");
    at.iter().for_each(|at| bytes[*at] = byte);
    fs::write(file, bytes).expect("writable");
}

#[test]
fn a_folder_of_another_version_is_refused_and_left_as_it_is() {
    let mut process = start();
    leave_subscribed(&process, "c", "t", AT_LEAST);
    let (version, own) = ([8, 2048 + 8], 2);
    for other in [1, 9] {
        let log = spoiled(&mut process, |data| patch(&files(data, ".seg")[0], &version, other));
        assert!(log.contains(&format!("another version of weirmq (format {other})")), "{log}");
    }
    spoiled(&mut process, |data| patch(&files(data, ".seg")[0], &version, own));
    present(&process, "c");
}

#[test]
fn a_segment_of_another_folder_is_refused() {
    let (mut process, mut other) = (start(), start());
    for process in [&process, &other] {
        leave_subscribed(process, "c", "t", AT_LEAST);
        let mut p = publisher(process);
        // Several segments.
        (0..30).for_each(|_| assert_eq!(p.publish("t", AT_LEAST, &[7; 100_000]), ReasonCode::Success));
    }
    other.kill();
    let foreign = files(&other.folder.path().join("weirmq-data"), ".seg").remove(1);
    let log = spoiled(&mut process, |data| {
        fs::copy(foreign, &files(data, ".seg")[1]).expect("copied");
    });
    assert!(log.contains("belongs to another store"), "{log}");
}

#[test]
fn an_index_that_is_none_is_refused() {
    let mut process = start();
    leave_subscribed(&process, "c", "t", AT_LEAST);
    let foreign = vec![7; 100_000];
    let log = spoiled(&mut process, |data| fs::write(data.join("index.redb"), &foreign).expect("written"));
    assert!(log.contains("index.redb"), "{log}");
    spoiled(&mut process, |data| fs::remove_file(data.join("index.redb")).expect("removed"));
    present(&process, "c");
}

#[test]
fn a_backlog_that_has_outlived_the_journal_comes_back_and_without_its_index_the_loss_is_said() {
    // The journal of so small a store is four segments.
    let config = CONFIG.replace("[store]\n", "[store]\nmax_size = \"64MiB\"\nreserve = \"0B\"\n");
    let mut process = Process::start(&config, |_| {});
    leave_subscribed(&process, "c", "t", AT_LEAST);
    let mut p = publisher(&process);
    let payload = |n: u32| [n.to_le_bytes().as_slice(), &[7; 50_000]].concat();
    (0..800).for_each(|n| assert_eq!(p.publish("t", AT_LEAST, &payload(n)), ReasonCode::Success, "{n}"));
    again(&mut process, End::Kill);
    let index = process.folder.path().join("weirmq-data/index.redb");
    assert!(index.exists());
    let mut client = present(&process, "c");
    (0..800).for_each(|n| client.expect_publish("t", &payload(n)));
    client.ping();
    drop(client);
    let mut p = publisher(&process);
    (0..400).for_each(|n| assert_eq!(p.publish("t", AT_LEAST, &payload(n)), ReasonCode::Success, "{n}"));
    // What holds nothing that is wanted is freed, but the index knows of the session that began there.
    let first = index.with_file_name("0000000001.seg");
    let deadline = Instant::now() + PATIENCE;
    while first.exists() {
        assert!(Instant::now() < deadline, "never freed");
        thread::sleep(Duration::from_millis(10));
    }
    let log = spoiled(&mut process, |_| fs::remove_file(&index).expect("removed"));
    assert!(log.contains("a segment of the journal is missing: what it held is lost"), "{log}");
}

#[test]
fn a_queue_that_fills_up_is_named_once_at_80_percent_and_once_when_it_is_full() {
    let rule = "[[queue]]\nfilter = \"t/#\"\nmax_messages = 10\n[[listener]]\n";
    let process = Process::start(&CONFIG.replace("[[listener]]\n", rule), |_| {});
    for n in 0..3 {
        leave_subscribed(&process, &format!("c{n}"), &format!("t/{n}"), AT_LEAST);
    }
    leave_subscribed(&process, "member", "$share/g/t/g", AT_LEAST);
    let mut p = publisher(&process);
    for topic in ["t/0", "t/1", "t/2", "t/g"] {
        let codes: Vec<_> = (0..13).map(|_| p.publish(topic, AT_LEAST, b"x")).collect();
        assert_eq!(codes[..10], [ReasonCode::Success; 10]);
        assert_eq!(codes[10..], [ReasonCode::QuotaExceeded; 3]);
    }
    p.ping();
    for name in ["c0", "c1", "c2", "$share/g/t/g"] {
        for said in ["queue at 80 % of its limit", "queue full"] {
            let named = format!("{said} queue={name} filter=\"t/#\"");
            let deadline = Instant::now() + PATIENCE;
            while process.log().matches(&named).count() != 1 {
                assert!(Instant::now() < deadline, "{named}\n{}", process.log());
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
