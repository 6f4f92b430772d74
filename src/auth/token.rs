//! JSON Web Tokens: a password that says who the client is, until when, and what it may do, signed by somebody whose key
//! the configuration names. One algorithm is accepted, the configured one, whatever a token says of itself.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, TokenData, Validation, decode};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value};

use super::der::{self, Der};
use super::passwords::read_guarded;
use super::{Attempt, Judgement, Method, Work};
use crate::config::{ConfigError, JwtAlgorithm, JwtConfig};
use crate::files::Barred;
use crate::principal::{Principal, Token};
use crate::protocol::topic::is_valid_filter;

/// Clocks differ: a token may be used so many seconds before it begins. It ends to the second.
const EARLY: u64 = 60;

/// A shorter secret could be guessed from any token.
const SHORTEST_SECRET: usize = 32;

/// Algorithm identifiers: rsaEncryption, and id-ecPublicKey with prime256v1.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// The signatures that are accepted, by what ring makes of them.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Takes tokens for passwords.
pub struct Tokens {
    key: DecodingKey,
    validation: Validation,
    user_claim: String,
    /// Tells by which key and whose word tokens were taken; not 0.
    mark: u32,
}

impl Tokens {
    /// Reads the key.
    ///
    /// # Errors
    /// It cannot be read, or is none for the algorithm.
    pub fn read(config: &JwtConfig) -> Result<Tokens, ConfigError> {
        // An error means that there is one already, which is this one.
        let _ = PROVIDER.install_default();
        let wrong = |reason: String| ConfigError::at(config.key.display().to_string(), reason);
        let (algorithm, key) = match config.algorithm {
            JwtAlgorithm::Hs256 => {
                let text = read_guarded(&config.key, Barred::Anything)?;
                let secret = text.trim_ascii_end();
                if secret.len() < SHORTEST_SECRET {
                    let reason =
                        format!("a secret of {} bytes: it must have {SHORTEST_SECRET}", secret.len());
                    return Err(wrong(reason));
                }
                (Algorithm::HS256, DecodingKey::from_secret(secret))
            }
            JwtAlgorithm::Rs256 => {
                let key = public_key(&read_guarded(&config.key, Barred::Writing)?).map_err(wrong)?;
                let key = rsa(&key).ok_or_else(|| wrong("not the public key of RSA".to_owned()))?;
                (Algorithm::RS256, DecodingKey::from_rsa_der(key))
            }
            JwtAlgorithm::Es256 => {
                let key = public_key(&read_guarded(&config.key, Barred::Writing)?).map_err(wrong)?;
                let key =
                    p256(&key).ok_or_else(|| wrong("not a public key on the curve P-256".to_owned()))?;
                (Algorithm::ES256, DecodingKey::from_ec_der(key))
            }
        };
        let mut validation = Validation::new(algorithm);
        // Times are held against the broker's own clock, below.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.required_spec_claims.clear();
        validation.validate_aud = config.audience.is_some();
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        let mark = mark(config, &key);
        Ok(Tokens { key, validation, user_claim: config.user_claim.clone(), mark })
    }

    /// Whose a token is and what it says; `wall` in seconds since 1970.
    fn open(&self, text: &[u8], user: Option<&str>, work: &Work<'_>) -> Result<Principal, &'static str> {
        let claims = decode::<Map<String, Value>>(text, &self.key, &self.validation);
        let TokenData { header, claims, .. } = claims.map_err(|error| why(&error))?;
        // RFC 7515, section 4.1.11: what it says there changes what a token means.
        if header.crit.is_some() {
            return Err("the token demands that more is understood than is here");
        }
        let subject = claims.get(&self.user_claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        let subject = subject.ok_or("the token names no user")?;
        if user.is_some_and(|user| !user.is_empty() && user != subject) {
            return Err("the token is another user's");
        }
        let begins = time(&claims, "nbf")?;
        if begins.is_some_and(|begins| begins > work.wall.saturating_add(EARLY)) {
            return Err("the token is not valid yet");
        }
        let ends = time(&claims, "exp")?;
        if ends.is_some_and(|ends| ends <= work.wall) {
            return Err("the token has expired");
        }
        // What is too far away to be told never comes.
        let expires = ends.and_then(|ends| work.now.checked_add(Duration::from_secs(ends - work.wall)));
        let (publish, subscribe) = (filters(&claims, "publish")?, filters(&claims, "subscribe")?);
        let token = Token { expires, publish, subscribe };
        let credential = self.mark;
        Ok(Principal { token: Some(Arc::new(token)), credential, ..Principal::of_user(subject) })
    }
}

impl Method for Tokens {
    fn judge(&self, attempt: &Attempt, work: &mut Work<'_>) -> Judgement {
        match attempt.password.as_deref().filter(|password| is_token(password)) {
            None => Judgement::Other,
            Some(password) => match self.open(password, attempt.user.as_deref(), work) {
                Ok(principal) => Judgement::Right(principal),
                Err(why) => Judgement::Wrong(why),
            },
        }
    }

    /// The token itself was not kept, but one by this key and of this issuer would still be taken.
    fn vouches(&self, _user: &str, credential: u32) -> bool {
        credential == self.mark
    }
}

/// Of everything that a token is held against.
fn mark(config: &JwtConfig, key: &DecodingKey) -> u32 {
    let JwtConfig { algorithm, key: _, user_claim, issuer, audience } = config;
    let state = foldhash::quality::FixedState::default();
    state.hash_one((*algorithm as u8, key.try_get_as_bytes().ok(), user_claim, issuer, audience)) as u32 | 1
}

/// Whether a password has the form of a token: three parts, of which the first is a JSON object.
fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

fn why(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::InvalidAlgorithm => "the token is signed in another way than is configured",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::InvalidAudience => "the token is meant for others",
        ErrorKind::InvalidIssuer => "the token is of an issuer that does not count here",
        ErrorKind::MissingRequiredClaim(_) => "the token does not say by or for whom it was issued",
        _ => "not a token that can be read",
    }
}

/// A moment in seconds since 1970; fractions are cut off.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => {
            let fraction = || number.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64);
            number.as_u64().or_else(fraction).map(Some).ok_or("a time of the token is before all times")
        }
        Some(_) => Err("a time of the token is no number"),
    }
}

/// A list of topic filters. One that is not well formed might match more than was meant.
fn filters(claims: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, &'static str> {
    let wrong = "what the token lets its user do is no list of filters";
    let Some(list) = claims.get(name) else { return Ok(None) };
    let filter = |value: &Value| value.as_str().filter(|text| is_valid_filter(text)).map(str::to_owned);
    let all = list.as_array().ok_or(wrong)?.iter().map(filter);
    all.collect::<Option<Vec<_>>>().map(Some).ok_or(wrong)
}

fn public_key(text: &[u8]) -> Result<Vec<u8>, String> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(text);
    key.map(|key| key.to_vec()).map_err(|error| format!("no public key (PEM) can be read from it: {error}"))
}

/// The RSAPublicKey in a SubjectPublicKeyInfo.
fn rsa(info: &[u8]) -> Option<&[u8]> {
    let mut info = Der::new(info).within(der::SEQUENCE)?;
    let is_rsa = info.within(der::SEQUENCE)?.next(der::OID)? == RSA;
    info.next(der::BIT_STRING)?.strip_prefix(&[0]).filter(|_| is_rsa)
}

/// The point in a SubjectPublicKeyInfo, not compressed.
fn p256(info: &[u8]) -> Option<&[u8]> {
    let mut info = Der::new(info).within(der::SEQUENCE)?;
    let mut algorithm = info.within(der::SEQUENCE)?;
    let is_p256 = algorithm.next(der::OID)? == EC && algorithm.next(der::OID)? == P256;
    let point = info.next(der::BIT_STRING)?.strip_prefix(&[0])?;
    (is_p256 && point.len() == 65).then_some(point)
}

/// Nothing is signed here.
fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let key = key.try_get_as_bytes()?.to_vec();
    match algorithm {
        Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 => Ok(Box::new(Ring(*algorithm, key))),
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    }
}

/// Verifies with ring; the key in the form that ring takes.
struct Ring(Algorithm, Vec<u8>);

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        let with = |algorithm: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, &self.1).verify(message, tag)
        };
        let verified = match self.0 {
            Algorithm::RS256 => with(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::ES256 => with(&ECDSA_P256_SHA256_FIXED),
            _ => hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &self.1), message, tag),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

#[cfg(test)]
mod tests;
