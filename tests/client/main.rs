//! `weirmq pub` and `weirmq sub` as their users run them: the binary, against a broker that each test plays
//! itself, packet by packet.

mod broker;
mod command;
mod exec;
mod publish;
mod reconnect;
mod subscribe;
mod tls;
