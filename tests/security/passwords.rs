//! Password files and what they cost, certificates and tokens: who comes in, who does not, and what is told by that.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weirmq::auth::hash::Hash;
use weirmq::auth::{Attempt, Auth, Clocks};
use weirmq::config::{
    AuthConfig, CertificateFiles, Config, IdentityFrom, JwtAlgorithm, JwtConfig, ListenerConfig, TlsConfig,
    TlsVersion,
};
use weirmq::principal::{Principal, Token};
use weirmq::protocol::packet::*;
use weirmq::protocol::reason::ReasonCode;
use weirmq::server::Server;

use crate::before_connect::{asking, cheap, private, serve_users, users};
use crate::common::client::*;
use crate::common::dialogue::V5;
use crate::common::process::Process;
use crate::common::world::World;

fn config_with(file: &Path) -> Config {
    Config {
        listeners: vec![ListenerConfig { allow_anonymous: false, ..on_any_port() }],
        store: nothing_kept(),
        auth: AuthConfig {
            password_file: Some(file.to_owned()),
            failure_delay: Duration::ZERO,
            ..AuthConfig::default()
        },
        ..Config::default()
    }
}

fn refusal_of(file: &Path) -> String {
    match Server::start(config_with(file)) {
        Ok(_) => panic!("{} was taken", file.display()),
        Err(error) => error.to_string(),
    }
}

fn enters(server: &Server, user: &str, password: &str) -> bool {
    let mut client = asking(server, V5, user, true, (Some(user), Some(password)));
    let frame = client.next();
    matches!(frame.packet(), Packet::ConnAck(connack) if connack.reason == ReasonCode::Success)
}

#[test]
fn empty_or_malformed_password_files_let_nobody_in_and_a_bad_reload_keeps_the_old_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("ann:{}\n", cheap("right").encode());
    let cut = &line[..line.len() - 9];
    let bad = [
        ("", ": no user in it"),
        ("# nobody\n\n", ": no user in it"),
        (cut, ":1: "),
        (&format!("{line}bob"), ":2: no colon"),
        (&format!("{line}bob:plain\n"), ":2: not a hash"),
        (&format!("{line}{line}"), ":2: the user \"ann\" is there already"),
        (&line.replace("m=64", "m=4194304"), ":1: 4194304 KiB"),
    ];
    for (text, says) in &bad {
        let error = refusal_of(&private(folder.path(), "bad", text));
        assert!(error.contains(says), "{text:?}: {error}");
    }
    assert!(refusal_of(&folder.path().join("missing")).contains("missing"));

    let good = users(folder.path(), &[("ann", "right"), ("bob", "his"), ("carl", "old")]);
    let mut server = Server::start(config_with(&good)).expect("it starts");
    for (text, says) in &bad {
        let config = config_with(&private(folder.path(), "bad", text));
        let error = server.reload(config).map(drop).expect_err("a bad file").to_string();
        assert!(error.contains(says), "{text:?}: {error}");
        assert!(enters(&server, "ann", "right") && !enters(&server, "ann", "wrong"));
    }
    // A good one holds at once: who is not in it, or has another password there, has to go.
    let connected = |id: &str, password: &str| {
        let mut client = asking(&server, V5, id, true, (Some(id), Some(password)));
        client.accepted();
        client
    };
    let (mut ann, mut bob) = (connected("ann", "right"), connected("bob", "his"));
    let mut carl = connected("carl", "old");
    let new: String = fs::read_to_string(&good).expect("readable").lines().take(1).collect();
    let new =
        format!("{new}\ncarl:{}\n", Hash::argon2id(b"new", [8; 16], (64, 1, 1)).expect("a hash").encode());
    server.reload(config_with(&private(folder.path(), "users", &new))).expect("a good file").wait();
    assert_eq!(bob.expect_disconnect(), ReasonCode::NotAuthorized);
    assert_eq!(carl.expect_disconnect(), ReasonCode::NotAuthorized);
    assert!(
        !enters(&server, "bob", "his") && !enters(&server, "carl", "old") && enters(&server, "carl", "new")
    );
    ann.ping();
}

#[test]
fn secrets_that_everybody_can_read_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = private(folder.path(), "secret", "of a token, and long enough to be one");
    let jwt = JwtConfig {
        algorithm: JwtAlgorithm::Hs256,
        key: secret.clone(),
        user_claim: "sub".to_owned(),
        issuer: None,
        audience: None,
    };
    let mut config = config_with(&users(folder.path(), &[("ann", "right")]));
    config.auth.jwt = Some(jwt);
    for mode in [0o604, 0o644, 0o602, 0o601, 0o666, 0o777] {
        fs::set_permissions(&secret, Permissions::from_mode(mode)).expect("its own");
        let error = Server::start(config.clone()).map(drop).expect_err("open to everybody").to_string();
        assert!(error.contains("everybody") && error.contains("chmod 600"), "{mode:o}: {error}");
    }
    for mode in [0o600, 0o640, 0o400] {
        fs::set_permissions(&secret, Permissions::from_mode(mode)).expect("its own");
        Server::start(config.clone()).expect("nobody else can read it");
    }
    // A public key may be read by everybody, and written by nobody else: it says whose word counts.
    for algorithm in [JwtAlgorithm::Rs256, JwtAlgorithm::Es256] {
        config.auth.jwt.iter_mut().for_each(|jwt| jwt.algorithm = algorithm);
        for (mode, expected) in [(0o646, "everybody can write"), (0o644, "no public key (PEM)")] {
            fs::set_permissions(&secret, Permissions::from_mode(mode)).expect("its own");
            let error = Server::start(config.clone()).map(drop).expect_err("not to be used").to_string();
            assert!(error.contains(expected), "{mode:o}: {error}");
        }
    }
}

/// Whoever can write to it is whoever he likes. That others can read it has to be: mosquitto_passwd makes its files so,
/// and they are to work as they are; but it is said.
#[test]
fn a_password_file_that_everybody_can_write_is_refused_and_one_that_everybody_can_read_is_warned_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = users(folder.path(), &[("ann", "right")]);
    for mode in [0o602, 0o666, 0o646, 0o777] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its own");
        let error = refusal_of(&file);
        assert!(error.contains("everybody can write") && error.contains("chmod 600"), "{mode:o}: {error}");
    }
    for (mode, doubts) in [(0o604, 1), (0o644, 1), (0o600, 0), (0o640, 0), (0o400, 0)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its own");
        let found = Auth::check(&config_with(&file)).expect("it is used");
        assert_eq!(found.len(), doubts, "{mode:o}: {found:?}");
        assert!(found.iter().all(|doubt| doubt.contains("can read") && doubt.contains("chmod 600")));
        Server::start(config_with(&file)).expect("it is used");
    }
}

#[test]
fn to_fail_is_the_same_work_whoever_it_is_and_to_come_back_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cheapest, dear) = (cheap("right"), Hash::argon2id(b"right", [7; 16], (256, 2, 1)).expect("a hash"));
    let text = format!("ann:{}\nbob:{}\n", cheapest.encode(), dear.encode());
    let server = serve_users(private(folder.path(), "users", &text), false);
    let cost_of = |user: &str, password: &str, comes_in: bool| {
        let before = server.auth_work();
        assert_eq!(enters(&server, user, password), comes_in, "{user}");
        server.auth_work().cost - before.cost
    };
    // Besides its own it pays the costliest.
    let (by_cheap, by_dear) = (cheapest.cost() + dear.cost(), dear.cost());
    assert_eq!(cost_of("ann", "wrong", false), by_cheap);
    assert_eq!(cost_of("bob", "wrong", false), by_dear);
    // Names that there are not cost as much as one that there is, always the same and some this, some that: what a failure
    // costs tells nothing of who there is.
    let names: Vec<String> = (0..24).map(|number| format!("nobody-{number}")).collect();
    let costs: Vec<u64> = names.iter().map(|name| cost_of(name, "right", false)).collect();
    assert!(costs.iter().all(|cost| [by_cheap, by_dear].contains(cost)), "{costs:?}");
    let cheap_ones = costs.iter().filter(|cost| **cost == by_cheap).count();
    assert!((4..=20).contains(&cheap_ones), "{costs:?}");
    assert!(names.iter().zip(&costs).all(|(name, cost)| cost_of(name, "wrong", false) == *cost));
    let reopened = serve_users(folder.path().join("users"), false);
    for (name, cost) in names.iter().zip(costs) {
        let before = reopened.auth_work();
        assert!(!enters(&reopened, name, "right"));
        assert_eq!(reopened.auth_work().cost - before.cost, cost, "after a restart");
    }
    assert_eq!(cost_of("ann", "right", true), cheapest.cost());
    assert_eq!(cost_of("bob", "right", true), dear.cost());
    for _ in 0..3 {
        assert_eq!(cost_of("ann", "right", true) + cost_of("bob", "right", true), 0, "remembered");
        assert_eq!(cost_of("bob", "wrong", false), by_dear, "what is remembered is the right one alone");
    }
}

#[test]
fn what_is_remembered_is_forgotten_at_a_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config_with(&users(folder.path(), &[("ann", "right")]));
    let mut server = Server::start(config.clone()).expect("it starts");
    for reloads in 1..=3 {
        for _ in 0..3 {
            assert!(enters(&server, "ann", "right"));
            assert_eq!(server.auth_work().hashes, reloads);
        }
        server.reload(config.clone()).expect("the same file").wait();
    }
}

/// Failures are told later each time that an address fails as a user; of others, and of what is right, nothing is late.
#[test]
fn a_failure_is_late_for_its_address_and_user_and_what_is_right_is_not() {
    const FIRST: Duration = Duration::from_secs(1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config_with(&users(folder.path(), &[("ann", "right"), ("bob", "his")]));
    config.auth.failure_delay = FIRST;
    let auth = Auth::start(&config, Clocks { now: Instant::now, wall: SystemTime::now }).expect("it starts");
    let judged = |host: u8, user: &str, password: &str| {
        let attempt = Attempt {
            user: Some(user.into()),
            password: Some(password.as_bytes().into()),
            certified: None,
            allow_anonymous: false,
            address: Some([203, 0, 113, host].into()),
        };
        let (answer, answered) = std::sync::mpsc::channel();
        let at_once = auth.judge(attempt, move |verdict| answer.send(verdict).expect("the test waits"));
        let verdict = at_once.unwrap_or_else(|| answered.recv().expect("an answer"));
        verdict.map(drop).map_err(|refused| refused.delay.as_secs())
    };
    for delay in [1, 2, 4, 8, 8] {
        assert_eq!(judged(1, "ann", "wrong"), Err(delay));
    }
    assert_eq!((judged(2, "ann", "wrong"), judged(1, "bob", "wrong")), (Err(1), Err(1)));
    assert_eq!((judged(1, "nobody", "wrong"), judged(1, "nobody", "wrong")), (Err(1), Err(2)));
    // Worked out the first time and remembered the second.
    for _ in 0..2 {
        assert_eq!((judged(1, "ann", "right"), judged(1, "ann", "wrong")), (Ok(()), Err(1)));
    }
}

#[test]
fn who_fails_waits_for_the_answer_and_nobody_waits_for_who_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config_with(&users(folder.path(), &[("ann", "right"), ("bob", "his")]));
    (config.auth.failure_delay, config.auth.threads) = (Duration::from_secs(600), 1);
    (config.shards, config.limits.max_handshakes_per_address) = (1, 2);
    let server = Server::start(config).expect("it starts");
    let ask =
        |id: &str, user: &str, password: &str| asking(&server, V5, id, true, (Some(user), Some(password)));
    let mut guessing = ask("a", "ann", "wrong");
    // There is one thread, and it has judged the guess before these, by the same address and as the same user.
    for (user, password) in [("ann", "right"), ("bob", "his"), ("ann", "right")] {
        ask(user, user, password).accepted();
    }
    assert!(guessing.poll(Duration::from_millis(1)).expect("the connection stands").is_none());
    // It waits in a place for handshakes, and leaves it to those who come: it is told at last.
    let _others = [ask("b", "ann", "wrong"), ask("c", "ann", "wrong")];
    assert_eq!(guessing.refused(), ReasonCode::BadUserNameOrPassword);
}

#[test]
fn past_a_bounded_wait_clients_are_told_to_come_later() {
    let folder = tempfile::tempdir().expect("a folder");
    // 190 MiB: each takes a good part of a second.
    let dear = Hash::argon2id(b"right", [7; 16], (190 * 1024, 1, 1)).expect("a hash");
    let mut config = config_with(&private(folder.path(), "users", &format!("ann:{}\n", dear.encode())));
    (config.auth.threads, config.auth.max_wait) = (2, Duration::from_millis(100));
    config.limits.connect_timeout = Duration::from_millis(100);
    let server = Server::start(config).expect("it starts");
    for (version, later) in [(V5, ReasonCode::ServerBusy), (Version::V4, ReasonCode::ServerUnavailable)] {
        let credentials = (Some("ann"), Some("wrong"));
        let clients: Vec<_> =
            (0..12).map(|number| asking(&server, version, &number.to_string(), true, credentials)).collect();
        let mut reasons: Vec<_> = clients.into_iter().map(|mut client| client.refused()).collect();
        let told_later = reasons.iter().filter(|reason| **reason == later).count();
        reasons.retain(|reason| *reason != later);
        // Those that had their turn took longer than the time for CONNECT, which does not count here.
        assert!(told_later > 0 && !reasons.is_empty(), "{told_later} {reasons:?}");
        assert!(reasons.iter().all(|reason| *reason == ReasonCode::BadUserNameOrPassword));
    }
    assert!(server.auth_work().memory <= 192 << 20);
}

#[test]
fn clients_behind_one_address_all_come_back_after_a_restart() {
    let count = std::env::var("WEIRMQ_STORM_CLIENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let folder = tempfile::tempdir().expect("a folder");
    let hash = Hash::make(b"right", [7; 16]).expect("a hash").encode();
    let text: String = (0..count).map(|number| format!("unit-{number}:{hash}\n")).collect();
    let mut config = config_with(&private(folder.path(), "users", &text));
    config.limits.max_handshakes_per_address = 50;
    let server = Server::start(config).expect("it starts");
    let began = Instant::now();
    let clients = storm(&server, count);
    let (all, work) = (began.elapsed(), server.auth_work());
    println!("{count} clients within {all:?}: {} hashes, {} MiB", work.hashes, work.memory >> 20);
    assert!(work.memory <= 192 << 20, "{work:?}");
    drop(clients);
    let began = Instant::now();
    let clients = storm(&server, count);
    println!("and again within {:?}", began.elapsed());
    assert_eq!((clients.len(), server.auth_work().hashes), (count, work.hashes), "remembered");
}

/// Connects so many clients at once, each as often as it takes.
fn storm(server: &Server, count: usize) -> Vec<TcpStream> {
    let address = server.addresses()[0];
    let one = move |number: usize| {
        let user = format!("unit-{number}");
        let mut bytes = Vec::new();
        let connect =
            Connect { username: Some(&user), password: Some(b"right"), ..connect(Version::V4, &user, true) };
        weirmq::protocol::codec::encode(Version::V4, &Packet::Connect(connect), &mut bytes);
        loop {
            let answer = (|| {
                let mut socket = TcpStream::connect(address)?;
                socket.set_read_timeout(Some(Duration::from_secs(60)))?;
                socket.write_all(&bytes)?;
                let mut connack = [0; 4];
                socket.read_exact(&mut connack).map(|()| (socket, connack[3]))
            })();
            match answer {
                Ok((socket, 0)) => return socket,
                // "Later", or there was no room for its handshake: a client waits a while before it tries again.
                Ok((_, 3)) | Err(_) => std::thread::sleep(Duration::from_millis(200 + fastrand::u64(..800))),
                Ok((_, code)) => panic!("refused for good: {code}"),
            }
        }
    };
    let spawn = |number| {
        let builder = std::thread::Builder::new().stack_size(128 * 1024);
        builder.spawn(move || one(number)).expect("a thread")
    };
    let threads: Vec<_> = (0..count).map(spawn).collect();
    threads.into_iter().map(|thread| thread.join().expect("it comes in")).collect()
}

#[test]
fn files_of_mosquitto_passwd_let_their_users_in() {
    if Command::new("mosquitto_passwd").arg("--help").output().is_err() {
        assert!(std::env::var("WEIRMQ_REQUIRE_CLIENTS").is_err(), "mosquitto_passwd is required");
        return eprintln!("SKIPPED: mosquitto_passwd is not installed");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    let write = |arguments: &[&str]| {
        let mut command = Command::new("mosquitto_passwd");
        assert!(command.args(arguments).output().expect("it runs").status.success(), "{arguments:?}");
    };
    let path = file.to_str().expect("text");
    write(&["-b", "-c", path, "ann", "right"]);
    write(&["-b", "-H", "sha512", path, "bob", "his own"]);
    write(&["-b", path, "carl", "pässword"]);
    // What it writes is as the umask has it, and that may be too much for us.
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its own");
    let text = fs::read_to_string(&file).expect("readable");
    assert!(text.contains("ann:$7$") && text.contains("bob:$6$"), "{text}");
    let server = serve_users(file.clone(), false);
    for (user, password) in [("ann", "right"), ("bob", "his own"), ("carl", "pässword")] {
        assert!(enters(&server, user, password) && !enters(&server, user, "wrong"), "{user}");
        assert!(enters(&server, user, password), "{user}, remembered");
    }
}

fn weirmq(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weirmq"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // One that needs no input may have ended.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

#[test]
fn passwd_writes_what_the_broker_reads_and_pub_and_sub_log_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    let path = file.to_str().expect("text");
    let done = |arguments: &[&str], input: &str| {
        let output = weirmq(arguments, input);
        assert!(output.status.success(), "{arguments:?} {output:?}");
        fs::read_to_string(path).expect("a file")
    };
    let fails = |arguments: &[&str], says: &str| {
        let before = fs::read(path).ok();
        let output = weirmq(arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{arguments:?} {said}");
        assert_eq!(fs::read(path).ok(), before, "{arguments:?}: nothing is changed");
    };
    fails(&["passwd", path, "ann"], "-c begins one");
    assert!(
        done(&["passwd", "-c", path, "ann"], "right\n").starts_with("ann:$argon2id$v=19$m=47104,t=1,p=1$")
    );
    assert_eq!(fs::metadata(path).expect("a file").permissions().mode() & 0o777, 0o600);
    done(&["passwd", "-b", path, "bob", "his"], "");
    done(&["passwd", "-b", path, "ann", "changed"], "");
    fails(&["passwd", "-b", path, "a:b", "x"], "colon");
    fails(&["passwd", "-b", path, "carl", ""], "empty");
    fails(&["passwd", "-D", path, "carl"], "no user");
    fails(&["passwd", path, "carl"], "empty");
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[auth]\npassword_file = \"{path}\"\nfailure_delay = \"0s\"\n\
         [store]\nsync = \"off\"\n"
    );
    let broker = Process::start(&config, |_| {});
    let port = broker.port(0).to_string();
    let publish = |user: &str, password: &str| {
        let topic = ["-t", "t", "-q", "1", "-r", "-m", "hello", "-u", user, "-P", password];
        weirmq(&[&["pub", "-h", "127.0.0.1", "-p", &port], &topic[..]].concat(), "")
    };
    assert!(publish("ann", "changed").status.success() && publish("bob", "his").status.success());
    for (user, password) in [("ann", "right"), ("bob", ""), ("carl", "his")] {
        assert!(!publish(user, password).status.success(), "{user}");
    }
    let topic = ["-t", "t", "-C", "1", "-u", "bob", "-P", "his"];
    let heard = weirmq(&[&["sub", "-h", "127.0.0.1", "-p", &port], &topic[..]].concat(), "");
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "hello\n");
    assert!(done(&["passwd", "-D", path, "ann"], "").starts_with("bob:"));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
}

#[test]
fn a_certificate_says_who_its_client_is() {
    let folder = tempfile::tempdir().expect("a folder");
    crate::common::process::dev_certs(folder.path());
    let file = |name: &str| folder.path().join("certs").join(name);
    let passwords = users(folder.path(), &[("ann", "right"), ("client", "guessed")]);
    let server = serve(|config| {
        config.auth = config_with(&passwords).auth;
        let tls = TlsConfig {
            certificates: vec![CertificateFiles { cert: file("server.pem"), key: file("server.key") }],
            client_ca: Some(file("ca.pem")),
            client_crl: None,
            require_client_cert: false,
            identity_from: Some(IdentityFrom::Cn),
            min_version: TlsVersion::V1_2,
        };
        config.listeners = vec![ListenerConfig { allow_anonymous: false, tls: Some(tls), ..on_any_port() }];
    });
    let der = |name: &str| CertificateDer::from_pem_file(file(name)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(der("ca.pem")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let key = PrivateKeyDer::from_pem_file(file("client.key")).expect("a key");
    let certified = builder.clone().with_client_auth_cert(vec![der("client.pem")], key).expect("a pair");
    let ask = |config: &ClientConfig, user: Option<&str>, password: Option<&str>| {
        let config = Arc::new(config.clone());
        let (mut client, _) =
            Client::open_tls(server.addresses()[0], V5, &config, "localhost").expect("a handshake");
        let password = password.map(str::as_bytes);
        client.send(&Packet::Connect(Connect { username: user, password, ..connect(V5, "c", true) }));
        let frame = client.next();
        let Packet::ConnAck(connack) = frame.packet() else { panic!("{frame:?}") };
        (connack.reason, client)
    };
    let name = "client";
    for user in [None, Some(name)] {
        assert_eq!(ask(&certified, user, None).0, ReasonCode::Success);
    }
    // It is nobody else, whatever password it knows.
    assert_eq!(ask(&certified, Some("ann"), Some("right")).0, ReasonCode::BadUserNameOrPassword);
    // Without a certificate there are passwords.
    let plain = builder.with_no_client_auth();
    assert_eq!(ask(&plain, None, None).0, ReasonCode::NotAuthorized);
    assert_eq!(ask(&plain, Some(name), None).0, ReasonCode::BadUserNameOrPassword);
    // Whose session it is, both ways to prove it agree.
    let (_, _own) = ask(&certified, None, None);
    assert_eq!(ask(&plain, Some("ann"), Some("right")).0, ReasonCode::NotAuthorized);
    assert_eq!(ask(&plain, Some(name), Some("guessed")).0, ReasonCode::Success);
}

#[test]
fn a_token_lets_its_user_in_and_nobody_else() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().expect("a folder");
    let passwords = users(folder.path(), &[("bob", "his")]);
    let key = private(folder.path(), "secret", SECRET);
    let server = serve(|config| {
        config.auth = config_with(&passwords).auth;
        let (issuer, audience, user_claim) = (None, None, "sub".to_owned());
        config.auth.jwt =
            Some(JwtConfig { algorithm: JwtAlgorithm::Hs256, key, user_claim, issuer, audience });
        config.listeners = vec![ListenerConfig { allow_anonymous: false, ..on_any_port() }];
    });
    let token = |claims: &str| {
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        let said = format!("{}.{}", encode(br#"{"alg":"HS256","typ":"JWT"}"#), encode(claims.as_bytes()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        format!("{said}.{}", encode(hmac::sign(&key, said.as_bytes()).as_ref()))
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let good = token(&format!(r#"{{"sub":"ann","exp":{}}}"#, now + 3600));
    let late = token(&format!(r#"{{"sub":"ann","exp":{}}}"#, now - 3600));
    let (said, signature) = good.rsplit_once('.').expect("three parts");
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{said}.{other}{}", &signature[1..]);
    asking(&server, V5, "a", true, (Some("ann"), Some(&good))).accepted();
    asking(&server, V5, "b", true, (None, Some(&good))).accepted();
    asking(&server, Version::V4, "c", true, (Some(""), Some(&good))).accepted();
    asking(&server, V5, "d", true, (Some("bob"), Some("his"))).accepted();
    for (user, password) in [("bob", &good), ("ann", &late), ("ann", &forged), ("bob", &forged)] {
        let mut client = asking(&server, V5, "e", true, (Some(user), Some(password)));
        assert_eq!(client.refused(), ReasonCode::BadUserNameOrPassword, "{user} {password}");
    }
}

#[test]
fn a_connection_ends_with_its_token() {
    for keep_alive in [0, 10] {
        for version in [V5, Version::V4] {
            let mut w = World::new(1);
            let expires = Some(w.now + Duration::from_secs(100));
            let token = Some(Arc::new(Token { expires, ..Token::default() }));
            let ann = Principal { token, ..Principal::of_user("ann") };
            let connect = Connect { keep_alive, ..connect(version, "c", true) };
            let c = w.try_connect_as(&ann, &connect).expect("accepted");
            for _ in 0..9 {
                w.advance(Duration::from_secs(11));
                w.send(c, &Packet::PingReq);
                assert_eq!(w.clients[c].closed, None);
            }
            w.advance(Duration::from_secs(3));
            assert_eq!(w.closed_with(c), Some(ReasonCode::MaximumConnectTime));
        }
    }
}
