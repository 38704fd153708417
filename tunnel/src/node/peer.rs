//! One peer: what its lock guards, and what everybody may read without it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::core::Core;
use super::{Liveness, PeerConfig, PeerId, PeerState, PeerStatus, SharedKey};
use crate::endpoint::Endpoint;
use crate::key::PublicKey;
use crate::liveness::Facts;
use crate::time::{Instant, Now};

/// One peer of a node.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) key: PublicKey,
    /// The upper 24 bits of every receiver index it is given.
    pub(super) index: u32,
    /// Sessions and timers: the only lock that is held while something is computed.
    pub(super) core: Mutex<Core>,
    /// Where it was last heard. Taken for a load or a store only, also under `core`.
    pub(super) path: Mutex<Option<Endpoint>>,
    pub(super) config: ArcSwap<PeerConfig>,
    pub(super) vitals: Vitals,
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
        let vitals = &self.vitals;
        PeerStatus {
            id: self.id,
            public_key: self.key,
            has_preshared_key: config.preshared_key.is_some(),
            endpoint: self.endpoint(),
            allowed_ips: config.allowed_ips.clone(),
            state: vitals.state(rules, now.instant),
            latest_handshake: vitals.latest_handshake(),
            keepalive: config.keepalive,
            rx_bytes: vitals.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: vitals.tx_bytes.load(Ordering::Relaxed),
            rx_packets: vitals.rx_packets.load(Ordering::Relaxed),
            tx_packets: vitals.tx_packets.load(Ordering::Relaxed),
            rtt: vitals.rtt.load(),
            loss_ratio: vitals.loss_ratio(),
            path_mtu: vitals.path_mtu(),
            probes_lost: vitals.probes_lost.load(Ordering::Relaxed),
            handshakes: vitals.handshakes.load(Ordering::Relaxed),
            endpoint_changes: vitals.endpoint_changes.load(Ordering::Relaxed),
            shared_key: vitals.shared_key.lock().filter(|shared| shared.is_fresh(now.instant)),
            recoveries: std::array::from_fn(|step| {
                vitals.recoveries.get(step).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
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

/// Counters and stamps that are written under the peer's lock and read without it.
#[derive(Default)]
pub(super) struct Vitals {
    pub(super) rx_bytes: AtomicU64,
    pub(super) tx_bytes: AtomicU64,
    pub(super) rx_packets: AtomicU64,
    pub(super) tx_packets: AtomicU64,
    pub(super) handshakes: AtomicU64,
    pub(super) endpoint_changes: AtomicU64,
    pub(super) recoveries: [AtomicU64; 3],
    pub(super) probes_lost: AtomicU64,
    /// Zero while none was found.
    pub(super) path_mtu: AtomicU16,
    pub(super) rtt: Stamp,
    /// Lost and decided probes among the last ones.
    pub(super) lost: AtomicU32,
    pub(super) decided: AtomicU32,
    pub(super) heard: Stamp,
    pub(super) handshake: Stamp,
    pub(super) handshake_wall: Stamp,
    pub(super) answered: AtomicBool,
    pub(super) failed: AtomicBool,
    pub(super) shared_key: Mutex<Option<SharedKey>>,
}

impl Vitals {
    pub(super) fn facts(&self) -> Facts {
        Facts {
            heard: self.heard.load().map(Instant::from_boot),
            handshake: self.handshake.load().map(Instant::from_boot),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn state(&self, rules: Option<&Liveness>, now: Instant) -> PeerState {
        self.facts().judge(rules, now).0
    }

    fn latest_handshake(&self) -> Option<Now> {
        let instant = Instant::from_boot(self.handshake.load()?);
        Some(Now { instant, wall: self.handshake_wall.load()? })
    }

    fn path_mtu(&self) -> Option<u16> {
        Some(self.path_mtu.load(Ordering::Relaxed)).filter(|mtu| *mtu > 0)
    }

    fn loss_ratio(&self) -> Option<f64> {
        let (lost, decided) = (self.lost.load(Ordering::Relaxed), self.decided.load(Ordering::Relaxed));
        (decided > 0).then(|| f64::from(lost.min(decided)) / f64::from(decided))
    }
}

/// A duration or nothing, in one atomic word of nanoseconds.
#[derive(Default)]
pub(super) struct Stamp(AtomicU64);

impl Stamp {
    pub(super) fn store(&self, value: Option<Duration>) {
        let nanos =
            value.map_or(0, |value| u64::try_from(value.as_nanos()).unwrap_or(u64::MAX).saturating_add(1));
        self.0.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> Option<Duration> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos)
    }
}
