//! The TLS side of a listener: TLS 1.2 and 1.3, certificates chosen by the name that the client asks for, session
//! tickets, and client certificates where the listener has an authority for them.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::config::{TlsConfig, TlsVersion, certificates};
use crate::files;

/// What ALPN calls MQTT, and what a WebSocket begins with. A client need not offer any; one that offers only others is
/// refused, so that nobody can have a browser or a mail server talk to the broker unawares.
const MQTT: &[u8] = b"mqtt";
const HTTP: &[u8] = b"http/1.1";

/// The TLS side of a listener, made of what its files held at one moment.
#[derive(Debug)]
pub struct Tls {
    server: Arc<ServerConfig>,
    /// What client certificates are checked by, where there are any.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    config: TlsConfig,
    /// The name in ALPN of what it carries.
    carries: &'static [u8],
    /// Of what the files held.
    digest: u64,
}

impl Tls {
    /// Reads the files of a listener, of WebSockets or of MQTT itself. Where they are as they were for `before`, so is the
    /// result: session tickets that it has given stay good.
    ///
    /// # Errors
    /// Which key of the configuration names a file that cannot be used, which file, and what is wrong with it.
    pub fn read(config: &TlsConfig, websocket: bool, before: Option<&Arc<Tls>>) -> Result<Arc<Tls>, String> {
        let carries = if websocket { HTTP } else { MQTT };
        // Before they are read for good: if one changes in between, the next look finds that out.
        let digest = digest(config);
        if let Some(before) = before
            && (&before.config, before.carries, before.digest) == (config, carries, digest)
        {
            return Ok(before.clone());
        }
        let provider = Arc::new(default_provider());
        let clients = client_verifier(config, &provider)?;
        let server = server_config(config, carries, provider, clients.clone())?;
        Ok(Arc::new(Tls { server, clients, config: config.clone(), carries, digest }))
    }

    /// The server's side of a new connection.
    ///
    /// # Errors
    /// If the configuration cannot serve any connection.
    pub(super) fn accept(&self) -> Result<Box<ServerConnection>, rustls::Error> {
        ServerConnection::new(self.server.clone()).map(Box::new)
    }

    /// Whether a client with this certificate (the leaf, and what leads to its authority) may be here.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn recheck(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let Some(clients) = &self.clients else { return Ok(()) };
        match chain.split_first() {
            Some((leaf, rest)) => clients.verify_client_cert(leaf, rest, now).map(drop),
            None if clients.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            None => Ok(()),
        }
    }
}

/// A number that changes when a file does.
fn digest(config: &TlsConfig) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    for file in config.files() {
        files::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// The configuration of rustls for a listener.
fn server_config(
    config: &TlsConfig,
    carries: &[u8],
    provider: Arc<CryptoProvider>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, String> {
    let internal = |error: rustls::Error| format!("listener.tls: {error}");
    let versions: &[_] = match config.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(internal)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(Certificates::read(config)?));
    server.alpn_protocols = vec![carries.to_vec()];
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
    let builder = match &config.client_crl {
        Some(file) => {
            let crls = certificates::read_revocations(file)
                .map_err(|error| format!("listener.tls.client_crl: {error}"))?;
            // As others do it: of the chain only the client's own, for authorities seldom publish a list of each other.
            builder.with_crls(crls).only_check_end_entity_revocation()
        }
        None => builder,
    };
    let builder = if config.require_client_cert { builder } else { builder.allow_unauthenticated() };
    builder.build().map(Some).map_err(|error| key(format!("{}: {error}", file.display())))
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
