//! What somebody can do to a broker that has not let him in yet, or does not want to.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weirmq::auth::hash::Hash;
use weirmq::config::{AuthConfig, ListenerConfig};
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

use crate::common::client::*;

const VERSIONS: [Version; 3] = [Version::V3, Version::V4, Version::V5];

/// A password file that only its owner can read, with cheap hashes.
pub fn users(folder: &Path, users: &[(&str, &str)]) -> PathBuf {
    let line = |(user, password): &(&str, &str)| format!("{user}:{}\n", cheap(password).encode());
    private(folder, "users", &users.iter().map(line).collect::<String>())
}

/// A file that only its owner can read.
pub fn private(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its own");
    path
}

/// Argon2id that takes no time.
pub fn cheap(password: &str) -> Hash {
    Hash::argon2id(password.as_bytes(), [9; 16], (64, 1, 1)).expect("a hash")
}

/// A broker that knows these users, and tells failures at once.
pub fn serve_users(file: PathBuf, allow_anonymous: bool) -> Server {
    serve(|config| {
        config.shards = 2;
        config.auth =
            AuthConfig { password_file: Some(file), failure_delay: Duration::ZERO, ..AuthConfig::default() };
        config.listeners = vec![ListenerConfig { allow_anonymous, ..on_any_port() }];
    })
}

fn properties(version: Version) -> PropertiesBuf {
    let mut properties = PropertiesBuf::new();
    if version == Version::V5 {
        properties.push(Property::SessionExpiryInterval(3600));
    }
    properties
}

/// A CONNECT under way, with a session that is kept.
pub fn asking(
    server: &Server,
    version: Version,
    id: &str,
    clean_start: bool,
    credentials: (Option<&str>, Option<&str>),
) -> Client {
    let mut client = Client::open(server.addresses()[0], version);
    let properties = properties(version);
    client.send(&Packet::Connect(Connect {
        username: credentials.0,
        password: credentials.1.map(str::as_bytes),
        properties: properties.as_properties(),
        ..connect(version, id, clean_start)
    }));
    client
}

/// What the codes of 3.x stand for.
fn told(version: Version, reason: ReasonCode) -> ReasonCode {
    match (version, reason) {
        (Version::V5, reason) => reason,
        (_, ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized) => reason,
        (_, other) => panic!("no code of 3.x is expected for {other:?}"),
    }
}

#[test]
fn the_victims_session_is_untouched_until_the_password_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve_users(users(folder.path(), &[("ann", "right"), ("bob", "his")]), false);
    for version in VERSIONS {
        let ann = (Some("ann"), Some("right"));
        let mut victim = asking(&server, version, "victim", false, ann);
        victim.accepted();
        victim.subscribe("t", QoS::AtLeastOnce);
        let attacks = [
            (Some("ann"), Some("wrong")),
            (Some("ann"), Some("")),
            (Some("ann"), None),
            (Some("nobody"), Some("right")),
            (None, None),
            (Some("bob"), Some("his")),
        ];
        for credentials in attacks {
            for clean_start in [true, false] {
                asking(&server, version, "victim", clean_start, credentials).refused();
            }
        }
        // Neither its connection nor its subscription has suffered.
        let mut bob = asking(&server, version, "bob", true, (Some("bob"), Some("his")));
        bob.accepted();
        bob.publish("t", QoS::AtLeastOnce, b"one");
        victim.expect_publish("t", b"one");
        victim.disconnect();
        for credentials in attacks {
            asking(&server, version, "victim", true, credentials).refused();
        }
        bob.publish("t", QoS::AtLeastOnce, b"two");
        let mut victim = asking(&server, version, "victim", false, ann);
        assert_eq!(victim.accepted(), version > Version::V3);
        victim.expect_publish("t", b"two");
        victim.disconnect();
        asking(&server, version, "victim", true, ann).accepted();
    }
}

#[test]
fn missing_credentials_are_refused_whatever_is_missing() {
    use ReasonCode::{BadUserNameOrPassword, NotAuthorized};
    let folder = tempfile::tempdir().expect("a folder");
    let file = users(folder.path(), &[("ann", "right")]);
    for allow_anonymous in [false, true] {
        let server = serve_users(file.clone(), allow_anonymous);
        for version in VERSIONS {
            let wrong = [
                (Some("ann"), None),
                (Some("ann"), Some("")),
                (Some(""), Some("")),
                (Some(""), Some("right")),
                (Some(""), None),
                (Some("ann"), Some("Right")),
                (Some("Ann"), Some("right")),
                (Some("ann "), Some("right")),
                (Some("nobody"), Some("right")),
            ];
            for credentials in wrong {
                let mut client = asking(&server, version, "c", true, credentials);
                assert_eq!(client.refused(), told(version, BadUserNameOrPassword), "{credentials:?}");
            }
            if version == Version::V5 {
                // Before 5.0 there is no password without a user name.
                let mut client = asking(&server, version, "c", true, (None, Some("right")));
                assert_eq!(client.refused(), BadUserNameOrPassword);
            }
            let mut client = asking(&server, version, "anonymous", true, (None, None));
            match allow_anonymous {
                true => drop(client.accepted()),
                false => assert_eq!(client.refused(), told(version, NotAuthorized)),
            }
            asking(&server, version, "ann", true, (Some("ann"), Some("right"))).accepted();
        }
    }
}
