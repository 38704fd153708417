//! What the daemon reports about itself: one document, from which every command takes its part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use daemon::diagnosis::{Cause, Problem};
use daemon::health::{NameShown, Path, PathShown};
use daemon::link::names::SeenName;
use daemon::peers::{Health, Peer, Peers};
pub use daemon::status::Published;
use daemon::status::{Service as ServiceShown, Side};
use policy::Protocols;
use policy::forwarder::{Policy, Service};
use serde::{Deserialize, Serialize};
use tunnel::io::clock;
use tunnel::node::PeerStatus;
use tunnel::reason::DropReason;

use super::health::path;
use super::problems::problems;
use super::{EdgeView, Shared};
use crate::edge_keys::Keys;
use crate::link;
use crate::stats::{Dialled, Dropped, EntryStats, OldProcessStats};
use crate::upstream::{Member, Pool};

/// The version of the documents; grows when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program's version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// The verdict.
    pub health: Health,
    /// TCP flows in the table, dials included.
    pub flows: u64,
    /// UDP flows open now.
    pub udp_flows: u64,
    /// After an upgrade, the process before this one, as long as it has flows.
    #[serde(default)]
    pub handover: Option<Handover>,
    /// Dials that are not answered.
    pub pending_dials: u64,
    /// Bytes of flow buffers in use.
    pub buffer_bytes: u64,
    /// Edges with their devices.
    pub peers: Vec<Peer>,
    /// Edges with a `next_public_key`, and which of the two keys is in use.
    #[serde(default)]
    pub edge_keys: Vec<EdgeKey>,
    /// What `[[service]]` entries carried.
    pub services: Vec<Entry>,
    /// What `[[reach]]` entries carried.
    pub reach: Vec<Entry>,
    /// Dropped packets by `stage/reason`, those that happened.
    pub dropped: BTreeMap<String, u64>,
    /// What a person should look at, each with its fix; what can be carried is carried all the same.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What will not work as it may be meant to; nothing is wrong.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The process before this one, after an upgrade in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// Its flows, of either kind.
    pub flows: u64,
    /// After how many seconds the last of them ends at the latest.
    pub seconds: f64,
}

impl Handover {
    fn of(old: &OldProcessStats) -> Option<Self> {
        let seconds = old.ends()?.since(clock::instant()).as_secs_f64();
        Some(Self { flows: old.flows.load(Ordering::Relaxed), seconds })
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let (flows, seconds) = (self.flows, self.seconds);
        format!("upgrade: the process before this one has {flows} flows, for at most {seconds:.0} s")
    }
}

impl From<Report> for Side {
    fn from(report: Report) -> Self {
        Self {
            role: "origin",
            version: report.version,
            peers: report.peers,
            services: report.services.into_iter().map(shown).collect(),
            problems: report.problems,
            notes: report.notes,
        }
    }
}

fn shown(entry: Entry) -> ServiceShown {
    let health = entry.health.unwrap_or_default();
    ServiceShown {
        name: entry.name,
        is_public: (!entry.publish.is_empty()).then_some(true),
        from: entry.from,
        to: entry.to,
        peers: Vec::new(),
        seconds: health.seconds(),
        state: health.state,
        failing: health.failing,
        hops: health.hops,
        names: entry.names,
        publish: entry.publish,
        bytes_in: entry.rx_bytes,
        bytes_out: entry.tx_bytes,
    }
}

/// The keys of an edge that is to change its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeKey {
    /// The edge.
    pub peer: String,
    /// `public_key` or `next_public_key`: the one that is in use.
    pub in_use: String,
    /// Whether a session was agreed by the one in use.
    pub works: bool,
    /// The key that the edge had first.
    pub public_key: String,
    /// The key that it is to have next.
    pub next_public_key: String,
}

impl EdgeKey {
    fn of(edge: &EdgeView) -> Option<Self> {
        let shown = *edge.keys.borrow();
        let Keys { current, next } = shown.keys();
        Some(Self {
            peer: edge.name.to_string(),
            in_use: if shown.is_next() { "next_public_key" } else { "public_key" }.to_owned(),
            works: shown.has_worked(),
            public_key: current.to_string(),
            next_public_key: next?.to_string(),
        })
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { peer, in_use, works, .. } = self;
        match (in_use.as_str(), works) {
            ("next_public_key", true) => format!(
                "{peer}: the edge replies by next_public_key; write it as public_key, remove next_public_key, then: \
                 forwarder reload"
            ),
            (_, true) => {
                format!("{peer}: the edge replies by public_key; next_public_key waits for its change")
            }
            (_, false) => format!("{peer}: {in_use} is tried; the edge has not replied by it"),
        }
    }
}

fn health(peers: &Peers, is_failing: bool, problems: &[String]) -> Health {
    match peers.up() {
        _ if is_failing => Health::Broken,
        0 => Health::Broken,
        up if up < peers.peers.len() || !problems.is_empty() => Health::Degraded,
        _ => Health::Ok,
    }
}

/// A `[[service]]` or `[[reach]]` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its protocols: `tcp`, `udp` or both, separated by `+`.
    pub protocols: String,
    /// The peer that a `[[reach]]` goes through.
    pub peer: Option<String>,
    /// Where flows come from: what is matched, or the local listener.
    pub from: String,
    /// Where they go: the upstream, or the target beyond the tunnel.
    pub to: String,
    /// Flows open now.
    pub flows: u64,
    /// Payload bytes out of the tunnel.
    pub rx_bytes: u64,
    /// Payload bytes into the tunnel.
    pub tx_bytes: u64,
    /// Dials by result.
    pub dials: BTreeMap<String, u64>,
    /// The upstreams of a `[[service]]`; none for a `[[reach]]`.
    pub upstreams: Vec<UpstreamState>,
    /// Whether a `[[service]]` works, hop by hop; `None` for a `[[reach]]`.
    #[serde(default)]
    pub health: Option<PathShown>,
    /// The public ports that a `[[service]]` requests, for each edge.
    #[serde(default)]
    pub publish: Vec<Published>,
    /// The names of a `[[service]]`, each with a state of its own.
    #[serde(default)]
    pub names: Vec<NameShown>,
}

/// An upstream of a `[[service]]` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// Where it is.
    pub address: String,
    /// Whether its health checks are answered; true without any.
    pub up: bool,
    /// What they say: `ok`, `failing`, or `unknown` where there is none.
    #[serde(default)]
    pub state: String,
    /// Flows that it has now.
    pub flows: u64,
    /// Dials to it that failed.
    pub failures: u64,
}

fn words(protocols: Protocols) -> String {
    protocols.iter().map(policy::Protocol::as_str).collect::<Vec<_>>().join("+")
}

fn upstreams(pool: &Pool) -> Vec<UpstreamState> {
    let state = |member: &Arc<Member>| UpstreamState {
        address: member.upstream.to_string(),
        up: member.is_up(),
        state: member.state().label().to_owned(),
        flows: member.flows(),
        failures: member.failures(),
    };
    pool.members().iter().map(state).collect()
}

/// The report as of now.
#[must_use]
pub fn report(shared: &Shared) -> Report {
    let peers = peers(shared);
    let policy = shared.policy.load();
    let reach = shared.stats.reach.load();
    let stats = &shared.stats;
    let (is_failing, problems) = wrong(shared);
    let problems: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.uptime().as_secs_f64(),
        stopping: shared.is_stopping(),
        health: health(&peers, is_failing, &problems),
        flows: stats.flows.load(Ordering::Relaxed),
        udp_flows: stats.udp_flows.load(Ordering::Relaxed),
        handover: Handover::of(&stats.old),
        pending_dials: stats.pending_dials.load(Ordering::Relaxed),
        buffer_bytes: stats.buffer_bytes.load(Ordering::Relaxed),
        peers: peers.peers,
        edge_keys: shared.edges.load().iter().filter_map(|edge| EdgeKey::of(edge)).collect(),
        services: service_entries(shared, &policy),
        reach: policy
            .reach
            .iter()
            .filter_map(|entry| {
                let stats = reach.get(&entry.name)?;
                let (from, to) = (entry.listen.to_string(), entry.target.to_string());
                let shown = Entry::new(&entry.name, from, to, stats);
                let peer = Some(entry.peer.to_string());
                Some(Entry { peer, protocols: words(entry.protocols), ..shown })
            })
            .collect(),
        dropped: dropped(shared)
            .filter(|(_, _, count)| *count > 0)
            .map(|(stage, reason, count)| (format!("{stage}/{reason}"), count))
            .collect(),
        problems,
        notes: policy.closed_to_authorities(),
    }
}

/// Whether nothing comes out of a tunnel, and everything that is wrong.
pub fn wrong(shared: &Shared) -> (bool, Vec<Problem>) {
    let (now, policy) = (clock::now(), shared.policy.load());
    let edges = shared.edges.load();
    let failing = edges.iter().filter_map(|edge| edge.receive_problem(now.instant));
    let failing: Vec<_> = Problem::all(Cause::Socket, failing).collect();
    (!failing.is_empty(), failing.into_iter().chain(problems(shared, &policy, now)).collect())
}

/// What the `[[service]]` entries carried, and whether each works.
fn service_entries(shared: &Shared, policy: &Policy) -> Vec<Entry> {
    let (stats, pools) = (shared.stats.services.load(), shared.pools.load());
    let mut paths: Vec<(&Service, &Arc<Pool>, Path)> = policy
        .services
        .iter()
        .filter_map(|entry| Some((entry, pools.get(&entry.name)?)))
        .map(|(entry, pool)| (entry, pool, path(shared, policy, entry, pool)))
        .collect();
    let named = paths.iter_mut().map(|(entry, _, path)| (entry.name.as_str(), path));
    let now = clock::instant();
    shared.since.lock().handle_look(now, named);
    let entry = |(entry, pool, path): &(&Service, &Arc<Pool>, Path)| {
        let from = entry.matched();
        let to: Vec<String> = entry.upstreams.iter().map(ToString::to_string).collect();
        let counted = Entry::new(&entry.name, from, to.join(", "), stats.get(&entry.name)?);
        let (upstreams, health) = (upstreams(pool), Some(PathShown::from(path)));
        let publish = published(shared, &entry.name);
        let name = |seen: SeenName| NameShown::of(&seen.health(now, &entry.name), &path.place);
        let names = link::names(now, pool).into_iter().map(name).collect();
        Some(Entry { upstreams, health, publish, names, protocols: words(entry.protocols), ..counted })
    };
    paths.iter().filter_map(entry).collect()
}

/// The public ports that a service requests, for each edge.
fn published(shared: &Shared, service: &policy::Name) -> Vec<Published> {
    let of_edge = |edge: &Arc<EdgeView>| {
        let publishing = edge.publishing.lock();
        let its = publishing.states().filter(|(port, _)| port.service == *service);
        its.map(|(port, answer)| Published::of(&edge.name, port, answer)).collect::<Vec<_>>()
    };
    shared.edges.load().iter().flat_map(of_edge).collect()
}

/// Every reason with its count: our own, and those of the nodes together.
pub fn dropped(shared: &Shared) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let own = Dropped::ALL.iter().map(|reason| {
        let [stage, label] = *reason.labels() else { return ("", "", 0) };
        (stage, label, shared.stats.dropped(*reason))
    });
    let node = DropReason::ALL.iter().map(|reason| {
        let count = shared.edges.load().iter().map(|edge| edge.node.dropped(*reason)).sum();
        (reason.stage(), reason.label(), count)
    });
    let queue_drops = shared.edges.load().iter().map(|edge| edge.udp.load().receive_queue_drops.read()).sum();
    own.chain(node).chain([("receive", "socket_buffer_full", queue_drops)])
}

/// The edges, each with the interface that leads to it.
#[must_use]
pub fn peers(shared: &Shared) -> Peers {
    let now = clock::now();
    let of_edge = |edge: &Arc<EdgeView>| {
        let interface = edge.interface();
        let peer = |status: &PeerStatus| {
            let rates = edge.per_second(&status.public_key);
            let link = edge.link.lock().shown(now.instant);
            Peer { link, ..Peer::of(status, edge.name.to_string(), interface.clone(), now.instant, rates) }
        };
        edge.node.peers(now).iter().map(peer).collect::<Vec<_>>()
    };
    let peers: Vec<Peer> = shared.edges.load().iter().flat_map(of_edge).collect();
    Peers { schema: SCHEMA, interface: peers.first().map(|peer| peer.interface.clone()), peers }
}

impl Entry {
    fn new(name: &policy::Name, from: String, to: String, stats: &EntryStats) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let dials = Dialled::ALL.iter().map(|result| (result.labels().concat(), stats.dials(*result)));
        Self {
            name: name.to_string(),
            protocols: String::new(),
            peer: None,
            from,
            to,
            flows: read(&stats.flows),
            rx_bytes: read(&stats.received),
            tx_bytes: read(&stats.sent),
            dials: dials.collect(),
            upstreams: Vec::new(),
            health: None,
            publish: Vec::new(),
            names: Vec::new(),
        }
    }
}
