//! Log lines, on standard error or in a file of limited size.

mod file;

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use policy::sections::{Log, LogFormat, LogLevel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt as _};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt};

use file::LogFile;

/// What decides which lines there are, above it what writes them.
type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// What [`change`] changes.
static IN_USE: OnceLock<(Handle<Targets, Registry>, Handle<Lines, Filtered>)> = OnceLock::new();

/// The file in place of standard error.
static FILE: OnceLock<Mutex<LogFile>> = OnceLock::new();

/// Writes log lines, and all else that goes to standard error, to `path` from now on; a second call
/// changes nothing.
///
/// A file that is full (5 MiB) becomes `path.1`, the older ones `path.2` and `path.3`, and the
/// oldest goes.
///
/// # Errors
/// Whatever the file system says.
pub fn to_file(path: &Path) -> io::Result<()> {
    let file = LogFile::open(path)?;
    rustix::stdio::dup2_stderr(&file)?;
    drop(FILE.set(Mutex::new(file)));
    Ok(())
}

/// Where a line goes.
struct Output;

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // An error would end the process: the subscriber reports it on standard error, and panics
        // when that fails as well, as on a full disk. The line is lost.
        drop(match FILE.get() {
            Some(file) => in_file(&mut file.lock().unwrap_or_else(PoisonError::into_inner), line),
            None => io::stderr().write_all(line),
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn in_file(file: &mut LogFile, line: &[u8]) -> io::Result<()> {
    if file.write(line)? {
        rustix::stdio::dup2_stderr(&*file)?;
    }
    Ok(())
}

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
    let is_coloured = io::stderr().is_terminal() && crate::text::wants_colour();
    let lines = fmt::layer().with_writer(|| Output).with_ansi(is_coloured);
    match (format, std::env::var_os("JOURNAL_STREAM").is_some()) {
        (LogFormat::Json, _) => lines.json().boxed(),
        (LogFormat::Text, true) => lines.without_time().boxed(),
        (LogFormat::Text, false) => lines.boxed(),
    }
}
