//! The configuration from the outside: what files and environment variables make of it, and what each mistake says.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use weirmq::config::{Bind, CertificateFiles, Config, ConfigError, LogFormat, StoreConfig, SyncMode};
use weirmq::dev_certs::{self, DevCertsArgs};
use weirmq::limits::{Overflow, ShareRule, Strategy};

/// A folder with configuration files in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("a writable folder");
        path
    }

    /// Writes a CA and the certificates that it signed.
    fn certificates(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        let args = DevCertsArgs {
            dir: dir.clone(),
            names: vec!["localhost".to_owned()],
            client: "client".to_owned(),
            days: 1,
            force: false,
        };
        dev_certs::write(&args, SystemTime::now()).expect("certificates");
        dir
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = Folder::new();
    Config::load(&[folder.file("weirmq.toml", text)], [])
}

fn loaded(text: &str) -> Config {
    load(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The error without the folder, which differs from run to run.
fn error_of(text: &str) -> String {
    let folder = Folder::new();
    let path = folder.file("weirmq.toml", text);
    match Config::load(&[path], []) {
        Ok(config) => panic!("{text}\nwas taken as {config:?}"),
        Err(error) => error.to_string().replace(&format!("{}/", folder.path().display()), ""),
    }
}

#[test]
fn without_files_it_is_an_anonymous_listener_on_loopback() {
    let config = Config::load(&[], []).expect("the defaults");
    assert_eq!(config, Config::default());
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].bind, Bind::Tcp(([127, 0, 0, 1], 1883).into()));
    assert!(config.listeners[0].allow_anonymous && config.listeners[0].tls.is_none());
    assert!((1..=64).contains(&config.shards));
}

#[test]
fn a_file_sets_what_it_names_and_leaves_the_rest() {
    let config = loaded(
        r##"
        shards = 3
        sys_interval = "1m"
        [[listener]]
        bind = "127.0.0.1:0"
        allow_anonymous = true
        max_connections = 7
        max_packet_size = "64KiB"
        [[listener]]
        bind = "[::]:0"
        allow_anonymous = true
        [limits]
        max_packet_size = "4MiB"
        connect_timeout = "1500ms"
        keep_alive_max = "1h"
        [session]
        max_expiry = "never"
        [[queue]]
        filter = "orders/#"
        max_messages = 10
        overflow = "drop-oldest"
        message_expiry = "2h"
        [store]
        sync = "os"
        segment_size = "1MiB"
        reserve = "0B"
        [[share]]
        group = "sms"
        strategy = "hash_topic"
        [log]
        level = "warn"
        format = "json"
        "##,
    );
    assert_eq!((config.shards, config.sys_interval), (3, Duration::from_secs(60)));
    assert_eq!(config.listeners.iter().map(|listener| listener.max_connections).collect::<Vec<_>>(), [7, 0]);
    let sizes: Vec<_> = config.listeners.iter().map(|listener| listener.max_packet_size).collect();
    assert_eq!((sizes, config.limits.max_packet_size), (vec![Some(64 << 10), None], 4 << 20));
    assert_eq!(config.limits.connect_timeout, Duration::from_millis(1500));
    assert_eq!(config.limits.keep_alive_max, 3600);
    assert_eq!(config.limits.session_expiry_max, None);
    assert_eq!(config.limits.max_inflight, 32);
    let [orders, all] = &config.queues[..] else { panic!("{:?}", config.queues) };
    assert_eq!((orders.filter.as_str(), orders.max_messages), ("orders/#", 10));
    assert_eq!((orders.max_bytes, orders.overflow), (4 << 30, Overflow::DropOldest));
    assert_eq!(orders.message_expiry, Some(Duration::from_secs(2 * 60 * 60)));
    assert_eq!((all.filter.as_str(), all.overflow), ("#", Overflow::Reject));
    assert_eq!(all.message_expiry, None);
    let store = StoreConfig { sync: SyncMode::Os, segment_size: 1 << 20, max_size: None, reserve: Some(0) };
    assert_eq!(config.store, store);
    assert_eq!(config.data_dir, Path::new("./weirmq-data"));
    assert_eq!(ShareRule::strategy(&config.shared_subscriptions, "sms"), Strategy::HashTopic);
    assert_eq!(ShareRule::strategy(&config.shared_subscriptions, "mail"), Strategy::RoundRobin);
    assert_eq!(config.log.level, tracing::level_filters::LevelFilter::WARN);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_later_file_wins_by_key_and_replaces_arrays_and_the_environment_wins_over_all() {
    let folder = Folder::new();
    let first = folder.file(
        "first.toml",
        r#"
        shards = 2
        [limits]
        max_inflight = 10
        topic_levels = 10
        receive_maximum = 10
        [[listener]]
        bind = "127.0.0.1:1"
        allow_anonymous = true
        [[listener]]
        bind = "127.0.0.1:2"
        allow_anonymous = true
        "#,
    );
    let second = folder.file(
        "second.toml",
        r#"
        limits.topic_levels = 20
        limits.receive_maximum = 20
        listener = [{ bind = "127.0.0.1:3", allow_anonymous = true }]
        "#,
    );
    let environment = [
        ("WEIRMQ__LIMITS__RECEIVE_MAXIMUM", "30"),
        ("WEIRMQ__LIMITS__MAX_PACKET_SIZE", "2MiB"),
        ("WEIRMQ__LOG__LEVEL", "debug"),
        ("WEIRMQ_TOPIC", "not a setting"),
        ("PATH", "/bin"),
    ];
    let config = Config::load(&[first, second], variables(&environment)).expect("three layers");
    let limits = &config.limits;
    assert_eq!((limits.max_inflight, limits.topic_levels, limits.receive_maximum), (10, 20, 30));
    assert_eq!((config.shards, limits.max_packet_size), (2, 2 << 20));
    assert_eq!(config.log.level, tracing::level_filters::LevelFilter::DEBUG);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].bind, Bind::Tcp(([127, 0, 0, 1], 3).into()));
}

#[test]
fn the_data_is_in_the_state_directory_unless_anything_says_otherwise() {
    let folder = Folder::new();
    let file = folder.file("weirmq.toml", "data_dir = \"/srv/weirmq\"");
    let data_dir = |files: &[PathBuf], pairs: &[(&str, &str)]| {
        Config::load(files, variables(pairs)).expect("a configuration").data_dir
    };
    let state = ("STATE_DIRECTORY", "/var/lib/weirmq");
    assert_eq!(data_dir(&[], &[state]), Path::new("/var/lib/weirmq"));
    assert_eq!(data_dir(&[], &[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")]), Path::new("/var/lib/a"));
    assert_eq!(data_dir(&[], &[("STATE_DIRECTORY", "")]), Path::new("./weirmq-data"));
    assert_eq!(data_dir(&[file], &[state]), Path::new("/srv/weirmq"));
    assert_eq!(data_dir(&[], &[state, ("WEIRMQ__DATA_DIR", "here")]), Path::new("here"));
}

#[test]
fn an_array_in_the_environment_is_toml() {
    let listener = r#"[{ bind = "0.0.0.0:1883", allow_anonymous = true }]"#;
    let config = Config::load(&[], variables(&[("WEIRMQ__LISTENER", listener)])).expect("a listener");
    assert_eq!(config.listeners[0].bind, Bind::Tcp(([0, 0, 0, 0], 1883).into()));
}

/// Each mistake with the place and the words that a person gets. What is not asked for exactly stands as `…`.
#[test]
fn every_mistake_names_file_line_column_and_key() {
    let table = [
        // Unknown keys, at the top, in a table, in an array.
        ("shard = 2", "weirmq.toml:1:1: shard: unknown field `shard`, expected one of `shards`, …"),
        ("[limits]\n  max_packets = 2", "weirmq.toml:2:3: limits.max_packets: unknown field `max_packets`…"),
        ("[store]\nfsync = true", "weirmq.toml:2:1: store.fsync: unknown field `fsync`…"),
        ("[[listener]]\nport = 1883", "weirmq.toml:2:1: listener[0].port: unknown field `port`…"),
        (
            "[[queue]]\nfilter = \"#\"\n[[queue]]\nmax = 1",
            "weirmq.toml:4:1: queue[1].max: unknown field `max`…",
        ),
        // Values out of range.
        ("shards = 0", "weirmq.toml:1:10: shards: expected a whole number from 1 to 64, found 0"),
        ("shards = 65", "weirmq.toml:1:10: shards: expected a whole number from 1 to 64, found 65"),
        (
            "[limits]\nmax_packet_size = \"1GiB\"",
            "weirmq.toml:2:19: limits.max_packet_size: expected a size from 128B to 268435455B, …found \"1GiB\"",
        ),
        ("limits.max_packet_size = -1", "weirmq.toml:1:26: limits.max_packet_size: expected a size…found -1"),
        (
            "limits.receive_maximum = 65536",
            "weirmq.toml:1:26: limits.receive_maximum: expected a whole number from 1 to 65535, found 65536",
        ),
        (
            "limits.max_sessions = 99999999999999999999",
            "weirmq.toml:1:23: limits.max_sessions: expected a whole number…",
        ),
        (
            "store.segment_size = \"512KiB\"",
            "weirmq.toml:1:22: store.segment_size: expected a size from 1MiB to 4294967295B, …found \"512KiB\"",
        ),
        ("store.segment_size = \"4GiB\"", "weirmq.toml:1:22: store.segment_size: …found \"4GiB\""),
        (
            "[store]\nmax_size = \"256MiB\"",
            "weirmq.toml:2:12: store.max_size: needs room for 8 segments of `segment_size`, which is 536870912 bytes",
        ),
        ("data_dir = \"\"", "weirmq.toml:1:12: data_dir: a folder is needed…"),
        // Wrong units, wrong types, wrong words.
        (
            "limits.max_packet_size = \"1MB\"",
            "weirmq.toml:1:26: limits.max_packet_size: …in B, KiB, MiB, GiB or TiB, found \"1MB\"",
        ),
        (
            "limits.connect_timeout = 10",
            "weirmq.toml:1:26: limits.connect_timeout: expected a time from 100ms to 10m, in ms, s, m, h or d, found 10",
        ),
        (
            "limits.keep_alive_max = \"1500ms\"",
            "weirmq.toml:1:25: limits.keep_alive_max: expected whole seconds…",
        ),
        ("shards = \"two\"", "weirmq.toml:1:10: shards: expected a whole number from 1 to 64, found \"two\""),
        ("shards = 1.5", "weirmq.toml:1:10: shards: …found a number with a fraction"),
        ("shards = true", "weirmq.toml:1:10: shards: …found a boolean"),
        ("shards = [1]", "weirmq.toml:1:10: shards: …found an array"),
        ("[shards]", "weirmq.toml:1:1: shards: …found a table or a date"),
        ("limits = 5", "weirmq.toml:1:10: limits: invalid type: integer `5`, expected a table"),
        (
            "session.max_expiry = \"ever\"",
            "weirmq.toml:1:22: session.max_expiry: expected \"never\" or a time from…",
        ),
        (
            "store.sync = \"fast\"",
            "weirmq.toml:1:14: store.sync: expected \"always\" or \"os\" or \"off\", found \"fast\"",
        ),
        (
            "log.level = \"loud\"",
            "weirmq.toml:1:13: log.level: expected \"off\" or \"error\" or …, found \"loud\"",
        ),
        (
            "[[share]]\ngroup = \"a/b\"",
            "weirmq.toml:2:9: share[0].group: expected \"*\" or the name of a share group, without /, + and #, found \"a/b\"",
        ),
        (
            "[[queue]]\nfilter = \"a/#/b\"",
            "weirmq.toml:2:10: queue[0].filter: expected a topic filter…found \"a/#/b\"",
        ),
        (
            "[[queue]]\nfilter = \"$share/g/a\"",
            "weirmq.toml:2:10: queue[0].filter: …without its $share/GROUP/…",
        ),
        (
            "[[listener]]\nbind = \"localhost:1883\"",
            "weirmq.toml:2:8: listener[0].bind: expected an IP address and a port, such as…found \"localhost:1883\"",
        ),
        (
            "[[listener]]\nbind = \"unix:\"",
            "weirmq.toml:2:8: listener[0].bind: expected an IP address and a port, such as…found \"unix:\"",
        ),
        (
            "[[listener]]\nbind = \"unix:/run/mqtt\"\nsocket_mode = \"rw\"",
            "weirmq.toml:3:15: listener[0].socket_mode: expected permissions in octal…found \"rw\"",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\nsocket_mode = \"0600\"",
            "weirmq.toml:4:15: listener[0].socket_mode: only a Unix socket is a file",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\nprotocol = \"wss\"",
            "weirmq.toml:4:12: listener[0].protocol: expected \"mqtt\" or \"websocket\", found \"wss\"",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\norigins = [\"https://a\"]",
            "weirmq.toml:4:11: listener[0].origins: needs `protocol = …",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\nprotocol = \"websocket\"\norigins = []",
            "weirmq.toml:5:11: listener[0].origins: nobody could connect…",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\nprotocol = \"websocket\"\norigins = [\"https://a/\"]",
            "weirmq.toml:5:11: listener[0].origins: expected an origin…",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\nproxy_protocol = true",
            "weirmq.toml:4:18: listener[0].proxy_protocol: needs `trusted_proxies`…",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\ntrusted_proxies = [\"10.0.0.0/8\"]",
            "weirmq.toml:4:19: listener[0].trusted_proxies: needs `proxy_protocol = true`",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true\ntrusted_proxies = [\"10.0.0.1/8\"]",
            "weirmq.toml:4:19: listener[0].trusted_proxies: expected an IP address or a network…",
        ),
        (
            "[[rate]]\nper = \"client\"\nname = \"a*b\"\nmax_messages_rate = 1",
            "weirmq.toml:3:8: rate[0].name: `*` stands for every ending…",
        ),
        (
            "[[delivery]]\nper = \"group\"\nname = \"$share/g\"\nmax_messages_rate = 1",
            "weirmq.toml:3:8: delivery[0].name: expected the name of a share group alone…",
        ),
        // Not TOML; lines and columns of characters, not bytes.
        ("shards = ", "weirmq.toml:1:…"),
        ("a = 1\nshards = 1\nshards = 2", "weirmq.toml:3:1: duplicate key"),
        ("# ü\nlog = { format = \"ü\", level = 3 }", "weirmq.toml:2:18: log.format: …"),
        ("log = { level = \"info\", \"ü\" = 3 }", "weirmq.toml:1:25: log.ü: unknown field `ü`…"),
    ];
    for (text, expected) in table {
        assert_reads(&error_of(text), expected, text);
    }
}

#[test]
fn what_makes_no_sense_together_is_an_error_with_a_place() {
    let anonymous = "allow_anonymous = true";
    let table = [
        ("listener = []", "weirmq.toml:1:12: listener: a broker needs at least one listener".to_owned()),
        (
            "\n[[listener]]\nallow_anonymous = true",
            "weirmq.toml:2:1: listener[0]: `bind` is missing, such as bind = \"127.0.0.1:1883\"".to_owned(),
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:1883\"",
            "weirmq.toml:1:1: listener[0].allow_anonymous: nobody could log in at 127.0.0.1:1883: write \
             `password_file` in [auth], or here `allow_anonymous = true` to let in every local user"
                .to_owned(),
        ),
        (
            "[[listener]]\nbind = \"0.0.0.0:1883\"\nallow_anonymous = false",
            "weirmq.toml:3:19: listener[0].allow_anonymous: nobody could log in at 0.0.0.0:1883: …\
             `allow_anonymous = true` to let in everyone who can reach it"
                .to_owned(),
        ),
        (
            "[[listener]]\nbind = \"[::1]:1\"\nallow_anonymous = true\n\
             [[listener]]\nallow_anonymous = true\nbind = \"[::1]:1\"",
            "weirmq.toml:6:8: listener[1].bind: [::1]:1 is bound by listener[0] already".to_owned(),
        ),
        ("[[queue]]\nmax_bytes = 5000", "weirmq.toml:1:1: queue[0]: `filter` is missing…".to_owned()),
        (
            "[[queue]]\nfilter = \"a\"\n[[queue]]\nfilter = \"a\"",
            "weirmq.toml:4:10: queue[1].filter: there is a rule for this filter already".to_owned(),
        ),
        (
            "[[share]]\ngroup = \"a\"",
            "weirmq.toml:1:1: share[0]: a rule needs `group` and `strategy`".to_owned(),
        ),
        (
            "[auth.jwt]\nalgorithm = \"ES256\"",
            "weirmq.toml:1:1: auth.jwt: tokens need `algorithm` and `key`".to_owned(),
        ),
    ];
    for (text, expected) in table {
        assert_reads(&error_of(text), &expected, text);
    }
    assert_eq!(loaded(&format!("[[listener]]\nbind = \"0.0.0.0:1883\"\n{anonymous}")).listeners.len(), 1);
    // With users, a listener lets in nobody else unless it says so.
    let users = loaded("[auth]\npassword_file = \"users\"\n[[listener]]\nbind = \"0.0.0.0:1883\"");
    assert!(users.auth.has_users() && !users.listeners[0].allow_anonymous);
    let two = format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{anonymous}\n").repeat(2);
    assert_eq!(loaded(&two).listeners.len(), 2, "port 0 is another one each time");
}

#[test]
fn an_error_names_the_file_that_decided() {
    let folder = Folder::new();
    let good = folder.file("good.toml", "[[listener]]\nbind = \"127.0.0.1:1\"\nallow_anonymous = true");
    let bad = folder.file("bad.toml", "shards = 1\n[[listener]]\nbind = \"127.0.0.1:2\"");
    let last = folder.file("last.toml", "shards = 2");
    let error = Config::load(&[good, bad, last], []).expect_err("a listener that lets nobody in");
    assert_reads(&error.to_string(), "…/bad.toml:2:1: listener[0].allow_anonymous: nobody…", "bad.toml");

    let missing = folder.path().join("missing.toml");
    let error = Config::load(&[missing], []).expect_err("no file");
    assert_reads(&error.to_string(), "…/missing.toml: No such file or directory…", "missing.toml");
}

#[test]
fn an_error_of_the_environment_names_the_variable() {
    let table = [
        ("WEIRMQ__SHARDS", "0", "WEIRMQ__SHARDS: shards: expected a whole number from 1 to 64, found 0"),
        (
            "WEIRMQ__SHARDS",
            "two",
            "WEIRMQ__SHARDS: shards: expected a whole number from 1 to 64, found \"two\"",
        ),
        ("WEIRMQ__SHARDS", "", "WEIRMQ__SHARDS: shards: …found \"\""),
        ("WEIRMQ__SHARDS", "2\nlimits.max_inflight = 1", "WEIRMQ__SHARDS: shards: …found \"2\\nlimits…"),
        ("WEIRMQ__LIMITS__NO_SUCH", "1", "WEIRMQ__LIMITS__NO_SUCH: limits.no_such: unknown field `no_such`…"),
        (
            "WEIRMQ__LIMITS__MAX_PACKET_SIZE",
            "1MB",
            "WEIRMQ__LIMITS__MAX_PACKET_SIZE: limits.max_packet_size: …",
        ),
        ("WEIRMQ__LOG__LEVEL", "\"\u{1b}[2J", "WEIRMQ__LOG__LEVEL: log.level: …found \"\\\"\\u{1b}[2J\""),
        ("WEIRMQ__LOG", "1", "WEIRMQ__LOG: log: invalid type…"),
        ("WEIRMQ__", "1", "WEIRMQ__: not the name of a setting…"),
        ("WEIRMQ__LOG__", "1", "WEIRMQ__LOG__: not the name of a setting…"),
        ("WEIRMQ__LOG.LEVEL", "info", "WEIRMQ__LOG.LEVEL: not the name of a setting…"),
        (
            "WEIRMQ__LISTENER",
            "[{ bind = \"127.0.0.1:1883\" }]",
            "WEIRMQ__LISTENER: listener[0].allow_anonymous: nobody could log in…",
        ),
    ];
    for (name, value, expected) in table {
        let error = Config::load(&[], variables(&[(name, value)])).expect_err(name);
        assert_reads(&error.to_string(), expected, &format!("{name}={value}"));
    }
}

#[test]
fn certificates_are_read_and_belong_together() {
    let folder = Folder::new();
    let ours = folder.certificates("ours");
    let others = folder.certificates("others");
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:8883\"\nallow_anonymous = true\n[listener.tls]\n\
         cert = \"{0}/server.pem\"\nkey = \"{0}/server.key\"\n\
         certificates = [{{ cert = \"{1}/server.pem\", key = \"{1}/server.key\" }}]\n\
         client_ca = \"{0}/ca.pem\"\nrequire_client_cert = true",
        ours.display(),
        others.display()
    );
    let config = loaded(&text);
    let tls = config.listeners[0].tls.as_ref().expect("TLS");
    let pair = |dir: &Path| CertificateFiles { cert: dir.join("server.pem"), key: dir.join("server.key") };
    assert_eq!(tls.certificates, [pair(&ours), pair(&others)]);
    assert_eq!((tls.client_ca.as_deref(), tls.require_client_cert), (Some(&*ours.join("ca.pem")), true));
}

#[test]
fn a_certificate_that_cannot_be_used_is_an_error_that_names_key_and_path() {
    let folder = Folder::new();
    let dir = folder.certificates("certs");
    let listener = "[[listener]]\nbind = \"127.0.0.1:8883\"\nallow_anonymous = true\n[listener.tls]\n";
    fs::write(dir.join("empty.pem"), "").expect("a file");
    let torn = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    fs::write(dir.join("torn.pem"), torn).expect("a file");
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(dir.join("not-der.pem"), not_der).expect("a file");
    fs::copy(dir.join("server.key"), dir.join("open.key")).expect("a file");
    fs::set_permissions(dir.join("open.key"), Permissions::from_mode(0o604)).expect("its mode is set");
    fs::copy(dir.join("ca.pem"), dir.join("open.pem")).expect("a file");
    fs::set_permissions(dir.join("open.pem"), Permissions::from_mode(0o646)).expect("its mode is set");
    let table = [
        ("", "weirmq.toml:4:1: listener[0].tls: TLS needs a certificate: write `cert` and `key`"),
        ("cert = \"server.pem\"", "weirmq.toml:4:1: listener[0].tls: `cert` and `key` go together"),
        (
            "require_client_cert = true\ncert = \"server.pem\"\nkey = \"server.key\"",
            "weirmq.toml:5:23: …needs `client_ca`…",
        ),
        (
            "cert = \"missing.pem\"\nkey = \"server.key\"",
            "weirmq.toml:5:8: listener[0].tls.cert: DIR/missing.pem: No such file or directory…",
        ),
        (
            "cert = \"server.pem\"\nkey = \"missing.key\"",
            "weirmq.toml:6:7: listener[0].tls.key: DIR/missing.key: No such file or directory…",
        ),
        (
            "cert = \"empty.pem\"\nkey = \"server.key\"",
            "weirmq.toml:5:8: …DIR/empty.pem: no certificate in it (PEM)",
        ),
        (
            "cert = \"torn.pem\"\nkey = \"server.key\"",
            "weirmq.toml:5:8: listener[0].tls.cert: DIR/torn.pem: …",
        ),
        (
            "cert = \"not-der.pem\"\nkey = \"server.key\"",
            "weirmq.toml:5:8: listener[0].tls.cert: DIR/not-der.pem: not a certificate…",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.pem\"",
            "weirmq.toml:6:7: …DIR/server.pem: no private key in it (PEM)",
        ),
        (
            "cert = \"server.pem\"\nkey = \"client.key\"",
            "weirmq.toml:6:7: …DIR/client.key: not the key of the certificate",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"empty.pem\"",
            "weirmq.toml:7:13: listener[0].tls.client_ca: DIR/empty.pem: no certificate in it (PEM)",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"not-der.pem\"",
            "weirmq.toml:7:13: listener[0].tls.client_ca: DIR/not-der.pem: not a certificate…",
        ),
        (
            "cert = \"server.pem\"\nkey = \"open.key\"",
            "weirmq.toml:6:7: …DIR/open.key: everybody has access to it (mode …): chmod 600 it, or 640",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"open.pem\"",
            "weirmq.toml:7:13: listener[0].tls.client_ca: DIR/open.pem: everybody can write to it (mode …): chmod 600 it, or 640",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"ca.pem\"\nclient_crl = \"open.pem\"",
            "weirmq.toml:8:14: listener[0].tls.client_crl: DIR/open.pem: everybody can write to it (mode …): chmod 600 it, or 640",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"ca.pem\"\nclient_crl = \"ca.pem\"",
            "weirmq.toml:8:14: listener[0].tls.client_crl: DIR/ca.pem: no revocation list in it (PEM)",
        ),
        (
            "cert = \"server.pem\"\nkey = \"server.key\"\nclient_crl = \"ca.pem\"",
            "weirmq.toml:7:14: listener[0].tls.client_crl: needs `client_ca`, the authorities that revoke",
        ),
        (
            "certificates = [{ cert = \"server.pem\", key = \"client.key\" }]",
            "weirmq.toml:5:…: listener[0].tls.certificates[0].key: DIR/client.key: not the key of the certificate",
        ),
    ];
    for (tls, expected) in table {
        let absolute = tls.replace(" = \"", &format!(" = \"{}/", dir.display()));
        let error = error_of(&format!("{listener}{absolute}"));
        assert_reads(&error.replace(&dir.display().to_string(), "DIR"), expected, tls);
    }
}

/// Compares a message with what is expected of it, where `…` stands for anything.
fn assert_reads(message: &str, expected: &str, of: &str) {
    let mut rest = message;
    for (index, part) in expected.split('…').enumerate() {
        let at = if index == 0 { rest.starts_with(part).then_some(0) } else { rest.find(part) };
        let at = at.unwrap_or_else(|| panic!("{of}\n     got: {message}\nexpected: {expected}"));
        rest = &rest[at + part.len()..];
    }
    assert!(rest.is_empty() || expected.ends_with('…'), "{of}\n     got: {message}\nexpected: {expected}");
}
