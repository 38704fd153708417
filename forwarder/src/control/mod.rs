//! The control plane: what the daemon shows, on its socket and as metrics, and the signals it
//! handles.

pub mod client;
mod health;
pub mod problems;
pub mod protocol;
pub mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use daemon::changes::OperatorState;
use daemon::health::Since;
use daemon::history::History;
use daemon::http::Requests;
use daemon::link::publish::Publishing;
use daemon::link::remote::Remote;
use daemon::metrics::RoundTrips;
use daemon::peers::Interface;
use daemon::rates::Rates;
use parking_lot::Mutex;
use policy::forwarder::Policy;
use policy::{HostPort, Name};
use tokio::sync::{Notify, watch};
use tunnel::io::clock;
use tunnel::io::udp::UdpStats;
use tunnel::key::PublicKey;
use tunnel::node::{Node, PeerState};
use tunnel::reason::DropReason;
use tunnel::time::Instant;

use crate::arrivals::Arrivals;
use crate::dataplane::edge::Edge;
use crate::edge_keys::EdgeKeys;
use crate::flow::EdgeId;
use crate::metrics;
use crate::outage::{Counts, Observation, Outage, PathErrors, Reason};
use crate::stats::Stats;
use crate::upstream::Pools;

/// What the control plane may read; nothing here is a lock of the data path.
pub struct Shared {
    /// The configuration in force.
    pub policy: ArcSwap<Policy>,
    /// The data thread's counters.
    pub stats: Arc<Stats>,
    /// The upstreams of each `[[service]]`.
    pub pools: Arc<Pools>,
    /// What is looked for in the first bytes of flows.
    pub arrivals: Arc<Arrivals>,
    /// The edges, in the order of the configuration.
    pub edges: ArcSwap<Vec<Arc<EdgeView>>>,
    /// When the daemon started.
    pub started: Instant,
    /// Whether it was asked to stop.
    pub is_stopping: AtomicBool,
    /// Why the configuration was not taken when it was last read again.
    pub not_taken: Mutex<Option<String>>,
    /// Why the last upgrade in place did not happen.
    pub not_upgraded: Mutex<Option<String>>,
    /// Links that were refused here, by reason.
    pub link_refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// Sent when every name is to be visited from the internet soon.
    pub visit_now: watch::Sender<()>,
    /// Since when the hops of each service are as they are.
    pub since: Mutex<Since>,
    /// What the operator keeps next to the daemon's state.
    pub operator: OperatorState,
    /// What happened.
    pub history: History,
    /// Requests for the status page.
    pub page_requests: Requests,
}

/// An edge as the control plane sees it.
pub struct EdgeView {
    /// Its number.
    pub id: EdgeId,
    /// Its name.
    pub name: Name,
    /// Its device.
    pub node: Arc<Node>,
    /// The UDP port its socket has now.
    pub port: Arc<AtomicU16>,
    /// Inner MTU.
    pub mtu: Arc<AtomicU16>,
    /// What its socket has done since it was opened.
    pub udp: Arc<ArcSwap<UdpStats>>,
    /// The edge's keys, and which of them is in use.
    pub keys: watch::Receiver<EdgeKeys>,
    /// Notified when the peer comes up.
    pub came_up: Arc<Notify>,
    /// What is known of the edge by its link.
    pub link: Mutex<Remote>,
    /// The public ports that are requested of it.
    pub publishing: Mutex<Publishing>,
    rates: Mutex<Rates>,
    /// Round trips of the probes since the edge was added.
    pub round_trips: RoundTrips,
    path_errors: Arc<PathErrors>,
    outage: Mutex<Outage>,
}

impl EdgeView {
    /// The view of an edge.
    #[must_use]
    pub fn of(edge: &Edge) -> Self {
        Self {
            id: edge.id,
            name: edge.name.clone(),
            node: Arc::clone(&edge.node),
            port: Arc::clone(&edge.port),
            mtu: Arc::clone(&edge.mtu),
            udp: Arc::clone(&edge.udp),
            keys: edge.keys.subscribe(),
            came_up: Arc::clone(&edge.came_up),
            link: Mutex::default(),
            publishing: Mutex::default(),
            rates: Mutex::default(),
            round_trips: RoundTrips::new(metrics::ROLE),
            path_errors: Arc::clone(&edge.path_errors),
            outage: Mutex::default(),
        }
    }

    /// Finds out why the peer is not up, and logs the reason if it is another than before.
    pub fn watch_outage(&self, endpoint: &HostPort) {
        let Some(look) = self.look() else { return };
        let reason = self.outage.lock().handle_observation(&look, clock::instant());
        let Some(reason) = reason else { return };
        let text = self.outage_text(reason, endpoint, look.remote);
        if reason.is_mistake(look.counts.handshakes) {
            tracing::warn!("{text}");
        } else {
            tracing::info!("{text}");
        }
    }

    /// Why the peer is not up, and what to do about it, once that is known.
    #[must_use]
    pub fn problem(&self, endpoint: &HostPort) -> Option<String> {
        let reason = self.outage.lock().reason()?;
        Some(self.outage_text(reason, endpoint, self.look()?.remote))
    }

    fn outage_text(&self, reason: Reason, endpoint: &HostPort, remote: Option<SocketAddr>) -> String {
        let own = self.node.private_key().map(|key| key.public().to_string()).unwrap_or_default();
        reason.text(self.name.as_str(), endpoint, remote, &own)
    }

    fn look(&self) -> Option<Observation> {
        let now = clock::now();
        let status = self.node.peers(now).into_iter().next()?;
        let refused = self.node.refused(now);
        let received = DropReason::ALL.iter().filter(|reason| reason.stage() == "receive");
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(Observation {
            is_up: status.state == PeerState::Up,
            counts: Counts {
                refused: read(&self.path_errors.refused),
                unreachable: read(&self.path_errors.unreachable),
                dropped: received.map(|reason| self.node.dropped(*reason)).sum(),
                unauthentic: self.node.dropped(DropReason::BadHandshake),
                authentic: status.rx_bytes,
                handshakes: status.counts.handshakes,
            },
            is_unresolved: self.path_errors.is_unresolved.load(Ordering::Relaxed),
            is_unsent: self.udp.load().send_errors.read() > 0,
            is_for_another_key: refused.foreign > 0,
            unknown_key: refused.unknown.first().map(|refused| refused.key),
            remote: status.endpoint.map(|endpoint| endpoint.remote),
        })
    }

    /// Whether the peer is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.node.peers(clock::now()).iter().any(|peer| peer.state == PeerState::Up)
    }

    /// Takes a sample of the counters for the rates, and of the round trip; called every few seconds.
    pub fn measure(&self) {
        let now = clock::now();
        let peers = self.node.peers(now);
        let bytes = peers.iter().map(|peer| (peer.public_key, (peer.rx_bytes, peer.tx_bytes)));
        self.rates.lock().handle_sample(now.instant, bytes.collect());
        for rtt in peers.iter().filter(|peer| peer.state == PeerState::Up).filter_map(|peer| peer.rtt) {
            self.round_trips.record(self.name.as_str(), rtt.as_secs_f64());
        }
    }

    /// What is wrong with receiving from its socket, and how to fix it.
    #[must_use]
    pub fn receive_problem(&self, now: Instant) -> Option<String> {
        let failing = self.udp.load().receives.failing(now)?;
        let (name, times) = (&self.name, failing.in_a_row);
        Some(format!(
            "the UDP socket towards {name} cannot be received from ({failing}, {times} times in a row), so nothing comes \
             out of the tunnel; restart the daemon, and if it comes back report it with the output of: uname -a"
        ))
    }

    fn per_second(&self, key: &PublicKey) -> (f64, f64) {
        self.rates.lock().of(key)
    }

    fn interface(&self) -> Interface {
        Interface {
            name: self.name.to_string(),
            public_key: self.node.private_key().map(|key| key.public().to_string()),
            listen_port: self.port.load(Ordering::Relaxed),
            mtu: self.mtu.load(Ordering::Relaxed).into(),
        }
    }
}

impl Shared {
    /// How long the daemon has run.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        clock::instant().since(self.started)
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }
}
