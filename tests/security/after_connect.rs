//! What a client that has been let in can try: topics as deep as they can be, packet ids without end, packets that are not
//! its to send, values at the edge of their range. Shards without sockets, under virtual time.

use std::time::Duration;

use weirmq::acl::Acl;
use weirmq::broker::shard::{Census, CloseReason};
use weirmq::limits::Limits;
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::stats::DropReason;

use crate::common::dialogue::*;
use crate::common::wire::packet;
use crate::common::world::*;

const EVERY_VERSION: [Version; 3] = [Version::V3, Version::V4, V5];

/// A count from the environment for runs by hand, or the one for every day.
fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Runs it where recursion over the levels of a topic would be the end of the process.
fn on_a_small_stack(what: fn()) {
    let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn(what).expect("a thread");
    thread.join().expect("it does not panic");
}

/// Subscribes, publishes, retains, replays and takes it all away again, with what the server is to say to each.
fn goes_through(limits: Limits, topic: &str, refused: bool) {
    let mut w = World::limited(limits);
    let [c, p] = [w.resume(V5, "c"), w.connect(V5, "p")];
    let below = format!("{}/#", &topic[..topic.len() - 2]);
    let beside = format!("+/{}", topic.split_once('/').expect("two levels").1);
    for filter in [topic.to_owned(), below, beside] {
        send_subscribe(&mut w, c, &[(&filter, options(QoS::AtLeastOnce))]);
        let expected = if refused { ReasonCode::TopicFilterInvalid as u8 } else { QoS::AtLeastOnce as u8 };
        assert_eq!(codes(&w.take_one(c)), [expected]);
    }
    for (payload, retain) in [("live", false), ("kept", true), ("", true)] {
        let publish = Publish { retain, ..message(topic, QoS::AtLeastOnce, payload) };
        let reason = w.publish_with(p, &publish);
        let expected = if refused { ReasonCode::TopicNameInvalid } else { ReasonCode::Success };
        assert_eq!(reason, expected, "{payload}");
        if payload == "kept" && !refused {
            let late = w.connect(V5, "late");
            w.subscribe(late, topic, QoS::AtLeastOnce);
            assert_eq!(payloads(&w.drain(late)), ["kept"]);
            w.cut(late);
        }
    }
    assert_eq!(w.drain(c).len(), if refused { 0 } else { 3 });
    let gone = w.unsubscribe(c, topic);
    assert_eq!(gone, Some(if refused { ReasonCode::NoSubscriptionExisted } else { ReasonCode::Success }));
    w.cut(c);
    w.advance(Duration::from_secs(3601));
    assert_eq!(w.shards[0].census().sessions, 1, "the session of that client is over, with all that it had");
    assert_eq!(w.shared.retained().count(), 0);
}

#[test]
fn slashes_without_end_need_no_stack_and_are_refused() {
    on_a_small_stack(|| goes_through(Limits::default(), &"/".repeat(65_534), true));
    // As many bytes as may be, and too many levels all the same.
    on_a_small_stack(|| goes_through(Limits::default(), &"/".repeat(4096), true));
    on_a_small_stack(|| goes_through(Limits::default(), &"a/".repeat(128), true));
    on_a_small_stack(|| goes_through(Limits::default(), &"a/".repeat(127), false));
}

#[test]
fn slashes_without_end_need_no_stack_where_they_are_allowed() {
    on_a_small_stack(|| {
        let limits = Limits { topic_levels: usize::MAX, topic_length: usize::MAX, ..Limits::default() };
        // One less, so that the filter which asks for what is below still fits.
        goes_through(limits, &"/".repeat(65_534), false);
    });
}

fn exactly_once(packet_id: u16, payload: &str) -> Packet<'_> {
    Packet::Publish(Publish { packet_id: Some(id(packet_id)), ..message("t", QoS::ExactlyOnce, payload) })
}

#[test]
fn a_qos_2_id_without_pubrel_is_one_message_however_often_it_comes() {
    let repeats = count("WEIRMQ_REPEATS", 50_000);
    for version in EVERY_VERSION {
        let mut w = World::new(1);
        let (p, t) = (w.connect(version, "p"), w.connect(V5, "t"));
        w.subscribe(t, "t", QoS::AtMostOnce);
        let mut bytes = Vec::new();
        codec::encode(version, &exactly_once(7, "x"), &mut bytes);
        let hundred = bytes.repeat(100);
        for _ in 0..repeats / 100 {
            w.send_bytes(p, &hundred);
            let answers = w.take(p);
            assert_eq!(answers.len(), 100);
            assert!(answers.iter().all(|frame| matches!(frame.packet(), Packet::PubRec(_))));
        }
        assert_eq!(w.take(t).len(), 1, "{version:?}");
        expect_open(&mut w, p);
    }
}

#[test]
fn qos_2_ids_without_pubrel_end_at_the_receive_maximum() {
    for maximum in [1, 1000, 32_767, 32_768, 65_535] {
        let mut w = World::limited(Limits { receive_maximum: maximum, ..Limits::default() });
        let p = w.resume(V5, "p");
        for number in 1..=maximum {
            w.send(p, &exactly_once(number, ""));
            assert!(matches!(w.take_one(p).packet(), Packet::PubRec(_)));
        }
        expect_open(&mut w, p);
        if maximum == u16::MAX {
            continue;
        }
        w.send(p, &exactly_once(maximum + 1, ""));
        expect_closed(&mut w, p, ReasonCode::ReceiveMaximumExceeded);
        // The next connection may have as many of its own, repeats of earlier ones among them.
        let p = w.resume(V5, "p");
        for number in 2..=maximum + 1 {
            w.send(p, &exactly_once(number, ""));
            assert!(matches!(w.take_one(p).packet(), Packet::PubRec(_)));
        }
        expect_open(&mut w, p);
        w.send(p, &exactly_once(1, ""));
        expect_closed(&mut w, p, ReasonCode::ReceiveMaximumExceeded);
    }
}

/// The largest numbers that a client can name are its own affair: what is under way to it stays within the server's bound.
#[test]
fn the_clients_receive_maximum_holds_at_the_edges_and_anew_in_each_connection() {
    for maximum in [1, 32_767, 32_768, 65_535] {
        let mut w = World::limited(Limits { max_inflight: u16::MAX, ..Limits::default() });
        let receive = [expiry(100), Property::ReceiveMaximum(maximum)];
        let (mut c, p) = (open_with(&mut w, "c", false, &receive), w.connect(V5, "p"));
        w.subscribe(c, "t", QoS::AtLeastOnce);
        let sent = usize::from(maximum) + 10;
        for number in 0..sent {
            w.send(p, &Packet::Publish(message("t", QoS::AtMostOnce, "")));
            // QoS 0 is bounded by the buffer alone.
            assert_eq!(w.take(c).len(), 1, "{number}");
        }
        for _ in 0..sent {
            w.publish(p, "t", QoS::AtLeastOnce, "");
        }
        let all = sent.min(usize::from(u16::MAX));
        let at_once = all.min(maximum.into());
        for connection in 0..3 {
            let frames = w.take(c);
            assert_eq!(frames.len(), at_once, "{maximum}, connection {connection}");
            w.cut(c);
            c = open_with(&mut w, "c", false, &receive);
        }
    }
}

/// A packet of each type as a client could send it, and whether a server may be sent it at all.
fn of_each_type(version: Version) -> Vec<(PacketType, bool, Vec<u8>)> {
    let v5 = version == V5;
    let either = |five: &'static str, older: &'static str| if v5 { five } else { older };
    let hello = match version {
        Version::V3 => "0006'MQIsdp'03 02 003C 0001'c'",
        Version::V4 => "0004'MQTT'04 02 003C 0001'c'",
        Version::V5 => "0004'MQTT'05 02 003C 00 0001'c'",
    };
    use PacketType::*;
    let mut all = vec![
        (Connect, false, packet(0x10, hello)),
        (ConnAck, false, packet(0x20, either("00 00 00", "00 00"))),
        (Publish, true, packet(0x32, either("0001't' 0009 00", "0001't' 0009"))),
        (PubAck, true, packet(0x40, "0009")),
        (PubRec, true, packet(0x50, "0009")),
        (PubRel, true, packet(0x62, "0009")),
        (PubComp, true, packet(0x70, "0009")),
        (Subscribe, true, packet(0x82, either("0009 00 0001't' 00", "0009 0001't' 00"))),
        (SubAck, false, packet(0x90, either("0009 00 00", "0009 00"))),
        (Unsubscribe, true, packet(0xA2, either("0009 00 0001't'", "0009 0001't'"))),
        (UnsubAck, false, packet(0xB0, either("0009 00 00", "0009"))),
        (PingReq, true, packet(0xC0, "")),
        (PingResp, false, packet(0xD0, "")),
        (Disconnect, true, packet(0xE0, "")),
    ];
    if v5 {
        all.push((Auth, false, packet(0xF0, "18 04 15 0001'K'")));
    }
    all
}

/// Brings a connection into each of the states in which a packet can find it.
fn in_each_state(version: Version) -> Vec<(&'static str, World, usize)> {
    let states = [
        "fresh",
        "subscribed",
        "sent qos 1",
        "sent qos 2",
        "sent pubrel",
        "received qos 2",
        "full",
        "resumed",
    ];
    let mut all = Vec::new();
    for state in states {
        let mut w = World::limited(Limits { max_inflight: 1, ..Limits::default() });
        let mut c = w.resume(version, "c");
        let p = w.connect(V5, "p");
        let qos = if state == "sent qos 1" { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        if !matches!(state, "fresh" | "received qos 2") {
            w.subscribe(c, "t", qos);
        }
        let publishes = match state {
            "sent qos 1" | "sent qos 2" | "sent pubrel" | "resumed" => 1,
            "full" => 5,
            _ => 0,
        };
        for _ in 0..publishes {
            w.publish(p, "t", qos, "x");
        }
        match state {
            "sent pubrel" => {
                let sent = w.take(c)[0].publish().packet_id.expect("an id");
                w.send(c, &Packet::PubRec(ack_of(sent)));
            }
            "received qos 2" => w.send(c, &exactly_once(9, "x")),
            "resumed" => {
                w.cut(c);
                c = w.resume(version, "c");
            }
            _ => {}
        }
        w.take(c);
        all.push((state, w, c));
    }
    all
}

#[test]
fn packets_in_the_wrong_state_or_direction_end_their_connection_and_nothing_else() {
    for version in EVERY_VERSION {
        for (packet_type, is_the_clients, bytes) in of_each_type(version) {
            for (state, mut w, c) in in_each_state(version) {
                let other = w.connect(V5, "other");
                w.send_bytes(c, &bytes);
                let what = format!("{version:?} {packet_type:?} {state}");
                if !is_the_clients {
                    assert_eq!(w.closed_with(c), Some(ReasonCode::ProtocolError), "{what}");
                    let told = w.take(c).pop().map(|frame| frame.packet().packet_type());
                    assert_eq!(told, (version == V5).then_some(PacketType::Disconnect), "{what}");
                } else if packet_type == PacketType::Disconnect {
                    assert_eq!(w.clients[c].closed, Some(CloseReason::Disconnected), "{what}");
                } else if let Some(reason) = w.closed_with(c) {
                    // An acknowledgement of another kind than the delivery asks for is the one thing left to be wrong.
                    assert_eq!(reason, ReasonCode::ProtocolError, "{what}");
                    assert!(matches!(
                        packet_type,
                        PacketType::PubAck | PacketType::PubRec | PacketType::PubComp
                    ));
                    assert!(state.starts_with("sent") || matches!(state, "full" | "resumed"), "{what}");
                }
                expect_open(&mut w, other);
                // Whatever came of it, the session and its books are sound.
                expect_balance(&w);
                let again = w.resume(version, "c");
                w.drain(again);
                expect_balance(&w);
            }
        }
    }
}

#[test]
fn flags_types_and_ids_that_there_are_not_are_malformed_in_every_state() {
    for version in EVERY_VERSION {
        for (first, body) in [(0x00, ""), (0x36, "0001't'0009"), (0x60, "0009"), (0x80, ""), (0x82, "0000")] {
            for (state, mut w, c) in in_each_state(version) {
                w.send_bytes(c, &packet(first, body));
                assert_eq!(
                    w.closed_with(c),
                    Some(ReasonCode::MalformedPacket),
                    "{version:?} {first:02X} {state}"
                );
            }
        }
    }
}

/// A CONNECT for a session that is to be kept for ever.
fn for_ever<'a>(forever: &'a PropertiesBuf, client_id: &'a str) -> Connect<'a> {
    Connect { properties: forever.as_properties(), ..connect(V5, client_id, false) }
}

#[test]
fn heaps_of_persistent_sessions_end_at_the_cap_and_with_their_expiry() {
    let most = count("WEIRMQ_SESSIONS", 20_000);
    let limits =
        Limits { max_sessions: most, session_expiry_max: Some(Duration::from_secs(60)), ..Limits::default() };
    let (mut w, forever) = (World::limited(limits), list(&[expiry(u32::MAX)]));
    for number in 0..most {
        let c = w.open(&for_ever(&forever, &number.to_string()));
        w.cut(c);
        // The client's side of it is nothing to keep.
        w.clients.clear();
    }
    assert_eq!(w.shards[0].census().sessions, most);
    let error = w.try_connect(&for_ever(&forever, "one too many")).expect_err("there is no room");
    assert_eq!(error.reason, ReasonCode::QuotaExceeded);
    // Who has a session has it still.
    let c = w.open(&for_ever(&forever, "0"));
    w.cut(c);
    w.advance(Duration::from_secs(62));
    assert_eq!(w.shards[0].census().sessions, 0, "nobody's session outlives the maximum");
    w.open(&for_ever(&forever, "one too many"));
}

#[test]
fn a_reconnect_storm_leaves_one_connection_for_each_id() {
    let connects = count("WEIRMQ_STORM", 5_000);
    let mut w = World::new(3);
    let mut random = fastrand::Rng::with_seed(26_022_040);
    for round in 0..connects {
        let name = ["storm", "a", "b"][random.usize(..3)];
        let version = EVERY_VERSION[random.usize(..3)];
        let c = if random.bool() { w.resume(version, name) } else { w.connect(version, name) };
        match random.usize(..4) {
            0 => send_subscribe(&mut w, c, &[("t", options(QoS::ExactlyOnce))]),
            1 => drop(w.publish(c, "t", QoS::AtLeastOnce, "x")),
            2 => w.cut(c),
            _ => {}
        }
        if round % 100 == 99 {
            let census = w.shards.iter().map(|shard| shard.census()).fold(Census::default(), Census::and);
            assert!(census.connected <= 3 && census.sessions <= 3, "{census:?}");
            expect_balance(&w);
        }
    }
    let open = w.clients.iter().filter(|client| client.connection.is_some()).count();
    assert!(open <= 3, "{open} connections of three ids");
}

#[test]
fn a_will_delay_without_end_ends_with_its_session() {
    for (kept, ends_after) in [(0, 0), (30, 30), (u32::MAX, 60)] {
        let limits = Limits { session_expiry_max: Some(Duration::from_secs(60)), ..Limits::default() };
        let mut w = World::limited(limits);
        let ear = w.connect(V5, "ear");
        w.subscribe(ear, "will", QoS::AtMostOnce);
        let c = with_will(&mut w, "c", kept, u32::MAX, will("will", "at last"));
        w.cut(c);
        if ends_after > 0 {
            w.advance(Duration::from_secs(ends_after - 1));
            assert_eq!(w.take(ear), [], "{kept}");
        }
        w.advance(Duration::from_secs(2));
        assert_eq!(payloads(&w.take(ear)), ["at last"], "{kept}");
    }
    // Where sessions may be kept for ever it never comes, and nothing overflows on the way.
    let mut w = World::limited(Limits { session_expiry_max: None, ..Limits::default() });
    let ear = w.connect(V5, "ear");
    w.subscribe(ear, "will", QoS::AtMostOnce);
    let c = with_will(&mut w, "c", u32::MAX, u32::MAX, will("will", "never"));
    w.cut(c);
    w.advance(Duration::from_secs(1_000_000_000));
    assert_eq!(w.take(ear), []);
}

const RULES: &str = "user ann\ntopic read open/#\ntopic deny write secret/plan\ntopic write secret/#\n";

#[test]
fn reason_strings_tell_nothing_of_the_rules() {
    let acl = Acl::from_bytes(RULES.as_bytes()).expect("a file");
    let mut w = World::with(WorldSettings { acl: Some(acl), ..WorldSettings::default() });
    let c = w.connect(V5, "c");
    // By a rule that denies, and by none that grants: nothing tells the two apart.
    let mut told = Vec::new();
    for topic in ["secret/plan", "secret/other", "nothing/of/the/kind", "open/x"] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            w.send(c, &Packet::Publish(Publish { packet_id: Some(id(5)), ..message(topic, qos, "") }));
            let frame = w.take_one(c);
            let (Packet::PubAck(ack) | Packet::PubRec(ack)) = frame.packet() else { panic!("{frame:?}") };
            assert_eq!(ack.reason, ReasonCode::NotAuthorized);
            told.push(reason_string(ack.properties).map(str::to_owned));
        }
        send_subscribe(&mut w, c, &[(topic, options(QoS::AtMostOnce))]);
        let frame = w.take_one(c);
        let Packet::SubAck(ack) = frame.packet() else { panic!("{frame:?}") };
        assert_eq!(ack.reasons, [ReasonCode::NotAuthorized as u8]);
        told.push(reason_string(ack.properties).map(str::to_owned));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    for word in ["ann", "secret", "open", "rule", "line", "deny", "file"] {
        assert!(!told[0].as_deref().unwrap_or_default().contains(word), "{told:?}");
    }
    assert_eq!(dropped(&w, DropReason::Unauthorised), 8);
}
