//! TLS with what `weirmq dev-certs` makes: both sides known to each other, and nobody else.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weirmq::protocol::packet::{PacketType, QoS};

use crate::broker::{Broker, Peer};
use crate::command::Weirmq;

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// Runs `weirmq dev-certs`, and makes a server of what it wrote.
fn dev_certs(dir: &Path) -> Arc<ServerConfig> {
    let ended = Weirmq::start_plain(&["dev-certs", dir.to_str().unwrap()]).end();
    ended.well();
    for name in ["ca.pem", "server.key", "--cafile", "[listener.tls]"] {
        assert!(ended.out.contains(name), "{name}: {ended:?}");
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let certificate = CertificateDer::from_pem_file(dir.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Arc::new(config)
}

fn handshake(broker: &Broker, config: &Arc<ServerConfig>) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), broker.socket())
}

#[test]
fn pub_and_sub_work_over_tls_with_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let config = dev_certs(dir.path());
    let (ca, cert, key) =
        (path(dir.path(), "ca.pem"), path(dir.path(), "client.pem"), path(dir.path(), "client.key"));
    let tls = ["--cafile", &ca, "--cert", &cert, "--key", &key, "-t", "a"];
    let broker = Broker::new();

    let command = Weirmq::start("pub", broker.port, &[&tls[..], &["-m", "x", "-q", "1"]].concat());
    let mut peer = Peer::new(handshake(&broker, &config));
    assert_eq!(peer.stream.conn.alpn_protocol(), Some(&b"mqtt"[..]));
    peer.connack(false, &[]);
    assert_eq!(peer.publish().payload, b"x");
    peer.ack(PacketType::PubAck, 1);
    peer.expect_disconnect();
    drop(peer);
    command.end().well();

    let command = Weirmq::start("sub", broker.port, &[&tls[..], &["-C", "1", "--mqtt", "5"]].concat());
    let mut peer = Peer::new(handshake(&broker, &config));
    peer.connack(false, &[]);
    peer.suback(&[0]);
    let large = "y".repeat(1 << 20);
    peer.deliver("a", &large, QoS::AtMostOnce, 0);
    peer.expect_disconnect();
    drop(peer);
    assert_eq!(command.end().out, format!("{large}\n"));
}

#[test]
fn a_server_that_the_authority_has_not_signed_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = dev_certs(dir.path());
    dev_certs(other.path());
    let broker = Broker::new();
    let cafile = path(other.path(), "ca.pem");
    let command = Weirmq::start("pub", broker.port, &["--cafile", &cafile, "-t", "a", "-m", "x"]);
    let mut stream = handshake(&broker, &config);
    assert!(stream.conn.complete_io(&mut stream.sock).is_err());
    command.end().said(3, &["no connection", "TLS: invalid peer certificate"]);
}

#[test]
fn a_client_without_its_certificate_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = dev_certs(dir.path());
    let broker = Broker::new();
    let cafile = path(dir.path(), "ca.pem");
    let command = Weirmq::start("pub", broker.port, &["--cafile", &cafile, "-t", "a", "-m", "x"]);
    let mut stream = handshake(&broker, &config);
    assert!(stream.conn.complete_io(&mut stream.sock).is_err());
    command.end().said(3, &["no connection", "CertificateRequired"]);
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let dir = tempfile::tempdir().unwrap();
    dev_certs(dir.path());
    let (key, missing) = (path(dir.path(), "ca.key"), path(dir.path(), "missing.pem"));
    for (cafile, words) in [(&key, "no certificate in it"), (&missing, "missing.pem: ")] {
        let ended = Weirmq::start("pub", 1, &["--cafile", cafile, "-t", "a", "-m", "x"]).end();
        ended.said(1, &[words]);
    }
    // And nothing is overwritten.
    let ended = Weirmq::start_plain(&["dev-certs", dir.path().to_str().unwrap()]).end();
    ended.said(1, &["ca.pem exists; --force replaces it"]);
}
