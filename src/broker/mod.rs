//! The tables that say who gets a message, and the shards that own connections and sessions. No sockets, no clock,
//! no disk: time and randomness are arguments.

mod cache;
pub mod ids;
pub mod interest;
mod level;
mod members;
pub mod meter;
pub mod retained;
pub mod route;
pub mod shared;
pub mod subscriptions;
pub mod trie;
