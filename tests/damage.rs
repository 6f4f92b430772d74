//! The broker on a data folder that something has damaged: bytes that a disk changed, files that were cut, emptied, deleted,
//! swapped or replaced. It starts, or says which file keeps it from starting and what can be done. What it says it has
//! lost is what was damaged and nothing else; all the rest comes, in order and once; and nothing comes that nobody sent.
#![allow(missing_docs)]

mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::client::*;
use common::process::Process;
use weirmq::protocol::packet::*;
use weirmq::protocol::properties::Properties;
use weirmq::protocol::reason::ReasonCode;

const CONFIG: &str = "shards = 2\nsys_interval = \"1s\"\ndata_dir = \"{dir}/data\"\n[store]\nsegment_size = \"1MiB\"\nmax_size = \"16MiB\"\n\
                      reserve = \"0B\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nallow_anonymous = true\n";

/// Who waits for every message, and with which subscription.
const TAKERS: [(&str, &str, QoS); 3] = [
    ("one", "t/#", QoS::AtLeastOnce),
    ("two", "t/#", QoS::ExactlyOnce),
    ("member", "$share/group/t/#", QoS::AtLeastOnce),
];

/// One that has taken everything: what it acknowledged does not come again.
const DONE: &str = "done";

/// Topics with a retained message.
const RETAINED: usize = 8;

/// The broker counts what it found.
const METRIC: &str = "$SYS/broker/store/damaged";

/// A message that cannot be mistaken for another, nor for one of which a byte is wrong.
fn payload(kind: u8, number: usize, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(kind) << 32 | number as u64);
    let mut payload = vec![kind; 8];
    payload.extend((number as u64).to_le_bytes());
    payload.extend((16..len).map(|_| rng.u8(..)));
    payload
}

fn message(number: usize) -> Vec<u8> {
    payload(b'm', number, 30_000)
}

fn retained(number: usize) -> Vec<u8> {
    payload(b'r', number, 500)
}

/// The files of a data folder.
type Files = BTreeMap<String, Vec<u8>>;

fn read(data: &Path) -> Files {
    let entries = fs::read_dir(data).expect("a folder").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    files.map(|entry| (name(&entry), fs::read(entry.path()).expect("readable"))).collect()
}

/// A folder as a broker left it that was told to stop.
struct Original {
    files: Files,
    messages: usize,
    /// Of each payload, by its first bytes, the file in which it stands, and where.
    places: BTreeMap<Vec<u8>, (String, usize)>,
}

impl Original {
    /// Fills a folder with so many messages; with `index`, until something has been moved there.
    fn fill(messages: usize, index: bool) -> Original {
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
            assert_eq!(publisher.publish("t/x", QoS::ExactlyOnce, &message(number)), ReasonCode::Success);
        }
        let (mut done, _) = Client::resume(address, Version::V5, DONE);
        (0..messages).for_each(|number| done.expect_publish("t/x", &message(number)));
        done.ping();
        done.disconnect();
        let data = process.folder.path().join("data");
        let deadline = Instant::now() + PATIENCE;
        while index && !data.join("index.redb").exists() {
            assert!(Instant::now() < deadline, "nothing goes to the index");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop(&mut process);
        let files = read(&data);
        let original = Original { places: places(&files), files, messages };
        assert!(original.segments().len() > 2 && original.files.contains_key("index.redb") == index);
        original
    }

    fn segments(&self) -> Vec<&String> {
        self.files.keys().filter(|name| name.ends_with(".seg")).collect()
    }

    /// Whether the record of a payload is not in `files` as it was, or not certainly.
    fn is_touched(&self, payload: &[u8], files: &Files) -> bool {
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

fn stop(process: &mut Process) {
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", process.id())]).status();
    assert!(sent.expect("sh runs").success());
    assert_eq!(process.wait(), Some(0), "{}", process.log());
}

/// A data folder to be damaged.
struct Folder(PathBuf);

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The segment with this number from the first or, if it is negative, from the last.
    fn segment(&self, number: isize) -> String {
        let names: Vec<String> = read(&self.0).into_keys().filter(|name| name.ends_with(".seg")).collect();
        let index = if number < 0 { names.len().checked_add_signed(number) } else { Some(number as usize) };
        names[index.expect("there are so many")].clone()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).expect("readable");
        change(&mut bytes);
        fs::write(self.path(name), bytes).expect("writable");
    }

    fn flip(&self, name: &str, at: impl Fn(usize) -> usize) {
        self.change(name, |bytes| {
            let at = at(bytes.len());
            bytes[at] ^= 0x40;
        });
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("written");
    }

    fn make_folder(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
        fs::create_dir(self.path(name)).expect("made");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }
}

/// Bytes that mean nothing.
fn rubbish(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// What is to come of a damage.
enum Then {
    /// Nothing is lost, and nothing is said.
    Sound,
    /// It starts, says all this, and counts it.
    Says(&'static [&'static str]),
    /// It says so, and much may be gone that was not touched: what tells whose it was.
    Gone(&'static [&'static str]),
    /// It does not start, and says all this in one line.
    Refuses(&'static [&'static str]),
}

use Then::*;

type Row = (&'static str, fn(&Folder), Then);

const LOST: &str = "the journal is damaged: what stood there is lost";
const MISSING: &str = "a segment of the journal is missing: what it held is lost";
const ASIDE: &str = "a damaged file of the journal was set aside";

fn journal_rows() -> Vec<Row> {
    vec![
        ("nothing", |_| {}, Sound),
        (
            "a byte in the middle of the first segment",
            |f| f.flip(&f.segment(0), |len| len / 2),
            Says(&[LOST, ASIDE]),
        ),
        (
            "a byte in the middle of the second segment",
            |f| f.flip(&f.segment(1), |len| len / 2),
            Says(&[LOST, ASIDE]),
        ),
        (
            "a byte near the end of a full segment",
            |f| f.flip(&f.segment(1), |len| len - 40_000),
            Says(&[LOST, ASIDE]),
        ),
        ("a byte of the last messages", |f| f.flip(&f.segment(-1), last_message), Says(&[LOST, ASIDE])),
        ("a thousand bytes, here and there", thousand_bytes, Says(&[LOST, ASIDE])),
        (
            "a block of a disk, zeroed",
            |f| f.change(&f.segment(1), |bytes| bytes[409_600..413_696].fill(0)),
            Says(&[LOST, ASIDE]),
        ),
        (
            "half of the header of a segment",
            |f| f.change(&f.segment(1), |bytes| bytes[..2048].fill(0)),
            Sound,
        ),
        (
            "the header of a segment",
            |f| f.change(&f.segment(1), |bytes| bytes[..4096].fill(0xEE)),
            Says(&[LOST, ASIDE]),
        ),
        (
            "the header of the first segment",
            |f| f.change(&f.segment(0), |bytes| bytes[..4096].fill(0)),
            Says(&[LOST, ASIDE]),
        ),
        (
            "the header of the last segment",
            |f| f.change(&f.segment(-1), |bytes| bytes[..4096].fill(0)),
            Says(&[LOST, ASIDE]),
        ),
        ("every header", every_header, Gone(&[LOST, ASIDE])),
        (
            "a segment cut in its middle",
            |f| f.change(&f.segment(1), |bytes| bytes.truncate(500_000)),
            Says(&[LOST, ASIDE]),
        ),
        ("a segment emptied", |f| f.write(&f.segment(1), b""), Says(&[LOST, ASIDE])),
        ("the first segment emptied", |f| f.write(&f.segment(0), b""), Gone(&[LOST, ASIDE])),
        ("every segment emptied", |f| (0..3).for_each(|n| f.write(&f.segment(n), b"")), Gone(&[LOST, ASIDE])),
        ("a segment deleted", |f| f.remove(&f.segment(1)), Says(&[MISSING])),
        ("the first segment deleted", |f| f.remove(&f.segment(0)), Gone(&[MISSING])),
        (
            "a segment replaced by rubbish",
            |f| f.write(&f.segment(1), &rubbish(1 << 20)),
            Says(&[LOST, ASIDE]),
        ),
        ("a short segment of rubbish", |f| f.write(&f.segment(1), &rubbish(100)), Says(&[LOST, ASIDE])),
        ("two segments swapped", swap, Gone(&[LOST, ASIDE])),
        (
            "rubbish by the name of a segment to come",
            |f| f.write("0000000077.seg", &rubbish(1 << 20)),
            Says(&[LOST, ASIDE]),
        ),
        ("a segment copied to another number", copy, Says(&[LOST, ASIDE])),
        (
            "a folder in a segment's place",
            |f| f.make_folder(&f.segment(1)),
            Refuses(&["0000000002.seg", "move it away"]),
        ),
        (
            "a folder in the lock's place",
            |f| f.make_folder("lock"),
            Refuses(&["lock in the data folder", "directory"]),
        ),
        ("the lock deleted", |f| f.remove("lock"), Sound),
        ("rubbish in the lock", |f| f.write("lock", &rubbish(100)), Sound),
        ("stray files", stray, Sound),
        ("spares and drafts of rubbish", leftovers, Sound),
        (
            "an index that is empty",
            |f| f.write("index.redb", b""),
            Refuses(&["index.redb", "move the file away"]),
        ),
        (
            "an index of rubbish",
            |f| f.write("index.redb", &rubbish(1 << 20)),
            Refuses(&["index.redb", "move the file away"]),
        ),
        (
            "a folder in the index's place",
            |f| f.make_folder("index.redb"),
            Refuses(&["index.redb", "move it away"]),
        ),
    ]
}

fn index_rows() -> Vec<Row> {
    const INDEX: &str = "index.redb";
    vec![
        ("nothing", |_| {}, Sound),
        (
            "a byte of a retained message in the index",
            |f| f.change(INDEX, |bytes| flip_retained(bytes)),
            Refuses(&[INDEX, "damaged", "restore the folder"]),
        ),
        (
            "a byte in the index's header",
            |f| f.change(INDEX, |bytes| bytes[0] ^= 1),
            Refuses(&[INDEX, "move the file away"]),
        ),
        (
            "an index cut in its middle",
            |f| f.change(INDEX, |bytes| bytes.truncate(bytes.len() / 2)),
            Refuses(&[INDEX, "move the file away"]),
        ),
        ("an index that is empty", |f| f.write(INDEX, b""), Refuses(&[INDEX, "move the file away"])),
        ("an index half of rubbish", half_index, Refuses(&[INDEX, "move the file away"])),
        ("an index deleted", |f| f.remove(INDEX), Gone(&[])),
        (
            "a byte in a segment that the index has taken in",
            |f| f.flip(&f.segment(0), |len| len / 2),
            Says(&["a message on disk is damaged and is not delivered"]),
        ),
        ("the header of such a segment", |f| f.change(&f.segment(0), |bytes| bytes[..4096].fill(0)), Sound),
        (
            "such a segment cut",
            |f| f.change(&f.segment(0), |bytes| bytes.truncate(500_000)),
            Says(&["a message on disk is damaged and is not delivered"]),
        ),
        ("such a segment deleted", |f| f.remove(&f.segment(0)), Says(&[MISSING])),
        (
            "such a segment emptied",
            |f| f.write(&f.segment(0), b""),
            Says(&["a message on disk is damaged and is not delivered"]),
        ),
        (
            "such a segment of rubbish",
            |f| f.write(&f.segment(0), &rubbish(1 << 20)),
            Says(&["a message on disk is damaged and is not delivered"]),
        ),
        (
            "a byte in a segment that is to be replayed",
            |f| f.flip(&f.segment(-2), |len| len / 2),
            Says(&[LOST, ASIDE]),
        ),
        ("such a segment deleted", |f| f.remove(&f.segment(-2)), Says(&[MISSING])),
    ]
}

/// Well within the last message.
fn last_message(len: usize) -> usize {
    len.min(20_000)
}

fn thousand_bytes(folder: &Folder) {
    let mut rng = fastrand::Rng::with_seed(7);
    folder.change(&folder.segment(1), |bytes| {
        (0..1000).for_each(|_| {
            let at = rng.usize(4096..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
        });
    });
}

fn every_header(folder: &Folder) {
    for name in read(&folder.0).into_keys().filter(|name| name.ends_with(".seg")) {
        folder.change(&name, |bytes| bytes[..4096].fill(0));
    }
}

fn swap(folder: &Folder) {
    let (first, second) = (folder.segment(0), folder.segment(1));
    folder.rename(&first, "kept");
    folder.rename(&second, &first);
    folder.rename("kept", &second);
}

fn copy(folder: &Folder) {
    fs::copy(folder.path(&folder.segment(1)), folder.path("0000000077.seg")).expect("copied");
}

fn stray(folder: &Folder) {
    folder.write("notes.txt", b"mine");
    folder.write("0000000001.seg.bak", &rubbish(1 << 20));
    folder.write("1.seg", &rubbish(1 << 20));
    folder.write("0000000001-1.corrupt", &rubbish(1 << 20));
    folder.make_folder("lost+found");
}

fn leftovers(folder: &Folder) {
    for name in [
        "0000000077.spare",
        "fresh-1.spare",
        "0000000078.draft",
        "0000000001.repair",
        "0000000079.repair",
        "index.new",
    ] {
        folder.write(name, &rubbish(100_000));
    }
}

fn half_index(folder: &Folder) {
    folder.change("index.redb", |bytes| {
        let half = bytes.len() / 2;
        bytes[4096..half].copy_from_slice(&rubbish(half - 4096));
    });
}

/// redb does not look at it when it is read.
fn flip_retained(bytes: &mut [u8]) {
    let sought = &retained(0)[..];
    let at = bytes.windows(sought.len()).position(|window| window == sought).expect("it is in the index");
    // An older page may hold it as well.
    let mut from = at;
    while let Some(next) = bytes[from..].windows(sought.len()).position(|window| window == sought) {
        bytes[from + next + 400] ^= 1;
        from += next + 1;
    }
}

/// The numbers of what a taker is sent, up to a message that is published now; each is as it was published.
fn take_all(process: &Process, client: &mut Client, end: &str) -> Vec<usize> {
    let mut taken = Vec::new();
    loop {
        let frame = client.take_publish();
        let publish = frame.publish();
        if publish.topic == end {
            return taken;
        }
        let number = publish.payload.get(8..16).and_then(|number| number.try_into().ok());
        let number = u64::from_le_bytes(number.expect("a number")) as usize;
        assert!(publish.topic == "t/x" && publish.payload == message(number), "{}", process.log());
        taken.push(number);
    }
}

/// Holds what a broker serves against what the folder held.
struct Check<'a> {
    what: &'a str,
    original: &'a Original,
    damaged: &'a Files,
    then: &'a Then,
}

impl Check<'_> {
    fn may_be_lost(&self, payload: &[u8]) -> bool {
        match self.then {
            Sound | Refuses(_) => false,
            Says(_) => self.original.is_touched(payload, self.damaged),
            Gone(_) => true,
        }
    }

    /// What every taker is sent, up to a message to `end` that is published now.
    fn messages(&self, process: &Process, end: &str) {
        let address = process.addresses[0];
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        if !matches!(self.then, Gone(_)) {
            publisher.publish(end, QoS::AtLeastOnce, b"");
        }
        for (client_id, filter, _) in TAKERS {
            let (mut client, present) = Client::resume(address, Version::V5, client_id);
            let mut end = end.to_owned();
            if matches!(self.then, Gone(_)) {
                if filter.starts_with('$') {
                    continue;
                }
                // Its subscription may be gone.
                end = format!("end/{client_id}");
                client.subscribe(&end, QoS::AtLeastOnce);
                publisher.publish(&end, QoS::AtLeastOnce, b"");
            } else {
                assert!(present, "{}: the session of {client_id} is gone", self.what);
            }
            self.hold(client_id, &take_all(process, &mut client, &end));
            client.ping();
            client.disconnect();
        }
        if let Sound = self.then {
            let (mut client, present) = Client::resume(address, Version::V5, DONE);
            assert!(present && take_all(process, &mut client, end).is_empty(), "{}: {DONE}", self.what);
            client.ping();
            client.disconnect();
        }
    }

    /// Holds what a taker was sent against what it was to be sent.
    fn hold(&self, client_id: &str, taken: &[usize]) {
        let what = self.what;
        assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "{what}: {client_id} is sent {taken:?}");
        let missing = (0..self.original.messages).filter(|number| !taken.contains(number));
        let wrong: Vec<usize> = missing.filter(|number| !self.may_be_lost(&message(*number))).collect();
        assert!(wrong.is_empty(), "{what}: {client_id} is not sent {wrong:?}");
        assert!(
            taken.is_empty() || self.original.messages > 0,
            "{what}: {client_id} is sent {taken:?} again"
        );
    }

    fn retained(&self, process: &Process) {
        let mut client = Client::connect(process.addresses[0], Version::V5, "observer");
        client.subscribe("r/#", QoS::AtLeastOnce);
        // What comes by this comes behind.
        client.subscribe(METRIC, QoS::AtMostOnce);
        let mut found = BTreeSet::new();
        loop {
            let frame = client.take_publish();
            let publish = frame.publish();
            if publish.topic == METRIC {
                break;
            }
            let number = publish.topic[2..].parse::<usize>().expect("a number");
            assert_eq!(publish.payload, retained(number), "{}: {}", self.what, publish.topic);
            assert!(found.insert(number), "{}: {number} twice", self.what);
        }
        let missing = (0..RETAINED).filter(|number| !found.contains(number));
        let wrong: Vec<usize> = missing.filter(|number| !self.may_be_lost(&retained(*number))).collect();
        assert!(wrong.is_empty(), "{}: not retained: {wrong:?}", self.what);
    }

    /// What the log and the metric say.
    fn reports(&self, process: &Process) {
        let says: &[&str] = match self.then {
            Says(says) | Gone(says) => says,
            Sound | Refuses(_) => &[],
        };
        says.iter().for_each(|text| process.logged(text));
        let mut client = Client::connect(process.addresses[0], Version::V5, "observer");
        client.subscribe(METRIC, QoS::AtMostOnce);
        loop {
            let frame = client.take_publish();
            let count = std::str::from_utf8(frame.publish().payload).expect("text");
            let count: u64 = count.parse().expect("a number");
            if says.is_empty() {
                assert_eq!(count, 0, "{}", self.what);
                let log = process.log();
                assert!(!log.contains("ERROR") && !log.contains("was cut"), "{}:\n{log}", self.what);
            }
            // What was found when it was read is counted a moment later.
            if (count > 0) != says.is_empty() {
                return;
            }
        }
    }
}

/// Starts a broker on a copy of a folder with this damage, and again on what it has made of that.
fn try_row(original: &Original, (what, damage, then): &Row) {
    let mut damaged = Files::new();
    let started = Process::launch(Vec::new(), CONFIG, |dir| {
        let folder = Folder(dir.join("data"));
        make(&folder.0, &original.files);
        damage(&folder);
        damaged = read(&folder.0);
    });
    let mut process = match (started, then) {
        (Err(log), Refuses(says)) => {
            assert!(says.iter().all(|text| log.contains(text)) && log.lines().count() == 1, "{what}: {log}");
            return;
        }
        (Err(log), _) => panic!("{what}: it does not start:\n{log}"),
        (Ok(process), Refuses(_)) => panic!("{what}: it starts:\n{}", process.log()),
        (Ok(process), _) => process,
    };
    let check = Check { what, original, damaged: &damaged, then };
    check.retained(&process);
    check.messages(&process, "t/end");
    check.reports(&process);
    // What is left is sound, and nothing of it comes again.
    stop(&mut process);
    let before = process.log().len();
    process.restart();
    let log = process.log()[before..].to_owned();
    let mut errors = log.lines().filter(|line| line.contains("ERROR") || line.contains("was cut"));
    // That one is missing is said for as long as the journal goes over where it stood.
    assert!(errors.all(|line| line.contains(MISSING)), "{what}, started again:\n{log}");
    let empty = Original { files: Files::new(), messages: 0, places: BTreeMap::new() };
    Check { original: &empty, ..check }.messages(&process, "t/again");
}

#[test]
fn a_damaged_journal_costs_what_was_damaged_and_nothing_else() {
    let original = Original::fill(80, false);
    journal_rows().iter().for_each(|row| try_row(&original, row));
}

#[test]
fn a_damaged_index_is_never_served_and_a_segment_that_it_needs_costs_what_was_in_it() {
    let original = Original::fill(200, true);
    index_rows().iter().for_each(|row| try_row(&original, row));
}

fn make(data: &Path, files: &Files) {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(data).expect("made");
    for (name, bytes) in files {
        fs::write(data.join(name), bytes).expect("written");
    }
}
