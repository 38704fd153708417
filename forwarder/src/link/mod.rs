//! The links to the edges: one for each that has an address inside the tunnel to ask.
//!
//! A connection is one half of a socket pair whose other half the data thread carries through the
//! tunnel, as it carries a local client's. What is said on it is decided in [`daemon::link`].

mod diagnosis;
mod end;
mod history;
mod redial;
mod services;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use daemon::history::What;
use daemon::link::asking::Replies;
use daemon::link::health::Reporter;
use daemon::link::hello::{Identity, Role};
use daemon::link::message::{About, Health, ReportedHop, SENDS_HISTORY};
use daemon::link::publish::Port;
use daemon::link::session::{Ended, Session};
use daemon::link::shell::{self, carry};
use policy::Name;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tunnel::io::clock;
use tunnel::key::{PresharedKey, PrivateKey, PublicKey};
use tunnel::time::Instant;

use crate::config::Loaded;
use crate::control::{EdgeView, Shared};
use crate::dataplane::{Command, Commands, LinkDial};
use crate::edge_keys::EdgeKeys;
use crate::flow::EdgeId;
use crate::health::Prober;
use end::End;
use redial::Redial;
pub(crate) use services::{check_failure, names, state};

/// How long the announcement of an end may take.
const ANNOUNCING: Duration = Duration::from_millis(500);

/// Where a link leads, and what proves both ends but the edge's key in use.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    own: PrivateKey,
    preshared: Option<PresharedKey>,
}

impl Target {
    fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.own.public() == other.own.public()
            && self.preshared == other.preshared
    }
}

/// The target of each `[[peer]]`, in order; `None` for one that has no address inside the tunnel to
/// ask.
#[must_use]
pub fn targets(loaded: &Loaded) -> Vec<Option<Target>> {
    let policy = &loaded.policy;
    let target = |(peer, keys): (&policy::forwarder::Peer, &crate::config::Keys)| {
        Some(Target {
            address: SocketAddr::new(peer.probe?, policy.link.port),
            own: keys.private.clone(),
            preshared: keys.preshared.clone(),
        })
    };
    policy.peers.iter().zip(&loaded.keys).map(target).collect()
}

/// What the tasks are to do.
struct Orders {
    /// The target of each edge that there is.
    targets: BTreeMap<EdgeId, Option<Target>>,
    is_stopping: bool,
}

impl Orders {
    fn target(&self, edge: EdgeId) -> Option<&Target> {
        self.targets.get(&edge)?.as_ref().filter(|_| !self.is_stopping)
    }

    /// Whether there will be no link to the edge any more.
    fn is_over(&self, edge: EdgeId) -> bool {
        self.is_stopping || !self.targets.contains_key(&edge)
    }
}

/// The targets by edge; both are in the order of the configuration.
fn by_edge(edges: &[Arc<EdgeView>], targets: Vec<Option<Target>>) -> BTreeMap<EdgeId, Option<Target>> {
    edges.iter().map(|edge| edge.id).zip(targets).collect()
}

/// The links of this forwarder.
pub struct Links {
    about: About,
    commands: Commands,
    shared: Arc<Shared>,
    orders: watch::Sender<Orders>,
    reporter: RefCell<Reporter>,
    open: RefCell<Vec<Weak<End>>>,
    started: RefCell<BTreeSet<EdgeId>>,
    replies: Replies,
    /// What tries services when an edge asks.
    prober: Prober,
    /// Services are tried for one diagnosis at a time.
    diagnosing: tokio::sync::Mutex<()>,
}

impl Links {
    /// No link so far.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        commands: Commands,
        shared: Arc<Shared>,
        targets: Vec<Option<Target>>,
    ) -> io::Result<Rc<Self>> {
        let targets = by_edge(&shared.edges.load(), targets);
        let (orders, _) = watch::channel(Orders { targets, is_stopping: false });
        Ok(Rc::new(Self {
            about: shell::about(env!("CARGO_PKG_VERSION"), &[SENDS_HISTORY])?,
            commands,
            shared,
            orders,
            reporter: RefCell::default(),
            open: RefCell::default(),
            started: RefCell::default(),
            replies: Replies::default(),
            prober: Prober::new().map_err(io::Error::other)?,
            diagnosing: tokio::sync::Mutex::default(),
        }))
    }

    /// Keeps a link to every edge from now on, those included that a reload added.
    ///
    /// Must be called within a [`tokio::task::LocalSet`].
    pub fn start(self: &Rc<Self>) {
        let edges = self.shared.edges.load();
        let before = self.started.replace(edges.iter().map(|edge| edge.id).collect());
        for edge in edges.iter().filter(|edge| !before.contains(&edge.id)) {
            drop(spawn_local(keep(Rc::clone(self), Arc::clone(edge))));
        }
    }

    /// Takes the targets of another configuration, once its edges are known; a link whose target
    /// changed or went ends.
    pub fn follow(self: &Rc<Self>, targets: Vec<Option<Target>>) {
        let targets = by_edge(&self.shared.edges.load(), targets);
        self.orders.send_modify(|orders| orders.targets = targets);
        self.publish();
        self.start();
    }

    /// Takes the public ports that the configuration requests of each edge, and requests them where
    /// they changed.
    pub fn publish(&self) {
        let policy = self.shared.policy.load();
        for (edge, peer) in self.shared.edges.load().iter().zip(&policy.peers) {
            let wanted = policy.requested_of(peer).iter().filter_map(Port::of).collect();
            let is_new = edge.publishing.lock().set_wanted(wanted);
            let is_its = |end: &Rc<End>| end.is_to(&edge.name);
            for end in self.open.borrow().iter().filter_map(Weak::upgrade).filter(|end| is_new && is_its(end))
            {
                end.publish();
            }
        }
    }

    /// Announces the stop on every link, and ends it.
    pub fn stop(&self) {
        self.orders.send_modify(|orders| orders.is_stopping = true);
    }

    /// Announces on every link that the agent of this end reported what fails at a hop.
    pub fn announce_reported(&self, hop: ReportedHop) {
        let now = clock::instant();
        for end in self.open.borrow().iter().filter_map(Weak::upgrade).filter(|end| end.was_open()) {
            end.announce_reported(now, hop);
        }
    }

    /// Notes in the history that an edge announced its stop.
    fn note_notice(&self, peer: &Name) {
        let notice = "stopping".to_owned();
        self.shared.history.note(What::Notice { peer: peer.to_string(), notice });
    }

    /// What the edges are sent about a stop.
    pub fn announced(&self) -> String {
        format!("back within {} s", end::BACK_WITHIN.as_secs())
    }

    /// Looks at the services, and reports what changed.
    pub fn look(&self) {
        let now = clock::instant();
        let seen = services::services(now, &self.shared.policy.load(), &self.shared.pools.load());
        let reports = self.reporter.borrow_mut().handle_look(now, seen);
        self.open.borrow_mut().retain(|end| end.strong_count() > 0);
        for end in self.open.borrow().iter().filter_map(Weak::upgrade).filter(|_| !reports.is_empty()) {
            end.report(now, &reports);
        }
    }

    /// Everything, as the edge of this name is sent it.
    fn digest(&self, now: Instant, edge: &Name) -> Vec<Health> {
        let reporter = self.reporter.borrow();
        reporter.digest(now).into_iter().filter_map(|report| reporter.part_of(edge, report)).collect()
    }

    /// What the edge of this name is sent of these reports.
    fn parts_of(&self, edge: &Name, reports: &[Health]) -> Vec<Health> {
        let reporter = self.reporter.borrow();
        reports.iter().filter_map(|report| reporter.part_of(edge, report.clone())).collect()
    }

    fn count_refused(&self, reason: Ended) {
        *self.shared.link_refusals.lock().entry(reason.label()).or_default() += 1;
    }

    /// Connects one half of a socket pair to the edge, and begins a session on the other.
    fn dial(
        self: &Rc<Self>,
        (target, key): (&Target, &PublicKey),
        view: Arc<EdgeView>,
    ) -> io::Result<(tokio::net::UnixStream, Rc<End>)> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let near = tokio::net::UnixStream::from_std(near)?;
        let identity = Identity::new(&target.own, key, target.preshared.as_ref());
        let now = clock::instant();
        let session = Session::new(now, Role::Origin, identity, self.about.clone(), shell::nonce()?);
        self.commands.send(Command::Link(LinkDial { edge: view.id, target: target.address, stream: far }));
        let end = End::new(Rc::clone(self), view, session);
        self.open.borrow_mut().push(Rc::downgrade(&end));
        Ok((near, end))
    }
}

/// Keeps the link to one edge until it is removed, or the daemon stops.
async fn keep(links: Rc<Links>, view: Arc<EdgeView>) {
    let mut orders = links.orders.subscribe();
    let mut redial = Redial::default();
    loop {
        let target = orders.borrow_and_update().target(view.id).cloned();
        let Some(target) = target else {
            // Where there is nothing to ask, only another order changes that.
            if orders.borrow().is_over(view.id) || orders.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut keys = view.keys.clone();
        let far = keys.borrow_and_update().in_use();
        let mut replaced = pin!(replaced(&mut orders, &mut keys, view.id, (&target, &far)));
        tokio::select! {
            () = due(&mut redial, &view) => {}
            () = &mut replaced => continue,
        }
        let was_open = match links.dial((&target, &far), Arc::clone(&view)) {
            Ok((stream, end)) => serve(stream, &end, replaced, &links).await,
            Err(error) => {
                tracing::debug!(%error, "the link cannot be dialled");
                false
            }
        };
        redial.handle_end(clock::instant(), was_open, getrandom::u32().unwrap_or_default());
    }
}

/// Waits until the tunnel is up and the next dial is due.
async fn due(redial: &mut Redial, view: &EdgeView) {
    loop {
        let pause = redial.next().since(clock::instant());
        tokio::select! {
            () = sleep(pause), if view.is_up() => return,
            () = view.came_up.notified() => redial.handle_peer_up(clock::instant()),
        }
    }
}

/// Waits until the target or the edge's key in use is another, or there is none any more.
async fn replaced(
    orders: &mut watch::Receiver<Orders>,
    keys: &mut watch::Receiver<EdgeKeys>,
    edge: EdgeId,
    (target, far): (&Target, &PublicKey),
) {
    let is_another = |orders: &Orders| !orders.target(edge).is_some_and(|now| now.is_same(target));
    let has_another = async {
        // Without a data thread the daemon ends.
        if keys.wait_for(|keys| keys.in_use() != *far).await.is_err() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        // The sender lives as long as the daemon.
        _ = orders.wait_for(is_another) => {}
        () = has_another => {}
    }
}

/// Carries a connection until it is over, or its target is `replaced`; whether it became a link.
async fn serve(
    stream: tokio::net::UnixStream,
    end: &End,
    replaced: impl Future<Output = ()>,
    links: &Links,
) -> bool {
    let mut carried = pin!(carry(stream, end, &end.touched));
    tokio::select! {
        () = &mut carried => {
            // Whatever ended it is known then, also where sending did.
            end.finish(clock::instant(), Ended::Hangup);
            return end.was_open();
        }
        () = replaced => {}
    }
    if links.orders.borrow().is_stopping {
        end.stop(clock::instant());
    } else {
        end.finish(clock::instant(), Ended::Reconfigured);
    }
    // Whoever does not read is not waited for.
    if timeout(ANNOUNCING, carried).await.is_err() {
        end.hang_up(clock::instant());
    }
    end.was_open()
}
