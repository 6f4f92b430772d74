//! A data folder as a broker left it, where in it each message stands, and ways to damage it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

use crate::common::client::*;
use crate::common::process::Process;

pub const CONFIG: &str = "shards = 2\nsys_interval = \"1s\"\ndata_dir = \"{dir}/data\"\n[store]\nsegment_size = \"1MiB\"\nmax_size = \"16MiB\"\n\
                      reserve = \"0B\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

/// Who waits for every message, and with which subscription.
pub const TAKERS: [(&str, &str, QoS); 3] = [
    ("one", "t/#", QoS::AtLeastOnce),
    ("two", "t/#", QoS::ExactlyOnce),
    ("member", "$share/group/t/#", QoS::AtLeastOnce),
];

/// One that has taken everything: what it acknowledged does not come again.
pub const DONE: &str = "done";

/// Topics with a retained message.
pub const RETAINED: usize = 8;

/// The broker counts what it found.
pub const METRIC: &str = "$SYS/broker/store/damaged";

/// A message that cannot be mistaken for another, nor for one of which a byte is wrong.
fn payload(kind: u8, number: usize, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(kind) << 32 | number as u64);
    let mut payload = vec![kind; len];
    rng.fill(&mut payload[16..]);
    payload[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    payload
}

pub fn queued(number: usize) -> Vec<u8> {
    payload(b'm', number, 30_000)
}

pub fn retained(number: usize) -> Vec<u8> {
    payload(b'r', number, 500)
}

/// The files of a data folder.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn read(data: &Path) -> Files {
    let entries = fs::read_dir(data).expect("a folder").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    files.map(|entry| (name(&entry), fs::read(entry.path()).expect("readable"))).collect()
}

/// How the broker ended that left a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stop,
    /// It was killed; so nothing vouches for what it wrote last.
    Kill,
    /// It was told to, when something had been moved to the index.
    Indexed,
}

/// A folder as a broker left it.
pub struct Original {
    pub files: Files,
    pub messages: usize,
    /// Of each payload, by its first bytes, the file in which it stands, and where.
    places: BTreeMap<Vec<u8>, (String, usize)>,
}

impl Original {
    /// Nothing.
    pub fn empty() -> Original {
        Original { files: Files::new(), messages: 0, places: BTreeMap::new() }
    }

    /// With so many messages.
    pub fn fill(messages: usize, end: End) -> Original {
        let mut process = Process::start(CONFIG, |_| {});
        let address = process.addresses[0];
        for (client_id, filter, qos) in TAKERS.into_iter().chain([(DONE, "t/#", QoS::ExactlyOnce)]) {
            let (mut client, _) = Client::resume(address, Version::V5, client_id);
            client.subscribe(filter, qos);
            client.disconnect();
        }
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        for number in 0..messages {
            if number % (messages / RETAINED) == 0 {
                let number = number / (messages / RETAINED);
                retain(&mut publisher, &format!("r/{number}"), &retained(number));
            }
            assert_eq!(publisher.publish("t/x", QoS::ExactlyOnce, &queued(number)), ReasonCode::Success);
        }
        let (mut done, _) = Client::resume(address, Version::V5, DONE);
        (0..messages).for_each(|number| done.expect_publish("t/x", &queued(number)));
        done.ping();
        done.disconnect();
        let data = process.folder.path().join("data");
        let deadline = Instant::now() + PATIENCE;
        while end == End::Indexed && !data.join("index.redb").exists() {
            assert!(Instant::now() < deadline, "nothing goes to the index");
            std::thread::sleep(Duration::from_millis(5));
        }
        match end {
            End::Kill => process.kill(),
            End::Stop | End::Indexed => stop(&mut process),
        }
        let files = read(&data);
        let original = Original { places: places(&files), files, messages };
        let segments = original.files.keys().filter(|name| name.ends_with(".seg")).count();
        assert!(segments > 2 && original.files.contains_key("index.redb") == (end == End::Indexed));
        original
    }

    /// Whether the record of a payload is not in `files` as it was, or not certainly.
    pub fn is_touched(&self, payload: &[u8], files: &Files) -> bool {
        // What was moved to the index may be in pieces there.
        let Some((name, at)) = self.places.get(&payload[..16]) else { return true };
        // The record begins somewhat before its payload, and never in the header.
        let place = at.saturating_sub(300).max(4096)..at + payload.len();
        files.get(name).and_then(|bytes| bytes.get(place.clone())) != self.files[name].get(place)
    }
}

/// Where payloads stand in the segments.
fn places(files: &Files) -> BTreeMap<Vec<u8>, (String, usize)> {
    let mut places = BTreeMap::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".seg")) {
        let mut at = 0;
        while let Some(start) = bytes.get(at..at + 16) {
            let is_one = [b'm', b'r'].iter().any(|kind| start[..8] == [*kind; 8]);
            if is_one && start[10..] == [0; 6] {
                places.insert(start.to_vec(), (name.clone(), at));
            }
            at += 1;
        }
    }
    places
}

fn retain(publisher: &mut Client, topic: &str, payload: &[u8]) {
    let packet_id = Some(PacketId::MIN);
    let (dup, qos, retain, properties) = (false, QoS::AtLeastOnce, true, Properties::EMPTY);
    publisher.send(&Packet::Publish(Publish { dup, qos, retain, topic, packet_id, properties, payload }));
    publisher.wait_for(|packet| matches!(packet, Packet::PubAck(ack) if !ack.reason.is_failure()));
}

pub fn stop(process: &mut Process) {
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", process.id())]).status();
    assert!(sent.expect("sh runs").success());
    assert_eq!(process.wait(), Some(0), "{}", process.log());
}

/// A data folder to be damaged.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The segment with this number from the first or, if it is negative, from the last.
    pub fn segment(&self, number: isize) -> String {
        let names: Vec<String> = read(&self.0).into_keys().filter(|name| name.ends_with(".seg")).collect();
        let index = if number < 0 { names.len().checked_add_signed(number) } else { Some(number as usize) };
        names[index.expect("there are so many")].clone()
    }

    /// A copy of what was there.
    pub fn make(&self, files: &Files) {
        fs::DirBuilder::new().mode(0o700).create(&self.0).expect("made");
        for (name, bytes) in files {
            self.write(name, bytes);
        }
    }

    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).expect("readable");
        change(&mut bytes);
        fs::write(self.path(name), bytes).expect("writable");
    }

    /// Changes a bit of the byte of a segment that is so far from its beginning.
    pub fn flip(&self, segment: isize, at: usize) {
        self.change(&self.segment(segment), |bytes| bytes[at] ^= 0x40);
    }

    /// Writes this byte over the whole header of a segment.
    pub fn header(&self, segment: isize, byte: u8) {
        self.change(&self.segment(segment), |bytes| bytes[..4096].fill(byte));
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("written");
    }

    pub fn make_folder(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
        fs::create_dir(self.path(name)).expect("made");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }
}

/// Bytes that mean nothing.
pub fn rubbish(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}
