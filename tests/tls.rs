//! TLS over real sockets: which certificate, which client, which version, and that MQTT flows as it does without.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod world;
}

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::client::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use weirmq::config::{CertificateFiles, ListenerConfig, TlsConfig, TlsVersion};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

/// An authority and a folder for what it signs.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Authority { folder, issuer }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for these names and its key.
    fn sign(&self, file: &str, names: &[&str]) -> CertificateFiles {
        self.sign_for(file, names, None)
    }

    /// The same for so many seconds from now on, if that is limited.
    fn sign_for(&self, file: &str, names: &[&str], seconds: Option<u64>) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        if let Some(seconds) = seconds {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs() + seconds);
        }
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let path = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        std::fs::write(path("pem"), signed.pem()).expect("written");
        std::fs::write(path("key"), key.serialize_pem()).expect("written");
        std::fs::set_permissions(path("key"), Permissions::from_mode(0o640)).expect("its mode is set");
        CertificateFiles { cert: path("pem"), key: path("key") }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.file())).expect("a certificate");
        roots
    }

    /// A client that trusts this authority and speaks these versions; with a certificate of its own, if any.
    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&CertificateFiles>,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots());
        match certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
                builder.with_client_auth_cert(vec![der(&files.cert)], key).expect("a pair")
            }
        }
    }

    fn any_client(&self) -> Arc<ClientConfig> {
        Arc::new(self.client(&[&TLS12, &TLS13], None))
    }
}

fn der(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("a certificate")
}

fn tls(certificates: Vec<CertificateFiles>) -> TlsConfig {
    TlsConfig {
        certificates,
        client_ca: None,
        client_crl: None,
        require_client_cert: false,
        min_version: TlsVersion::V1_2,
        identity_from: None,
    }
}

/// A broker with one listener that speaks TLS.
fn serve_tls(tls: TlsConfig) -> (Server, SocketAddr) {
    let server = serve(|config| {
        config.shards = 2;
        config.listeners = vec![ListenerConfig { tls: Some(tls), ..on_any_port() }];
    });
    let address = server.addresses()[0];
    (server, address)
}

fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> Client {
    let (mut client, _) = Client::open_tls(address, Version::V5, config, "localhost").expect("a handshake");
    client.hello(id);
    client
}

#[test]
fn messages_arrive_over_tls_1_2_and_1_3_whatever_their_size() {
    let authority = Authority::new();
    let (_server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let config = Arc::new(authority.client(&[version], None));
        let (mut taker, facts) =
            Client::open_tls(address, Version::V5, &config, "localhost").expect("a handshake");
        assert_eq!(facts.version, Some(expected));
        taker.hello("taker");
        taker.subscribe("t/#", QoS::ExactlyOnce);
        let mut giver = connect_tls(address, &config, "giver");
        for size in [0, 1, 100, 16_000, 16_384, 17_000, 70_000, 1_000_000] {
            let payload: Vec<u8> = (0..size).map(|at: usize| (at * 7 % 251) as u8).collect();
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                assert_eq!(giver.publish("t/x", qos, &payload), ReasonCode::Success);
                taker.expect_publish("t/x", &payload);
            }
        }
        giver.disconnect();
        taker.disconnect();
    }
}

#[test]
fn a_fan_out_over_tls_is_complete_and_in_order() {
    let authority = Authority::new();
    let (_server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    let config = authority.any_client();
    let mut takers: Vec<Client> =
        (0..10).map(|id| connect_tls(address, &config, &format!("taker-{id}"))).collect();
    takers.iter_mut().for_each(|taker| taker.subscribe("t", QoS::AtLeastOnce));
    let mut giver = connect_tls(address, &config, "giver");
    for round in 0..50 {
        for number in 0..20 {
            giver.publish("t", QoS::AtMostOnce, format!("{round}-{number}").as_bytes());
        }
        for taker in &mut takers {
            for number in 0..20 {
                taker.expect_publish("t", format!("{round}-{number}").as_bytes());
            }
        }
    }
}

#[test]
fn a_reader_that_blocks_goes_on_where_it_was() {
    let authority = Authority::new();
    let (_server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    let config = authority.any_client();
    let mut blocked = connect_tls(address, &config, "blocked");
    blocked.subscribe("t", QoS::AtLeastOnce);
    let mut giver = connect_tls(address, &config, "giver");
    // 32 at QoS 1 wait for their acknowledgements; the rest of what it may queue waits behind them.
    let payload = |number: usize| vec![number as u8; 100_000];
    let mut sent = 0;
    while sent < 40 && giver.publish("t", QoS::AtLeastOnce, &payload(sent)) == ReasonCode::Success {
        sent += 1;
    }
    for number in 0..10 {
        blocked.expect_publish("t", &payload(number));
    }
}

#[test]
fn a_publisher_that_is_paused_when_it_ends_its_stream_loses_nothing() {
    let authority = Authority::new();
    let files = tls(vec![authority.sign("server", &["localhost"])]);
    let server = serve(|config| {
        config.shards = 2;
        config.limits.lane_bytes = 4096;
        config.listeners = vec![ListenerConfig { tls: Some(files), ..on_any_port() }];
    });
    let address = server.addresses()[0];
    let config = authority.any_client();
    let mut takers: Vec<Client> =
        (0..4).map(|number| connect_tls(address, &config, &format!("t{number}"))).collect();
    takers.iter_mut().for_each(|taker| taker.subscribe("t", QoS::AtMostOnce));
    let mut giver = connect_tls(address, &config, "giver");
    let payload = |number: usize| format!("{number:0100}");
    for number in 0..2000 {
        giver.publish("t", QoS::AtMostOnce, payload(number).as_bytes());
    }
    giver.close_notify();
    for taker in &mut takers {
        for number in 0..2000 {
            taker.expect_publish("t", payload(number).as_bytes());
        }
    }
    giver.expect_closed();
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_the_client_asks_for() {
    let authority = Authority::new();
    let first = authority.sign("first", &["localhost", "first.example"]);
    let second = authority.sign("second", &["second.example", "*.wild.example"]);
    let (_server, address) = serve_tls(tls(vec![first.clone(), second.clone()]));
    let config = authority.any_client();
    for (name, expected) in [
        ("localhost", &first),
        ("first.example", &first),
        ("second.example", &second),
        ("a.wild.example", &second),
        ("A.WILD.example", &second),
    ] {
        let (mut client, facts) = Client::open_tls(address, Version::V4, &config, name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(facts.certificate.as_deref(), Some(der(&expected.cert).as_ref()), "{name}");
        client.hello("sni");
    }
    // A name that no certificate has: the first one, which that client will not like.
    let error = Client::open_tls(address, Version::V4, &config, "other.example").err().expect("not its name");
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[test]
fn alpn_mqtt_is_agreed_none_is_fine_and_another_is_refused() {
    let authority = Authority::new();
    let (_server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    let offering = |protocols: &[&str]| {
        let mut config = authority.client(&[&TLS13], None);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Client::open_tls(address, Version::V4, &Arc::new(config), "localhost")
    };
    for (offered, agreed) in [(&["x-amzn-mqtt-ca", "mqtt"][..], Some(b"mqtt".to_vec())), (&[], None)] {
        let (mut client, facts) = offering(offered).expect("a handshake");
        assert_eq!(facts.alpn, agreed);
        client.hello("alpn");
    }
    let error = offering(&["http/1.1"]).err().expect("no common protocol");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn a_session_ticket_saves_the_next_handshake() {
    let authority = Authority::new();
    let (_server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(authority.client(&[version], None));
        for expected in [false, true, true] {
            let (mut client, facts) =
                Client::open_tls(address, Version::V5, &config, "localhost").expect("a handshake");
            assert_eq!(facts.resumed, expected);
            client.hello("again");
            client.disconnect();
        }
    }
}

#[test]
fn a_ticket_does_not_outlive_the_certificate() {
    let authority = Authority::new();
    let server = authority.sign("server", &["localhost"]);
    let config =
        TlsConfig { client_ca: Some(authority.file()), require_client_cert: true, ..tls(vec![server]) };
    let (_server, address) = serve_tls(config);
    let come = |config: &Arc<ClientConfig>| -> Option<(Client, bool)> {
        let (mut client, facts) = Client::open_tls(address, Version::V5, config, "localhost").ok()?;
        let mut bytes = Vec::new();
        codec::encode(Version::V5, &Packet::Connect(connect(Version::V5, "who", true)), &mut bytes);
        client.try_send(&bytes).ok()?;
        Some((client, facts.resumed))
    };
    let comes_in = |config: &Arc<ClientConfig>| {
        let (mut client, resumed) = come(config)?;
        let frame = client.poll(PATIENCE).ok()??;
        let is_in =
            matches!(frame.packet(), Packet::ConnAck(connack) if connack.reason == ReasonCode::Success);
        is_in.then_some(resumed)
    };
    // Long enough for all that is to happen before it ends, however slow the machine is.
    let (short, clients) = (2..7)
        .find_map(|power| {
            let short = authority.sign_for("short", &["client"], Some(1 << power));
            let clients =
                [&TLS12, &TLS13].map(|version| Arc::new(authority.client(&[version], Some(&short))));
            let all_in =
                clients.iter().all(|client| [false, true].map(Some) == [comes_in(client), comes_in(client)]);
            all_in.then_some((short, clients))
        })
        .expect("they come in, and again by their tickets");
    let deadline = Instant::now() + Duration::from_secs(100);
    // Nothing announces that it has ended, but that nobody gets in with it.
    while comes_in(&Arc::new(authority.client(&[&TLS13], Some(&short)))).is_some() {
        assert!(Instant::now() < deadline, "it ends within 64 seconds");
        std::thread::sleep(Duration::from_millis(50));
    }
    for client in &clients {
        let (mut client, resumed) = come(client).expect("a handshake");
        assert!(resumed);
        assert_eq!(client.refused(), ReasonCode::NotAuthorized);
    }
}

#[test]
fn a_client_certificate_is_checked_where_there_is_an_authority_for_it() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.sign("server", &["localhost"]);
    let (good, bad) = (authority.sign("client", &["client"]), stranger.sign("client", &["client"]));
    let config = |require_client_cert| TlsConfig {
        client_ca: Some(authority.file()),
        require_client_cert,
        ..tls(vec![server.clone()])
    };
    let (_optional, optional) = serve_tls(config(false));
    let (_required, required) = serve_tls(config(true));
    for version in [&TLS12, &TLS13] {
        // In TLS 1.3 a client learns only after its handshake that its certificate was not liked.
        let comes_in = |address, certificate: Option<&CertificateFiles>| {
            let config = Arc::new(authority.client(&[version], certificate));
            let Ok((mut client, _)) = Client::open_tls(address, Version::V5, &config, "localhost") else {
                return false;
            };
            client.send(&Packet::Connect(connect(Version::V5, "who", true)));
            match client.poll(PATIENCE) {
                Ok(frame) => matches!(frame.expect("an answer").packet(), Packet::ConnAck(_)),
                Err(error) => {
                    // The alert arrives: the socket is not simply reset.
                    assert!(error.to_string().contains("received fatal alert"), "{error}");
                    false
                }
            }
        };
        assert!(comes_in(optional, None));
        assert!(comes_in(optional, Some(&good)));
        assert!(!comes_in(optional, Some(&bad)));
        assert!(!comes_in(required, None));
        assert!(comes_in(required, Some(&good)));
        assert!(!comes_in(required, Some(&bad)));
    }
}

#[test]
fn the_end_of_the_stream_is_said_in_both_directions() {
    let authority = Authority::new();
    let (server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    let config = authority.any_client();
    let mut taker = connect_tls(address, &config, "taker");
    taker.subscribe("will", QoS::AtMostOnce);
    // The client's close_notify, without the socket's end, ends the connection; its will says so.
    let will = LastWill {
        qos: QoS::AtMostOnce,
        retain: false,
        properties: weirmq::protocol::properties::Properties::EMPTY,
        topic: "will",
        payload: b"gone",
    };
    let (mut client, _) = Client::open_tls(address, Version::V5, &config, "localhost").expect("a handshake");
    client.send(&Packet::Connect(Connect { will: Some(will), ..connect(Version::V5, "brief", true) }));
    client.accepted();
    client.close_notify();
    taker.expect_publish("will", b"gone");
    client.expect_closed();
    // And the server's: rustls reports a stream that ends without one as an error of its own kind.
    let stopping = std::thread::spawn(move || server.shutdown());
    let frame = taker.next();
    assert!(matches!(frame.packet(), Packet::Disconnect(_)), "{frame:?}");
    let end = taker.poll(PATIENCE).expect_err("the end");
    assert!(!end.to_string().contains("close_notify"), "{end}");
    drop((taker, client));
    stopping.join().expect("no panic").expect("no shard failed");
}

#[test]
fn slow_loris_tls_hello_meets_the_same_deadline() {
    let authority = Authority::new();
    let files = tls(vec![authority.sign("server", &["localhost"])]);
    let server = serve(|config| {
        config.limits.connect_timeout = Duration::from_millis(300);
        config.listeners = vec![ListenerConfig { tls: Some(files), ..on_any_port() }];
    });
    let address = server.addresses()[0];
    let start = Instant::now();
    let mut silent = TcpStream::connect(address).expect("accepted");
    silent.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).expect("written");
    // And one that has finished the handshake, but says nothing then.
    let config = authority.any_client();
    let (mut mute, _) = Client::open_tls(address, Version::V5, &config, "localhost").expect("a handshake");
    connect_tls(address, &config, "newcomer").ping();
    silent.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    mute.expect_closed();
    assert!(start.elapsed() >= Duration::from_millis(290));
}

#[test]
fn what_is_not_tls_is_refused_with_an_alert() {
    let authority = Authority::new();
    let (_server, address) = serve_tls(tls(vec![authority.sign("server", &["localhost"])]));
    let mut plain = TcpStream::connect(address).expect("accepted");
    plain.set_read_timeout(Some(PATIENCE)).expect("a socket");
    plain.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c").expect("written");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).expect("an orderly end");
    assert_eq!(answer.first(), Some(&0x15), "{answer:02X?}");
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_key() {
    let authority = Authority::new();
    let good = authority.sign("server", &["localhost"]);
    let missing = authority.folder.path().join("missing.pem");
    let start = |tls: TlsConfig| weirmq::net::tls::Tls::read(&tls, false, None).expect_err("is refused");
    let with_key = |key: &Path| tls(vec![CertificateFiles { key: key.into(), ..good.clone() }]);
    let with_cert = |cert: &Path| tls(vec![CertificateFiles { cert: cert.into(), ..good.clone() }]);
    let ca = TlsConfig { client_ca: Some(good.key.clone()), ..tls(vec![good.clone()]) };
    let other = authority.sign("other", &["localhost"]);
    for (error, key, file) in [
        (start(with_cert(&missing)), "listener.tls.cert", &missing),
        (start(with_key(&missing)), "listener.tls.key", &missing),
        (start(with_key(&other.key)), "listener.tls.key", &other.key),
        (start(ca), "listener.tls.client_ca", &good.key),
    ] {
        assert!(error.starts_with(&format!("{key}: {}", file.display())), "{error}");
    }
}
