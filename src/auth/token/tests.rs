//! Tokens that are right, and all the ways in which they are not.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::*;
use crate::auth::Effort;
use crate::auth::hash::Workspace;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn part(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token that says it is signed by `algorithm`, and is by `sign`.
fn token(algorithm: &str, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let said = format!("{}.{}", part(&json!({"typ": "JWT", "alg": algorithm})), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(said.as_bytes()));
    format!("{said}.{signature}")
}

fn by_secret(claims: &Value) -> String {
    token("HS256", claims, mac)
}

fn mac(said: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), said).as_ref().to_vec()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its own");
    (folder, path)
}

fn tokens(change: impl FnOnce(&mut JwtConfig)) -> Tokens {
    let (_folder, key) = file(&format!("{SECRET}\n"));
    let mut config = JwtConfig {
        algorithm: JwtAlgorithm::Hs256,
        key,
        user_claim: "sub".to_owned(),
        issuer: None,
        audience: None,
    };
    change(&mut config);
    Tokens::read(&config).unwrap_or_else(|error| panic!("{error}"))
}

fn open(tokens: &Tokens, text: &str, user: Option<&str>) -> Result<Principal, &'static str> {
    let (mut workspace, effort) = (Workspace::default(), Effort::default());
    let work = Work { workspace: &mut workspace, effort: &effort, wall: NOW, now: Instant::now() };
    tokens.open(text.as_bytes(), user, &work)
}

#[test]
fn a_token_says_who_until_when_and_what() {
    let tokens = tokens(|_| {});
    let claims = json!({"sub": "ann", "exp": NOW + 60, "nbf": NOW, "publish": ["a/#", "b"], "subscribe": []});
    for user in [None, Some(""), Some("ann")] {
        let principal = open(&tokens, &by_secret(&claims), user).expect("valid");
        assert_eq!(principal.user(), Some("ann"));
        assert!(principal.expires().is_some_and(|at| at > Instant::now()));
        let token = principal.token.expect("a token");
        assert_eq!(token.publish.as_deref(), Some(&["a/#".to_owned(), "b".to_owned()][..]));
        assert_eq!(token.subscribe.as_deref(), Some(&[][..]));
    }
    let principal = open(&tokens, &by_secret(&json!({"sub": "ann"})), None).expect("valid");
    assert_eq!(principal.expires(), None);
    assert!(principal.token.is_some_and(|token| token.publish.is_none() && token.subscribe.is_none()));
}

#[test]
fn what_a_token_says_wrongly_makes_it_worthless() {
    let tokens = tokens(|_| {});
    for (claims, says) in [
        (json!({"sub": "bob"}), "another user"),
        (json!({"sub": "ann", "exp": NOW}), "expired"),
        (json!({"sub": "ann", "exp": NOW - 1}), "expired"),
        (json!({"sub": "ann", "exp": "tomorrow"}), "no number"),
        (json!({"sub": "ann", "exp": -1}), "before all"),
        (json!({"sub": "ann", "nbf": NOW + 61}), "not valid yet"),
        (json!({"exp": NOW + 60}), "no user"),
        (json!({"sub": ""}), "no user"),
        (json!({"sub": 7}), "no user"),
        (json!({"sub": "ann", "publish": "a/#"}), "no list"),
        (json!({"sub": "ann", "publish": ["a", "#/b"]}), "no list"),
        (json!({"sub": "ann", "subscribe": ["a/#/b"]}), "no list"),
        (json!({"sub": "ann", "subscribe": [""]}), "no list"),
        (json!({"sub": "ann", "subscribe": [1]}), "no list"),
        (json!(["ann"]), "be read"),
    ] {
        let error = open(&tokens, &by_secret(&claims), Some("ann")).expect_err("worthless");
        assert!(error.contains(says), "{claims}: {error}");
    }
}

#[test]
fn only_the_configured_signature_counts() {
    let tokens = tokens(|_| {});
    let claims = json!({"sub": "ann"});
    let good = by_secret(&claims);
    let (said, _) = good.rsplit_once('.').expect("three parts");
    let forged = [
        format!("{said}."),
        format!("{said}.AAAA"),
        token("none", &claims, |_| Vec::new()),
        token("None", &claims, mac),
        token("HS384", &claims, mac),
        token("RS256", &claims, mac),
        good.replacen("eyJ", "eyK", 1),
        good.replace(&part(&claims), &part(&json!({"sub": "bob"}))),
        format!("{good}.x"),
        "eyJ..".to_owned(),
        String::new(),
    ];
    for token in forged {
        assert!(open(&tokens, &token, None).is_err(), "{token}");
    }
}

#[test]
fn es256_and_rs256_take_public_keys_and_never_a_secret_made_of_them() {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref(), &random);
    let pair = pair.expect("a key");
    let header = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86,
        0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let info = [&header[..], pair.public_key().as_ref()].concat();
    let base64 = base64::prelude::BASE64_STANDARD.encode(&info);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
    let (_folder, path) = file(&pem);
    let es256 = tokens(|config| (config.algorithm, config.key) = (JwtAlgorithm::Es256, path.clone()));
    let claims = json!({"sub": "ann"});
    let good = token("ES256", &claims, |said| pair.sign(&random, said).expect("signed").as_ref().to_vec());
    assert_eq!(open(&es256, &good, None).as_ref().map(Principal::user), Ok(Some("ann")));
    // The public key is known to all: it must not do as a secret.
    for secret in [pem.as_bytes(), &info, pair.public_key().as_ref()] {
        let mac =
            |said: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), said).as_ref().to_vec();
        assert!(open(&es256, &token("HS256", &claims, mac), None).is_err());
        assert!(open(&es256, &token("ES256", &claims, mac), None).is_err());
    }
    let rs256 = JwtConfig {
        algorithm: JwtAlgorithm::Rs256,
        key: path,
        user_claim: "sub".to_owned(),
        issuer: None,
        audience: None,
    };
    let error = Tokens::read(&rs256).err().expect("not of RSA").to_string();
    assert!(error.contains("RSA"), "{error}");
}

#[test]
fn issuer_audience_and_the_claim_that_names_the_user_can_be_demanded() {
    let tokens = tokens(|config| {
        config.issuer = Some("us".to_owned());
        config.audience = Some("broker".to_owned());
        config.user_claim = "client".to_owned();
    });
    let good = json!({"client": "ann", "iss": "us", "aud": ["x", "broker"]});
    assert_eq!(open(&tokens, &by_secret(&good), None).as_ref().map(Principal::user), Ok(Some("ann")));
    for claims in [
        json!({"client": "ann", "iss": "us"}),
        json!({"client": "ann", "aud": "broker"}),
        json!({"client": "ann", "iss": "them", "aud": "broker"}),
        json!({"client": "ann", "iss": "us", "aud": "x"}),
        json!({"sub": "ann", "iss": "us", "aud": "broker"}),
    ] {
        assert!(open(&tokens, &by_secret(&claims), None).is_err(), "{claims}");
    }
}

#[test]
fn a_short_secret_or_one_that_all_can_read_is_refused() {
    let (_folder, path) = file("short\n");
    let config = |key: &PathBuf| JwtConfig {
        algorithm: JwtAlgorithm::Hs256,
        key: key.clone(),
        user_claim: "sub".to_owned(),
        issuer: None,
        audience: None,
    };
    let error = |config: &JwtConfig| Tokens::read(config).err().expect("refused").to_string();
    assert!(error(&config(&path)).contains("5 bytes"));
    let (_folder, path) = file(SECRET);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("its own");
    assert!(error(&config(&path)).contains("everybody"));
}

#[test]
fn what_a_token_demands_to_be_understood_is_not_passed_over() {
    let tokens = tokens(|_| {});
    for header in [json!({"alg": "HS256", "crit": ["exp"]}), json!({"alg": "HS256", "crit": []})] {
        let said = format!("{}.{}", part(&header), part(&json!({"sub": "ann"})));
        let text = format!("{said}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac(said.as_bytes())));
        let error = open(&tokens, &text, None).expect_err("more is demanded");
        assert!(error.contains("more is understood"), "{error}");
    }
}
