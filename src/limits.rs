//! Every bound that the broker keeps, with its default: plain numbers that the pure core reads. `config` fills them
//! from files; nothing here knows where they came from.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The broker's limits. A zero means "no limit" only where the field says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet, in bytes, that a connection may send before it is authenticated.
    pub connect_packet_size: u32,
    /// Largest packet, in bytes, that is accepted after that (the Maximum Packet Size offered to the client).
    pub max_packet_size: u32,
    /// Time from accepting a socket to sending CONNACK, TLS and WebSocket handshakes included.
    pub connect_timeout: Duration,
    /// Connections that may be between accept and CONNACK at once; and in each shard those that were sent away and are
    /// waited for until they have heard why.
    pub max_handshakes: usize,
    /// The same, for one remote address.
    pub max_handshakes_per_address: usize,
    /// Levels that a topic name or filter may have.
    pub topic_levels: usize,
    /// Bytes that a topic name or filter may have.
    pub topic_length: usize,
    /// Bytes that a client identifier may have.
    pub client_id_length: usize,
    /// QoS 1 and 2 messages that may be under way to one client; a client's own Receive Maximum can only lower it.
    pub max_inflight: u16,
    /// The Receive Maximum offered to a client: the QoS 1 and 2 messages that it may have unacknowledged.
    pub receive_maximum: u16,
    /// Bytes that a client's messages may take whose PUBACK or PUBREC waits for the disk; over it the client is not read.
    pub receive_bytes: usize,
    /// Messages that the queue of a session without durable state may hold.
    pub transient_queue_messages: usize,
    /// Bytes that the queue of a session without durable state may hold.
    pub transient_queue_bytes: usize,
    /// Bytes that may wait to be written to one connection; one packet always may.
    pub outbound_buffer: usize,
    /// Bytes of all outbound buffers and transient queues together; past it, those above their fair share are full.
    pub outbound_total: usize,
    /// Bytes that the system may hold for one TCP connection and has not sent yet; 0: as many as it likes.
    pub socket_unsent: u32,
    /// What the process may use.
    pub memory: MemoryBudget,
    /// Subscriptions that one session may hold.
    pub subscriptions_per_session: usize,
    /// User Properties that one packet may carry.
    pub user_properties: usize,
    /// Retained messages in all.
    pub retained_messages: usize,
    /// Bytes of all retained messages, overhead included.
    pub retained_bytes: usize,
    /// The Topic Alias Maximum offered to clients, and the most that the broker uses towards one; 0: no aliases.
    pub topic_alias_maximum: u16,
    /// The longest keep alive granted, in seconds; 0: whatever the client asks for.
    pub keep_alive_max: u16,
    /// Connections in all; 0: no limit.
    pub max_connections: usize,
    /// Connections that may arrive in a second, in all; 0: no limit.
    pub max_connection_rate: usize,
    /// The same, from one remote address.
    pub max_connection_rate_per_address: usize,
    /// Sessions in all, connected or not.
    pub max_sessions: usize,
    /// Bytes under way from one shard to another before publishers are paused.
    pub lane_bytes: usize,
    /// The longest Session Expiry Interval granted; `None`: a session may be kept for ever.
    pub session_expiry_max: Option<Duration>,
    /// How long an MQTT 3 publisher is held back by a full queue that rejects, before its connection is closed. (MQTT 5
    /// has a reason code for it and is told at once.)
    pub reject_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect_packet_size: 64 * 1024,
            max_packet_size: 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            max_handshakes: 500,
            max_handshakes_per_address: 50,
            topic_levels: 128,
            topic_length: 4096,
            client_id_length: 256,
            max_inflight: 32,
            receive_maximum: 1000,
            receive_bytes: 4 * MIB,
            transient_queue_messages: 1000,
            transient_queue_bytes: MIB,
            outbound_buffer: MIB,
            outbound_total: 256 * MIB,
            socket_unsent: 32 * 1024,
            memory: MemoryBudget::Auto,
            subscriptions_per_session: 1000,
            user_properties: 64,
            retained_messages: 1_000_000,
            retained_bytes: 256 * MIB,
            topic_alias_maximum: 32,
            keep_alive_max: 0,
            max_connections: 0,
            max_connection_rate: 0,
            max_connection_rate_per_address: 0,
            max_sessions: 1_000_000,
            lane_bytes: 4 * MIB,
            session_expiry_max: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            reject_timeout: Duration::from_secs(30),
        }
    }
}

/// How much memory the process may use before the greediest clients feel it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryBudget {
    /// Three quarters of what there is: of the machine's memory, or of a control group's limit if that is less.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// Any amount.
    Off,
}

/// How a share group picks the member that takes a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Each member in turn.
    #[default]
    RoundRobin,
    /// Any member.
    Random,
    /// The same member until it goes: it is waited for when it is full.
    Sticky,
    /// The member that the publisher's client identifier hashes to.
    HashClientid,
    /// The member that the topic hashes to: keeps the order within a topic.
    HashTopic,
    /// The member with the fewest unacknowledged messages.
    LeastInflight,
}

/// A strategy and the share groups that it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRule {
    /// The group's name, the ShareName of `$share/NAME/filter`; `*` for every group that has no rule of its own.
    pub group: String,
    /// How the group picks a member.
    pub strategy: Strategy,
}

impl ShareRule {
    /// The strategy that `rules` give to `group`: its own rule, else that of `*`, else [`Strategy::RoundRobin`].
    pub fn strategy(rules: &[ShareRule], group: &str) -> Strategy {
        let named = |name: &str| rules.iter().find(|rule| rule.group == name).map(|rule| rule.strategy);
        named(group).or_else(|| named("*")).unwrap_or_default()
    }
}

impl Default for ShareRule {
    fn default() -> Self {
        ShareRule { group: "*".to_owned(), strategy: Strategy::RoundRobin }
    }
}

/// What happens to a message for a queue that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The publisher is refused (MQTT 5) or held back (MQTT 3, see [`Limits::reject_timeout`]): nothing is dropped.
    #[default]
    Reject,
    /// The oldest message makes room.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
}

impl Overflow {
    /// Every policy, in the order of their numbers.
    pub const ALL: [Overflow; 3] = [Overflow::Reject, Overflow::DropOldest, Overflow::DropNewest];
}

/// The bounds of the queues whose subscription has this filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRule {
    /// The topic filter that the rule holds for; the most specific one that matches wins.
    pub filter: String,
    /// Messages that a queue may hold; 0: no limit by number.
    pub max_messages: u64,
    /// Bytes that a queue may hold.
    pub max_bytes: u64,
    /// What happens to a message that does not fit.
    pub overflow: Overflow,
    /// How long a message to a topic that the filter matches is kept for a durable queue, if its publisher did not ask
    /// for less; `None`: as long as the publisher asked.
    pub message_expiry: Option<Duration>,
}

impl Default for QueueRule {
    fn default() -> Self {
        QueueRule {
            filter: "#".to_owned(),
            max_messages: 0,
            max_bytes: 4 * 1024 * MIB as u64,
            overflow: Overflow::Reject,
            message_expiry: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_its_own_rule_before_that_of_every_group() {
        let rule = |group: &str, strategy| ShareRule { group: group.to_owned(), strategy };
        let rules = [rule("*", Strategy::Random), rule("sms", Strategy::HashTopic)];
        assert_eq!(ShareRule::strategy(&rules, "sms"), Strategy::HashTopic);
        assert_eq!(ShareRule::strategy(&rules, "mail"), Strategy::Random);
        assert_eq!(ShareRule::strategy(&rules[1..], "mail"), Strategy::RoundRobin);
    }
}
