//! WeirMQ: an MQTT 3.1, 3.1.1 and 5.0 broker.
//!
//! A socket moves once, a session never moves, and nothing is shared that is written often.
//!
//! ```text
//!              shard P (one thread, one current_thread runtime)
//!  socket ─► net::listener ─► net::handshake (TLS, CONNECT)
//!                                   │  home = hash(client id)
//!                                   ▼  Handover, once per connection
//!         ┌──────────────────────────────────────────────────────┐
//!  bytes ►│ net::connection    reads into the shard's one scratch │  the shell: sockets and the clock
//!         ├──────────────────────────────────────────────────────┤
//!         │ broker::shard      receive                            │  the core: no tokio, no sockets,
//!         │   protocol::codec    bytes  → Packet                  │  no clock, no disk; time and
//!         │   session            Packet → Action                  │  randomness are arguments
//!         │   shard::publish     check, retain, route, record     │
//!         └───────┬──────────────────────────────────────────────┘
//!                 │ route(topic) ─► store: the record, first of all
//!                 │                       ┌──────── shared, read-mostly ─────────┐
//!                 ├──────────────────────►│ Interest: filter → peers, queues     │
//!                 │                       │ Retained: topic  → message           │
//!                 ▼                       └──────────────────────────────────────┘
//!         Outbox[peer].push(Forward)       flushed at the end of the turn
//!                 │  lane: one Batch per peer and turn
//!       ┌─────────┼────────────┐
//!       ▼         ▼            ▼
//!   own shard   shard Q     shard R
//!       │
//!       ▼  shard::deliver → Subscriptions::matching → Session::deliver_run
//!       ▼  Inflight or Queue → frames, encoded once per run → Outbound
//!       ▼  net::flusher: one write per connection and turn
//!     socket
//! ```
//!
//! A turn ends in a fixed order: store, then lanes, then sockets.
//!
//! # Reading order
//!
//! 1. [`protocol::packet`] and [`protocol::codec`]: the wire.
//! 2. [`message`], [`session`]: one client's state machine; [`session::run`] is the fast way out.
//! 3. [`broker::shard`]: sessions of one thread; `publish` is the way in, `deliver` the way out.
//! 4. [`broker::interest`], [`broker::subscriptions`], [`broker::retained`]: the tables;
//!    [`broker::shared`] says how their races end. [`broker::group`]: share groups.
//! 5. [`store`]: the seam behind which things become durable.
//! 6. [`auth`] and [`principal`]: who a client is, before anything of a session is touched.
//! 7. `net` and `server`: the shell around it all.
#![forbid(unsafe_code)]

pub mod acl;
pub mod arguments;
pub mod auth;
pub mod broker;
pub mod client;
pub mod clock;
pub mod config;
pub mod dev_certs;
pub mod escaped;
pub mod files;
pub mod flow;
pub mod limits;
pub mod logging;
pub mod message;
pub mod meter;
pub mod net;
pub mod offline;
pub mod outbound;
pub mod principal;
pub mod protocol;
pub mod server;
pub mod session;
pub mod stats;
pub mod store;
pub mod target;
pub mod websocket;
pub mod will;
