//! Clients of other makers against the broker, plain and over TLS. Each is used if it is installed;
//! with `WEIRMQ_REQUIRE_CLIENTS=1` a missing one is a failure. `WEIRMQ_PYTHON` names the Python that
//! has the clients, `MQTTJS` the folder in which mqtt.js was installed.
#![allow(missing_docs)]

#[path = "common/process.rs"]
mod process;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use process::Process;
use rumqttc::{Event, MqttOptions, Packet, QoS};

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
"#;

fn broker() -> Process {
    Process::start(CONFIG, |folder| {
        let made = run(Command::new(env!("CARGO_BIN_EXE_weirmq")).arg("dev-certs").arg(folder.join("certs")));
        assert!(made.status.success(), "{made:?}");
    })
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn skip(what: &str) {
    assert!(std::env::var("WEIRMQ_REQUIRE_CLIENTS").is_err(), "{what} is not installed, and is required");
    eprintln!("SKIPPED: {what} is not installed");
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

#[test]
fn rumqttc_plain() {
    let broker = broker();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let name = format!("rumqttc-{qos:?}");
        let mut options = MqttOptions::new(&name, "127.0.0.1", broker.port(0));
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut connection) = rumqttc::Client::new(options, 100);
        client.subscribe(&name, qos).expect("queued");
        let mut got = Vec::new();
        for event in connection.iter() {
            match event.expect("connected") {
                Event::Incoming(Packet::SubAck(_)) => {
                    for number in 0..10 {
                        client.publish(&name, qos, false, number.to_string()).expect("queued");
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => got.push(publish.payload),
                _ => {}
            }
            if got.len() == 10 {
                break;
            }
        }
        assert_eq!(got, (0..10).map(|number| number.to_string().into_bytes()).collect::<Vec<_>>());
    }
}
