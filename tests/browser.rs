//! MQTT from a page in a browser: mqtt.js in headless Chromium, over WSS. It is used if it is installed; with
//! `WEIRMQ_REQUIRE_CLIENTS=1` a missing one is a failure. `MQTTJS` names the folder in which mqtt.js was installed.
#![allow(missing_docs)]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread;

use process::{Process, dev_certs};

const CONFIG: &str = r#"
[store]
sync = "off"
[[listener]]
bind = "127.0.0.1:0"
protocol = "websocket"
allow_anonymous = true
origins = ["http://localhost:{page}"]
[listener.tls]
cert = "{dir}/certs/server.pem"
key = "{dir}/certs/server.key"
"#;

/// Subscribes, publishes to itself at every QoS, and shows in its title what it received. The picture is what keeps the
/// browser waiting: it comes when the page has told that it is done.
const PAGE: &str = r#"<!doctype html><title>nothing</title><img src="/hold"><script src="/mqtt.js"></script><script>
const done = (text) => { document.title = text; fetch("/done"); };
const client = mqtt.connect("wss://localhost:{broker}/mqtt", { protocolVersion: 5, reconnectPeriod: 0 });
const got = [];
client.on("message", (topic, payload, packet) => {
  got.push(packet.qos + ":" + payload);
  if (got.length === 30) client.end(() => done("received " + got.length + ": " + got.join()));
});
client.on("error", (error) => done("error: " + error.message));
client.on("close", () => { if (got.length < 30) done("closed after " + got.length); });
client.on("connect", async () => {
  await client.subscribeAsync("page/#", { qos: 2 });
  for (const qos of [0, 1, 2])
    for (let number = 0; number < 10; number++) await client.publishAsync("page/" + qos, String(number), { qos });
});
</script>"#;

/// The server of the page, for one visit: until `/end` is asked for.
fn serve_page(listener: &TcpListener, page: &str, script: &Path) {
    let (done, told) = (Mutex::new(false), Condvar::new());
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        while !ended.load(SeqCst) {
            let (stream, _) = listener.accept().expect("a browser");
            let (done, told, ended) = (&done, &told, &ended);
            scope.spawn(move || {
                let Some(path) = requested(&stream) else { return };
                match path.as_str() {
                    "/" => answer(stream, "text/html", page.as_bytes()),
                    "/mqtt.js" => answer(stream, "text/javascript", &fs::read(script).expect("mqtt.js")),
                    "/done" | "/end" => {
                        *done.lock().expect("nobody panics") = true;
                        told.notify_all();
                        if path == "/end" {
                            ended.store(true, SeqCst);
                            // So that the loop above looks again.
                            let _ = TcpStream::connect(listener.local_addr().expect("bound"));
                        }
                        answer(stream, "text/plain", b"");
                    }
                    "/hold" => {
                        let done = done.lock().expect("nobody panics");
                        let _done = told.wait_while(done, |done| !*done).expect("nobody panics");
                        answer(stream, "image/svg+xml", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>");
                    }
                    _ => answer(stream, "text/plain", b""),
                }
            });
        }
    });
}

/// The path of a request, whose headers are read away.
fn requested(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    lines.find(|line| line.is_empty())?;
    Some(path)
}

fn answer(mut stream: TcpStream, kind: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A browser may have lost its interest.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Has Chromium show an address until it has loaded; the title then.
fn title_of(address: &str) -> String {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",
        "--dump-dom",
    ];
    let output = Command::new("timeout")
        .args(["-k", "5", "60", "chromium"])
        .args(quiet)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(address)
        .output()
        .expect("timeout runs");
    let dom = String::from_utf8_lossy(&output.stdout);
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    match title {
        Some((title, _)) => title.to_owned(),
        None => format!("no title: {dom}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn a_page_publishes_and_receives_over_wss_and_one_from_elsewhere_may_not() {
    let script = std::env::var_os("MQTTJS")
        .map(|folder| PathBuf::from(folder).join("node_modules/mqtt/dist/mqtt.min.js"));
    let browser = Command::new("chromium").arg("--version").output();
    let (Some(script), Ok(_)) = (script.filter(|script| script.exists()), browser) else {
        assert!(
            std::env::var("WEIRMQ_REQUIRE_CLIENTS").is_err(),
            "mqtt.js or Chromium is not installed, and is required"
        );
        writeln!(std::io::stderr(), "SKIPPED: mqtt.js or Chromium is not installed")
            .expect("it can be written");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let broker = Process::start(&CONFIG.replace("{page}", &port.to_string()), dev_certs);
    let page = PAGE.replace("{broker}", &broker.port(0).to_string());
    let visit = |host: &str| {
        thread::scope(|scope| {
            let title = scope.spawn(|| {
                let title = title_of(&format!("http://{host}:{port}/"));
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server of the page");
                stream.write_all(b"GET /end HTTP/1.1\r\n\r\n").expect("taken");
                title
            });
            serve_page(&listener, &page, &script);
            title.join().expect("a title")
        })
    };
    let expected: Vec<String> =
        [0, 1, 2].iter().flat_map(|qos| (0..10).map(move |number| format!("{qos}:{number}"))).collect();
    assert_eq!(visit("localhost"), format!("received 30: {}", expected.join(",")));
    // The same page by another name is another origin.
    let title = visit("127.0.0.1");
    assert!(title.starts_with("closed after 0") || title.starts_with("error"), "{title}");
    broker.logged("the Origin is not one of those that are allowed");
}
