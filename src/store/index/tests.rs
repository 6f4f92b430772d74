//! The index, one property at a time; `tests/store_index.rs` holds it against a model.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::limits::QueueRule;
use crate::message::{Message, MessageParts, PeerId};
use crate::meter::QueueMeter;
use crate::protocol::packet::{LastWill, PacketId, QoS};
use crate::protocol::properties::Properties;
use crate::store::Record;
use crate::store::encode::Encoder;
use crate::store::folder::Folder;
use crate::target::{Identifiers, Target};
use crate::will::Will;

fn disk(dir: &TempDir) -> Arc<dyn Disk> {
    Arc::new(Folder::open(&dir.path().join("data")).unwrap())
}

/// Records of one segment, with their positions.
#[derive(Default)]
struct Script {
    segment: u32,
    records: Vec<(Position, Vec<u8>)>,
    /// Whose will the messages are.
    will_of: Option<QueueId>,
}

impl Script {
    fn new(segment: u32) -> Script {
        Script { segment, ..Script::default() }
    }

    fn push(&mut self, record: &Record<'_>) -> Position {
        let mut bytes = Vec::new();
        let position = Position::new(self.segment, 4096 + 512 * self.records.len() as u32);
        assert!(Encoder::new(Clock::new(Instant::now(), 1 << 40)).encode(record, &mut bytes));
        self.records.push((position, bytes));
        position
    }

    fn session(&mut self, queue: u64) {
        let queue = QueueId(queue);
        self.push(&Record::Session {
            queue,
            client_id: "c",
            user: None,
            expiry: 60,
            detached: None,
            will: None,
        });
    }

    fn message(&mut self, id: u64, queues: &[u64]) -> Position {
        self.publish(id, queues, 0, b"payload")
    }

    fn publish(&mut self, id: u64, queues: &[u64], version: u64, payload: &[u8]) -> Position {
        let message = Message::new(MessageParts {
            id: MessageId(id),
            publisher: None,
            qos: QoS::ExactlyOnce,
            retain: version > 0,
            expires: None,
            version,
            topic: "t",
            properties: b"",
            payload,
        });
        let target = |&queue| Target {
            queue: QueueId(queue),
            home: PeerId(0),
            qos: QoS::ExactlyOnce,
            retain_as_published: false,
            identifiers: Identifiers::default(),
            since: 0,
            meter: Arc::new(QueueMeter::new(&QueueRule::default())),
        };
        let queues: Vec<Target> = queues.iter().map(target).collect();
        let (received, will_of) = (None, self.will_of);
        self.push(&Record::Message {
            message: &Arc::new(message),
            queues: &queues,
            groups: &[],
            received,
            will_of,
        })
    }

    fn acked(&mut self, queue: u64, id: u64) {
        self.push(&Record::Acked(QueueId(queue), MessageId(id)));
    }

    fn apply(&self, index: &Index) -> Result<Applied, IndexError> {
        index.take_in(self.segment, |each| {
            self.records.iter().try_for_each(|(position, bytes)| each(Entry::Record(*position, bytes)))
        })
    }
}

fn ids(index: &Index, queue: u64) -> Vec<u64> {
    index.refs(QueueId(queue), None, usize::MAX).unwrap().iter().map(|reference| reference.id.0).collect()
}

fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

#[test]
fn no_file_is_made_before_a_segment_comes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let index = Index::open(&disk).unwrap();
    assert_eq!((index.replay_from().unwrap(), index.file_bytes()), (0, 0));
    assert!(index.state().unwrap().sessions.is_empty() && index.cold().unwrap().is_empty());
    index.evacuate(1, |_| panic!("nothing is there")).unwrap();
    assert!(!disk.names().unwrap().iter().any(|name| name.starts_with("index")));
}

#[test]
fn what_is_applied_is_there_after_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let mut script = Script::new(1);
    script.session(7);
    script.session(8);
    let first = script.message(1, &[7, 8]);
    let second = script.message(2, &[7]);
    script.message(3, &[9]);
    script.acked(8, 1);
    let index = Index::open(&disk).unwrap();
    assert!(script.apply(&index).unwrap().empty.is_empty());
    drop(index);
    let index = Index::open(&disk).unwrap();
    assert_eq!(index.replay_from().unwrap(), 2);
    let size = 1 + 7 + size_of::<Message>() as u32;
    let reference = |position, id, shared| Ref { position, id: MessageId(id), size, shared };
    assert_eq!(
        index.refs(QueueId(7), None, 9).unwrap(),
        [reference(first, 1, true), reference(second, 2, false)]
    );
    assert_eq!(index.refs(QueueId(7), Some(first), 9).unwrap(), [reference(second, 2, false)]);
    assert_eq!(ids(&index, 8), [0; 0]);
    assert_eq!(ids(&index, 9), [0; 0]);
    let waiting = |messages| Waiting { messages, bytes: messages * u64::from(size) };
    assert_eq!(index.totals().unwrap(), [(QueueId(7), waiting(2)), (QueueId(8), waiting(0))]);
    assert_eq!(index.cold().unwrap(), [(1, Live { refs: 2, bytes: 2 * u64::from(size) })]);
    assert!(script.apply(&index).unwrap().empty.is_empty());
    assert_eq!(ids(&index, 7), [1, 2]);
}

#[test]
fn a_segment_goes_when_its_last_reference_does() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    let mut script = Script::new(1);
    script.session(7);
    script.message(1, &[7]);
    script.message(2, &[7]);
    script.apply(&index).unwrap();
    let mut script = Script::new(2);
    script.acked(7, 1);
    let (session, packet_id, from) = (QueueId(7), packet_id(5), QueueId(7));
    script.push(&Record::Sent { session, packet_id, message: MessageId(2), from });
    assert_eq!(script.apply(&index).unwrap().empty, [2]);
    assert_eq!(ids(&index, 7), [0; 0]);
    let sent = &index.state().unwrap().sessions[0].sent;
    assert_eq!((sent[0].packet_id, sent[0].reference.unwrap().0.id), (packet_id, MessageId(2)));
    let mut script = Script::new(3);
    script.push(&Record::Stepped(QueueId(7), packet_id));
    assert_eq!(script.apply(&index).unwrap().empty, [1, 3]);
    assert_eq!(index.state().unwrap().sessions[0].sent[0].reference, None);
    let mut script = Script::new(4);
    script.push(&Record::Completed(QueueId(7), packet_id));
    assert_eq!(script.apply(&index).unwrap().empty, [4]);
    assert!(index.state().unwrap().sessions[0].sent.is_empty());
}

#[test]
fn a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    for content in [&b""[..], b"SQLite format 3\0", &[0; 10_000]] {
        fs::write(dir.path().join("data/index.redb"), content).unwrap();
        let error = Index::open(&disk).unwrap_err();
        assert!(matches!(error, OpenError::Foreign(_)), "{} bytes: {error}", content.len());
    }
}

/// As much as several slices of pages.
const MANY: u64 = 150_000;

/// A session with many messages, three segments of them.
fn backlog(index: &Index) {
    for segment in 1..=3 {
        let mut script = Script::new(segment);
        script.session(7);
        let first = u64::from(segment - 1) * MANY / 3;
        for id in first..first + MANY / 3 {
            script.message(id, &[7]);
        }
        script.apply(index).unwrap();
    }
}

#[test]
fn a_long_queue_is_acknowledged_from_the_front_and_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    backlog(&index);
    assert!(ids(&index, 7).into_iter().eq(0..MANY));
    let mut script = Script::new(4);
    (0..MANY / 2).for_each(|id| script.acked(7, id));
    script.acked(7, MANY - 1);
    script.acked(7, MANY + 1);
    script.acked(7, 5 << 48);
    assert_eq!(script.apply(&index).unwrap().empty, [1, 4]);
    assert!(ids(&index, 7).into_iter().eq(MANY / 2..MANY - 1));
    let mut script = Script::new(5);
    (MANY / 2..MANY - 1).filter(|id| id % 1000 != 0).for_each(|id| script.acked(7, id));
    assert_eq!(script.apply(&index).unwrap().empty, [5]);
    assert!(ids(&index, 7).into_iter().eq((MANY / 2..MANY - 1).filter(|id| id % 1000 == 0)));
}

#[test]
fn a_session_ends_with_all_its_messages() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    backlog(&index);
    let mut script = Script::new(4);
    script.message(MANY, &[7]);
    script.push(&Record::SessionEnded(QueueId(7)));
    script.message(MANY + 1, &[7]);
    assert_eq!(script.apply(&index).unwrap().empty, [1, 2, 3, 4]);
    assert!(index.cold().unwrap().is_empty() && index.totals().unwrap().is_empty());
    assert!(index.state().unwrap().sessions.is_empty());
}

#[test]
fn a_wide_segment_is_gathered_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    let mut script = Script::new(1);
    let queues: Vec<u64> = (1..=1000).collect();
    queues.iter().for_each(|&queue| script.session(queue));
    for id in 0..300 {
        script.message(id, &queues);
    }
    // The references of the first part are in pages when these come.
    let (session, from) = (QueueId(7), QueueId(7));
    script.push(&Record::Sent { session, packet_id: packet_id(1), message: MessageId(3), from });
    script.push(&Record::Stepped(session, packet_id(1)));
    script.acked(8, 0);
    script.acked(8, 299);
    script.apply(&index).unwrap();
    assert!(ids(&index, 7).into_iter().eq((0..300).filter(|&id| id != 3)));
    assert!(ids(&index, 8).into_iter().eq(1..299));
    assert!(ids(&index, 1000).into_iter().eq(0..300));
    let live = index.cold().unwrap()[0].1;
    let size = 1 + 7 + size_of::<Message>() as u64;
    assert_eq!(live, Live { refs: 300 * 1000 - 3, bytes: 300 * size });
    assert_eq!(index.state().unwrap().sessions[6].sent[0].reference, None);
}

#[test]
fn a_segment_is_left_with_its_last_messages_moved() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    let mut script = Script::new(1);
    script.session(7);
    script.session(8);
    let both = script.message(1, &[7, 8]);
    let one = script.message(2, &[7]);
    script.apply(&index).unwrap();
    let lost = index.evacuate(1, |position| match position {
        _ if position == both => Ok(b"both".to_vec()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    });
    assert_eq!(lost.unwrap(), [one]);
    assert!(index.cold().unwrap().is_empty());
    assert_eq!(index.body(both).unwrap().as_deref(), Some(&b"both"[..]));
    assert_eq!((index.body(one).unwrap(), ids(&index, 7)), (None, vec![1, 2]));
    for (segment, queue, left) in [(2, 7, true), (3, 8, false)] {
        let mut script = Script::new(segment);
        script.acked(queue, 1);
        assert_eq!(script.apply(&index).unwrap().empty, [segment]);
        assert_eq!(index.body(both).unwrap().is_some(), left);
    }
}

#[test]
fn only_the_highest_version_is_retained_until_it_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    let retained = || {
        let mut found = Vec::new();
        let visit = |position, _: &[u8]| -> Result<(), IndexError> {
            found.push(position);
            Ok(())
        };
        index.retained(visit).unwrap();
        found
    };
    let mut script = Script::new(1);
    script.publish(1, &[], 4, b"new");
    let newest = script.publish(2, &[], 5, b"newer");
    assert_eq!(script.apply(&index).unwrap().empty, [1]);
    assert_eq!(retained(), [newest]);
    let mut script = Script::new(2);
    script.publish(3, &[], 3, b"old");
    script.publish(4, &[], 2, b"");
    script.apply(&index).unwrap();
    assert_eq!(retained(), [newest]);
    let mut script = Script::new(3);
    script.publish(5, &[], 6, b"");
    script.apply(&index).unwrap();
    assert_eq!((retained(), index.state().unwrap().retained_version), (Vec::new(), 6));
}

#[test]
fn a_will_is_gone_once_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    let mut script = Script::new(1);
    let last = LastWill {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "t",
        payload: b"gone",
        properties: Properties::default(),
    };
    let (queue, will) = (QueueId(7), Will::new(&last));
    script.push(&Record::Session {
        queue,
        client_id: "c",
        user: None,
        expiry: 60,
        detached: None,
        will: Some(&will),
    });
    script.apply(&index).unwrap();
    assert!(index.state().unwrap().sessions[0].has_will);
    let mut script = Script::new(2);
    script.will_of = Some(queue);
    script.message(1, &[]);
    script.apply(&index).unwrap();
    assert!(!index.state().unwrap().sessions[0].has_will);
}

#[test]
fn a_file_that_is_mostly_free_is_made_small() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let index = Index::open(&disk).unwrap();
    let mut script = Script::new(1);
    script.session(7);
    let kept = script.message(0, &[7]);
    let large: Vec<Position> = (1..=400).map(|id| script.message(id, &[7])).collect();
    script.apply(&index).unwrap();
    index.evacuate(1, |_| Ok(vec![1; 100_000])).unwrap();
    let full = index.file_bytes();
    assert!(full > 40_000_000);
    assert_eq!(index.compact_if_idle().unwrap(), 0);
    let mut script = Script::new(2);
    (1..=400).for_each(|id| script.acked(7, id));
    script.apply(&index).unwrap();
    // Their pages are free as of the next transaction.
    let won = index.compact_if_idle().unwrap();
    assert!(won > full / 2 && index.file_bytes() < full / 4, "{won} of {full}");
    assert_eq!(index.compact_if_idle().unwrap(), 0);
    let copy = tempfile::tempdir().unwrap();
    let copied = self::disk(&copy);
    fs::copy(dir.path().join("data/index.redb"), copy.path().join("data/index.redb")).unwrap();
    let killed = Index::open(&copied).unwrap();
    assert!(!killed.was_repaired());
    for index in [index, killed] {
        assert_eq!(index.body(kept).unwrap().map(|body| body.len()), Some(100_000));
        assert_eq!((index.body(large[0]).unwrap(), ids(&index, 7)), (None, vec![0]));
    }
}

#[test]
fn readers_see_whole_segments_while_others_are_applied_and_the_file_made_small() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&disk(&dir)).unwrap();
    let mut script = Script::new(0);
    script.session(7);
    script.apply(&index).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let now = ids(&index, 7).len();
                assert!(now.is_multiple_of(1000) && now >= last, "{now} after {last}");
                last = now;
            }
        });
        for segment in 1..=20 {
            let mut script = Script::new(segment);
            for id in 0..1000 {
                script.message(u64::from(segment) * 1000 + id, &[7]);
            }
            script.apply(&index).unwrap();
            index.slot.force_compact().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(ids(&index, 7).len(), 20_000);
}

/// All that an index holds.
fn contents(index: &Index) -> Result<String, IndexError> {
    let mut retained = Vec::new();
    index.retained(|position, record| {
        retained.push((position, record.to_vec()));
        Ok::<_, IndexError>(())
    })?;
    let refs = index.refs(QueueId(1), None, usize::MAX)?;
    let body = index.body(Position::new(1, 4096 + 512))?;
    Ok(format!(
        "{:?}",
        (index.replay_from()?, index.cold()?, index.state()?, index.totals()?, refs, body, retained)
    ))
}

#[test]
fn a_byte_that_is_wrong_is_refused_or_of_no_consequence() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let index = Index::open(&disk).unwrap();
    for segment in 1..=2 {
        let mut script = Script::new(segment);
        script.session(1);
        for id in 0..40 {
            script.message(u64::from(segment) * 100 + id, &[1]);
        }
        script.publish(u64::from(segment) * 1000, &[1], u64::from(segment), b"retained");
        script.apply(&index).unwrap();
    }
    index.evacuate(1, |_| Ok(vec![7; 300])).unwrap();
    let expected = contents(&index).unwrap();
    drop(index);
    let path = dir.path().join("data/index.redb");
    let sound = fs::read(&path).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    // Most of the file is room to grow; all that counts is where there is something.
    let filled: Vec<usize> = (0..sound.len()).filter(|at| *at < 320 || sound[*at] != 0).collect();
    let (mut refused, mut tried) = (0, 0);
    let mut seen = 0;
    while seen < filled.len() {
        let at = filled[seen];
        seen += if at < 320 { 1 } else { rng.usize(1..800) };
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << rng.u8(..8);
        fs::write(&path, &bytes).unwrap();
        tried += 1;
        match Index::open(&disk) {
            Ok(index) => assert_eq!(contents(&index).unwrap(), expected, "byte {at}"),
            Err(OpenError::Damaged(..) | OpenError::Foreign(_)) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 60, "{refused} of {tried}");
    fs::write(&path, &sound).unwrap();
    assert_eq!(contents(&Index::open(&disk).unwrap()).unwrap(), expected);
}
