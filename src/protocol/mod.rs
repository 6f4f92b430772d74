//! The wire: packets, their properties, topics and reason codes, and the strict codec between bytes
//! and [`packet::Packet`]. Uses nothing else in the crate.

pub mod codec;
pub mod packet;
pub mod properties;
pub mod reason;
pub mod topic;
