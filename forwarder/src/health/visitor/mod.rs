//! The origin as its own visitor: each name of a service is resolved and connected to as the
//! internet does, and what was sent must come out of the tunnel again.
//!
//! The mark by which it is known again is the random of the probe's own ClientHello (a number in a
//! header where visitors speak HTTP): no other machine can know it before, and no proxy that ends
//! TLS passes it on. Only names of the own file are connected to, only on their published port, and only at
//! addresses that the internet routes.

mod address;
mod attempt;
mod judge;
mod resolver;
mod trust;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use daemon::health::State;
use daemon::link::names::{HostName, MAX_NAMES};
use daemon::link::publish::Answer;
use daemon::link::visitor::Cause;
use policy::prefix;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tunnel::io::clock;

use super::names::{Client, leaves};
use crate::control::Shared;
use crate::upstream::{Finding, LEAST, Pools, Speech, Visit, Watched};
use attempt::{Asked, Outcome, attempt};
use judge::{Reply, Scene, Shown, Try, judge, together};
use resolver::{Resolved, Resolver};
use trust::Trust;

/// The most probes at a time.
const AT_A_TIME: usize = 4;
/// How long visits on request are waited for.
const VISITING: Duration = Duration::from_secs(30);
/// How often it is looked whether they are done.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The names whose public paths are probed.
pub(super) struct VisitorWatch {
    watched: Vec<Weak<Watched>>,
    shell: Rc<Shell>,
}

/// What all probes share.
struct Shell {
    shared: Arc<Shared>,
    /// Verifies that a server holds the key of the certificate that it sends.
    client: Client,
    trust: Trust,
    resolver: Resolver,
    turns: Semaphore,
    changed: Rc<Notify>,
}

impl VisitorWatch {
    /// None so far; `changed` is notified when what is known of a path is another than before.
    pub(super) fn new(shared: Arc<Shared>, changed: Rc<Notify>) -> Result<Self, rustls::Error> {
        let shell = Shell {
            shared,
            client: Client::of_visitor()?,
            trust: Trust::default(),
            resolver: Resolver::default(),
            turns: Semaphore::new(AT_A_TIME),
            changed,
        };
        Ok(Self { watched: Vec::new(), shell: Rc::new(shell) })
    }

    /// Begins to probe names that are new, [`MAX_NAMES`] at most; those that left the configuration
    /// are no longer probed.
    pub(super) fn watch_new(&mut self, pools: &Pools) {
        self.watched.retain(|known| known.strong_count() > 0);
        for name in pools.load().values().flat_map(|pool| pool.names()).filter(|name| name.visit.is_some()) {
            let weak = Arc::downgrade(name);
            let is_new = !self.watched.iter().any(|known| known.ptr_eq(&weak));
            if is_new && self.watched.len() < MAX_NAMES {
                self.watched.push(Weak::clone(&weak));
                let now = self.shell.shared.visit_now.subscribe();
                drop(tokio::task::spawn_local(keep(weak, Rc::clone(&self.shell), now)));
            }
        }
    }
}

/// Visits every name soon, and waits until that is done, [`VISITING`] at most.
pub(crate) async fn visit_now(shared: &Shared) {
    let names: Vec<_> = shared.pools.load().values().flat_map(|pool| pool.names().to_vec()).collect();
    let visited = names.into_iter().filter(|name| name.visit.is_some());
    let counted = |name: Arc<Watched>| {
        let count = name.visits.lock().count();
        (count, name)
    };
    let waiting: Vec<_> = visited.map(counted).collect();
    shared.visit_now.send_replace(());
    let done = async {
        while waiting.iter().any(|(before, name)| name.visits.lock().count() == *before) {
            sleep(BETWEEN_LOOKS).await;
        }
    };
    let _ = timeout(VISITING, done).await;
}

/// Probes a name until it leaves the configuration.
async fn keep(name: Weak<Watched>, shell: Rc<Shell>, mut now: watch::Receiver<()>) {
    loop {
        now.mark_unchanged();
        let Some(watched) = name.upgrade() else { return };
        // Not held while it sleeps, and no larger than that needs.
        Box::pin(look(&watched, &shell)).await;
        let pause = watched.visits.lock().pause();
        drop(watched);
        sleep(LEAST).await;
        let _ = timeout(pause.saturating_sub(LEAST), now.changed()).await;
    }
}

async fn look(watched: &Watched, shell: &Shell) {
    let Ok(_turn) = shell.turns.acquire().await else { return };
    let (Some(name), Some(visit)) = (&watched.name, &watched.visit) else { return };
    let (finding, evidence) = shell.visit(watched, name, visit).await;
    let Some(finding) = finding else { return };
    if !watched.visits.lock().handle_finding(clock::instant(), finding) {
        return;
    }
    shell.changed.notify_one();
    let seen = watched.visits.lock().seen(clock::instant());
    let (state, reason) = (seen.state.label(), seen.cause.map_or("", |cause| cause.label()));
    tracing::info!(name = name.as_str(), state, reason, evidence, "the public path of a name changed");
}

impl Shell {
    /// What is found now, and what was seen; nothing when no probe could be made.
    async fn visit(&self, watched: &Watched, name: &HostName, visit: &Visit) -> (Option<Finding>, String) {
        if let Some(finding) = self.without_probe(watched, visit) {
            return (Some(finding), String::new());
        }
        let addresses = match self.resolver.resolve(name.as_str()).await {
            Resolved::Addresses(addresses) => addresses,
            Resolved::Nothing => return (Some(Finding::Failing(Cause::Unresolved)), String::new()),
            Resolved::NoReply => return (Some(Finding::Unknown(Cause::NoResolver)), String::new()),
        };
        let scene = self.scene(visit);
        let dialled = address::dialled(&addresses, &scene.own);
        if dialled.is_empty() {
            return (Some(Finding::Unknown(Cause::PrivateAddress)), format!("{addresses:?}"));
        }
        let speech = watched.speech().unwrap_or(Speech::Tls);
        let (mut findings, mut evidence) = (Vec::new(), Vec::new());
        for address in dialled {
            let address = SocketAddr::new(address, visit.port);
            let asked = Asked { name: name.as_str(), address, speech };
            let Some(made) = attempt(&self.client, &self.shared.arrivals, asked).await else { continue };
            let reply = self.reply(watched, name, made.outcome).await;
            evidence.push(format!("{address}: {reply:?}"));
            findings.push(judge(&Try { address: address.ip(), reply, client: made.client }, &scene));
        }
        (together(findings), evidence.join("; "))
    }

    /// What is known without a connection.
    fn without_probe(&self, watched: &Watched, visit: &Visit) -> Option<Finding> {
        let edges = self.shared.edges.load();
        if !edges.iter().any(|edge| edge.is_up()) {
            return Some(Finding::Unknown(Cause::TunnelDown));
        }
        let answers: Vec<_> = edges
            .iter()
            .flat_map(|edge| {
                let publishing = edge.publishing.lock();
                let its = publishing.states().filter(|(port, _)| port.service == visit.service);
                its.map(|(_, answer)| answer).collect::<Vec<_>>()
            })
            .collect();
        let is_refused = |answer: &Option<Answer>| answer.is_some_and(|answer| answer != Answer::Granted);
        if !answers.is_empty() && answers.iter().all(is_refused) {
            return Some(Finding::Failing(Cause::NotPublished));
        }
        let checked = watched.members.iter().filter(|member| member.health.is_some());
        let states: Vec<_> = checked.map(|member| member.state()).collect();
        let is_failing = !states.is_empty() && states.iter().all(|state| *state == State::Failing);
        is_failing.then_some(Finding::Unknown(Cause::UpstreamFailing))
    }

    fn scene(&self, visit: &Visit) -> Scene {
        let now = clock::now();
        let remote = |peer: &tunnel::node::PeerStatus| {
            peer.endpoint.map(|endpoint| endpoint.remote.ip().to_canonical())
        };
        let edges = self.shared.edges.load();
        let edges: Vec<IpAddr> =
            edges.iter().flat_map(|edge| edge.node.peers(now)).filter_map(|peer| remote(&peer)).collect();
        let policy = self.shared.policy.load();
        let own =
            policy.peers.iter().flat_map(|peer| &peer.address).map(|own| prefix::network(*own)).collect();
        Scene { edges, own, is_restricted: visit.is_restricted }
    }

    /// The reply with what its certificate says.
    async fn reply(&self, watched: &Watched, name: &HostName, outcome: Outcome) -> Reply {
        match outcome {
            Outcome::NotConnected(error) => not_connected(error.kind()),
            Outcome::Nothing => Reply::Nothing,
            Outcome::Incompatible => Reply::Incompatible,
            Outcome::Http(is_proxied) => Reply::Http { is_proxied },
            Outcome::Certificate(chain, is_proxied) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let fault = chain.first().and_then(|leaf| trust::fault(leaf, name.as_str(), now));
                let trusted = self.trust.trusts(&chain, now).await;
                let is_upstreams = self.is_upstreams(watched, chain.first()).await;
                Reply::Certificate(Shown { fault, trusted, is_upstreams, is_proxied })
            }
        }
    }

    /// Whether an upstream of the name has this certificate. What they had is kept: they are asked
    /// again only when another one comes.
    async fn is_upstreams(&self, watched: &Watched, leaf: Option<&CertificateDer<'static>>) -> Option<bool> {
        let leaf = leaf?;
        if watched.leaves.lock().contains(leaf) {
            return Some(true);
        }
        let now = leaves(&self.client, watched).await;
        let is_theirs = (!now.is_empty()).then(|| now.contains(leaf));
        *watched.leaves.lock() = now;
        is_theirs
    }
}

/// That a host is not there is what a router reports that gets no reply either.
fn not_connected(kind: io::ErrorKind) -> Reply {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut};
    if matches!(kind, ConnectionRefused | ConnectionReset) {
        Reply::Refused
    } else if matches!(kind, TimedOut | HostUnreachable) {
        Reply::TimedOut
    } else {
        Reply::NoRoute
    }
}
