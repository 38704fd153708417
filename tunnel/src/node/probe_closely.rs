//! Probes peers more often, for a caller that has to know soon which of several is there.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::config::Liveness;
use super::locked_peer::LockedPeer;
use crate::time::Now;

/// Time between probes while they are answered.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between probes once one was lost.
const INTERVAL_LOST: Duration = Duration::from_millis(400);

impl Node {
    /// Probes every peer once a second, and three times within the second after a loss, or as it was
    /// configured again. What a lost probe means to the node stays the same.
    pub fn probe_closely(&self, closely: bool, now: Now) {
        if self.is_closely_probed.swap(closely, Ordering::Relaxed) == closely {
            return;
        }
        let Some(rules) = self.probing() else { return };
        for peer in self.table.load().peers.values() {
            let mut peer = LockedPeer::lock(self, peer, now);
            if let Some(prober) = &mut peer.core.probes.prober {
                prober.change_rules(rules, now.instant);
            }
            peer.release();
        }
    }

    /// The rules of the probes now.
    pub(super) fn probing(&self) -> Option<Liveness> {
        let rules = self.liveness?;
        Some(if self.is_closely_probed.load(Ordering::Relaxed) {
            let (interval, interval_lost) =
                (INTERVAL.min(rules.interval), INTERVAL_LOST.min(rules.interval_lost));
            Liveness { interval, interval_lost, ..rules }
        } else {
            rules
        })
    }
}
