//! What a daemon's life is made of: systemd, signals, reloads, the watched configuration file, the listeners of the
//! metrics page.
//!
//! Each role keeps a loop of its own, in its `run.rs`: the gateway's takes events of the data plane, ticks slowly without
//! traffic and ends with its repairs, while the forwarder's waits for a data thread that drains its flows before the end.
//! They have only signals, the control socket and overdue changes in common, so that one loop for both would need a trait
//! with a method for nearly every arm, and more lines than the two loops have.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, spawn_local};

use crate::changes::Applies;
use crate::exit::{Exit, ExitError};
use crate::metrics::http::{self, Pages};

/// Notifies systemd; where there is none, nothing happens.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

/// Reads the configuration file again and applies it, as SIGHUP or a change of the file asks; systemd is notified when it
/// begins and when it has ended.
pub async fn reload(role: &impl Applies) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
    match role.confirmable().reload(role).await {
        Ok(changes) => tracing::info!(changes = changes.len(), "the configuration was applied"),
        Err(error) => {
            for line in error.message.lines() {
                tracing::warn!("not applied, the configuration before stays in force: {line}");
            }
        }
    }
    notify(&[NotifyState::Ready]);
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: end.
    Stop,
}

/// The signals that a daemon handles.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Handles them from now on; must run inside the runtime.
    ///
    /// # Errors
    /// From the system.
    pub fn handle() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            () = received(&mut self.hangup) => Asked::Reload,
            () = received(&mut self.terminate) => Asked::Stop,
            () = received(&mut self.interrupt) => Asked::Stop,
        }
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // No more signals of this kind will come.
        std::future::pending::<()>().await;
    }
}

/// When a file was last written, and its length.
type Stamp = (SystemTime, u64);

/// The configuration file as it was last taken and as it was last seen, for `[reload] watch`.
#[derive(Debug)]
pub struct WatchedFile {
    taken: Option<Stamp>,
    seen: Option<Stamp>,
}

impl WatchedFile {
    /// The file as it is now counts as taken.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let seen = look(path);
        Self { taken: seen, seen }
    }

    /// Whether the file is another than the one that was taken, and is written to the end.
    pub fn has_changed(&mut self, path: &Path) -> bool {
        self.handle_look(look(path))
    }

    /// Whether what is seen now is to be taken: it differs, and it was the same at the last look, so that no editor is in
    /// the middle of writing it. A file that is gone is no change.
    fn handle_look(&mut self, now: Option<Stamp>) -> bool {
        let is_settled = now.is_some() && now == self.seen;
        self.seen = now;
        let is_taken = is_settled && now != self.taken;
        if is_taken {
            self.taken = now;
        }
        is_taken
    }
}

fn look(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The listeners of the metrics page that run, by address.
#[derive(Default)]
pub struct Listeners {
    running: BTreeMap<SocketAddr, AbortHandle>,
    refused: Vec<SocketAddr>,
}

impl Listeners {
    /// Listens on these addresses. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// [`Exit::Conflict`] for an address that is taken.
    pub fn start<P: Pages + 'static>(
        &mut self,
        wanted: &[SocketAddr],
        pages: &Rc<P>,
    ) -> Result<(), ExitError> {
        for address in wanted {
            self.listen(*address, pages).map_err(|error| {
                let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                ExitError::new(if is_taken { Exit::Conflict } else { Exit::Failed }, error)
            })?;
        }
        Ok(())
    }

    /// Listens on these addresses and on no others; one that cannot be had is logged once.
    pub fn follow<P: Pages + 'static>(&mut self, wanted: &[SocketAddr], pages: &Rc<P>) {
        self.running.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        self.refused.retain(|address| wanted.contains(address));
        for &address in wanted {
            if self.running.contains_key(&address) {
                continue;
            }
            match self.listen(address, pages) {
                Ok(()) => self.refused.retain(|refused| *refused != address),
                Err(_) if self.refused.contains(&address) => {}
                Err(error) => {
                    tracing::warn!("{error}; free the address or change [metrics] listen");
                    self.refused.push(address);
                }
            }
        }
    }

    fn listen<P: Pages + 'static>(&mut self, address: SocketAddr, pages: &Rc<P>) -> io::Result<()> {
        let listener = http::bind(address)?;
        let task = spawn_local(http::serve(listener, Rc::clone(pages)));
        self.running.insert(address, task.abort_handle());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_taken_once_and_only_when_it_is_written_to_the_end() {
        let stamp = |seconds, len| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), len));
        let mut file = WatchedFile { taken: stamp(1, 100), seen: stamp(1, 100) };

        let looks =
            [stamp(1, 100), stamp(2, 0), stamp(2, 120), stamp(2, 120), stamp(2, 120), None, stamp(2, 120)];
        let taken: Vec<bool> = looks.into_iter().map(|look| file.handle_look(look)).collect();

        assert_eq!(taken, [false, false, false, true, false, false, false]);
    }

    #[test]
    fn both_families_of_the_wildcard_can_be_listened_on_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let first = http::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = first.local_addr().unwrap().port();
        http::bind(SocketAddr::new("::".parse().unwrap(), port)).unwrap();
    }
}
