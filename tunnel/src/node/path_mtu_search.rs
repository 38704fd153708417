//! Begins and ends the search for the MTU of the path to each peer, and publishes what it finds.

use std::sync::atomic::Ordering;

use super::Node;
use super::config::MtuRange;
use super::locked_peer::LockedPeer;
use super::path_mtu::Search;
use super::status::Event;
use crate::time::Now;

impl Node {
    /// Searches the MTU of every path to a peer that answers probes, or stops doing so; each result
    /// is an [`Event::PathMtu`]. Of a given size ([`MtuRange::fixed`]) only whether it passes is
    /// found: see [`lost_size`](super::PeerStatus::lost_size). Without this call nothing is searched.
    ///
    /// To search is for sockets that can forbid fragments only: elsewhere every size would seem to
    /// pass.
    pub fn search_path_mtu(&self, range: Option<MtuRange>, now: Now) {
        if std::mem::replace(&mut *self.mtu_range.lock(), range) != range {
            for peer in self.table.load().peers.values() {
                let mut peer = LockedPeer::lock(self, peer, now);
                prepare(&mut peer);
                peer.release();
            }
        }
    }
}

/// Begins or ends the search for a peer, as the node is set to.
pub(super) fn prepare(locked: &mut LockedPeer<'_>) {
    let core = &mut *locked.core;
    let wanted = locked.node.mtu_range.lock().filter(|_| core.probes.prober.is_some());
    if core.probes.search.as_ref().map(Search::range) == wanted {
        return;
    }
    core.probes.search = wanted.map(|range| Search::new(range, &mut core.random));
    if let (Some(search), Some(_)) = (&mut core.probes.search, core.session) {
        search.activate(locked.now.instant);
    }
    publish(locked);
}

/// Publishes a new result for a peer. A later search without one leaves the last as it is.
pub(super) fn publish(locked: &LockedPeer<'_>) {
    let published = &locked.peer.stats.path_mtu;
    let search = locked.core.probes.search.as_ref();
    let lost = search.and_then(Search::lost).unwrap_or(0);
    locked.peer.stats.lost_size.store(lost, Ordering::Relaxed);
    // A given size is not one that was found.
    let Some(search) = search.filter(|search| !search.range().may_fragment) else {
        return published.store(0, Ordering::Relaxed);
    };
    let Some(mtu) = search.found() else { return };
    if published.swap(mtu, Ordering::Relaxed) != mtu {
        locked.node.events.push(Event::PathMtu { peer: locked.peer.id, mtu });
    }
}
