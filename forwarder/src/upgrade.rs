//! An upgrade in place, as the old process makes it: SIGUSR2 starts the installed program, which takes
//! the tunnels over once it is ready.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

use daemon::control::server::Socket;
use daemon::exit::{Exit, ExitError};
use daemon::files::Lock;
use daemon::history::{UPGRADE, What};
use daemon::life::{Asked, Signals, notify};
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tunnel::progress::Fault;

use crate::dataplane::Command;
use crate::handover::start::{Program, Ready, start};
use crate::handover::{self, Descriptors};
use crate::run::Origin;

/// How often an upgrade that waits for the end of an old process looks whether that has come.
const LOOK: Duration = Duration::from_millis(200);

/// What only the whole daemon has once: it is passed to the new process.
pub(crate) struct Owned<'a> {
    /// The claim on the state folder.
    pub(crate) lock: &'a Lock,
    /// The control socket.
    pub(crate) control: &'a Socket,
}

impl Origin {
    /// Starts the installed program as a new process. `None` when it is not ready: this one goes on as
    /// if nothing had happened, and `status` shows why.
    pub(crate) async fn upgrade(&self, program: Program, owned: Owned<'_>) -> Option<Ready> {
        if let Some(ends) = self.shared.stats.old.ends() {
            tracing::info!(
                seconds = ends.since(tunnel::io::clock::instant()).as_secs(),
                "the upgrade waits for the end of the process before this one, which has flows"
            );
            while self.shared.stats.old.ends().is_some() {
                sleep(LOOK).await;
            }
        }
        let result = self.start_new(program, owned).await;
        if let Err(error) = &result {
            let problem = format!(
                "the upgrade did not happen, and version {} goes on: {error}; read why in the log, and install a \
                 version that works before the next restart",
                env!("CARGO_PKG_VERSION")
            );
            tracing::warn!("{problem}");
            *self.shared.not_upgraded.lock() = Some(problem);
        }
        result.ok()
    }

    async fn start_new(&self, program: Program, owned: Owned<'_>) -> Result<Ready, ExitError> {
        let failed = |error: std::io::Error| ExitError::new(Exit::Failed, error);
        let (reply, sockets) = oneshot::channel();
        self.commands.send(Command::Descriptors(reply));
        let mut descriptors = sockets
            .await
            .map_err(|_| ExitError::new(Exit::Failed, "the data thread has ended"))?
            .map_err(failed)?;
        let pages = [&self.scraped, &self.paged].map(|listeners| listeners.borrow().descriptors());
        for page in pages {
            for (address, socket) in page.map_err(failed)? {
                descriptors.add(format!("{}{address}", handover::PAGES), socket);
            }
        }
        descriptors.add(handover::LOCK.to_owned(), owned.lock.descriptor().map_err(failed)?);
        let control = handover::control(owned.control.path());
        descriptors.add(control, owned.control.descriptor().map_err(failed)?);
        tracing::info!(program = %program.path.display(), "upgrade: starting the installed program");
        let started = spawn_blocking(move || start(&program, descriptors)).await;
        let started = started.map_err(|error| ExitError::new(Exit::Failed, error))?;
        started.map_err(|error| ExitError::new(Exit::Failed, error))
    }

    /// Leaves everything but the open flows to the new process.
    pub(crate) fn give_way(&self, ready: Ready, control: &Socket, keep_totals: impl FnOnce()) {
        let drain = self.shared.policy.load().limits.drain;
        self.shared.is_stopping.store(true, std::sync::atomic::Ordering::Relaxed);
        self.shared.history.note(What::Stopping { notice: Some(UPGRADE.to_owned()) });
        self.shared.history.flush();
        self.shared.history.close();
        // From then on systemd takes the new one's word, and no more this one's.
        notify(&[NotifyState::MainPid(ready.process)]);
        control.leave();
        self.scraped.take();
        self.paged.take();
        self.links.stop();
        keep_totals();
        self.commands.send(Command::HandOver { exchange: ready.exchange, drain });
    }
}

/// An upgrade that is under way.
pub(crate) type Upgrading<'a> = Pin<Box<dyn Future<Output = Option<Ready>> + 'a>>;

/// Waits for the end of an upgrade; for ever when none is under way.
pub(crate) async fn finished(upgrading: &mut Option<Upgrading<'_>>) -> Option<Ready> {
    match upgrading {
        Some(upgrade) => upgrade.await,
        None => std::future::pending().await,
    }
}

/// Begins an upgrade in place, unless one is under way or nothing would supervise the new process.
pub(crate) fn ask_for_upgrade<'a>(
    origin: &'a Origin,
    program: &Program,
    owned: Owned<'a>,
    upgrading: &mut Option<Upgrading<'a>>,
) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        tracing::warn!(
            "SIGUSR2 asks for an upgrade in place, which needs systemd; restart the daemon instead"
        );
    } else if upgrading.is_some() {
        tracing::info!("an upgrade is under way already");
    } else {
        *upgrading = Some(Box::pin(origin.upgrade(program.clone(), owned)));
    }
}

/// The new process has everything else. The flows of this one have their time already: only a second
/// request to stop ends them.
pub(crate) async fn outlive(
    origin: &Origin,
    signals: &mut Signals,
    mut ended: Pin<&mut oneshot::Receiver<()>>,
    mut failed: Pin<&mut oneshot::Receiver<Fault>>,
) -> Result<(), Fault> {
    let mut stops = 0;
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(()),
            Ok(fault) = &mut failed => return Err(fault),
            asked = signals.next() => {
                stops += u32::from(asked == Asked::Stop);
                if stops > 1 {
                    origin.commands.send(Command::Stop { drain: Duration::ZERO });
                }
            }
        }
    }
}

/// The sockets of the pages by address.
pub(crate) fn pages(passed: &mut Descriptors) -> Vec<(SocketAddr, OwnedFd)> {
    let pages = passed.take_all(handover::PAGES);
    pages.filter_map(|(address, socket)| Some((address.parse().ok()?, socket))).collect()
}
