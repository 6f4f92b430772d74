//! The client's side of TLS: whom to trust, what to present, which name to expect.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::arguments::TlsArgs;
use super::failure::Failure;

/// What TLS needs to know of its peer; `None` if `--cafile` is not given. `carries` is the name in ALPN of what is spoken.
///
/// # Errors
/// A file that cannot be read or holds something else, a host that no certificate could name.
pub(super) fn connector(
    args: &TlsArgs,
    host: &str,
    carries: &[u8],
) -> Result<Option<(TlsConnector, ServerName<'static>)>, Failure> {
    let Some(cafile) = &args.cafile else { return Ok(None) };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::usage(format_args!("{host}: neither a DNS name nor an address")))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(cafile)? {
        roots.add(authority).map_err(|error| in_file(cafile, error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::local(format_args!("TLS: {error}")))?
        .with_root_certificates(roots);
    let mut config = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, error))?;
            let chain = certificates(cert)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| in_file(cert, error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![carries.to_vec()];
    Ok(Some((TlsConnector::from(Arc::new(config)), name)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| in_file(file, error))?;
    if certificates.is_empty() {
        return Err(in_file(file, "no certificate in it"));
    }
    Ok(certificates)
}

fn in_file(file: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::local(format_args!("{}: {error}", file.display()))
}
