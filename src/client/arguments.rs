//! The options of `weirmq pub` and `weirmq sub`, named as mosquitto_pub's and mosquitto_sub's are.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::protocol::packet::QoS;

/// Long lines are broken by hand: the terminal's width is not asked for.
const PUB_HELP: &str = "\
URLs of -L: mqtt:// (port 1883), mqtts:// (8883), ws:// (80), wss:// (443), unix:PATH (a Unix socket).
A WebSocket is asked for at /mqtt unless the URL has a path. mqtts:// and wss:// need --cafile.

It ends when the broker has acknowledged every message (with QoS 0: when it has read them). At the
first refusal it sends no more, waits for the answers to what is under way, and says which message was
refused and why.

Exit codes:
  0  every message was sent, and acknowledged as its QoS asks
  1  a file or standard input failed, or the broker does not take such messages
  2  the command line is wrong
  3  the broker could not be reached
  4  it refused CONNECT
  5  it refused a PUBLISH
  6  the connection was lost before all was acknowledged";

const SUB_HELP: &str = "\
URLs of -L: mqtt:// (port 1883), mqtts:// (8883), ws:// (80), wss:// (443), unix:PATH (a Unix socket).
A WebSocket is asked for at /mqtt unless the URL has a path. mqtts:// and wss:// need --cafile.

Once connected it connects again by itself, after 1 s up to 30 s, when the connection is lost; with -c
(MQTT 5: or -x) the broker keeps the messages of QoS 1 and 2 meanwhile.

Format sequences of -F:
  %t topic  %p payload  %x %X payload in hexadecimal  %l its length in bytes
  %q QoS  %r retained  %m packet identifier  %j JSON  %J JSON with a payload that is JSON itself
  %I %U time (UTC), ISO 8601 and Unix  %% percent sign
  %A topic alias  %C content type  %D correlation data  %E message expiry  %F payload format
  %P user properties  %R response topic  %S subscription identifiers (all of MQTT 5)
  %20t %-20t %05m pad, %.10t cuts
  @Y @m @d @H @M @S @N @F @T @s time (UTC) as date(1) has it  @@ at sign
  \\n \\t \\r \\0 \\a \\e \\v \\\\ escapes

--exec CMD runs `sh -c CMD` for each message, one at a time and in order. The payload is its standard
input, and its environment has
  WEIRMQ_TOPIC  WEIRMQ_QOS  WEIRMQ_RETAIN  WEIRMQ_DUP  WEIRMQ_PACKET_ID (above QoS 0)
  WEIRMQ_ATTEMPT (1, 2, ...)
and with MQTT 5, where the message has it,
  WEIRMQ_CONTENT_TYPE  WEIRMQ_RESPONSE_TOPIC  WEIRMQ_CORRELATION_DATA (hexadecimal)
  WEIRMQ_MESSAGE_EXPIRY  WEIRMQ_PAYLOAD_FORMAT  WEIRMQ_SUBSCRIPTION_IDENTIFIER
  WEIRMQ_USER_PROPERTY_<NAME> (in upper case, other characters as _; the last of one name)
Only exit code 0 acknowledges the message. Otherwise it is tried again after 1 s, 2 s, 4 s ... 30 s, and
those behind it wait: to give a message up, exit with 0. The connection is kept alive meanwhile. With -c
and -i, what is not acknowledged outlives this process. The first SIGINT or SIGTERM lets the running
command end, the second kills it. With MQTT 5 the broker is asked for one message at a time, so that
others of a shared subscription get the next.

Exit codes:
  0   -C is reached, or SIGINT or SIGTERM came
  1   standard output failed
  2   the command line is wrong
  3   the broker could not be reached at first
  4   it refused CONNECT
  5   it refused a SUBSCRIBE
  6   the broker ended the connection for good, as when another client takes the session
  27  -W ran out";

/// Publish messages: one, or one for each line of standard input
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true, after_help = PUB_HELP)]
pub struct PubArgs {
    /// The topic to publish to
    #[arg(short, long, value_name = "TOPIC")]
    pub(super) topic: String,
    #[command(flatten)]
    pub(super) payload: PayloadArgs,
    /// Quality of Service of the messages
    #[arg(short, long, value_name = "QOS", default_value = "0", value_parser = qos)]
    pub(super) qos: QoS,
    /// Have the broker keep the message for later subscribers
    #[arg(short, long)]
    pub(super) retain: bool,
    /// How many messages of QoS 1 and 2 are sent before the first is acknowledged [default: 20, MQTT 5: 100]
    #[arg(short = 'M', long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) max_inflight: Option<u16>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// Where the payload comes from.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct PayloadArgs {
    /// The payload
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) message: Option<String>,
    /// Send a file's content
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Send each line of standard input as a message of its own
    #[arg(short = 'l', long)]
    pub(super) stdin_line: bool,
    /// Send the whole of standard input as one message
    #[arg(short = 's', long)]
    pub(super) stdin_file: bool,
    /// Send an empty message; with -r it clears what is retained
    #[arg(short, long)]
    pub(super) null_message: bool,
}

/// Subscribe and print messages, or run a command for each
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true, after_help = SUB_HELP)]
pub struct SubArgs {
    /// A topic filter to subscribe to; may be given several times
    #[arg(short, long, value_name = "FILTER", required = true)]
    pub(super) topic: Vec<String>,
    /// The highest Quality of Service to receive [default: 0, with --exec 1]
    #[arg(short, long, value_name = "QOS", value_parser = qos)]
    pub(super) qos: Option<QoS>,
    /// Print the topic before each payload
    #[arg(short, long, conflicts_with = "format")]
    pub(super) verbose: bool,
    /// Print messages in this form (see below)
    #[arg(short = 'F', value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// Print no end of line after each message
    #[arg(short = 'N')]
    pub(super) no_newline: bool,
    /// Leave out retained messages that were there before
    #[arg(short = 'R')]
    pub(super) no_retained: bool,
    /// End after this many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// End after this many seconds, once a command that runs has ended, with exit code 27
    #[arg(short = 'W', value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) timeout: Option<u64>,
    /// Run a command for each message; only its exit code 0 acknowledges (see below)
    #[arg(long, value_name = "CMD", conflicts_with_all = ["format", "verbose", "no_newline"])]
    pub(super) exec: Option<String>,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// What both commands take: the connection, the session, the Will.
#[derive(Args, Clone, Debug)]
pub(super) struct ConnectionArgs {
    /// The broker, in place of -h and -p: mqtt://HOST[:PORT], mqtts://, ws://HOST[:PORT][/PATH], wss://, or unix:PATH
    /// (see below)
    #[arg(short = 'L', long, value_name = "URL", conflicts_with_all = ["host", "port"])]
    pub(super) url: Option<String>,
    /// The broker's name or address
    #[arg(short = 'h', long, value_name = "HOST", default_value = "localhost")]
    pub(super) host: String,
    /// Its port [default: 1883, with --cafile 8883]
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// The protocol's version
    #[arg(short = 'V', long = "mqtt", value_name = "VERSION", default_value = "3.1.1")]
    pub(super) mqtt: Mqtt,
    /// The Client Identifier [default: a random one]
    #[arg(short, long, value_name = "ID")]
    pub(super) id: Option<String>,
    /// Keep the session: continue the one of this -i, and leave it there at the end
    #[arg(short = 'c', long = "disable-clean-session", requires = "id")]
    pub(super) keep_session: bool,
    /// MQTT 5: seconds that the session outlives the connection; -1 is for ever [default: 0, with -c -1]
    #[arg(short = 'x', long, value_name = "SECONDS", value_parser = session_expiry, allow_negative_numbers = true)]
    pub(super) session_expiry_interval: Option<u32>,
    /// Keep Alive in seconds; 0 turns it off
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    pub(super) keepalive: u16,
    /// The user name
    #[arg(short, long, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// The password
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", allow_hyphen_values = true)]
    pub(super) password: Option<String>,
    /// MQTT 5: a property of CONNECT, PUBLISH, SUBSCRIBE, DISCONNECT or WILL; user-property takes two values
    #[arg(short = 'D', long, value_names = ["PACKET", "PROPERTY", "VALUE"], num_args = 3..=4, allow_negative_numbers = true)]
    pub(super) property: Vec<String>,
    #[command(flatten)]
    pub(super) will: WillArgs,
    #[command(flatten)]
    pub(super) tls: TlsArgs,
    /// Print this help
    #[arg(long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// The message that the broker publishes if the connection ends without DISCONNECT.
#[derive(Args, Clone, Debug)]
pub(super) struct WillArgs {
    /// The Will's topic
    #[arg(long, value_name = "TOPIC")]
    pub(super) will_topic: Option<String>,
    /// The Will's payload [default: empty]
    #[arg(long, value_name = "TEXT", requires = "will_topic", allow_hyphen_values = true)]
    pub(super) will_payload: Option<String>,
    /// The Will's Quality of Service [default: 0]
    #[arg(long, value_name = "QOS", value_parser = qos, requires = "will_topic")]
    pub(super) will_qos: Option<QoS>,
    /// Have the broker keep the Will for later subscribers
    #[arg(long, requires = "will_topic")]
    pub(super) will_retain: bool,
}

/// TLS, which `--cafile` turns on, or a URL that asks for it. The broker's certificate is always verified.
#[derive(Args, Clone, Debug)]
pub(super) struct TlsArgs {
    /// Use TLS, trusting the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    pub(super) cafile: Option<PathBuf>,
    /// The client's certificate chain, PEM
    #[arg(long, value_name = "FILE", requires_all = ["key", "cafile"])]
    pub(super) cert: Option<PathBuf>,
    /// The private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
}

/// The versions that the commands speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mqtt {
    /// MQTT 3.1.1.
    #[value(name = "3.1.1", aliases = ["311", "mqttv311"])]
    V4,
    /// MQTT 5.0.
    #[value(name = "5", aliases = ["5.0", "mqttv5"])]
    V5,
}

fn qos(text: &str) -> Result<QoS, String> {
    let bits = text.parse().ok();
    bits.and_then(QoS::from_bits).ok_or_else(|| "QoS is 0, 1 or 2".to_owned())
}

fn session_expiry(text: &str) -> Result<u32, String> {
    match text {
        "-1" | "∞" => Ok(u32::MAX),
        _ => text.parse().map_err(|_| "seconds from 0 to 4294967295, or -1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    #[command(disable_help_flag = true)]
    enum Line {
        Pub(PubArgs),
        Sub(SubArgs),
    }

    fn accepts(line: &str) -> bool {
        Line::try_parse_from(format!("weirmq {line}").split(' ')).is_ok()
    }

    #[test]
    fn mosquittos_command_lines_are_understood() {
        for line in [
            "pub -h example.org -p 1884 -t a -m x",
            "pub -t a -n -r -q 2 -i me -c -k 5 -u u -P -secret-",
            "pub -t a -l -V mqttv5 -x -1 -D publish user-property k v -D connect receive-maximum 3",
            "pub -t a -s --cafile ca --cert c --key k --will-topic w --will-payload -1 --will-qos 1 --will-retain",
            "pub -t a -m -5",
            "pub -t a -l -q 1 -M 500",
            "sub -t a -t b/# -v -R -C 3 -W 4 -c -i me",
            "sub -t a -F %t --mqtt 3.1.1 -N",
            "sub -t a --exec true",
            "sub -t a -L ws://broker:8083",
            "pub -t a -m x --url wss://broker/mqtt --cafile ca",
        ] {
            assert!(accepts(line), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "pub -t a",
            "pub -m x",
            "pub -t a -m x -n",
            "pub -t a -m x -q 3",
            "pub -t a -m x --cert c --key k",
            "pub -t a -m x --cafile ca --cert c",
            "pub -t a -m x --will-payload w",
            "pub -t a -m x --mqtt 4",
            "sub -v",
            "sub -t a -C 0",
            "sub -t a -c",
            "sub -t a -F %p -v",
            "sub -t a --exec true -v",
            "sub -t a --insecure",
            "sub -t a -L ws://broker -h other",
            "sub -t a -L ws://broker -p 8083",
        ] {
            assert!(!accepts(line), "{line}");
        }
    }

    #[test]
    fn help_has_no_short_form_since_h_is_the_host() {
        for command in ["pub", "sub"] {
            let help = Line::try_parse_from(["weirmq", command, "--help"]).unwrap_err();
            assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
            assert!(help.to_string().contains("Exit codes:"), "{help}");
        }
    }
}
