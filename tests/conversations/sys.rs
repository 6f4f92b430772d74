//! The `$SYS` topics: their names, their values, and who may write them.

use std::collections::BTreeMap;
use std::time::Duration;

use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

fn with_sys(shards: u16) -> World {
    World::with(WorldSettings { shards, sys_interval: Duration::from_secs(10), ..WorldSettings::default() })
}

/// What a client gets by subscribing to this filter now.
fn read(w: &mut World, filter: &str) -> BTreeMap<String, String> {
    let c = w.connect(V5, "reader");
    w.subscribe(c, filter, QoS::AtMostOnce);
    let got = w.take(c);
    w.unsubscribe(c, filter);
    got.iter()
        .map(|frame| {
            assert!(frame.publish().retain);
            let value = String::from_utf8_lossy(frame.publish().payload).into_owned();
            (frame.publish().topic.to_owned(), value)
        })
        .collect()
}

#[test]
fn the_topics_are_mosquittos() {
    let mut w = with_sys(2);
    let c = w.resume(V5, "c");
    w.subscribe(c, "t", QoS::AtLeastOnce);
    w.advance(Duration::from_secs(61));
    let values = read(&mut w, "$SYS/#");
    for name in [
        "version",
        "uptime",
        "clients/connected",
        "clients/disconnected",
        "clients/maximum",
        "clients/total",
        "clients/expired",
        "messages/received",
        "messages/sent",
        "publish/messages/received",
        "publish/messages/sent",
        "publish/messages/dropped",
        "publish/bytes/received",
        "publish/bytes/sent",
        "bytes/received",
        "bytes/sent",
        "subscriptions/count",
        "shared_subscriptions/count",
        "retained messages/count",
        "store/messages/count",
        "store/messages/bytes",
        "store/damaged",
        "load/messages/received/1min",
        "load/messages/sent/5min",
        "load/publish/received/15min",
        "load/bytes/sent/1min",
        "load/connections/1min",
    ] {
        assert!(values.contains_key(&format!("$SYS/broker/{name}")), "{name} in {values:?}");
    }
    assert!(values["$SYS/broker/version"].starts_with("weirmq version "));
    assert_eq!(values["$SYS/broker/uptime"], "60 seconds");
}

#[test]
fn the_values_are_those_of_all_shards() {
    let mut w = with_sys(3);
    let takers = ["a", "b", "cc"].map(|client_id| w.resume(V5, client_id));
    for c in takers {
        w.subscribe(c, "t", QoS::AtLeastOnce);
        w.subscribe(c, "$share/g/u", QoS::AtLeastOnce);
    }
    w.cut(takers[0]);
    let p = w.connect(V5, "p");
    for _ in 0..4 {
        w.publish(p, "t", QoS::AtLeastOnce, "12345");
    }
    w.publish_with(p, &Publish { retain: true, ..message("r", QoS::AtLeastOnce, "x") });
    w.publish(p, "nobody", QoS::AtLeastOnce, "x");
    assert_eq!(w.drain(takers[1]).len() + w.drain(takers[2]).len(), 8);
    w.advance(Duration::from_secs(10));
    let values = read(&mut w, "$SYS/broker/#");
    for (name, value) in [
        ("clients/connected", "3"),
        ("clients/disconnected", "1"),
        ("clients/total", "4"),
        ("subscriptions/count", "6"),
        ("shared_subscriptions/count", "3"),
        ("publish/messages/received", "6"),
        ("publish/bytes/received", "22"),
        ("publish/messages/sent", "8"),
        ("publish/bytes/sent", "40"),
        ("publish/messages/dropped", "1"),
        ("store/messages/count", "4"),
    ] {
        assert_eq!(values[&format!("$SYS/broker/{name}")], value, "{name}");
    }
}

#[test]
fn only_what_changed_is_published() {
    let mut w = with_sys(1);
    let c = w.connect(V5, "c");
    w.subscribe(c, "$SYS/broker/subscriptions/count", QoS::AtMostOnce);
    w.subscribe(c, "$SYS/broker/uptime", QoS::AtMostOnce);
    w.advance(Duration::from_secs(10));
    w.take(c);
    w.advance(Duration::from_secs(30));
    let got = w.take(c);
    assert!(got.iter().all(|frame| frame.publish().topic == "$SYS/broker/uptime"), "{got:?}");
    assert_eq!(payloads(&got), ["20 seconds", "30 seconds", "40 seconds"]);
    w.subscribe(c, "more", QoS::AtMostOnce);
    w.advance(Duration::from_secs(10));
    assert!(payloads(&w.take(c)).contains(&"3".to_owned()));
}

#[test]
fn nobody_else_writes_them_and_no_wildcard_reaches_them() {
    let mut w = with_sys(2);
    let c = w.connect(V5, "c");
    for filter in ["#", "+/#", "+/broker/uptime"] {
        w.subscribe(c, filter, QoS::AtLeastOnce);
    }
    w.advance(Duration::from_secs(60));
    assert_eq!(w.take(c), []);
    for topic in ["$SYS/broker/uptime", "$SYS", "$SYS/x", "$share/g/t"] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(w.publish(c, topic, qos, "x"), ReasonCode::NotAuthorized, "{topic}");
        }
        w.publish_with(c, &Publish { retain: true, ..message(topic, QoS::AtMostOnce, "forged") });
    }
    assert_eq!(read(&mut w, "$SYS/broker/uptime").into_values().collect::<Vec<_>>(), ["60 seconds"]);
    expect_balance(&w);
}

#[test]
fn other_dollar_topics_are_the_clients_own() {
    let mut w = World::new(1);
    let (c, p) = (w.connect(V5, "c"), w.connect(V5, "p"));
    w.subscribe(c, "$mine/#", QoS::AtMostOnce);
    assert_eq!(w.publish(p, "$mine/a", QoS::AtLeastOnce, "x"), ReasonCode::Success);
    assert_eq!(payloads(&w.take(c)), ["x"]);
}
