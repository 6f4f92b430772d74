//! MQTT 5.0 properties: what each is, and which packet may carry which.

/// The properties of one packet: validated wire bytes, without their length prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);
