//! The ACL file over sockets: held against mosquitto, which reads the same files, and reloaded under clients. Mosquitto is
//! used if it is installed; with `WEIRMQ_REQUIRE_CLIENTS=1` a missing one is a failure.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod dialogue;
    pub mod mosquitto;
    pub mod world;
}

use std::collections::BTreeSet;
use std::path::Path;

use weirmq::acl::Acl;
use weirmq::principal::Principal;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

use common::client::{Client, serve};
use common::dialogue::{V5, codes, payloads};
use common::mosquitto::{self, Mosquitto};
use common::world::{World, WorldSettings, connect, options};

/// Mosquitto with an ACL file. Whoever says that it is somebody is believed: it is the ACL that is asked here.
fn mosquitto_with(binary: &Path, acl: &[u8]) -> Option<Mosquitto> {
    let write = |folder: &Path| {
        std::fs::write(folder.join("acl"), acl).expect("written");
        format!("allow_anonymous true\nacl_file {}\n", folder.join("acl").display())
    };
    Mosquitto::start(binary, write)
}

fn open(broker: &Mosquitto, user: Option<&str>, client_id: &str) -> Client {
    let mut client = broker.open();
    client.send(&Packet::Connect(Connect { username: user, ..connect(V5, client_id, true) }));
    client.accepted();
    client
}

/// Topics that are asked for, each by each client of each file.
const TOPICS: [&str; 22] = [
    "a",
    "a/b",
    "a/b/c",
    "a//c",
    "/a",
    "a/",
    "b",
    "b/x",
    "open/x",
    "secret",
    "secret/x",
    "home/ann",
    "home/ann/x",
    "home/bob/x",
    "home/c1/x",
    "ann/c1",
    "c1/ann/deep/er",
    "two words/x",
    "$x/a",
    "$x/ann",
    "é/x",
    "%u/x",
];

/// Names and client identifiers.
const CLIENTS: [(Option<&str>, &str); 5] =
    [(None, "c1"), (None, "c2"), (Some("ann"), "c1"), (Some("bob"), "c2"), (Some("ann of the hills"), "ann")];

/// Who may do everything, whatever else a file says, and publishes what the others may read.
const ROOT: &str = "user root\ntopic #\ntopic $x/#\n";

/// Files as people write them for mosquitto. They have `ROOT` behind them.
const FILES: [&str; 12] = [
    "",
    "# a comment\n\n#topic readwrite #\n",
    "topic read a/#\ntopic write b\n\nuser ann\ntopic readwrite home/ann/#\n",
    "topic #\ntopic deny secret/#\n",
    "user ann\ntopic deny secret/#\ntopic read #\nuser bob\ntopic deny #\ntopic readwrite #\n",
    "pattern readwrite home/%u/#\npattern write home/%c/#\npattern read %c/%u/#\npattern %u/%c\n",
    "pattern deny home/%u/x\npattern read home/#\nuser ann\ntopic write home/ann/x\n",
    "user ann\ntopic read home/#\ntopic deny home/bob/#\npattern read home/%u/#\nuser bob\ntopic deny home/bob/x\n",
    "topic read +/+\ntopic write +\ntopic readwrite /+\ntopic read a/+/c\n",
    "topic read $x/#\ntopic write $x/+\npattern read $x/%u\n",
    "topic   readwrite   two words/x  \r\nuser   ann of the hills \r\ntopic read é/#\r\ntopic %u/x\ntopic read\n",
    "user ann\ntopic read a\nuser bob\ntopic read b\nuser ann\ntopic write b/x\ntopic deny a/b\ntopic a/#\n",
];

/// What one client of one broker gets through.
#[derive(Debug, Default, PartialEq, Eq)]
struct Through {
    published: BTreeSet<&'static str>,
    read: BTreeSet<&'static str>,
}

#[test]
fn the_same_file_lets_through_what_mosquitto_lets_through() {
    let Some(binary) = mosquitto::program("mosquitto") else { return };
    let (mut granted, mut refused) = (0, 0);
    for file in FILES {
        let text = format!("{file}{ROOT}");
        let mosquitto = mosquitto_with(&binary, text.as_bytes()).expect("a file of its own format");
        for (user, client_id) in CLIENTS {
            let expected = through_mosquitto(&mosquitto, user, client_id);
            let found = through_weirmq(&text, user, client_id);
            assert_eq!(found, expected, "{user:?} {client_id} with\n{text}");
            granted += found.published.len() + found.read.len();
            refused += 2 * TOPICS.len() - found.published.len() - found.read.len();
        }
    }
    assert!(granted > 150 && refused > 1000, "{granted} granted, {refused} refused: too plain a table");
}

fn through_mosquitto(broker: &Mosquitto, user: Option<&str>, client_id: &str) -> Through {
    let mut through = Through::default();
    let mut root = open(broker, Some("root"), "root");
    let mut client = open(broker, user, client_id);
    for topic in TOPICS {
        if client.publish(topic, QoS::AtLeastOnce, b"x") != ReasonCode::NotAuthorized {
            through.published.insert(topic);
        }
    }
    for filter in ["#", "$x/#"] {
        client.subscribe(filter, QoS::AtMostOnce);
    }
    for topic in TOPICS {
        root.publish(topic, QoS::AtLeastOnce, b"y");
    }
    // What was to come has come before the answer does.
    client.send(&Packet::PingReq);
    loop {
        let frame = client.next();
        match frame.packet() {
            Packet::Publish(publish) => {
                through.read.extend(TOPICS.iter().find(|topic| **topic == publish.topic));
            }
            Packet::PingResp => return through,
            other => panic!("not expected: {other:?}"),
        }
    }
}

fn through_weirmq(text: &str, user: Option<&str>, client_id: &str) -> Through {
    let acl = Acl::from_bytes(text.as_bytes()).unwrap_or_else(|(line, why)| panic!("{line}: {why}\n{text}"));
    let mut w = World::with(WorldSettings { shards: 2, acl: Some(acl), ..WorldSettings::default() });
    let open = |w: &mut World, user: Option<&str>, client_id: &str| {
        let principal = user.map_or(Principal::ANONYMOUS, Principal::of_user);
        let client = w.try_connect_as(&principal, &connect(V5, client_id, true)).expect("accepted");
        w.take(client);
        client
    };
    let (root, client) = (open(&mut w, Some("root"), "root"), open(&mut w, user, client_id));
    let mut through = Through::default();
    for topic in TOPICS {
        if w.publish(client, topic, QoS::AtLeastOnce, "x") != ReasonCode::NotAuthorized {
            through.published.insert(topic);
        }
    }
    let mut refused = Vec::new();
    for filter in ["#", "$x/#"] {
        let frames = w.subscribe_raw(client, filter, options(QoS::AtMostOnce), 0);
        if codes(&frames[0]) == [ReasonCode::NotAuthorized as u8] {
            refused.push(filter);
        }
    }
    for topic in TOPICS {
        w.publish(root, topic, QoS::AtLeastOnce, topic);
    }
    let got = payloads(&w.drain(client));
    through.read.extend(TOPICS.iter().filter(|topic| got.iter().any(|payload| payload == *topic)));
    // Where mosquitto lets a client subscribe to what it can never read, it is told here.
    let reads = |dollar: bool| through.read.iter().any(|topic| topic.starts_with('$') == dollar);
    assert!(!refused.contains(&"#") || !reads(false));
    assert!(!refused.contains(&"$x/#") || !reads(true));
    through
}

#[test]
fn what_mosquitto_does_not_read_is_not_read_here() {
    let Some(binary) = mosquitto::program("mosquitto") else { return };
    for text in [
        "",
        "\n",
        "topic a",
        "topic a\n\n\n#\n",
        "user a\n",
        "topic read a b/c\n",
        "topic deny\n",
        "  topic a\n",
        "topic    a   \n",
        "topic read  a/+/#\r\n",
        "topic",
        "topic \n",
        "user",
        "user  \n",
        "pattern\n",
        "topi a\n",
        "Topic a\n",
        "topic reed a\n",
        "topic a b\n",
        "topic a#\n",
        "topic +a\n",
        "topic a/#/b\n",
        "\ttopic a\n",
        "topic\ta\n",
        " # no comment\n",
        "topic a\nrubbish\n",
        "pattern a/%u/+\n",
        "pattern a+\n",
        "user a\ntopic a\nuser\n",
        "user a b c\n",
        "topic write ##\n",
        "topic readwrite\n",
        "topic read \n",
    ] {
        let here = Acl::from_bytes(text.as_bytes());
        let there = mosquitto_with(&binary, text.as_bytes());
        assert_eq!(here.is_ok(), there.is_some(), "{text:?}: {here:?}");
    }
}

#[test]
fn a_reload_takes_rights_away_at_once_and_keeps_the_old_rules_where_the_file_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acl");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("topic #\n");
    let mut config = None;
    let mut server = serve(|new| {
        new.access.acl_file = Some(file.clone());
        config = Some(new.clone());
    });
    let config = config.expect("a configuration");
    let address = server.addresses()[0];
    let (mut c, mut p) = (Client::connect(address, V5, "c"), Client::connect(address, V5, "p"));
    c.subscribe("#", QoS::AtLeastOnce);
    p.publish("secret", QoS::AtLeastOnce, b"0");
    c.expect_publish("secret", b"0");
    write("topic #\ntopic deny secret\n");
    server.reload(config.clone()).expect("a file that can be read").wait();
    assert_eq!(p.publish("secret", QoS::AtLeastOnce, b"1"), ReasonCode::NotAuthorized);
    p.publish("open", QoS::AtLeastOnce, b"2");
    c.expect_publish("open", b"2");
    // A bad file: nothing changes.
    write("topic #\ntopic dney secret\n");
    let error = server.reload(config.clone()).err().expect("a line that says nothing").to_string();
    assert!(error.contains("acl:2: "), "{error}");
    std::fs::remove_file(&file).expect("removed");
    assert!(server.reload(config.clone()).is_err());
    assert_eq!(p.publish("secret", QoS::AtLeastOnce, b"3"), ReasonCode::NotAuthorized);
    p.publish("open", QoS::AtLeastOnce, b"4");
    c.expect_publish("open", b"4");
    // Nothing is granted any more: its subscription goes, its connection stays.
    write("");
    server.reload(config.clone()).expect("an empty file").wait();
    assert_eq!(p.publish("open", QoS::AtLeastOnce, b"5"), ReasonCode::NotAuthorized);
    c.ping();
    write("topic #\n");
    server.reload(config).expect("a file that can be read").wait();
    let nobody = p.publish("open", QoS::AtLeastOnce, b"6");
    assert_eq!(nobody, ReasonCode::NoMatchingSubscribers, "the subscription does not come back");
    server.shutdown().expect("it ends");
}

#[test]
fn whoever_may_do_nothing_is_told_at_subscribe_in_each_version() {
    // Paho's test suites ask for this: a client that subscribes to `test/nosubscribe` is to be refused.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acl");
    std::fs::write(&file, "topic #\ntopic deny test/nosubscribe\n").expect("written");
    let server = serve(|config| config.access.acl_file = Some(file));
    for (version, expected) in [(Version::V3, 2), (Version::V4, 0x80), (V5, 0x87)] {
        let mut c = Client::connect(server.addresses()[0], version, "c");
        let mut raw = Vec::new();
        let filters = SubscribeFilters::encode([("test/nosubscribe", options(QoS::ExactlyOnce))], &mut raw);
        let packet_id = PacketId::MIN;
        c.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
        assert_eq!(codes(&c.next()), [expected], "{version:?}");
        c.subscribe("test/#", QoS::ExactlyOnce);
    }
    server.shutdown().expect("it ends");
}
