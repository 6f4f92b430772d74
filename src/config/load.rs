//! From sources to a [`Config`]: each source is parsed by itself, so that its errors name their place, then all are
//! layered, and what only makes sense together is judged.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use ::config::{File, FileFormat};

use super::file::{
    AuthSettings, JwtSettings, LimitsSettings, ListenerSettings, QueueSettings, Settings, ShareSettings,
    StoreSettings, TlsSettings,
};
use super::network::Network;
use super::source::{self, Source};
use super::values::{Address, Carrier};
use super::{
    AccessConfig, AuthConfig, Bind, CertificateFiles, Config, ConfigError, JwtConfig, ListenerConfig,
    StoreConfig, TlsConfig, WebSocketConfig, certificates,
};
use crate::acl::Acl;
use crate::limits::{Limits, QueueRule, ShareRule};

impl Config {
    /// Loads the files, in their order, those of a folder (`*.toml`) in the order of their names, and then the
    /// environment's `WEIRMQ__SECTION__KEY`: what comes later wins, key by key; an array of tables (`[[listener]]`) is
    /// replaced as a whole. Certificates and keys are read and checked.
    /// The environment's `STATE_DIRECTORY`, as systemd sets it, is where the data is unless anything says otherwise.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(
        files: &[PathBuf],
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigError> {
        let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
        let state = variables.iter().find(|(name, _)| name == "STATE_DIRECTORY");
        let state_directory = state.and_then(|(_, value)| first_path(value));
        let mut sources = Vec::new();
        for path in files {
            let files = if path.is_dir() { source::files_in(path)? } else { vec![path.clone()] };
            for file in &files {
                sources.push(Source::from_file(file)?);
            }
        }
        sources.extend(Source::from_variables(variables)?);
        for source in &sources {
            source.parse::<Settings>()?;
        }
        let layers = Layers { sources, state_directory };
        let settings = layers.merged()?;
        layers.config(settings)
    }
}

pub(super) struct Layers {
    sources: Vec<Source>,
    /// Where the data is if no source says so.
    state_directory: Option<PathBuf>,
}

impl Layers {
    fn merged(&self) -> Result<Settings, ConfigError> {
        let mut builder = ::config::Config::builder();
        for source in &self.sources {
            builder = builder.add_source(File::from_str(source.text(), FileFormat::Toml));
        }
        builder.build().and_then(::config::Config::try_deserialize).map_err(ConfigError::new)
    }

    /// An error about the setting at `path`, at the place that decided it: the last source with the outermost name.
    pub(super) fn error(&self, path: &str, reason: impl std::fmt::Display) -> ConfigError {
        let outermost = path.split(['.', '[']).next().unwrap_or_default();
        match self.sources.iter().rev().find(|source| source.sets(outermost)) {
            Some(source) => source.error_at(path, reason),
            None => ConfigError::new(reason),
        }
    }

    fn config(&self, settings: Settings) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(shards) = settings.shards {
            config.shards = shards.0;
        }
        if let Some(interval) = settings.sys_interval {
            config.sys_interval = interval.0;
        }
        if let Some(folder) = settings.data_dir.or_else(|| self.state_directory.clone()) {
            if folder.as_os_str().is_empty() {
                return Err(self.error("data_dir", "a folder is needed, such as \"./weirmq-data\""));
            }
            config.data_dir = folder;
        }
        if let Some(store) = settings.store {
            config.store = self.store(&store)?;
        }
        if let Some(limits) = settings.limits {
            set_limits(&mut config.limits, &limits);
        }
        if let Some(expiry) = settings.session.and_then(|session| session.max_expiry) {
            config.limits.session_expiry_max = expiry.0;
        }
        if let Some(auth) = settings.auth {
            config.access = self.access(&auth)?;
            config.auth = self.auth(auth)?;
        }
        if let Some(listeners) = settings.listener {
            config.listeners = self.listeners(listeners, config.auth.has_users())?;
        }
        config.queues = self.queues(settings.queue.unwrap_or_default())?;
        config.shared_subscriptions = self.shares(settings.share.unwrap_or_default())?;
        config.rates = self.rates(settings.rate.unwrap_or_default(), &config.listeners)?;
        config.deliveries = self.deliveries(settings.delivery.unwrap_or_default())?;
        if let Some(log) = settings.log {
            config.log.level = log.level.map_or(config.log.level, |level| level.0);
            config.log.format = log.format.map_or(config.log.format, |format| format.0);
        }
        Ok(config)
    }

    fn store(&self, settings: &StoreSettings) -> Result<StoreConfig, ConfigError> {
        let default = StoreConfig::default();
        let config = StoreConfig {
            sync: settings.sync.map_or(default.sync, |sync| sync.0),
            segment_size: settings.segment_size.map_or(default.segment_size, |size| size.0),
            max_size: settings.max_size.map(|size| size.0),
            reserve: settings.reserve.map(|size| size.0),
        };
        // The active one, the spares, and one that is being emptied.
        let least = 8 * u64::from(config.segment_size);
        if config.max_size.is_some_and(|most| most < least) {
            let reason = format!("needs room for 8 segments of `segment_size`, which is {least} bytes");
            return Err(self.error("store.max_size", reason));
        }
        Ok(config)
    }

    fn auth(&self, settings: AuthSettings) -> Result<AuthConfig, ConfigError> {
        let default = AuthConfig::default();
        Ok(AuthConfig {
            password_file: settings.password_file,
            threads: settings.threads.map_or(default.threads, |threads| threads.0),
            max_wait: settings.max_wait.map_or(default.max_wait, |longest| longest.0),
            failure_delay: settings.failure_delay.map_or(default.failure_delay, |delay| delay.0),
            jwt: settings.jwt.map(|jwt| self.jwt(jwt)).transpose()?,
        })
    }

    fn jwt(&self, settings: JwtSettings) -> Result<JwtConfig, ConfigError> {
        let (Some(algorithm), Some(key)) = (settings.algorithm, settings.key) else {
            return Err(self.error("auth.jwt", "tokens need `algorithm` and `key`"));
        };
        let user_claim = settings.user_claim.unwrap_or_else(|| "sub".to_owned());
        let (issuer, audience) = (settings.issuer, settings.audience);
        Ok(JwtConfig { algorithm: algorithm.0, key, user_claim, issuer, audience })
    }

    fn listeners(
        &self,
        settings: Vec<ListenerSettings>,
        has_users: bool,
    ) -> Result<Vec<ListenerConfig>, ConfigError> {
        if settings.is_empty() {
            return Err(self.error("listener", "a broker needs at least one listener"));
        }
        let mut listeners = Vec::<ListenerConfig>::with_capacity(settings.len());
        for (index, settings) in settings.into_iter().enumerate() {
            let listener = self.listener(&format!("listener[{index}]"), settings, has_users)?;
            if let Some(other) = listeners.iter().position(|other| collide(&other.bind, &listener.bind)) {
                let reason = format!("{} is bound by listener[{other}] already", listener.bind);
                return Err(self.error(&format!("listener[{index}].bind"), reason));
            }
            listeners.push(listener);
        }
        Ok(listeners)
    }

    fn listener(
        &self,
        path: &str,
        mut settings: ListenerSettings,
        has_users: bool,
    ) -> Result<ListenerConfig, ConfigError> {
        let Some(address) = settings.bind.take() else {
            return Err(self.error(path, "`bind` is missing, such as bind = \"127.0.0.1:1883\""));
        };
        let bind = match address {
            Address::Tcp(_) if settings.socket_mode.is_some() => {
                return Err(self.error(&format!("{path}.socket_mode"), "only a Unix socket is a file"));
            }
            Address::Tcp(address) => Bind::Tcp(address),
            Address::Unix(path) => {
                Bind::Unix { path, mode: settings.socket_mode.map_or(0o660, |mode| mode.0) }
            }
        };
        let tls = settings.tls.take().map(|tls| self.tls(&format!("{path}.tls"), tls)).transpose()?;
        let allow_anonymous = settings.allow_anonymous.unwrap_or(false);
        let is_certified = tls.as_ref().is_some_and(|tls| tls.identity_from.is_some());
        if !allow_anonymous && !has_users && !is_certified {
            let open = match &bind {
                Bind::Tcp(address) if address.ip().is_loopback() => "every local user",
                Bind::Tcp(_) => "everyone who can reach it",
                Bind::Unix { .. } => "everyone who may open it",
            };
            return Err(self.error(
                &format!("{path}.allow_anonymous"),
                format_args!(
                    "nobody could log in at {bind}: write `password_file` in [auth], or here \
                     `allow_anonymous = true` to let in {open}"
                ),
            ));
        }
        let websocket = self.websocket(path, &mut settings)?;
        let proxies = self.proxies(path, &bind, &mut settings)?;
        Ok(ListenerConfig {
            bind,
            socket_name: settings.socket_name,
            allow_anonymous,
            max_connections: settings.max_connections.map_or(0, |most| most.0),
            max_packet_size: settings.max_packet_size.map(|size| size.0),
            websocket,
            proxies,
            tls,
        })
    }

    fn websocket(
        &self,
        path: &str,
        settings: &mut ListenerSettings,
    ) -> Result<Option<WebSocketConfig>, ConfigError> {
        let origins = settings.origins.take();
        let origins = origins.map(|all| all.into_iter().map(|origin| origin.0).collect::<Vec<_>>());
        let refuse = |reason| Err(self.error(&format!("{path}.origins"), reason));
        match (settings.protocol.map_or(Carrier::Stream, |protocol| protocol.0), &origins) {
            (Carrier::Stream, Some(_)) => {
                refuse("needs `protocol = \"websocket\"`: only browsers tell an origin")
            }
            (Carrier::Stream, None) => Ok(None),
            (Carrier::WebSocket, Some(all)) if all.is_empty() => {
                refuse("nobody could connect: name an origin, or leave the list out for any")
            }
            (Carrier::WebSocket, _) => Ok(Some(WebSocketConfig { origins })),
        }
    }

    fn proxies(
        &self,
        path: &str,
        bind: &Bind,
        settings: &mut ListenerSettings,
    ) -> Result<Option<Vec<Network>>, ConfigError> {
        let refuse = |key, reason| Err(self.error(&format!("{path}.{key}"), reason));
        let trusted = settings.trusted_proxies.take();
        let is_on = settings.proxy_protocol.unwrap_or(false);
        match (trusted, bind) {
            (Some(_), _) if !is_on => refuse("trusted_proxies", "needs `proxy_protocol = true`"),
            (None, _) if !is_on => Ok(None),
            (Some(_), Bind::Unix { .. }) => refuse(
                "trusted_proxies",
                "whoever may open the socket is trusted: `socket_mode` says who may",
            ),
            (None, Bind::Unix { .. }) => Ok(Some(Vec::new())),
            (Some(all), Bind::Tcp(_)) if !all.is_empty() => {
                Ok(Some(all.iter().map(|proxies| proxies.0).collect()))
            }
            _ => refuse("proxy_protocol", "needs `trusted_proxies`, the networks of those who are believed"),
        }
    }

    fn tls(&self, path: &str, mut settings: TlsSettings) -> Result<TlsConfig, ConfigError> {
        let mut certificates = Vec::new();
        if settings.cert.is_some() || settings.key.is_some() {
            certificates.push(self.certificate(path, settings.cert.take(), settings.key.take())?);
        }
        for (index, more) in settings.certificates.take().unwrap_or_default().into_iter().enumerate() {
            certificates.push(self.certificate(
                &format!("{path}.certificates[{index}]"),
                more.cert,
                more.key,
            )?);
        }
        if certificates.is_empty() {
            return Err(self.error(path, "TLS needs a certificate: write `cert` and `key`"));
        }
        let require_client_cert = settings.require_client_cert.unwrap_or(false);
        match &settings.client_ca {
            Some(file) => {
                certificates::read_authorities(file)
                    .map_err(|reason| self.error(&format!("{path}.client_ca"), reason))?;
            }
            None if require_client_cert => {
                let reason = "needs `client_ca`, the authorities that the certificates are checked against";
                return Err(self.error(&format!("{path}.require_client_cert"), reason));
            }
            None => {}
        }
        if let Some(file) = &settings.client_crl {
            let read = match settings.client_ca {
                Some(_) => certificates::read_revocations(file).map(drop),
                None => Err("needs `client_ca`, the authorities that revoke".to_owned()),
            };
            read.map_err(|reason| self.error(&format!("{path}.client_crl"), reason))?;
        }
        if settings.identity_from.is_some() && settings.client_ca.is_none() {
            let reason = "needs `client_ca`, for it is the certificate of a client that is meant";
            return Err(self.error(&format!("{path}.identity_from"), reason));
        }
        let identity_from = settings.identity_from.map(|from| from.0);
        let min_version = settings.min_version.map(|version| version.0).unwrap_or_default();
        let TlsSettings { client_ca, client_crl, .. } = settings;
        Ok(TlsConfig { certificates, client_ca, client_crl, require_client_cert, identity_from, min_version })
    }

    fn certificate(
        &self,
        path: &str,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<CertificateFiles, ConfigError> {
        let (Some(cert), Some(key)) = (cert, key) else {
            return Err(self.error(path, "`cert` and `key` go together"));
        };
        let chain =
            certificates::read_chain(&cert).map_err(|reason| self.error(&format!("{path}.cert"), reason))?;
        certificates::read_key(&key, chain).map_err(|reason| self.error(&format!("{path}.key"), reason))?;
        Ok(CertificateFiles { cert, key })
    }

    fn access(&self, settings: &AuthSettings) -> Result<AccessConfig, ConfigError> {
        let AuthSettings { acl_file, admins, .. } = settings;
        if let Some(file) = acl_file {
            Acl::load(file).map_err(|error| self.error("auth.acl_file", error))?;
        }
        Ok(AccessConfig { acl_file: acl_file.clone(), admins: admins.clone().unwrap_or_default() })
    }

    fn queues(&self, settings: Vec<QueueSettings>) -> Result<Vec<QueueRule>, ConfigError> {
        let mut rules = Vec::<QueueRule>::with_capacity(settings.len() + 1);
        for (index, settings) in settings.into_iter().enumerate() {
            let path = format!("queue[{index}]");
            let Some(filter) = settings.filter else {
                return Err(self.error(&path, "`filter` is missing: \"#\" is every queue"));
            };
            let default = QueueRule::default();
            let rule = QueueRule {
                filter: filter.0,
                max_messages: settings.max_messages.map_or(default.max_messages, |most| most.0),
                max_bytes: settings.max_bytes.map_or(default.max_bytes, |most| most.0),
                overflow: settings.overflow.map_or(default.overflow, |overflow| overflow.0),
                message_expiry: settings.message_expiry.map_or(default.message_expiry, |expiry| expiry.0),
            };
            if rules.iter().any(|other| other.filter == rule.filter) {
                return Err(self.error(&format!("{path}.filter"), "there is a rule for this filter already"));
            }
            rules.push(rule);
        }
        let default = QueueRule::default();
        if !rules.iter().any(|rule| rule.filter == default.filter) {
            rules.push(default);
        }
        Ok(rules)
    }

    fn shares(&self, settings: Vec<ShareSettings>) -> Result<Vec<ShareRule>, ConfigError> {
        let mut rules = Vec::<ShareRule>::with_capacity(settings.len() + 1);
        for (index, settings) in settings.into_iter().enumerate() {
            let path = format!("share[{index}]");
            let (Some(group), Some(strategy)) = (settings.group, settings.strategy) else {
                return Err(self.error(&path, "a rule needs `group` and `strategy`"));
            };
            if rules.iter().any(|other| other.group == group.0) {
                return Err(self.error(&format!("{path}.group"), "there is a rule for this group already"));
            }
            rules.push(ShareRule { group: group.0, strategy: strategy.0 });
        }
        let default = ShareRule::default();
        if !rules.iter().any(|rule| rule.group == default.group) {
            rules.push(default);
        }
        Ok(rules)
    }
}

/// Whether only one of two listeners could be bound.
fn collide(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Tcp(one), Bind::Tcp(other)) => one == other && one.port() != 0,
        (Bind::Unix { path: one, .. }, Bind::Unix { path: other, .. }) => one == other,
        _ => false,
    }
}

/// The first of the paths that a variable of systemd lists.
fn first_path(value: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(value).find(|path| !path.as_os_str().is_empty())
}

/// Takes over every limit that is set.
fn set_limits(limits: &mut Limits, settings: &LimitsSettings) {
    macro_rules! take {
        ($($key:ident)*) => { $( if let Some(value) = settings.$key { limits.$key = value.0; } )* };
    }
    take!(
        connect_packet_size max_packet_size connect_timeout max_handshakes max_handshakes_per_address
        topic_levels topic_length client_id_length max_inflight receive_maximum receive_bytes
        transient_queue_messages transient_queue_bytes outbound_buffer outbound_total socket_unsent memory
        subscriptions_per_session user_properties retained_messages retained_bytes topic_alias_maximum
        keep_alive_max max_connections max_connection_rate max_connection_rate_per_address max_sessions lane_bytes
        reject_timeout
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../config/weirmq.toml");

    /// Removes the mark of a comment that is a setting, and of an example if `examples`.
    fn uncommented(line: &str, examples: bool) -> &str {
        let setting = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
        let example = line.strip_prefix("#| ").filter(|_| examples);
        example.or_else(|| line.strip_prefix('#').filter(setting)).unwrap_or(line)
    }

    fn documented(examples: bool) -> String {
        DOCUMENTED.lines().map(|line| uncommented(line, examples).to_owned() + "\n").collect()
    }

    fn load(text: &str) -> Config {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weirmq.toml");
        std::fs::write(&path, text).expect("a writable folder");
        Config::load(&[path], []).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        assert_eq!(load(DOCUMENTED), Config::default());
        assert_eq!(load(&documented(false)), Config::default());
    }

    /// Unknown keys are errors, so that a key of the file is one of the schema; and one of the schema that is not in
    /// the file would be `None`.
    #[test]
    fn every_key_is_documented_and_every_documented_key_exists() {
        let text = documented(true);
        let settings: Settings = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}"));
        let shown = format!("{settings:#?}");
        let missing: Vec<_> = shown.lines().filter(|line| line.ends_with(": None,")).collect();
        assert!(missing.is_empty(), "not in config/weirmq.toml: {missing:?}");
    }

    #[test]
    fn every_documented_key_says_what_it_is_for() {
        let lines: Vec<_> = DOCUMENTED.lines().collect();
        for (number, pair) in lines.windows(2).enumerate() {
            let is_prose = pair[0].starts_with("# ");
            let is_setting = |line: &str| uncommented(line, true) != line;
            assert!(
                !is_setting(pair[1]) || is_prose || is_setting(pair[0]),
                "line {}: {}",
                number + 2,
                pair[1]
            );
        }
    }
}
