//! Records there and back, and bytes that are none.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::limits::QueueRule;
use crate::message::PeerId;
use crate::meter::QueueMeter;
use crate::store::Record;
use crate::store::encode::Encoder;
use crate::target::{GroupTarget, Identifiers, Target};
use crate::will::Will;

const WALL: u64 = 1_800_000_000_000;

fn clock() -> Clock {
    Clock::new(Instant::now(), WALL)
}

fn encoded(clock: Clock, record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(Encoder::new(clock).encode(record, &mut out));
    out
}

fn target(queue: u64, qos: QoS, retain_as_published: bool, identifiers: Vec<u32>, since: u64) -> Target {
    Target {
        queue: QueueId(queue),
        home: PeerId(0),
        qos,
        retain_as_published,
        identifiers: Identifiers::several(identifiers),
        since,
        meter: Arc::new(QueueMeter::new(&QueueRule::default())),
    }
}

fn group(queue: u64, durable: bool) -> GroupTarget {
    GroupTarget {
        queue: QueueId(queue),
        home: PeerId(0),
        filter: "f".into(),
        group: "g".into(),
        durable,
        meter: Arc::new(QueueMeter::new(&QueueRule::default())),
    }
}

fn message(parts: MessageParts<'_>) -> Arc<Message> {
    Arc::new(Message::new(parts))
}

fn plain(qos: QoS) -> MessageParts<'static> {
    MessageParts {
        id: MessageId(7 << 48 | 9),
        publisher: None,
        qos,
        retain: false,
        expires: None,
        version: 0,
        topic: "a/b",
        properties: b"",
        payload: b"payload",
    }
}

fn stored(bytes: &[u8]) -> StoredMessage<'_> {
    match Stored::decode(bytes) {
        Some(Stored::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn packet_id(id: u16) -> PacketId {
    NonZeroU16::new(id).unwrap()
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..50u64, (0..3u64, 0..200u64).prop_map(|(shard, count)| shard << 48 | count), any::<u64>()]
}

prop_compose! {
    fn terms()(qos in qos(), retain in any::<bool>(), identifiers in vec(1..4u32, 0..3), since in 0..4u64)
        -> (QoS, bool, Vec<u32>, u64)
    {
        (qos, retain, identifiers, since)
    }
}

proptest! {
    #[test]
    fn a_message_comes_back_as_each_queue_is_to_have_it(
        id in number(),
        publisher in option::of((number(), any::<u32>())),
        (qos, retain, version) in (qos(), any::<bool>(), 0..4u64),
        expires in option::of(0..u64::from(u32::MAX)),
        (topic, properties, payload) in (".{0,40}", vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..200)),
        targets in btree_map(number(), terms(), 0..30),
        groups in btree_map(number(), any::<bool>(), 0..4),
        received in option::of((number(), 1..=u16::MAX)),
        will_of in option::of(number()),
    ) {
        let clock = clock();
        let start = clock.instant(WALL).unwrap();
        let publisher =
            publisher.map(|(queue, client_hash)| Publisher { queue: QueueId(queue), client_hash });
        let message = message(MessageParts {
            id: MessageId(id),
            publisher,
            qos,
            retain,
            expires: expires.map(|seconds| start + Duration::from_secs(seconds)),
            version,
            topic: &topic,
            properties: &properties,
            payload: &payload,
        });
        let groups: Vec<(u64, bool)> =
            groups.into_iter().filter(|(queue, _)| !targets.contains_key(queue)).collect();
        let queues: Vec<Target> = targets
            .into_iter()
            .map(|(queue, (qos, rap, identifiers, since))| target(queue, qos, rap, identifiers, since))
            .collect();
        let groups: Vec<GroupTarget> =
            groups.into_iter().map(|(queue, durable)| group(queue, durable)).collect();
        let received = received.map(|(queue, id)| (QueueId(queue), packet_id(id)));
        let will_of = will_of.map(QueueId);
        let mut bytes = Vec::new();
        let record =
            Record::Message { message: &message, queues: &queues, groups: &groups, received, will_of };
        let written = Encoder::new(clock).encode(&record, &mut bytes);

        let kept = |target: &&Target| {
            target.qos.min(qos) > QoS::AtMostOnce && (version == 0 || version > target.since)
        };
        let mut expected: Vec<QueueId> = queues.iter().filter(kept).map(|target| target.queue).collect();
        if qos > QoS::AtMostOnce {
            expected.extend(groups.iter().filter(|group| group.durable).map(|group| group.queue));
        }
        expected.sort_unstable();
        let matters = received.is_some() || will_of.is_some() || version != 0 || !expected.is_empty();
        prop_assert_eq!(written, matters);
        if !written {
            prop_assert!(bytes.is_empty());
            return Ok(());
        }
        let stored = stored(&bytes);
        prop_assert_eq!(
            (stored.id, stored.qos, stored.retain, stored.received, stored.will_of, stored.version()),
            (message.id, qos, retain, received, will_of, version)
        );
        prop_assert_eq!(stored.replayed(), None);
        let mut found: Vec<QueueId> = stored.queues().map(|(queue, _)| queue).collect();
        found.sort_unstable();
        prop_assert_eq!(&found, &expected);
        if !expected.is_empty() || version != 0 {
            prop_assert_eq!(stored.size(), message.size());
            let back = stored.message(&clock).unwrap();
            prop_assert_eq!(back.publisher, message.publisher);
            prop_assert_eq!(back.expires, message.expires);
            prop_assert_eq!(
                (back.topic(), back.properties(), back.payload()),
                (message.topic(), message.properties(), message.payload())
            );
        }
        for target in &queues {
            let entry = stored.entry(target.queue, &clock);
            prop_assert_eq!(entry.is_some(), kept(&target));
            if let Some(entry) = entry {
                prop_assert_eq!(entry.qos, target.qos.min(qos));
                prop_assert_eq!(entry.retain, retain && target.retain_as_published);
                prop_assert_eq!(&entry.identifiers, &target.identifiers);
            }
        }
        for group in groups.iter().filter(|group| group.durable && qos > QoS::AtMostOnce) {
            let entry = stored.entry(group.queue, &clock).unwrap();
            prop_assert_eq!((entry.qos, entry.retain), (qos, retain));
            prop_assert!(entry.identifiers.is_empty());
        }
        for len in 0..bytes.len().saturating_sub(payload.len()) {
            let cut = Stored::decode(&bytes[..len]);
            prop_assert!(!matches!(cut, Some(Stored::Message(cut)) if cut.body.is_some()));
        }
    }

    #[test]
    fn a_copy_says_how_far_its_replay_has_come(
        (id, session, filter, topic) in (number(), number(), ".{1,30}", ".{1,30}"),
        (qos, payload) in (qos(), vec(any::<u8>(), 0..50)),
    ) {
        let copy = message(MessageParts { id: MessageId(id), topic: &topic, payload: &payload, ..plain(qos) });
        let target = target(session, QoS::ExactlyOnce, true, vec![4], 0);
        let mut bytes = Vec::new();
        let record = Record::Copied { message: &copy, target: &target, filter: &filter };
        prop_assert_eq!(Encoder::new(clock()).encode(&record, &mut bytes), qos > QoS::AtMostOnce);
        if qos > QoS::AtMostOnce {
            let stored = stored(&bytes);
            prop_assert_eq!(stored.replayed(), Some((QueueId(session), &*filter, &*topic)));
            let back = stored.message(&clock()).unwrap();
            prop_assert_eq!(back.payload(), &payload);
            prop_assert!(stored.entry(QueueId(session), &clock()).is_some());
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_not(bytes in vec(any::<u8>(), 0..300)) {
        read_through(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_kind_are_a_record_or_not(kind in 0..14u8, mut bytes in vec(0..20u8, 0..60)) {
        bytes.insert(0, kind);
        read_through(&bytes);
    }

    #[test]
    fn a_session_comes_back(
        (queue, client_id, user, expiry) in (number(), ".{0,30}", option::of(".{0,30}"), any::<u32>()),
        detached in option::of(0..1_000_000u64),
        will in option::of((qos(), any::<bool>(), ".{1,20}", vec(any::<u8>(), 0..50), vec(any::<u8>(), 0..9))),
        (will_expiry, delay) in (option::of(any::<u32>()), any::<u32>()),
    ) {
        let clock = clock();
        let parts = will.as_ref().map(|(qos, retain, topic, payload, properties)| WillParts {
            qos: *qos,
            retain: *retain,
            topic,
            payload,
            properties,
            expiry: will_expiry,
            delay,
        });
        let will = parts.map(Will::from_parts);
        let since = detached.map(|ago| clock.instant(WALL - ago).unwrap());
        let (queue, client_id) = (QueueId(queue), &*client_id);
        let user = user.as_deref();
        let record = Record::Session { queue, client_id, user, expiry, detached: since, will: will.as_ref() };
        let bytes = encoded(clock, &record);
        let Some(Stored::Session(session)) = Stored::decode(&bytes) else { panic!("{bytes:?}") };
        prop_assert_eq!((session.queue, session.client_id, session.expiry), (queue, client_id, expiry));
        prop_assert_eq!(session.user, user);
        prop_assert_eq!(session.detached, detached.map(|ago| WALL - ago));
        prop_assert_eq!(session.will, parts);
    }

    #[test]
    fn a_subscription_comes_back(
        (session, filter, options, identifier) in (number(), ".{1,30}", any::<u8>(), any::<u32>()),
        (group, since, replay) in (option::of(number()), any::<u64>(), any::<bool>()),
    ) {
        let (session, filter, group) = (QueueId(session), &*filter, group.map(QueueId));
        let record = Record::Subscribed { session, filter, options, identifier, group, since, replay };
        let bytes = encoded(clock(), &record);
        let Some(Stored::Subscribed(subscription)) = Stored::decode(&bytes) else { panic!("{bytes:?}") };
        let expected = StoredSubscription { session, filter, options, identifier, group, since, replay };
        prop_assert_eq!(subscription, expected);
    }

    #[test]
    fn what_is_only_numbers_and_names_comes_back(
        (queue, other, message) in (number(), number(), number()),
        (id, filter, topic) in (1..=u16::MAX, ".{1,30}", option::of(".{1,30}")),
    ) {
        let (queue, from, message, packet_id) =
            (QueueId(queue), QueueId(other), MessageId(message), packet_id(id));
        let (filter, topic) = (&*filter, topic.as_deref());
        for record in [
            Record::Released(queue, packet_id),
            Record::Sent { session: queue, packet_id, message, from },
            Record::Stepped(queue, packet_id),
            Record::Completed(queue, packet_id),
            Record::Acked(queue, message),
            Record::SessionEnded(queue),
            Record::Unsubscribed(queue, filter),
            Record::Replayed { session: queue, filter, topic },
            Record::GroupEnded(queue),
        ] {
            let bytes = encoded(clock(), &record);
            // What is only numbers and names prints alike in both forms.
            prop_assert_eq!(format!("{:?}", Stored::decode(&bytes).unwrap()), format!("{record:?}"));
            for len in 0..bytes.len() {
                let _ = Stored::decode(&bytes[..len]);
            }
        }
    }
}

/// Whatever reads as a record can be walked through.
fn read_through(bytes: &[u8]) {
    if let Some(Stored::Message(message)) = Stored::decode(bytes) {
        for (queue, _) in message.queues() {
            assert!(message.entry(queue, &clock()).is_some());
        }
        assert!(message.size() >= size_of::<Message>());
    }
}

#[test]
fn ten_thousand_queues_take_at_most_four_bytes_each() {
    let sessions: Vec<Target> = (0..10_000)
        .map(|session| target((2 << 48) + 500 + 40 * session, QoS::AtLeastOnce, false, vec![], 0))
        .collect();
    let message = message(plain(QoS::AtLeastOnce));
    let record =
        Record::Message { message: &message, queues: &sessions, groups: &[], received: None, will_of: None };
    let bytes = encoded(clock(), &record);
    assert!(bytes.len() < 11_100, "{}", bytes.len());
    assert_eq!(stored(&bytes).queues().count(), 10_000);
}

#[test]
fn a_small_message_for_one_queue_takes_few_bytes_besides() {
    let queues = [target(3 << 48 | 100_000, QoS::AtLeastOnce, false, vec![], 0)];
    let message = message(MessageParts { id: MessageId(1 << 48 | 5_000_000), ..plain(QoS::AtLeastOnce) });
    let record =
        Record::Message { message: &message, queues: &queues, groups: &[], received: None, will_of: None };
    let bytes = encoded(clock(), &record);
    assert!(bytes.len() <= 10 + 23, "{}", bytes.len());
    assert!(encoded(clock(), &Record::Acked(queues[0].queue, message.id)).len() <= 10);
}

#[test]
fn a_packet_id_alone_is_kept_without_the_body() {
    let message = message(plain(QoS::ExactlyOnce));
    let received = Some((QueueId(4), packet_id(2)));
    let record = Record::Message { message: &message, queues: &[], groups: &[], received, will_of: None };
    let bytes = encoded(clock(), &record);
    assert!(bytes.len() < 16);
    assert!(stored(&bytes).body.is_none() && stored(&bytes).message(&clock()).is_none());
}
