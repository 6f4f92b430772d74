//! `sub --exec`: one message handed to one command, through standard input and the environment.

use std::ffi::OsStr;
use std::fmt::Display;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::format::hex;
use super::wire::Received;
use crate::protocol::properties::Property;

/// Linux starts no command whose environment is too large, and then one message could hold up all others for
/// good. So user properties past this sum, in bytes, are left out…
const MAX_USER_PROPERTIES: usize = 64 * 1024;
/// …each counted with what it takes besides its name and value…
const PER_USER_PROPERTY: usize = 64;
/// …and so are correlation data past this, in bytes.
const MAX_CORRELATION_DATA: usize = 32 * 1024;
const PREFIX: &str = "WEIRMQ_";

/// Runs `command` for `message` and waits for its end; `attempt` counts from 1. The command is killed if this
/// is dropped.
///
/// # Errors
/// How the command failed, in words.
pub(super) async fn run(command: &str, message: &Received, attempt: u32) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).kill_on_drop(true);
    // Nothing of another message, if this process is itself the command of one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
        shell.env_remove(name);
    }
    shell.envs(environment(message, attempt));
    let mut child = shell.spawn().map_err(|error| format!("sh -c: {error}"))?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command need not read its input: that it closes it early says nothing.
            let _ = stdin.write_all(&message.payload).await;
        }
        // The end of the input is the pipe's closing, which is the end of this block.
    };
    let status = {
        let wait = child.wait();
        tokio::pin!(wait, feed);
        tokio::select! {
            // Something that the command left behind may hold its input open: the command's end is what counts.
            status = &mut wait => status,
            () = &mut feed => wait.await,
        }
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// `WEIRMQ__…` with two underscores is configuration.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.strip_prefix(PREFIX).is_some_and(|rest| !rest.starts_with('_'))
}

fn environment(message: &Received, attempt: u32) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut set =
        |name: &str, value: &dyn Display| variables.push((format!("{PREFIX}{name}"), value.to_string()));
    set("TOPIC", &message.topic);
    set("QOS", &(message.qos as u8));
    set("RETAIN", &u8::from(message.retain));
    set("DUP", &u8::from(message.dup));
    set("ATTEMPT", &attempt);
    if let Some(packet_id) = message.packet_id {
        set("PACKET_ID", &packet_id);
    }
    let mut user_properties = 0;
    let mut subscriptions = Vec::new();
    for property in message.properties().iter() {
        match property {
            Property::ContentType(text) => set("CONTENT_TYPE", &text),
            Property::ResponseTopic(topic) => set("RESPONSE_TOPIC", &topic),
            Property::CorrelationData(data) if data.len() <= MAX_CORRELATION_DATA => {
                set("CORRELATION_DATA", &hex(data));
            }
            Property::MessageExpiryInterval(seconds) => set("MESSAGE_EXPIRY", &seconds),
            Property::PayloadFormatIndicator(format) => set("PAYLOAD_FORMAT", &format),
            Property::SubscriptionIdentifier(identifier) => subscriptions.push(identifier.to_string()),
            Property::UserProperty(name, value) => {
                user_properties += name.len() + value.len() + PER_USER_PROPERTY;
                if user_properties <= MAX_USER_PROPERTIES {
                    set(&format!("USER_PROPERTY_{}", variable_name(name)), &value);
                }
            }
            _ => {}
        }
    }
    if !subscriptions.is_empty() {
        set("SUBSCRIPTION_IDENTIFIER", &subscriptions.join(" "));
    }
    variables
}

/// `order-id` as `ORDER_ID`.
fn variable_name(name: &str) -> String {
    let letter =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::protocol::packet::{PacketId, QoS};
    use crate::protocol::properties::PropertiesBuf;

    fn message(payload: &[u8], properties: &[Property<'_>]) -> Received {
        let mut buf = PropertiesBuf::new();
        properties.iter().for_each(|&property| buf.push(property));
        Received {
            topic: "orders/1".to_owned(),
            payload: payload.to_vec().into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: true,
            packet_id: PacketId::new(9),
            properties: buf.as_properties().raw().to_vec(),
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn the_environment_says_what_the_message_says() {
        let properties = [
            Property::ContentType("text/plain"),
            Property::ResponseTopic("r"),
            Property::CorrelationData(&[0, 0xAB]),
            Property::MessageExpiryInterval(5),
            Property::PayloadFormatIndicator(1),
            Property::SubscriptionIdentifier(3),
            Property::SubscriptionIdentifier(4),
            Property::UserProperty("order-id", "1"),
            Property::UserProperty("order-id", "2"),
            Property::UserProperty("é=", "x"),
        ];
        let variables: HashMap<_, _> = environment(&message(b"", &properties), 2).into_iter().collect();
        for (name, value) in [
            ("WEIRMQ_TOPIC", "orders/1"),
            ("WEIRMQ_QOS", "1"),
            ("WEIRMQ_RETAIN", "0"),
            ("WEIRMQ_DUP", "1"),
            ("WEIRMQ_PACKET_ID", "9"),
            ("WEIRMQ_ATTEMPT", "2"),
            ("WEIRMQ_CONTENT_TYPE", "text/plain"),
            ("WEIRMQ_RESPONSE_TOPIC", "r"),
            ("WEIRMQ_CORRELATION_DATA", "00ab"),
            ("WEIRMQ_MESSAGE_EXPIRY", "5"),
            ("WEIRMQ_PAYLOAD_FORMAT", "1"),
            ("WEIRMQ_SUBSCRIPTION_IDENTIFIER", "3 4"),
            ("WEIRMQ_USER_PROPERTY_ORDER_ID", "2"),
            ("WEIRMQ_USER_PROPERTY___", "x"),
        ] {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(variables.len(), 14);
    }

    #[test]
    fn only_variables_of_a_message_are_taken_away() {
        assert!(is_ours(OsStr::new("WEIRMQ_USER_PROPERTY_X")));
        assert!(!is_ours(OsStr::new("WEIRMQ__LOG__LEVEL")));
        assert!(!is_ours(OsStr::new("PATH")));
    }

    #[test]
    fn properties_cannot_outgrow_the_environment() {
        let value = "v".repeat(60_000);
        let mut properties = vec![Property::UserProperty("k", &value); 64];
        properties.push(Property::ContentType(&value));
        properties.push(Property::ResponseTopic(&value));
        properties.push(Property::CorrelationData(value.as_bytes()));
        let command = "test ${#WEIRMQ_USER_PROPERTY_K} = 60000";
        assert_eq!(block_on(run(command, &message(b"", &properties), 1)), Ok(()));
    }

    #[test]
    fn the_payload_is_the_input_and_the_exit_code_the_outcome() {
        let cases = [
            ("test \"$(cat)\" = hello", true),
            ("exit 3", false),
            ("kill -9 $$", false),
            ("/nonexistent/command", false),
            // Both leave a large payload unread, one with the pipe held open by what it leaves behind.
            ("true", true),
            ("sleep 1 <&0 >/dev/null 2>&1 & true", true),
        ];
        for (command, succeeds) in cases {
            let payload = if command.contains("hello") { b"hello".to_vec() } else { vec![0; 1 << 20] };
            let outcome = block_on(run(command, &message(&payload, &[]), 1));
            assert_eq!(outcome.is_ok(), succeeds, "{command}: {outcome:?}");
        }
    }
}
