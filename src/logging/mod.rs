//! The log: one line an event on standard error, for people or for machines.

mod lines;

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{Registry, registry};

use crate::config::{LogConfig, LogFormat};

use lines::Lines;

/// From the least to the most.
const LEVELS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

/// Moves a level by `steps`, up for more, as far as there are levels.
pub fn shifted(level: LevelFilter, steps: i16) -> LevelFilter {
    let steps = isize::from(steps);
    let most = LEVELS.len() - 1;
    let now = LEVELS.iter().position(|&other| other == level).unwrap_or(most);
    LEVELS[now.saturating_add_signed(steps).min(most)]
}

/// The log. When it is dropped, the last lines are written.
pub struct Log {
    lines: Lines,
    level: Handle<LevelFilter, Registry>,
}

/// Starts logging to standard error, coloured if that is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// It was started already, or the system gives no thread.
pub fn start(config: LogConfig) -> io::Result<Log> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let coloured = io::stderr().is_terminal() && !plain;
    let lines = Lines::to(io::stderr())?;
    let (subscriber, level) = subscriber(config, coloured, lines.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    // What led to a panic is to stand before it, for the process ends with it.
    let (last, report) = (lines.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        last.flush();
        report(info);
    }));
    Ok(Log { lines, level })
}

impl Log {
    /// Logs what is at least so severe from now on.
    pub fn set_level(&self, level: LevelFilter) {
        // It can only fail when there is no log any more.
        let _ = self.level.modify(|now| *now = level);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

type Built = (Box<dyn Subscriber + Send + Sync>, Handle<LevelFilter, Registry>);

fn subscriber<W>(config: LogConfig, coloured: bool, writer: W) -> Built
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (level, handle) = reload::Layer::new(config.level);
    let registry = registry().with(level);
    let lines = fmt::layer().with_writer(writer).with_ansi(coloured && config.format == LogFormat::Text);
    let form = fmt::format();
    let subscriber: Box<dyn Subscriber + Send + Sync> = match config.format {
        LogFormat::Text => Box::new(registry.with(lines.event_format(Form {
            usual: form.clone().with_target(false),
            detailed: form,
            prefixed: false,
        }))),
        LogFormat::Json => {
            let form = form.json().flatten_event(true).with_span_list(false);
            let (usual, detailed) = (form.clone().with_target(false), form);
            let form = Form { usual, detailed, prefixed: false };
            Box::new(registry.with(lines.fmt_fields(JsonFields::new()).event_format(form)))
        }
        LogFormat::Journald => {
            // The journal has the time and shows the level.
            let form = form.without_time().with_level(false);
            let (usual, detailed) = (form.clone().with_target(false), form);
            Box::new(registry.with(lines.event_format(Form { usual, detailed, prefixed: true })))
        }
    };
    (subscriber, handle)
}

/// The form of a line.
struct Form<E> {
    usual: E,
    /// With the room that says it: only those who debug care.
    detailed: E,
    /// Begins with the priority, as the journal reads it from standard error: `<6>`.
    prefixed: bool,
}

impl<S, N, E> FormatEvent<S, N> for Form<E>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let level = *event.metadata().level();
        if self.prefixed {
            let priority = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(writer, "<{priority}>")?;
        }
        let form = if level >= Level::DEBUG { &self.detailed } else { &self.usual };
        form.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::writer::BoxMakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic before").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: LogConfig, act: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, _) = subscriber(config, false, BoxMakeWriter::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, act);
        let bytes = lines.0.lock().expect("no panic before").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn text_is_a_line_without_colours_when_it_is_not_for_a_terminal() {
        let text = logged(LogConfig::default(), || {
            tracing::info!(client_id = %crate::escaped::Escaped("a\u{1b}[2J\nb"), "connected");
            tracing::debug!("not shown");
        });
        assert!(text.ends_with(" INFO connected client_id=a\\u{1b}[2J\\nb\n"), "{text:?}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn json_is_an_object_a_line() {
        let config = LogConfig { level: LevelFilter::WARN, format: LogFormat::Json };
        let text = logged(config, || {
            tracing::warn!(connections = 3, topic = "a\"b\nc", "full");
            tracing::info!("not shown");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with('{') && text.ends_with("}\n"), "{text}");
        for part in
            ["\"level\":\"WARN\"", "\"message\":\"full\"", "\"connections\":3", r#""topic":"a\"b\nc""#]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let config = LogConfig { level: LevelFilter::DEBUG, format: LogFormat::Journald };
        let text = logged(config, || {
            tracing::error!("a");
            tracing::warn!("b");
            tracing::info!(key = 1, "c");
            tracing::debug!(target: "room", "d");
        });
        assert_eq!(text, "<3>a\n<4>b\n<6>c key=1\n<7>room: d\n");
    }

    #[test]
    fn the_level_changes_while_the_log_runs() {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = LogConfig { level: LevelFilter::WARN, format: LogFormat::Json };
        let (subscriber, level) = subscriber(config, false, BoxMakeWriter::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for (filter, message) in
                [(LevelFilter::WARN, "one"), (LevelFilter::INFO, "two"), (LevelFilter::OFF, "three")]
            {
                level.modify(|now| *now = filter).expect("there is a log");
                tracing::info!("{message}");
            }
        });
        let bytes = lines.0.lock().expect("no panic before").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.lines().count() == 1 && text.contains("\"two\""), "{text}");
    }

    #[test]
    fn levels_move_by_steps_and_stop_at_the_ends() {
        assert_eq!(shifted(LevelFilter::INFO, 1), LevelFilter::DEBUG);
        assert_eq!(shifted(LevelFilter::INFO, -1), LevelFilter::WARN);
        assert_eq!(shifted(LevelFilter::INFO, 9), LevelFilter::TRACE);
        assert_eq!(shifted(LevelFilter::WARN, -9), LevelFilter::OFF);
    }
}
