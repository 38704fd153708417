//! The life of the agent: the tasks that the configuration asks for, begun again when it changes.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use daemon::life::{self, Asked, Signals, WatchedFile};
use daemon::log;
use gateway::config::load_policy;
use policy::gateway::Policy;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::dns::task::Task;
use crate::network::Network;

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until a signal ends it, or at once where there is nothing to do.
///
/// # Errors
/// What is wrong with the configuration at the start; later changes that are wrong are logged.
pub fn run(config: &Path) -> Result<Exit, ExitError> {
    let (runtime, policy) = start(config)?;
    let ended = LocalSet::new().block_on(&runtime, follow(config, policy));
    // A step that is out ends with the process: the authority carries it out completely or not at
    // all, and the next start reads first.
    runtime.shutdown_background();
    ended.map(|()| Exit::Ok)
}

/// Makes every record right once.
///
/// # Errors
/// What is wrong with the configuration, or that a record is not right.
pub fn once(config: &Path) -> Result<Exit, ExitError> {
    let (runtime, policy) = start(config)?;
    let Some(dns) = &policy.dns else { return Ok(nothing_to_do(config)) };
    let task = Task::new(&policy, dns)?;
    LocalSet::new().block_on(&runtime, task.run_once()).map(|()| Exit::Ok)
}

fn start(config: &Path) -> Result<(Runtime, Arc<Policy>), ExitError> {
    let policy = load_policy(config)?;
    log::start(policy.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok((runtime.map_err(|error| ExitError::new(Exit::Failed, error))?, Arc::new(policy)))
}

fn nothing_to_do(config: &Path) -> Exit {
    tracing::info!("{} has no [dns]: there is nothing to do", config.display());
    Exit::Ok
}

/// The tasks that a configuration asks for, with all that they need. A further task of the agent
/// gets its field here and in [`Tasks`].
struct Prepared {
    dns: Option<Task>,
}

impl Prepared {
    /// Reads the secrets that the tasks need; begins nothing.
    fn of(policy: &Arc<Policy>) -> Result<Self, ExitError> {
        Ok(Self { dns: policy.dns.as_ref().map(|dns| Task::new(policy, dns)).transpose()? })
    }

    fn begin(self, network: &Rc<Network>) -> Tasks {
        let stop = Rc::new(Notify::new());
        let dns = self.dns.map(|task| spawn_local(task.run(Rc::clone(network), Rc::clone(&stop))));
        Tasks { stop, dns }
    }
}

/// The tasks that run.
struct Tasks {
    stop: Rc<Notify>,
    dns: Option<JoinHandle<()>>,
}

impl Tasks {
    const fn is_empty(&self) -> bool {
        self.dns.is_none()
    }

    /// Ends them; each finishes the step that it is at.
    async fn end(self) {
        if let Some(dns) = self.dns {
            self.stop.notify_one();
            drop(dns.await);
        }
    }
}

async fn follow(config: &Path, policy: Arc<Policy>) -> Result<(), ExitError> {
    let failed = |error: std::io::Error| ExitError::new(Exit::Failed, error);
    let mut signals = Signals::handle().map_err(failed)?;
    let network = Rc::new(Network::watch().map_err(failed)?);
    let mut file = WatchedFile::new(config);
    let mut tasks = Prepared::of(&policy)?.begin(&network);
    life::notify(&[NotifyState::Ready]);
    while !tasks.is_empty() {
        tokio::select! {
            asked = signals.next() => if asked == Asked::Stop { break },
            () = tokio::time::sleep(LOOK) => if !file.has_changed(config) { continue },
        }
        let read = load_policy(config).map_err(ExitError::from);
        match read.and_then(|policy| Ok((policy.log, Prepared::of(&Arc::new(policy))?))) {
            Ok((log, prepared)) => {
                log::change(log);
                tasks.end().await;
                tasks = prepared.begin(&network);
                tracing::info!("goes on with the configuration as it is now");
            }
            Err(error) => {
                for line in error.message.lines() {
                    tracing::warn!("goes on with the configuration before: {line}");
                }
            }
        }
    }
    if tasks.is_empty() {
        nothing_to_do(config);
    }
    life::notify(&[NotifyState::Stopping]);
    Ok(())
}
