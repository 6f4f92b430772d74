//! The schema of a configuration file: every key, all of them optional, with the values that it may have. What is
//! declared here is what `config/weirmq.toml` documents.

use std::path::PathBuf;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use super::rates::{DeliveryPer, RatePer};
use super::values::{
    Address, Budget, Carrier, FileMode, Filter, Group, KeepAlive, Name, Number, Origin, Pattern, Proxies,
    Size, Time, TimeOrNever,
};
use super::{IdentityFrom, JwtAlgorithm, LogFormat, MAX_SHARDS, SMALLEST_SEGMENT, SyncMode, TlsVersion};
use crate::flow::OnLimit;
use crate::limits::{Overflow, Strategy};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const SECOND: u64 = 1000;
const DAY: u64 = 24 * 60 * 60 * SECOND;
/// No more than that many of anything.
const MANY: u64 = u32::MAX as u64;
/// A hundred years, in whole days: what fits the protocol's four bytes of seconds.
const LONGEST_EXPIRY: u64 = 36_500 * DAY;
/// The largest packet that the protocol's Remaining Length allows, without its fixed header.
const LARGEST_PACKET: u64 = 256 * MIB - 1;

/// A number of things, at least `MIN`.
type Count<const MIN: u64> = Number<usize, MIN, MANY>;
/// A part of memory.
type Memory = Size<usize, 1024, TIB>;
/// Bytes in a socket, of which the system counts those that it has not sent.
type UnsentSize = Size<u32, 0, { 1024 * MIB }>;
/// Messages a second.
type MessagesRate = Number<u64, 0, 100_000_000>;
/// Bytes a second.
type BytesRate = Size<u64, 0, TIB>;
/// What may come at once.
type Burst = Time<10, { 60 * 60 * SECOND }>;
/// The size of a packet; the least is a CONNECT with the shortest client identifier that every broker must take, and room.
type PacketSize = Size<u32, 128, LARGEST_PACKET>;

/// A whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Settings {
    pub(super) shards: Option<Number<usize, 1, { MAX_SHARDS as u64 }>>,
    pub(super) sys_interval: Option<Time<SECOND, DAY>>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) store: Option<StoreSettings>,
    pub(super) listener: Option<Vec<ListenerSettings>>,
    pub(super) auth: Option<AuthSettings>,
    pub(super) limits: Option<LimitsSettings>,
    pub(super) session: Option<SessionSettings>,
    pub(super) queue: Option<Vec<QueueSettings>>,
    pub(super) share: Option<Vec<ShareSettings>>,
    pub(super) rate: Option<Vec<RateSettings>>,
    pub(super) delivery: Option<Vec<DeliverySettings>>,
    pub(super) log: Option<LogSettings>,
}

/// `[[listener]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct ListenerSettings {
    pub(super) bind: Option<Address>,
    pub(super) socket_mode: Option<FileMode>,
    pub(super) socket_name: Option<String>,
    pub(super) allow_anonymous: Option<bool>,
    pub(super) max_connections: Option<Count<0>>,
    pub(super) max_packet_size: Option<PacketSize>,
    pub(super) protocol: Option<Name<Carrier>>,
    pub(super) origins: Option<Vec<Origin>>,
    pub(super) proxy_protocol: Option<bool>,
    pub(super) trusted_proxies: Option<Vec<Proxies>>,
    pub(super) tls: Option<TlsSettings>,
}

/// `[listener.tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct TlsSettings {
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) certificates: Option<Vec<CertificateSettings>>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) client_crl: Option<PathBuf>,
    pub(super) require_client_cert: Option<bool>,
    pub(super) min_version: Option<Name<TlsVersion>>,
    pub(super) identity_from: Option<Name<IdentityFrom>>,
}

/// `[auth]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct AuthSettings {
    pub(super) password_file: Option<PathBuf>,
    pub(super) threads: Option<Number<usize, 1, 16>>,
    pub(super) max_wait: Option<Time<100, { 600 * SECOND }>>,
    pub(super) failure_delay: Option<Time<0, { 60 * SECOND }>>,
    pub(super) acl_file: Option<PathBuf>,
    pub(super) admins: Option<Vec<String>>,
    pub(super) jwt: Option<JwtSettings>,
}

/// `[auth.jwt]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct JwtSettings {
    pub(super) algorithm: Option<Name<JwtAlgorithm>>,
    pub(super) key: Option<PathBuf>,
    pub(super) user_claim: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
}

/// An element of `certificates`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct CertificateSettings {
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// `[limits]`, one key for each field of [`crate::limits::Limits`] but the session's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct LimitsSettings {
    pub(super) connect_packet_size: Option<PacketSize>,
    pub(super) max_packet_size: Option<PacketSize>,
    pub(super) connect_timeout: Option<Time<100, { 600 * SECOND }>>,
    pub(super) max_handshakes: Option<Count<1>>,
    pub(super) max_handshakes_per_address: Option<Count<1>>,
    pub(super) topic_levels: Option<Number<usize, 1, 65_535>>,
    pub(super) topic_length: Option<Size<usize, 1, 65_535>>,
    pub(super) client_id_length: Option<Size<usize, 23, 65_535>>, // [MQTT-3.1.3-5]
    pub(super) max_inflight: Option<Number<u16, 1, 65_535>>,
    pub(super) receive_maximum: Option<Number<u16, 1, 65_535>>,
    pub(super) receive_bytes: Option<Memory>,
    pub(super) transient_queue_messages: Option<Count<1>>,
    pub(super) transient_queue_bytes: Option<Memory>,
    pub(super) outbound_buffer: Option<Memory>,
    pub(super) outbound_total: Option<Memory>,
    pub(super) socket_unsent: Option<UnsentSize>,
    pub(super) memory: Option<Budget>,
    pub(super) subscriptions_per_session: Option<Count<1>>,
    pub(super) user_properties: Option<Count<0>>,
    pub(super) retained_messages: Option<Count<0>>,
    pub(super) retained_bytes: Option<Size<usize, 0, TIB>>,
    pub(super) topic_alias_maximum: Option<Number<u16, 0, 65_535>>,
    pub(super) keep_alive_max: Option<KeepAlive>,
    pub(super) max_connections: Option<Count<0>>,
    pub(super) max_connection_rate: Option<Count<0>>,
    pub(super) max_connection_rate_per_address: Option<Count<0>>,
    pub(super) max_sessions: Option<Count<1>>,
    pub(super) lane_bytes: Option<Memory>,
    pub(super) reject_timeout: Option<Time<0, DAY>>,
}

/// `[session]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct SessionSettings {
    pub(super) max_expiry: Option<TimeOrNever<0, LONGEST_EXPIRY>>,
}

/// `[[queue]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct QueueSettings {
    pub(super) filter: Option<Filter>,
    pub(super) max_messages: Option<Number<u64, 0, { i64::MAX as u64 }>>,
    pub(super) max_bytes: Option<Size<u64, 1024, { 1024 * TIB }>>,
    pub(super) overflow: Option<Name<Overflow>>,
    pub(super) message_expiry: Option<TimeOrNever<SECOND, LONGEST_EXPIRY>>,
}

/// `[store]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct StoreSettings {
    pub(super) sync: Option<Name<SyncMode>>,
    pub(super) segment_size: Option<Size<u32, { SMALLEST_SEGMENT as u64 }, { u32::MAX as u64 }>>,
    pub(super) max_size: Option<Size<u64, { 16 * MIB }, { 1024 * TIB }>>,
    pub(super) reserve: Option<Size<u64, 0, { 1024 * TIB }>>,
}

/// `[[share]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct ShareSettings {
    pub(super) group: Option<Group>,
    pub(super) strategy: Option<Name<Strategy>>,
}

/// `[[rate]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RateSettings {
    pub(super) per: Option<Name<RatePer>>,
    pub(super) name: Option<Pattern>,
    pub(super) max_messages_rate: Option<MessagesRate>,
    pub(super) max_bytes_rate: Option<BytesRate>,
    pub(super) burst: Option<Burst>,
    pub(super) on_limit: Option<Name<OnLimit>>,
}

/// `[[delivery]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct DeliverySettings {
    pub(super) per: Option<Name<DeliveryPer>>,
    pub(super) name: Option<Pattern>,
    pub(super) max_messages_rate: Option<MessagesRate>,
    pub(super) max_bytes_rate: Option<BytesRate>,
    pub(super) burst: Option<Burst>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct LogSettings {
    pub(super) level: Option<Name<LevelFilter>>,
    pub(super) format: Option<Name<LogFormat>>,
}
