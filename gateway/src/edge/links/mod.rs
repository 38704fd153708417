//! The links of the origins: sockets around [`Links`], which decides.

mod connection;
mod history;
mod listening;
mod questions;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use daemon::history::{History, What};
use daemon::link::asking::Replies;
use daemon::link::health::Reported;
use daemon::link::links::{LinkId, LinkPeer, Links, Requested};
use daemon::link::message::{About, GRANTS, READS_HEALTH, SENDS_HISTORY};
use daemon::link::publish::Answer;
use daemon::link::remote::Change;
use daemon::link::shell;
use daemon::metrics::Number;
use daemon::peers::Peers;
use policy::Name;
use policy::gateway::Policy;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tunnel::io::clock;
use tunnel::key::PublicKey;
use tunnel::time::Instant;

use super::pairing::Pairing;
use crate::config::Config;
use connection::Connection;
pub(super) use listening::Listening;
use questions::Questions;

/// How long this edge is away when it stops, as far as it announces.
const BACK_WITHIN: Duration = Duration::from_secs(300);
/// How long the announcement may take.
const ANNOUNCING: Duration = Duration::from_millis(500);
/// How often it is looked whether it was sent.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The links of this edge.
pub(super) struct EdgeLinks {
    links: RefCell<Links>,
    listening: RefCell<Listening>,
    /// What wakes the task of each connection.
    tasks: RefCell<BTreeMap<LinkId, Rc<Notify>>>,
    /// Notified when a peer requests ports.
    asked: Notify,
    history: History,
    replies: Replies,
    /// Questions to peers, and theirs.
    questions: Questions,
}

/// This machine, as it is now in the hellos.
fn about() -> std::io::Result<About> {
    shell::about(env!("CARGO_PKG_VERSION"), &[READS_HEALTH, GRANTS, SENDS_HISTORY])
}

impl EdgeLinks {
    /// With these sockets, and without connections so far.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn new(config: &Config, listening: Listening, history: History) -> std::io::Result<Self> {
        let about = about()?;
        let links = Self {
            links: RefCell::new(Links::new(config.keys.private.clone(), about)),
            listening: RefCell::new(listening),
            tasks: RefCell::default(),
            asked: Notify::new(),
            history,
            replies: Replies::default(),
            questions: Questions::default(),
        };
        links.problems().iter().for_each(|problem| tracing::warn!("{problem}"));
        links.configure(config);
        Ok(links)
    }

    /// Appears to its peers as an edge that was started now. What the other edge of the pair did in
    /// between must not look like a second machine with this one's key.
    pub(super) fn begin_again(&self) {
        match about() {
            Ok(about) => self.links.borrow_mut().set_about(about),
            Err(error) => tracing::debug!(%error, "no random number for the hello"),
        }
    }

    /// Takes the peers of a configuration; links of peers that changed end.
    pub(super) fn configure(&self, config: &Config) {
        let (policy, keys) = (&config.policy, &config.keys);
        let peer = |peer: &policy::gateway::Peer| {
            Some(LinkPeer {
                name: peer.name.clone(),
                // Validation refused low-order keys already, so nothing is lost here.
                public_key: PublicKey::from_bytes(*peer.public_key.as_bytes()).ok()?,
                preshared_key: keys.preshared.get(&peer.public_key).cloned(),
                allowed_ips: peer.allowed_ips.clone(),
            })
        };
        let peers = policy.peers.iter().filter_map(peer).collect();
        let addresses = policy.interface.address.clone();
        self.links.borrow_mut().configure(clock::instant(), keys.private.clone(), addresses, peers);
        self.handle_changes();
    }

    /// Listens where this policy has the link; closes what is elsewhere, and tries again what
    /// failed. The connections of a temporary peer are the pairing's.
    pub(super) fn listen(self: &Rc<Self>, policy: &Policy, pairing: &Rc<Pairing>) {
        let (links, pairing) = (Rc::clone(self), Rc::clone(pairing));
        let serve = move |stream: TcpStream, source: SocketAddr| match pairing.claims(source.ip()) {
            true => pairing.accept(stream),
            false => links.accept(stream, source),
        };
        let before = self.problems();
        self.listening.borrow_mut().follow(policy, &serve);
        for problem in self.problems().iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!("{problem}");
        }
    }

    /// Where it listens.
    pub(super) fn sockets(&self) -> Vec<SocketAddr> {
        self.listening.borrow().sockets()
    }

    /// What keeps peers from having a link, each with its fix.
    pub(super) fn problems(&self) -> Vec<String> {
        self.listening.borrow().problems()
    }

    /// The peers whose key two machines hold, as their links show.
    pub(super) fn shared_keys(&self, now: Instant) -> Vec<Name> {
        let links = self.links.borrow();
        let shared = links.remotes().filter(|(_, remote)| remote.has_shared_key(now));
        shared.map(|(name, _)| name.clone()).collect()
    }

    /// The peers with their links.
    pub(super) fn with_links(&self, mut peers: Peers) -> Peers {
        let (links, now) = (self.links.borrow(), clock::instant());
        let shown = |name: &str| links.remote(&Name::new(name)?)?.shown(now);
        peers.peers.iter_mut().for_each(|peer| peer.link = shown(&peer.name));
        peers
    }

    /// What the peers with a link reported of their service entries.
    pub(super) fn reported(&self, now: Instant) -> BTreeMap<String, Reported> {
        let links = self.links.borrow();
        links.remotes().filter_map(|(name, remote)| Some((name.to_string(), remote.reported(now)?))).collect()
    }

    /// Waits for the next request of a peer for public ports.
    pub(super) async fn next_requested(&self) -> Requested {
        loop {
            let now = clock::instant();
            let requested = self.links.borrow_mut().poll_requested(now);
            if let Some(requested) = requested {
                return requested;
            }
            let due = self.links.borrow().next_requested();
            tokio::select! {
                () = self.asked.notified() => {}
                () = sleep(due.unwrap_or(now).since(now)), if due.is_some() => {}
            }
        }
    }

    /// Replies to a request.
    pub(super) fn answer(&self, requested: &Requested, answers: Vec<Answer>) {
        self.links.borrow_mut().answer(clock::instant(), requested, answers);
        self.handle_changes();
    }

    /// Announces to a peer that what it is granted is another than it was replied last.
    pub(super) fn announce_grants(&self, now: Instant, peer: &Name) {
        self.links.borrow_mut().announce_grants(now, peer);
        self.handle_changes();
    }

    /// The peers whose link is up.
    pub(super) fn linked(&self) -> Vec<Name> {
        let links = self.links.borrow();
        let up = links.remotes().filter(|(_, remote)| remote.far().is_some());
        up.map(|(name, _)| name.clone()).collect()
    }

    /// What is refused and held, for Prometheus; what each peer has is among its numbers.
    pub(super) fn numbers(&self) -> Vec<Number> {
        let links = self.links.borrow();
        let help = "Connections to the port of the link that were refused, by reason.";
        let refused = |(reason, count): (&&str, &u64)| {
            Number::counter("gateway_link_refusals_total", help, *count).with("reason", *reason)
        };
        let mut numbers: Vec<_> = links.refused().iter().map(refused).collect();
        let help = "Memory that all links hold, in bytes.";
        numbers.push(Number::count("gateway_link_held_bytes", help, links.held() as u64));
        numbers
    }

    /// Announces that this edge stops, closes every link, and waits a moment until that was sent.
    pub(super) async fn stop(&self) {
        self.listening.borrow_mut().close();
        self.links.borrow_mut().stop(clock::instant(), BACK_WITHIN);
        self.handle_changes();
        let sent = async {
            while !self.tasks.borrow().is_empty() {
                sleep(BETWEEN_LOOKS).await;
            }
        };
        // Whoever does not read is not waited for.
        let _ = timeout(ANNOUNCING, sent).await;
    }

    /// Serves a connection, or closes it at once.
    fn accept(self: &Rc<Self>, stream: TcpStream, source: SocketAddr) {
        let Ok(nonce) = shell::nonce() else { return };
        let accepted = self.links.borrow_mut().accept(clock::instant(), source.ip(), nonce);
        let id = match accepted {
            Ok(id) => id,
            Err(refused) => {
                return tracing::debug!(%source, reason = refused.label(), "a link was refused");
            }
        };
        let touched = Rc::new(Notify::new());
        self.tasks.borrow_mut().insert(id, Rc::clone(&touched));
        let links = Rc::clone(self);
        drop(spawn_local(async move {
            shell::carry(stream, &Connection { links: &links, id }, &touched).await;
            links.links.borrow_mut().forget(clock::instant(), id);
            links.tasks.borrow_mut().remove(&id);
            links.handle_changes();
        }));
    }

    /// Wakes the tasks whose connection was touched, and logs what changed.
    fn handle_changes(&self) {
        self.handle_histories();
        for id in self.links.borrow_mut().take_touched() {
            if let Some(task) = self.tasks.borrow().get(&id) {
                task.notify_one();
            }
        }
        if self.links.borrow_mut().take_asked() {
            self.asked.notify_one();
        }
        self.take_questions();
        while let Some((peer, change)) = self.next_change() {
            let notice = match &change {
                Change::Stopping => Some("stopping".to_owned()),
                Change::Reported(hop) => Some(format!("reported {}", hop.label())),
                _ => None,
            };
            if let Some(notice) = notice {
                self.history.note(What::Notice { peer: peer.to_string(), notice });
            }
            log(&peer, &change);
        }
    }

    fn next_change(&self) -> Option<(Name, Change)> {
        self.links.borrow_mut().poll_change()
    }
}

/// What the origins are sent about a stop.
pub(super) fn announced() -> String {
    format!("back within {} s", BACK_WITHIN.as_secs())
}

fn log(peer: &Name, change: &Change) {
    match change {
        Change::Up(far) => {
            let (machine, version) = (&far.about.name, &far.about.version);
            tracing::info!(%peer, %machine, %version, "the link is up");
        }
        Change::Down(reason) => tracing::info!(%peer, reason = reason.label(), "the link is down"),
        Change::Refused(reason) => tracing::info!(%peer, reason = reason.label(), "a link was refused"),
        Change::Stopping => tracing::info!(%peer, "the peer's daemon announced that it stops"),
        Change::Reported(hop) => {
            tracing::info!(%peer, hop = hop.label(), "the peer's agent reported an outage")
        }
        // Shown as a problem; sessions that alternate are what is warned of.
        Change::SharedKey => tracing::info!(%peer, "two machines with the peer's key keep links in turn"),
    }
}
