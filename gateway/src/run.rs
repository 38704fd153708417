//! The daemon: from the command line to a running edge, and its life until a signal ends it.
//!
//! Order matters: the helper starts before the first thread, everything privileged is taken through
//! it, then this process drops its capabilities, and only then do threads and sockets begin to
//! parse what unauthenticated sources send. On the way down nothing is removed: rules, routes and
//! device stay as they are, closed, until `gateway down`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use policy::FileLocation;
use policy::gateway::Policy;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};
use tunnel::device::DeviceEvent;

use crate::config::{self, Config};
use crate::control::protocol::{Reply, Request};
use crate::edge::{Edge, EdgePage, Resources, acquire, resume};
use crate::kernel::{Helper, Scope};
use crate::sandbox::{self, Confinement};
use crate::state::State;
use crate::{memory, privilege};
use daemon::changes::{Applies as _, Confirmable};
use daemon::control::server::{Access, Answer, Socket};
use daemon::exit::{Exit, ExitError};
use daemon::life::{Asked, Listeners, Signals, WatchedFile, notify};
use daemon::log;
use daemon::metrics::process;
use daemon::page::StatusPage;

/// How often periodic work is done while there is traffic.
const TICK: Duration = Duration::from_secs(1);
/// How often while the edge is idle: no traffic, no request, no change that waits.
const QUIET_TICK: Duration = Duration::from_secs(4);
/// How long a thread that waited for the kernel helper is kept: longer than from one check of the
/// machine to the next, so that an idle edge does not begin a thread for each.
const KEEP_THREAD: Duration = Duration::from_secs(15);

/// Runs the edge until a signal ends it.
///
/// # Errors
/// With the exit code of what is missing or wrong; before the ruleset was accepted, nothing has
/// been changed.
pub fn run(path: &Path) -> Result<(), ExitError> {
    // A draft is read as the content of the same path, so that the files both name compare as
    // equal.
    let path = &std::path::absolute(path).map_err(|error| ExitError::new(Exit::Failed, error))?;
    let config = config::load(path)?;
    log::start(config.policy.log);
    for warning in &config.policy.warnings {
        tracing::info!("{warning}");
    }
    let permission = |error: &dyn std::fmt::Display| ExitError::new(Exit::Permission, error);
    privilege::require().map_err(|error| permission(&error))?;
    privilege::keep_across_exec().map_err(|error| permission(&error))?;
    let helper = Helper::start(Scope::of(&config.policy, path)).map_err(|error| {
        ExitError::new(Exit::Failed, format!("the kernel helper does not start: {error}"))
    })?;
    helper.probe()?;
    let state = State::at(&config.policy.state_directory);
    let _lock = state.claim()?;
    let (config, confirmable) = resume(config, &state);
    let socket = bind_control(&config.policy)?;
    let resources = acquire(&config, &helper, &state)?;
    process::read_units();
    privilege::drop_all().map_err(|error| permission(&error))?;
    confine(&config.policy);
    serve(config, resources, (helper, state, confirmable), &socket)
}

/// Confines this process to changing its own files and running no program, where the kernel has
/// Landlock.
fn confine(policy: &Policy) {
    let wg = Path::new(tunnel::uapi::server::DIRECTORY);
    if let Err(error) = std::fs::create_dir_all(wg) {
        tracing::debug!(%error, folder = %wg.display(), "the folder of the wg socket cannot be made yet");
    }
    let control = policy.control.socket.parent().unwrap_or(Path::new("/"));
    match sandbox::confine(&[&policy.state_directory, control, wg]) {
        Ok(Confinement::Enforced) => tracing::debug!("confined to the daemon's own folders"),
        Ok(Confinement::NotBuilt) => {
            tracing::info!("this kernel was built without Landlock; the unit's own confinement has to do");
        }
        Ok(Confinement::TurnedOff) => {
            tracing::info!(
                "Landlock is turned off by the kernel's lsm= parameter; the unit's own confinement has to do"
            );
        }
        Ok(Confinement::Filtered) => tracing::info!(
            "a seccomp filter forbids Landlock; allow it in the unit: \
             SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"
        ),
        Err(error) => {
            tracing::info!(%error, "not confined by Landlock; the unit's own confinement has to do")
        }
    }
}

fn bind_control(policy: &Policy) -> Result<Socket, ExitError> {
    let control = &policy.control;
    Socket::bind(&control.socket, Access::Group(&control.group))
        .map_err(|error| ExitError::new(error.exit(), format!("the control socket {error}")))
}

fn serve(
    config: Config,
    resources: Resources,
    (helper, state, confirmable): (Helper, State, Confirmable),
    socket: &Socket,
) -> Result<(), ExitError> {
    let (edge, events) = Edge::start(config, resources, helper, state, confirmable)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_keep_alive(KEEP_THREAD)
        .build();
    let runtime =
        runtime.map_err(|error| ExitError::new(Exit::Failed, format!("the control thread: {error}")))?;
    let ended = LocalSet::new().block_on(&runtime, event_loop(Rc::new(edge), events, socket));
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

/// The edge's life: events, signals, clients and scrapes, until the end.
async fn event_loop(
    edge: Rc<Edge>,
    mut events: Receiver<DeviceEvent>,
    socket: &Socket,
) -> Result<(), ExitError> {
    let failed = |error: std::io::Error| ExitError::new(Exit::Failed, format!("signals: {error}"));
    let mut signals = Signals::handle().map_err(failed)?;
    let mut listeners = Listeners::default();
    listeners.start(&edge.config().policy.metrics.listen, &edge)?;
    let mut page = Served::new(&edge);
    page.follow();
    let mut repairs = spawn_local(Rc::clone(&edge).reconcile());
    drop(spawn_local(refuse_upgrades_in_place()));
    memory::trim_heap();
    tracing::info!("gateway started");
    notify(&[NotifyState::Ready, NotifyState::Status(&edge.headline().1)]);
    let mut files = Watched::new(&edge);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = Rc::new(Notify::new());
    let control = socket.serve(Rc::new(Control { edge: Rc::clone(&edge), asked: Rc::clone(&asked) }));
    tokio::pin!(control);
    let mut is_quiet = false;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) if edge.handle_event(event) => {
                    if std::mem::take(&mut is_quiet) {
                        tick.reset_after(TICK);
                    }
                }
                _ => {
                    edge.keep_for_next_start();
                    return Err(ExitError::new(Exit::Failed, "the data plane ended"));
                }
            },
            () = asked.notified(), if is_quiet => tick.reset_immediately(),
            _ = tick.tick() => {
                let is_watched = edge.config().policy.watch;
                let needs_seconds = is_watched || edge.confirmable().is_waiting();
                is_quiet = !look_after(&edge, &mut listeners, &mut page)? && !needs_seconds;
                tick.reset_after(if is_quiet { QUIET_TICK } else { TICK });
                if edge.confirmable().is_overdue() {
                    let edge = Rc::clone(&edge);
                    drop(spawn_local(async move { edge.confirmable().roll_back_overdue(&*edge).await }));
                }
                if files.have_changed(&edge) {
                    drop(spawn_local(reload(Rc::clone(&edge), Rc::clone(&asked))));
                }
            }
            signal = signals.next() => match signal {
                Asked::Reload => drop(spawn_local(reload(Rc::clone(&edge), Rc::clone(&asked)))),
                Asked::Stop => break,
            },
            reason = &mut repairs => {
                edge.keep_for_next_start();
                return Err(lost(&reason.unwrap_or_else(|error| error.to_string())));
            }
            ended = &mut control => ended.map_err(|error| ExitError::new(Exit::Failed, format!("the control socket: {error}")))?,
        }
    }
    notify(&[NotifyState::Stopping]);
    edge.announce_stop().await;
    edge.keep_for_next_start();
    edge.keep_history();
    tracing::info!("the daemon ends; rules, routes and device stay as they are, closed");
    Ok(())
}

/// SIGUSR2 upgrades an origin in place. Here it must not end the daemon, which would count as a failure
/// of its program.
async fn refuse_upgrades_in_place() {
    let Ok(mut asked) = signal(SignalKind::user_defined2()) else { return };
    while asked.recv().await.is_some() {
        tracing::warn!(
            "SIGUSR2 upgrades an origin in place, and an edge has no such upgrade; its flows continue over a \
             restart: systemctl restart gateway"
        );
    }
}

/// The files whose changes are applied: the configuration with `[reload] watch`, and lists that are
/// fetched, which `causeway-agent` replaces.
struct Watched {
    config: WatchedFile,
    lists: BTreeMap<PathBuf, WatchedFile>,
}

impl Watched {
    fn new(edge: &Edge) -> Self {
        let lists = fetched(edge).map(|path| (path.clone(), WatchedFile::new(&path))).collect();
        Self { config: WatchedFile::new(edge.config_path()), lists }
    }

    fn have_changed(&mut self, edge: &Edge) -> bool {
        let is_config = edge.config().policy.watch && self.config.has_changed(edge.config_path());
        let mut is_list = false;
        for path in fetched(edge) {
            // One that the configuration has just named is in force as it is.
            let file = self.lists.entry(path.clone()).or_insert_with(|| WatchedFile::new(&path));
            is_list |= file.has_changed(&path);
        }
        is_config || is_list
    }
}

/// The files of lists that have an address.
fn fetched(edge: &Edge) -> impl Iterator<Item = PathBuf> {
    let config = edge.config();
    let fetched = config.policy.lists.iter().filter(|list| !list.urls.is_empty());
    let path = |list: &policy::sections::List| match &list.file.location {
        FileLocation::Path(path) => Some(path.clone()),
        FileLocation::Credential(_) => None,
    };
    fetched.filter_map(path).collect::<Vec<_>>().into_iter()
}

/// The status page with its listeners.
struct Served {
    edge: Rc<Edge>,
    page: Rc<StatusPage<EdgePage>>,
    listeners: Listeners,
}

impl Served {
    fn new(edge: &Rc<Edge>) -> Self {
        let page = Rc::new(StatusPage::new(EdgePage(Rc::clone(edge))));
        Self { edge: Rc::clone(edge), page, listeners: Listeners::default() }
    }

    /// Listens where the policy has it now. An address that cannot be had stops nothing else.
    fn follow(&mut self) {
        self.listeners.follow(&self.edge.page_addresses(), &self.page);
    }
}

/// Whether there was traffic since the last time.
fn look_after(edge: &Rc<Edge>, listeners: &mut Listeners, page: &mut Served) -> Result<bool, ExitError> {
    let has_traffic = edge.tick();
    listeners.follow(&edge.config().policy.metrics.listen, edge);
    page.follow();
    if let Some(fault) = edge.fault() {
        return Err(lost(&fault));
    }
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        notify(&[NotifyState::Watchdog, NotifyState::Status(&edge.headline().1)]);
    }
    Ok(has_traffic)
}

/// Logs why the daemon cannot go on, and returns the error that it ends with.
fn lost(fault: &str) -> ExitError {
    tracing::error!("{fault}; the daemon ends, so that it is started again; rules and routes stay, closed");
    ExitError::new(Exit::Failed, fault)
}

async fn reload(edge: Rc<Edge>, asked: Rc<Notify>) {
    daemon::life::reload(&*edge).await;
    asked.notify_one();
}

/// What control clients are answered.
struct Control {
    edge: Rc<Edge>,
    /// Notified of every request.
    asked: Rc<Notify>,
}

impl Answer for Control {
    type Request = Request;
    type Reply = Reply;

    fn is_privileged(request: &Request) -> bool {
        request.is_privileged()
    }

    async fn answer(&self, request: Request) -> Result<Reply, ExitError> {
        let reply = self.edge.answer(request).await;
        self.asked.notify_one();
        reply
    }
}
