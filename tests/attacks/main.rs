//! What someone does who wants the broker to fall over, to hang, to leak or to starve others. Counts are small here;
//! `WEIRMQ_ATTACK` multiplies them for a long run.
#![allow(missing_docs)]

#[path = "../common/client.rs"]
mod client;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/world.rs"]
mod world;

mod back_pressure;
mod odd_environment;

/// Defaults but for two shards and a port of its own.
const CONFIG: &str = "shards = 2\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";
