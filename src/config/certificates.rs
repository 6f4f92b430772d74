//! Reads the files that a TLS listener names: when the configuration is loaded, so that a mistake is an error with a
//! place and not a handshake that fails, and again when the listener opens. Each error says what is wrong with which file.

use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::files::{self, Barred};

/// Reads a certificate chain (PEM), of which the first certificate is well-formed.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    chain_in(file, &files::read(file).map_err(|error| unusable(file, &error.to_string()))?)
}

fn chain_in(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>() {
        Ok(chain) => match chain.first().map(ParsedCertificate::try_from) {
            Some(Ok(_)) => Ok(chain),
            Some(Err(error)) => Err(not_a_certificate(file, &error)),
            None => Err(unusable(file, "no certificate in it (PEM)")),
        },
        Err(error) => Err(unreadable(file, &error)),
    }
}

/// Reads the private key (PEM) of the chain's first certificate.
///
/// # Errors
/// Everybody may read the file, or it cannot be read, or holds no private key, or the one of another certificate.
pub fn read_key(file: &Path, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, String> {
    let (text, mode) = files::read_with_mode(file).map_err(|error| unusable(file, &error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(file, "no private key in it (PEM)"),
        error => unreadable(file, &error),
    })?;
    Barred::Anything.check(mode).map_err(|error| unusable(file, &error.to_string()))?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => unusable(file, "not the key of the certificate"),
        error => unusable(file, &error.to_string()),
    })
}

/// Reads a file of those who say who may come in.
fn read_guarded(file: &Path) -> Result<Vec<u8>, String> {
    files::read_guarded(file, Barred::Writing).map_err(|error| unusable(file, &error.to_string()))
}

/// Reads the certificates (PEM) of authorities.
///
/// # Errors
/// Everybody may write to the file, or it cannot be read, or holds no certificate, or one that cannot be an authority's.
pub fn read_authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain_in(file, &read_guarded(file)?)? {
        roots.add(certificate).map_err(|error| not_a_certificate(file, &error))?;
    }
    Ok(roots)
}

/// Reads the lists (PEM) of what authorities have revoked.
///
/// # Errors
/// Everybody may write to the file, or it cannot be read, or holds no list.
pub fn read_revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let text = read_guarded(file)?;
    match CertificateRevocationListDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(lists) if lists.is_empty() => Err(unusable(file, "no revocation list in it (PEM)")),
        Ok(lists) => Ok(lists),
        Err(error) => Err(unreadable(file, &error)),
    }
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
    unusable(file, &error.to_string())
}
