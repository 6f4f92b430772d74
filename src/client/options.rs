//! The connection that the command line asks for, judged as a whole before anything is sent.

use bytes::Bytes;

use super::address::Address;
use super::arguments::{ConnectionArgs, Mqtt, TlsArgs, WillArgs};
use super::failure::Failure;
use super::property_args::PacketProperties;
use crate::protocol::codec;
use crate::protocol::packet::{Connect, Disconnect, LastWill, Packet, QoS, Version};
use crate::protocol::properties::Property;
use crate::protocol::reason::ReasonCode;

/// Where to connect, and what CONNECT and DISCONNECT say.
#[derive(Clone, Debug)]
pub(super) struct ConnectionOptions {
    pub(super) address: Address,
    pub(super) tls: TlsArgs,
    pub(super) version: Version,
    /// Seconds; 0 turns it off.
    pub(super) keep_alive: u16,
    pub(super) properties: PacketProperties,
    client_id: String,
    clean_start: bool,
    /// The server keeps the session while the connection is down.
    outlives_connection: bool,
    will: Option<Will>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Clone, Debug)]
struct Will {
    topic: String,
    payload: Bytes,
    qos: QoS,
    retain: bool,
}

impl ConnectionOptions {
    /// Takes the options together; `role` begins a random Client Identifier.
    ///
    /// # Errors
    /// What the command line asks for and MQTT does not allow.
    pub(super) fn new(args: &ConnectionArgs, role: &str) -> Result<ConnectionOptions, Failure> {
        let version = match args.mqtt {
            Mqtt::V4 => Version::V4,
            Mqtt::V5 => Version::V5,
        };
        let mut properties = PacketProperties::parse(&args.property).map_err(Failure::usage)?;
        if version != Version::V5 && (!properties.are_empty() || args.session_expiry_interval.is_some()) {
            return Err(Failure::usage("-D and -x need --mqtt 5"));
        }
        let expiry = session_expiry(args, version, &mut properties);
        let options = ConnectionOptions {
            address: Address::new(args)?,
            tls: args.tls.clone(),
            version,
            keep_alive: args.keepalive,
            properties,
            client_id: args.id.clone().unwrap_or_else(|| random_client_id(role)),
            clean_start: !args.keep_session,
            outlives_connection: expiry > 0,
            will: will(&args.will),
            username: args.username.clone(),
            password: args.password.clone(),
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), Failure> {
        short_enough("-i", &self.client_id)?;
        short_enough("-u", self.username.as_deref().unwrap_or_default())?;
        short_enough("-P", self.password.as_deref().unwrap_or_default())?;
        if let Some(will) = &self.will {
            short_enough("--will-topic", &will.topic)?;
            short_enough("--will-payload", &will.payload)?;
        } else if !self.properties.will.is_empty() {
            return Err(Failure::usage("-D WILL needs --will-topic"));
        }
        well_formed(self.version, &Packet::Connect(self.connect(false)))?;
        well_formed(self.version, &self.disconnect())
    }

    /// CONNECT. `again` after the connection was lost: then a session that the server may still have is
    /// continued, not cleared.
    pub(super) fn connect(&self, again: bool) -> Connect<'_> {
        Connect {
            version: self.version,
            clean_start: self.clean_start && !(again && self.outlives_connection),
            keep_alive: self.keep_alive,
            properties: self.properties.connect.as_properties(),
            client_id: &self.client_id,
            will: self.will.as_ref().map(|will| LastWill {
                qos: will.qos,
                retain: will.retain,
                properties: self.properties.will.as_properties(),
                topic: &will.topic,
                payload: &will.payload,
            }),
            username: self.username.as_deref(),
            password: self.password.as_ref().map(String::as_bytes),
        }
    }

    /// DISCONNECT, at the end of all.
    pub(super) fn disconnect(&self) -> Packet<'_> {
        let properties = self.properties.disconnect.as_properties();
        Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties })
    }
}

/// How long the session outlives the connection, in seconds. In 5.0 it is put among the properties of CONNECT
/// unless `-D` has put it there.
fn session_expiry(args: &ConnectionArgs, version: Version, properties: &mut PacketProperties) -> u32 {
    let default = if args.keep_session { u32::MAX } else { 0 };
    if version != Version::V5 {
        return default;
    }
    let given = properties.connect.as_properties().iter().find_map(|property| match property {
        Property::SessionExpiryInterval(seconds) => Some(seconds),
        _ => None,
    });
    if given.is_some() && args.session_expiry_interval.is_none() {
        return given.unwrap_or_default();
    }
    let expiry = args.session_expiry_interval.unwrap_or(default);
    if expiry > 0 {
        properties.connect.push(Property::SessionExpiryInterval(expiry));
    }
    expiry
}

/// Twenty letters and digits, which every server has to accept [MQTT-3.1.3-5].
fn random_client_id(role: &str) -> String {
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(11).collect();
    format!("weirmq{role}{random}")
}

fn will(args: &WillArgs) -> Option<Will> {
    Some(Will {
        topic: args.will_topic.clone()?,
        payload: args.will_payload.clone().unwrap_or_default().into(),
        qos: args.will_qos.unwrap_or(QoS::AtMostOnce),
        retain: args.will_retain,
    })
}

/// The wire gives two bytes to the length of a field.
///
/// # Errors
/// If `value` does not fit.
pub(super) fn short_enough(option: &str, value: impl AsRef<[u8]>) -> Result<(), Failure> {
    if value.as_ref().len() > usize::from(u16::MAX) {
        return Err(Failure::usage(format_args!("{option}: more than 65,535 bytes")));
    }
    Ok(())
}

/// Has the strict codec judge a packet that is about to be sent: what no server would take is better said here
/// than answered with a closed connection.
///
/// # Errors
/// What the codec finds wrong.
pub(super) fn well_formed(version: Version, packet: &Packet<'_>) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    codec::encode(version, packet, &mut bytes);
    codec::decode(version, &bytes)
        .map(drop)
        .map_err(|error| Failure::usage(format_args!("not a valid {}: {}", name(packet), error.detail)))
}

/// The packet's name as the standard writes it.
pub(super) fn name(packet: &Packet<'_>) -> String {
    format!("{:?}", packet.packet_type()).to_uppercase()
}
