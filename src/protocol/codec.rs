//! Framing, decoding and encoding of control packets.
