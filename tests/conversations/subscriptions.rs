//! Subscriptions that overlap, options that meet, and limits on what a packet may ask.

use weirmq::limits::Limits;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Property;
use weirmq::protocol::reason::ReasonCode;

use crate::common::dialogue::*;
use crate::common::world::*;

fn no_local(qos: QoS) -> SubscribeOptions {
    SubscribeOptions { no_local: true, ..options(qos) }
}

/// A transient and a persistent client.
fn both_kinds(w: &mut World) -> [usize; 2] {
    [w.connect(V5, "transient"), w.resume(V5, "persistent")]
}

#[test]
fn no_local_is_judged_for_each_of_overlapping_subscriptions() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for c in both_kinds(&mut w) {
            w.subscribe_with(c, "t/+", no_local(QoS::ExactlyOnce), 5);
            w.subscribe_with(c, "t/1", options(QoS::AtMostOnce), 6);
            // Its own message reaches it by the other subscription alone.
            w.publish(c, "t/1", QoS::ExactlyOnce, "own");
            let frame = only_publish(&mut w, c);
            assert_eq!((identifiers(&frame), frame.publish().qos), (vec![6], QoS::AtMostOnce));
            w.publish(c, "t/2", QoS::ExactlyOnce, "own, and no other subscription");
            assert_eq!(w.take(c), []);
            w.publish(p, "t/1", QoS::ExactlyOnce, "another's");
            let got = w.drain(c);
            assert_eq!((got.len(), identifiers(&got[0])), (1, vec![5, 6]));
            assert_eq!(got[0].publish().qos, QoS::ExactlyOnce);
        }
        expect_balance(&w);
    }
}

#[test]
fn no_local_does_not_keep_what_other_sessions_of_the_shard_publish() {
    // One route is cached for all publishers but those that No Local keeps out.
    let mut w = World::new(1);
    let [a, b] = both_kinds(&mut w);
    for c in [a, b] {
        w.subscribe_with(c, "t", no_local(QoS::AtLeastOnce), 0);
    }
    for _ in 0..3 {
        w.publish(a, "t", QoS::AtLeastOnce, "of a");
        w.publish(b, "t", QoS::AtLeastOnce, "of b");
        assert_eq!(
            (payloads(&w.drain(a)), payloads(&w.drain(b))),
            (vec!["of b".into()], vec!["of a".into()])
        );
    }
}

#[test]
fn retain_as_published_of_any_overlapping_subscription_holds() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        let as_published = SubscribeOptions { retain_as_published: true, ..options(QoS::AtMostOnce) };
        for c in both_kinds(&mut w) {
            w.subscribe(c, "t/+", QoS::AtMostOnce);
            w.take(c);
            w.subscribe_with(c, "t/#", as_published, 0);
            w.take(c);
            w.publish_with(p, &Publish { retain: true, ..message("t/1", QoS::AtMostOnce, "x") });
            assert!(only_publish(&mut w, c).publish().retain);
            w.unsubscribe(c, "t/#");
            w.publish_with(p, &Publish { retain: true, ..message("t/1", QoS::AtMostOnce, "x") });
            assert!(!only_publish(&mut w, c).publish().retain);
        }
    }
}

#[test]
fn one_identifier_for_several_subscriptions_comes_as_often() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for c in both_kinds(&mut w) {
            for (filter, identifier) in [("t/+", 7), ("t/1", 7), ("#", 3)] {
                w.subscribe_with(c, filter, options(QoS::AtMostOnce), identifier);
            }
            w.publish(p, "t/1", QoS::AtMostOnce, "x");
            assert_eq!(identifiers(&only_publish(&mut w, c)), [3, 7, 7]);
        }
    }
}

#[test]
fn a_shared_and_a_plain_subscription_bring_a_copy_each() {
    for shards in [1, 3] {
        let mut w = World::new(shards);
        let p = w.connect(V5, "p");
        for c in both_kinds(&mut w) {
            w.subscribe_with(c, "t", options(QoS::AtLeastOnce), 1);
            w.subscribe_with(c, "$share/g/t", options(QoS::ExactlyOnce), 2);
            w.subscribe_with(c, "$share/h/+", options(QoS::AtMostOnce), 3);
            w.publish(p, "t", QoS::ExactlyOnce, "x");
            let mut told: Vec<_> =
                w.drain(c).iter().map(|frame| (identifiers(frame), frame.publish().qos)).collect();
            told.sort();
            assert_eq!(
                told,
                [(vec![1], QoS::AtLeastOnce), (vec![2], QoS::ExactlyOnce), (vec![3], QoS::AtMostOnce)]
            );
            for filter in ["t", "$share/g/t", "$share/h/+"] {
                w.unsubscribe(c, filter);
            }
        }
        expect_balance(&w);
    }
}

#[test]
fn a_fan_out_reaches_everyone_in_its_own_form() {
    // Consecutive messages of one publisher make a run, which is encoded once for those who want nothing
    // of their own; these all want something different.
    let mut w = World::new(2);
    let mut takers = Vec::new();
    for i in 0..30 {
        let version = [Version::V3, Version::V4, V5, V5, V5][i % 5];
        let client_id = format!("c{i}");
        let c = if i % 5 == 3 {
            open_with(&mut w, &client_id, true, &[Property::TopicAliasMaximum(1)])
        } else {
            w.connect(version, &client_id)
        };
        w.subscribe_with(c, "t", options(EVERY_QOS[i % 3]), if i % 5 == 4 { 9 } else { 0 });
        takers.push(c);
    }
    let p = w.connect(V5, "p");
    let expires = list(&[Property::MessageExpiryInterval(60), Property::UserProperty("a", "b")]);
    for (i, payload) in ["one", "two", "three"].into_iter().enumerate() {
        let publish = Publish {
            packet_id: Some(id(i as u16 + 1)),
            properties: expires.as_properties(),
            ..message("t", QoS::AtLeastOnce, payload)
        };
        w.put(p, &Packet::Publish(publish));
    }
    w.run();
    for (i, c) in takers.into_iter().enumerate() {
        let got = w.drain(c);
        assert_eq!(payloads(&got), ["one", "two", "three"], "{i}");
        for frame in &got {
            let publish = frame.publish();
            assert_eq!(publish.qos, EVERY_QOS[i % 3].min(QoS::AtLeastOnce));
            let told = user_properties(publish.properties);
            assert_eq!(told.len(), usize::from(frame.version == V5), "{i}");
            assert_eq!(identifiers(frame).len(), usize::from(i % 5 == 4));
        }
    }
    expect_balance(&w);
}

#[test]
fn user_properties_are_limited_in_number() {
    let limits = Limits { user_properties: 3, ..Limits::default() };
    let properties = |count| list(&vec![Property::UserProperty("a", "b"); count]);
    for count in [3, 4] {
        let properties = properties(count);
        let outcome = |w: &mut World, c: usize| match count {
            3 => expect_open(w, c),
            _ => {
                expect_closed(w, c, ReasonCode::QuotaExceeded);
            }
        };
        let mut w = World::limited(limits.clone());
        let c = w.connect(V5, "c");
        let publish = Publish { properties: properties.as_properties(), ..message("t", QoS::AtMostOnce, "") };
        w.send(c, &Packet::Publish(publish));
        outcome(&mut w, c);
        let c = w.connect(V5, "c");
        let mut raw = Vec::new();
        let filters = SubscribeFilters::encode([("t", options(QoS::AtMostOnce))], &mut raw);
        let subscribe = Subscribe { packet_id: id(1), properties: properties.as_properties(), filters };
        w.send(c, &Packet::Subscribe(subscribe));
        outcome(&mut w, c);
        let hello = Connect { properties: properties.as_properties(), ..connect(V5, "d", true) };
        assert_eq!(
            w.try_connect(&hello).map_err(|error| error.reason).err(),
            match count {
                3 => None,
                _ => Some(ReasonCode::QuotaExceeded),
            }
        );
    }
}

#[test]
fn a_request_and_its_response() {
    let mut w = World::new(3);
    let responder = w.connect(V5, "responder");
    w.subscribe(responder, "requests", QoS::AtLeastOnce);
    let (requester, connack) =
        connack_with(&mut w, "asks", true, &[Property::RequestResponseInformation(true)]);
    let base = find(connack_properties(&connack), |property| match property {
        Property::ResponseInformation(text) => Some(text.to_owned()),
        _ => None,
    });
    let response_topic = base.expect("asked for");
    w.subscribe(requester, &response_topic, QoS::AtLeastOnce);
    let properties =
        list(&[Property::ResponseTopic(&response_topic), Property::CorrelationData(b"\x00\x01 one")]);
    let request =
        Publish { properties: properties.as_properties(), ..message("requests", QoS::AtLeastOnce, "?") };
    w.publish_with(requester, &request);
    let frame = only_publish(&mut w, responder);
    let (mut topic, mut answer) = (None, list(&[]));
    for property in frame.publish().properties.iter() {
        match property {
            Property::ResponseTopic(name) => topic = Some(name),
            Property::CorrelationData(_) => answer.push(property),
            _ => {}
        }
    }
    let response = Publish {
        properties: answer.as_properties(),
        ..message(topic.expect("passed on"), QoS::AtLeastOnce, "!")
    };
    w.publish_with(responder, &response);
    let frame = only_publish(&mut w, requester);
    let expected = [Property::CorrelationData(b"\x00\x01 one")];
    assert_eq!(frame.publish().properties.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn no_local_is_about_live_messages() {
    // What is retained has no publisher any more: who subscribes is told it, whoever it came from. Brokers differ here,
    // for the standard does not say; a client that asks to be told (Retain Handling 0) is told.
    for shards in [1, 3] {
        let mut w = World::new(shards);
        for c in both_kinds(&mut w) {
            let own = Publish { retain: true, ..message("t", QoS::AtLeastOnce, "own") };
            w.publish_with(c, &own);
            w.subscribe_with(c, "t", no_local(QoS::AtLeastOnce), 0);
            assert_eq!(payloads(&w.drain(c)), ["own"]);
            w.publish_with(c, &own);
            assert_eq!(w.drain(c), [], "live, it is its own");
        }
    }
}
