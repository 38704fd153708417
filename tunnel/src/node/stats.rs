//! What is known of a peer, written under its lock and read without it.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::config::Liveness;
use super::liveness::{Facts, Prober};
use super::shared_key::SharedKey;
use super::status::{PeerState, RecoveryStep};
use crate::time::{Instant, Now};

/// What happened to a peer since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Handshakes agreed.
    pub handshakes: u64,
    /// Attempts to agree a session that had no answer in time.
    pub handshake_failures: u64,
    /// Changes of its endpoint.
    pub endpoint_changes: u64,
    /// Recovery steps taken, by [`RecoveryStep`] in declaration order.
    pub recoveries: [u64; 3],
    /// Probes lost.
    pub probes_lost: u64,
}

/// What a peer carried so far, as [`PeerStatus`](super::PeerStatus) counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Packets received from it.
    pub rx_packets: u64,
    /// Packets sent to it.
    pub tx_packets: u64,
}

/// Counters and times of one peer.
#[derive(Default)]
pub(super) struct PeerStats {
    pub(super) rx_bytes: AtomicU64,
    pub(super) tx_bytes: AtomicU64,
    pub(super) rx_packets: AtomicU64,
    pub(super) tx_packets: AtomicU64,
    handshakes: AtomicU64,
    handshake_failures: AtomicU64,
    endpoint_changes: AtomicU64,
    recoveries: [AtomicU64; 3],
    probes_lost: AtomicU64,
    /// Zero while none was found.
    pub(super) path_mtu: AtomicU16,
    /// Zero while packets of every size pass, as far as is known.
    pub(super) lost_size: AtomicU16,
    pub(super) rtt: AtomicDuration,
    /// Lost and decided probes among the last ones.
    pub(super) lost: AtomicU32,
    pub(super) decided: AtomicU32,
    pub(super) heard: AtomicDuration,
    pub(super) handshake: AtomicDuration,
    pub(super) handshake_wall: AtomicDuration,
    pub(super) answered: AtomicBool,
    failed: AtomicBool,
    pub(super) shared_key: Mutex<Option<SharedKey>>,
}

impl PeerStats {
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

    /// Counts datagrams with inner packets that were sent.
    #[inline]
    pub(super) fn add_sent(&self, datagrams: usize, bytes: usize) {
        add(&self.tx_packets, datagrams);
        add(&self.tx_bytes, bytes);
    }

    /// Counts what was received.
    #[inline]
    pub(super) fn add_received(&self, packets: usize, bytes: usize) {
        add(&self.rx_packets, packets);
        add(&self.rx_bytes, bytes);
    }

    /// Adds what was carried before this node; only the holder of the peer's lock may.
    pub(super) fn add_carried(&self, before: Carried) {
        let counters = [
            (&self.rx_bytes, before.rx_bytes),
            (&self.tx_bytes, before.tx_bytes),
            (&self.rx_packets, before.rx_packets),
            (&self.tx_packets, before.tx_packets),
        ];
        for (counter, before) in counters {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(before), Ordering::Relaxed);
        }
    }

    /// What happened since the start.
    pub(super) fn counts(&self) -> PeerCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PeerCounts {
            handshakes: read(&self.handshakes),
            handshake_failures: read(&self.handshake_failures),
            endpoint_changes: read(&self.endpoint_changes),
            recoveries: self.recoveries.each_ref().map(read),
            probes_lost: read(&self.probes_lost),
        }
    }

    /// A session was agreed.
    pub(super) fn record_handshake(&self, now: Now) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        self.handshake.store(Some(now.instant.since_boot()));
        self.handshake_wall.store(Some(now.wall));
        self.failed.store(false, Ordering::Relaxed);
    }

    /// No session could be agreed in time.
    pub(super) fn record_failure(&self) {
        self.handshake_failures.fetch_add(1, Ordering::Relaxed);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// It was heard from elsewhere.
    pub(super) fn record_move(&self) {
        self.endpoint_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A step of the recovery ladder was taken.
    pub(super) fn record_recovery(&self, step: RecoveryStep) {
        if let Some(count) = self.recoveries.get(step as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Publishes what the probes have shown.
    pub(super) fn publish_probes(&self, prober: &Prober) {
        let (lost, decided) = prober.recent();
        self.lost.store(lost, Ordering::Relaxed);
        self.decided.store(decided, Ordering::Relaxed);
        self.probes_lost.store(prober.lost_total(), Ordering::Relaxed);
        self.rtt.store(prober.rtt());
        self.answered.store(prober.has_answered(), Ordering::Relaxed);
    }

    /// When the latest session was agreed, on both clocks.
    pub(super) fn latest_handshake(&self) -> Option<Now> {
        let instant = Instant::from_boot(self.handshake.load()?);
        Some(Now { instant, wall: self.handshake_wall.load()? })
    }

    /// The largest inner packet that the path carries, once one was found.
    pub(super) fn path_mtu(&self) -> Option<u16> {
        Some(self.path_mtu.load(Ordering::Relaxed)).filter(|mtu| *mtu > 0)
    }

    /// The given size whose packets do not pass, while small ones do.
    pub(super) fn lost_size(&self) -> Option<u16> {
        Some(self.lost_size.load(Ordering::Relaxed)).filter(|size| *size > 0)
    }

    /// Share of the last probes that were lost.
    pub(super) fn loss_ratio(&self) -> Option<f64> {
        let (lost, decided) = (self.lost.load(Ordering::Relaxed), self.decided.load(Ordering::Relaxed));
        (decided > 0).then(|| f64::from(lost.min(decided)) / f64::from(decided))
    }
}

/// A duration or nothing, in one atomic word of nanoseconds.
#[derive(Default)]
pub(super) struct AtomicDuration(AtomicU64);

impl AtomicDuration {
    pub(super) fn store(&self, value: Option<Duration>) {
        let nanos =
            value.map_or(0, |value| u64::try_from(value.as_nanos()).unwrap_or(u64::MAX).saturating_add(1));
        self.0.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> Option<Duration> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos)
    }
}

/// Adds to a counter that only the holder of the peer's lock writes, so no atomic addition is
/// needed.
#[inline]
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count as u64), Ordering::Relaxed);
}
