//! What let a client in is withdrawn by a reload: that the listener takes anybody, that a certificate names a user, that a
//! token was signed by this key. Such a client goes, and no other does.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use weirmq::auth::hash::Hash;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

use crate::authority::{Authority, replace};
use crate::common::client::*;
use crate::common::process::Process;
use crate::reload::reload;

const CONFIG: &str = "shards = 2
[[listener]]
bind = \"127.0.0.1:0\"
allow_anonymous = true
[[listener]]
bind = \"127.0.0.1:0\"
allow_anonymous = true
[listener.tls]
cert = \"{dir}/server.pem\"
key = \"{dir}/server.key\"
client_ca = \"{dir}/ca.pem\"
client_crl = \"{dir}/ca.crl\"
identity_from = \"cn\"
[auth]
password_file = \"{dir}/users\"
[auth.jwt]
algorithm = \"HS256\"
key = \"{dir}/secret\"
";

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn start() -> (Process, Authority) {
    let mut authority = None;
    let process = Process::start(CONFIG, |folder| {
        let made = Authority::new(folder);
        made.sign("unit", 10);
        made.sign("other", 11);
        let hash = Hash::argon2id(b"ann", [7; 16], (64, 1, 1)).expect("a hash");
        replace(&folder.join("users"), &format!("ann:{}\n", hash.encode()));
        replace(&folder.join("secret"), SECRET);
        authority = Some(made);
    });
    (process, authority.expect("prepared"))
}

fn log_in(address: SocketAddr, user: Option<&str>, password: Option<&str>, id: &str) -> Client {
    let mut client = Client::open(address, Version::V5);
    let password = password.map(str::as_bytes);
    let credentials = Connect { username: user, password, ..connect(Version::V5, id, true) };
    client.send(&Packet::Connect(credentials));
    client
}

fn accepted(mut client: Client) -> Client {
    client.accepted();
    client
}

/// Changes the configuration as an operator does in an editor.
fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join("weirmq.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains(from), "{from} in {text}");
    replace(&path, &text.replacen(from, to, 1));
}

#[test]
fn anonymous_clients_go_when_their_listener_takes_them_no_more() {
    let (process, authority) = start();
    let (plain, tls) = (process.addresses[0], process.addresses[1]);
    let unit = authority.client("unit");
    let mut nobody = accepted(log_in(plain, None, None, "nobody"));
    let mut ann = accepted(log_in(plain, Some("ann"), Some("ann"), "ann"));
    let trusting = trusting(&process.folder.path().join("ca.pem"));
    let open = |config| Client::open_tls(tls, Version::V5, config, "localhost").expect("a handshake").0;
    let mut elsewhere = open(&trusting);
    elsewhere.hello("elsewhere");
    let mut certified = open(&unit);
    certified.hello("certified");
    // The first listener's, the second's stays.
    edit(process.folder.path(), "allow_anonymous = true\n", "");
    reload(&process, "INFO reloaded");
    assert_eq!(nobody.expect_disconnect(), ReasonCode::NotAuthorized);
    process.logged("anonymous clients are not accepted any more");
    assert_eq!(log_in(plain, None, None, "nobody").refused(), ReasonCode::NotAuthorized);
    ann.ping();
    elsewhere.ping();
    certified.ping();
    edit(process.folder.path(), "allow_anonymous = true\n", "");
    reload(&process, "INFO reloaded");
    assert_eq!(elsewhere.expect_disconnect(), ReasonCode::NotAuthorized);
    ann.ping();
    certified.ping();
    // And who was a user by its certificate is not, once certificates name none.
    edit(process.folder.path(), "identity_from = \"cn\"\n", "");
    reload(&process, "INFO reloaded");
    assert_eq!(certified.expect_disconnect(), ReasonCode::NotAuthorized);
    ann.ping();
}

#[test]
fn who_came_without_a_certificate_goes_where_one_is_asked_for_now() {
    let (process, _authority) = start();
    let plain = process.addresses[0];
    let mut nobody = accepted(log_in(plain, None, None, "nobody"));
    let trusting = trusting(&process.folder.path().join("ca.pem"));
    let tls = process.addresses[1];
    let (mut elsewhere, _) = Client::open_tls(tls, Version::V5, &trusting, "localhost").expect("a handshake");
    elsewhere.hello("elsewhere");
    let with_tls = "allow_anonymous = true
[listener.tls]
cert = \"{dir}/server.pem\"
key = \"{dir}/server.key\"
client_ca = \"{dir}/ca.pem\"
require_client_cert = true
";
    let with_tls = with_tls.replace("{dir}", &process.folder.path().display().to_string());
    edit(process.folder.path(), "allow_anonymous = true\n", &with_tls);
    reload(&process, "INFO reloaded");
    assert_eq!(nobody.expect_disconnect(), ReasonCode::NotAuthorized);
    elsewhere.ping();
}

#[test]
fn who_has_another_name_than_its_certificate_goes_once_certificates_say_who_one_is() {
    let (process, authority) = start();
    edit(process.folder.path(), "identity_from = \"cn\"\n", "");
    reload(&process, "INFO reloaded");
    let unit = authority.client("unit");
    let tls = process.addresses[1];
    let open = || Client::open_tls(tls, Version::V5, &unit, "localhost").expect("a handshake").0;
    let (mut ann, mut nobody) = (open(), open());
    nobody.hello("nobody");
    let (username, password) = (Some("ann"), Some(&b"ann"[..]));
    ann.send(&Packet::Connect(Connect { username, password, ..connect(Version::V5, "ann", true) }));
    let mut ann = accepted(ann);
    edit(process.folder.path(), "client_ca = \"", "identity_from = \"cn\"\nclient_ca = \"");
    reload(&process, "INFO reloaded");
    assert_eq!(ann.expect_disconnect(), ReasonCode::NotAuthorized);
    nobody.ping();
}

/// The code of the SUBACK.
fn subscribing(client: &mut Client, filter: &str) -> u8 {
    let mut raw = Vec::new();
    let filters = SubscribeFilters::encode([(filter, options(QoS::AtMostOnce))], &mut raw);
    let (packet_id, properties) = (PacketId::MIN, Properties::EMPTY);
    client.send(&Packet::Subscribe(Subscribe { packet_id, properties, filters }));
    let suback = client.wait_for(|packet| matches!(packet, Packet::SubAck(_)));
    let Packet::SubAck(suback) = suback.packet() else { panic!("a SUBACK") };
    suback.reasons[0]
}

/// The code of the UNSUBACK.
fn unsubscribing(client: &mut Client, filter: &str) -> u8 {
    let mut raw = Vec::new();
    let filters = UnsubscribeFilters::encode([filter], &mut raw);
    let (packet_id, properties) = (PacketId::MIN, Properties::EMPTY);
    client.send(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
    let unsuback = client.wait_for(|packet| matches!(packet, Packet::UnsubAck(_)));
    let Packet::UnsubAck(unsuback) = unsuback.packet() else { panic!("an UNSUBACK") };
    unsuback.reasons[0]
}

#[test]
fn who_is_a_local_client_no_longer_loses_the_statistics_and_nothing_else() {
    const NOT_AUTHORISED: u8 = ReasonCode::NotAuthorized as u8;
    const NONE_EXISTED: u8 = ReasonCode::NoSubscriptionExisted as u8;
    let (process, _authority) = start();
    let plain = process.addresses[0];
    let mut ann = accepted(log_in(plain, Some("ann"), Some("ann"), "ann"));
    let shared = "$share/g/$SYS/#";
    for filter in ["$SYS/#", shared, "t"] {
        assert_eq!(subscribing(&mut ann, filter), 0, "{filter}");
    }
    let file = process.folder.path().join("weirmq.toml");
    let before = fs::read_to_string(&file).expect("a configuration");
    // It lets in none but users, or somebody may speak for those who come.
    let proxied = "allow_anonymous = true\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]\n";
    for other in ["", proxied] {
        edit(process.folder.path(), "allow_anonymous = true\n", other);
        reload(&process, "INFO reloaded");
        for filter in ["$SYS/#", shared] {
            assert_eq!(unsubscribing(&mut ann, filter), NONE_EXISTED, "{filter}");
            assert_eq!(subscribing(&mut ann, filter), NOT_AUTHORISED, "{filter}");
        }
        assert_eq!(ann.publish("t", QoS::AtLeastOnce, b"still"), ReasonCode::Success);
        ann.wait_for(|packet| matches!(packet, Packet::Publish(publish) if publish.topic == "t"));
        replace(&file, &before);
        reload(&process, "INFO reloaded");
        for filter in ["$SYS/#", shared] {
            assert_eq!(subscribing(&mut ann, filter), 0, "{filter}");
        }
    }
}

#[test]
fn who_came_by_a_listener_that_is_gone_stays_while_its_certificate_holds_and_is_local_no_more() {
    let (process, authority) = start();
    let (plain, tls) = (process.addresses[0], process.addresses[1]);
    let mut ann = accepted(log_in(plain, Some("ann"), Some("ann"), "ann"));
    assert_eq!(subscribing(&mut ann, "$SYS/#"), 0);
    let certified = |name: &str| {
        let config = authority.client(name);
        let (mut client, _) = Client::open_tls(tls, Version::V5, &config, "localhost").expect("a handshake");
        client.hello(name);
        client
    };
    let (mut unit, mut other) = (certified("unit"), certified("other"));
    let file = process.folder.path().join("weirmq.toml");
    let before = fs::read_to_string(&file).expect("a configuration");
    let rest = &before[before.find("[auth]").expect("it has users")..];
    let socket = process.folder.path().join("mqtt.sock");
    let only = format!("shards = 2\n[[listener]]\nbind = \"unix:{}\"\n{rest}", socket.display());
    replace(&file, &only);
    // One that is revoked by the same reload, and one later, when nothing but the list changes.
    authority.revoke(&[11]);
    reload(&process, "INFO reloaded");
    assert_eq!(other.expect_disconnect(), ReasonCode::NotAuthorized);
    assert_eq!(unsubscribing(&mut ann, "$SYS/#"), ReasonCode::NoSubscriptionExisted as u8);
    unit.ping();
    authority.revoke(&[10, 11]);
    assert_eq!(unit.expect_disconnect(), ReasonCode::NotAuthorized);
    ann.ping();
}

fn token(secret: &str) -> String {
    let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
    let said = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(br#"{"sub":"bob"}"#));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{said}.{}", encode(hmac::sign(&key, said.as_bytes()).as_ref()))
}

#[test]
fn clients_with_tokens_go_when_another_key_signs_them() {
    let (process, _authority) = start();
    let plain = process.addresses[0];
    let mut bob = accepted(log_in(plain, Some("bob"), Some(&token(SECRET)), "bob"));
    let mut ann = accepted(log_in(plain, Some("ann"), Some("ann"), "ann"));
    reload(&process, "INFO reloaded");
    bob.ping();
    let other = SECRET.replace('0', "1");
    replace(&process.folder.path().join("secret"), &other);
    reload(&process, "INFO reloaded");
    assert_eq!(bob.expect_disconnect(), ReasonCode::NotAuthorized);
    let again = log_in(plain, Some("bob"), Some(&token(SECRET)), "bob").refused();
    assert_eq!(again, ReasonCode::BadUserNameOrPassword);
    accepted(log_in(plain, Some("bob"), Some(&token(&other)), "bob")).ping();
    ann.ping();
}
