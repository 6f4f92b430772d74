//! A broker that dies at random moments, and everybody around it: publishers, subscribers of every habit, workers of
//! share groups of which one never returns, retained topics, and clients whose subscriptions change all the time. One
//! thread serves all of them, so that what was seen and acknowledged has one order.

use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::{Events, Poll, Token};
use weirmq::protocol::packet::{QoS, Version};

use crate::book::{Book, Report};
use crate::client::{Client, Habit, Role, Session, Surroundings};
use crate::common::process::Process;
use crate::probe::Probe;
use crate::publisher::Publisher;
use crate::shifter::Shifter;
use crate::subscriber::Subscriber;

/// How long the clients sleep when nothing comes.
const TICK: Duration = Duration::from_millis(2);

/// How often those who wait look whether it has come.
const LOOK: Duration = Duration::from_millis(20);

/// Who change their subscriptions.
const SHIFTERS: [(&str, Version); 2] = [("shifter-4", Version::V4), ("shifter-5", Version::V5)];

/// Unacknowledged QoS 2 messages that a worker which never returns can have: the broker's default for one client.
const INFLIGHT: usize = 32;

/// How a run goes.
pub struct Plan {
    pub crashes: usize,
    /// How long something that must happen is waited for while nothing else happens.
    pub patience: Duration,
    /// It ends with the first crash after which something is seen to be gone.
    pub until_loss: bool,
}

pub struct Scene<'a> {
    broker: Process,
    plan: &'a Plan,
    /// How the broker comes to its end: afterwards it is dead, if it is to die, and its disk as that leaves it.
    strike: &'a mut dyn FnMut(&mut Process),
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    book: Book,
    rng: Rng,
    /// Clients that there have ever been.
    entered: usize,
    restarts: Vec<Duration>,
}

impl<'a> Scene<'a> {
    /// Lets the broker die as often as the plan says; what came of it.
    pub fn run(broker: Process, plan: &'a Plan, strike: &'a mut dyn FnMut(&mut Process)) -> Report {
        let mut book = Book::default();
        book.stopped = true;
        let mut scene = Scene {
            broker,
            plan,
            strike,
            poll: Poll::new().expect("an event queue"),
            events: Events::with_capacity(256),
            clients: Vec::new(),
            book,
            rng: Rng::new(),
            entered: 0,
            restarts: Vec::new(),
        };
        scene.populate();
        let began = scene.wait(|scene| scene.is_settled());
        assert!(began, "the clients did not get their sessions and subscriptions:\n{}", scene.broker.log());
        scene.book.stopped = false;
        for crash in 0..plan.crashes {
            scene.load(crash);
            scene.crash();
            scene.probe();
            if plan.until_loss && !scene.book.report.faults.is_empty() {
                break;
            }
        }
        scene.finish();
        scene.restarts.sort_unstable();
        println!("{}; the slowest restart took {:?}", scene.book.report, scene.restarts.last());
        if !(plan.until_loss || scene.book.report.faults.is_empty()) {
            eprintln!("the broker's log:\n{}", scene.broker.log());
        }
        scene.book.report
    }

    fn populate(&mut self) {
        let (v4, v5) = (Version::V4, Version::V5);
        let (q1, q2) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
        let publishers = [
            ("load-41", v4, q1, false),
            ("load-51", v5, q1, false),
            ("load-42", v4, q2, false),
            ("load-52", v5, q2, false),
            ("state-41", v4, q1, true),
            ("state-52", v5, q2, true),
        ];
        for (name, version, qos, retained) in publishers {
            let index = self.book.publisher(retained, qos == q2);
            self.enter(name, version, Session::Kept, Box::new(Publisher::new(index, qos)));
        }
        let subscribers = [
            ("online-51", v5, q1),
            ("online-42", v4, q2),
            ("flapping-41", v4, q1),
            ("flapping-52", v5, q2),
            ("offline-41", v4, q1),
            ("offline-52", v5, q2),
            ("away-51", v5, q1),
            ("away-42", v4, q2),
        ];
        for (name, version, qos) in subscribers {
            let taker = self.book.taker(name, false);
            self.enter(name, version, Session::Kept, Box::new(Subscriber::new(taker, "load/#", qos)));
        }
        for (group, filter, qos) in
            [("exactly", "$share/exactly/load/#", q2), ("least", "$share/least/load/#", q1)]
        {
            let taker = self.book.taker(group, true);
            for (worker, version) in [("a", v4), ("b", v5), ("lost", v5)] {
                let role = Subscriber::new(taker, filter, qos);
                let role = if worker == "lost" { role.that_gets_lost() } else { role };
                self.enter(&format!("worker-{group}-{worker}"), version, Session::Kept, Box::new(role));
            }
        }
        for (name, qos) in [("anew-1", q1), ("anew-2", q2)] {
            let taker = self.book.taker(name, true);
            let role = Subscriber::new(taker, "load/#", qos).that_begins_anew();
            self.enter(name, v5, Session::Anew, Box::new(role));
        }
        for (name, version) in SHIFTERS {
            self.enter(name, version, Session::Kept, Box::new(Shifter::new(name)));
        }
    }

    fn enter(&mut self, name: &str, version: Version, session: Session, role: Box<dyn Role>) {
        self.entered += 1;
        self.clients.push(Client::new(name, version, session, role, Token(self.entered)));
    }

    /// How everybody behaves until the next crash, and how fast.
    fn change_habits(&mut self, crash: usize) {
        self.book.rate = [100.0, 300.0, 1500.0][self.rng.usize(0..3)];
        let lost = crash > self.lost_at();
        for client in &mut self.clients {
            let what = client.name.split('-').next().unwrap_or_default();
            client.habit = match what {
                _ if client.name.ends_with("lost") => match lost {
                    true => Habit::Absent,
                    false => Habit::Steady,
                },
                "online" => Habit::Steady,
                "flapping" => Habit::Flapping,
                // Seldom there, so that much waits for it.
                "offline" if crash % 5 == 3 => Habit::Flapping,
                "away" | "offline" => Habit::Absent,
                _ if self.rng.bool() => Habit::Steady,
                _ => Habit::Flapping,
            };
        }
    }

    /// The crash before which a worker of each group is there for the last time.
    fn lost_at(&self) -> usize {
        self.plan.crashes / 3
    }

    fn load(&mut self, crash: usize) {
        self.change_habits(crash);
        // What it has then, it has taken and will not acknowledge.
        self.book.losing = crash == self.lost_at();
        let moment = Duration::from_millis(self.rng.u64(50..1000));
        self.go_on_for(moment / 2);
        if crash == 0 {
            // However seldom the publishers are there, each has something to lose.
            let began = self.wait(|scene| scene.book.all_acknowledged_something());
            assert!(began, "a publisher does not get on:\n{}", self.broker.log());
        }
        if crash == self.lost_at() {
            self.set_habit("lost", Habit::Absent);
        }
        self.go_on_for(moment / 2);
    }

    fn set_habit(&mut self, end: &str, habit: Habit) {
        for client in self.clients.iter_mut().filter(|client| client.name.ends_with(end)) {
            client.habit = habit;
        }
    }

    /// The broker dies, now and then once more before it is up, and comes back with another number of shards.
    fn crash(&mut self) {
        (self.strike)(&mut self.broker);
        if self.broker.is_running() {
            return;
        }
        self.book.report.crashes += 1;
        self.broker.environment = vec![("WEIRMQ__SHARDS".to_owned(), self.rng.u8(1..4).to_string())];
        if self.rng.u8(0..4) == 0 {
            let moment = Duration::from_millis(self.rng.u64(0..80));
            self.broker.start_and_kill(moment);
        }
        self.restarts.push(self.broker.restart());
    }

    /// Somebody new asks for the retained messages.
    fn probe(&mut self) {
        self.book.probed = false;
        self.enter(
            &format!("probe-{}", self.entered),
            Version::V5,
            Session::Brief,
            Box::new(Probe::default()),
        );
        if !self.wait(|scene| scene.book.probed) {
            self.book.report.retained_wrong += 1;
            self.book.fault("retained messages are missing".to_owned());
        }
        self.clients.pop();
    }

    /// Everybody comes back and takes what is theirs.
    fn finish(&mut self) {
        self.book.stopped = true;
        self.set_habit("", Habit::Steady);
        self.set_habit("lost", Habit::Absent);
        self.expect("every message is acknowledged", |scene| scene.book.is_acknowledged());
        self.expect("everybody has what is theirs", |scene| {
            (0..scene.book.taken.len()).all(|taker| {
                let most = if scene.book.taken[taker].name == "exactly" { INFLIGHT } else { 0 };
                scene.book.missing(taker).nth(most).is_none()
            })
        });
        // What a worker had already been sent at QoS 2 is its own, however long it takes to return [MQTT-4.8.2-5].
        self.book.losing = false;
        self.set_habit("lost", Habit::Steady);
        self.expect("the lost worker has what is its own", |scene| scene.book.is_complete());
        self.crash();
        self.expect("everybody is back", |scene| scene.clients.iter().all(Client::is_connected));
        self.book.comparing = true;
        self.expect("subscriptions are compared", |scene| scene.book.compared == SHIFTERS.len());
        self.probe();
        // For what comes though it must not.
        self.go_on_for(Duration::from_millis(300));
        self.book.close();
    }

    fn is_settled(&self) -> bool {
        self.clients.iter().all(Client::is_connected) && self.book.all_subscribed()
    }

    fn expect(&mut self, what: &str, done: impl Fn(&Scene<'_>) -> bool) {
        if !self.wait(done) {
            self.book.fault(format!("it does not come to pass that {what}"));
        }
    }

    /// Goes on until `done`, or until nothing has happened for as long as patience lasts.
    fn wait(&mut self, done: impl Fn(&Scene<'_>) -> bool) -> bool {
        let (mut progress, mut since) = (self.book.progress(), Instant::now());
        while since.elapsed() < self.plan.patience {
            self.go_on_for(LOOK);
            if done(self) {
                return true;
            }
            if self.book.progress() != progress {
                (progress, since) = (self.book.progress(), Instant::now());
            }
        }
        false
    }

    fn go_on_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            // An interrupted wait is as good as one that has ended.
            let _interrupted = self.poll.poll(&mut self.events, Some(TICK));
            let mut around = Surroundings {
                address: self.broker.addresses[0],
                now: Instant::now(),
                registry: self.poll.registry(),
                book: &mut self.book,
                rng: &mut self.rng,
            };
            for client in &mut self.clients {
                client.serve(&mut around);
            }
        }
    }
}
