//! The daemon: two threads that matter. One moves data; this one listens to signals, the control socket and scrapes.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use policy::Name;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tunnel::io::clock;
use tunnel::io::udp::Backend;
use tunnel::io::watchdog::{Watchdog, end_process_soon};
use tunnel::progress::Fault;

use crate::config::{self, LoadError, Loaded};
use crate::control::report::report;
use crate::control::server::{BindError, ControlSocket};
use crate::control::{EdgeView, Shared, problems};
use crate::dataplane::{Command, Commands, DATA_THREAD, DataPlane, Inbox, Parts};
use crate::metrics::http;
use crate::places::Environment;
use crate::state::StateFile;
use crate::stats::Stats;
use crate::upstream::Pools;
use crate::{exit, health, log, reload, setup};

/// How often rates are measured and systemd is told.
const TICK: Duration = Duration::from_secs(5);

/// Why the daemon could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] BindError),
    /// The state folder.
    #[error("{folder}: {error}; name a folder that this user may write: [state] directory")]
    State {
        /// Which folder.
        folder: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// A socket or key that the configuration names cannot be used.
    #[error("{0}")]
    Setup(String),
    /// From the system.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The data thread is gone.
    #[error("the data thread failed: {0}")]
    DataThread(String),
}

impl DaemonError {
    /// The exit code that tells it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(error) => error.exit_code(),
            Self::State { error, .. }
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                exit::PERMISSION
            }
            Self::Control(error) if error.is_permission() => exit::PERMISSION,
            Self::Control(BindError::Taken(_)) => exit::CONFLICT,
            Self::Control(_)
            | Self::State { .. }
            | Self::Setup(_)
            | Self::System(_)
            | Self::DataThread(_) => exit::FAILED,
        }
    }
}

/// Everything that was opened at the start.
struct Running {
    config: PathBuf,
    shared: Arc<Shared>,
    commands: Commands,
    control: ControlSocket,
    metrics: Vec<TcpListener>,
    data: JoinHandle<io::Result<()>>,
    ended: oneshot::Receiver<()>,
    watchdog: Watchdog,
    failed: oneshot::Receiver<Fault>,
}

/// Runs the daemon in the foreground until it is told to stop.
///
/// # Errors
/// [`DaemonError`]; before anything is changed where that is possible.
pub fn run(config: &Path) -> Result<(), DaemonError> {
    renounce_privileges()?;
    let loaded = config::load(config)?;
    log::start(loaded.policy.log);
    for warning in &loaded.policy.warnings {
        tracing::info!("{warning}");
    }
    if let Err(error) = setup::raise_descriptor_limit() {
        tracing::info!(%error, "the limit of descriptors stays as it is");
    }
    let running = start(config, loaded)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(running))
}

/// No program that this one might ever start could gain a privilege, and no other process of the same user can read its
/// memory, where the keys are, or trace it.
fn renounce_privileges() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        rustix::thread::set_no_new_privs(true)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

fn start(config: &Path, loaded: Loaded) -> Result<Running, DaemonError> {
    let policy = Arc::clone(&loaded.policy);
    let environment = Environment::of_process();
    let folder = environment.state_folder(Some(&policy));
    let (state, watermark) =
        StateFile::open(&folder).map_err(|error| DaemonError::State { folder, error })?;
    let control = ControlSocket::bind_first(&environment.sockets(Some(&policy)))?;
    let edges = setup::edges(&loaded, watermark, Backend::Auto).map_err(DaemonError::Setup)?;
    let listeners = setup::listeners(policy.reach.iter()).map_err(DaemonError::Setup)?;
    let metrics: Result<Vec<_>, _> =
        policy.metrics.listen.iter().map(|address| http::bind(*address)).collect();
    let metrics = metrics.map_err(DaemonError::Setup)?;
    let stats = Arc::new(Stats::default());
    stats.adopt(&policy);
    let pools = Arc::new(Pools::new(&policy));
    let shared = Arc::new(Shared {
        policy: ArcSwap::new(Arc::clone(&policy)),
        stats: Arc::clone(&stats),
        pools: Arc::clone(&pools),
        edges: edges.iter().map(EdgeView::of).collect(),
        started: clock::instant(),
        is_stopping: AtomicBool::new(false),
        not_taken: Mutex::default(),
    });
    let (inbox, commands) = Inbox::new()?;
    let plane = DataPlane::new(inbox, Parts { policy, edges, listeners, pools, stats, state })?;
    let (failing, failed) = oneshot::channel();
    let watchdog = Watchdog::start(vec![plane.watched()?], move |fault| {
        tracing::error!("{fault}; the daemon ends, so that it is started again");
        // Whoever waits for it ends the process in good order, if that is still possible.
        let _ = failing.send(fault);
        end_process_soon();
    })?;
    let (ending, ended) = oneshot::channel();
    let data = thread::Builder::new().name(DATA_THREAD.into()).spawn(move || {
        let result = plane.run();
        // Nobody listens only when the daemon ends anyway.
        let _ = ending.send(());
        result
    })?;
    Ok(Running {
        config: config.to_owned(),
        shared,
        commands,
        control,
        metrics,
        data,
        ended,
        watchdog,
        failed,
    })
}

async fn serve(running: Running) -> Result<(), DaemonError> {
    let Running { config, shared, commands, control, metrics, data, ended, watchdog, failed } = running;
    for listener in metrics {
        let shared = Arc::clone(&shared);
        tokio::task::spawn_local(async move {
            if let Err(error) = http::serve(listener, shared).await {
                tracing::warn!(%error, "metrics are not served");
            }
        });
    }
    let answering = control.serve(Arc::clone(&shared));
    let signals = handle_signals(&config, &shared, &commands)?;
    let socket = control.path().display();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), peers = shared.edges.len(), %socket, "forwarder started");
    notify(&[NotifyState::Ready]);
    let (mut answering, mut signals, mut ended) = (pin!(answering), pin!(signals), pin!(ended));
    let mut failed = pin!(failed);
    let mut receives = Receives::default();
    let mut watch = health::Watch::default();
    let mut was_short = false;
    watch.watch_new(&shared.pools);
    loop {
        tokio::select! {
            _ = &mut ended => break,
            // The thread is not waited for: it may never end.
            Ok(fault) = &mut failed => return Err(DaemonError::DataThread(fault.to_string())),
            result = &mut answering => result?,
            () = &mut signals => {}
            () = tokio::time::sleep(TICK) => {
                watch.watch_new(&shared.pools);
                warn_of_descriptors(&shared, &mut was_short);
                receives.look(&shared);
                tick(&shared, watchdog.is_sound());
            }
        }
    }
    drop(watchdog);
    let result = data.join().map_err(|_| DaemonError::DataThread("it panicked".to_owned()))?;
    result.map_err(|error| DaemonError::DataThread(error.to_string()))?;
    tracing::info!("forwarder stopped");
    Ok(())
}

/// Carries out what signals ask for; never ends.
fn handle_signals<'a>(
    config: &'a Path,
    shared: &'a Shared,
    commands: &'a Commands,
) -> io::Result<impl Future<Output = ()> + 'a> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                () = received(&mut terminate) => stop(shared, commands),
                () = received(&mut interrupt) => stop(shared, commands),
                () = received(&mut hangup) => reload::from_file(config, shared, commands),
            }
        }
    })
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // No more signals of this kind will come.
        std::future::pending::<()>().await;
    }
}

/// Begins to stop; asked a second time, at once.
fn stop(shared: &Shared, commands: &Commands) {
    let again = shared.is_stopping.swap(true, Ordering::Relaxed);
    let drain = if again { Duration::ZERO } else { shared.policy.load().limits.drain };
    notify(&[NotifyState::Stopping]);
    commands.send(Command::Stop { drain });
}

/// Warns once that flows are refused for want of descriptors, until that was not so for a while.
fn warn_of_descriptors(shared: &Shared, was_short: &mut bool) {
    let warning = problems::descriptors(&shared.stats, clock::instant());
    if let Some(warning) = warning.as_ref().filter(|_| !*was_short) {
        tracing::warn!("{warning}");
    }
    *was_short = warning.is_some();
}

/// Which edges' sockets could not be received from at the last look.
#[derive(Default)]
struct Receives {
    failing: BTreeSet<Name>,
}

impl Receives {
    /// Says once that receiving fails, and once that it works again.
    fn look(&mut self, shared: &Shared) {
        let now = clock::instant();
        for edge in &shared.edges {
            match edge.receive_problem(now) {
                Some(problem) if self.failing.insert(edge.name.clone()) => tracing::warn!("{problem}"),
                None if self.failing.remove(&edge.name) => {
                    tracing::info!(peer = %edge.name, "the UDP socket receives again");
                }
                Some(_) | None => {}
            }
        }
    }
}

/// Measures, and reports to systemd that the data thread goes on, if it does.
fn tick(shared: &Shared, is_sound: bool) {
    for edge in &shared.edges {
        edge.measure();
    }
    if !shared.is_stopping() {
        for (edge, peer) in shared.edges.iter().zip(&shared.policy.load().peers) {
            edge.watch_outage(&peer.endpoint);
        }
    }
    let report = report(shared);
    let up = report.peers.iter().filter(|peer| peer.state == "up").count();
    let line = format!("{up} of {} peers up, {} flows", report.peers.len(), report.flows);
    notify(&[NotifyState::Status(&line)]);
    if is_sound {
        notify(&[NotifyState::Watchdog]);
    }
}

/// Tells systemd; without it nothing happens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
