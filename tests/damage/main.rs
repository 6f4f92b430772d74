//! The broker on a data folder that something has damaged: bytes that a disk changed, files that were cut, emptied, deleted,
//! swapped or replaced. It starts, or says which file keeps it from starting and what can be done. What it says it has
//! lost is what was damaged and nothing else; all the rest comes, in order and once; and nothing comes that nobody sent.
#![allow(missing_docs)]

#[path = "../common"]
mod common {
    pub mod client;
    pub mod process;
    pub mod world;
}

mod folder;
mod table;

use std::collections::BTreeSet;

use common::client::*;
use common::process::Process;
use folder::*;
use table::Then::*;
use table::*;
use weirmq::protocol::packet::*;

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
        assert!(publish.topic == "t/x" && publish.payload == queued(number), "{}", process.log());
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
            Sound | Cuts | Refuses(_) => false,
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
        let wrong: Vec<usize> = missing.filter(|number| !self.may_be_lost(&queued(*number))).collect();
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
            Sound | Cuts | Refuses(_) => &[],
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
                assert!(!log.contains("ERROR"), "{}:\n{log}", self.what);
                assert_eq!(log.contains(CUT), matches!(self.then, Cuts), "{}:\n{log}", self.what);
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
        folder.make(&original.files);
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
    let mut errors = log.lines().filter(|line| line.contains("ERROR") || line.contains(CUT));
    // That one is missing is said for as long as the journal goes over where it stood.
    assert!(errors.all(|line| line.contains(MISSING)), "{what}, started again:\n{log}");
    Check { original: &Original::empty(), ..check }.messages(&process, "t/again");
}

fn try_all(original: &Original, rows: &[Row]) {
    rows.iter().for_each(|row| try_row(original, row));
}

#[test]
fn a_damaged_journal_costs_what_was_damaged_and_nothing_else() {
    try_all(&Original::fill(80, End::Stop), JOURNAL);
}

#[test]
fn what_a_killed_broker_wrote_last_is_cut_where_it_is_not_sound() {
    try_all(&Original::fill(80, End::Kill), KILLED);
}

#[test]
fn a_damaged_index_is_never_served_and_a_segment_that_it_needs_costs_what_was_in_it() {
    try_all(&Original::fill(200, End::Indexed), INDEXED);
}
