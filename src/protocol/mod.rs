//! The wire: packets, their properties, topics and reason codes, and the strict codec between bytes
//! and [`packet::Packet`]. Uses nothing else in the crate.

pub mod codec;
mod decode;
mod encode;
pub mod packet;
pub mod properties;
mod publish;
pub mod reason;
pub mod topic;
mod wire;
