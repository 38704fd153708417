//! The daemon: from the command line to a running edge, and its life until a signal ends it.
//!
//! Order matters: the helper starts before the first thread, everything privileged is taken through it, then this process
//! drops its capabilities, and only then do threads and sockets begin to parse what strangers send. On the way down
//! nothing is removed: rules, routes and device stay as they are, closed, until `gateway down`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use policy::Host;
use policy::gateway::Policy;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};
use tunnel::device::DeviceEvent;

use crate::config::{self, Config};
use crate::control::protocol::{Reply, Request};
use crate::control::report::{Change, Changes, SCHEMA};
use crate::control::server::{Answer, Socket, failed};
use crate::edge::{Beginning, Edge, Hands, begin, refusal, take_hands};
use crate::exit::{Exit, Stop};
use crate::kernel::{Helper, Scope};
use crate::metrics::http::{self, Pages};
use crate::metrics::process;
use crate::sandbox::{self, Confinement};
use crate::state::{Lock, State};
use crate::{log, memory, privilege};

/// How often the edge looks after itself while there is something to see.
const TICK: Duration = Duration::from_secs(1);
/// How often while there is nothing: no traffic, nobody who asks, no change that waits.
const QUIET_TICK: Duration = Duration::from_secs(4);

/// Runs the edge until a signal ends it.
///
/// # Errors
/// With the exit code of what is missing or wrong; before the ruleset was accepted, nothing has been changed.
pub fn run(path: &Path) -> Result<(), Stop> {
    let config = config::load(path)?;
    log::install(config.policy.log);
    for warning in &config.policy.warnings {
        tracing::info!("{warning}");
    }
    let permission = |error: &dyn std::fmt::Display| Stop::new(Exit::Permission, error);
    privilege::require().map_err(|error| permission(&error))?;
    privilege::hand_down().map_err(|error| permission(&error))?;
    let helper = Helper::start(Scope::of(&config.policy, path))
        .map_err(|error| Stop::new(Exit::Failed, format!("the kernel helper does not start: {error}")))?;
    helper.probe().map_err(refusal)?;
    let (state, _lock) = claim_state(&config.policy)?;
    let (config, beginning) = begin(config, &state);
    let socket = bind_control(&config.policy)?;
    let hands = take_hands(&config, &helper, &state).map_err(refusal)?;
    process::read_units();
    privilege::drop_all().map_err(|error| permission(&error))?;
    confine(&config.policy);
    serve(config, hands, (helper, state, beginning), &socket)
}

/// Leaves this process no file to change but its own, and no program to run, where the kernel has Landlock.
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

fn claim_state(policy: &Policy) -> Result<(State, Lock), Stop> {
    let folder = policy.state_directory.display();
    let refused = |error: std::io::Error| {
        let mend = "give the daemon's user the folder, or set [state] directory";
        Stop::new(Exit::Permission, format!("the state folder {folder}: {error}; {mend}"))
    };
    let state = State::open(&policy.state_directory).map_err(refused)?;
    match state.lock().map_err(refused)? {
        Some(lock) => Ok((state, lock)),
        None => {
            Err(Stop::new(Exit::Conflict, format!("another gateway runs with the state folder {folder}")))
        }
    }
}

fn bind_control(policy: &Policy) -> Result<Socket, Stop> {
    let control = &policy.control;
    Socket::bind(&control.socket, &control.group).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::Permission,
            std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AlreadyExists => Exit::Conflict,
            _ => Exit::Failed,
        };
        Stop::new(exit, format!("the control socket {}: {error}", control.socket.display()))
    })
}

fn serve(
    config: Config,
    hands: Hands,
    (helper, state, beginning): (Helper, State, Beginning),
    socket: &Socket,
) -> Result<(), Stop> {
    let (edge, events) = Edge::start(config, hands, helper, state, beginning).map_err(refusal)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let runtime = runtime.map_err(|error| Stop::new(Exit::Failed, format!("the control thread: {error}")))?;
    let ended = LocalSet::new().block_on(&runtime, live(Rc::new(edge), events, socket));
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

/// The edge's life: events, signals, clients and scrapes, until the end.
async fn live(edge: Rc<Edge>, mut events: Receiver<DeviceEvent>, socket: &Socket) -> Result<(), Stop> {
    let failed = |error: std::io::Error| Stop::new(Exit::Failed, format!("signals: {error}"));
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut listeners = Listeners::default();
    listeners.start(&edge)?;
    edge.resolve_all();
    let mut repairs = spawn_local(Rc::clone(&edge).reconcile());
    memory::give_back();
    tracing::info!("the edge is up");
    notify(&[NotifyState::Ready, NotifyState::Status(&edge.headline().1)]);
    let mut file = Watched::new(&edge);
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
                    edge.keep_endpoints();
                    return Err(Stop::new(Exit::Failed, "the data plane ended"));
                }
            },
            () = asked.notified(), if is_quiet => tick.reset_immediately(),
            _ = tick.tick() => {
                is_quiet = !look_after(&edge, &mut listeners)? && !edge.needs_seconds();
                tick.reset_after(if is_quiet { QUIET_TICK } else { TICK });
                if edge.is_confirmation_overdue() {
                    let edge = Rc::clone(&edge);
                    drop(spawn_local(async move {
                        edge.take_back_overdue().await;
                        edge.resolve_all();
                    }));
                }
                if file.has_changed(&edge) {
                    drop(spawn_local(reload(Rc::clone(&edge), Rc::clone(&asked))));
                }
            }
            _ = hangup.recv() => drop(spawn_local(reload(Rc::clone(&edge), Rc::clone(&asked)))),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            reason = &mut repairs => {
                edge.keep_endpoints();
                return Err(lost(&reason.unwrap_or_else(|error| error.to_string())));
            }
            ended = &mut control => ended.map_err(|error| Stop::new(Exit::Failed, format!("the control socket: {error}")))?,
        }
    }
    notify(&[NotifyState::Stopping]);
    edge.keep_endpoints();
    tracing::info!("the daemon ends; rules, routes and device stay as they are, closed");
    Ok(())
}

/// Whether there was traffic since the last look.
fn look_after(edge: &Rc<Edge>, listeners: &mut Listeners) -> Result<bool, Stop> {
    let has_traffic = edge.sample();
    edge.look_at_calls();
    edge.keep_endpoints_again();
    edge.follow_path_mtu();
    edge.warn_of_refused_handshakes();
    listeners.follow(edge);
    if let Some(fault) = edge.fault() {
        return Err(lost(&fault));
    }
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        notify(&[NotifyState::Watchdog, NotifyState::Status(&edge.headline().1)]);
    }
    Ok(has_traffic)
}

/// The end of a daemon that cannot go on, for whoever reads the log and for whoever started it.
fn lost(fault: &str) -> Stop {
    tracing::error!("{fault}; the daemon ends, so that it is started again; rules and routes stay, closed");
    Stop::new(Exit::Failed, fault)
}

async fn reload(edge: Rc<Edge>, asked: Rc<Notify>) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
    match edge.reload().await {
        Ok(changes) => {
            tracing::info!(changes = changes.len(), "the configuration was applied");
            edge.resolve_all();
        }
        Err(stop) => {
            for line in stop.message.lines() {
                tracing::warn!("not applied, the configuration before stays in force: {line}");
            }
        }
    }
    notify(&[NotifyState::Ready]);
    asked.notify_one();
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// When a file was last written, and its length.
type Stamp = (SystemTime, u64);

/// The configuration file as it was last taken and as it was last seen, for `[reload] watch`.
struct Watched {
    taken: Option<Stamp>,
    seen: Option<Stamp>,
}

impl Watched {
    fn new(edge: &Edge) -> Self {
        let seen = Self::look(edge);
        Self { taken: seen, seen }
    }

    /// Whether the file is wanted to be watched and is another than before.
    fn has_changed(&mut self, edge: &Edge) -> bool {
        edge.is_file_watched() && self.handle_look(Self::look(edge))
    }

    /// Whether what is seen now is to be taken: it differs, and it was the same at the last look, so that nobody is in the
    /// middle of writing it. A file that is gone is no change.
    fn handle_look(&mut self, now: Option<Stamp>) -> bool {
        let is_settled = now.is_some() && now == self.seen;
        self.seen = now;
        let is_taken = is_settled && now != self.taken;
        if is_taken {
            self.taken = now;
        }
        is_taken
    }

    fn look(edge: &Edge) -> Option<Stamp> {
        let metadata = std::fs::metadata(edge.config_path()).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }
}

/// The metrics listeners that run, by address.
#[derive(Default)]
struct Listeners {
    running: BTreeMap<SocketAddr, AbortHandle>,
    refused: Vec<SocketAddr>,
}

impl Listeners {
    fn start(&mut self, edge: &Rc<Edge>) -> Result<(), Stop> {
        for address in edge.metrics_addresses() {
            self.listen(address, edge).map_err(|error| {
                let conflict = error.kind() == std::io::ErrorKind::AddrInUse;
                Stop::new(if conflict { Exit::Conflict } else { Exit::Failed }, error)
            })?;
        }
        Ok(())
    }

    /// Listens where the configuration now says, and nowhere else.
    fn follow(&mut self, edge: &Rc<Edge>) {
        let wanted = edge.metrics_addresses();
        self.running.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        self.refused.retain(|address| wanted.contains(address));
        for address in wanted {
            if self.running.contains_key(&address) {
                continue;
            }
            match self.listen(address, edge) {
                Ok(()) => self.refused.retain(|refused| *refused != address),
                Err(_) if self.refused.contains(&address) => {}
                Err(error) => {
                    tracing::warn!("{error}; free the address or change [metrics] listen");
                    self.refused.push(address);
                }
            }
        }
    }

    fn listen(&mut self, address: SocketAddr, edge: &Rc<Edge>) -> std::io::Result<()> {
        let listener = http::bind(address)?;
        let task = spawn_local(http::serve(listener, Rc::clone(edge)));
        self.running.insert(address, task.abort_handle());
        Ok(())
    }
}

impl Pages for Edge {
    async fn metrics(&self) -> String {
        self.metrics_page().await
    }

    fn readiness(&self) -> (bool, String) {
        let (ready, line) = self.headline();
        match self.fault() {
            Some(fault) => (false, fault + "\n"),
            None => (ready, line + "\n"),
        }
    }

    fn hosts(&self) -> Vec<Host> {
        self.metrics_hosts()
    }
}

/// What control clients are answered.
struct Control {
    edge: Rc<Edge>,
    /// Told of every request.
    asked: Rc<Notify>,
}

impl Answer for Control {
    async fn answer(&self, request: Request) -> Reply {
        let edge = &self.edge;
        let answer = match request {
            Request::Peers => Ok(Reply::Peers(edge.peers())),
            Request::Dump { show_keys } => Ok(Reply::Dump(edge.dump(show_keys))),
            Request::Services => edge.services().await.map(Reply::Services).map_err(refusal),
            Request::Status => Ok(Reply::Status(edge.status().await)),
            Request::OwnFile => Ok(Reply::OwnFile {
                path: edge.config_path().to_owned(),
                in_force: edge.is_file_in_force(),
                waits_seconds: edge.confirm_within().map(|left| left.as_secs()),
            }),
            Request::Flows { service, address, limit } => {
                edge.flows(service.as_deref(), address, limit).await.map(Reply::Flows)
            }
            Request::Offloads => Ok(Reply::Offloads(edge.offloads())),
            Request::SetOffloads { switches } => edge.set_offloads(&switches).map(Reply::Offloads),
            Request::Bans => edge.bans().await.map(Reply::Bans).map_err(refusal),
            Request::Ban { address, seconds } => edge.ban(address, seconds).await.map(|()| Reply::Done),
            Request::Unban { address } => edge.unban(address).await.map(|()| Reply::Done).map_err(refusal),
            Request::Plan { name, text } => plan(edge, &name, text),
            Request::Apply { name, text, confirm } => {
                let applied = edge.apply_text(&name, text, confirm).await;
                edge.resolve_all();
                applied.map(changes)
            }
            Request::Confirm { id } => edge.confirm(id.as_deref()).await.map(|()| Reply::Done),
            Request::TakeBack => {
                let taken = edge.take_back().await;
                edge.resolve_all();
                taken.map(|was_waiting| Reply::TakenBack { was_waiting })
            }
            Request::Reload => {
                let applied = edge.reload().await;
                edge.resolve_all();
                applied.map(changes)
            }
        };
        self.asked.notify_one();
        answer.unwrap_or_else(|stop| failed(stop.exit, stop.message))
    }
}

fn plan(edge: &Edge, name: &Path, text: String) -> Result<Reply, Stop> {
    let config = config::load_draft(edge.config_path(), name, text)?;
    Ok(changes(edge.plan(&config)))
}

fn changes(changes: Vec<policy::plan::Change>) -> Reply {
    let change = |change: policy::plan::Change| Change { part: change.part.to_owned(), line: change.line };
    Reply::Changes(Changes { schema: SCHEMA, changes: changes.into_iter().map(change).collect() })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::Watched;

    #[test]
    fn a_file_is_taken_once_and_only_when_nobody_is_writing_it() {
        let stamp = |seconds, len| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), len));
        let mut file = Watched { taken: stamp(1, 100), seen: stamp(1, 100) };

        let looks =
            [stamp(1, 100), stamp(2, 0), stamp(2, 120), stamp(2, 120), stamp(2, 120), None, stamp(2, 120)];
        let taken: Vec<bool> = looks.into_iter().map(|look| file.handle_look(look)).collect();

        assert_eq!(taken, [false, false, false, true, false, false, false]);
    }
}
