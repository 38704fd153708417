//! One rtnetlink connection, and what its errors mean.

use rtnetlink::{Error, Handle};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use super::protocol::{Failure, FailureKind};

/// A connection with the small runtime that drives it, only while a request waits.
pub(super) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Connects.
    pub(super) fn connect() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = {
            let _inside = runtime.enter();
            // The daemon says when the helper ends, not a signal that is meant for the whole group.
            for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
                drop(signal(kind)?);
            }
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// Runs one request to its end.
    pub(super) fn run<T>(&self, request: impl AsyncFnOnce(&Handle) -> T) -> T {
        self.runtime.block_on(request(&self.handle))
    }
}

/// What was done, a line each: `+ …` or `- …`.
#[derive(Debug, Default)]
pub(super) struct Changes(pub(super) Vec<String>);

impl Changes {
    pub(super) fn added(&mut self, what: String) {
        self.0.push(format!("+ {what}"));
    }

    pub(super) fn removed(&mut self, what: String) {
        self.0.push(format!("- {what}"));
    }
}

/// The error number the kernel answered with, positive.
pub(super) fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.code.map(|code| code.get().saturating_abs()),
        _ => None,
    }
}

/// An error while `doing` something, in words.
pub(super) fn failure(doing: &str, error: &Error) -> Failure {
    let number = errno(error);
    let words =
        number.map_or_else(|| error.to_string(), |code| std::io::Error::from_raw_os_error(code).to_string());
    let kind = match number {
        Some(libc::EPERM | libc::EACCES) => FailureKind::Permission,
        Some(libc::EBUSY) => FailureKind::Conflict,
        _ => FailureKind::Kernel,
    };
    Failure::new(kind, format!("{doing}: {words}"))
}
