//! The TLS side of a listener: TLS 1.2 and 1.3, certificates chosen by the name that the client asks for, session
//! tickets, and client certificates where the listener has an authority for them.

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use crate::config::{TlsConfig, certificates};

use super::transport::Transport;

/// The name of MQTT in ALPN. A client need not offer any.
const ALPN: &[u8] = b"mqtt";

/// The configuration of rustls for a listener.
///
/// # Errors
/// Which key of the configuration names a file that cannot be used, which file, and what is wrong with it.
pub fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(default_provider());
    let internal = |error: rustls::Error| format!("listener.tls: {error}");
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(internal)?;
    let builder = match client_verifier(config, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(Certificates::read(config)?));
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.ticketer = Ticketer::new().map_err(internal)?;
    // Tickets hold what a session store would.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(server))
}

fn client_verifier(
    config: &TlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(file) = &config.client_ca else { return Ok(None) };
    let key = |error| format!("listener.tls.client_ca: {error}");
    let roots = Arc::new(certificates::read_authorities(file).map_err(key)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let builder = if config.require_client_cert { builder } else { builder.allow_unauthenticated() };
    builder.build().map(Some).map_err(|error| key(format!("{}: {error}", file.display())))
}

/// The transport of a new connection.
///
/// # Errors
/// If the configuration cannot serve any connection.
pub(super) fn accept(config: &Arc<ServerConfig>) -> Result<Transport, rustls::Error> {
    Ok(Transport::Tls(Box::new(ServerConnection::new(config.clone())?)))
}

/// The certificates of a listener; the first one is for clients that name none or one that no certificate has.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    fn read(config: &TlsConfig) -> Result<Certificates, String> {
        let mut keys = Vec::new();
        for files in &config.certificates {
            let chain = certificates::read_chain(&files.cert)
                .map_err(|error| format!("listener.tls.cert: {error}"))?;
            let key = certificates::read_key(&files.key, chain)
                .map_err(|error| format!("listener.tls.key: {error}"))?;
            keys.push(Arc::new(key));
        }
        Ok(Certificates(keys))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named =
            name.filter(|_| self.0.len() > 1).and_then(|name| self.0.iter().find(|key| is_for(key, &name)));
        named.or(self.0.first()).cloned()
    }
}

/// Whether a certificate is for `name`, by its subject alternative names.
fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Some(certificate) = key.cert.first() else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}
