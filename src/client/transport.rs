//! What lies below a [`super::link`]: TCP or a Unix socket, TLS over that, and a WebSocket over either.

use std::io;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::address::{Address, WebSocketAddress};
use super::arguments::TlsArgs;
use super::failure::Failure;
use super::tls;
use super::websocket::WebSocket;

/// A stream of MQTT's bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// What ALPN calls what is spoken within TLS.
const MQTT: &[u8] = b"mqtt";
const HTTP: &[u8] = b"http/1.1";

/// Connects.
///
/// # Errors
/// What TLS needs is not there, or nobody answers as they should.
pub(super) async fn connect(address: &Address, tls: &TlsArgs) -> Result<Box<dyn Stream>, Failure> {
    match address {
        Address::Unix(path) => connect_unix(path).await.map_err(|error| unreachable(address, error)),
        Address::Network { host, port, tls: has_tls, websocket } => {
            let carries = if websocket.is_some() { HTTP } else { MQTT };
            let tls = if *has_tls { tls::connector(tls, host, carries)? } else { None };
            let unreachable = |error| unreachable(address, error);
            let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
            socket.set_nodelay(true).map_err(unreachable)?;
            let websocket = websocket.as_ref();
            match tls {
                None => carry(socket, websocket).await.map_err(unreachable),
                Some((connector, name)) => {
                    let stream = connector.connect(name, socket).await;
                    let stream =
                        stream.map_err(|error| self::unreachable(address, format_args!("TLS: {error}")))?;
                    carry(stream, websocket).await.map_err(unreachable)
                }
            }
        }
    }
}

async fn connect_unix(path: &Path) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(UnixStream::connect(path).await?))
}

/// With a WebSocket, or as it is.
async fn carry(
    stream: impl Stream + 'static,
    websocket: Option<&WebSocketAddress>,
) -> io::Result<Box<dyn Stream>> {
    Ok(match websocket {
        None => Box::new(stream),
        Some(address) => Box::new(WebSocket::open(stream, address).await?),
    })
}

/// There is no connection.
pub(super) fn unreachable(address: &Address, why: impl std::fmt::Display) -> Failure {
    Failure::unreachable(format_args!("no connection to {address}: {why}"))
}
