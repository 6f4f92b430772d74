//! What a client may publish and subscribe to.

/// Whether a client may publish to `topic`: not to the server's own topics [MQTT-4.7.2-1].
pub fn may_publish(topic: &str) -> bool {
    !(topic.starts_with("$SYS") || topic.starts_with("$share"))
}

/// Whether a client may subscribe to `filter`, the plain one of a shared subscription.
pub fn may_subscribe(filter: &str) -> bool {
    // A share name inside a share name can never receive anything.
    !filter.starts_with("$share/")
}
