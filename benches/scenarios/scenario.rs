//! The scenarios: who publishes what to whom. What each is meant to show is told in `benches/README.md`.

/// A scenario by its name.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub summary: &'static str,
    pub kind: Kind,
    pub qos: u8,
    /// Bytes of each message.
    pub payload: usize,
    /// Over TLS 1.3.
    pub tls: bool,
}

/// What a broker is set up for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// It speaks TLS 1.3.
    pub tls: bool,
    /// It keeps sessions and their messages, each broker as it does by default where it does at all.
    pub keeps: bool,
    /// Messages of over a mebibyte pass.
    pub large: bool,
    /// How many threads share the work, for a broker that can be told.
    pub shards: Option<usize>,
}

impl Scenario {
    pub fn setup(&self) -> Setup {
        let keeps = matches!(self.kind, Kind::Backlog(_));
        Setup { tls: self.tls, keeps, ..Setup::default() }
    }
}

/// What is measured.
#[derive(Debug)]
pub enum Kind {
    /// As much as goes through.
    Load(Load),
    /// How long paced messages take.
    Latency,
    /// What many connections cost that do nothing.
    Idle { connections: usize },
    /// A backlog for an offline session: taken in, kept, given out.
    Backlog(Backlog),
    /// What it is like to serve so many clients, each of which publishes once a second.
    Crowd { clients: usize },
}

/// So many messages for one persistent session that is not there.
#[derive(Debug)]
pub struct Backlog {
    pub publishers: usize,
    /// Of all publishers together.
    pub messages: u64,
    /// Unacknowledged at a time, of all publishers together.
    pub window: u64,
    /// The broker is killed before the session comes back.
    pub kill: bool,
}

/// As many messages as the broker delivers, with so many outstanding.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub layout: Layout,
    /// How many publishes of one publisher may not have reached all their takers yet.
    pub window: u64,
}

/// Who subscribes to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One publisher and one topic; everybody subscribes to it.
    Fan { subscribers: usize },
    /// Each publisher has a topic and a subscriber of its own.
    Pairs { pairs: usize },
    /// [`WILD_DEVICES`] devices; for each four filters with wildcards, of which three match a topic of it.
    Wild,
    /// Each publisher has a topic of its own; one subscriber takes them all.
    Backlog { publishers: usize },
    /// Each client publishes to a topic of its own and subscribes to that of another.
    Ring { clients: usize },
}

pub const WILD_DEVICES: usize = 25_000;
const WILD_CLIENTS: usize = 1_000;
const WILD_PUBLISHERS: usize = 10;
/// How many filters match each topic of [`Layout::Wild`].
const WILD_TAKERS: usize = 3;

const ALL: &[Scenario] = &[
    load("fan0", "1 → 1,000, 64 B, QoS 0, 64 outstanding", 0, 64, FAN, 64),
    load("fan1", "1 → 1,000, 64 B, QoS 1, 64 outstanding", 1, 64, FAN, 64),
    load("fan0w1", "1 → 1,000, 64 B, QoS 0, 1 outstanding: no batch can form", 0, 64, FAN, 1),
    load("pair0", "50 → 50 in pairs, 256 B, QoS 0, 64 outstanding each", 0, 256, PAIRS, 64),
    load("pair1", "50 → 50 in pairs, 256 B, QoS 1, 64 outstanding each", 1, 256, PAIRS, 64),
    load("wild0", "100,000 wildcard filters of 1,000 clients, random topics, 3 takers each", 0, 64, WILD, 64),
    Scenario {
        name: "lat0",
        summary: "1 → 10, 1,000 messages/s, 64 B, QoS 0: latency",
        kind: Kind::Latency,
        qos: 0,
        payload: 64,
        tls: false,
    },
    Scenario {
        name: "idle10k",
        summary: "10,000 connections with a subscription each that do nothing",
        kind: Kind::Idle { connections: 10_000 },
        qos: 0,
        payload: 0,
        tls: false,
    },
    Scenario {
        name: "idletls",
        summary: "5,000 of them over TLS 1.3",
        kind: Kind::Idle { connections: 5_000 },
        qos: 0,
        payload: 0,
        tls: true,
    },
    Scenario {
        name: "tlsfan",
        summary: "1 → 100 over TLS 1.3, 64 B, QoS 0, 64 outstanding",
        kind: Kind::Load(Load { layout: Layout::Fan { subscribers: 100 }, window: 64 }),
        qos: 0,
        payload: 64,
        tls: true,
    },
    backlog("durable", "200,000 × 256 B, QoS 1, to an offline session; SIGKILL; drain", 1, 200_000, true),
    backlog("durable8", "2,000,000 × 256 B, QoS 1, of 8 publishers; SIGKILL; drain", 8, 2_000_000, true),
    backlog("backlog", "200,000 × 256 B, QoS 1, to an offline session that comes back", 1, 200_000, false),
];

const fn backlog(
    name: &'static str,
    summary: &'static str,
    publishers: usize,
    messages: u64,
    kill: bool,
) -> Scenario {
    let kind = Kind::Backlog(Backlog { publishers, messages, window: 1_000, kill });
    Scenario { name, summary, kind, qos: 1, payload: 256, tls: false }
}

const FAN: Layout = Layout::Fan { subscribers: 1_000 };
const PAIRS: Layout = Layout::Pairs { pairs: 50 };
const WILD: Layout = Layout::Wild;

const fn load(
    name: &'static str,
    summary: &'static str,
    qos: u8,
    payload: usize,
    layout: Layout,
    window: u64,
) -> Scenario {
    Scenario { name, summary, kind: Kind::Load(Load { layout, window }), qos, payload, tls: false }
}

/// So many clients at once; not among the others since it takes minutes.
pub const fn crowd(clients: usize) -> Scenario {
    Scenario {
        name: "crowd",
        summary: "each client publishes 64 B once a second to one other, QoS 0",
        kind: Kind::Crowd { clients },
        qos: 0,
        payload: 64,
        tls: false,
    }
}

/// The scenarios of these names, in the order of the table; all of them without names.
///
/// # Errors
/// If there is none of a name.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    let known = |name: &String| ALL.iter().any(|scenario| scenario.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        return Err(format!("no scenario is called {unknown}; there are {}", all.join(", ")));
    }
    let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    Ok(ALL.iter().filter(wanted).collect())
}

impl Layout {
    /// The filters of each subscriber.
    pub fn subscribers(self) -> Vec<Vec<String>> {
        match self {
            Layout::Fan { subscribers } => vec![vec![self.topic(0)]; subscribers],
            Layout::Pairs { pairs } => (0..pairs).map(|pair| vec![self.topic(pair)]).collect(),
            Layout::Wild => {
                let mut filters = vec![Vec::new(); WILD_CLIENTS];
                for device in 0..WILD_DEVICES {
                    for shape in 0..4 {
                        filters[wild_client(device, shape)].push(wild_filter(device, shape));
                    }
                }
                filters
            }
            Layout::Backlog { .. } => vec![vec!["backlog/#".to_owned()]],
            Layout::Ring { clients } => {
                (0..clients).map(|i| vec![self.topic((i + clients - 1) % clients)]).collect()
            }
        }
    }

    pub fn publishers(self) -> usize {
        match self {
            Layout::Fan { .. } => 1,
            Layout::Pairs { pairs } => pairs,
            Layout::Wild => WILD_PUBLISHERS,
            Layout::Backlog { publishers } => publishers,
            Layout::Ring { clients } => clients,
        }
    }

    pub fn topics(self) -> usize {
        match self {
            Layout::Fan { .. } => 1,
            Layout::Pairs { pairs } => pairs,
            Layout::Wild => 2 * WILD_DEVICES,
            Layout::Backlog { publishers } => publishers,
            Layout::Ring { clients } => clients,
        }
    }

    /// The name of a topic. The two of a device lie side by side.
    pub fn topic(self, topic: usize) -> String {
        match self {
            Layout::Fan { .. } => "fan/prices".to_owned(),
            Layout::Pairs { .. } => format!("pairs/{topic:02}/orders"),
            Layout::Wild => {
                let (site, unit) = wild_place(topic / 2);
                format!("site/{site}/dev/{unit}/{}", ["temp", "hum"][topic % 2])
            }
            Layout::Backlog { .. } => format!("backlog/{topic}"),
            Layout::Ring { .. } => format!("crowd/{topic:05}/state"),
        }
    }

    /// Who publishes to a topic; each has as many.
    pub fn publisher(self, topic: usize) -> usize {
        match self {
            Layout::Fan { .. } => 0,
            Layout::Pairs { .. } | Layout::Backlog { .. } | Layout::Ring { .. } => topic,
            Layout::Wild => (topic / 2) % WILD_PUBLISHERS,
        }
    }

    /// What a publisher publishes to next.
    pub fn next_topic(self, publisher: usize, random: &mut fastrand::Rng) -> usize {
        match self {
            Layout::Fan { .. } => 0,
            Layout::Pairs { .. } | Layout::Backlog { .. } | Layout::Ring { .. } => publisher,
            Layout::Wild => {
                let device = random.usize(..WILD_DEVICES / WILD_PUBLISHERS) * WILD_PUBLISHERS + publisher;
                2 * device + random.usize(..2)
            }
        }
    }

    /// How many copies of each message are delivered.
    pub fn takers(self) -> usize {
        match self {
            Layout::Fan { subscribers } => subscribers,
            Layout::Pairs { .. } | Layout::Backlog { .. } | Layout::Ring { .. } => 1,
            Layout::Wild => WILD_TAKERS,
        }
    }

    /// All messages of one topic to one subscriber are a flow, in which order is kept and nothing missing; `None` if the
    /// subscriber should not get messages of this topic.
    pub fn flow(self, subscriber: usize, topic: usize) -> Option<usize> {
        match self {
            Layout::Fan { .. } => (topic == 0).then_some(subscriber),
            Layout::Pairs { .. } => (topic == subscriber).then_some(subscriber),
            Layout::Backlog { .. } => Some(topic),
            Layout::Ring { clients } => ((topic + 1) % clients == subscriber).then_some(topic),
            Layout::Wild => {
                // The third shape takes only temp, the fourth only hum.
                let shapes = [0, 1, 2 + topic % 2];
                let place = shapes.iter().position(|shape| wild_client(topic / 2, *shape) == subscriber)?;
                Some(topic * WILD_TAKERS + place)
            }
        }
    }

    pub fn flows(self) -> usize {
        self.topics() * self.takers()
    }
}

fn wild_place(device: usize) -> (usize, usize) {
    (device / 100, device % 100)
}

fn wild_filter(device: usize, shape: usize) -> String {
    let (site, unit) = wild_place(device);
    match shape {
        0 => format!("site/{site}/dev/{unit}/+"),
        1 => format!("site/{site}/dev/{unit}/#"),
        2 => format!("site/{site}/+/{unit}/temp"),
        _ => format!("+/{site}/dev/{unit}/hum"),
    }
}

/// Spreads a device's filters over clients, so that each client has as many and no client two of one device.
fn wild_client(device: usize, shape: usize) -> usize {
    (device * 4 + shape) * 7919 % WILD_CLIENTS
}
