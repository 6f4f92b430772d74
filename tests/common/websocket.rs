//! A client's side of a WebSocket by another implementation, tungstenite: as a stream of MQTT's bytes, and as a request
//! of one's own.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::SockRef;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::{Request, Response};
use tungstenite::protocol::{CloseFrame, Message, WebSocket};
use tungstenite::{Error, client};
use weirmq::protocol::packet::Version;

use super::client::{Client, PATIENCE, Stream};

/// What a WebSocket runs over.
pub trait Below: Read + Write + Send {
    fn socket(&self) -> SockRef<'_>;
}

impl Below for TcpStream {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

impl Below for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.sock)
    }
}

/// MQTT's bytes over a WebSocket; each write is a message.
pub struct Framed<S> {
    pub websocket: WebSocket<S>,
    /// Of a message that was read in part.
    unread: Vec<u8>,
}

impl<S: Below> Read for Framed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.websocket.read() {
                Ok(Message::Binary(bytes)) => self.unread = bytes.to_vec(),
                Ok(Message::Text(text)) => panic!("text: {text}"),
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return Ok(0),
                Err(Error::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let len = buffer.len().min(self.unread.len());
        buffer[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }
}

impl<S: Below> Write for Framed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.websocket.write(Message::binary(bytes.to_vec())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.websocket.flush().map_err(io::Error::other)
    }
}

impl<S: Below> Stream for Framed<S> {
    fn socket(&self) -> SockRef<'_> {
        self.websocket.get_ref().socket()
    }

    fn close_notify(&mut self) {
        let _ = self.websocket.close(None);
    }
}

/// A request for MQTT over a WebSocket, with further headers.
pub fn request(address: SocketAddr, headers: &[(&'static str, &str)]) -> Request {
    let mut request = format!("ws://{address}/mqtt").into_client_request().expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().expect("a value"));
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

/// Opens a WebSocket.
///
/// # Errors
/// If it is refused.
pub fn open<S: Below>(request: Request, below: S) -> Result<(WebSocket<S>, Response), Error> {
    below.socket().set_read_timeout(Some(PATIENCE)).expect("a socket");
    client(request, below).map_err(|error| match error {
        HandshakeError::Failure(error) => error,
        HandshakeError::Interrupted(_) => panic!("no answer within {PATIENCE:?}"),
    })
}

/// The status with which a request is refused.
pub fn refusal(request: Request, address: SocketAddr) -> u16 {
    let socket = TcpStream::connect(address).expect("the broker accepts");
    match open(request, socket) {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    }
}

/// A WebSocket over TCP.
pub fn websocket(address: SocketAddr) -> WebSocket<TcpStream> {
    let socket = TcpStream::connect(address).expect("the broker accepts");
    socket.set_nodelay(true).expect("a socket");
    open(request(address, &[]), socket).expect("a WebSocket").0
}

/// A client over a WebSocket on which nothing has been said yet.
pub fn client_over<S: Below + 'static>(websocket: WebSocket<S>, version: Version) -> Client {
    Client::new(Box::new(Framed { websocket, unread: Vec::new() }), version)
}

/// The same over TLS and TCP.
pub fn open_wss(address: SocketAddr, version: Version, config: &Arc<ClientConfig>) -> Client {
    let socket = TcpStream::connect(address).expect("the broker accepts");
    socket.set_nodelay(true).expect("a socket");
    client_over(websocket_over_tls(socket, address, config), version)
}

/// A WebSocket over TLS over a socket of one's own.
pub fn websocket_over_tls(
    socket: TcpStream,
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> WebSocket<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = ClientConnection::new(config.clone(), name).expect("a client");
    open(request(address, &[]), StreamOwned::new(tls, socket)).expect("a WebSocket").0
}

/// Reads up to the broker's Close, whatever else comes before; its code.
pub fn close_code<S: Below>(websocket: &mut WebSocket<S>) -> u16 {
    loop {
        match websocket.read() {
            Ok(Message::Close(Some(CloseFrame { code, .. }))) => return code.into(),
            Ok(Message::Close(None)) => panic!("a Close without a code"),
            Ok(_) => {}
            Err(error) => panic!("the connection ended without a Close: {error}"),
        }
    }
}
