//! A small blocking MQTT client on the project's own codec, and a broker to point it at: for tests over real sockets.
//! It waits for what it expects, never for time to pass.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::SockRef;
use weirmq::config::{Bind, Config, ListenerConfig, StoreConfig, SyncMode};
use weirmq::protocol::codec;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::{Properties, PropertiesBuf, Property};
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

pub use super::world::{Frame, ack_of, connect, message, options};

/// How long a client waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker on a port of its own, with the default configuration but for what `change` changes; it keeps nothing on disk.
pub fn serve(change: impl FnOnce(&mut Config)) -> Server {
    let mut config =
        Config { shards: 2, listeners: vec![on_any_port()], store: nothing_kept(), ..Config::default() };
    change(&mut config);
    Server::start(config).expect("the broker starts")
}

/// A store that leaves no folder behind.
pub fn nothing_kept() -> StoreConfig {
    StoreConfig { sync: SyncMode::Off, ..StoreConfig::default() }
}

/// A listener on loopback, with a port that the system chooses.
pub fn on_any_port() -> ListenerConfig {
    ListenerConfig { bind: Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), ..ListenerConfig::default() }
}

/// What a client talks through.
pub trait Stream: Read + Write + Send {
    /// What lies below it all.
    fn socket(&self) -> SockRef<'_>;

    /// TLS says that nothing follows.
    fn close_notify(&mut self) {}
}

impl Stream for TcpStream {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

impl Stream for UnixStream {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.sock)
    }

    fn close_notify(&mut self) {
        self.conn.send_close_notify();
    }
}

/// A client: what it sends is up to the test, what it receives is waited for.
pub struct Client {
    stream: Box<dyn Stream>,
    pub version: Version,
    /// Bytes that are no whole packet yet.
    partial: Vec<u8>,
    /// Packets that came while another one was waited for.
    received: VecDeque<Frame>,
    last_id: u16,
}

impl Client {
    /// A TCP connection on which nothing has been said yet.
    pub fn open(address: SocketAddr, version: Version) -> Client {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the broker accepts");
        Client::over(socket, version)
    }

    /// The same over a socket of one's own.
    pub fn over(socket: TcpStream, version: Version) -> Client {
        socket.set_nodelay(true).expect("a socket");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Client::new(Box::new(socket), version)
    }

    /// The same over any stream.
    pub fn new(stream: Box<dyn Stream>, version: Version) -> Client {
        Client { stream, version, partial: Vec::new(), received: VecDeque::new(), last_id: 0 }
    }

    /// The same over a Unix socket.
    pub fn open_unix(path: &Path, version: Version) -> Client {
        let socket = UnixStream::connect(path).expect("the broker accepts");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Client::new(Box::new(socket), version)
    }

    /// A TLS connection, its handshake done, on which nothing has been said yet.
    ///
    /// # Errors
    /// If the handshake fails. (A client certificate that the server refuses shows in TLS 1.3 only when it is read.)
    pub fn open_tls(
        address: SocketAddr,
        version: Version,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<(Client, TlsFacts)> {
        Client::over_tls(TcpStream::connect_timeout(&address, PATIENCE)?, version, config, name)
    }

    /// The same over a socket of one's own.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn over_tls(
        mut socket: TcpStream,
        version: Version,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<(Client, TlsFacts)> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        let facts = TlsFacts {
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            version: tls.protocol_version(),
            certificate: tls.peer_certificates().and_then(|all| all.first()).map(|cert| cert.to_vec()),
        };
        Ok((Client::new(Box::new(StreamOwned::new(tls, socket)), version), facts))
    }

    /// Connects with Clean Start; the CONNACK must be a success.
    pub fn connect(address: SocketAddr, version: Version, client_id: &str) -> Client {
        let mut client = Client::open(address, version);
        client.hello(client_id);
        client
    }

    /// Connects with a session that outlives the connection; whether there was one.
    pub fn resume(address: SocketAddr, version: Version, client_id: &str) -> (Client, bool) {
        let mut client = Client::open(address, version);
        let mut properties = PropertiesBuf::new();
        if version == Version::V5 {
            properties.push(Property::SessionExpiryInterval(3600));
        }
        let properties = properties.as_properties();
        client.send(&Packet::Connect(Connect { properties, ..connect(version, client_id, false) }));
        let present = client.accepted();
        (client, present)
    }

    /// Sends a plain CONNECT with Clean Start; the CONNACK must be a success.
    pub fn hello(&mut self, client_id: &str) {
        self.send(&Packet::Connect(connect(self.version, client_id, true)));
        self.accepted();
    }

    /// Takes the CONNACK, which must be a success; Session Present.
    pub fn accepted(&mut self) -> bool {
        let frame = self.next();
        let Packet::ConnAck(connack) = frame.packet() else { panic!("expected CONNACK, got {frame:?}") };
        assert_eq!(connack.reason, ReasonCode::Success);
        connack.session_present
    }

    /// Takes a CONNACK that refuses, and the end of the connection.
    pub fn refused(&mut self) -> ReasonCode {
        let frame = self.next();
        let Packet::ConnAck(connack) = frame.packet() else { panic!("expected CONNACK, got {frame:?}") };
        self.expect_closed();
        connack.reason
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(self.version, packet, &mut bytes);
        self.send_bytes(&bytes);
    }

    /// Sends raw bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the broker takes bytes");
    }

    /// Sends raw bytes to a broker that may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Subscribes; the SUBACK must grant.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) {
        let mut raw = Vec::new();
        let filters = SubscribeFilters::encode([(filter, options(qos))], &mut raw);
        let packet_id = self.next_id();
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
        let frame =
            self.wait_for(|packet| matches!(packet, Packet::SubAck(ack) if ack.packet_id == packet_id));
        let Packet::SubAck(suback) = frame.packet() else { unreachable!() };
        assert_eq!(suback.reasons, [qos as u8]);
    }

    /// Publishes and completes the exchange; the broker's last reason code.
    pub fn publish(&mut self, topic: &str, qos: QoS, payload: &[u8]) -> ReasonCode {
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.next_id());
        self.send(&Packet::Publish(Publish { packet_id, payload, ..message(topic, qos, "") }));
        let Some(id) = packet_id else { return ReasonCode::Success };
        let answers = |packet: &Packet<'_>| match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => ack.packet_id == id,
            _ => false,
        };
        let frame = self.wait_for(answers);
        match frame.packet() {
            Packet::PubRec(ack) if !ack.reason.is_failure() => {
                self.send(&Packet::PubRel(ack_of(id)));
                self.wait_for(answers);
                ack.reason
            }
            Packet::PubRec(ack) | Packet::PubAck(ack) => ack.reason,
            _ => panic!("expected PUBACK or PUBREC, got {frame:?}"),
        }
    }

    /// Takes the next PUBLISH and acknowledges it, a QoS 2 one up to PUBCOMP.
    pub fn take_publish(&mut self) -> Frame {
        let frame = self.wait_for(|packet| matches!(packet, Packet::Publish(_)));
        let publish = frame.publish();
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.send(&Packet::PubAck(ack_of(id))),
            (QoS::ExactlyOnce, Some(id)) => {
                self.send(&Packet::PubRec(ack_of(id)));
                self.wait_for(|packet| matches!(packet, Packet::PubRel(ack) if ack.packet_id == id));
                self.send(&Packet::PubComp(ack_of(id)));
            }
            _ => {}
        }
        frame
    }

    /// Takes the next PUBLISH, which must be this one, and acknowledges it.
    #[track_caller]
    pub fn expect_publish(&mut self, topic: &str, payload: &[u8]) {
        let frame = self.take_publish();
        let publish = frame.publish();
        assert_eq!((publish.topic, publish.payload), (topic, payload));
    }

    /// Asks whether the broker is there: everything sent before has been dealt with when this returns.
    pub fn ping(&mut self) {
        self.send(&Packet::PingReq);
        self.wait_for(|packet| matches!(packet, Packet::PingResp));
    }

    /// Takes the first packet that `wanted` accepts; others stay for later, in their order.
    pub fn wait_for(&mut self, wanted: impl Fn(&Packet<'_>) -> bool) -> Frame {
        let mut passed = VecDeque::new();
        let frame = loop {
            let frame = self.next();
            if wanted(&frame.packet()) {
                break frame;
            }
            passed.push_back(frame);
        };
        passed.append(&mut self.received);
        self.received = passed;
        frame
    }

    /// Whether such a packet has come and was passed over while another was waited for.
    pub fn has_received(&self, wanted: impl Fn(&Packet<'_>) -> bool) -> bool {
        self.received.iter().any(|frame| wanted(&frame.packet()))
    }

    /// Takes the next packet, which must come.
    #[track_caller]
    pub fn next(&mut self) -> Frame {
        match self.poll(PATIENCE) {
            Ok(Some(frame)) => frame,
            Ok(None) => panic!("no packet within {PATIENCE:?}"),
            Err(error) => panic!("the connection ended where a packet was expected: {error}"),
        }
    }

    /// Takes the next packet if it comes within `wait`; an error if the connection is over.
    pub fn poll(&mut self, wait: Duration) -> io::Result<Option<Frame>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(frame) = self.received.pop_front().or_else(|| self.take_frame()) {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.socket().set_read_timeout(Some(left))?;
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.partial.extend_from_slice(&bytes[..len]),
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let size = codec::frame(Some(self.version), &self.partial, codec::MAX_PACKET_SIZE);
        let size = size.expect("the broker sends well-formed packets")?;
        if size > self.partial.len() {
            return None;
        }
        let rest = self.partial.split_off(size);
        Some(Frame { version: self.version, bytes: std::mem::replace(&mut self.partial, rest) })
    }

    /// The broker ends the connection, without another packet.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.poll(PATIENCE) {
            Err(_) => {}
            Ok(Some(frame)) => panic!("expected the end of the connection, got {frame:?}"),
            Ok(None) => panic!("the connection was not closed within {PATIENCE:?}"),
        }
    }

    /// The broker ends the connection with a DISCONNECT (5.0), behind whatever else it had to send.
    #[track_caller]
    pub fn expect_disconnect(&mut self) -> ReasonCode {
        let frame = self.wait_for(|packet| matches!(packet, Packet::Disconnect(_)));
        let Packet::Disconnect(disconnect) = frame.packet() else { unreachable!() };
        self.expect_closed();
        disconnect.reason
    }

    /// Ends the stream in one direction: the broker sees its end, and may still write.
    pub fn half_close(&mut self) {
        self.stream.socket().shutdown(Shutdown::Write).expect("a socket");
    }

    /// Has TLS say that nothing follows; the socket stays open.
    pub fn close_notify(&mut self) {
        self.stream.close_notify();
        self.stream.flush().expect("the broker takes bytes");
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        self.stream.socket().set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Sends DISCONNECT and waits until the broker has closed.
    pub fn disconnect(mut self) {
        let reason = ReasonCode::Success;
        self.send(&Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY }));
        while self.poll(PATIENCE).is_ok_and(|frame| frame.is_some()) {}
    }

    fn next_id(&mut self) -> PacketId {
        self.last_id = self.last_id % u16::MAX + 1;
        PacketId::new(self.last_id).expect("not zero")
    }
}

/// A TLS client's side that trusts the certificates which this authority has signed.
pub fn trusting(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a PEM file")).expect("a certificate");
    let config = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

/// What a TLS handshake came to.
#[derive(Debug)]
pub struct TlsFacts {
    pub alpn: Option<Vec<u8>>,
    pub resumed: bool,
    pub version: Option<rustls::ProtocolVersion>,
    /// The server's, DER.
    pub certificate: Option<Vec<u8>>,
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
