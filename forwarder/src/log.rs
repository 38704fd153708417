//! Log lines on standard error.

use std::io::IsTerminal as _;

use policy::gateway::{Log, LogFormat, LogLevel};
use tracing_subscriber::EnvFilter;

/// Starts logging; a second call changes nothing.
///
/// Under journald lines have no time of their own. The crate that does the handshakes is silent: the node's own
/// events and reasons say it better.
pub fn start(log: Log) {
    let level = match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{level},boringtun=off")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match (log.format, std::env::var_os("JOURNAL_STREAM").is_some()) {
        (LogFormat::Json, _) => builder.json().try_init(),
        (LogFormat::Text, true) => builder.without_time().try_init(),
        (LogFormat::Text, false) => builder.try_init(),
    };
    // Refused when a subscriber is there already, as in tests.
    drop(started);
}
