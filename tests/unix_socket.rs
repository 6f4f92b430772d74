//! The broker over a Unix socket.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod world;
}
#[path = "common/process.rs"]
mod process;

use std::os::unix::fs::PermissionsExt;

use common::client::*;
use process::Process;
use weirmq::config::{Bind, ListenerConfig};
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

#[test]
fn messages_cross_between_a_unix_socket_and_tcp_whichever_shard_they_live_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("mqtt.sock");
    let server = serve(|config| {
        config.shards = 3;
        let bind = Bind::Unix { path: path.clone(), mode: 0o660 };
        config.listeners.push(ListenerConfig { bind, ..ListenerConfig::default() });
    });
    assert_eq!(server.addresses().len(), 1);
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o660);
    for number in 0..10 {
        let mut taker = Client::open_unix(&path, Version::V5);
        taker.hello(&format!("taker-{number}"));
        taker.subscribe("t/#", QoS::ExactlyOnce);
        let mut giver = Client::connect(server.addresses()[0], Version::V4, &format!("giver-{number}"));
        let large = vec![7; 300_000];
        for payload in [&b""[..], b"small", &large] {
            assert_eq!(giver.publish("t/x", QoS::AtLeastOnce, payload), ReasonCode::Success);
            taker.expect_publish("t/x", payload);
        }
        taker.publish("back", QoS::ExactlyOnce, &large);
    }
    server.shutdown().expect("no shard failed");
    assert!(!path.exists(), "the socket's file goes with the broker");
}

#[test]
fn the_log_says_which_process_it_was_and_a_killed_brokers_file_is_replaced() {
    let config = "[store]\nsync = \"off\"\n\
                  [[listener]]\nbind = \"unix:{dir}/mqtt.sock\"\nallow_anonymous = true\nsocket_mode = \"0600\"\n";
    let mut broker = Process::start(config, |_| {});
    let path = broker.folder.path().join("mqtt.sock");
    Client::open_unix(&path, Version::V5).hello("me");
    broker.logged(&format!("pid={}", std::process::id()));
    assert!(broker.log().contains("address=unix:uid="), "{}", broker.log());
    broker.kill();
    assert!(path.exists());
    broker.restart();
    Client::open_unix(&path, Version::V5).hello("me again");
}
