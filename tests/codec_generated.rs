//! The codec against packets that nobody wrote: what is encoded decodes to the same, and of mutated packets
//! each decodes to something consistent or is refused, without a panic.
//!
//! `WEIRMQ_MUTATIONS` is the number of mutated packets and `WEIRMQ_SEED` where they begin.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use weirmq::protocol::codec::*;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;

#[path = "common/consistent.rs"]
mod consistent;
#[path = "common/packets.rs"]
mod packets;
use consistent::is_consistent;
use packets::{Pool, Scratch, count_from_env, mutate, packet};

const VERSIONS: [Version; 3] = [Version::V3, Version::V4, Version::V5];

fn seed() -> u64 {
    count_from_env("WEIRMQ_SEED", 1)
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let mut rng = Rng::with_seed(seed());
    let mut scratch = Scratch::default();
    let mut seen = [[0; 16]; 3];
    for _ in 0..1_000 {
        let pool = Pool::new(&mut rng);
        for (version, seen) in VERSIONS.into_iter().zip(&mut seen) {
            for _ in 0..15 {
                let packet = packet(&mut rng, version, &pool, &mut scratch);
                seen[packet.packet_type() as usize] += 1;
                round_trip(version, &packet);
            }
        }
    }
    for (version, seen) in VERSIONS.into_iter().zip(seen) {
        let last = if version == Version::V5 { 15 } else { 14 };
        assert!(seen[1..=last].iter().all(|&count| count > 100), "{version:?}: {seen:?}");
    }
}

fn round_trip(version: Version, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    encode(version, packet, &mut bytes);
    assert_eq!(decode(version, &bytes).as_ref(), Ok(packet));
    let before_connect = matches!(packet, Packet::Connect(_)).then_some(None);
    for version in [Some(Some(version)), before_connect].into_iter().flatten() {
        assert_eq!(frame(version, &bytes, MAX_PACKET_SIZE), Ok(Some(bytes.len())));
        assert_eq!(frame(version, &bytes[..1], MAX_PACKET_SIZE), Ok(None));
        assert!(frame(version, &bytes, bytes.len() as u32 - 1).is_err());
    }
    if let Packet::Connect(connect) = packet {
        assert_eq!(connect_version(&bytes), Ok(connect.version));
    }
    if let Packet::Publish(publish) = packet {
        fan_out_writes_the_same(version, publish, &bytes);
    }
}

/// A header writes what [`encode`] writes.
fn fan_out_writes_the_same(version: Version, publish: &Publish<'_>, bytes: &[u8]) {
    let header = PublishHeader {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic.as_bytes(),
        packet_id: publish.packet_id,
        properties: &[],
        extra: publish.properties.raw(),
        payload_len: publish.payload.len(),
    };
    assert_eq!(header.packet_len(version), bytes.len());
    let mut out = Vec::new();
    header.encode(version, &mut out);
    out.extend_from_slice(publish.payload);
    assert_eq!(out, bytes);
}

#[test]
fn mutated_packets() {
    let count = count_from_env("WEIRMQ_MUTATIONS", 200_000);
    let mut rng = Rng::with_seed(seed());
    let mut scratch = Scratch::default();
    let mut pool = Pool::new(&mut rng);
    let (mut original, mut bytes, mut taken) = (Vec::new(), Vec::new(), 0);
    for index in 0..count {
        if index % 1_000 == 0 {
            pool = Pool::new(&mut rng);
        }
        let version = VERSIONS[rng.usize(..3)];
        original.clear();
        encode(version, &packet(&mut rng, version, &pool, &mut scratch), &mut original);
        bytes.clone_from(&original);
        mutate(&mut rng, &mut bytes);
        // Read as another version now and then: what one allows, another may stumble over.
        let version = if rng.u8(..8) == 0 { VERSIONS[rng.usize(..3)] } else { version };
        match catch_unwind(AssertUnwindSafe(|| is_consistent(version, &bytes))) {
            Ok(decoded) => taken += u64::from(decoded),
            Err(_) => panic!("seed {}, packet {index}: {version:?} {bytes:02X?}", seed()),
        }
    }
    // A mutation that never survives, or always does, proves nothing.
    assert!(taken > count / 20 && taken < count * 19 / 20, "{taken} of {count} were taken");
}

/// Bytes of no packet at all, and no bytes.
#[test]
fn noise() {
    let mut rng = Rng::with_seed(seed());
    for _ in 0..100_000 {
        let len = rng.usize(..24);
        let bytes: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        let _ = connect_version(&bytes);
        let _ = frame(None, &bytes, MAX_PACKET_SIZE);
        for version in VERSIONS {
            is_consistent(version, &bytes);
            // As properties that were never validated they end somewhere.
            assert!(Properties::from_validated(&bytes).iter().count() <= bytes.len());
        }
    }
}
