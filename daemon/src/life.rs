//! What every daemon handles while it runs: systemd, signals, reloads, the watched configuration
//! file, the listeners of the pages.
//!
//! Each role keeps a loop of its own, in its `run.rs`: the gateway's takes events of the data
//! plane, ticks slowly without traffic and ends with its repairs, while the forwarder's waits for a
//! data thread that drains its flows before the end. They have only signals, the control socket and
//! overdue changes in common, so that one loop for both would need a trait with a method for nearly
//! every arm, and more lines than the two loops have.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, spawn_local};

use crate::changes::Applies;
use crate::exit::{Exit, ExitError};
use crate::http::{self, Pages};

/// Notifies systemd; where there is none, nothing happens.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

/// Reads the configuration file again and applies it, as SIGHUP or a change of the file asks;
/// systemd is notified when it begins and when it has ended.
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
    /// The file as it is now counts as applied.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let seen = look(path);
        Self { taken: seen, seen }
    }

    /// Whether the file differs from the one that was applied last, and is completely written.
    pub fn has_changed(&mut self, path: &Path) -> bool {
        self.handle_look(look(path))
    }

    /// Whether to apply the file as it is now: it differs from the one in force, and it has not
    /// changed since the last check, so that no editor is in the middle of writing it. A missing
    /// file is no change.
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

/// The listeners of a page that run, by address.
#[derive(Default)]
pub struct Listeners {
    running: BTreeMap<SocketAddr, Running>,
    /// Those that another process of the same daemon passed to this one.
    passed: BTreeMap<SocketAddr, OwnedFd>,
    refused: Vec<SocketAddr>,
}

/// A listener and what serves it; dropping it closes the address at once.
struct Running {
    listener: Rc<TcpListener>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    /// None yet; addresses on which another process of the same daemon listened are taken from it.
    #[must_use]
    pub fn passed(passed: BTreeMap<SocketAddr, OwnedFd>) -> Self {
        Self { passed, ..Self::default() }
    }

    /// The sockets, to be passed to another process of the same daemon.
    ///
    /// # Errors
    /// From the system.
    pub fn descriptors(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let copy = |(address, running): (&SocketAddr, &Running)| {
            Ok((*address, running.listener.as_fd().try_clone_to_owned()?))
        };
        self.running.iter().map(copy).collect()
    }

    /// Listens on these addresses. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub fn start<P: Pages + 'static>(
        &mut self,
        wanted: &[SocketAddr],
        pages: &Rc<P>,
    ) -> Result<(), ExitError> {
        self.replace(wanted, pages)
    }

    /// Listens on these addresses and on no others; or, when one cannot be had, on those as before.
    /// Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// [`Exit::Conflict`] for an address that is taken, else what the system denies.
    pub fn replace<P: Pages + 'static>(
        &mut self,
        wanted: &[SocketAddr],
        pages: &Rc<P>,
    ) -> Result<(), ExitError> {
        let mut going = mem::take(&mut self.running);
        self.running = going.extract_if(.., |address, _| wanted.contains(address)).collect();
        let kept: Vec<_> = self.running.keys().copied().collect();
        let ports: BTreeSet<u16> =
            wanted.iter().filter(|new| !kept.contains(new)).map(SocketAddr::port).collect();
        // An address and the wildcard exclude each other on one port.
        let closed: Vec<_> = going
            .extract_if(.., |address, _| ports.contains(&address.port()))
            .map(|(address, _)| address)
            .collect();
        let bound = wanted.iter().try_for_each(|address| self.listen(*address, pages));
        let Err(error) = bound else { return Ok(()) };
        self.running.retain(|address, _| kept.contains(address));
        self.running.append(&mut going);
        self.follow_also(&closed, pages);
        let exit = if error.kind() == io::ErrorKind::AddrInUse { Exit::Conflict } else { Exit::of(&error) };
        Err(ExitError::new(exit, error))
    }

    /// Listens on these addresses and on no others; one that cannot be had is logged once.
    pub fn follow<P: Pages + 'static>(&mut self, wanted: &[SocketAddr], pages: &Rc<P>) {
        self.running.retain(|address, _| wanted.contains(address));
        self.refused.retain(|address| wanted.contains(address));
        self.follow_also(wanted, pages);
    }

    fn follow_also<P: Pages + 'static>(&mut self, wanted: &[SocketAddr], pages: &Rc<P>) {
        for &address in wanted {
            match self.listen(address, pages) {
                Ok(()) => self.refused.retain(|refused| *refused != address),
                Err(_) if self.refused.contains(&address) => {}
                Err(error) => {
                    tracing::warn!("{error}");
                    self.refused.push(address);
                }
            }
        }
    }

    /// Listens on an address, unless that is done already.
    fn listen<P: Pages + 'static>(&mut self, address: SocketAddr, pages: &Rc<P>) -> io::Result<()> {
        if self.running.contains_key(&address) {
            return Ok(());
        }
        let listener = match self.passed.remove(&address) {
            Some(descriptor) => TcpListener::from_std(descriptor.into())?,
            None => http::bind(P::SECTION, address)?,
        };
        let listener = Rc::new(listener);
        let task = spawn_local(http::serve(Rc::downgrade(&listener), Rc::clone(pages))).abort_handle();
        self.running.insert(address, Running { listener, task });
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
        inside(async {
            let first = http::bind("page", "0.0.0.0:0".parse().unwrap()).unwrap();
            let port = first.local_addr().unwrap().port();
            http::bind("page", SocketAddr::new("::".parse().unwrap(), port)).unwrap();
        });
    }

    #[test]
    fn an_address_that_is_taken_is_refused_and_those_before_go_on() {
        inside(async {
            let (mut listeners, pages, [old, new]) = (Listeners::default(), Rc::new(Empty), free());
            listeners.replace(&[old], &pages).unwrap();
            let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let taken = holder.local_addr().unwrap();

            // Also where one of its own had to make room first.
            let own = SocketAddr::new("0.0.0.0".parse().unwrap(), old.port());
            for wanted in [vec![taken], vec![new, taken], vec![own, taken]] {
                let refused = listeners.replace(&wanted, &pages).unwrap_err();
                assert_eq!(refused.exit, Exit::Conflict, "{wanted:?}");
                assert!(refused.message.contains(&taken.to_string()), "{refused}");
                assert!(refused.message.contains("[metrics] listen"), "{refused}");
                assert_eq!(ask(old).await, "up 1\n");
            }
            assert!(ask(new).await.is_empty(), "one that was free is not kept either");
        });
    }

    #[test]
    fn another_address_takes_the_place_of_the_one_before() {
        inside(async {
            let (mut listeners, pages, [old, new]) = (Listeners::default(), Rc::new(Empty), free());
            let everywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), old.port());
            listeners.replace(&[old], &pages).unwrap();
            // The wildcard cannot be had before the address goes, nor the other way round.
            for wanted in [vec![everywhere], vec![old], vec![old, new], vec![new]] {
                listeners.replace(&wanted, &pages).unwrap();
                let answered = wanted.iter().map(SocketAddr::port).collect::<BTreeSet<_>>();
                for address in [old, new] {
                    assert_eq!(
                        ask(address).await.is_empty(),
                        !answered.contains(&address.port()),
                        "{wanted:?}"
                    );
                }
            }
        });
    }

    #[test]
    fn following_from_an_address_to_the_wildcard_takes_one_look() {
        inside(async {
            let (mut listeners, pages, [old, _]) = (Listeners::default(), Rc::new(Empty), free());
            listeners.follow(&[old], &pages);
            ask(old).await;
            listeners.follow(&[SocketAddr::new("0.0.0.0".parse().unwrap(), old.port())], &pages);
            assert!(listeners.refused.is_empty());
            assert_eq!(ask(old).await, "up 1\n");
        });
    }

    struct Empty;

    impl crate::metrics::Scraped for Empty {
        async fn metrics(&self) -> String {
            "up 1\n".to_owned()
        }

        fn readiness(&self) -> (bool, String) {
            (true, String::new())
        }

        fn hosts(&self) -> Vec<policy::Host> {
            Vec::new()
        }
    }

    fn inside(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    /// Two addresses that were free a moment ago.
    fn free() -> [SocketAddr; 2] {
        let held = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        held.map(|held| held.local_addr().unwrap())
    }

    /// The page that an address answers with; empty when nothing listens there.
    async fn ask(address: SocketAddr) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return String::new() };
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
    }
}
