//! The store on its own threads and a real folder.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use weirmq::clock::Clock;
use weirmq::limits::QueueRule;
use weirmq::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use weirmq::meter::QueueMeter;
use weirmq::protocol::packet::QoS;
use weirmq::store::fifo::{JournalStore, Waker};
use weirmq::store::folder::Folder;
use weirmq::store::open::{StoreOptions, Sync};
use weirmq::store::thread::{Opened, open};
use weirmq::store::{Page, PageRequest, Record, Store, Ticket};
use weirmq::target::{Identifiers, Target};

const SHARDS: u64 = 2;
const MESSAGES: u64 = 3000;

fn start(path: &std::path::Path, sync: Sync) -> (Opened, Vec<Receiver<()>>) {
    let folder = Folder::open(path).expect("an empty folder opens");
    // Little budget: segments are retired and recycled while it goes on.
    let options = StoreOptions {
        sync,
        segment_size: 128 * 1024,
        journal_budget: 512 * 1024,
        reserve: Some(0),
        ..StoreOptions::new(1)
    };
    let (wakers, woken): (Vec<Waker>, Vec<_>) = (0..SHARDS)
        .map(|_| {
            let (wake, woken) = channel();
            (Arc::new(move || _ = wake.send(())) as Waker, woken)
        })
        .unzip();
    let clock = Clock::new(Instant::now(), 1_800_000_000_000);
    let opened = open(Arc::new(folder), &options, clock, Instant::now, wakers, |error| panic!("{error}"));
    (opened.expect("it opens"), woken)
}

fn queue(shard: u64) -> QueueId {
    QueueId((shard + 1) << 48 | 1)
}

fn wait_for<T>(woken: &Receiver<()>, mut ready: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = ready() {
            return value;
        }
        woken.recv_timeout(Duration::from_secs(60)).expect("the store goes on");
    }
}

/// Publishes to the queue of each shard, and waits until all of it is durable.
fn publish(shard: u64, store: &mut JournalStore, woken: &Receiver<()>) {
    let client_id = format!("c{shard}");
    let queue = queue(shard);
    store.push(Record::Session {
        queue,
        client_id: &client_id,
        user: None,
        expiry: 60,
        detached: None,
        will: None,
    });
    store.flush();
    let meter = Arc::new(QueueMeter::new(&QueueRule::default()));
    let (qos, identifiers) = (QoS::AtLeastOnce, Identifiers::default());
    let (home, retain_as_published, since) = (PeerId(0), false, 0);
    let targets = [Target { queue, home, qos, retain_as_published, identifiers, since, meter }];
    let mut ticket = Ticket(0);
    for number in 1..=MESSAGES {
        let message = Arc::new(Message::new(MessageParts {
            id: MessageId((shard + 1) << 48 | number),
            publisher: None,
            qos,
            retain: false,
            expires: None,
            version: 0,
            topic: "t",
            properties: b"",
            payload: &[shard as u8; 200],
        }));
        let queues = &targets[..];
        ticket = store.push(Record::Message {
            message: &message,
            queues,
            groups: &[],
            received: None,
            will_of: None,
        });
        if number % 50 == 0 {
            store.flush();
        }
    }
    store.flush();
    wait_for(woken, || (store.durable() >= ticket).then_some(()));
}

/// Takes all that waits, page by page.
fn drain(shard: u64, store: &mut JournalStore, woken: &Receiver<()>) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let queue = queue(shard);
        store.request(PageRequest { queue, serial: 1, after, max_bytes: 20_000 });
        store.flush();
        let page: Page = wait_for(woken, || store.next_page());
        for entry in &page.entries {
            found.push(entry.message.id.0 & 0xFFFF_FFFF);
            store.push(Record::Acked(queue, entry.message.id));
        }
        after = Some(page.after);
        if page.last {
            store.flush();
            return found;
        }
    }
}

fn each_shard<T: Send>(
    handles: &mut [JournalStore],
    woken: Vec<Receiver<()>>,
    work: impl Fn(u64, &mut JournalStore, &Receiver<()>) -> T + Copy + Send,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SHARDS)
            .zip(handles)
            .zip(woken)
            .map(|((shard, store), woken)| scope.spawn(move || work(shard, store, &woken)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("nothing panics")).collect()
    })
}

fn round_trip(sync: Sync) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("data");
    let (mut opened, woken) = start(&path, sync);
    each_shard(&mut opened.handles, woken, publish);
    opened.running.stop().expect("nothing failed");

    let (mut opened, woken) = start(&path, sync);
    let waiting: Vec<u64> = opened.restored.sessions.iter().map(|session| session.waiting.messages).collect();
    assert_eq!(waiting, [MESSAGES; SHARDS as usize]);
    let found = each_shard(&mut opened.handles, woken, drain);
    for found in found {
        assert!(found.into_iter().eq(1..=MESSAGES));
    }
    opened.running.stop().expect("nothing failed");

    let (opened, _woken) = start(&path, sync);
    assert!(opened.restored.sessions.iter().all(|session| session.waiting.messages == 0));
}

#[test]
fn what_several_shards_push_is_there_after_a_restart() {
    round_trip(Sync::Always);
}

#[test]
fn without_syncing_it_outlives_the_process() {
    round_trip(Sync::Os);
}
