//! What a client may publish and subscribe to.

/// Whether a client may publish to `topic`: not to the server's own topics [MQTT-4.7.2-1].
pub fn may_publish(topic: impl AsRef<[u8]>) -> bool {
    let topic = topic.as_ref();
    !(topic.starts_with(b"$SYS") || topic.starts_with(b"$share"))
}

/// Whether a client may subscribe to `filter`, the plain one of a shared subscription.
pub fn may_subscribe(filter: &str) -> bool {
    // A share name inside a share name can never receive anything.
    !filter.starts_with("$share/")
}
