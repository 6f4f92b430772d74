//! The user that a client's certificate names. The certificate was checked against its authority before.

use super::der::{self, Der};
use crate::config::IdentityFrom;

/// The common name, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The subject's alternative names, 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1D, 0x11];

/// Tags that depend on the place: version and extensions of a certificate, a DNS name.
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
const DNS_NAME: u8 = 0x82;

/// The user that a certificate (DER) names; `None` if it names none, or not one alone.
pub fn identity(certificate: &[u8], from: IdentityFrom) -> Option<String> {
    let mut body = Der::new(certificate).within(der::SEQUENCE)?.within(der::SEQUENCE)?;
    body.optional(VERSION);
    // Serial number, signature, issuer, validity.
    for _ in 0..4 {
        body.any()?;
    }
    let subject = body.within(der::SEQUENCE)?;
    let name = match from {
        IdentityFrom::Cn => common_name(subject),
        IdentityFrom::San => alternative_name(body),
    };
    name.filter(|name| !name.is_empty() && !name.contains(char::is_control))
}

fn common_name(mut subject: Der<'_>) -> Option<String> {
    let mut found = None;
    while let Some(mut attributes) = subject.within(der::SET) {
        while let Some(mut attribute) = attributes.within(der::SEQUENCE) {
            if attribute.next(der::OID)? != COMMON_NAME {
                continue;
            }
            // Of two, nobody could say which one it is.
            if found.replace(text(attribute.any()?)?).is_some() {
                return None;
            }
        }
    }
    found
}

fn alternative_name(mut body: Der<'_>) -> Option<String> {
    let mut extensions = loop {
        match body.any()? {
            (EXTENSIONS, contents) => break Der::new(contents).within(der::SEQUENCE)?,
            _ => continue,
        }
    };
    while let Some(mut extension) = extensions.within(der::SEQUENCE) {
        if extension.next(der::OID)? != ALTERNATIVE_NAMES {
            continue;
        }
        // Whether it is critical may stand before it.
        let value = loop {
            match extension.any()? {
                (der::OCTET_STRING, value) => break value,
                _ => continue,
            }
        };
        let mut names = Der::new(value).within(der::SEQUENCE)?;
        while let Some((tag, name)) = names.any() {
            if tag == DNS_NAME {
                return text((der::IA5_STRING, name));
            }
        }
    }
    None
}

fn text((tag, bytes): (u8, &[u8])) -> Option<String> {
    let is_text = matches!(tag, der::UTF8_STRING | der::PRINTABLE_STRING | der::IA5_STRING);
    std::str::from_utf8(bytes).ok().filter(|_| is_text).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(common_names: &[&str], alternative: &[&str]) -> Vec<u8> {
        let names: Vec<String> = alternative.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::OrganizationName, "ours");
        params.distinguished_name.remove(DnType::CommonName);
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").der().to_vec()
    }

    #[test]
    fn the_common_name_or_the_first_dns_name_is_the_user() {
        let der = certificate(&["ünit 7"], &["10.0.0.1", "unit-7.example", "other.example"]);
        assert_eq!(identity(&der, IdentityFrom::Cn).as_deref(), Some("ünit 7"));
        assert_eq!(identity(&der, IdentityFrom::San).as_deref(), Some("unit-7.example"));
        let none = certificate(&[], &["10.0.0.1"]);
        assert_eq!(identity(&none, IdentityFrom::Cn), None);
        assert_eq!(identity(&none, IdentityFrom::San), None);
        assert_eq!(identity(&certificate(&["a\nb"], &[]), IdentityFrom::Cn), None);
        assert_eq!(identity(&certificate(&["a\0b"], &[]), IdentityFrom::Cn), None);
    }

    #[test]
    fn a_certificate_cut_anywhere_names_nobody_or_the_same() {
        let der = certificate(&["unit"], &["unit.example"]);
        for end in 0..der.len() {
            for from in [IdentityFrom::Cn, IdentityFrom::San] {
                assert_eq!(identity(&der[..end], from), None);
            }
        }
    }
}
