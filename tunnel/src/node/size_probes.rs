//! The search for the MTU of the path to a peer, between the pure search and the tunnel.

use std::sync::atomic::Ordering;

use super::Event;
use super::turn::Turn;
use crate::packet::icmp::Echo;
use crate::path_mtu::{Search, SizeProbe};
use crate::transmit::SendQueue;
use crate::wire::DATA_OVERHEAD;

impl Turn<'_> {
    /// Begins or ends the search, as the node was told.
    pub(super) fn prepare_search(&mut self) {
        let wanted = self.node.sizes.lock().filter(|_| self.core.prober.is_some());
        if self.core.search.as_ref().map(Search::range) == wanted {
            return;
        }
        let core = &mut *self.core;
        core.search = wanted.map(|range| Search::new(range, &mut core.dice));
        if let (Some(search), Some(_)) = (&mut core.search, core.session) {
            search.activate(self.now.instant);
        }
        self.publish_size();
    }

    /// Sends the probe of a size that is due, and a small one with it: called before those are sent.
    pub(super) fn probe_size(&mut self, out: &mut SendQueue) {
        let now = self.now.instant;
        let Some(target) = self.peer.config.load().probe else { return };
        let core = &mut *self.core;
        let (Some(search), Some(prober), Some(_)) = (&mut core.search, &mut core.prober, core.session) else {
            return;
        };
        if !prober.has_answered() || out.room() < usize::from(search.range().most) + DATA_OVERHEAD {
            return;
        }
        search.handle_timeout(now, prober.answered_at());
        let probe = search.poll(now, prober.patience());
        if probe.is_some() {
            prober.hurry(now);
        }
        self.publish_size();
        let (Some(probe), Some(source)) = (probe, self.node.address_beside(target)) else { return };
        let headers = if target.is_ipv4() { 28 } else { 48 };
        let SizeProbe { id, sequence, size, data } = probe;
        let mut padded = vec![0; usize::from(size).saturating_sub(headers)];
        for (byte, from) in padded.iter_mut().zip(data) {
            *byte = from;
        }
        if let Some(packet) = (Echo { is_reply: false, id, sequence, data: &padded }).build(source, target) {
            self.encrypt_whole(&packet, out);
        }
    }

    /// Whether an echo reply answers a probe of a size.
    pub(super) fn size_answer(&mut self, echo: &Echo<'_>) -> bool {
        let now = self.now.instant;
        let Some(search) = &mut self.core.search else { return false };
        let answers = search.handle_reply(echo.id, echo.sequence, echo.data, now);
        if answers {
            self.publish_size();
        }
        answers
    }

    /// Tells a new result. A later search without one leaves the last as it is.
    fn publish_size(&self) {
        let published = &self.peer.vitals.path_mtu;
        let Some(search) = &self.core.search else { return published.store(0, Ordering::Relaxed) };
        let Some(mtu) = search.found() else { return };
        if published.swap(mtu, Ordering::Relaxed) != mtu {
            self.node.events.push(Event::PathMtu { peer: self.peer.id, mtu });
        }
    }
}
