//! Reason codes (MQTT 5.0, 2.4) and the error that every wire-level failure becomes. Before 5.0 the
//! same codes are used inside; the codec maps them to what that version can say.

use std::borrow::Cow;
use std::fmt;

macro_rules! reason_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal,)*) => {
        /// A one-byte outcome; 0x80 and above are failures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode { $($(#[doc = $doc])+ $name = $value,)* }

        impl TryFrom<u8> for ReasonCode {
            type Error = ();

            fn try_from(value: u8) -> Result<ReasonCode, ()> {
                match value {
                    $($value => Ok(ReasonCode::$name),)*
                    _ => Err(()),
                }
            }
        }
    };
}

reason_codes! {
    /// Success, Normal disconnection, Granted QoS 0.
    Success = 0x00,
    /// Granted QoS 1.
    GrantedQoS1 = 0x01,
    /// Granted QoS 2.
    GrantedQoS2 = 0x02,
    /// Disconnect with Will Message.
    DisconnectWithWill = 0x04,
    /// No matching subscribers.
    NoMatchingSubscribers = 0x10,
    /// No subscription existed.
    NoSubscriptionExisted = 0x11,
    /// Continue authentication.
    ContinueAuthentication = 0x18,
    /// Re-authenticate.
    ReAuthenticate = 0x19,
    /// Unspecified error.
    UnspecifiedError = 0x80,
    /// Malformed Packet.
    MalformedPacket = 0x81,
    /// Protocol Error.
    ProtocolError = 0x82,
    /// Implementation specific error.
    ImplementationSpecificError = 0x83,
    /// Unsupported Protocol Version.
    UnsupportedProtocolVersion = 0x84,
    /// Client Identifier not valid.
    ClientIdentifierNotValid = 0x85,
    /// Bad User Name or Password.
    BadUserNameOrPassword = 0x86,
    /// Not authorized.
    NotAuthorized = 0x87,
    /// Server unavailable.
    ServerUnavailable = 0x88,
    /// Server busy.
    ServerBusy = 0x89,
    /// Banned.
    Banned = 0x8A,
    /// Server shutting down.
    ServerShuttingDown = 0x8B,
    /// Bad authentication method.
    BadAuthenticationMethod = 0x8C,
    /// Keep Alive timeout.
    KeepAliveTimeout = 0x8D,
    /// Session taken over.
    SessionTakenOver = 0x8E,
    /// Topic Filter invalid.
    TopicFilterInvalid = 0x8F,
    /// Topic Name invalid.
    TopicNameInvalid = 0x90,
    /// Packet Identifier in use.
    PacketIdentifierInUse = 0x91,
    /// Packet Identifier not found.
    PacketIdentifierNotFound = 0x92,
    /// Receive Maximum exceeded.
    ReceiveMaximumExceeded = 0x93,
    /// Topic Alias invalid.
    TopicAliasInvalid = 0x94,
    /// Packet too large.
    PacketTooLarge = 0x95,
    /// Message rate too high.
    MessageRateTooHigh = 0x96,
    /// Quota exceeded.
    QuotaExceeded = 0x97,
    /// Administrative action.
    AdministrativeAction = 0x98,
    /// Payload format invalid.
    PayloadFormatInvalid = 0x99,
    /// Retain not supported.
    RetainNotSupported = 0x9A,
    /// QoS not supported.
    QoSNotSupported = 0x9B,
    /// Use another server.
    UseAnotherServer = 0x9C,
    /// Server moved.
    ServerMoved = 0x9D,
    /// Shared Subscriptions not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connection rate exceeded.
    ConnectionRateExceeded = 0x9F,
    /// Maximum connect time.
    MaximumConnectTime = 0xA0,
    /// Subscription Identifiers not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard Subscriptions not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Whether this code ends what it answers: 0x80 and above.
    pub fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }
}

/// A failure at the protocol's level: it becomes a CONNACK, DISCONNECT or acknowledgement as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// What the peer is told.
    pub reason: ReasonCode,
    /// What the log says: which field, and what was wrong with it.
    pub detail: Cow<'static, str>,
}

impl ProtocolError {
    /// An error with its reason code and what was wrong.
    pub fn new(reason: ReasonCode, detail: impl Into<Cow<'static, str>>) -> ProtocolError {
        ProtocolError { reason, detail: detail.into() }
    }

    /// 0x81, Malformed Packet.
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> ProtocolError {
        ProtocolError::new(ReasonCode::MalformedPacket, detail)
    }

    /// 0x82, Protocol Error.
    pub fn protocol(detail: impl Into<Cow<'static, str>>) -> ProtocolError {
        ProtocolError::new(ReasonCode::ProtocolError, detail)
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (0x{:02X}): {}", self.reason, self.reason as u8, self.detail)
    }
}

impl std::error::Error for ProtocolError {}
