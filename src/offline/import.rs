//! `weirmq store import`: reads lines into a folder, as if clients had subscribed and published.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Failure;
use super::line::{Line, MessageLine, SubscriptionLine};
use super::pages::Opened;
use crate::clock::Clock;
use crate::limits::QueueRule;
use crate::message::{Message, MessageId, MessageParts, PeerId, QueueId};
use crate::meter::QueueMeter;
use crate::protocol::packet::{QoS, SubscribeOptions};
use crate::protocol::topic;
use crate::session::Expiry;
use crate::store::Record;
use crate::store::restored::Numbers;
use crate::target::{GroupTarget, Identifiers, Target};

/// After so many lines, they are waited for.
const AT_ONCE: usize = 10_000;

/// The prefix of the numbers that are given here: the first shard's.
const PREFIX: u16 = 1;

/// Reads `lines` into the folder; says what came in.
pub(super) fn run(
    folder: &Path,
    clock: Clock,
    now: Instant,
    lines: impl BufRead,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let opened = Opened::to_change(folder, clock, now)?;
    let mut import = Import::new(opened, now);
    for (index, line) in lines.lines().enumerate() {
        let (number, line) = (index + 1, line?);
        if line.trim().is_empty() {
            continue;
        }
        let line = serde_json::from_str(&line).map_err(|error| Failure::Line(number, error.to_string()))?;
        import.take(line).map_err(|error| Failure::Line(number, error))?;
        if number % AT_ONCE == 0 {
            import.opened.wait()?;
        }
    }
    let Import { mut opened, counts: [sessions, queued, shared, retained], .. } = import;
    opened.wait()?;
    opened.close()?;
    writeln!(out, "{sessions} sessions, {queued} queued, {shared} shared and {retained} retained messages")?;
    Ok(())
}

/// An import under way.
struct Import {
    opened: Opened,
    now: Instant,
    /// The queues of the sessions that came in.
    sessions: HashMap<String, QueueId>,
    /// The queues of the share groups, by their `$share/NAME/FILTER`.
    groups: HashMap<String, QueueId>,
    topics: std::collections::HashSet<String>,
    known: std::collections::HashSet<String>,
    numbers: Numbers,
    version: u64,
    meter: Arc<QueueMeter>,
    /// Sessions, queued, shared, retained.
    counts: [u64; 4],
}

impl Import {
    fn new(opened: Opened, now: Instant) -> Import {
        let restored = &opened.restored;
        let own = |numbers: &&Numbers| numbers.prefix == PREFIX;
        let numbers = restored.numbers.iter().find(own).copied().unwrap_or_default();
        let subscriptions = restored.sessions.iter().flat_map(|session| &session.subscriptions);
        let group = |filter: &str, queue| (filter.to_owned(), queue);
        Import {
            now,
            sessions: HashMap::new(),
            groups: subscriptions.filter_map(|held| Some(group(&held.filter, held.group?))).collect(),
            topics: restored.retained.iter().map(|message| message.topic().to_owned()).collect(),
            known: restored.sessions.iter().map(|session| session.client_id.as_ref().to_owned()).collect(),
            numbers: Numbers { prefix: PREFIX, ..numbers },
            version: restored.retained_version,
            meter: Arc::new(QueueMeter::new(&QueueRule::default())),
            counts: [0; 4],
            opened,
        }
    }

    fn take(&mut self, line: Line) -> Result<(), String> {
        let kind = match line {
            Line::Session { client_id, user, expiry, subscriptions } => {
                self.session((client_id, user.as_deref()), expiry, &subscriptions)?;
                0
            }
            Line::Queued { client_id, message } => {
                let queue = *self.sessions.get(&client_id).ok_or("the session's own line must come first")?;
                self.queued(queue, &message)?;
                1
            }
            Line::Shared { group, message } => {
                let queue = *self.groups.get(&group).ok_or("no session has subscribed to this")?;
                self.shared(queue, &group, &message)?;
                2
            }
            Line::Retained { message } => {
                self.retained(&message)?;
                3
            }
        };
        self.counts[kind] += 1;
        Ok(())
    }

    fn next_queue(&mut self) -> QueueId {
        self.numbers.queue += 1;
        QueueId(u64::from(PREFIX) << 48 | self.numbers.queue)
    }

    fn session(
        &mut self,
        (client_id, user): (String, Option<&str>),
        expiry: Option<u32>,
        subscriptions: &[SubscriptionLine],
    ) -> Result<(), String> {
        if client_id.is_empty() || self.known.contains(&client_id) || self.sessions.contains_key(&client_id) {
            return Err(format!("there is a session of {client_id:?} already"));
        }
        let expiry = expiry.unwrap_or(Expiry::NEVER.0);
        if expiry == 0 {
            return Err("a session that ends at once".to_owned());
        }
        let queue = self.next_queue();
        let detached = Some(self.now);
        let record = Record::Session { queue, client_id: &client_id, user, expiry, detached, will: None };
        self.opened.push(record);
        for held in subscriptions {
            self.subscription(queue, held)?;
        }
        self.sessions.insert(client_id, queue);
        Ok(())
    }

    fn subscription(&mut self, session: QueueId, held: &SubscriptionLine) -> Result<(), String> {
        let filter = &held.filter;
        let valid =
            topic::parse_filter(filter).is_ok() && SubscribeOptions::from_bits(held.options).is_some();
        if !valid {
            return Err(format!("{filter:?} cannot be subscribed to in this way"));
        }
        let group = filter.starts_with("$share/").then(|| match self.groups.get(filter) {
            Some(queue) => *queue,
            None => {
                let queue = self.next_queue();
                self.groups.insert(filter.clone(), queue);
                queue
            }
        });
        self.opened.push(Record::Subscribed {
            session,
            filter,
            options: held.options,
            identifier: held.identifier.unwrap_or(0),
            group,
            since: self.version,
            replay: false,
        });
        Ok(())
    }

    fn queued(&mut self, queue: QueueId, line: &MessageLine) -> Result<(), String> {
        let message = self.message(line, 0)?;
        let target = Target {
            queue,
            home: PeerId(0),
            qos: message.qos,
            retain_as_published: line.retain,
            identifiers: Identifiers::several(line.identifiers.clone()),
            since: 0,
            meter: self.meter.clone(),
        };
        self.push(&message, &[target], &[]);
        Ok(())
    }

    fn shared(&mut self, queue: QueueId, group: &str, line: &MessageLine) -> Result<(), String> {
        let message = self.message(line, 0)?;
        let target = GroupTarget {
            queue,
            home: PeerId(0),
            filter: group.into(),
            group: group.into(),
            meter: self.meter.clone(),
            durable: true,
        };
        self.push(&message, &[], &[target]);
        Ok(())
    }

    fn retained(&mut self, line: &MessageLine) -> Result<(), String> {
        if !self.topics.insert(line.topic.clone()) {
            return Err(format!("there is a retained message of {:?} already", line.topic));
        }
        self.version += 1;
        let message = self.message(line, self.version)?;
        if message.payload().is_empty() {
            return Err("a retained message without a payload, which would be none".to_owned());
        }
        self.push(&message, &[], &[]);
        Ok(())
    }

    /// The message of a line; a retained one has a version.
    fn message(&mut self, line: &MessageLine, version: u64) -> Result<Arc<Message>, String> {
        if !topic::is_valid_name(&line.topic) {
            return Err(format!("{:?} cannot be published to", line.topic));
        }
        let qos = QoS::from_bits(line.qos).ok_or_else(|| format!("there is no QoS {}", line.qos))?;
        if qos == QoS::AtMostOnce && version == 0 {
            return Err("a message of QoS 0 waits in no queue".to_owned());
        }
        self.numbers.message += 1;
        let expires = line.expires_in.map(|seconds| self.now + Duration::from_secs(seconds.into()));
        Ok(Arc::new(Message::new(MessageParts {
            id: MessageId(u64::from(PREFIX) << 48 | self.numbers.message),
            publisher: None,
            qos,
            retain: line.retain || version != 0,
            expires,
            version,
            topic: &line.topic,
            properties: &line.properties.encode()?,
            payload: &line.payload_bytes()?,
        })))
    }

    fn push(&mut self, message: &Arc<Message>, queues: &[Target], groups: &[GroupTarget]) {
        self.opened.push(Record::Message { message, queues, groups, received: None, will_of: None });
    }
}
