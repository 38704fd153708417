//! One peer: what its lock guards, and what may be read without it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::config::{Liveness, PeerConfig};
use super::core::Core;
use super::stats::PeerStats;
use super::status::PeerStatus;
use crate::endpoint::{Endpoint, PeerId};
use crate::key::PublicKey;
use crate::time::Now;

/// One peer of a node.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) key: PublicKey,
    /// The upper 24 bits of every receiver index it is given.
    pub(super) index: u32,
    /// Sessions and timers: the only lock that is held while something is computed.
    pub(super) core: Mutex<Core>,
    /// Where its last packet came from. Taken for a load or a store only, also under `core`.
    pub(super) path: Mutex<Option<Endpoint>>,
    pub(super) config: ArcSwap<PeerConfig>,
    /// The same ones after the peer was given another key.
    pub(super) stats: Arc<PeerStats>,
}

impl Peer {
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        *self.path.lock()
    }

    /// The configuration with the endpoint the peer roamed to.
    pub(super) fn current_config(&self) -> PeerConfig {
        let mut config = PeerConfig::clone(&self.config.load());
        config.endpoint = self.endpoint().map(|endpoint| endpoint.remote);
        config
    }

    pub(super) fn status(&self, rules: Option<&Liveness>, now: Now) -> PeerStatus {
        let config = self.config.load();
        let stats = &self.stats;
        PeerStatus {
            id: self.id,
            public_key: self.key,
            has_preshared_key: config.preshared_key.is_some(),
            endpoint: self.endpoint(),
            allowed_ips: config.allowed_ips.clone(),
            state: stats.state(rules, now.instant),
            latest_handshake: stats.latest_handshake(),
            keepalive: config.keepalive,
            rx_bytes: stats.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: stats.tx_bytes.load(Ordering::Relaxed),
            rx_packets: stats.rx_packets.load(Ordering::Relaxed),
            tx_packets: stats.tx_packets.load(Ordering::Relaxed),
            rtt: stats.rtt.load(),
            loss_ratio: stats.loss_ratio(),
            path_mtu: stats.path_mtu(),
            lost_size: stats.lost_size(),
            counts: stats.counts(),
            shared_key: stats.shared_key.lock().filter(|shared| shared.is_fresh(now.instant)),
        }
    }
}

/// IPv4-mapped addresses as the IPv4 addresses they are.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => {
            v6.ip().to_ipv4_mapped().map_or(address, |ip| SocketAddr::new(ip.into(), v6.port()))
        }
        SocketAddr::V4(_) => address,
    }
}
