//! PUBREL's flags (3.6) and PINGREQ (3.12).

use weirmq::protocol::packet::*;

use crate::common::wire::packet;
use crate::common::world::*;
use crate::support::*;

#[test]
fn mqtt_3_6_1_1_flags_of_pubrel() {
    for flags in 0..16 {
        let mut w = World::new(1);
        let p = w.connect(V4, "p");
        w.send(p, &Packet::Publish(numbered("t", QoS::ExactlyOnce, 1, "x")));
        assert_eq!(first_bytes(&w.take(p)), [0x50]);
        w.send_bytes(p, &packet(0x60 | flags, "0001"));
        if flags == 2 {
            assert_eq!(take_bytes(&mut w, p), packet(0x70, "0001"));
        } else {
            assert_eq!(expect_cut(&mut w, p).detail, "reserved flags in the fixed header");
        }
    }
}

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered() {
    let mut w = World::new(1);
    let c = w.connect(V4, "c");
    w.send_bytes(c, &[0xC0, 0x00]);
    assert_eq!(take_bytes(&mut w, c), [0xD0, 0x00]);
    w.send_bytes(c, &[0xC0, 0x00, 0xC0, 0x00]);
    assert_eq!(take_bytes(&mut w, c), [0xD0, 0x00, 0xD0, 0x00]);
}
