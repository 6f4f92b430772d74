//! The shell around the pure core: sockets, TLS, the clock and the wake-ups of one shard's thread. Besides `server`,
//! `client` and `main` it is the only user of the asynchronous runtime.
//!
//! A socket's way: [`listener`] accepts it, [`introduction`] learns from a balancer whose it is, [`handshake`] brings it
//! up to its CONNECT, [`lane`] hands it to the shard that is its session's home, [`connection`] reads from it,
//! [`flusher`] writes to it, [`closing`] ends it. [`shell`] is what these tasks of one thread share. What lies between
//! its bytes and MQTT's is a [`transport`]: nothing, [`tls`], or a [`websocket`].

pub mod admission;
mod arrivals;
mod closing;
mod connection;
mod flusher;
mod handshake;
mod introduction;
pub mod lane;
pub mod listener;
pub mod proxy;
mod recheck;
mod refusal;
mod reserve;
pub mod shell;
mod sockets;
pub mod stream;
pub mod tls;
mod transport;
mod websocket;
