//! The life of the agent: the tasks that the configuration asks for, begun again when it changes.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use daemon::life::{self, Asked, Signals, WatchedFile};
use daemon::log;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::config::Config;
use crate::network::Network;
use crate::notify::notices::Notices;
use crate::steer::gone::Gone;
use crate::{dns, lists, notify, steer};

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why `--once` does nothing at an origin.
const STEERING_GOES_ON: &str = "[steer] follows the edges for as long as the agent runs, and is not done once; run it \
                                without --once, and with `dry_run = true` in [steer] to try it";

/// Runs until a signal ends it, or at once where there is nothing to do.
///
/// # Errors
/// What is wrong with the configuration at the start; later changes that are wrong are logged.
pub fn run(path: &Path) -> Result<Exit, ExitError> {
    let (runtime, config) = start(path)?;
    let ended = LocalSet::new().block_on(&runtime, follow(path, &config));
    // A step that is out ends with the process: the authority carries it out completely or not at
    // all, and the next start reads first.
    runtime.shutdown_background();
    ended.map(|()| Exit::Ok)
}

/// Makes every record right once.
///
/// # Errors
/// What is wrong with the configuration, or that a record is not right.
pub fn once(path: &Path) -> Result<Exit, ExitError> {
    let (runtime, config) = start(path)?;
    let Some(task) = dns_task(&config)? else {
        if matches!(&config, Config::Origin(policy) if policy.steer.is_some()) {
            return Err(ExitError::new(Exit::Failed, STEERING_GOES_ON));
        }
        return Ok(nothing_to_do(path, "[dns]"));
    };
    LocalSet::new().block_on(&runtime, task.run_once()).map(|()| Exit::Ok)
}

fn start(path: &Path) -> Result<(Runtime, Config), ExitError> {
    let config = Config::load(path)?;
    log::start(config.log());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok((runtime.map_err(|error| ExitError::new(Exit::Failed, error))?, config))
}

fn nothing_to_do(path: &Path, missing: &str) -> Exit {
    tracing::info!("{} has no {missing}: there is nothing to do", path.display());
    Exit::Ok
}

fn dns_task(config: &Config) -> Result<Option<dns::task::Task>, ExitError> {
    let Config::Edge(policy) = config else { return Ok(None) };
    policy.dns.as_ref().map(|dns| dns::task::Task::new(policy, dns)).transpose()
}

/// The first part of this machine's name.
fn machine() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let first = name.split('.').next().and_then(policy::Name::new);
    first.map_or_else(|| "causeway".to_owned(), |name| name.to_string())
}

fn lists_task(path: &Path, config: &Config) -> Result<Option<lists::Task>, ExitError> {
    let Config::Edge(policy) = config else { return Ok(None) };
    let has_fetched = policy.lists.iter().any(|list| !list.urls.is_empty());
    has_fetched.then(|| lists::Task::new(path, &config.places().state)).transpose()
}

/// What is known of edges that are gone, with this configuration after the one before.
fn gone(before: &Gone, config: &Config) -> Gone {
    match config {
        Config::Edge(_) => before.after(None),
        Config::Origin(policy) => before.after(Some(policy)),
    }
}

fn steer_task(
    config: &Config,
    gone: &Gone,
    notices: &Rc<Notices>,
) -> Result<Option<steer::task::Task>, ExitError> {
    let Config::Origin(policy) = config else { return Ok(None) };
    let task = |steer| steer::task::Task::new(policy, steer, (machine(), gone), Rc::clone(notices));
    policy.steer.as_ref().map(task).transpose()
}

fn notify_task(config: &Config, notices: Rc<Notices>) -> Result<Option<notify::task::Task>, ExitError> {
    if config.receivers().is_empty() {
        return Ok(None);
    }
    let (socket, places) = (config.socket(), config.places());
    notify::task::Task::new(socket, config.receivers(), &machine(), &places, notices).map(Some)
}

/// The tasks that a configuration asks for, with all that they need. A further task of the agent
/// gets its field here and a line in [`Prepared::begin`].
struct Prepared {
    dns: Option<dns::task::Task>,
    lists: Option<lists::Task>,
    notify: Option<notify::task::Task>,
    steer: Option<steer::task::Task>,
    gone: Gone,
}

impl Prepared {
    /// Reads the secrets that the tasks need; begins nothing. `before` is what is known of edges
    /// with the configuration before.
    fn of(path: &Path, config: &Config, before: &Gone) -> Result<Self, ExitError> {
        let gone = gone(before, config);
        let notices = Rc::new(Notices::default());
        Ok(Self {
            dns: dns_task(config)?,
            lists: lists_task(path, config)?,
            steer: steer_task(config, &gone, &notices)?,
            notify: notify_task(config, notices)?,
            gone,
        })
    }

    fn begin(self, network: &Rc<Network>) -> Tasks {
        let mut tasks = Tasks::default();
        if let Some(task) = self.dns {
            tasks.begin(|stop| spawn_local(task.run(Rc::clone(network), stop)));
        }
        if let Some(task) = self.lists {
            tasks.begin(|stop| spawn_local(task.run(stop)));
        }
        if let Some(task) = self.steer {
            tasks.begin(|stop| spawn_local(task.run(Rc::clone(network), stop)));
        }
        if let Some(task) = self.notify {
            tasks.begin(|stop| spawn_local(task.run(stop)));
        }
        tasks
    }
}

/// The tasks that run, each with what ends it.
#[derive(Default)]
struct Tasks(Vec<(Rc<Notify>, JoinHandle<()>)>);

impl Tasks {
    fn begin(&mut self, task: impl FnOnce(Rc<Notify>) -> JoinHandle<()>) {
        let stop = Rc::new(Notify::new());
        self.0.push((Rc::clone(&stop), task(stop)));
    }

    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends them; each finishes the step that it is at.
    async fn end(self) {
        self.0.iter().for_each(|(stop, _)| stop.notify_one());
        for (_, task) in self.0 {
            drop(task.await);
        }
    }
}

async fn follow(path: &Path, config: &Config) -> Result<(), ExitError> {
    let failed = |error: std::io::Error| ExitError::new(Exit::Failed, error);
    let mut signals = Signals::handle().map_err(failed)?;
    let network = Rc::new(Network::watch().map_err(failed)?);
    let mut file = WatchedFile::new(path);
    let prepared = Prepared::of(path, config, &Gone::default())?;
    let mut edges_gone = prepared.gone.clone();
    let mut tasks = prepared.begin(&network);
    life::notify(&[NotifyState::Ready]);
    while !tasks.is_empty() {
        tokio::select! {
            asked = signals.next() => if asked == Asked::Stop { break },
            () = tokio::time::sleep(LOOK) => if !file.has_changed(path) { continue },
        }
        let read = Config::load(path).map_err(ExitError::from);
        match read.and_then(|config| Ok((config.log(), Prepared::of(path, &config, &edges_gone)?))) {
            Ok((log, prepared)) => {
                log::change(log);
                tasks.end().await;
                edges_gone = prepared.gone.clone();
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
        nothing_to_do(path, "[dns], no [steer], no [[notify]] and no [[list]] with a url");
    }
    tasks.end().await;
    life::notify(&[NotifyState::Stopping]);
    Ok(())
}
