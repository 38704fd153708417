//! One rtnetlink connection, and what its errors mean.

use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;
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
            // The daemon decides when the helper ends, not a signal to the whole process group.
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

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// A line each: `+ …` or `- …`.
    pub(super) lines: Vec<String>,
    /// What undoes the additions, in the order they were made.
    pub(super) undo: Vec<Undo>,
}

/// What undoes one addition.
#[derive(Debug)]
pub(super) enum Undo {
    /// Gives the device what it had.
    Link(LinkMessage),
    /// Removes the address.
    Address(AddressMessage),
    /// Removes the route.
    Route(RouteMessage),
    /// Removes the rule.
    Rule(RuleMessage),
}

impl Changes {
    pub(super) fn added(&mut self, what: String, undo: Undo) {
        self.lines.push(format!("+ {what}"));
        self.undo.push(undo);
    }

    pub(super) fn removed(&mut self, what: String) {
        self.lines.push(format!("- {what}"));
    }

    /// Undoes every addition, the last one first.
    pub(super) async fn undo_all(self, handle: &Handle) -> Result<(), Failure> {
        for undo in self.undo.into_iter().rev() {
            let undone = match undo {
                Undo::Link(before) => handle.link().set(before).execute().await,
                Undo::Address(message) => handle.address().del(message).execute().await,
                Undo::Route(message) => handle.route().del(message).execute().await,
                Undo::Rule(message) => handle.rule().del(message).execute().await,
            };
            undone.map_err(|error| failure("undoing a change", &error))?;
        }
        Ok(())
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
