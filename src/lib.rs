//! WeirMQ: an MQTT 3.1, 3.1.1 and 5.0 broker.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod broker;
pub mod client;
pub mod config;
pub mod dev_certs;
pub mod escaped;
pub mod limits;
pub mod logging;
pub mod message;
pub mod meter;
pub mod outbound;
pub mod protocol;
pub mod session;
pub mod stats;
pub mod store;
pub mod target;
