//! The configuration, parsed once into types that can hold nothing invalid, and its defaults.

pub mod certificates;
mod file;
mod load;
pub mod network;
mod rates;
mod source;
mod values;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use self::network::Network;
pub use self::source::ConfigError;
use crate::flow::RateRule;
use crate::limits::{Limits, QueueRule, ShareRule};

/// Most shards that one broker runs.
pub const MAX_SHARDS: usize = 64;

/// Everything that an operator can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Threads that own connections and sessions, 1 to [`MAX_SHARDS`].
    pub shards: usize,
    /// Where everything is kept that is to outlive the process.
    pub data_dir: PathBuf,
    /// How it is kept.
    pub store: StoreConfig,
    /// Where clients connect; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Who may connect.
    pub auth: AuthConfig,
    /// What clients may do.
    pub access: AccessConfig,
    /// The bounds that the broker keeps.
    pub limits: Limits,
    /// How share groups pick a member; always ends in a rule for `*`.
    pub shared_subscriptions: Vec<ShareRule>,
    /// The bounds of queues; always ends in a rule for `#`.
    pub queues: Vec<QueueRule>,
    /// How fast messages may come in, by client, user and listener.
    pub rates: Vec<RateRule>,
    /// How fast messages are delivered, by client, user and share group.
    pub deliveries: Vec<RateRule>,
    /// How often the `$SYS` topics that changed are published.
    pub sys_interval: Duration,
    /// What is logged, and how.
    pub log: LogConfig,
}

impl Default for Config {
    /// The configuration without a file: anonymous, on loopback only.
    fn default() -> Self {
        Config {
            // The store's thread, the hashing of passwords and the rest of the machine have one core to themselves: where
            // shards take that as well, each message costs more than it wins, and waits while a thread waits for its turn.
            shards: std::thread::available_parallelism()
                .map_or(1, |cores| (cores.get() - 1).clamp(1, MAX_SHARDS)),
            data_dir: PathBuf::from("./weirmq-data"),
            store: StoreConfig::default(),
            listeners: vec![ListenerConfig::default()],
            auth: AuthConfig::default(),
            access: AccessConfig::default(),
            limits: Limits::default(),
            shared_subscriptions: vec![ShareRule::default()],
            queues: vec![QueueRule::default()],
            rates: Vec::new(),
            deliveries: Vec::new(),
            sys_interval: Duration::from_secs(10),
            log: LogConfig::default(),
        }
    }
}

/// Who may connect, and what it may cost to find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// The users and the hashes of their passwords.
    pub password_file: Option<PathBuf>,
    /// Threads that check passwords, at least one.
    pub threads: usize,
    /// How long a client may wait for one of them before it is told to come later.
    pub max_wait: Duration,
    /// How long the first failure of an address and user is told late; each further one doubles it, up to eight times.
    pub failure_delay: Duration,
    /// Whose tokens are taken for passwords.
    pub jwt: Option<JwtConfig>,
}

/// JSON Web Tokens: whose are taken, and what in them counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// The one way of signing that counts.
    pub algorithm: JwtAlgorithm,
    /// The file of the secret, or of the public key (PEM).
    pub key: PathBuf,
    /// The claim that names the user.
    pub user_claim: String,
    /// What a token must name as its issuer (`iss`), if that counts.
    pub issuer: Option<String>,
    /// For whom a token must be (`aud`), if that counts.
    pub audience: Option<String>,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: by a secret that the broker has as well.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// ECDSA on the curve P-256 with SHA-256.
    Es256,
}

impl AuthConfig {
    /// Whether a client can prove who it is by what it says in CONNECT.
    pub fn has_users(&self) -> bool {
        self.password_file.is_some() || self.jwt.is_some()
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        AuthConfig {
            password_file: None,
            threads: cores.clamp(1, 4),
            max_wait: Duration::from_secs(10),
            failure_delay: Duration::from_secs(1),
            jwt: None,
        }
    }
}

/// What clients may publish and read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// The ACL file, which was well-formed when the configuration was loaded.
    pub acl_file: Option<PathBuf>,
    /// Users who may read `$SYS` where there is no ACL file.
    pub admins: Vec<String>,
}

/// How what is to outlive the process is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// When something counts as kept.
    pub sync: SyncMode,
    /// Bytes of a segment of the journal, [`SMALLEST_SEGMENT`] to 4 GiB - 1.
    pub segment_size: u32,
    /// Bytes that all of it may take; `None`: 16 GiB, or half of its file system if that is less.
    pub max_size: Option<u64>,
    /// Bytes of the file system that stay free; `None`: 512 MiB or 5 %, whichever is more, but never over a quarter.
    pub reserve: Option<u64>,
}

/// The least that a segment of the journal may be, in bytes.
pub const SMALLEST_SEGMENT: u32 = 1 << 20;

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { sync: SyncMode::Always, segment_size: 64 << 20, max_size: None, reserve: None }
    }
}

/// When something counts as kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Once the disk has it: it survives a loss of power.
    #[default]
    Always,
    /// Once the operating system has it: it survives the process, and no more.
    Os,
    /// At once, in memory: it survives nothing.
    Off,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where it listens.
    pub bind: Bind,
    /// What systemd calls the socket, if it is to be found by that among those that were handed over.
    pub socket_name: Option<String>,
    /// Whether a client may connect without credentials.
    pub allow_anonymous: bool,
    /// Connections through this listener; 0: no limit of its own.
    pub max_connections: usize,
    /// Largest packet, in bytes, that a client may send once it is in; `None`: what the broker's limit says, which counts
    /// in any case.
    pub max_packet_size: Option<u32>,
    /// Set if MQTT travels in WebSockets.
    pub websocket: Option<WebSocketConfig>,
    /// Set if a balancer says in the PROXY protocol whom it speaks for, and no other may connect: where those balancers
    /// are. Of a Unix socket's every one is trusted.
    pub proxies: Option<Vec<Network>>,
    /// TLS, if the listener speaks it.
    pub tls: Option<TlsConfig>,
}

impl Default for ListenerConfig {
    /// `127.0.0.1:1883`, anonymous, without TLS.
    fn default() -> Self {
        ListenerConfig {
            bind: Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883))),
            socket_name: None,
            allow_anonymous: true,
            max_connections: 0,
            max_packet_size: None,
            websocket: None,
            proxies: None,
            tls: None,
        }
    }
}

/// What a listener binds to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A socket of this machine alone.
    Unix {
        /// Its file, which is made when it is bound and removed at the end.
        path: PathBuf,
        /// The file's permissions: who may write to it may connect.
        mode: u32,
    },
}

impl Bind {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp(address) => address.ip().is_loopback(),
            Bind::Unix { .. } => true,
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a listener takes WebSockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// The origins (`https://app.example`) that a request may come from; `None`: any, or none.
    pub origins: Option<Vec<String>>,
}

/// The TLS side of a listener. The files were readable and well-formed when the configuration was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificates to choose from by the name that the client asks for (SNI); the first one is for clients that
    /// name none or one that no certificate has. At least one.
    pub certificates: Vec<CertificateFiles>,
    /// The authorities (PEM) that client certificates are checked against; with it, clients may present one.
    pub client_ca: Option<PathBuf>,
    /// What those authorities have revoked (PEM); only ever with `client_ca`.
    pub client_crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused; only ever true with `client_ca`.
    pub require_client_cert: bool,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// What of a client's certificate is its user name; only ever with `client_ca`.
    pub identity_from: Option<IdentityFrom>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

/// What of a certificate names the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityFrom {
    /// The common name of its subject.
    Cn,
    /// The first DNS name among its subject's alternative names.
    San,
}

impl TlsConfig {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let pairs = self.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        pairs.chain(&self.client_ca).chain(&self.client_crl)
    }
}

/// A certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, leaf first.
    pub cert: PathBuf,
    /// The leaf's private key, PEM.
    pub key: PathBuf,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: LevelFilter,
    /// The form of a line.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: LevelFilter::INFO, format: LogFormat::Text }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// For systemd's journal: without a time, and each line begins with its priority.
    Journald,
}
