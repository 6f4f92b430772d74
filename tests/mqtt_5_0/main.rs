//! One test per normative statement of MQTT 5.0 that binds a server, named by its number. The table in
//! `tests/statements` says which test stands for which statement.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod dialogue;
    #[allow(dead_code, reason = "not every helper is needed here")]
    pub mod wire;
    pub mod world;
}

mod acks;
mod connack;
mod connect;
mod disconnect;
mod flow;
mod properties;
mod publish;
mod qos;
mod refusals;
mod session;
mod shared;
mod subscribe;
mod topics;
mod wills;
