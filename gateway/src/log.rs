//! Log lines on standard error.

use std::io::IsTerminal;

use policy::gateway::{Log, LogFormat, LogLevel};
use tracing_subscriber::EnvFilter;

/// Starts logging; a second call changes nothing.
///
/// Under journald lines have no time of their own. The crate under the node logs what our own reasons tell better.
pub fn install(log: Log) {
    let level = match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::new(format!("{level},boringtun=off"));
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second subscriber is refused, which is what is wanted.
    drop(match (log.format, under_journald) {
        (LogFormat::Json, _) => builder.json().try_init(),
        (LogFormat::Text, true) => builder.without_time().try_init(),
        (LogFormat::Text, false) => builder.try_init(),
    });
}
