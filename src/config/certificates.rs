//! Whether the files that a TLS listener names can be used: judged when the configuration is loaded, so that a mistake
//! is an error with a place and not a handshake that fails.

use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Reads a certificate chain; an error says what is wrong with which file.
pub(super) fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain {
        Ok(chain) => match chain.first().map(ParsedCertificate::try_from) {
            Some(Ok(_)) => Ok(chain),
            Some(Err(error)) => Err(not_a_certificate(file, &error)),
            None => Err(unusable(file, "no certificate in it (PEM)")),
        },
        Err(error) => Err(unreadable(file, &error)),
    }
}

/// Checks that a private key is one, and the one of the chain's first certificate.
pub(super) fn check_key(file: &Path, chain: Vec<CertificateDer<'static>>) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(file, "no private key in it (PEM)"),
        error => unreadable(file, &error),
    })?;
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(unusable(file, "not the key of the certificate")),
        Err(error) => Err(unusable(file, &error.to_string())),
    }
}

/// Checks that a file holds certificates of authorities.
pub(super) fn check_authorities(file: &Path) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(file)? {
        roots.add(certificate).map_err(|error| not_a_certificate(file, &error))?;
    }
    Ok(())
}

fn not_a_certificate(file: &Path, error: &rustls::Error) -> String {
    let reason = match error {
        rustls::Error::InvalidCertificate(error) => format!("not a certificate that can be used: {error}"),
        error => error.to_string(),
    };
    unusable(file, &reason)
}

fn unusable(file: &Path, reason: &str) -> String {
    format!("{}: {reason}", file.display())
}

fn unreadable(file: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => unusable(file, &error.to_string()),
        error => unusable(file, &error.to_string()),
    }
}
