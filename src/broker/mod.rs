//! The broker: shards, and the tables that route messages between them. Pure: no sockets, no clock.

pub mod access;
mod cache;
pub mod group;
mod guard;
pub mod ids;
pub mod interest;
mod lookup;
mod members;
pub mod outbox;
pub mod restore;
pub mod retained;
mod roster;
pub mod route;
#[cfg(test)]
mod samples;
pub mod shard;
pub mod shared;
pub mod subscriptions;
pub mod sys;
pub mod timers;
pub mod trie;
pub mod waiters;
