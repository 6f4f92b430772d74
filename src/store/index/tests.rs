use std::fs;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::limits::QueueRule;
use crate::message::{Message, MessageParts, PeerId};
use crate::meter::QueueMeter;
use crate::protocol::packet::{PacketId, QoS};
use crate::store::Record;
use crate::store::encode::Encoder;
use crate::store::folder::Folder;
use crate::target::{Identifiers, Target};

fn disk(dir: &TempDir) -> Arc<dyn Disk> {
    Arc::new(Folder::open(&dir.path().join("data")).unwrap())
}

/// Records of one segment, with their positions.
#[derive(Default)]
struct Script {
    segment: u32,
    records: Vec<(Position, Vec<u8>)>,
}

impl Script {
    fn new(segment: u32) -> Script {
        Script { segment, records: Vec::new() }
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
        self.push(&Record::Session { queue, client_id: "c", expiry: 60, detached: None, will: None });
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
        let (received, will_of) = (None, None);
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
