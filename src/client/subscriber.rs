//! `weirmq sub`: subscribes, hands messages to the handler, acknowledges what is handled, and connects again
//! when the connection is lost.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::arguments::SubArgs;
use super::failure::Failure;
use super::format::Format;
use super::handler::{Handled, Handler, Job, Undone};
use super::inbox::{Inbox, Owed};
use super::interrupts::{Interrupt, Interrupts};
use super::link::{Link, at};
use super::options::{ConnectionOptions, short_enough, well_formed};
use super::say;
use super::wire::{Incoming, Received, Refusal};
use crate::protocol::packet::{
    Ack, Packet, PacketId, PacketType, QoS, Subscribe, SubscribeFilters, SubscribeOptions, Version,
};
use crate::protocol::properties::{Properties, Property};
use crate::protocol::reason::ReasonCode;

/// The first wait before another attempt to connect, or to run a command; it doubles up to the longest.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// There is one SUBSCRIBE a connection.
const SUBSCRIBE_ID: PacketId = PacketId::MIN;

/// Subscribes as `args` say, until it is told to end.
///
/// # Errors
/// See the exit codes.
pub(super) async fn subscribe(args: SubArgs) -> Result<(), Failure> {
    let mut options = ConnectionOptions::new(&args.connection, "sub")?;
    if args.exec.is_some() {
        one_at_a_time(&mut options);
    }
    let mut interrupts = Interrupts::new(args.timeout.map(Duration::from_secs))?;
    let mut subscriber = Subscriber::new(args)?;
    let mut filters = Vec::new();
    let subscribe = subscriber.packet(&options, &mut filters)?;
    well_formed(options.version, &subscribe)?;
    let mut link = tokio::select! {
        link = Link::open(&options, false) => link?,
        interrupt = interrupts.next() => return interrupt.outcome(),
    };
    link.send(&subscribe)?;
    loop {
        match subscriber.converse(&mut link, &mut interrupts).await {
            Ok(outcome) => {
                // Whatever the broker has to say now changes nothing.
                let _ = link.close(&options).await;
                return outcome;
            }
            Err(failure) if failure.transient => say("sub", format_args!("{failure}; connecting again")),
            Err(failure) => return Err(failure),
        }
        drop(link);
        link = match subscriber.reconnect(&options, &mut interrupts).await? {
            Some(link) => link,
            None => return subscriber.outcome(),
        };
        if !(link.accepted.session_present && subscriber.subscribed) {
            link.send(&subscribe)?;
        }
    }
}

/// A command is run for one message at a time, so no more are asked for: where several share a subscription,
/// another may be quicker with the next.
fn one_at_a_time(options: &mut ConnectionOptions) {
    let connect = &mut options.properties.connect;
    let given =
        connect.as_properties().iter().any(|property| matches!(property, Property::ReceiveMaximum(_)));
    if options.version == Version::V5 && !given {
        connect.push(Property::ReceiveMaximum(1));
    }
}

struct Subscriber {
    filters: Vec<String>,
    qos: QoS,
    no_retained: bool,
    handler: Handler,
    inbox: Inbox,
    task: Task,
    /// SUBACK has come: a session that the server keeps has the subscriptions.
    subscribed: bool,
    /// How many messages are still to be taken for `-C`.
    left: Option<u64>,
    /// Why no more is taken.
    ending: Option<Interrupt>,
}

/// What the handler is doing.
enum Task {
    Idle,
    Running(Pin<Box<dyn Future<Output = Handled>>>),
    /// A job that failed, until it is tried again.
    Waiting(Job, Instant),
}

impl Subscriber {
    fn new(args: SubArgs) -> Result<Subscriber, Failure> {
        let newline = !args.no_newline;
        let default_qos = if args.exec.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let handler = match (args.exec, args.format) {
            (Some(command), _) => Handler::Exec(command),
            (None, Some(format)) => Handler::Print(Format::parse(&format, newline).map_err(Failure::usage)?),
            (None, None) => Handler::Print(Format::plain(args.verbose, newline)),
        };
        Ok(Subscriber {
            filters: args.topic,
            qos: args.qos.unwrap_or(default_qos),
            no_retained: args.no_retained,
            handler,
            inbox: Inbox::default(),
            task: Task::Idle,
            subscribed: false,
            left: args.count,
            ending: None,
        })
    }

    /// SUBSCRIBE, its filters written to `buffer`.
    fn packet<'a>(
        &self,
        options: &'a ConnectionOptions,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Packet<'a>, Failure> {
        self.filters.iter().try_for_each(|filter| short_enough("-t", filter))?;
        if !options.properties.publish.is_empty() {
            return Err(Failure::usage("-D PUBLISH is for weirmq pub"));
        }
        let filters =
            self.filters.iter().map(|filter| (filter.as_str(), SubscribeOptions::at_most(self.qos)));
        Ok(Packet::Subscribe(Subscribe {
            packet_id: SUBSCRIBE_ID,
            properties: options.properties.subscribe.as_properties(),
            filters: SubscribeFilters::encode(filters, buffer),
        }))
    }

    /// Goes on until it is told to end, which gives the outcome of all, or the connection is of no more use.
    async fn converse(
        &mut self,
        link: &mut Link,
        interrupts: &mut Interrupts,
    ) -> Result<Result<(), Failure>, Failure> {
        while !self.is_over() {
            self.start();
            tokio::select! {
                packet = link.turn(self.inbox.has_room()) => if let Some(packet) = packet?
                    && let Err(refused) = self.received(link, packet)? {
                    return Ok(Err(refused));
                },
                step = self.task.step() => match self.stepped(step) {
                    Ok(owed) => acknowledge(link, owed)?,
                    Err(failure) => return Ok(Err(failure)),
                },
                interrupt = interrupts.next() => self.interrupted(interrupt),
            }
        }
        Ok(self.outcome())
    }

    /// Connects again, with a growing wait before each attempt, while the handler goes on with what it has.
    /// `None` if it is told to end.
    async fn reconnect(
        &mut self,
        options: &ConnectionOptions,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Link>, Failure> {
        self.inbox.disconnected();
        for attempt in 1.. {
            let open = async {
                sleep(wait_before(attempt)).await;
                Link::open(options, true).await
            };
            tokio::pin!(open);
            let opened = loop {
                if self.is_over() {
                    return Ok(None);
                }
                tokio::select! {
                    opened = &mut open => break opened,
                    step = self.task.step() => drop(self.stepped(step)?),
                    interrupt = interrupts.next() => self.interrupted(interrupt),
                }
            };
            match opened {
                Ok(link) => {
                    say("sub", "connected again");
                    self.inbox.reconnected(link.accepted.session_present);
                    return Ok(Some(link));
                }
                Err(failure) if failure.transient => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(None)
    }

    /// Takes a packet. The inner error ends all in good order, the outer one is the connection's end.
    fn received(&mut self, link: &mut Link, packet: Incoming) -> Result<Result<(), Failure>, Failure> {
        match packet {
            Incoming::Publish(message) => acknowledge(link, self.inbox.receive(message))?,
            Incoming::Ack(PacketType::PubRel, packet_id, _) => {
                acknowledge(link, [self.inbox.release(packet_id)])?;
            }
            Incoming::SubAck(SUBSCRIBE_ID, outcomes) if outcomes.len() == self.filters.len() => {
                return Ok(self.suback(outcomes));
            }
            _ => return Err(Failure::lost("the broker sent what nobody asked for")),
        }
        Ok(Ok(()))
    }

    fn suback(&mut self, outcomes: Vec<Result<(), Refusal>>) -> Result<(), Failure> {
        self.subscribed = true;
        let mut refused: Option<Failure> = None;
        for (filter, outcome) in self.filters.iter().zip(outcomes) {
            if let Err(refusal) = outcome {
                let failure = Failure::refused(format_args!("SUBSCRIBE to {filter}"), &refusal);
                refused = Some(match refused {
                    Some(earlier) => earlier.with(failure),
                    None => failure,
                });
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Gives the handler its next job, if it has none.
    fn start(&mut self) {
        if self.ending.is_some() || !matches!(self.task, Task::Idle) {
            return;
        }
        let no_retained = self.no_retained;
        let wanted = |message: &Received| !(no_retained && message.retain);
        let limit = self.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let mut messages = self.inbox.take(limit.min(self.handler.at_once()), wanted);
        if messages.is_empty() {
            return;
        }
        messages.retain(wanted);
        if let Some(left) = &mut self.left {
            *left -= messages.len() as u64;
        }
        self.run(Job { messages, attempt: 1 });
    }

    fn run(&mut self, job: Job) {
        self.task = Task::Running(Box::pin(self.handler.clone().handle(job)));
    }

    /// Takes a step of the task further. Returns what is owed once a job is done.
    fn stepped(&mut self, step: Step) -> Result<Vec<Owed>, Failure> {
        match step {
            Step::Due(job) => self.run(job),
            Step::Ended(_, Ok(())) => {
                self.task = Task::Idle;
                if self.left == Some(0) {
                    self.ending.get_or_insert(Interrupt::Complete);
                }
                return Ok(self.inbox.finish());
            }
            Step::Ended(_, Err(Undone::Final(failure))) => return Err(failure),
            Step::Ended(job, Err(Undone::Again(why))) => {
                self.task = Task::Idle;
                if self.ending.is_none() {
                    let wait = wait_before(job.attempt);
                    say("sub", format_args!("{why}: not acknowledged, tried again in {} s", wait.as_secs()));
                    self.task = Task::Waiting(job, Instant::now() + wait);
                } else {
                    say("sub", format_args!("{why}: not acknowledged"));
                }
            }
        }
        Ok(Vec::new())
    }

    /// The first interrupt lets a running job end, the second does not.
    fn interrupted(&mut self, interrupt: Interrupt) {
        if self.ending.is_some() || matches!(self.task, Task::Waiting(..)) {
            self.task = Task::Idle;
        }
        self.ending.get_or_insert(interrupt);
    }

    fn is_over(&self) -> bool {
        self.ending.is_some() && matches!(self.task, Task::Idle)
    }

    fn outcome(&self) -> Result<(), Failure> {
        self.ending.map_or(Ok(()), Interrupt::outcome)
    }
}

/// What a task has come to.
enum Step {
    Ended(Job, Result<(), Undone>),
    /// The wait is over.
    Due(Job),
}

impl Task {
    /// Waits for the next step; for ever if there is nothing to do. It may be dropped half-way without harm.
    async fn step(&mut self) -> Step {
        match self {
            Task::Idle => std::future::pending().await,
            Task::Running(job) => {
                let (job, outcome) = job.await;
                Step::Ended(job, outcome)
            }
            Task::Waiting(job, until) => {
                at(Some(*until)).await;
                let messages = std::mem::take(&mut job.messages);
                Step::Due(Job { messages, attempt: job.attempt.saturating_add(1) })
            }
        }
    }
}

/// 1 s, 2 s, 4 s … 30 s, and up to a quarter more, so that many clients do not come back at the same moment.
fn wait_before(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(5);
    let wait = (SHORTEST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
    wait + wait.mul_f64(fastrand::f64() / 4.0)
}

fn acknowledge(link: &mut Link, owed: impl IntoIterator<Item = Owed>) -> Result<(), Failure> {
    for (packet_type, packet_id) in owed {
        let ack = Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY };
        link.send(&match packet_type {
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubComp => Packet::PubComp(ack),
            _ => Packet::PubAck(ack),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_one_second_to_thirty() {
        for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (u32::MAX, 30)] {
            let wait = wait_before(attempt);
            let shortest = Duration::from_secs(seconds);
            assert!(wait >= shortest && wait <= shortest.mul_f64(1.25), "{attempt}: {wait:?}");
        }
    }
}
