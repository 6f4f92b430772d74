//! `weirmq pub` and `weirmq sub` as their users run them: the binary, against a broker that each test plays
//! itself, packet by packet; and [`doors`] against a real one too.

#[path = "../common"]
mod common {
    pub mod client;
    pub mod world;
}

mod broker;
mod command;
mod doors;
mod exec;
mod publish;
mod reconnect;
mod subscribe;
mod tls;
