//! What things take in memory, of which there are very many: one for each connection, each subscription, each message that
//! waits. The bounds are the sizes as they are meant to be, with room for a field or two where one must come; `--nocapture`
//! prints them. What only its own room knows (the connection's task and socket, a trie's node) is held to its size there.
#![allow(missing_docs)]

use weirmq::broker::route::Route;
use weirmq::broker::subscriptions::{Subscription, Taker};
use weirmq::message::Message;
use weirmq::outbound::Outbound;
use weirmq::session::backlog::Backlog;
use weirmq::session::inflight::{Inflight, Slot};
use weirmq::session::link::Link;
use weirmq::session::{Delivery, Session, SessionSubscription};
use weirmq::store::index::Ref;
use weirmq::target::Target;

macro_rules! check {
    ($($type:ty: $most:literal, $what:literal;)*) => {$(
        let size = size_of::<$type>();
        println!("{:24} {size:4} of {:4} bytes  {}", stringify!($type), $most, $what);
        assert!(size <= $most, "{} takes {size} bytes: more than {}", stringify!($type), $most);
    )*};
}

#[test]
fn what_there_are_very_many_of_is_small() {
    check! {
        Session: 376, "a session, connected or not, with all below up to Outbound";
        Link: 152, "its connection";
        Inflight: 48, "what is under way to it, none";
        Backlog: 24, "what waits for it, nothing";
        Outbound: 40, "what is to be sent, nothing";
        SessionSubscription: 32, "a subscription as its session knows it";
        Subscription: 24, "the same on its way to the table";
        Taker: 32, "a session that takes a topic's messages";
        Slot: 56, "a delivery under way";
        Delivery: 40, "a delivery that waits in memory";
        Ref: 24, "one that waits on disk";
        Message: 96, "a message, without its bytes";
        Target: 48, "a durable queue in a route";
        Route: 96, "where a topic's messages go, without its queues";
    }
}
