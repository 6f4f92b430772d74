//! What was acknowledged is there whatever happens to the process, the power and the disk: the binary is killed, its disk
//! loses power, fails and fills up, under load, and everything that clients were told is held against what is left.
//!
//! `WEIRMQ_CRASHES` and `WEIRMQ_POWER_CUTS` say how often; `WEIRMQ_REQUIRE_POWER` makes it a failure when this machine
//! does not let power be cut, which needs root and a loop device.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

mod book;
mod client;
mod disk;
mod failures;
mod full;
mod kill;
mod link;
mod power;
mod probe;
mod publisher;
mod scene;
mod shifter;
mod subscriber;
