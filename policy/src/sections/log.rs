//! `[log]`: what is logged, and how.

use crate::change::Settings;
use crate::reader::Table;

/// `[log]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
}

impl Log {
    /// Notes what `next` has otherwise.
    pub(crate) fn note_changes(self, next: Self, changes: &mut Settings) {
        changes.field("log", "level", self.level.as_str(), next.level.as_str());
        changes.field("log", "format", self.format.as_str(), next.format.as_str());
    }
}

/// Levels of importance, as `tracing` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// The operator must act at once.
    Error,
    /// The operator should act.
    Warn,
    /// Something changed.
    #[default]
    Info,
    /// Details, client addresses among them.
    Debug,
    /// Single packets.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl LogFormat {
    /// The format as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// `[log]`, with its defaults where the file does not have it.
pub(super) fn log(root: &Table<'_>) -> Option<Log> {
    let Some(table) = root.table("log", "[log]") else { return Some(Log::default()) };
    let level = table.optional("level").map_or(Some(LogLevel::default()), |value| {
        value.parse("\"error\", \"warn\", \"info\", \"debug\" or \"trace\"", |written| {
            LogLevel::ALL.into_iter().find(|level| level.as_str() == written)
        })
    });
    let format = table.optional("format").map_or(Some(LogFormat::default()), |value| {
        value.parse("\"text\" or \"json\"", |written| {
            [LogFormat::Text, LogFormat::Json].into_iter().find(|format| format.as_str() == written)
        })
    });
    table.close();
    Some(Log { level: level?, format: format? })
}
