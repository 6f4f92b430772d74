//! What connections cost that do nothing: resident memory of the broker's process for each (the kernel's socket buffers
//! are not in it), how fast they come, and what the broker does while they are silent.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::client::{Client, Clients};
use super::figures::{Metrics, Outcome};
use super::peers::Broker;
use super::process::{Cpu, Memory};

/// Connections from one source address: far fewer than there are ports.
const PER_ADDRESS: usize = 250;

/// The broker comes to rest.
const SETTLE: Duration = Duration::from_millis(500);

/// The source address of one of many clients.
pub fn address_of(client: usize) -> Ipv4Addr {
    let address = client / PER_ADDRESS;
    Ipv4Addr::new(127, 1, (address / 200) as u8, 1 + (address % 200) as u8)
}

/// Connects, subscribes and watches for `window`.
///
/// # Errors
/// If the broker refuses, closes a connection or is gone.
pub fn run(broker: &Broker, connections: usize, window: Duration) -> Outcome {
    let client = |i: usize| {
        let filters = vec![format!("devices/{i:05}/commands")];
        Client { source: Some(address_of(i)), ..Client::new(format!("device-{i:05}"), filters) }
    };
    let before = (Memory::of(broker.pid())?, Cpu::of(broker.pid())?);
    let own = Cpu::own()?;
    let specs: Vec<_> = (0..connections).map(client).collect();
    let clients = Clients::connect(broker.port, &specs, 0, broker.tls.as_ref())?;
    let own = Cpu::own()? - own;
    std::thread::sleep(SETTLE);
    let after = (Memory::of(broker.pid())?, Cpu::of(broker.pid())?);
    std::thread::sleep(window);
    let idle = Cpu::of(broker.pid())? - after.1;
    let number = connections as f64;
    let mut metrics = Metrics::default();
    metrics.set("bytes_per_connection", (after.0.resident - before.0.resident) / number);
    metrics.set("resident_bytes_peak", after.0.peak);
    metrics.set("connects_per_second", number / clients.took.as_secs_f64());
    metrics.set("cpu_microseconds_per_connect", (after.1 - before.1).total() * 1e6 / number);
    metrics.set("generator_cores", own.total() / clients.took.as_secs_f64());
    metrics.set("idle_cores", idle.total() / window.as_secs_f64());
    Ok(metrics)
}
