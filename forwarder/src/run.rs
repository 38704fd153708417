//! The daemon has two main threads: one moves data; this one handles signals, the control socket
//! and scrapes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use daemon::changes::{Confirmable, OperatorState, Trials, Trusted, resume};
use daemon::clock_mark::ClockMark;
use daemon::control::server::{Answer, Socket};
use daemon::exit::{Exit, ExitError};
use daemon::files::Lock;
use daemon::history::observer::{Observer, ServiceSeen};
use daemon::history::{History, What};
use daemon::http::Requests;
use daemon::life::{Asked, Listeners, Signals, notify};
use daemon::log;
use daemon::page::StatusPage;
use daemon::totals::Totals;
use parking_lot::Mutex;
use policy::Name;
use policy::forwarder::Policy;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio::time::{MissedTickBehavior, interval_at};
use tunnel::io::clock;
use tunnel::io::udp::Backend;
use tunnel::io::watchdog::{Watchdog, end_process_soon};
use tunnel::progress::Fault;
use tunnel::time::Instant;

use crate::arrivals::Arrivals;
use crate::config::{self, Loaded};
use crate::control::protocol::{Reply, Request};
use crate::control::report::{Report, report};
use crate::control::{EdgeView, Shared, problems};
use crate::dataplane::{Command, Commands, DATA_THREAD, DataPlane, Inbox, Parts};
use crate::flow::EdgeIds;
use crate::handover::start::{Inherited, Program};
use crate::handover::{self, Descriptors};
use crate::link::{self, Links};
use crate::places::{Environment, bind_first};
use crate::state::MarkWriter;
use crate::stats::Stats;
use crate::status_page::OriginPage;
use crate::upgrade::{self, Owned, ask_for_upgrade, finished, outlive};
use crate::upstream::Pools;
use crate::{health, metrics, setup};

/// How often rates are measured and systemd is notified.
const TICK: Duration = Duration::from_secs(5);
/// The least time between two records of a steered name, which any reader may ask for.
const STEERED_EVERY: Duration = Duration::from_secs(1);

/// Everything that was opened at the start.
struct Running {
    origin: Rc<Origin>,
    control: Socket,
    lock: Lock,
    program: Program,
    totals: Totals,
    data: JoinHandle<io::Result<()>>,
    ended: oneshot::Receiver<()>,
    watchdog: Watchdog,
    failed: oneshot::Receiver<Fault>,
}

/// The running forwarder, as its control socket and its pages see it.
pub struct Origin {
    pub(crate) config: PathBuf,
    /// The text in force.
    pub(crate) text: RefCell<String>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: Commands,
    pub(crate) confirmable: Confirmable,
    pub(crate) links: Rc<Links>,
    pub(crate) mark: ClockMark,
    /// The numbers that edges have not had.
    pub(crate) edge_ids: RefCell<EdgeIds>,
    /// Where the metrics page is served.
    pub(crate) scraped: RefCell<Listeners>,
    /// The status page, and where it is served.
    page: Rc<StatusPage<OriginPage>>,
    pub(crate) paged: RefCell<Listeners>,
    /// When a change of the name of `[steer]` was noted last.
    steered: Cell<Option<Instant>>,
    /// Changes happen one at a time.
    pub(crate) applying: tokio::sync::Mutex<()>,
}

/// Runs the daemon in the foreground until it is asked to stop.
///
/// # Errors
/// With the exit code of what is missing or wrong; before anything is changed where that is
/// possible.
pub fn run(config: &Path) -> Result<(), ExitError> {
    let failed = |error: io::Error| ExitError::new(Exit::Failed, error);
    let program = Program::of_process().map_err(failed)?;
    let inherited = Inherited::of_process().map_err(failed)?;
    renounce_privileges().map_err(failed)?;
    // A draft is read as the content of the same path, so that the files both name compare as
    // equal.
    let config = &std::path::absolute(config).map_err(failed)?;
    let loaded = config::load(config)?;
    log::start(loaded.policy.log);
    for warning in &loaded.policy.warnings {
        tracing::info!("{warning}");
    }
    if let Err(error) = setup::raise_descriptor_limit() {
        tracing::info!(%error, "the limit of descriptors stays as it is");
    }
    let running = start(config, loaded, program, inherited)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    LocalSet::new().block_on(&runtime, serve(running))
}

/// No program that this one might ever start could gain a privilege, and no other process of the
/// same user can read its memory, where the keys are, or trace it.
fn renounce_privileges() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        rustix::thread::set_no_new_privs(true)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// What is opened before an old process gives way: until then anything may be refused, and that
/// process goes on.
struct Opened {
    lock: Lock,
    control: Socket,
    plane: DataPlane,
    commands: Commands,
    edges: Vec<Arc<EdgeView>>,
    edge_ids: EdgeIds,
    pages: Vec<(SocketAddr, OwnedFd)>,
    stats: Arc<Stats>,
    pools: Arc<Pools>,
    arrivals: Arc<Arrivals>,
    mark: ClockMark,
}

fn start(
    config: &Path,
    file: Loaded,
    program: Program,
    mut inherited: Option<Inherited>,
) -> Result<Running, ExitError> {
    let system = |error: io::Error| ExitError::new(Exit::Failed, error);
    let folder = Environment::of_process().state_folder(Some(&file.policy));
    let mut passed = inherited.as_mut().map(|old| std::mem::take(&mut old.descriptors)).unwrap_or_default();
    let lock = match passed.take(handover::LOCK) {
        Some(claim) => Lock::passed(claim),
        None => Lock::claim(&folder, "forwarder")?,
    };
    let operator = OperatorState::next_to(&folder, Trusted::by_owner_of(config));
    let trials = Trials::of(&folder);
    let load = |text| Ok(config::load_draft(config, config, text)?);
    let (loaded, startup) = resume(file, config, (&operator, &trials), load);
    let targets = link::targets(&loaded);
    let mut opened = open(&loaded, &folder, lock, passed)?;
    if let Some(inherited) = inherited {
        opened.plane.take_over(inherited.take_over().map_err(system)?).map_err(system)?;
        opened.control.own();
    }
    let Opened { lock, control, plane, commands, edges, edge_ids, pages, mark, .. } = opened;
    let watched = plane.watched().map_err(system)?;
    let (data, ended) = run_data_thread(plane).map_err(system)?;
    let (failing, failed) = oneshot::channel();
    let watchdog = Watchdog::start(vec![watched], move |fault| {
        tracing::error!("{fault}; the daemon ends, so that it is started again");
        // Whoever waits for it ends the process in good order, if that is still possible.
        let _ = failing.send(fault);
        end_process_soon();
    })
    .map_err(system)?;
    // Packets are carried; what needs the disk comes now.
    let totals = Totals::of(&folder);
    totals.give_back(edges.iter().map(|edge| &*edge.node), clock::now());
    let history = History::open(&folder);
    let confirmable =
        Confirmable::new("forwarder", startup, operator.clone(), trials).noted_in(history.clone());
    let shared = Arc::new(Shared {
        policy: ArcSwap::new(loaded.policy),
        stats: opened.stats,
        pools: opened.pools,
        arrivals: opened.arrivals,
        edges: ArcSwap::from_pointee(edges),
        started: clock::instant(),
        is_stopping: AtomicBool::new(false),
        not_taken: Mutex::default(),
        not_upgraded: Mutex::default(),
        link_refusals: Mutex::default(),
        visit_now: watch::channel(()).0,
        since: Mutex::default(),
        operator,
        history,
        page_requests: Requests::default(),
    });
    let links = Links::new(commands.clone(), Arc::clone(&shared), targets).map_err(system)?;
    let origin = Origin::new((config, loaded.text), shared, commands, confirmable, links, (mark, edge_ids));
    origin.take_pages(pages);
    let origin = Rc::new(origin);
    Ok(Running { origin, control, lock, program, totals, data, ended, watchdog, failed })
}

/// Opens everything, by what an old process passed where it did.
fn open(loaded: &Loaded, folder: &Path, lock: Lock, mut passed: Descriptors) -> Result<Opened, ExitError> {
    let system = |error: io::Error| ExitError::new(Exit::Failed, error);
    let refused = |message: String| ExitError::new(Exit::Failed, message);
    let policy = Arc::clone(&loaded.policy);
    let mark = ClockMark::of(folder);
    let places = Environment::of_process().sockets(Some(&policy));
    let control = bind_first(&places, &mut passed)?;
    let (mut edge_ids, at_start) = (EdgeIds::default(), (mark.read(), Backend::Auto));
    let edges = setup::edges(loaded, &mut edge_ids, at_start, &mut passed).map_err(refused)?;
    let listeners = setup::listeners(setup::listened(&policy), &mut passed).map_err(refused)?;
    let pages = upgrade::pages(&mut passed);
    let state = MarkWriter::start(mark.clone()).map_err(system)?;
    let stats = Arc::new(Stats::default());
    stats.adopt(&policy);
    let pools = Arc::new(Pools::new(&policy));
    let arrivals = Arc::<Arrivals>::default();
    let views = edges.iter().map(|edge| Arc::new(EdgeView::of(edge))).collect();
    let (inbox, commands) = Inbox::new().map_err(system)?;
    let (counted, dialled, looked_for) = (Arc::clone(&stats), Arc::clone(&pools), Arc::clone(&arrivals));
    let parts =
        Parts { policy, edges, listeners, pools: dialled, stats: counted, arrivals: looked_for, state };
    let plane = DataPlane::new(inbox, parts).map_err(system)?;
    let edges = views;
    Ok(Opened { lock, control, plane, commands, edges, edge_ids, pages, stats, pools, arrivals, mark })
}

/// A thread that carries packets, and what is sent when it has ended.
type DataThread = (JoinHandle<io::Result<()>>, oneshot::Receiver<()>);

fn run_data_thread(plane: DataPlane) -> io::Result<DataThread> {
    let (ending, ended) = oneshot::channel();
    let thread = thread::Builder::new().name(DATA_THREAD.into()).spawn(move || {
        let result = plane.run();
        // The receiver is gone only when the daemon ends anyway.
        let _ = ending.send(());
        result
    });
    Ok((thread?, ended))
}

async fn serve(running: Running) -> Result<(), ExitError> {
    let Running { origin, control, lock, program, totals, data, ended, watchdog, failed } = running;
    let lost = |reason: String| ExitError::new(Exit::Failed, format!("the data thread failed: {reason}"));
    let system = |error: io::Error| ExitError::new(Exit::Failed, error);
    let shared = &*origin.shared;
    origin.listen(&shared.policy.load())?;
    origin.follow_page();
    let mut signals = Signals::handle().map_err(system)?;
    let socket = control.path().display();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), peers = shared.edges.load().len(), %socket, "forwarder started");
    notify(&[NotifyState::Ready]);
    note_start(shared);
    let mut upgrades = signal(SignalKind::user_defined2()).map_err(system)?;
    let mut upgrading = None;
    let mut is_handed_over = false;
    let (mut answering, mut ended) = (pin!(control.serve(Rc::clone(&origin))), pin!(ended));
    let mut failed = pin!(failed);
    let mut looks = Looks::new(&origin).map_err(system)?;
    let changed = looks.watch.changed();
    origin.links.look();
    origin.links.publish();
    origin.links.start();
    // Other turns of the loop do not put it off: the service manager waits for it.
    let mut ticks = interval_at(tokio::time::Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut ended => break,
            // The thread is not waited for: it may never end.
            Ok(fault) = &mut failed => return Err(lost(fault.to_string())),
            result = &mut answering => result.map_err(system)?,
            asked = signals.next() => match asked {
                Asked::Reload => {
                    let origin = Rc::clone(&origin);
                    drop(spawn_local(async move { daemon::life::reload(&*origin).await }));
                }
                Asked::Stop => origin.stop(),
            },
            _ = upgrades.recv() => {
                let owned = Owned { lock: &lock, control: &control };
                ask_for_upgrade(&origin, &program, owned, &mut upgrading);
            }
            ready = finished(&mut upgrading) => {
                upgrading = None;
                if let Some(ready) = ready {
                    origin.give_way(ready, &control, || keep_totals(&totals, shared));
                    is_handed_over = true;
                    break;
                }
            },
            () = changed.notified() => origin.links.look(),
            _ = ticks.tick() => looks.look(&origin, watchdog.is_healthy()),
        }
    }
    if is_handed_over {
        let outlived = outlive(&origin, &mut signals, ended.as_mut(), failed.as_mut()).await;
        outlived.map_err(|fault| lost(fault.to_string()))?;
    }
    drop(watchdog);
    shared.history.flush();
    let result = data.join().map_err(|_| lost("it panicked".to_owned()))?;
    if !is_handed_over {
        keep_totals(&totals, shared);
    }
    result.map_err(|error| lost(error.to_string()))?;
    tracing::info!("forwarder stopped");
    Ok(())
}

/// What is looked at again and again.
struct Looks {
    watch: health::Watch,
    receives: Receives,
    was_short: bool,
    observer: Observer,
}

impl Looks {
    fn new(origin: &Origin) -> io::Result<Self> {
        let mut watch = health::Watch::new(Arc::clone(&origin.shared))?;
        watch.watch_new(&origin.shared.pools);
        Ok(Self { watch, receives: Receives::default(), was_short: false, observer: Observer::default() })
    }

    fn look(&mut self, origin: &Rc<Origin>, is_healthy: bool) {
        let shared = &*origin.shared;
        self.watch.watch_new(&shared.pools);
        origin.links.look();
        origin.follow_page();
        warn_of_descriptors(shared, &mut self.was_short);
        self.receives.look(shared);
        tick(shared, is_healthy, &mut self.observer);
        if origin.confirmable.is_overdue() {
            let origin = Rc::clone(origin);
            drop(spawn_local(async move { origin.confirmable.roll_back_overdue(&*origin).await }));
        }
    }
}

impl Origin {
    fn new(
        (config, text): (&Path, String),
        shared: Arc<Shared>,
        commands: Commands,
        confirmable: Confirmable,
        links: Rc<Links>,
        (mark, edge_ids): (ClockMark, EdgeIds),
    ) -> Self {
        Self {
            config: config.to_owned(),
            text: RefCell::new(text),
            page: Rc::new(StatusPage::new(OriginPage(Arc::clone(&shared)))),
            paged: RefCell::default(),
            shared,
            commands,
            confirmable,
            links,
            mark,
            edge_ids: RefCell::new(edge_ids),
            scraped: RefCell::default(),
            steered: Cell::default(),
            applying: tokio::sync::Mutex::default(),
        }
    }

    /// Takes the listeners of the pages that an old process passed.
    fn take_pages(&self, pages: Vec<(SocketAddr, OwnedFd)>) {
        let policy = self.shared.policy.load();
        let is_scraped = |(address, _): &(SocketAddr, OwnedFd)| policy.metrics.listen.contains(address);
        let (scraped, paged) = pages.into_iter().partition(is_scraped);
        self.scraped.replace(Listeners::passed(scraped));
        self.paged.replace(Listeners::passed(paged));
    }

    /// Serves the metrics page where this policy has it, and nowhere else.
    ///
    /// # Errors
    /// When an address cannot be had; then it is served where it was.
    pub(crate) fn listen(&self, policy: &Policy) -> Result<(), ExitError> {
        let page = Rc::new(metrics::Page(Arc::clone(&self.shared)));
        self.scraped.borrow_mut().replace(&policy.metrics.listen, &page)
    }

    /// Serves the status page where the policy in force has it. An address that cannot be had stops
    /// nothing else, and is tried again.
    pub(crate) fn follow_page(&self) {
        self.paged.borrow_mut().follow(&self.shared.policy.load().page.addresses(&[]), &self.page);
    }

    /// Notes a change of the name that `[steer]` has, at most one in [`STEERED_EVERY`].
    fn note_steered(&self, name: String, edge: String, present: bool) -> Result<(), ExitError> {
        let policy = self.shared.policy.load();
        let is_ours = policy.steer.as_ref().is_some_and(|steer| steer.name == name)
            && policy.peers.iter().any(|peer| peer.name.as_str() == edge);
        if !is_ours {
            return Err(ExitError::new(
                Exit::Usage,
                "[steer] has no such name, or there is no such [[peer]]",
            ));
        }
        let now = clock::instant();
        if self.steered.get().is_none_or(|before| now.since(before) >= STEERED_EVERY) {
            self.steered.set(Some(now));
            self.shared.history.note(What::Steered { name, edge, present });
        }
        Ok(())
    }

    /// Begins to stop; the second time it stops at once.
    fn stop(&self) {
        let again = self.shared.is_stopping.swap(true, Ordering::Relaxed);
        let drain = if again { Duration::ZERO } else { self.shared.policy.load().limits.drain };
        notify(&[NotifyState::Stopping]);
        if !again {
            self.shared.history.note(What::Stopping { notice: Some(self.links.announced()) });
        }
        self.links.stop();
        self.commands.send(Command::Stop { drain });
    }
}

impl Answer for Origin {
    type Request = Request;
    type Reply = Reply;

    fn is_privileged(request: &Request) -> bool {
        request.is_privileged()
    }

    async fn answer(&self, request: Request) -> Result<Reply, ExitError> {
        match request {
            Request::Report => Ok(Reply::Report(Box::new(report(&self.shared)))),
            Request::Visit => {
                health::visit_now(&self.shared).await;
                Ok(Reply::Report(Box::new(report(&self.shared))))
            }
            Request::History(query) => {
                let history = self.shared.history.clone();
                let read = spawn_blocking(move || history.read(&query)).await;
                read.map(Reply::History).map_err(|error| ExitError::new(Exit::Failed, error))
            }
            Request::FarHistory { seconds } => Ok(Reply::FarHistory(self.links.far_history(seconds).await)),
            Request::NoteStack { stack, what } => {
                self.shared.history.note(What::Stack { stack, what });
                Ok(Reply::Noted)
            }
            Request::Reported { hop } => {
                self.links.announce_reported(hop);
                Ok(Reply::Noted)
            }
            Request::Steered { name, edge, present } => {
                self.note_steered(name, edge, present)?;
                Ok(Reply::Noted)
            }
            Request::Diagnose { service } => {
                Ok(Reply::Diagnosis(self.links.diagnosis(service.as_deref()).await))
            }
            Request::Change(request) => self.confirmable.answer(self, request).await.map(Reply::Change),
        }
    }
}

/// Notes the start, and where it is one of an earlier version after an upgrade that failed, why.
fn note_start(shared: &Shared) {
    let went_back = shared.operator.went_back();
    if let Some(noted) = &went_back {
        tracing::warn!("{}", noted.problem("forwarder"));
    }
    let failed = went_back.map(|noted| noted.failed);
    shared.history.note(What::Started { version: env!("CARGO_PKG_VERSION").to_owned(), failed });
}

/// Keeps what was carried with each edge, for the next start.
fn keep_totals(totals: &Totals, shared: &Shared) {
    let peers: Vec<_> = shared.edges.load().iter().flat_map(|edge| edge.node.peers(clock::now())).collect();
    if let Err(error) = totals.keep(&peers) {
        tracing::warn!(
            "the peers' totals cannot be written ({error}) and begin at zero; free disk space or fix the state \
             folder's permissions"
        );
    }
}

/// Warns once that flows are refused because no descriptor is free; again only after that was over
/// for a while.
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
        let (now, edges) = (clock::instant(), shared.edges.load());
        self.failing.retain(|name| edges.iter().any(|edge| edge.name == *name));
        for edge in edges.iter() {
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

/// Measures, and notifies systemd's watchdog if the data thread is running.
fn tick(shared: &Shared, is_sound: bool, observer: &mut Observer) {
    for edge in shared.edges.load().iter() {
        edge.measure();
    }
    if !shared.is_stopping() {
        for (edge, peer) in shared.edges.load().iter().zip(&shared.policy.load().peers) {
            edge.watch_outage(&peer.endpoint);
        }
    }
    let report = report(shared);
    note_changes(shared, &report, observer);
    let up = report.peers.iter().filter(|peer| peer.is_up()).count();
    let line = format!("{up} of {} peers up, {} flows", report.peers.len(), report.flows);
    notify(&[NotifyState::Status(&line)]);
    if is_sound {
        notify(&[NotifyState::Watchdog]);
    }
}

/// Notes in the history what is another than at the tick before.
fn note_changes(shared: &Shared, report: &Report, observer: &mut Observer) {
    let with_health = report.services.iter().filter_map(|entry| Some((entry, entry.health.as_ref()?)));
    let services: Vec<_> = with_health
        .map(|(entry, path)| ServiceSeen { name: &entry.name, path, names: &entry.names, peer: None })
        .collect();
    let changes = observer.handle_look(clock::instant(), &report.peers, &services);
    changes.into_iter().for_each(|what| shared.history.note(what));
}
