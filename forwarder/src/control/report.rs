//! What the daemon tells about itself: one document, from which every command takes its part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::Protocols;
use serde::{Deserialize, Serialize};
use tunnel::io::clock;
use tunnel::node::PeerStatus;
use tunnel::reason::DropReason;
use tunnel::time::Now;

use super::problems::problems;
use super::{EdgeView, Shared};
use crate::exit;
use crate::stats::{Dialled, Dropped, EntryStats};
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
    /// Whether it was told to stop.
    pub stopping: bool,
    /// The verdict.
    pub health: Health,
    /// TCP flows in the table, dials included.
    pub flows: u64,
    /// UDP flows open now.
    pub udp_flows: u64,
    /// Dials that are not answered.
    pub pending_dials: u64,
    /// Bytes of flow buffers in use.
    pub buffer_bytes: u64,
    /// Edges with their devices.
    pub peers: Vec<Peer>,
    /// What `[[inject]]` entries carried.
    pub inject: Vec<Entry>,
    /// What `[[reach]]` entries carried.
    pub reach: Vec<Entry>,
    /// Dropped packets by `stage/reason`, those that happened.
    pub dropped: BTreeMap<String, u64>,
    /// What a person should look at, each with its fix; what can be carried is carried all the same.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// How the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every peer is up.
    Ok,
    /// Some peer is not up, or there is a problem.
    Degraded,
    /// No peer is up, or a socket cannot be received from.
    Broken,
}

impl Health {
    /// The exit code that says so.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => exit::OK,
            Self::Degraded => exit::DEGRADED,
            Self::Broken => exit::BROKEN,
        }
    }

    fn of(peers: &[Peer], is_failing: bool, problems: &[String]) -> Self {
        let up = peers.iter().filter(|peer| peer.state == "up").count();
        match up {
            _ if is_failing => Self::Broken,
            0 => Self::Broken,
            up if up < peers.len() || !problems.is_empty() => Self::Degraded,
            _ => Self::Ok,
        }
    }
}

/// The device of an edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Named after its peer: every peer has a device of its own.
    pub name: String,
    /// Our public key.
    pub public_key: String,
    /// The UDP port of its socket.
    pub listen_port: u16,
    /// Inner MTU in bytes.
    pub mtu: u16,
}

/// An edge; the fields and units of the gateway's own report of its peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The device towards it.
    pub interface: Interface,
    /// Its public key.
    pub public_key: String,
    /// Where it is.
    pub endpoint: Option<String>,
    /// Whose addresses may come through it.
    pub allowed_ips: Vec<String>,
    /// `up`, `stale`, `down` or `never`.
    pub state: String,
    /// Seconds since the last handshake.
    pub latest_handshake_age_seconds: Option<f64>,
    /// UNIX time of the last handshake.
    pub latest_handshake_timestamp_seconds: Option<f64>,
    /// Seconds between keepalives.
    pub persistent_keepalive_seconds: Option<u64>,
    /// Bytes of authenticated messages from it.
    pub rx_bytes: u64,
    /// Bytes of messages to it.
    pub tx_bytes: u64,
    /// Inner packets from it.
    pub rx_packets: u64,
    /// Inner packets to it.
    pub tx_packets: u64,
    /// Bytes per second from it, lately.
    pub rx_bytes_per_second: f64,
    /// Bytes per second to it, lately.
    pub tx_bytes_per_second: f64,
    /// Smoothed round trip of the probes.
    pub rtt_seconds: Option<f64>,
    /// Share of the last probes that were lost.
    pub loss_ratio: Option<f64>,
    /// The largest inner packet that the path carries, in bytes; `None` unless `mtu = "auto"` has found it.
    #[serde(default)]
    pub path_mtu_bytes: Option<u16>,
    /// Probes lost since the start.
    pub probes_lost: u64,
    /// Handshakes agreed since the start.
    pub handshakes: u64,
    /// Changes of its endpoint since the start.
    pub endpoint_changes: u64,
    /// Steps of recovery since the start: handshake, rebind, resolve.
    pub recoveries: [u64; 3],
}

/// An `[[inject]]` or `[[reach]]` entry.
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
    /// The upstreams of an `[[inject]]`; none for a `[[reach]]`.
    pub upstreams: Vec<UpstreamState>,
}

/// An upstream of an `[[inject]]` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// Where it is.
    pub address: String,
    /// Whether its health checks are answered; true without any.
    pub up: bool,
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
        flows: member.flows(),
        failures: member.failures(),
    };
    pool.members().iter().map(state).collect()
}

/// The report as of now.
#[must_use]
pub fn report(shared: &Shared) -> Report {
    let now = clock::now();
    let peers: Vec<Peer> = shared.edges.iter().flat_map(|edge| peers(edge, now)).collect();
    let policy = shared.policy.load();
    let (inject, reach) = (shared.stats.inject.load(), shared.stats.reach.load());
    let pools = shared.pools.load();
    let stats = &shared.stats;
    let failing: Vec<_> = shared.edges.iter().filter_map(|edge| edge.receive_problem(now.instant)).collect();
    let is_failing = !failing.is_empty();
    let problems = failing.into_iter().chain(problems(shared, &policy, now)).collect::<Vec<_>>();
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.uptime().as_secs_f64(),
        stopping: shared.is_stopping(),
        health: Health::of(&peers, is_failing, &problems),
        flows: stats.flows.load(Ordering::Relaxed),
        udp_flows: stats.udp_flows.load(Ordering::Relaxed),
        pending_dials: stats.pending_dials.load(Ordering::Relaxed),
        buffer_bytes: stats.buffer_bytes.load(Ordering::Relaxed),
        peers,
        inject: policy
            .inject
            .iter()
            .filter_map(|entry| {
                let address = entry.address.map_or("*".to_owned(), |address| address.to_string());
                let from = format!("{address}:{}", entry.ports);
                let to: Vec<String> = entry.upstreams.iter().map(ToString::to_string).collect();
                let told = Entry::new(&entry.name, from, to.join(", "), inject.get(&entry.name)?);
                let upstreams = upstreams(pools.get(&entry.name)?);
                Some(Entry { upstreams, protocols: words(entry.protocols), ..told })
            })
            .collect(),
        reach: policy
            .reach
            .iter()
            .filter_map(|entry| {
                let stats = reach.get(&entry.name)?;
                let (from, to) = (entry.listen.to_string(), entry.target.to_string());
                let told = Entry::new(&entry.name, from, to, stats);
                let peer = Some(entry.peer.to_string());
                Some(Entry { peer, protocols: words(entry.protocols), ..told })
            })
            .collect(),
        dropped: dropped(shared)
            .filter(|(_, _, count)| *count > 0)
            .map(|(stage, reason, count)| (format!("{stage}/{reason}"), count))
            .collect(),
        problems,
    }
}

/// Every reason with its count: our own, and those of the nodes together.
pub fn dropped(shared: &Shared) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let own = Dropped::ALL.iter().map(|reason| {
        let [stage, label] = *reason.labels() else { return ("", "", 0) };
        (stage, label, shared.stats.dropped(*reason))
    });
    let node = DropReason::ALL.iter().map(|reason| {
        let count = shared.edges.iter().map(|edge| edge.node.dropped(*reason)).sum();
        (reason.stage(), reason.label(), count)
    });
    let queue_drops = shared.edges.iter().map(|edge| edge.udp.load().receive_queue_drops.read()).sum();
    own.chain(node).chain([("receive", "socket_buffer_full", queue_drops)])
}

fn peers(edge: &EdgeView, now: Now) -> Vec<Peer> {
    let rates = edge.per_second();
    edge.node.peers(now).into_iter().map(|status| peer(edge, &status, now, rates)).collect()
}

fn peer(edge: &EdgeView, status: &PeerStatus, now: Now, rates: (f64, f64)) -> Peer {
    let own = edge.node.private_key().map(|key| key.public().to_string()).unwrap_or_default();
    Peer {
        name: edge.name.to_string(),
        interface: Interface {
            name: edge.name.to_string(),
            public_key: own,
            listen_port: edge.port.load(Ordering::Relaxed),
            mtu: edge.mtu.load(Ordering::Relaxed),
        },
        public_key: status.public_key.to_string(),
        endpoint: status.endpoint.map(|endpoint| endpoint.remote.to_string()),
        allowed_ips: status.allowed_ips.iter().map(ToString::to_string).collect(),
        state: status.state.label().to_owned(),
        latest_handshake_age_seconds: status
            .latest_handshake
            .map(|at| now.instant.since(at.instant).as_secs_f64()),
        latest_handshake_timestamp_seconds: status.latest_handshake.map(|at| at.wall.as_secs_f64()),
        persistent_keepalive_seconds: status.keepalive.map(|keepalive| keepalive.as_secs()),
        rx_bytes: status.rx_bytes,
        tx_bytes: status.tx_bytes,
        rx_packets: status.rx_packets,
        tx_packets: status.tx_packets,
        rx_bytes_per_second: rates.0,
        tx_bytes_per_second: rates.1,
        rtt_seconds: status.rtt.map(|rtt| rtt.as_secs_f64()),
        loss_ratio: status.loss_ratio,
        path_mtu_bytes: status.path_mtu,
        probes_lost: status.probes_lost,
        handshakes: status.handshakes,
        endpoint_changes: status.endpoint_changes,
        recoveries: status.recoveries,
    }
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
        }
    }
}
