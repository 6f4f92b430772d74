//! WebSockets without their sockets (RFC 6455): how one is asked for and answered, by the server ([`upgrade`]) and by a
//! client ([`offer`]), and the [`frames`] of both. Pure; the broker's listeners and the commands are built on it.

pub mod frames;
mod headers;
pub mod offer;
pub mod upgrade;
