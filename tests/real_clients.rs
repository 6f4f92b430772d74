//! Clients of other makers against the broker, plain and over TLS, and over WebSockets. Each is used if it is installed;
//! with `WEIRMQ_REQUIRE_CLIENTS=1` a missing one is a failure. `WEIRMQ_PYTHON` names the Python that
//! has the clients, `MQTTJS` the folder in which mqtt.js was installed.
#![allow(missing_docs)]

#[path = "common/process.rs"]
mod process;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use process::{Process, dev_certs};
use rumqttc::{TlsConfiguration, Transport};

const CONFIG: &str = r#"
[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true

[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"

[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
protocol = "websocket"

[[listener]]
bind = "127.0.0.1:0"
allow_anonymous = true
protocol = "websocket"
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
"#;

fn broker() -> Process {
    Process::start(CONFIG, dev_certs)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn skip(what: &str) {
    assert!(std::env::var("WEIRMQ_REQUIRE_CLIENTS").is_err(), "{what} is not installed, and is required");
    // The macros would write to where the test harness throws away what successful tests say.
    writeln!(std::io::stderr(), "SKIPPED: {what} is not installed").expect("standard error can be written");
}

/// Runs a script of `tests/real_clients` against a broker of its own.
fn script(interpreter: &str, name: &str, environment: &[(&str, String)]) {
    let broker = broker();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_clients").join(name);
    let output = run(Command::new(interpreter)
        .arg(path)
        .arg(broker.port(0).to_string())
        .arg(broker.port(1).to_string())
        .arg(broker.folder.path().join("certs/ca.pem"))
        .arg(broker.port(2).to_string())
        .arg(broker.port(3).to_string())
        .envs(environment.iter().map(|(key, value)| (key, value))));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().ends_with("ok"), "{name}: {said}\n{complained}");
}

fn python(module: &str, name: &str) {
    let interpreter = std::env::var("WEIRMQ_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&interpreter).arg("-c").arg(format!("import {module}")).output();
    match found {
        Ok(output) if output.status.success() => script(&interpreter, name, &[]),
        _ => skip(module),
    }
}

#[test]
fn paho_mqtt() {
    python("paho.mqtt.client", "paho_client.py");
}

#[test]
fn gmqtt() {
    python("gmqtt", "gmqtt_client.py");
}

#[test]
fn aiomqtt() {
    python("aiomqtt", "aiomqtt_client.py");
}

#[test]
fn mqtt_js() {
    match std::env::var("MQTTJS") {
        Ok(folder) => script("node", "mqttjs_client.mjs", &[("MQTTJS", folder)]),
        Err(_) => skip("mqtt.js"),
    }
}

#[test]
fn mosquitto_pub_and_sub() {
    if Command::new("mosquitto_sub").arg("--help").output().is_err() {
        return skip("mosquitto_pub and mosquitto_sub");
    }
    let broker = broker();
    let ca = broker.folder.path().join("certs/ca.pem");
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for (listener, tls) in [(0, false), (1, true)] {
            for qos in ["0", "1", "2"] {
                mosquitto(broker.port(listener), tls.then_some(ca.as_path()), version, qos);
            }
        }
    }
}

/// A retained message makes the order of the two programs irrelevant.
fn mosquitto(port: u16, ca: Option<&Path>, version: &str, qos: &str) {
    let topic = format!("real/mosquitto/{version}/{qos}/{port}");
    let command = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-h", "localhost", "-p", &port.to_string(), "-V", version, "-q", qos, "-t", &topic]);
        if let Some(ca) = ca {
            command.arg("--cafile").arg(ca);
        }
        command
    };
    let published = run(command("mosquitto_pub").args(["-r", "-m", "hello"]));
    assert!(published.status.success(), "{published:?}");
    let received = run(command("mosquitto_sub").args(["-C", "1", "-W", "20", "-F", "%q %p"]));
    assert_eq!(String::from_utf8_lossy(&received.stdout).trim(), format!("{qos} hello"), "{received:?}");
}

/// The certificates that its TLS goes by; without a provider of its own it takes the process's.
fn rumqttc_tls(broker: &Process) -> Transport {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let ca = std::fs::read(broker.folder.path().join("certs/ca.pem")).expect("the CA");
    Transport::tls_with_config(TlsConfiguration::Simple {
        ca,
        alpn: Some(vec![b"mqtt".to_vec()]),
        client_auth: None,
    })
}

/// What is published, and is to arrive in this order.
fn ten() -> Vec<Vec<u8>> {
    (0..10).map(|number| number.to_string().into_bytes()).collect()
}

/// Its two modules have the same interface with types of their own: those that are in scope are used.
macro_rules! rumqttc_converses {
    ($name:literal) => {
        let broker = broker();
        for (listener, transport) in [(0, Transport::Tcp), (1, rumqttc_tls(&broker))] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let name = format!("{}-{listener}-{qos:?}", $name);
                let mut options = MqttOptions::new(&name, "localhost", broker.port(listener));
                options.set_transport(transport.clone());
                let (client, mut connection) = Client::new(options, 100);
                client.subscribe(&name, qos).expect("queued");
                let mut got = Vec::new();
                for event in connection.iter() {
                    match event.expect("connected") {
                        Event::Incoming(Packet::SubAck(_)) => {
                            for payload in ten() {
                                client.publish(&name, qos, false, payload).expect("queued");
                            }
                        }
                        Event::Incoming(Packet::Publish(publish)) => got.push(publish.payload),
                        _ => {}
                    }
                    if got.len() == 10 {
                        break;
                    }
                }
                assert_eq!(got, ten(), "{name}");
            }
        }
    };
}

#[test]
fn rumqttc_3_1_1() {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    rumqttc_converses!("rumqttc");
}

#[test]
fn rumqttc_5_0() {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{Client, Event, MqttOptions};
    rumqttc_converses!("rumqttc-v5");
}
