//! Log lines on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use policy::sections::{Log, LogFormat, LogLevel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt as _};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt};

/// What decides which lines there are, above it what writes them.
type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// What [`change`] changes.
static IN_USE: OnceLock<(Handle<Targets, Registry>, Handle<Lines, Filtered>)> = OnceLock::new();

/// Starts logging; a second call changes nothing.
///
/// Under journald lines have no time of their own. The crates that do the handshakes, of WireGuard
/// and of TLS, are silent: their callers report events and reasons.
pub fn start(log: Log) {
    let (filter, level) = reload::Layer::new(filter(log.level));
    let (lines, format) = reload::Layer::new(lines(log.format));
    // A second subscriber is refused.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        drop(IN_USE.set((level, format)));
    }
}

/// Goes on with another level and format, from the next line on.
pub fn change(log: Log) {
    let Some((level, format)) = IN_USE.get() else { return };
    let changed = level.reload(filter(log.level)).and_then(|()| format.reload(lines(log.format)));
    if let Err(error) = changed {
        tracing::warn!("[log] cannot be changed ({error}); restart the daemon");
    }
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let silent = ["boringtun", "rustls"].map(|target| (target, LevelFilter::OFF));
    Targets::new().with_default(level).with_targets(silent)
}

fn lines(format: LogFormat) -> Lines {
    let is_coloured = std::io::stderr().is_terminal() && crate::text::wants_colour();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(is_coloured);
    match (format, std::env::var_os("JOURNAL_STREAM").is_some()) {
        (LogFormat::Json, _) => lines.json().boxed(),
        (LogFormat::Text, true) => lines.without_time().boxed(),
        (LogFormat::Text, false) => lines.boxed(),
    }
}
