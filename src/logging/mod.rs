//! The log: one line an event on standard error, for people or for machines.

mod lines;

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

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
pub struct Log(Lines);

/// Starts logging to standard error, coloured if that is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// It was started already, or the system gives no thread.
pub fn start(config: LogConfig) -> io::Result<Log> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let coloured = io::stderr().is_terminal() && !plain;
    let log = Log(Lines::to(io::stderr())?);
    let subscriber = subscriber(config, coloured, log.0.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    // What led to a panic is to stand before it, for the process ends with it.
    let (lines, report) = (log.0.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        lines.flush();
        report(info);
    }));
    Ok(log)
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

fn subscriber<W>(config: LogConfig, coloured: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(config.level)
        .with_target(config.level >= LevelFilter::DEBUG); // which room said it: only those who debug care
    match config.format {
        LogFormat::Text => Box::new(builder.with_ansi(coloured).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
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
        let subscriber = subscriber(config, false, BoxMakeWriter::new(move || writer.clone()));
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
    fn levels_move_by_steps_and_stop_at_the_ends() {
        assert_eq!(shifted(LevelFilter::INFO, 1), LevelFilter::DEBUG);
        assert_eq!(shifted(LevelFilter::INFO, -1), LevelFilter::WARN);
        assert_eq!(shifted(LevelFilter::INFO, 9), LevelFilter::TRACE);
        assert_eq!(shifted(LevelFilter::WARN, -9), LevelFilter::OFF);
    }
}
