//! One test per normative statement of MQTT 3.1.1 that binds a server, named by its number, and what is different in
//! MQTT 3.1. The table in `tests/statements` says which test stands for which statement.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod dialogue;
    pub mod wire;
    pub mod world;
}

mod connect;
mod fields;
mod flows;
mod mqtt_3_1;
mod others;
mod publish;
mod session;
mod sockets;
mod subscribe;
mod support;
mod topics;
mod unsubscribe;
mod wills;
